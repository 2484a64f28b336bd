"""Bodies over the last frame sets together: parts in contact stay on the scene's surface and where
they are, and bodies move smoothly (JOSH's terms, in a window that moves along).

Every frame set's fit is condensed to the information about its pose. Around the fits all terms are
linear in small increments, so that the frame sets of one person are one linear system; what leaves
the window stays as a prior on what follows (marginalisation). Nothing is lost by that: the newest
body is the same for a window of three as for one of thirty (a test holds that).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from hamst3r.people.body import NUM_JOINTS, BodyModel
from hamst3r.people.contact import NUM_CONTACTS, ContactConfig, ContactPoints, touching
from hamst3r.people.jacobian import BodyState, Linearization, apply_increment, linearize
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
        slide: Deviation of a point in contact from one frame set to the next.
        slip: Farther apart than this, the fits are believed rather than the contact.
        surface: Deviation of a point in contact from the surface, and of others below it.
        acceleration: Deviation of the hips', hands' and feet's, metres per second squared.
        max_gap: A person unseen for longer starts a new window.
    """

    window: int = 3
    slide: float = 0.001
    slip: float = 0.05
    surface: float = 0.01
    acceleration: float = 25.0
    max_gap: float = 0.5
    contact: ContactConfig = field(default_factory=ContactConfig)


@dataclass(frozen=True, eq=False)
class _Frame:
    """One frame set's fit of one person, condensed.

    Attributes:
        stamp: ns. information: (D, D) about increments of the fit.
        places: (C + 1, 3) contact points and pelvis as fitted. jacobian: (C + 1, 3, D) of these.
        touches: (C,). planes: Near the contact points.
    """

    stamp: int
    information: F64
    places: F64
    jacobian: F64
    touches: NDArray[np.bool_]
    planes: Planes


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


class Window:
    """The last frame sets of one person.

    Args:
        points: Contact points of the body model, shared by all people.
    """

    def __init__(
        self, body: BodyModel, points: ContactPoints, config: SmoothingConfig | None = None
    ) -> None:
        self.config = config or SmoothingConfig()
        self._body, self._points = body, points
        self._frames: deque[_Frame] = deque()
        self._places = np.zeros((NUM_CONTACTS, 3))  # of the contact points, at last
        self._clear()

    def _clear(self) -> None:
        self._frames.clear()
        # Of the two oldest frames, from those that left: information and its product with the mean.
        self._prior = np.zeros((2 * _SIZE, 2 * _SIZE))
        self._pull = np.zeros(2 * _SIZE)

    @torch.no_grad()
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
        line = linearize(self._body, state)
        features = self._points.features(state.betas)
        places = torch.cat([features @ line.bones, line.joints[:, :1]], 1)[0].double().numpy()
        turned = line.turned.flatten(2)
        pelvis = line.turned[:, 3 * NUM_JOINTS]
        moved = (features @ turned).unflatten(-1, (3, -1))
        jacobian = torch.cat([moved, pelvis[:, None]], 1)[0][..., _COLUMNS].double().numpy()
        if self._frames:
            gap = (stamp - self._frames[-1].stamp) / 1e9
            if not 0 < gap <= self.config.max_gap:
                self._clear()
        planes = surroundings.planes(places[:NUM_CONTACTS])
        self._frames.append(
            _Frame(
                stamp=stamp,
                information=information[np.ix_(_COLUMNS, _COLUMNS)],
                places=places,
                jacobian=jacobian,
                touches=self._touches(stamp, places, joint_std[_CARRIERS], planes),
                planes=planes,
            )
        )
        increment = self._solve()
        found = _apply(state, line, increment)
        wanted = (places + jacobian @ increment)[:NUM_CONTACTS]
        touches = self._frames[-1].touches
        if touches.any():
            found = self._follow(found, self._frames[-1], wanted)
        self._places = wanted
        if len(self._frames) > max(self.config.window, 3):
            self._marginalise()
        return Smoothed(found, touches, wanted)

    def _follow(self, state: BodyState, frame: _Frame, wanted: F64) -> BodyState:
        """The state whose parts in contact are where the linear solution wanted them."""
        line = linearize(self._body, state)
        places = self._points.features(state.betas) @ line.bones
        off = (places[0].double().numpy() - wanted)[frame.touches]
        rows = frame.jacobian[:-1][frame.touches].reshape(-1, _SIZE)
        weight = self.config.slide**-2
        hessian = weight * rows.T @ rows + frame.information
        step = -np.linalg.solve(hessian, weight * rows.T @ off.ravel())
        return _apply(state, line, step)

    def _touches(self, stamp: int, places: F64, std: F64, planes: Planes) -> NDArray[np.bool_]:
        last = self._frames[-1] if self._frames else None
        return touching(
            places[:NUM_CONTACTS],
            self._places if last else None,
            (stamp - last.stamp) / 1e9 if last else 0.0,
            std,
            planes,
            last.touches if last else np.zeros(NUM_CONTACTS, dtype=bool),
            self.config.contact,
        )

    def _solve(self) -> F64:
        """(D,) increment of the newest frame."""
        hessian, gradient = self._system(len(self._frames))
        self._add_prior(hessian, gradient)
        hessian[np.diag_indices(len(hessian))] += 1e-6
        solution = cho_solve(cho_factor(hessian, lower=True, check_finite=False), -gradient)
        return solution[-_SIZE:]

    def _add_prior(self, hessian: F64, gradient: F64) -> None:
        size = min(2 * _SIZE, len(hessian))
        hessian[:size, :size] += self._prior[:size, :size]
        gradient[:size] -= self._pull[:size]

    def _marginalise(self) -> None:
        """Drop the oldest frame; what it said of the next two is kept."""
        hessian, gradient = self._system(3, only_first=True)
        self._add_prior(hessian, gradient)
        own, rest = slice(0, _SIZE), slice(_SIZE, 3 * _SIZE)
        hessian[own, own][np.diag_indices(_SIZE)] += 1e-6
        factor = cho_factor(hessian[own, own], lower=True, check_finite=False)
        gain = cho_solve(factor, np.column_stack([hessian[own, rest], gradient[own]]))
        self._prior = hessian[rest, rest] - hessian[rest, own] @ gain[:, :-1]
        self._pull = -(gradient[rest] - hessian[rest, own] @ gain[:, -1])
        self._frames.popleft()

    def _system(self, count: int, only_first: bool = False) -> tuple[F64, F64]:
        """Hessian and gradient at the fits, of the first frames and all terms among them, or only
        of those that involve the first."""
        hessian = np.zeros((count * _SIZE, count * _SIZE))
        gradient = np.zeros(count * _SIZE)
        frames = [self._frames[k] for k in range(count)]
        for k, frame in enumerate(frames[: 1 if only_first else count]):
            own = slice(k * _SIZE, (k + 1) * _SIZE)
            hessian[own, own] += frame.information
            self._add_surface(frame, hessian[own, own], gradient[own])
            if k + 1 < count:
                self._add_static(frame, frames[k + 1], k, hessian, gradient)
            if k + 2 < count:
                self._add_smooth(frames[k : k + 3], k, hessian, gradient)
        return hessian, gradient

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

    def _add_static(self, a: _Frame, b: _Frame, k: int, hessian: F64, gradient: F64) -> None:
        both = a.touches & b.touches
        if not both.any():
            return
        off = (b.places[:-1] - a.places[:-1])[both]
        weight = self.config.slide**-2 / (1 + (off**2).sum(1) / self.config.slip**2) ** 2
        rows = np.concatenate([-a.jacobian[:-1][both], b.jacobian[:-1][both]], 2)
        _accumulate(rows, off, weight, k, hessian, gradient)

    def _add_smooth(self, frames: list[_Frame], k: int, hessian: F64, gradient: F64) -> None:
        first, second = ((b.stamp - a.stamp) / 1e9 for a, b in pairwise(frames))
        # Difference of the two velocities over half the time between them.
        share = np.array([1 / first, -1 / first - 1 / second, 1 / second]) * 2 / (first + second)
        off = sum(s * frame.places for s, frame in zip(share, frames, strict=True))
        rows = np.concatenate(
            [s * frame.jacobian for s, frame in zip(share, frames, strict=True)], 2
        )
        weight = np.full(len(off), self.config.acceleration**-2)
        _accumulate(rows, off, weight, k, hessian, gradient)


def _apply(state: BodyState, line: Linearization, increment: F64) -> BodyState:
    full = torch.zeros(1, 3 * NUM_JOINTS + 3)
    full[0, _COLUMNS] = torch.from_numpy(increment).float()
    turn = full[:, : 3 * NUM_JOINTS].unflatten(1, (NUM_JOINTS, 3))
    shift = full[:, 3 * NUM_JOINTS :]
    return apply_increment(state, line, turn, shift, torch.zeros_like(state.betas))


def _accumulate(rows: F64, off: F64, weight: F64, k: int, hessian: F64, gradient: F64) -> None:
    """Add residuals ``off`` (n, 3) with derivatives (n, 3, m D) of frames k, k + 1, ..."""
    flat = rows.reshape(-1, rows.shape[-1])
    weighted = flat * np.repeat(weight, 3)[:, None]
    own = slice(k * _SIZE, k * _SIZE + flat.shape[1])
    hessian[own, own] += weighted.T @ flat
    gradient[own] += weighted.T @ off.ravel()
