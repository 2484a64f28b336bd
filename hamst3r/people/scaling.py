"""What people say of the scale of a scene that no calibration tells.

Two things are asked over the last frame sets. By how much must the place grow for people to stand
on it, rather than above or below: JOSH's contact scale, since their depths need not err as the
place's do. And how large are they against people of usual size? Where too little touches, the sizes
alone are an opinion: it takes people and place to err alike. Where no body was fitted, how large
people look is one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hamst3r.people.body import BodyModel
from hamst3r.people.contact import FEET, ContactPoints, ScaleConfig, contact_scale
from hamst3r.people.state import BodyState
from hamst3r.people.surroundings import Surroundings
from hamst3r.scene import ScaleSource

F64 = NDArray[np.float64]


class ScaleOpinion(NamedTuple):
    """By which factor the world must grow, the factor's relative deviation, and who says so."""

    factor: float
    std: float
    source: ScaleSource


@dataclass(frozen=True)
class PeopleScaleConfig:
    """How people tell the scale.

    Attributes:
        size_std: Relative deviation of people's heights from the body model's own.
        look, look_std: How large people look who do as people do, children among them, as a share
            of the body model that stands; and the relative deviation of that.
        apart_std: Of people's scale from that of the place, where nothing ties them together.
        frame_sets: How many of the last ones count.
        contact: How it is looked for what people stand on.
    """

    size_std: float = 0.1
    look: float = 0.87
    look_std: float = 0.3
    apart_std: float = 0.1
    frame_sets: int = 15
    contact: ScaleConfig = field(default_factory=lambda: ScaleConfig(0.6, 1.67, steps=25))


@dataclass(frozen=True, eq=False)
class Sized:
    """A body as fitted to the points of an unscaled world.

    Attributes:
        person: Id. state: Of this person alone. camera: (3,) where the camera that sees most of
            the person is. height: Of the standing body. All in the world's units.
    """

    person: int
    state: BodyState
    camera: F64
    height: float


class _Sample(NamedTuple):
    """Of one person in one frame set, in the world's units; ``sole`` (3,) is the lower one."""

    person: int
    height: float
    camera: F64
    sole: F64


class PeopleScale:
    """Gathers what bodies say over frame sets.

    Args:
        body: The model that was fitted. points: Its contact points.
    """

    def __init__(
        self, body: BodyModel, points: ContactPoints, config: PeopleScaleConfig | None = None
    ) -> None:
        self.config = config or PeopleScaleConfig()
        self._points = points
        self._usual = float(np.ptp(body.v_template[:, 1].numpy()))
        self._seen: deque[list[_Sample]] = deque(maxlen=self.config.frame_sets)
        self._looks: deque[dict[int, float]] = deque(maxlen=self.config.frame_sets)

    def grow(self, factor: float) -> None:
        """The world has become ``factor`` times as large."""
        for people in self._seen:
            people[:] = [
                _Sample(own.person, factor * own.height, factor * own.camera, factor * own.sole)
                for own in people
            ]
        for statures in self._looks:
            statures.update({person: factor * own for person, own in statures.items()})

    def heed(
        self,
        people: Sequence[Sized],
        surroundings: Surroundings,
        statures: Mapping[int, float] | None = None,
    ) -> ScaleOpinion | None:
        """Take in one frame set; None where it shows nobody who tells.

        Args:
            people: Bodies. statures: Id -> how many times as large as the body model somebody
                looks, body or not.
        """
        self._seen.append([self._sample(own) for own in people])
        self._looks.append({k: own for k, own in (statures or {}).items() if own > 0})
        if not people:
            return self._by_looks() if self._looks[-1] else None
        samples = [own for seen in self._seen for own in seen]
        ids = np.array([own.person for own in samples])
        sizes = np.array([own.height / self._usual for own in samples])
        factor, std = _by_sizes(ids, sizes, self.config.size_std)
        found = contact_scale(
            np.stack([own.sole for own in samples]),
            ids,
            surroundings,
            np.stack([own.camera for own in samples]),
            self.config.contact,
        )
        if found is None:
            return self._untied(factor, std)
        tie, tie_std = found
        return ScaleOpinion(tie * factor, float(np.hypot(tie_std, std)), ScaleSource.CONTACT)

    def _by_looks(self) -> ScaleOpinion:
        """Of everybody who was seen lately."""
        ids, statures = np.array([own for seen in self._looks for own in seen.items()]).T
        return self._untied(*_by_sizes(ids, statures / self.config.look, self.config.look_std))

    def _untied(self, factor: float, std: float) -> ScaleOpinion:
        """Where nothing ties people to the place, both need not err alike."""
        std = float(np.hypot(std, self.config.apart_std))
        return ScaleOpinion(factor, std, ScaleSource.BODIES)

    def _sample(self, own: Sized) -> _Sample:
        feet = self._points.places(own.state.pose())[0, FEET]
        up = own.state.rotations[0, 0, :, 1].double().numpy()  # the world's may not be known
        return _Sample(own.person, own.height, own.camera, feet[(feet @ up).argmin()])


def _by_sizes(ids: NDArray, sizes: F64, size_std: float) -> tuple[float, float]:
    """What makes people's sizes (n,) usual, and its deviation; each counts once, however often
    seen."""
    logs = np.log(sizes)
    each = [float(np.median(logs[ids == person])) for person in np.unique(ids)]
    return float(np.exp(-np.mean(each))), size_std / len(each) ** 0.5
