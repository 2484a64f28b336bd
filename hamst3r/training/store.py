"""Rendered scenes: on the disk, and on the device that trains.

Scenes are rendered once into a folder (``SceneStore``) and read many times under random crops,
zooms, mirrorings and camera effects, because a rendered image costs as much as a training step.
The store may grow, and lose its oldest scenes, while training reads it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamst3r.synthetic.generator import SceneGenerator, SyntheticScene

F64 = NDArray[np.float64]
SIDE = 224  # pixels: what whole images need
OVERLAP_STEP = 12  # pixels between those that tell how much two views share


@dataclass(frozen=True, eq=False)
class StoredScene:
    """The V views of one scene, of one size (H, W).

    Attributes:
        rgb: (V, 3, H, W) uint8. depth: (V, H, W) float16 metres, 0 = none.
        labels: (V, 5, H, W) uint8: instance, DensePose (x, y, z) * 255, whether DensePose holds.
        K: (V, 3, 3) pixels. T_world_cam: (V, 4, 4).
        overlap: (V, V) share of the row's view that the column's view sees.
        ids: (P,) of the people, in the labels.
        boxes: (P, V, 2, 2) first and last pixel (column, row) of each person in each view.
        shown: (P, V) share of the view's pixels that are the person's; where 0, there is no box.
    """

    rgb: Tensor
    depth: Tensor
    labels: Tensor
    K: F64
    T_world_cam: F64
    overlap: F64
    ids: NDArray[np.int64]
    boxes: F64
    shown: F64

    @property
    def landscape(self) -> bool:
        """Whether images are wider than high."""
        return self.depth.shape[2] > self.depth.shape[1]

    @property
    def nbytes(self) -> int:
        """Size of the tensors."""
        return sum(part.nbytes for part in (self.rgb, self.depth, self.labels))

    def to(self, device: torch.device) -> StoredScene:
        """The same on another device."""
        rgb, depth, labels = (part.to(device) for part in (self.rgb, self.depth, self.labels))
        return replace(self, rgb=rgb, depth=depth, labels=labels)


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
        instances = np.stack([view.instances for view in views])
        coordinates = np.nan_to_num(densepose * 255).round()
        body = np.isfinite(densepose).all(-1, keepdims=True)
        labels = np.concatenate([instances[..., None], coordinates, body], -1)
        arrays = {
            "rgb": np.stack([view.rgb for view in views]).transpose(0, 3, 1, 2),
            "depth": np.stack([view.depth for view in views]).astype(np.float16),
            "labels": labels.astype(np.uint8).transpose(0, 3, 1, 2),
            "K": np.stack([view.K for view in views]),
            "T_world_cam": np.stack([view.T_world_cam for view in views]),
        }
        partial = self.folder / f"partial_{seed:08d}.npz"
        np.savez(partial, **{key: np.ascontiguousarray(a) for key, a in arrays.items()})  # type: ignore[arg-type]
        partial.rename(self._path(seed))

    def has(self, seed: int) -> bool:
        """Whether a scene is there."""
        return self._path(seed).exists()

    def delete(self, seed: int) -> None:
        """Remove a scene; who reads it at this moment gets it whole."""
        self._path(seed).unlink()

    def _path(self, seed: int) -> Path:
        return self.folder / f"scene_{seed:08d}.npz"

    def read(self, path: Path) -> StoredScene:
        """One scene, on the CPU.

        Raises:
            FileNotFoundError: It has been deleted since.
        """
        with np.load(path, allow_pickle=False) as file:
            part = {name: file[name] for name in file.files}
        rgb, depth, labels = (torch.from_numpy(part[name]) for name in ("rgb", "depth", "labels"))
        K, pose = part["K"], part["T_world_cam"]
        overlap = overlap_of(part["depth"], K, pose)
        return StoredScene(rgb, depth, labels, K, pose, overlap, *places_of(part["labels"][:, 0]))


def render_scenes(
    store: SceneStore, seeds: range, generator: SceneGenerator, side: int = SIDE
) -> Iterator[int]:
    """Render the seeds that the store lacks, a third of them portrait; yields each seed done.

    Args:
        side: Long side of the images, pixels; the short one is 3/4 of it.
    """
    for seed in seeds:
        if store.has(seed):
            continue
        size = (side * 3 // 4, side) if seed % 3 == 0 else (side, side * 3 // 4)
        store.write(seed, generator.sample(seed, size=size, views=4))
        yield seed


class SceneBank:
    """A store's scenes on a device, as many as fit; those that do not are read again when needed.

    Args:
        capacity: Bytes to keep.
    """

    def __init__(self, store: SceneStore, device: torch.device, capacity: int) -> None:
        self.store, self.device, self.capacity = store, device, capacity
        self.paths: list[Path] = []
        self._kept: dict[Path, StoredScene] = {}
        self._landscape: dict[Path, bool] = {}
        self._bytes = 0
        self._readers = ThreadPoolExecutor(4)

    def refresh(self) -> None:
        """Look for new scenes; what is kept here stays although it is deleted there.

        Raises:
            FileNotFoundError: There is none.
        """
        self.paths = sorted({*self.store.paths(), *self._kept})
        if not self.paths:
            raise FileNotFoundError(
                f"{self.store.folder}: no scenes; render some with "
                "'python -m hamst3r.training.render'"
            )

    def get(self, paths: Sequence[Path]) -> list[StoredScene | None]:
        """Scenes; None for those that have been deleted."""
        missing = [path for path in dict.fromkeys(paths) if path not in self._kept]
        fresh = dict(zip(missing, self._readers.map(self._read, missing), strict=True))
        found = [self._kept[path] if path in self._kept else fresh[path] for path in paths]
        for path, scene in fresh.items():
            if scene is not None:
                self._keep(path, scene)
        return found

    def landscape(self, path: Path) -> bool | None:
        """Whether a scene's images are wider than high; None if it was never read."""
        return self._landscape.get(path)

    def _read(self, path: Path) -> StoredScene | None:
        try:
            return self.store.read(path).to(self.device)
        except FileNotFoundError:
            return None

    def _keep(self, path: Path, scene: StoredScene) -> None:
        self._landscape[path] = scene.landscape
        self._kept[path] = scene
        self._bytes += scene.nbytes
        while self._bytes > self.capacity:
            oldest = next(iter(self._kept))
            self._bytes -= self._kept.pop(oldest).nbytes


def places_of(instances: NDArray[np.uint8]) -> tuple[NDArray[np.int64], F64, F64]:
    """``ids``, ``boxes``, ``shown`` of :class:`StoredScene`; maps (V, H, W) of people, 0 = none."""
    people = [k for k in np.unique(instances).tolist() if k]
    places = np.zeros((len(people), len(instances), 2, 2))
    shown = np.zeros((len(people), len(instances)))
    for row, view in np.ndindex(*shown.shape):
        rows, columns = np.nonzero(instances[view] == people[row])
        shown[row, view] = len(rows) / instances[view].size
        if len(rows):
            places[row, view] = (columns.min(), rows.min()), (columns.max(), rows.max())
    return np.array(people, np.int64), places, shown


def overlap_of(depth: NDArray, K: F64, T_world_cam: F64) -> F64:
    """(V, V) share of view a's surface that view b sees, from every twelfth pixel.

    Args:
        depth: (V, H, W) metres, 0 = none. K: (V, 3, 3) pixels. T_world_cam: (V, 4, 4).
    """
    views, height, width = depth.shape
    rows, columns = np.mgrid[
        OVERLAP_STEP // 2 : height : OVERLAP_STEP, OVERLAP_STEP // 2 : width : OVERLAP_STEP
    ].reshape(2, -1)
    pixels = np.stack([columns, rows, np.ones_like(rows)]).astype(float)
    z = depth[:, rows, columns].astype(float)
    rays = np.linalg.inv(K) @ pixels
    points = np.concatenate([rays * z[:, None], np.ones((views, 1, len(rows)))], 1)
    T_b_a = np.linalg.inv(T_world_cam)[None] @ T_world_cam[:, None]
    seen = (T_b_a @ points[:, None])[:, :, :3]  # (a, b, 3, N) in the axes of b
    front = np.maximum(seen[:, :, 2], 1e-6)
    u, v = np.rint(np.moveaxis((K[None] @ seen)[:, :, :2], 2, 0) / front)
    inside = (seen[:, :, 2] > 0.05) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    u, v = (np.where(inside, x, 0).astype(int) for x in (u, v))
    there = depth[np.arange(views)[None, :, None], v, u].astype(float)
    same = inside & (np.abs(there - front) < 0.05 * front) & (z > 0)[:, None]
    return np.asarray(same.sum(-1) / np.maximum((z > 0).sum(-1), 1)[:, None])
