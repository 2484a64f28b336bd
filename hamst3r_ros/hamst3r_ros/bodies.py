"""Posed bodies of people, coarse enough to be sent and drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from roma import rotvec_to_rotmat

from hamst3r.people.body import BodyModel
from hamst3r.scene import Person

F32 = NDArray[np.float32]
CELL = 0.035  # metres; vertices of one cube of the template become one


class CoarseBody:
    """A body model thinned to about a tenth of its vertices.

    Args:
        body: Model whose parameters will be posed.

    Attributes:
        faces: (F, 3) int64 into the vertices of :meth:`pose`.
    """

    def __init__(self, body: BodyModel) -> None:
        self._body = body
        # Limbs that touch at rest must not grow together: parts are thinned one by one.
        cubes = np.floor(body.v_template.numpy() / CELL).astype(np.int64)
        keys = np.column_stack([cubes, body.part.numpy()])
        _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        self._vertices = torch.from_numpy(first)
        faces = group.reshape(-1)[body.faces.numpy()]
        whole = (
            (faces[:, 0] != faces[:, 1])
            & (faces[:, 1] != faces[:, 2])
            & (faces[:, 2] != faces[:, 0])
        )
        self.faces: NDArray[np.int64] = np.unique(faces[whole], axis=0)

    def pose(self, people: Sequence[Person]) -> dict[int, F32]:
        """Person id -> (V, 3) vertices in world, metres; people without a fit are left out."""
        fitted = [(p.id, p.fit) for p in people if p.fit is not None]
        if not fitted:
            return {}
        turns = np.stack([np.r_[f.global_orient, f.body_pose].reshape(-1, 3) for _, f in fitted])
        with torch.inference_mode():
            vertices, _ = self._body(
                rotvec_to_rotmat(torch.from_numpy(turns.astype(np.float32))),
                torch.from_numpy(np.stack([f.transl for _, f in fitted]).astype(np.float32)),
                torch.from_numpy(np.stack([f.betas for _, f in fitted]).astype(np.float32)),
                self._vertices,
            )
        return {person: v for (person, _), v in zip(fitted, vertices.numpy(), strict=True)}
