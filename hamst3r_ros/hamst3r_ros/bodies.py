"""Posed bodies of people, coarse enough to be sent and drawn, and how large they are.

In numpy: for a handful of people what torch adds to each operation would be most of the time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hamst3r.people.body import ANCESTORS, NUM_JOINTS, PARENTS, BodyModel
from hamst3r.people.kinematics import rotations
from hamst3r.scene import BodyFit, Person

F32 = NDArray[np.float32]
CELL = 0.035  # metres; vertices of one cube of the template become one
REMEMBERED = 64  # shapes of people

_PARENTS = np.array(PARENTS[1:])
# Towards the faces, edges and corners of a cube.
_DIRECTIONS = np.array([d for d in itertools.product((-1.0, 0, 1), repeat=3) if any(d)], np.float32)
_NOT_TURNED: F32 = np.eye(3, dtype=np.float32)


_ABOVE = [above.numpy() for above in ANCESTORS]  # the joint 1, 2, 4 and 8 above each

# SMPL's axes (x left, y up, z front) as columns of REP-155's (x front, y left, z up).
SMPL_FROM_ROS = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])


class Box(NamedTuple):
    """What holds a body, along the pelvis' own axes, metres.

    Attributes:
        low, high: (3,) from the pelvis, SMPL's axes.
    """

    low: F32
    high: F32

    @property
    def size(self) -> list[float]:
        """Along REP-155's axes."""
        x, y, z = (self.high - self.low).tolist()
        return [z, x, y]

    @property
    def middle(self) -> NDArray[np.floating]:
        """(3,) from the pelvis, SMPL's axes."""
        return (self.low + self.high) / 2


@dataclass(frozen=True, eq=False)
class _Vertices:
    """Some vertices of a body: N numbers in whatever order.

    Attributes:
        template: Their places at rest, N in all.
        by_shape: (B, N) change with the shape.
        by_pose: (207, N) change with the pose; None where there is none.
    """

    template: F32
    by_shape: F32
    by_pose: F32 | None

    @classmethod
    def of(cls, body: BodyModel, arranged: Callable[[NDArray], NDArray]) -> _Vertices:
        """Those that ``arranged`` takes out of (V, 3, ...)."""

        def flat(directions: NDArray) -> F32:
            taken = arranged(directions)
            return np.ascontiguousarray(taken.reshape(-1, taken.shape[-1]).T)

        bends = body.posedirs
        return cls(
            np.ascontiguousarray(arranged(body.v_template.numpy())),
            flat(body.shapedirs.numpy()),
            None if bends is None else flat(bends.numpy()),
        )

    def shaped(self, betas: F32) -> F32:
        """(P, ...) as the template, of P shapes (P, B)."""
        change: F32 = betas @ self.by_shape
        return self.template + change.reshape(-1, *self.template.shape)

    def bent(self, shaped: F32, turns: F32) -> F32:
        """(P, ...) the same as the pose changes it; turns: (P, 24, 3, 3), of joints in parents."""
        if self.by_pose is None:
            return shaped
        features: F32 = (turns[:, 1:] - _NOT_TURNED).reshape(len(turns), -1)
        change: F32 = features @ self.by_pose
        return shaped + change.reshape(shaped.shape)


class CoarseBody:
    """A body model thinned to about a tenth of its vertices.

    Args:
        body: Model whose parameters will be posed.

    Attributes:
        faces: (F, 3) int64 into the vertices of :meth:`pose`.
    """

    def __init__(self, body: BodyModel) -> None:
        # Limbs that touch at rest must not grow together: parts are thinned one by one.
        template, part = body.v_template.numpy(), body.part.numpy()
        keys = np.column_stack([np.floor(template / CELL).astype(np.int64), part])
        _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        faces = group.reshape(-1)[body.faces.numpy()]
        whole = (
            (faces[:, 0] != faces[:, 1])
            & (faces[:, 1] != faces[:, 2])
            & (faces[:, 2] != faces[:, 0])
        )
        self.faces: NDArray[np.int64] = np.unique(faces[whole], axis=0)
        self._mesh = _Vertices.of(body, lambda vertices: vertices[first])
        self._weights: F32 = body.weights.numpy()[first]
        # Of each part the vertices that are farthest out in some direction, moved as one piece:
        # (parts, 3, n), because numpy is many times slower at extremes over (n, 3).
        self._parts = np.flatnonzero(np.bincount(part, minlength=NUM_JOINTS))
        members = [np.flatnonzero(part == which) for which in self._parts]
        extreme = np.stack([m[np.argmax(template[m] @ _DIRECTIONS.T, axis=0)] for m in members])
        self._outline = _Vertices.of(body, lambda vertices: vertices[extreme].swapaxes(1, 2))
        self._joints: F32 = body.joint_template.numpy()
        self._joint_directions: F32 = body.joint_shapedirs.numpy().reshape(3 * NUM_JOINTS, -1).T
        self._shapes: dict[bytes, tuple[F32, F32]] = {}

    def pose(self, people: Sequence[Person]) -> dict[int, F32]:
        """Person id -> (V, 3) vertices in world, metres; people without a fit are left out."""
        fits = {person.id: person.fit for person in people if person.fit is not None}
        if not fits:
            return {}
        betas = np.stack([fit.betas for fit in fits.values()])
        mesh, turns = self._mesh, _turns(fits.values())
        rest = self._rest(betas)
        motions = np.stack([_still(joints) for joints in rest])
        motions[:, :NUM_JOINTS, :3, :3] = turns
        motions[:, 0, :3, 3] = rest[:, 0]
        motions = _posed(motions)
        turn, place = motions[..., :3], motions[..., 3]
        place += np.stack([fit.transl for fit in fits.values()])[:, None]
        shift = place - (turn @ rest[..., None])[..., 0]
        shaped = mesh.bent(mesh.shaped(betas), turns)
        blend = self._weights @ turn.reshape(len(fits), NUM_JOINTS, 9)
        vertices = np.einsum("pvij,pvj->pvi", blend.reshape(*shaped.shape, 3), shaped)
        return dict(zip(fits, vertices + self._weights @ shift, strict=True))

    def boxes(self, people: Sequence[Person]) -> dict[int, Box]:
        """Person id -> box; people without a fit are left out.

        Exact but for what bends where two parts meet: some centimetres. Few operations on whole
        arrays: all of ``~/humans`` waits for this.
        """
        fits = {person.id: person.fit for person in people if person.fit is not None}
        if not fits:
            return {}
        turns = _turns(fits.values())
        shapes = [self._shape(fit) for fit in fits.values()]
        motions = np.stack([still for still, _ in shapes])
        motions[:, 1:NUM_JOINTS, :3, :3] = turns[:, 1:]  # the pelvis is where the axes are
        outline = np.stack([points for _, points in shapes])
        if self._outline.by_pose is not None:
            bends = self._outline.bent(np.zeros_like(outline[:, :, :3]), turns)
            outline[:, :, :3] += bends
        vertices = _posed(motions, rounds=3)[:, self._parts] @ outline
        low, high = vertices.min(1).min(-1), vertices.max(1).max(-1)
        return {person: Box(*ends) for person, *ends in zip(fits, low, high, strict=True)}

    def _shape(self, fit: BodyFit) -> tuple[F32, F32]:
        """Motions of the joints at rest, see :func:`_still`, and (parts, 4, n) homogeneous points
        of the outline as its joint has them; a person's shape seldom changes."""
        key = fit.betas.tobytes()
        known = self._shapes.get(key)
        if known is None:
            if len(self._shapes) >= REMEMBERED:
                self._shapes.clear()
            betas = fit.betas[None]
            rest = self._rest(betas)[0]
            points = self._outline.shaped(betas)[0] - rest[self._parts, :, None]
            homogeneous = np.pad(points, ((0, 0), (0, 1), (0, 0)), constant_values=1)
            known = self._shapes[key] = _still(rest), homogeneous
        return known

    def _rest(self, betas: F32) -> F32:
        """(P, 24, 3) joints at rest."""
        return self._joints + (betas @ self._joint_directions).reshape(-1, NUM_JOINTS, 3)


def _still(rest: F32) -> F32:
    """(25, 4, 4) motions of joints (24, 3) in their parents at rest; the pelvis is the origin, and
    the last one stands for what is above it."""
    motions = np.zeros((NUM_JOINTS + 1, 4, 4), np.float32)
    motions[:] = np.eye(4)
    motions[1:NUM_JOINTS, :3, 3] = rest[1:] - rest[_PARENTS]
    return motions


def _posed(motions: F32, rounds: int = 4) -> F32:
    """(P, 24, 3, 4) motions of joints in the world, of those in their parents (P, 25, 4, 4).

    After n rounds each has what 2^n - 1 joints above it do: with three, all but the pelvis'.
    """
    for above in _ABOVE[:rounds]:
        motions = motions[:, above] @ motions
    return motions[:, :NUM_JOINTS, :3]


def _turns(fits: Iterable[BodyFit]) -> F32:
    """(P, 24, 3, 3) rotations of P people's joints in their parents."""
    vectors = [part for fit in fits for part in (fit.global_orient, fit.body_pose)]
    return rotations(np.concatenate(vectors, dtype=np.float32).reshape(-1, NUM_JOINTS, 3))
