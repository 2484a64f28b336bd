"""The metric scale where no calibration tells it: the network's own, corrected by people's size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hamst3r.alignment.placement import Placement, scaling
from hamst3r.geometry import make_T
from hamst3r.scene import ScaleSource

# The published world grows or shrinks by no more per frame set.
MAX_STEP = 0.01
WINDOW = 30


class MetricScale:
    """What the network's scale must be multiplied by, from opinions about the published world.

    Opinions of one source err alike (the same people are there all the time), so that the mean of
    the last ones is no surer than one of them; it is fused with the network's own scale.

    Attributes:
        gain: Factor of the published world. network_std: Relative, of the network's own scale.
    """

    def __init__(self, network_std: float) -> None:
        self.network_std = network_std
        self._log_gain = 0.0
        self._mean, self._std, self._count = 0.0, np.inf, 0
        self._source = ScaleSource.NETWORK

    @property
    def gain(self) -> float:
        return float(np.exp(self._log_gain))

    @property
    def source(self) -> ScaleSource:
        """The source that says most."""
        return self._source if self._std < self.network_std else ScaleSource.NETWORK

    @property
    def std(self) -> float:
        """Relative standard deviation; what is still to be corrected counts as an error."""
        return float(np.hypot(self._fused_std, self._target - self._log_gain))

    @property
    def _fused_std(self) -> float:
        return float((self.network_std**-2 + self._std**-2) ** -0.5)

    @property
    def _target(self) -> float:
        """Log gain that network and opinions together make most likely."""
        return self._mean * (self._fused_std / self._std) ** 2 if self._count else 0.0

    def heed(self, factor: float, std: float, source: ScaleSource) -> None:
        """Somebody measures that the published world should be ``factor`` times as large.

        Raises:
            ValueError: Not a positive factor with a positive relative standard deviation.
        """
        if not (np.isfinite([factor, std]).all() and factor > 0 and std > 0):
            raise ValueError(
                f"a scale needs a factor and a relative std above 0, got {factor} and {std}"
            )
        self._count = min(self._count + 1, WINDOW)
        share = 1 / self._count
        self._mean += share * (float(np.log(factor)) + self._log_gain - self._mean)
        self._std = std if self._count == 1 else self._std + share * (std - self._std)
        self._source = source

    def step(self) -> float:
        """The gain of the next frame set: a little nearer to what it should be."""
        self._log_gain += float(np.clip(self._target - self._log_gain, -MAX_STEP, MAX_STEP))
        return self.gain


def grown(placement: Placement, gain: float) -> Placement:
    """The placement in a world that is ``gain`` times as large."""
    if gain == 1.0:
        return placement
    growth = scaling(gain)
    return replace(
        placement,
        T_world_cam={
            v: make_T(T[:3, :3], gain * T[:3, 3]) for v, T in placement.T_world_cam.items()
        },
        T_world_look={slot: growth @ T for slot, T in placement.T_world_look.items()},
    )
