"""Ego-Exo4D (Grauman et al., CVPR 2024): one skilled person before four or five static cameras.

Layout, as its command line tool downloads it: ``takes.json``, ``takes/<take>/frame_aligned_videos/
[downscaled/448/]camNN.mp4``, ``annotations/ego_pose/<split>/body/annotation/<take uid>.json`` and
``annotations/ego_pose/<split>/camera_pose/<take uid>.json``. Intrinsics are of 3840x2160 pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.evaluation.datasets.base import (
    Case,
    DatasetError,
    Lens,
    ReadOptions,
    Shot,
    VideoFrame,
    as_pose,
    evenly,
    existing,
    matrix3,
    read_json,
)
from hamst3r.people.joint_sets import JOINT_SETS

LAYOUT = "takes.json, takes/<take>/frame_aligned_videos, annotations/ego_pose/<split>"
_WIDTH = 3840  # of the images that the intrinsics are of
_PER_TAKE = 5  # moments
_NAMES = JOINT_SETS["coco17"]


def read(root: Path, options: ReadOptions) -> list[Case]:
    """Moments with four cameras, evenly spread over the annotated ones of every take.

    ``options.split``: "val" (default), "train" or "test".
    """
    split = root / "annotations" / "ego_pose" / (options.split or "val")
    takes = read_json(root / "takes.json")
    if not isinstance(takes, list) or not all(isinstance(take, dict) for take in takes):
        raise DatasetError(f"{root / 'takes.json'}: expected a list of takes")
    cases: list[Case] = []
    for take in takes:
        annotation = split / "body" / "annotation" / f"{take.get('take_uid')}.json"
        cameras = split / "camera_pose" / annotation.name
        folder = root / str(take.get("root_dir") or f"takes/{take.get('take_name')}")
        videos = _videos(folder / "frame_aligned_videos")
        if annotation.is_file() and cameras.is_file() and videos:
            name = str(take.get("take_name") or folder.name)
            cases += _take(name, annotation, cameras, videos, options)
    return evenly(existing(cases, root, LAYOUT), options.limit)


def _videos(folder: Path) -> dict[str, Path]:
    """Camera -> video; full size where it is there."""
    found: dict[str, Path] = {}
    for place in (folder / "downscaled" / "448", folder):
        found |= {path.stem: path for path in sorted(place.glob("cam*.mp4"))}
    return found


def _take(
    name: str, annotation: Path, camera_file: Path, videos: dict[str, Path], options: ReadOptions
) -> list[Case]:
    entries = read_json(camera_file)
    known = [c for c in sorted(videos) if isinstance(entries.get(c), dict)]
    chosen = evenly(known, options.views or 4)
    if len(chosen) < 2:
        raise DatasetError(f"{camera_file}: expected two of the cameras {sorted(videos)}")
    cameras = {c: _camera(entries[c], videos[c], f"{camera_file}: {c}") for c in chosen}
    moments = read_json(annotation)
    cases = []
    for frame in evenly(sorted(moments, key=int), _PER_TAKE):
        people = {
            str(index): _joints(person, f"{annotation}: frame {frame}")
            for index, person in enumerate(moments[frame])
        }
        people = {who: joints for who, joints in people.items() if np.isfinite(joints).any()}
        shots = [
            Shot(c, VideoFrame(videos[c], int(frame), lens), lens.K, pose)
            for c, (lens, pose) in cameras.items()
        ]
        if people:
            cases.append(Case(f"{name}/{frame}", name, tuple(shots), people, "coco17"))
    return cases


def _camera(entry: dict[str, Any], video: Path, where: str) -> tuple[Lens, NDArray[np.float64]]:
    K = matrix3(entry.get("camera_intrinsics"), where)
    capture = cv2.VideoCapture(str(video))
    width = capture.get(cv2.CAP_PROP_FRAME_WIDTH)
    capture.release()
    if width <= 0:
        raise DatasetError(f"{video}: cannot be read as a video; is it complete?")
    factor = width / _WIDTH
    shift = np.array([[factor, 0, 0.5 * factor - 0.5], [0, factor, 0.5 * factor - 0.5], [0, 0, 1]])
    distortion = np.asarray(entry.get("distortion_coeffs", np.zeros(4)), float).ravel()
    if distortion.size < 4:
        raise DatasetError(f"{where}: expected four distortion coefficients (fisheye)")
    return Lens(shift @ K, distortion[:4], True), as_pose(entry.get("camera_extrinsics"), where)


def _joints(person: Any, where: str) -> NDArray[np.float64]:
    joints = np.full((len(_NAMES), 3), np.nan)
    if not isinstance(person, dict) or not isinstance(person.get("annotation3D"), dict):
        raise DatasetError(f"{where}: expected annotation3D with joints by name")
    for name, place in person["annotation3D"].items():
        name = name.replace("-", "_")
        if name in _NAMES:
            joints[_NAMES.index(name)] = [place["x"], place["y"], place["z"]]
    return joints
