#!/usr/bin/env python3
"""Photos of a place by unknown cameras, beside COLMAP's incremental mapper (pip install pycolmap).

Both get the same photos without EXIF; our network sees them 224 pixels wide, our keypoints are of
640, COLMAP's of 1000. Errors are those of our cameras against COLMAP's; those in space after the
best similarity of the centres, as shares of the extent of all cameras. Seconds are of one run each,
after one another.

A public set: https://github.com/openMVG/ImageDataset_SceauxCastle
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from hamst3r.evaluation import metrics
from hamst3r.geometry import F64, invert

COLMAP_SIDE = 1000
SUFFIXES = (".jpg", ".jpeg", ".png")


def by_colmap(photos: list[Path], folder: Path) -> tuple[dict[str, F64], float]:
    """Name -> T_world_cam, and the seconds that it took."""
    import pycolmap

    images = folder / "images"
    images.mkdir()
    for path in photos:
        image = cv2.imread(str(path))
        size = np.array(image.shape[1::-1]) * COLMAP_SIDE / max(image.shape)
        small = cv2.resize(image, size.round().astype(int).tolist(), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(images / f"{path.stem}.png"), small)
    start = time.perf_counter()
    database = folder / "database.db"
    pycolmap.extract_features(database, images, camera_mode=pycolmap.CameraMode.SINGLE)
    pycolmap.match_exhaustive(database)
    models = pycolmap.incremental_mapping(database, images, folder)
    seconds = time.perf_counter() - start
    largest = max(models.values(), key=lambda model: model.num_reg_images())
    poses = {}
    for image in largest.images.values():
        T_cam_world = np.eye(4)
        T_cam_world[:3] = image.cam_from_world().matrix()
        poses[Path(image.name).stem] = invert(T_cam_world)
    return poses, seconds


def by_us(photos: list[Path], folder: Path) -> tuple[dict[str, F64], float]:
    """The same by ``hamst3r reconstruct``, which loads the network and writes the scene as well."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "hamst3r.cli", "reconstruct", *photos, "--out", folder]
    subprocess.run([*command, "--no-exif", "--quiet"], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    cameras = json.loads((folder / "scene.json").read_text())["cameras"]
    return {camera["name"]: np.array(camera["T_world_cam"]) for camera in cameras}, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of them")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    photos = sorted(p for p in options.photos.iterdir() if p.suffix.lower() in SUFFIXES)
    with tempfile.TemporaryDirectory() as folder:
        theirs, their_seconds = by_colmap(photos, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        ours, our_seconds = by_us(photos, Path(folder))
    both = sorted(ours.keys() & theirs.keys())
    poses = [np.stack([found[name] for name in both]) for found in (ours, theirs)]
    turns = metrics.pair_rotation_errors(*poses)
    ways = metrics.pair_translation_errors(*poses)
    away = metrics.centre_errors(*poses, True) / metrics.extent(poses[1])
    figures = {
        "photos": len(photos),
        "placed": len(ours),
        "placed_by_colmap": len(theirs),
        "rotation_median_deg": float(np.median(turns)),
        "rotation_worst_deg": float(turns.max()),
        "direction_median_deg": float(np.median(ways)),
        "maa30": metrics.mean_average_accuracy(np.fmax(turns, ways)),
        "centre_median_of_extent": float(np.median(away)),
        "seconds": our_seconds,
        "seconds_colmap": their_seconds,
    }
    for name, value in figures.items():
        print(f"{name:26} {value:.4g}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
