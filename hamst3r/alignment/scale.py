"""The metric scale where no calibration tells it: the network's own, corrected by people's size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hamst3r.alignment.placement import Placement, scaling
from hamst3r.geometry import F64
from hamst3r.scene import ScaleSource

# The published world grows or shrinks by no more per frame set.
MAX_STEP = 0.01
WINDOW = 30


@dataclass
class _Opinion:
    """Running mean of what one source said of the log gain, its relative deviation, how often."""

    mean: float = 0.0
    std: float = 0.0
    count: int = 0

    def add(self, log_gain: float, std: float) -> None:
        self.count = min(self.count + 1, WINDOW)
        self.mean += (log_gain - self.mean) / self.count
        self.std += (std - self.std) / self.count


class MetricScale:
    """What the network's scale must be multiplied by, from opinions about the published world.

    Opinions of one source err alike (the same people are there all the time), so that the mean of
    the last ones is no surer than one of them, and so do those of different sources (the same
    people again): the surest source's is fused with the network's own scale.

    Attributes:
        gain: Factor of the published world. network_std: Relative, of the network's own scale.
    """

    def __init__(self, network_std: float) -> None:
        self.network_std = network_std
        self._log_gain = 0.0
        self._opinions: dict[ScaleSource, _Opinion] = {}

    @property
    def gain(self) -> float:
        return float(np.exp(self._log_gain))

    @property
    def source(self) -> ScaleSource:
        """The source that says most."""
        best = self._best
        return best if best and self._opinions[best].std < self.network_std else ScaleSource.NETWORK

    @property
    def std(self) -> float:
        """Relative standard deviation; what is still to be corrected counts as an error."""
        return float(np.hypot(self._fused()[1], self._fused()[0] - self._log_gain))

    @property
    def _best(self) -> ScaleSource | None:
        return min(self._opinions, key=lambda source: self._opinions[source].std, default=None)

    def _fused(self) -> tuple[float, float]:
        """Log gain that network and opinion together make most likely, and its deviation."""
        best = self._best
        if best is None:
            return 0.0, self.network_std
        opinion = self._opinions[best]
        std = float((self.network_std**-2 + opinion.std**-2) ** -0.5)
        return opinion.mean * (std / opinion.std) ** 2, std

    def heed(self, factor: float, std: float, source: ScaleSource) -> None:
        """Somebody measures that the published world should be ``factor`` times as large.

        Raises:
            ValueError: Not a positive factor with a positive relative standard deviation.
        """
        if not (np.isfinite([factor, std]).all() and factor > 0 and std > 0):
            raise ValueError(
                f"a scale needs a factor and a relative std above 0, got {factor} and {std}"
            )
        opinion = self._opinions.setdefault(source, _Opinion())
        opinion.add(float(np.log(factor)) + self._log_gain, std)

    def settle(self) -> float:
        """The gain as it should be, at once: of a world that nobody was told of yet."""
        self._log_gain = self._fused()[0]
        return self.gain

    def step(self) -> float:
        """The gain of the next frame set: a little nearer to what it should be."""
        self._log_gain += float(np.clip(self._fused()[0] - self._log_gain, -MAX_STEP, MAX_STEP))
        return self.gain


def grown_poses(T: F64, gain: float) -> F64:
    """Rigid poses (..., 4, 4) in a world that is ``gain`` times as large."""
    T = T.copy()
    T[..., :3, 3] *= gain
    return T


def grown(placement: Placement, gain: float) -> Placement:
    """The placement in a world that is ``gain`` times as large."""
    if gain == 1.0:
        return placement
    growth = scaling(gain)
    return replace(
        placement,
        T_world_cam={v: grown_poses(T, gain) for v, T in placement.T_world_cam.items()},
        T_world_look={slot: growth @ T for slot, T in placement.T_world_look.items()},
    )
