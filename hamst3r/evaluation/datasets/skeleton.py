"""Joints of SMPL, SMPL-H and SMPL-X parameters, by means of the user's own model file.

Joints need no skinning: a regressor gives them at rest, the tree and the rotations carry them on.
The first 22 joints of the family are the same; hands come after. The file is the user's, under its
own licence; none is shipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from hamst3r.evaluation.datasets.base import DatasetError
from hamst3r.people.body import JOINT_NAMES, BodyModelError
from hamst3r.people.body_files import read_arrays

F64 = NDArray[np.float64]

_BODY = 22  # joints that SMPL, SMPL-H and SMPL-X share, in SMPL's order
_GENDERS = ("neutral", "female", "male")


@dataclass(frozen=True, eq=False)
class Skeleton:
    """What is needed of a body model.

    Attributes:
        template: (J, 3) joints of the mean shape, metres. shape: (J, 3, B) their change per unit
            of each shape coefficient. parents: (J,) -1 for the root.
    """

    template: F64
    shape: F64
    parents: NDArray[np.int64]

    def joints(
        self, betas: ArrayLike, orient: ArrayLike, pose: ArrayLike, transl: ArrayLike
    ) -> F64:
        """(T, 24, 3) metres in the frame of the parameters; hands of SMPL-H and -X are NaN.

        Args:
            betas: (B',) or (T, B'). orient: (T, 3) axis-angle. pose: (T, 3 n) axis-angles of
                joints 1 to n. transl: (T, 3) metres, added after posing.
        """
        orient = np.asarray(orient, float).reshape(-1, 3)
        count = len(orient)
        pose = np.asarray(pose, float).reshape(count, -1, 3)
        given = 1 + pose.shape[1]
        known = min(given, len(JOINT_NAMES) if len(self.parents) == len(JOINT_NAMES) else _BODY)
        betas = np.broadcast_to(
            np.atleast_2d(np.asarray(betas, float)), (count, np.shape(betas)[-1])
        )
        used = min(betas.shape[1], self.shape.shape[2])
        rest = self.template + np.einsum("jkb,tb->tjk", self.shape[..., :used], betas[:, :used])
        local = np.concatenate([orient[:, None], pose], 1)[:, :known]
        turns = Rotation.from_rotvec(local.reshape(-1, 3)).as_matrix().reshape(count, known, 3, 3)
        result = np.full((count, len(JOINT_NAMES), 3), np.nan)
        whole = np.empty_like(turns)
        whole[:, 0] = turns[:, 0]
        result[:, 0] = rest[:, 0] + np.asarray(transl, float).reshape(-1, 3)
        for joint in range(1, known):
            parent = self.parents[joint]
            whole[:, joint] = whole[:, parent] @ turns[:, joint]
            offset = rest[:, joint] - rest[:, parent]
            result[:, joint] = result[:, parent] + np.einsum("tij,tj->ti", whole[:, parent], offset)
        return result


def load_skeleton(body: Path | None, gender: str, needed_for: str) -> Skeleton:
    """The skeleton of the user's model of a gender (else of the neutral one).

    Args:
        body: An ``.npz`` or ``.pkl`` in SMPL's layout, or a folder with files that have the
            gender in their name (``SMPL_MALE.pkl``, ``SMPLX_NEUTRAL.npz``).
        needed_for: Data set, for the message.

    Raises:
        DatasetError: No such file, or not a body model.
    """
    if body is None:
        raise DatasetError(
            f"{needed_for} gives body parameters, not joints: name your own SMPL (or SMPL-X) "
            "model with --body FILE or FOLDER; see docs/evaluation.md"
        )
    return _load(_choose(body, gender.lower()))


def _choose(body: Path, gender: str) -> Path:
    if body.is_file():
        return body
    files = [p for p in sorted(body.glob("*")) if p.suffix in (".npz", ".pkl")]
    for wanted in (gender, "neutral"):
        for path in files:
            # "female" holds "male".
            words = {g for g in _GENDERS if g in path.stem.lower()} - (
                {"male"} if "female" in path.stem.lower() else set()
            )
            if wanted in words:
                return path
    raise DatasetError(f"{body}: expected a model file (.npz, .pkl) with '{gender}' in its name")


@lru_cache(maxsize=8)
def _load(path: Path) -> Skeleton:
    try:
        arrays, _ = read_arrays(path, _KEYS)
    except BodyModelError as error:
        raise DatasetError(str(error)) from error
    template, shapes, regressor, tree = (arrays[key] for key in _KEYS)
    if regressor.shape[1] != len(template) or shapes.shape[:2] != template.shape:
        raise DatasetError(
            f"{path}: v_template {template.shape}, shapedirs {shapes.shape} and J_regressor "
            f"{regressor.shape} do not belong together"
        )
    parents = tree[0].astype(np.int64)
    parents[0] = -1  # files have 2^32 - 1
    return Skeleton(regressor @ template, np.einsum("jv,vkb->jkb", regressor, shapes), parents)


_KEYS = ("v_template", "shapedirs", "J_regressor", "kintree_table")
