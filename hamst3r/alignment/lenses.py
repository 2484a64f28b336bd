"""The cameras' focal lengths over time: by calibration, by every frame set's pointmaps, or both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.intrinsics import (
    FocalAverage,
    FocalSpread,
    Lens,
    pinhole,
    plausible_focal,
    scaled_focal,
    uncertain_lens,
    weiszfeld_focal,
)
from hamst3r.alignment.observations import Observations
from hamst3r.alignment.placement import Placement
from hamst3r.alignment.resection import resect
from hamst3r.frames import Frame
from hamst3r.image import NetworkImage

F64 = NDArray[np.float64]


class Lenses:
    """Remembers each camera's focal length.

    Args:
        window: Frame sets over which it is averaged.
        default_focal: Focal length over image width while nothing better is known.
    """

    def __init__(self, window: int, default_focal: float) -> None:
        self._window, self._default = window, default_focal
        self._focals: dict[str, FocalAverage] = {}
        self._spread = FocalSpread()

    def lens(
        self, observations: Observations, view: int, frame: Frame, image: NetworkImage
    ) -> Lens:
        """Known, else the running mean of what the pointmaps say, else a common lens; or both."""
        if image.K is not None and frame.K_std == 0:
            return Lens(image.K, 0.0)
        grid = observations.grids[view]
        width = grid.shape[1]
        average = self._focals.setdefault(grid.name, FocalAverage(self._window))
        focal = self._measured(observations, view)
        if focal is not None and plausible_focal(focal, width):
            average.add(focal / width)
        if image.K is None:
            relative = average.value or self._default
            return Lens(pinhole(relative * width, grid.centre), earlier=max(0, average.count - 1))
        std = self._spread.of(observations, view)
        return uncertain_lens(image.K, frame.K_std, average, width, std)

    def corrected(
        self, lenses: Sequence[Lens], placement: Placement, observations: Observations
    ) -> list[F64]:
        """K (3, 3) per lens, with the focal lengths that were found together with the poses.

        Args:
            lenses: Of the first views; those after them are of the past.
        """
        result = [lens.K for lens in lenses]
        for view, (lens, grid) in enumerate(zip(lenses, observations.grids, strict=False)):
            factor, width = placement.focal_factor.get(view, 1.0), grid.shape[1]
            if factor == 1 or not plausible_focal(lens.K[0, 0] * factor, width):
                continue
            result[view] = scaled_focal(lens.K, factor)
            # What the pairs say without what was known besides: that is remembered.
            weight, held = lens.besides(placement.focal_variance.get(view))
            alone = np.log(factor) * (1 + weight) - weight * held
            self._focals[grid.name].correct(lens.K[0, 0] / width * float(np.exp(alone)))
        return result

    def _measured(self, observations: Observations, view: int) -> float | None:
        """Pixels, by the view's own pointmaps, else by where others see what it shows."""
        grid = observations.grids[view]
        own = observations.own_looks(view)
        if own:
            return weiszfeld_focal(
                np.concatenate([look.X for look in own]),
                np.tile(grid.pixels - grid.centre, (len(own), 1)),
                np.concatenate([look.w for look in own]),
            )
        guess = self._default * grid.shape[1]
        rays = grid.rays(pinhole(guess, grid.centre))
        found = [
            r
            for look in observations.looks_at[view]
            if look.usable and (r := resect(look.X, rays, look.w, free_focal=True)) is not None
        ]
        return guess * min(found, key=lambda r: r.error).focal_factor if found else None
