"""EMDB (Kaufmann et al., ICCV 2023), part 2: people walking far before a moving camera.

Layout: ``P<n>/<sequence>/P<n>_<sequence>_data.pkl`` beside ``images/NNNNN.jpg``. Joints come from
SMPL parameters and take ``--body``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hamst3r.evaluation.datasets.base import (
    Clip,
    DatasetError,
    ImageFile,
    ReadOptions,
    Shot,
    as_pose,
    evenly,
    existing,
    matrix3,
)
from hamst3r.evaluation.datasets.pickles import load_pickle
from hamst3r.evaluation.datasets.skeleton import load_skeleton

LAYOUT = "P<n>/<sequence>/*_data.pkl and images/NNNNN.jpg"
RATE = 30.0


def read(root: Path, options: ReadOptions) -> list[Clip]:
    """Whole sequences. ``options.split``: "2" (default; global motion) or "1"."""
    split = options.split or "2"
    if split not in ("1", "2"):
        raise DatasetError(f"EMDB has no split '{split}'; expected 1 or 2")
    clips = []
    for file in sorted(root.glob("*/*/*_data.pkl")):
        data = load_pickle(file)
        if not isinstance(data, dict) or not {"emdb1", "emdb2"} <= data.keys():
            raise DatasetError(f"{file}: expected a sequence of EMDB")
        if data[f"emdb{split}"]:
            clips.append(_clip(file, data, options))
    return evenly(existing(clips, root, LAYOUT), options.limit)


def _clip(file: Path, data: dict[str, Any], options: ReadOptions) -> Clip:
    try:
        camera, smpl = data["camera"], data["smpl"]
        count, good = int(data["n_frames"]), np.asarray(data["good_frames_mask"], bool)
        K = matrix3(camera["intrinsics"], f"{file}: camera")
        poses = [as_pose(T, f"{file}: frame {i}") for i, T in enumerate(camera["extrinsics"])]
        skeleton = load_skeleton(options.body, str(data.get("gender", "neutral")), "EMDB")
        joints = skeleton.joints(
            smpl["betas"], smpl["poses_root"], smpl["poses_body"], smpl["trans"]
        )
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{file}: expected a sequence of EMDB, {error} is missing") from error
    if not count == len(good) == len(poses) == len(joints):
        raise DatasetError(
            f"{file}: {count} frames, {len(poses)} poses and {len(joints)} bodies do not agree"
        )
    joints[~good] = np.nan
    shots = [
        Shot(f"{i:05d}", ImageFile(file.parent / "images" / f"{i:05d}.jpg"), K, pose)
        for i, pose in enumerate(poses)
    ]
    name = str(data.get("name", file.parent.name))
    return Clip(name, name, tuple(shots), joints, RATE)
