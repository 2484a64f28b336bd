"""Posed, dressed people: the fitter's own body model, so that labels and fits agree exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from hamst3r.people.body import BodyModel, anny24
from hamst3r.synthetic.clothing import BODY, Outfit, attachments, nearest_vertices

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PersonState:
    """Ground truth of one person at one time, in SMPL's conventions, world z-up.

    Attributes:
        id: > 0; the value of this person's pixels in instance maps.
        betas: (10,). rotations: (24, 3, 3) local, the root's global. transl: (3,) metres.
        joints: (24, 3) metres in world. kind: Which family the pose came from.
    """

    id: int
    betas: F64
    rotations: F64
    transl: F64
    joints: F64
    kind: str


@dataclass(frozen=True, eq=False)
class PersonMesh:
    """One person as triangles.

    Attributes:
        id: As in :class:`PersonState`. figure: What does not change from pose to pose.
        vertices, normals: (V, 3) world; the first ``len(model.v_template)`` are the body's.
    """

    id: int
    figure: Figure
    vertices: F32
    normals: F32


class Figure:
    """A dressed body that can be posed again and again.

    Attributes:
        template, canonical: (V, 3) of all vertices; worn things carry the label of the nearest
            vertex of the skin. faces: (F, 3), without skin that garments hide. part: (F,) BODY,
            SKIRT, HAIR, HAT, BAG, SUIT or SHOES.
        rest_joints: (24, 3) joints of this shape at rest, metres.
    """

    def __init__(self, outfit: Outfit, betas: F64, model: BodyModel | None = None) -> None:
        model = model or anny24()
        self.model, self.outfit = model, outfit
        self.betas = np.asarray(betas, np.float64)
        template, dirs = [model.v_template.numpy()], [model.shapedirs.numpy()]
        weights, canonical = [model.weights.numpy()], [model.canonical.numpy()]
        hidden = np.zeros(len(model.v_template), bool)
        for garment in outfit.worn:
            hidden[garment.hidden] = True
        skin_faces = model.faces.numpy()
        faces = [skin_faces[~hidden[skin_faces].all(1)]]
        part = [np.full(len(faces[0]), BODY)]
        count = len(template[0])
        for kind, v, f, w in attachments(model, outfit):
            near = nearest_vertices(model, v)
            template.append(v)
            dirs.append(dirs[0][near])
            canonical.append(canonical[0][near])
            weights.append(w)
            faces.append(f + count)
            part.append(np.full(len(f), kind))
            count += len(v)
        self.template = np.concatenate(template).astype(np.float32)
        self.canonical = np.concatenate(canonical).astype(np.float32)
        self.faces = np.concatenate(faces).astype(np.int32)
        self.part = np.concatenate(part).astype(np.int32)
        shape = self.betas[: dirs[0].shape[2]].astype(np.float32)
        self._shaped = self.template + np.concatenate(dirs).astype(np.float32) @ shape
        blend = np.concatenate(weights).astype(np.float32)
        # The stored half-precision weights sum to one within 1e-4 only.
        self._weights = blend / blend.sum(1, keepdims=True)
        skin = _vertex_normals(self._shaped, self.faces)
        puff = np.zeros(count, np.float32)
        body = len(model.v_template)
        puff[:body] = outfit.offsets(self.template[:body])
        self._shaped = self._shaped + skin * puff[:, None]
        self.rest_joints = model.rest_joints(self._betas())[0].numpy().astype(np.float64)

    def _betas(self) -> torch.Tensor:
        return torch.from_numpy(self.betas.astype(np.float32))[None]

    def pose(
        self, rotations: F64, transl: F64, id: int, kind: str
    ) -> tuple[PersonState, PersonMesh]:
        """State and mesh for local rotations (24, 3, 3) (root global) and transl (3,) metres."""
        with torch.no_grad():
            turn, place = self.model.skeleton(
                torch.from_numpy(rotations.astype(np.float32))[None],
                torch.from_numpy(np.asarray(transl, np.float32))[None],
                self._betas(),
            )
        turns, joints = turn[0].numpy(), place[0].numpy()
        offset = joints - np.einsum("jab,jb->ja", turns, self.rest_joints.astype(np.float32))
        blend = self._weights @ np.concatenate([turns.reshape(24, 9), offset], 1)
        vertices = np.einsum("vab,vb->va", blend[:, :9].reshape(-1, 3, 3), self._shaped)
        vertices = np.ascontiguousarray(vertices + blend[:, 9:], np.float32)
        state = PersonState(
            id, self.betas, rotations, np.asarray(transl, float), joints.astype(np.float64), kind
        )
        return state, PersonMesh(id, self, vertices, _vertex_normals(vertices, self.faces))

    def stand_on_floor(
        self, rotations: F64, xy: F64, id: int, kind: str
    ) -> tuple[PersonState, PersonMesh]:
        """As :meth:`pose`, with the pelvis above ``xy`` (2,) and the lowest vertex at z = 0."""
        transl = np.array([xy[0] - self.rest_joints[0, 0], xy[1] - self.rest_joints[0, 1], 0.0])
        state, mesh = self.pose(rotations, transl, id, kind)
        lift = np.array([0.0, 0.0, -float(mesh.vertices[:, 2].min())])
        state = PersonState(
            id, state.betas, rotations, transl + lift, state.joints + lift, state.kind
        )
        raised = mesh.vertices + lift.astype(np.float32)
        return state, PersonMesh(id, self, raised, mesh.normals)


def _vertex_normals(vertices: F32, faces: NDArray[np.int32]) -> F32:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normals = _incidence(faces.tobytes(), len(vertices)) @ np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return (normals / np.maximum(length, 1e-12)).astype(np.float32)


@lru_cache(maxsize=8)
def _incidence(faces: bytes, count: int) -> sparse.csr_matrix:
    index = np.frombuffer(faces, np.int32)
    face = np.repeat(np.arange(len(index) // 3), 3)
    ones = np.ones(len(index), np.float32)
    return sparse.csr_matrix((ones, (index, face)), (count, len(index) // 3))


def sample_betas(rng: np.random.Generator) -> F64:
    """Shape (10,): three adults of 1.5 to 1.95 m to one child from about three years.

    The first component is stature: 1.61 m at 0, 22 cm more for every 1 of it.
    """
    betas = np.clip(rng.normal(size=10), -2.5, 2.5)
    tall = rng.uniform(1.06, 1.55) if rng.random() < 0.25 else rng.normal(1.7, 0.1)
    betas[0] = np.clip((tall - 1.61) / 0.22, -2.5, 1.7)
    return betas
