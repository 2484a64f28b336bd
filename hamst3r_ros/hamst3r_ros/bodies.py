"""Posed bodies of people, coarse enough to be sent and drawn.

In numpy: for a handful of people what torch adds to each operation would be most of the time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from hamst3r.people.body import NUM_JOINTS, PARENTS, BodyModel
from hamst3r.scene import BodyFit, Person

F32 = NDArray[np.float32]
CELL = 0.035  # metres; vertices of one cube of the template become one


def _levels() -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """(joints, their parents) of each generation below the root."""
    generation = [0] * NUM_JOINTS
    for joint in range(1, NUM_JOINTS):
        generation[joint] = generation[PARENTS[joint]] + 1
    levels = []
    for depth in range(1, max(generation) + 1):
        joints = np.array([j for j in range(NUM_JOINTS) if generation[j] == depth])
        levels.append((joints, np.array(PARENTS)[joints]))
    return levels


_LEVELS = _levels()
_PARENTS = np.array(PARENTS[1:])


# Towards the faces, edges and corners of a cube.
_DIRECTIONS = np.array([d for d in itertools.product((-1.0, 0, 1), repeat=3) if any(d)], np.float32)


def _extremes(vertices: F32, part: Tensor) -> NDArray[np.intp]:
    """Indices of the vertices of each part that are farthest out in some direction."""
    found = []
    for which in part.unique():
        members = np.flatnonzero((part == which).numpy())
        found.append(members[np.argmax(vertices[members] @ _DIRECTIONS.T, axis=0)])
    return np.unique(np.concatenate(found))


@dataclass(frozen=True, eq=False)
class _Skin:
    """Vertices of a body: (V, 3) at rest, (B, 3 V) change with the shape, (V, 24) weights."""

    template: F32
    directions: F32
    weights: F32

    @classmethod
    def of(cls, body: BodyModel, chosen: NDArray[np.intp]) -> _Skin:
        directions = body.shapedirs.numpy()[chosen].reshape(3 * len(chosen), -1).T
        return cls(body.v_template.numpy()[chosen], directions, body.weights.numpy()[chosen])


class CoarseBody:
    """A body model thinned to about a tenth of its vertices.

    Args:
        body: Model whose parameters will be posed.

    Attributes:
        faces: (F, 3) int64 into the vertices of :meth:`pose`.
    """

    def __init__(self, body: BodyModel) -> None:
        # Limbs that touch at rest must not grow together: parts are thinned one by one.
        cubes = np.floor(body.v_template.numpy() / CELL).astype(np.int64)
        keys = np.column_stack([cubes, body.part.numpy()])
        _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        faces = group.reshape(-1)[body.faces.numpy()]
        whole = (
            (faces[:, 0] != faces[:, 1])
            & (faces[:, 1] != faces[:, 2])
            & (faces[:, 2] != faces[:, 0])
        )
        self.faces: NDArray[np.int64] = np.unique(faces[whole], axis=0)
        self._mesh = _Skin.of(body, first)
        self._outline = _Skin.of(body, first[_extremes(self._mesh.template, body.part[first])])
        self._joints: F32 = body.joint_template.numpy()
        self._joint_directions: F32 = body.joint_shapedirs.numpy().reshape(3 * NUM_JOINTS, -1).T

    def pose(self, people: Sequence[Person], outline: bool = False) -> dict[int, F32]:
        """Person id -> (V, 3) vertices in world, metres; people without a fit are left out.

        Args:
            outline: Only the few vertices that stand out, in no order: for the size of the body.
        """
        fitted = [(p.id, p.fit) for p in people if p.fit is not None]
        if not fitted:
            return {}
        skin = self._outline if outline else self._mesh
        vertices = self._skinned([fit for _, fit in fitted], skin)
        return {person: v for (person, _), v in zip(fitted, vertices, strict=True)}

    def _skinned(self, fits: Sequence[BodyFit], skin: _Skin) -> F32:
        """(P, V, 3) as :class:`~hamst3r.people.body.BodyModel` poses them."""
        count = len(fits)
        axes = np.stack([np.concatenate([f.global_orient, f.body_pose]) for f in fits])
        betas = np.stack([f.betas for f in fits])
        shaped = skin.template + (betas @ skin.directions).reshape(count, -1, 3)
        rest = self._joints + (betas @ self._joint_directions).reshape(count, NUM_JOINTS, 3)
        rest = rest.swapaxes(0, 1)

        # (24, P, 4, 4): each joint in its parent, then generation after generation in the world.
        T = np.zeros((NUM_JOINTS, count, 4, 4), np.float32)
        turns = Rotation.from_rotvec(axes.reshape(-1, 3)).as_matrix()
        T[..., :3, :3] = turns.reshape(count, NUM_JOINTS, 3, 3).swapaxes(0, 1)
        T[..., :3, 3] = rest
        T[1:, :, :3, 3] -= rest[_PARENTS]
        T[0, :, :3, 3] += np.stack([f.transl for f in fits])
        T[..., 3, 3] = 1
        for joints, parents in _LEVELS:
            T[joints] = T[parents] @ T[joints]

        T[..., :3, 3] -= _turned(T[..., :3, :3], rest)
        # Contiguous, each by itself: einsum is several times slower on parts of larger arrays.
        turn = T[..., :3, :3].swapaxes(0, 1).reshape(count, NUM_JOINTS, 9)
        shift = T[..., :3, 3].swapaxes(0, 1)
        blend = (skin.weights @ turn).reshape(count, -1, 3, 3)
        return _turned(blend, shaped) + skin.weights @ shift


def _turned(rotations: F32, vectors: F32) -> F32:
    return np.einsum("...ij,...j->...i", rotations, vectors)
