"""SLOPER4D (Dai et al., CVPR 2023): one person in a city, followed by a walking camera.

Layout: ``<sequence>/*_labels.pkl`` and, anywhere below ``<sequence>/rgb_data``, the images that its
own tool cuts from the video. Joints come from SMPL parameters and take ``--body``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hamst3r.evaluation.datasets.base import (
    Clip,
    DatasetError,
    ImageFile,
    Lens,
    ReadOptions,
    Shot,
    as_pose,
    evenly,
    existing,
)
from hamst3r.evaluation.datasets.pickles import load_pickle
from hamst3r.evaluation.datasets.skeleton import load_skeleton

LAYOUT = "<sequence>/*_labels.pkl and <sequence>/rgb_data with images"


def read(root: Path, options: ReadOptions) -> list[Clip]:
    """Whole sequences."""
    if options.split:
        raise DatasetError("SLOPER4D has no splits; leave --split out")
    clips = [_clip(file, options) for file in sorted(root.glob("*/*_labels.pkl"))]
    return evenly(existing(clips, root, LAYOUT), options.limit)


def _clip(file: Path, options: ReadOptions) -> Clip:
    data = load_pickle(file)
    try:
        camera, frames, person = data["RGB_info"], data["RGB_frames"], data["second_person"]
        lens = _lens(camera, str(file))
        names = [str(name) for name in frames["file_basename"]]
        poses = frames["cam_pose"]
        pose = np.asarray(person["opt_pose"], float)
        skeleton = load_skeleton(options.body, str(person.get("gender", "neutral")), "SLOPER4D")
        joints = skeleton.joints(
            np.ravel(person["beta"])[:10], pose[:, :3], pose[:, 3:], person["opt_trans"]
        )
    except (KeyError, TypeError, IndexError) as error:
        raise DatasetError(f"{file}: expected labels of SLOPER4D, missing: {error}") from error
    images = _images(file.parent / "rgb_data")
    # Frames that no image was synchronised with have an empty name.
    used = [i for i, name in enumerate(names[: len(joints)]) if name in images]
    if len(used) < 2:
        raise DatasetError(f"{file.parent / 'rgb_data'}: expected images such as {names[:1]}")
    shots = [
        Shot(names[i], ImageFile(images[names[i]], lens), lens.K, as_pose(poses[i], f"{file}: {i}"))
        for i in used
    ]
    rate = float(data.get("framerate", 20))
    return Clip(file.parent.name, file.parent.name, tuple(shots), joints[used], rate)


def _images(folder: Path) -> dict[str, Path]:
    files = (path for path in sorted(folder.rglob("*")) if path.suffix in (".jpg", ".png"))
    return {path.name: path for path in files}


def _lens(camera: dict[str, Any], where: str) -> Lens:
    values = np.asarray(camera["intrinsics"], float).ravel()
    if values.size != 4 or not (values[:2] > 0).all():
        raise DatasetError(f"{where}: expected intrinsics fx, fy, cx, cy, got {values}")
    fx, fy, cx, cy = values
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    return Lens(K, np.asarray(camera.get("dist", np.zeros(5)), float).ravel())
