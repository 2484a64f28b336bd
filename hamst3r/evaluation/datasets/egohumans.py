"""EgoHumans (Khirodkar et al., ICCV 2023): people at sport and play before static cameras.

Layout: ``<big sequence>/<sequence>/exo/camNN/images/NNNNN.jpg``, ``colmap/workplace/cameras.txt``,
``images.txt`` and ``colmap_from_aria_transforms.pkl``, ``processed_data/fit_poses3d`` (else
``refine_poses3d``, ``poses3d``) ``/NNNNN.npy``. The world is that of the first pair of glasses.
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
    evenly,
    existing,
    folders,
    from_coco,
)
from hamst3r.evaluation.datasets.colmap import ColmapCamera, ColmapImage, read_colmap
from hamst3r.evaluation.datasets.pickles import load_npy, load_pickle
from hamst3r.geometry import invert, split_similarity

TEST = ("01_tagging", "02_legoassemble", "03_fencing")  # small scenes; the benchmark's test set
LARGE = ("04_basketball", "05_volleyball", "06_badminton", "07_tennis")
_POSES = ("fit_poses3d", "refine_poses3d", "poses3d")
LAYOUT = "<big sequence>/<sequence>/exo/camNN/images/NNNNN.jpg, colmap/workplace, processed_data"


def read(root: Path, options: ReadOptions) -> list[Case]:
    """Moments with four cameras, evenly spread over every sequence.

    ``options.split``: "all" (default), "small" or "large" scenes.
    """
    split = options.split or "all"
    wanted = {"all": TEST + LARGE, "small": TEST, "large": LARGE}.get(split)
    if wanted is None:
        raise DatasetError(f"EgoHumans has no split '{split}'; expected all, small or large")
    cases: list[Case] = []
    for big in folders(root, "big sequences"):
        if big.name in wanted:
            for sequence in folders(big, "sequences"):
                cases += _sequence(sequence, f"{big.name}/{sequence.name}", options)
    return evenly(existing(cases, root, LAYOUT), options.limit)


def _sequence(folder: Path, name: str, options: ReadOptions) -> list[Case]:
    workplace = folder / "colmap" / "workplace"
    cameras, images = read_colmap(workplace)
    transforms = load_pickle(workplace / "colmap_from_aria_transforms.pkl")
    if not isinstance(transforms, dict) or not transforms:
        raise DatasetError(f"{workplace}: expected transforms by the names of the glasses")
    anchor = np.asarray(transforms.get("aria01", next(iter(transforms.values()))), float)
    seen: dict[str, list[tuple[int, ColmapImage]]] = {}
    for image in images:
        camera, _, file = image.name.partition("/")
        if camera.startswith("cam") and Path(file).stem.isdigit():
            seen.setdefault(camera, []).append((int(Path(file).stem), image))
    present = [camera for camera in sorted(seen) if (folder / "exo" / camera / "images").is_dir()]
    chosen = evenly(present, options.views or 4)
    if len(chosen) < 2:
        raise DatasetError(f"{folder}: expected two exo cameras that colmap placed, got {chosen}")
    labels = next((p for s in _POSES if (p := folder / "processed_data" / s).is_dir()), None)
    if labels is None:
        raise DatasetError(f"{folder}/processed_data: expected one of {', '.join(_POSES)}")
    cases = []
    for moment in evenly(sorted(labels.glob("*.npy")), _PER_SEQUENCE):
        people = load_npy(moment)
        if not isinstance(people, dict):
            raise DatasetError(f"{moment}: expected a dictionary of people")
        shots = [_shot(folder, c, int(moment.stem), seen[c], cameras, anchor) for c in chosen]
        cases.append(
            Case(
                f"{name}/{moment.stem}",
                name,
                tuple(shots),
                {str(p): from_coco(keypoints, f"{moment}: {p}") for p, keypoints in people.items()},
                "coco17",
            )
        )
    return cases


_PER_SEQUENCE = 10  # moments


def _shot(
    folder: Path,
    camera: str,
    time: int,
    seen: list[tuple[int, ColmapImage]],
    cameras: dict[int, ColmapCamera],
    anchor: np.ndarray,
) -> Shot:
    image = min(seen, key=lambda item: abs(item[0] - time))[1]
    lens = cameras[image.camera].lens
    # The glasses' world is metric, colmap's is not: the similarity between them gives the scale.
    T_cam_world, _ = split_similarity(image.T_cam_world @ anchor)
    scale = split_similarity(anchor)[1]
    T_cam_world[:3, 3] /= scale
    path = folder / "exo" / camera / "images" / f"{time:05d}.jpg"
    return Shot(camera, ImageFile(path, lens), lens.K, invert(T_cam_world))
