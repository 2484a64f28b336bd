"""From rendered scenes to batches of image pairs with their truth.

Scenes are rendered once into a folder (``SceneStore``) and read many times under random crops,
zooms, mirrorings and camera effects, because on a CPU a rendered image costs as much as a training
step. The store may grow while training reads it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamst3r.synthetic.generator import SceneGenerator, SyntheticScene
from hamst3r.synthetic.sensor import expose
from hamst3r.training.losses import PairTarget, ViewTarget

Size = tuple[int, int]  # width, height


@dataclass(frozen=True, eq=False)
class StoredView:
    """One rendered view as it lies on the disk; densepose is quantised to 8 bits."""

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float16]
    instances: NDArray[np.uint8]
    densepose: NDArray[np.uint8]
    body: NDArray[np.bool_]
    K: NDArray[np.float64]
    T_world_cam: NDArray[np.float64]


class SceneStore:
    """A folder of rendered scenes, one uncompressed ``.npz`` each, named by seed."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def paths(self) -> list[Path]:
        """Complete scenes, sorted by name."""
        return sorted(self.folder.glob("scene_*.npz"))

    def wait(self, count: int) -> None:
        """Until there are ``count`` scenes: somebody else is rendering."""
        while len(self.paths()) < count:
            time.sleep(0.2)

    def write(self, seed: int, scene: SyntheticScene) -> None:
        """Add a scene; a reader never sees half of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        views = scene.views
        densepose = np.stack([view.densepose for view in views])
        arrays = {
            "rgb": np.stack([view.rgb for view in views]),
            "depth": np.stack([view.depth for view in views]).astype(np.float16),
            "instances": np.stack([view.instances for view in views]).astype(np.uint8),
            "densepose": np.nan_to_num(densepose * 255).round().astype(np.uint8),
            "body": np.isfinite(densepose).all(-1),
            "K": np.stack([view.K for view in views]),
            "T_world_cam": np.stack([view.T_world_cam for view in views]),
        }
        partial = self.folder / f"partial_{seed:08d}.npz"
        np.savez(partial, **arrays)  # type: ignore[arg-type]
        partial.rename(self._path(seed))

    def has(self, seed: int) -> bool:
        """Whether a scene is there."""
        return self._path(seed).exists()

    def delete(self, seed: int) -> None:
        """Remove a scene; who reads it at this moment gets it whole."""
        self._path(seed).unlink()

    def _path(self, seed: int) -> Path:
        return self.folder / f"scene_{seed:08d}.npz"

    def read(self, path: Path) -> list[StoredView]:
        """Views of one scene."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        names = list(StoredView.__dataclass_fields__)
        return [
            StoredView(**{name: arrays[name][v] for name in names})
            for v in range(len(arrays["rgb"]))
        ]


def render_scenes(store: SceneStore, seeds: range, generator: SceneGenerator) -> Iterator[int]:
    """Render the seeds that the store lacks, a third of them portrait; yields each seed done."""
    for seed in seeds:
        if store.has(seed):
            continue
        size = (168, 224) if seed % 3 == 0 else (224, 168)
        store.write(seed, generator.sample(seed, size=size, views=4))
        yield seed


@dataclass(frozen=True)
class PairBatch:
    """Images (B, 3, H, W) in [-1, 1] of both views, and their truth on the output grid."""

    images_i: Tensor
    images_j: Tensor
    target: PairTarget


@dataclass(frozen=True, eq=False)
class _Sample:
    """One view after augmentation: image at network size, labels on the output grid."""

    image: NDArray[np.float32]
    depth: NDArray[np.float32]
    instances: NDArray[np.int64]
    densepose: NDArray[np.float32]
    body: NDArray[np.bool_]
    K: NDArray[np.float64]  # of the output grid
    T_world_cam: NDArray[np.float64]


class PairSampler:
    """Draws batches from a store; all of its randomness is the given generator's.

    Args:
        store: Scenes to draw from; looked at again every ``refresh`` batches.
        sizes: Network input sizes (width, height) to choose from, one per batch.
        stride: Input pixels per output pixel.
        augment: Random crops, mirroring and camera effects; off for evaluation.
        paths: The store's scenes, if they are known.
    """

    def __init__(
        self,
        store: SceneStore,
        sizes: tuple[Size, ...],
        stride: int,
        rng: np.random.Generator,
        augment: bool = True,
        refresh: int = 100,
        paths: list[Path] | None = None,
    ) -> None:
        self.store, self.sizes, self.stride = store, sizes, stride
        self.augment, self.refresh = augment, refresh
        self._rng = rng
        self._known = paths
        self._paths: list[Path] = []
        self._batches = 0

    def batch(self, pairs: int, pairs_per_scene: int = 2, overlap: float = 0.0) -> PairBatch:
        """A batch of ``pairs`` pairs, ``pairs_per_scene`` of them from each drawn scene.

        The first pairs of a scene share no view: the same image twice teaches little more.

        Args:
            overlap: Share of the scenes whose pairs are those that see most of the same.
        """
        if self._batches % self.refresh == 0:
            self._paths = self.store.paths() if self._known is None else self._known
            if not self._paths:
                raise FileNotFoundError(
                    f"{self.store.folder}: no scenes; render some with "
                    "'python -m hamst3r.training.render'"
                )
        self._batches += 1
        rng = self._rng
        size = self.sizes[int(rng.integers(len(self.sizes)))]
        samples: list[tuple[_Sample, _Sample]] = []
        while len(samples) < pairs:
            try:
                views = self.store.read(self._paths[int(rng.integers(len(self._paths)))])
            except FileNotFoundError:  # deleted since the store was looked at
                self._paths = self.store.paths()
                continue
            landscape = views[0].rgb.shape[1] > views[0].rgb.shape[0]
            if landscape != (size[0] > size[1]) and rng.random() < 0.8:
                continue  # Cutting a portrait out of a landscape wastes most of it: do it rarely.
            mirror = self.augment and rng.random() < 0.5
            ready = [self._view(view, size, mirror) for view in views]
            order = rng.permutation(len(ready)).tolist()
            disjoint = list(zip(order[::2], order[1::2], strict=False))
            others = [(a, b) for a in order for b in order if a != b and (a, b) not in disjoint]
            rng.shuffle(others)
            chosen = disjoint + others
            if overlap and rng.random() < overlap:
                seen = {edge: _overlap(ready[edge[0]], ready[edge[1]]) for edge in chosen}
                chosen.sort(key=lambda edge: -seen[edge])
            for a, b in chosen[: min(pairs_per_scene, pairs - len(samples))]:
                samples.append((ready[a], ready[b]))
        return _collate(samples, rng)

    def _view(self, view: StoredView, size: Size, mirror: bool) -> _Sample:
        rng = self._rng
        height, width = view.depth.shape
        scale = max(size[0] / width, size[1] / height)
        if self.augment:
            scale *= rng.uniform(1.0, 1.35)
        # Crop window in source pixels, from the corner of its first pixel.
        window = np.array([size[0] / scale, size[1] / scale])
        slack = np.array([width, height]) - window
        corner = slack * (rng.random(2) if self.augment else 0.5)
        to_source = np.array(
            [
                [1 / scale, 0, corner[0] + 0.5 / scale - 0.5],
                [0, 1 / scale, corner[1] + 0.5 / scale - 0.5],
            ]
        )
        rgb: NDArray[Any] = view.rgb
        if scale < 0.99:  # Warping alone would alias.
            rgb = cv2.GaussianBlur(rgb, (0, 0), 0.4 / scale)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        rgb = cv2.warpAffine(rgb, to_source, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        if self.augment:
            rgb = expose(rgb.astype(np.uint8, copy=False), rng)
        step = self.stride
        grid_w, grid_h = size[0] // step, size[1] // step
        centre = (step - 1) / 2  # Output pixel 0 lies between the first ``step`` input pixels.
        columns = (np.arange(grid_w) * step + centre) / scale + to_source[0, 2]
        rows = (np.arange(grid_h) * step + centre) / scale + to_source[1, 2]
        index = np.ix_(
            np.clip(rows.round().astype(int), 0, height - 1),
            np.clip(columns.round().astype(int), 0, width - 1),
        )
        to_grid = np.array(
            [
                [scale / step, 0, -(to_source[0, 2] * scale + centre) / step],
                [0, scale / step, -(to_source[1, 2] * scale + centre) / step],
                [0, 0, 1],
            ]
        )
        K = to_grid @ view.K
        depth = view.depth[index].astype(np.float32)
        instances = view.instances[index].astype(np.int64)
        densepose = view.densepose[index].astype(np.float32) / 255
        body = view.body[index]
        T_world_cam = view.T_world_cam
        if mirror:
            rgb, depth, instances = rgb[:, ::-1], depth[:, ::-1], instances[:, ::-1]
            densepose, body = densepose[:, ::-1].copy(), body[:, ::-1]
            # The mirrored person's left is the right: the template is symmetric in x.
            densepose[..., 0] = 1 - densepose[..., 0]
            flip = np.diag([-1.0, 1, 1, 1])
            T_world_cam = flip @ T_world_cam @ flip
            K = K.copy()
            K[0, 2] = grid_w - 1 - K[0, 2]
        image = rgb.astype(np.float32).transpose(2, 0, 1) / 127.5 - 1
        return _Sample(image, depth, instances, densepose.astype(np.float32), body, K, T_world_cam)


def _collate(samples: list[tuple[_Sample, _Sample]], rng: np.random.Generator) -> PairBatch:
    def stack(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.stack(arrays)))

    targets, matches = [], []
    points = [_pointmaps(a, b) for a, b in samples]
    for side in range(2):
        views = [pair[side] for pair in samples]
        targets.append(
            ViewTarget(
                points=stack([maps[side] for maps in points]),
                valid=stack([view.depth > 0 for view in views]),
                instances=stack([view.instances for view in views]),
                densepose=stack([view.densepose for view in views]),
                body=stack([view.body for view in views]),
            )
        )
    for b, (view_i, view_j) in enumerate(samples):
        rows = _correspondences(view_i, view_j, points[b][0], rng)
        matches.append(np.column_stack([np.full(len(rows), b), rows]))
    return PairBatch(
        images_i=stack([pair[0].image for pair in samples]),
        images_j=stack([pair[1].image for pair in samples]),
        target=PairTarget(targets[0], targets[1], torch.from_numpy(np.concatenate(matches))),
    )


def _overlap(i: _Sample, j: _Sample, step: int = 8) -> float:
    """Share of some pixels of i whose points j sees."""
    points = _unproject(i)[::step, ::step][i.depth[::step, ::step] > 0]
    if len(points) == 0:
        return 0.0
    T_j_i = np.linalg.inv(j.T_world_cam) @ i.T_world_cam
    points = points @ T_j_i[:3, :3].T + T_j_i[:3, 3]
    front = points[points[:, 2] > 0.05]
    pixels = front @ j.K.T
    pixels = (pixels[:, :2] / pixels[:, 2:]).round()
    inside = ((pixels >= 0) & (pixels < [j.depth.shape[1], j.depth.shape[0]])).all(1)
    columns, rows = pixels[inside].astype(int).T
    same = np.abs(j.depth[rows, columns] - front[inside, 2]) < 0.05 * front[inside, 2]
    return float(same.sum() / len(points))


def _pointmaps(i: _Sample, j: _Sample) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both views' points, (gh, gw, 3), in the axes of camera i."""
    T_i_j = np.linalg.inv(i.T_world_cam) @ j.T_world_cam
    points_j = _unproject(j) @ T_i_j[:3, :3].T + T_i_j[:3, 3]
    return _unproject(i).astype(np.float32), points_j.astype(np.float32)


def _unproject(view: _Sample) -> NDArray[np.float64]:
    height, width = view.depth.shape
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns, rows, np.ones_like(rows)], -1)
    return (pixels @ np.linalg.inv(view.K).T) * view.depth[..., None]


def _correspondences(
    i: _Sample,
    j: _Sample,
    points_i: NDArray[np.float32],
    rng: np.random.Generator,
    count: int = 192,
) -> NDArray[np.int64]:
    """(M, 2) flat pixels of i and j that show the same surface point, M <= count."""
    flat = np.flatnonzero(i.depth > 0)
    if len(flat) == 0:
        return np.zeros((0, 2), np.int64)
    flat = rng.choice(flat, min(len(flat), 3 * count), replace=False)
    T_j_i = np.linalg.inv(j.T_world_cam) @ i.T_world_cam
    points = points_i.reshape(-1, 3)[flat] @ T_j_i[:3, :3].T + T_j_i[:3, 3]
    front = points[:, 2] > 0.05
    flat, points = flat[front], points[front]
    pixels = points @ j.K.T
    pixels = (pixels[:, :2] / pixels[:, 2:]).round()
    height, width = j.depth.shape
    inside = ((pixels >= 0) & (pixels < [width, height])).all(1)
    flat, points, pixels = flat[inside], points[inside], pixels[inside].astype(int)
    seen = j.depth[pixels[:, 1], pixels[:, 0]]
    same = np.abs(seen - points[:, 2]) < 0.03 * points[:, 2]
    rows = np.column_stack([flat, pixels[:, 1] * width + pixels[:, 0]])[same]
    # Two pixels of i in one pixel of j would be each other's negatives.
    _, first = np.unique(rows[:, 1], return_index=True)
    return rows[np.sort(first)][:count]
