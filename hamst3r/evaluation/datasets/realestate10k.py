"""RealEstate10K (Zhou et al., SIGGRAPH 2018): flights through houses, with poses up to scale.

Layout: ``<split>/<clip>.txt`` as published, and the frames, which everybody cuts from the videos,
as ``frames/<split>/<clip>/<time stamp>.{png,jpg}``. Ten images of a clip, drawn at random, as in
PoseDiffusion (Wang et al., ICCV 2023), DUSt3R and MASt3R.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hamst3r.evaluation.datasets.base import (
    Case,
    DatasetError,
    ImageFile,
    ReadOptions,
    Shot,
    as_pose,
    evenly,
    existing,
)

LAYOUT = "<split>/<clip>.txt and frames/<split>/<clip>/<time stamp>.png"
_COLUMNS = 19


def read(root: Path, options: ReadOptions) -> list[Case]:
    """Clips of which frames are there. ``options.split``: "test" (default) or "train"."""
    split = options.split or "test"
    rng = np.random.default_rng(options.seed)
    count = options.views or 10
    cases = []
    for file in sorted((root / split).glob("*.txt")):
        frames = root / "frames" / split / file.stem
        images = {p.stem: p for p in sorted(frames.glob("*")) if p.suffix in (".png", ".jpg")}
        rows = [row for row in _rows(file) if row[0] in images]
        if len(rows) >= count:
            picked = np.sort(rng.choice(len(rows), count, replace=False))
            shots = tuple(_shot(images[rows[i][0]], rows[i], file) for i in picked)
            cases.append(Case(file.stem, split, shots))
    return evenly(existing(cases, root, LAYOUT), options.limit)


def _rows(file: Path) -> list[list[str]]:
    lines = file.read_text(encoding="utf-8").splitlines()[1:]  # the first one is the video's URL
    rows = [line.split() for line in lines if line.strip()]
    if any(len(row) != _COLUMNS for row in rows):
        raise DatasetError(f"{file}: expected {_COLUMNS} columns after the first line")
    return rows


def _shot(image: Path, row: list[str], file: Path) -> Shot:
    try:
        extrinsics = np.reshape([float(value) for value in row[7:]], (3, 4))
    except ValueError as error:
        raise DatasetError(f"{file}: expected numbers: {error}") from error
    return Shot(row[0], ImageFile(image), None, as_pose(extrinsics, f"{file}: {row[0]}"))
