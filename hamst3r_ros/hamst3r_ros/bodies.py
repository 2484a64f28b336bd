"""Posed bodies of people, coarse enough to be sent and drawn, and how large they are.

In numpy: for a handful of people what torch adds to each operation would be most of the time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.people.body import NUM_JOINTS, PARENTS, BodyModel, descendants
from hamst3r.scene import BodyFit, Person

F32 = NDArray[np.float32]
CELL = 0.035  # metres; vertices of one cube of the template become one
REMEMBERED = 64  # shapes of people

_PARENTS = np.array(PARENTS[1:])
# Towards the faces, edges and corners of a cube.
_DIRECTIONS = np.array([d for d in itertools.product((-1.0, 0, 1), repeat=3) if any(d)], np.float32)
_NOT_TURNED: F32 = np.eye(3, dtype=np.float32)


def _ancestors() -> list[NDArray[np.intp]]:
    """(25,) indices of the joint 1, 2, 4 and 8 above each; 24 stands for none."""
    above = np.array([NUM_JOINTS if parent < 0 else parent for parent in (*PARENTS, -1)])
    found = []
    for _ in range(4):  # the deepest joint is below eight others
        found.append(above)
        above = above[above]
    return found


_ABOVE = _ancestors()


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
        return ((self.high - self.low) @ SMPL_FROM_ROS).tolist()  # type: ignore[no-any-return]

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
        self._below: F32 = descendants(body.v_template.device).numpy().T
        self._shapes: dict[bytes, tuple[F32, F32]] = {}

    def pose(self, people: Sequence[Person]) -> dict[int, F32]:
        """Person id -> (V, 3) vertices in world, metres; people without a fit are left out."""
        fits = {person.id: person.fit for person in people if person.fit is not None}
        if not fits:
            return {}
        betas = np.stack([fit.betas for fit in fits.values()])
        mesh = self._mesh
        turns = _turns([np.r_[fit.global_orient, fit.body_pose] for fit in fits.values()])
        rest = self._rest(betas)
        turn, place = self._posed(turns, rest)
        place += np.stack([fit.transl for fit in fits.values()])[:, None]
        shift = place - (turn @ rest[..., None])[..., 0]
        shaped = mesh.bent(mesh.shaped(betas), turns)
        blend = self._weights @ turn.reshape(len(fits), NUM_JOINTS, 9)
        vertices = np.einsum("pvij,pvj->pvi", blend.reshape(*shaped.shape, 3), shaped)
        return dict(zip(fits, vertices + self._weights @ shift, strict=True))

    def boxes(self, people: Sequence[Person]) -> dict[int, Box]:
        """Person id -> box; people without a fit are left out.

        Exact but for what bends where two parts meet: some centimetres.
        """
        fits = {person.id: person.fit for person in people if person.fit is not None}
        if not fits:
            return {}
        turns = np.empty((len(fits), NUM_JOINTS, 3, 3), np.float32)
        turns[:, 0] = _NOT_TURNED
        turns[:, 1:] = _turns([fit.body_pose for fit in fits.values()])
        shapes = [self._shape(fit) for fit in fits.values()]
        rest = np.stack([joints for joints, _ in shapes])
        turn, place = self._posed(turns, rest)
        parts = self._parts
        outline = self._outline.bent(np.stack([vertices for _, vertices in shapes]), turns)
        outline = outline - rest[:, parts, :, None]
        vertices = turn[:, parts] @ outline + place[:, parts, :, None]
        low = vertices.min(1).min(-1) - place[:, 0]
        high = vertices.max(1).max(-1) - place[:, 0]
        return {person: Box(*ends) for person, *ends in zip(fits, low, high, strict=True)}

    def _shape(self, fit: BodyFit) -> tuple[F32, F32]:
        """(24, 3) joints and the outline at rest; a person's shape seldom changes."""
        key = fit.betas.tobytes()
        known = self._shapes.get(key)
        if known is None:
            if len(self._shapes) >= REMEMBERED:
                self._shapes.clear()
            betas = fit.betas[None]
            known = self._shapes[key] = self._rest(betas)[0], self._outline.shaped(betas)[0]
        return known

    def _rest(self, betas: F32) -> F32:
        """(P, 24, 3) joints at rest."""
        return self._joints + (betas @ self._joint_directions).reshape(-1, NUM_JOINTS, 3)

    def _posed(self, turns: F32, rest: F32) -> tuple[F32, F32]:
        """Rotations (P, 24, 3, 3) and joints (P, 24, 3) as the body's ``skeleton`` has them, not
        moved."""
        count = len(turns)
        turn = np.empty((count, NUM_JOINTS + 1, 3, 3), np.float32)
        turn[:, :NUM_JOINTS] = turns
        turn[:, NUM_JOINTS] = _NOT_TURNED
        for above in _ABOVE:
            turn = turn[:, above] @ turn
        turn = turn[:, :NUM_JOINTS]
        bones = rest.copy()
        bones[:, 1:] -= rest[:, _PARENTS]
        bones[:, 1:] = (turn[:, _PARENTS] @ bones[:, 1:, :, None])[..., 0]
        return turn, self._below @ bones


def _turns(vectors: Sequence[NDArray]) -> F32:
    """(P, J, 3, 3) of P vectors of J axis-angles."""
    matrices = Rotation.from_rotvec(np.concatenate(vectors).reshape(-1, 3)).as_matrix()
    return matrices.reshape(len(vectors), -1, 3, 3).astype(np.float32)
