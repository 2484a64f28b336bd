"""Depth of one image among several: KITTI, ScanNet, ETH3D, DTU, Tanks and Temples.

The protocol is the robust multi-view depth benchmark's (Schroeppel et al., 3DV 2022), as DUSt3R,
MASt3R and HAMSt3R use it: no pose and no focal length is given, and depth is scaled by medians.
With the benchmark's own list (``<set>.robustmvd.mvd.pickle``; ``--list``) key images and the
others are exactly its. Without it they are chosen by the rules below, which the report states.
Layouts are the benchmark's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    around,
    evenly,
    existing,
)
from hamst3r.evaluation.datasets.depth_maps import NpzDepth, PfmDepth, PngDepth, RawDepth
from hamst3r.evaluation.datasets.pickles import load_pickle

Depth = Callable[[], NDArray[np.float32]]


@dataclass(frozen=True)
class DepthSet:
    """How one of the sets is laid out.

    Attributes:
        title, layout: For readers. views: Images with the key image among them.
        per_scene: Key images of a scene, without a list. step: Between neighbouring images, 1 or 3.
        scenes: Root -> (name, images in order, depth by the image's index).
        depth: Path of a depth map, path of its image -> reads it.
    """

    title: str
    layout: str
    views: int
    per_scene: int
    step: int
    scenes: Callable[[Path], Iterator[tuple[str, list[Path], dict[int, Path]]]]
    depth: Callable[[Path, Path], Depth]

    def read(self, root: Path, options: ReadOptions) -> list[Case]:
        """The key image first in every case.

        Raises:
            DatasetError: The folder or the list cannot be used.
        """
        if options.split:
            raise DatasetError(f"{self.title} has no splits here; leave --split out")
        count = options.views or self.views
        if options.list_file is not None:
            cases = [self._listed(root, sample, count) for sample in _samples(options.list_file)]
        else:
            cases = [
                self._case(f"{name}/{images[key].stem}", name, images, key, depths[key], count)
                for name, images, depths in self.scenes(root)
                for key in evenly(sorted(depths), self.per_scene)
            ]
        return evenly(existing(cases, root, self.layout), options.limit)

    def _case(
        self, name: str, scene: str, images: list[Path], key: int, depth: Path, count: int
    ) -> Case:
        thinned = images[key % self.step :: self.step]
        chosen = around(thinned, key // self.step, count)
        shots = [Shot(path.stem, ImageFile(path)) for path in chosen[1:]]
        first = Shot(chosen[0].stem, ImageFile(chosen[0]), depth=self.depth(depth, chosen[0]))
        return Case(name, scene, (first, *shots))

    def _listed(self, root: Path, sample: Any, count: int) -> Case:
        try:
            base = root / getattr(sample, "base", "")
            paths = [base / image.path for image in sample.data["images"]]
            key, depth = int(sample.data["keyview_idx"]), base / sample.data["depth"].path
            name = str(sample.name)
            first = paths[key]
        except (AttributeError, KeyError, TypeError, IndexError) as error:
            raise DatasetError(
                f"{self.title}: expected a list of robustmvd's samples: {error}"
            ) from error
        # Lists are in the order of time (around the key) or of overlap (after the key).
        others = [path for path in around(paths, key, len(paths))[1:] if path != first]
        others = list(dict.fromkeys(others))[: count - 1]
        shots = [Shot(path.stem, ImageFile(path)) for path in others]
        return Case(
            name,
            name.split("/")[0],
            (Shot(first.stem, ImageFile(first), depth=self.depth(depth, first)), *shots),
        )


def _samples(path: Path) -> list[Any]:
    samples = load_pickle(path, records=("rmvd",))
    if not isinstance(samples, list):
        raise DatasetError(f"{path}: expected a list of samples, got {type(samples).__name__}")
    return samples


def _by_number(folder: Path, *suffixes: str) -> list[Path]:
    """Files named by numbers, in their order."""
    files = [p for p in folder.glob("*") if p.suffix.lower() in suffixes and p.stem.isdigit()]
    return sorted(files, key=lambda path: int(path.stem))


def _scene_folders(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*") if path.is_dir())


def _with_depth(
    images: list[Path], depth_of: Callable[[Path], Path]
) -> tuple[list[Path], dict[int, Path]]:
    depths = {index: depth_of(image) for index, image in enumerate(images)}
    return images, {index: path for index, path in depths.items() if path.is_file()}


def _scannet(root: Path) -> Iterator[tuple[str, list[Path], dict[int, Path]]]:
    for scene in _scene_folders(root):
        images = _by_number(scene / "color", ".jpg")
        yield (
            scene.name,
            *_with_depth(images, lambda image: image.parents[1] / "depth" / f"{image.stem}.png"),
        )


def _eth3d(root: Path) -> Iterator[tuple[str, list[Path], dict[int, Path]]]:
    for scene in _scene_folders(root):
        images = sorted((scene / "images" / "dslr_images").glob("*.JPG"))
        yield (
            scene.name,
            *_with_depth(
                images,
                lambda image: image.parents[2] / "ground_truth_depth" / "dslr_images" / image.name,
            ),
        )


def _dtu(root: Path) -> Iterator[tuple[str, list[Path], dict[int, Path]]]:
    for scene in _scene_folders(root):
        images = _by_number(scene / "images", ".png", ".jpg")
        yield (
            scene.name,
            *_with_depth(
                images, lambda image: image.parents[1] / "gt_depths" / f"{image.stem}.pfm"
            ),
        )


def _tanks(root: Path) -> Iterator[tuple[str, list[Path], dict[int, Path]]]:
    for scene in _scene_folders(root):
        images = _by_number(scene / "images", ".jpg")
        # Depth maps are numbered from 1, images from 0.
        yield (
            scene.name,
            *_with_depth(
                images,
                lambda image: image.parents[1] / "depth" / f"{int(image.stem) + 1:06d}.npz",
            ),
        )


def _kitti(root: Path) -> Iterator[tuple[str, list[Path], dict[int, Path]]]:
    maps = root / "depth_completion_prediction"
    for truth in sorted(maps.glob("*/*_sync/proj_depth/groundtruth/image_02")):
        drive = truth.parents[2].name
        folder = root / "raw_data" / drive[:10] / drive / "image_02" / "data"
        images = _by_number(folder, ".png")
        by_stem = {path.stem: path for path in truth.glob("*.png")}
        depths = {i: by_stem[p.stem] for i, p in enumerate(images) if p.stem in by_stem}
        yield drive, images, depths


SCANNET = DepthSet(
    "ScanNet",
    "<scene>/color/N.jpg and <scene>/depth/N.png",
    views=8,
    per_scene=3,
    step=3,
    scenes=_scannet,
    depth=lambda path, image: PngDepth(path, 1000.0),
)
ETH3D = DepthSet(
    "ETH3D",
    "<scene>/images/dslr_images/*.JPG and <scene>/ground_truth_depth/dslr_images/*.JPG",
    views=11,
    per_scene=8,
    step=1,
    scenes=_eth3d,
    depth=RawDepth,
)
DTU = DepthSet(
    "DTU",
    "<scan>/images/NNNNNNNN.png and <scan>/gt_depths/NNNNNNNN.pfm",
    views=11,
    per_scene=5,
    step=1,
    scenes=_dtu,
    depth=lambda path, image: PfmDepth(path),
)
KITTI = DepthSet(
    "KITTI",
    "raw_data/<date>/<drive>/image_02/data and depth_completion_prediction/<part>/<drive>/"
    "proj_depth/groundtruth/image_02",
    views=21,
    per_scene=1,
    step=1,
    scenes=_kitti,
    depth=lambda path, image: PngDepth(path, 256.0),
)
TANKS = DepthSet(
    "Tanks and Temples",
    "<scene>/images/NNNNNNNN.jpg and <scene>/depth/NNNNNN.npz",
    views=11,
    per_scene=17,
    step=1,
    scenes=_tanks,
    depth=lambda path, image: NpzDepth(path),
)
