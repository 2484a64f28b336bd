"""Bodies over the last frame sets together: parts in contact stay on the scene's surface and where
they are, and bodies move smoothly (JOSH's terms, with a fixed lag).

Every frame set's fit is condensed to the information about its pose. Around the fits all terms are
linear in small increments, so that the frame sets of one person are one linear system, in which
each is tied to the next two only. It is solved from the oldest frame set to the newest, and what
leaves the window stays as a prior on what follows (marginalisation).

What touches is not decided once: whether a part stayed from one frame set to the next is clearer
when more of them are known on both sides. The system is then solved again from where the decision
changed, and only from there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from hamst3r.people.body import NUM_JOINTS, BodyModel
from hamst3r.people.contact import NUM_CONTACTS, ContactConfig, ContactPoints, touching
from hamst3r.people.kinematics import (
    ROTATIONS,
    TRANSLATION,
    Line,
    Pose,
    apply_increment,
    linearize,
    rig,
)
from hamst3r.people.state import BodyState
from hamst3r.people.surroundings import Planes, Surroundings

F64 = NDArray[np.float64]

# What may move: the root and the limbs; the rest follows the fit. Then the translation.
_MOVING = (0, 1, 2, 4, 5, 7, 8, 16, 17, 18, 19)
_COLUMNS = [3 * joint + axis for joint in _MOVING for axis in range(3)] + [
    3 * NUM_JOINTS + axis for axis in range(3)
]
_SIZE = len(_COLUMNS)
# Whose deviation is a contact point's: the joint it hangs on.
_CARRIERS = [7, 10, 8, 11, 20, 21, 1, 2]


@dataclass(frozen=True)
class SmoothingConfig:
    """Metres, seconds.

    Attributes:
        window: Frame sets that are written out, at least 3; 0 leaves every fit as it is.
        hindsight: Frame sets before and after a step that say whether a part stayed where it was.
        slide: Deviation of a point in contact from one frame set to the next.
        slip: Farther apart than this, the fits are believed rather than the contact.
        surface: Deviation of a point in contact from the surface, and of others below it.
        acceleration: Deviation of the hips', hands' and feet's, metres per second squared.
        max_gap: A person unseen for longer starts a new window.
    """

    window: int = 12
    hindsight: int = 4
    slide: float = 0.001
    slip: float = 0.05
    surface: float = 0.01
    acceleration: float = 25.0
    max_gap: float = 0.5
    contact: ContactConfig = field(default_factory=ContactConfig)


@dataclass(eq=False)
class _Frame:
    """One frame set's fit of one person, condensed.

    Attributes:
        stamp: ns. information: (D, D) about increments of the fit.
        places: (C + 1, 3) contact points and pelvis as fitted. jacobian: (C + 1, 3, D) of these.
        std: (C,) metres, of the contact points per axis. planes: Near the contact points.
        stays: (C,) what is in the next frame set where it is in this one.
        touches: (C,) what stays, or has stayed since the last frame set.
        prior, pull: Of this frame set and the next, from those before: information (2 D, 2 D) and
            its product with the mean (2 D,).
    """

    stamp: int
    information: F64
    places: F64
    jacobian: F64
    std: F64
    planes: Planes
    stays: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(NUM_CONTACTS, dtype=bool))
    touches: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(NUM_CONTACTS, dtype=bool))
    prior: F64 = field(default_factory=lambda: np.zeros((2 * _SIZE, 2 * _SIZE)))
    pull: F64 = field(default_factory=lambda: np.zeros(2 * _SIZE))


@dataclass(frozen=True, eq=False)
class Smoothed:
    """A body as the window sees it.

    Attributes:
        state: Of one person. touches: (C,) which contact points touch the scene.
        places: (C, 3) of the contact points.
    """

    state: BodyState
    touches: NDArray[np.bool_]
    places: F64


class _Mean(NamedTuple):
    """Of contact points over some frame sets: (C, 3) metres, (C,) seconds, (C,) how many."""

    places: F64
    time: F64
    number: F64


class Window:
    """The last frame sets of one person.

    Args:
        points: Contact points of the body model, shared by all people.
    """

    def __init__(
        self, body: BodyModel, points: ContactPoints, config: SmoothingConfig | None = None
    ) -> None:
        self.config = config or SmoothingConfig()
        self._rig, self._points = rig(body), points
        self._frames: deque[_Frame] = deque()

    def push(
        self,
        stamp: int,
        state: BodyState,
        information: F64,
        joint_std: F64,
        surroundings: Surroundings,
    ) -> Smoothed:
        """Take in a new fit and say where the body is, given the frames before.

        Args:
            stamp: ns. state: The fit, of one person. information: (75, 75) of its pose.
            joint_std: (24,) metres. surroundings: The scene.
        """
        pose = state.pose()
        line = linearize(self._rig, pose)
        features, root = self._points.features(pose.betas)[0], 3 * NUM_JOINTS
        places = np.vstack([features @ line.bones[0], line.bones[0, root]]).astype(np.float64)
        turned = line.turned[0][..., _COLUMNS]
        moved = (features @ turned.reshape(len(turned), -1)).reshape(NUM_CONTACTS, 3, _SIZE)
        jacobian = np.concatenate([moved, turned[root : root + 1]]).astype(np.float64)
        if self._frames:
            gap = (stamp - self._frames[-1].stamp) / 1e9
            if not 0 < gap <= self.config.max_gap:
                self._frames.clear()
        self._frames.append(
            _Frame(
                stamp=stamp,
                information=information[np.ix_(_COLUMNS, _COLUMNS)],
                places=places,
                jacobian=jacobian,
                std=joint_std[_CARRIERS],
                planes=surroundings.planes(places[:NUM_CONTACTS]),
            )
        )
        # The newest frame set adds to what the two before say; older ones may have changed too.
        for k in range(max(min(self._decide(), len(self._frames) - 3), 0), len(self._frames) - 1):
            self._pass_on(k)
        newest = self._frames[-1]
        increment = self._solve(newest)
        found = _apply(pose, line, increment)
        wanted = (places + jacobian @ increment)[:NUM_CONTACTS]
        if newest.touches.any():
            found = self._follow(found, newest, wanted)
        while len(self._frames) > max(self.config.window, 3):
            self._frames.popleft()  # the next one's prior holds what it said
        return Smoothed(BodyState.of(found), newest.touches, wanted)

    def _follow(self, pose: Pose, frame: _Frame, wanted: F64) -> Pose:
        """The pose whose parts in contact are where the linear solution wanted them."""
        line = linearize(self._rig, pose)
        places = self._points.features(pose.betas)[0] @ line.bones[0]
        off = (places.astype(np.float64) - wanted)[frame.touches]
        rows = frame.jacobian[:-1][frame.touches].reshape(-1, _SIZE)
        weight = self.config.slide**-2
        hessian = weight * rows.T @ rows + frame.information
        step = -np.linalg.solve(hessian, weight * rows.T @ off.ravel())
        return _apply(pose, line, step)

    def _decide(self) -> int:
        """Decide the newest step, and the last ones again; the first frame set that changed."""
        frames, last = self._frames, len(self._frames) - 1
        if not last:
            return 0
        changed = last
        # The newest first: whether others lasted depends on it.
        for k in (last - 1, *range(max(last - self.config.hindsight, 0), last - 1)):
            stays = self._stays(k)
            if (stays != frames[k].stays).any():
                frames[k].stays = stays
                # A frame set's contacts also hold the points on the surface.
                changed = min(changed, k)
        for k in range(max(changed, 0), last + 1):
            before = frames[k - 1].stays if k else frames[k].touches & ~frames[k].stays
            frames[k].touches = before | frames[k].stays
        return changed

    def _stays(self, k: int) -> NDArray[np.bool_]:
        """(C,) which points are in frame set k + 1 where they are in k, as their means over the
        frame sets during which they stayed, before and after, say."""
        before = self._mean(k, -1)
        after = self._mean(k + 1, 1)
        frame = self._frames[k + 1]
        return touching(
            after.places,
            before.places,
            after.time - before.time,
            frame.std * np.sqrt((1 / before.number + 1 / after.number) / 2),
            frame.planes,
            self._frames[k - 1].stays if k else np.zeros(NUM_CONTACTS, dtype=bool),
            self.config.contact,
        )

    def _mean(self, k: int, way: int) -> _Mean:
        """Of the fits of k and, going ``way``, those at which a point still is where it is in k."""
        first = self._frames[k]
        places, count = first.places[:-1].copy(), np.ones(NUM_CONTACTS)
        time, held = np.zeros(NUM_CONTACTS), np.ones(NUM_CONTACTS, dtype=bool)
        for _ in range(self.config.hindsight - 1):
            step, k = (k if way > 0 else k - 1), k + way
            if not 0 <= k < len(self._frames):
                break
            held = held & self._frames[step].stays
            if not held.any():
                break
            places += held[:, None] * self._frames[k].places[:-1]
            time += held * ((self._frames[k].stamp - first.stamp) / 1e9)
            count += held
        origin = self._frames[0].stamp
        return _Mean(places / count[:, None], (first.stamp - origin) / 1e9 + time / count, count)

    def _solve(self, newest: _Frame) -> F64:
        """(D,) increment of the newest frame set."""
        hessian = newest.prior[:_SIZE, :_SIZE] + newest.information
        gradient = -newest.pull[:_SIZE]
        self._add_surface(newest, hessian, gradient)
        hessian[np.diag_indices(_SIZE)] += 1e-6
        return -cho_solve(cho_factor(hessian, lower=True, check_finite=False), gradient)

    def _pass_on(self, k: int) -> None:
        """Eliminate frame set k: what it says of the next two becomes their prior."""
        frames = [self._frames[j] for j in range(k, min(k + 3, len(self._frames)))]
        first, second = frames[0], frames[1]
        size = len(frames) * _SIZE
        hessian, gradient = np.zeros((size, size)), np.zeros(size)
        own, rest = slice(0, _SIZE), slice(_SIZE, size)
        held = min(2 * _SIZE, size)
        hessian[:held, :held] += first.prior[:held, :held]
        gradient[:held] -= first.pull[:held]
        hessian[own, own] += first.information
        self._add_surface(first, hessian[own, own], gradient[own])
        self._add_static(first, second, hessian, gradient)
        if len(frames) == 3:
            self._add_smooth(frames, hessian, gradient)
        hessian[own, own][np.diag_indices(_SIZE)] += 1e-6
        factor = cho_factor(hessian[own, own], lower=True, check_finite=False)
        gain = cho_solve(factor, np.column_stack([hessian[own, rest], gradient[own]]))
        left = size - _SIZE
        second.prior, second.pull = np.zeros_like(first.prior), np.zeros_like(first.pull)
        second.prior[:left, :left] = hessian[rest, rest] - hessian[rest, own] @ gain[:, :-1]
        second.pull[:left] = -(gradient[rest] - hessian[rest, own] @ gain[:, -1])

    def _add_surface(self, frame: _Frame, hessian: F64, gradient: F64) -> None:
        """Contacts on the surface; other points not below the floor."""
        planes = frame.planes
        height = ((frame.places[:-1] - planes.points) * planes.normals).sum(1)
        # On walls and under tables the normal's side is not known: floors and seats only.
        below = (height < 0) & (height > -0.2) & (planes.normals[:, 2] > 0.8)
        counts = planes.known & (frame.touches | below)
        if not counts.any():
            return
        rows = np.einsum("ca,cad->cd", planes.normals, frame.jacobian[:-1])[counts]
        weight = self.config.surface**-2
        hessian += weight * rows.T @ rows
        gradient += weight * rows.T @ height[counts]

    def _add_static(self, a: _Frame, b: _Frame, hessian: F64, gradient: F64) -> None:
        stays = a.stays
        if not stays.any():
            return
        off = (b.places[:-1] - a.places[:-1])[stays]
        weight = self.config.slide**-2 / (1 + (off**2).sum(1) / self.config.slip**2) ** 2
        rows = np.concatenate([-a.jacobian[:-1][stays], b.jacobian[:-1][stays]], 2)
        _accumulate(rows, off, weight, hessian, gradient)

    def _add_smooth(self, frames: list[_Frame], hessian: F64, gradient: F64) -> None:
        first, second = ((b.stamp - a.stamp) / 1e9 for a, b in pairwise(frames))
        # Difference of the two velocities over half the time between them.
        share = np.array([1 / first, -1 / first - 1 / second, 1 / second]) * 2 / (first + second)
        off = sum(s * frame.places for s, frame in zip(share, frames, strict=True))
        rows = np.concatenate(
            [s * frame.jacobian for s, frame in zip(share, frames, strict=True)], 2
        )
        weight = np.full(len(off), self.config.acceleration**-2)
        _accumulate(rows, off, weight, hessian, gradient)


def _apply(pose: Pose, line: Line, increment: F64) -> Pose:
    full = np.zeros((1, 3 * NUM_JOINTS + 3), np.float32)
    full[0, _COLUMNS] = increment
    turn = full[:, ROTATIONS].reshape(1, NUM_JOINTS, 3)
    return apply_increment(pose, line, turn, full[:, TRANSLATION], np.zeros_like(pose.betas))


def _accumulate(rows: F64, off: F64, weight: F64, hessian: F64, gradient: F64) -> None:
    """Add residuals ``off`` (n, 3) with derivatives (n, 3, m D) of the first m frame sets."""
    flat = rows.reshape(-1, rows.shape[-1])
    weighted = flat * np.repeat(weight, 3)[:, None]
    own = slice(0, flat.shape[1])
    hessian[own, own] += weighted.T @ flat
    gradient[own] += weighted.T @ off.ravel()
