"""How people look: the colours of what they wear, by which somebody who comes back is known again.

Colours are compared band by band of the body's height, and camera by camera where one saw both:
exposures and white balances differ between cameras, and then do not matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.people.densepose import VertexLookup
from hamst3r.people.instances import ViewPeople

F64 = NDArray[np.float64]
# Metres above the soles of the body model where bands end: shanks, thighs, trunk; then the head.
_BANDS = (0.45, 0.9, 1.35)
_FEWEST = 6  # pixels of a band that tell its colour
_ENOUGH = 60.0  # pixels of a band beyond which it does not count for more
_CALM = 0.2  # share of the newest sight in what is remembered
# CIE L*, a*, b* that count as equally different: light changes most of all.
_UNLIKE = np.array([12.0, 6.0, 6.0])


@dataclass(frozen=True)
class LooksConfig:
    """What a difference of colours means; measured in simulated rooms.

    Attributes:
        same, different: Mean and deviation of the logarithm of the squared difference of one
            person's looks, and of two people's.
        elsewhere: Added to the former where no camera saw both.
        most, least: Bounds of the log odds that one camera tells.
    """

    same: tuple[float, float] = (-0.65, 1.2)
    different: tuple[float, float] = (1.05, 0.85)
    elsewhere: float = 0.85
    most: float = 1.5
    least: float = -4.0


@dataclass(frozen=True, eq=False)
class Look:
    """Of one person in one view: ``colours`` (B, 3) CIE L*a*b*, medians of the bands, NaN where a
    band is not seen, and their ``pixels`` (B,)."""

    colours: F64
    pixels: F64

    def unlike(self, other: Look) -> float:
        """Squared difference, mean over the bands that both show; NaN if there is none."""
        both = np.isfinite(self.colours[:, 0]) & np.isfinite(other.colours[:, 0])
        if not both.any():
            return float("nan")
        weight = np.minimum(np.minimum(self.pixels, other.pixels)[both], _ENOUGH)
        off = (self.colours[both] - other.colours[both]) / _UNLIKE
        return float(weight @ (off**2).sum(1) / weight.sum())

    def mixed(self, newer: Look) -> Look:
        """What is remembered once somebody was seen again."""
        colours = np.where(
            np.isnan(self.colours),
            newer.colours,
            np.where(
                np.isnan(newer.colours),
                self.colours,
                self.colours + _CALM * (newer.colours - self.colours),
            ),
        )
        return Look(colours, np.maximum(self.pixels, newer.pixels))


Looks = dict[str, Look]  # by camera


def look(
    view: ViewPeople, colours: NDArray[np.uint8], ids: Iterable[int], lookup: VertexLookup
) -> Look | None:
    """Of whom those ids are in a view; None where no band is seen.

    Args:
        colours: (gh, gw, 3) RGB on the output grid.
    """
    mask = np.isin(view.claimed, list(ids))
    if not mask.any():
        return None
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    # The border is of both, but of somebody small the border is most.
    mask = inner if 2 * inner.sum() > mask.sum() else mask
    heights = lookup.heights(view.densepose[mask])
    known = np.isfinite(heights)
    lab = cv2.cvtColor(colours[mask][None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0][known]
    band = np.digitize(heights[known], _BANDS)
    pixels = np.bincount(band, minlength=len(_BANDS) + 1).astype(np.float64)
    found = np.full((len(pixels), 3), np.nan)
    for k in np.flatnonzero(pixels >= _FEWEST):
        found[k] = np.median(lab[band == k], axis=0)
    return Look(found, pixels) if np.isfinite(found).any() else None


def remember(known: Looks, newer: Looks) -> Looks:
    """Looks of somebody who was seen again."""
    return known | {
        camera: known[camera].mixed(own) if camera in known else own
        for camera, own in newer.items()
    }


def log_odds(a: Looks, b: Looks, config: LooksConfig) -> float:
    """That two are one person, against two; 0 where nothing tells. Cameras err together."""
    mean, std = config.same
    shared = np.array([a[camera].unlike(b[camera]) for camera in a if camera in b])
    if not np.isfinite(shared).any():
        shared = np.array([one.unlike(other) for one in a.values() for other in b.values()])
        mean += config.elsewhere
    shared = shared[np.isfinite(shared)]
    if not len(shared):
        return 0.0
    off = np.log(np.maximum(shared, 1e-3))
    other, other_std = config.different
    # Whoever looks more alike than one person usually does is no less that person.
    told = -(np.maximum((off - mean) / std, 0) ** 2) / 2 - np.log(std)
    told += np.maximum((other - off) / other_std, 0) ** 2 / 2 + np.log(other_std)
    return float(np.mean(np.clip(told, config.least, config.most)))
