"""Pair predictions in a file, and what is left of them after an alignment: for finding faults.

The file is a NumPy archive: ``cameras`` (names), ``edges`` (E, 2), and per pair k ``points_i_k``,
``points_j_k`` (gh, gw, 3), ``confidence_i_k``, ``confidence_j_k`` (gh, gw); where known also, per
view v, ``K_v`` (3, 3) of the grid and ``T_rig_cam_v`` (4, 4).
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hamst3r.alignment.incremental import Aligner, AlignerConfig, Alignment
from hamst3r.alignment.similarity import apply, norms, similarities
from hamst3r.engine import PairPrediction
from hamst3r.frames import Frame, FrameSet
from hamst3r.geometry import transform, unproject
from hamst3r.image import NetworkImage

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
SLOTS = ("i", "j")


@dataclass(frozen=True, eq=False)
class SavedPairs:
    """What was saved.

    Attributes:
        cameras: Names. predictions: Of pairs of them; geometry only.
        K: Per view (3, 3) of the output grid, or None. T_rig_cam: Per view (4, 4), or None.
    """

    cameras: tuple[str, ...]
    predictions: tuple[PairPrediction, ...]
    K: tuple[F64 | None, ...]
    T_rig_cam: tuple[F64 | None, ...]

    def shape(self, view: int) -> tuple[int, int]:
        """(gh, gw) of a view's output grid; (1, 1) of a view that is in no pair."""
        for prediction in self.predictions:
            for end, confidence in (
                (prediction.i, prediction.conf_i),
                (prediction.j, prediction.conf_j),
            ):
                if end == view:
                    return int(confidence.shape[0]), int(confidence.shape[1])
        return 1, 1

    def align(self, config: AlignerConfig | None = None) -> Alignment:
        """Solve the pairs as a frame set without a past, and without people."""
        frames, images = [], []
        for view, name in enumerate(self.cameras):
            rgb = np.zeros((*self.shape(view), 3), np.uint8)
            K, T = self.K[view], self.T_rig_cam[view]
            frames.append(Frame(name, 0, rgb, K, None, T))
            tensor = torch.zeros(3, *self.shape(view))
            images.append(NetworkImage(name, tensor, rgb, K, K, np.eye(3)))
        nobody = [np.zeros(image.grid, bool) for image in images]
        return Aligner(config).solve(FrameSet(0, tuple(frames)), images, self.predictions, nobody)


def save_pairs(
    path: str | Path, images: Sequence[NetworkImage], frames: FrameSet, predictions: Sequence
) -> None:
    """Write what the network said of pairs of these images."""
    arrays: dict[str, Any] = {
        "cameras": np.array(frames.cameras),
        "edges": np.array([(p.i, p.j) for p in predictions], int).reshape(-1, 2),
    }
    for k, prediction in enumerate(predictions):
        for slot in SLOTS:
            arrays[f"points_{slot}_{k}"] = getattr(prediction, f"pts_{slot}").cpu().numpy()
            arrays[f"confidence_{slot}_{k}"] = getattr(prediction, f"conf_{slot}").cpu().numpy()
    for view, (image, frame) in enumerate(zip(images, frames.frames, strict=True)):
        if image.K is not None:
            arrays[f"K_{view}"] = image.K
        if frame.T_rig_cam is not None:
            arrays[f"T_rig_cam_{view}"] = frame.T_rig_cam
    with Path(path).open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_pairs(path: str | Path) -> SavedPairs:
    """Read a file of :func:`save_pairs`.

    Raises:
        ValueError: Not such a file, or one that contradicts itself.
        OSError: It cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(
            f"{path}: not an archive of pair predictions; expected what `hamst3r align save` writes"
        ) from error

    def get(name: str) -> NDArray:
        if name not in arrays:
            raise ValueError(f"{path}: '{name}' is missing; expected what save_pairs writes")
        return arrays[name]

    cameras = tuple(str(name) for name in get("cameras"))
    edges = get("edges")
    if edges.ndim != 2 or edges.shape[1:] != (2,) or edges.dtype.kind not in "iu":
        raise ValueError(f"{path}: 'edges' must be (E, 2) integers, got {edges.shape}")
    if edges.size and not (edges.min() >= 0 and edges.max() < len(cameras)):
        raise ValueError(f"{path}: 'edges' names views beyond the {len(cameras)} cameras")
    predictions = []
    for k, (i, j) in enumerate(edges.tolist()):
        maps = {}
        for slot in SLOTS:
            points, confidence = get(f"points_{slot}_{k}"), get(f"confidence_{slot}_{k}")
            if confidence.ndim != 2 or points.shape != (*confidence.shape, 3):
                raise ValueError(
                    f"{path}: pair {k} needs points (gh, gw, 3) and confidence (gh, gw), got "
                    f"{points.shape} and {confidence.shape}"
                )
            maps[f"pts_{slot}"] = torch.from_numpy(points.astype(np.float32))
            maps[f"conf_{slot}"] = torch.from_numpy(confidence.astype(np.float32))
        predictions.append(PairPrediction(i, j, **maps))
    views = range(len(cameras))
    return SavedPairs(
        cameras,
        tuple(predictions),
        tuple(arrays.get(f"K_{v}") for v in views),
        tuple(arrays.get(f"T_rig_cam_{v}") for v in views),
    )


def residuals(alignment: Alignment, prediction: PairPrediction) -> tuple[F32, F32]:
    """How far a pair is from an alignment, after the similarity that fits both its views best.

    Returns:
        (gh, gw) per view: distance relative to the aligned depth; NaN where either is invalid.
    """
    result, sources, targets, weights, depths, valid = [], [], [], [], [], []
    for view, points, confidence in (
        (prediction.i, prediction.pts_i, prediction.conf_i),
        (prediction.j, prediction.pts_j, prediction.conf_j),
    ):
        depth = alignment.depth[view]
        shown, weight = points.cpu().numpy(), confidence.cpu().numpy() - 1
        good = (depth > 0) & np.isfinite(shown).all(-1) & (weight > 0)
        world = transform(alignment.T_world_cam[view], unproject(depth, alignment.K[view]))
        sources.append(shown[good])
        targets.append(world[good])
        weights.append(weight[good])
        depths.append(depth[good])
        valid.append(good)
    source, target = (np.concatenate(x).T[None].astype(float) for x in (sources, targets))
    weight, depth = (np.concatenate(x)[None].astype(float) for x in (weights, depths))
    distance = np.full(weight.shape, np.nan)
    robust = np.minimum(weight, 100.0) / np.maximum(depth, 1e-6) ** 2
    for _ in range(8 if weight.shape[1] >= 3 else 0):
        T, found = similarities(source, target, robust)
        if not found.all():
            break
        distance = norms(apply(T, source) - target) / depth
        robust = np.minimum(weight, 100.0) / depth**2 / np.maximum(distance, 0.01)
    parts = np.split(distance[0], [len(depths[0])])
    for good, part in zip(valid, parts, strict=True):
        full = np.full(good.shape, np.nan, np.float32)
        full[good] = part
        result.append(full)
    return result[0], result[1]
