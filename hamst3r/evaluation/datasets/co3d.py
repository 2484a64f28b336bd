"""CO3Dv2 (Reizenstein et al., ICCV 2021): an object filmed from around.

Layout: ``<category>/frame_annotations.jgz``, ``<category>/set_lists/set_lists_<split>.json``, and
images where the annotations say. Ten images of a sequence, drawn at random, as in PoseDiffusion
(Wang et al., ICCV 2023), DUSt3R and MASt3R; figures are means over categories.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamst3r.evaluation.datasets.base import (
    Case,
    DatasetError,
    ImageFile,
    ReadOptions,
    Shot,
    evenly,
    existing,
    folders,
    read_json,
)

LAYOUT = "<category>/frame_annotations.jgz and <category>/set_lists/set_lists_<split>.json"
_FLIP = np.diag([-1.0, -1.0, 1.0])  # PyTorch3D's axes are x left, y up


def read(root: Path, options: ReadOptions) -> list[Case]:
    """Sequences of the test part of a list. ``options.split``: "fewview_dev" (default) or others.

    Only sequences with as many images as are asked for.
    """
    rng = np.random.default_rng(options.seed)
    cases: list[Case] = []
    for category in folders(root, "categories"):
        annotations = category / "frame_annotations.jgz"
        if not annotations.is_file():
            continue
        wanted = _test_sequences(category, options.split or "fewview_dev")
        by_sequence: dict[str, list[dict[str, Any]]] = {}
        for entry in _read(annotations):
            if entry.get("sequence_name") in wanted:
                by_sequence.setdefault(entry["sequence_name"], []).append(entry)
        count = options.views or 10
        for name, entries in sorted(by_sequence.items()):
            if len(entries) >= count:
                picked = np.sort(rng.choice(len(entries), count, replace=False))
                shots = tuple(_shot(root, entries[i], annotations) for i in picked)
                cases.append(Case(f"{category.name}/{name}", category.name, shots))
    return evenly(existing(cases, root, LAYOUT), options.limit)


def _test_sequences(category: Path, split: str) -> set[str]:
    file = category / "set_lists" / f"set_lists_{split}.json"
    lists = read_json(file)
    if not isinstance(lists, dict) or "test" not in lists:
        raise DatasetError(f"{file}: expected a list 'test' of [sequence, frame, path]")
    return {str(entry[0]) for entry in lists["test"]}


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            entries = json.load(file)
    except (OSError, EOFError, ValueError) as error:
        raise DatasetError(f"{path}: expected gzipped JSON: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise DatasetError(f"{path}: expected a list of frames")
    return entries


def _shot(root: Path, entry: dict[str, Any], where: Path) -> Shot:
    try:
        path, (height, width) = entry["image"]["path"], entry["image"]["size"]
        viewpoint = entry["viewpoint"]
        R, t = np.asarray(viewpoint["R"], float), np.asarray(viewpoint["T"], float)
        focal, centre = (
            np.asarray(viewpoint[key], float) for key in ("focal_length", "principal_point")
        )
        isotropic = viewpoint.get("intrinsics_format") == "ndc_isotropic"
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{where}: expected frames with image and viewpoint: {error}") from error
    T = np.eye(4)
    # x_cam = x_world R + T in PyTorch3D; so R there is the turn from camera to world here.
    T[:3, :3] = R @ _FLIP
    T[:3, 3] = -R @ t
    K = _pixels(focal, centre, float(width), float(height), isotropic)
    return Shot(Path(path).stem, ImageFile(root / path), K, T)


def _pixels(
    focal: NDArray, centre: NDArray, width: float, height: float, isotropic: bool
) -> NDArray[np.float64]:
    """K of normalised device coordinates, which run from 1 to -1, left to right and top down."""
    half = np.array([width, height]) / 2
    scale = np.full(2, half.min()) if isotropic else half
    fx, fy = focal * scale
    cx, cy = half - centre * scale - 0.5
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
