"""Depth maps of data sets, each in its own format: (h, w) float32 z in metres, 0 = unknown."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.evaluation.datasets.base import DatasetError, ImageFile

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PngDepth:
    """16-bit PNG; ``per_metre`` counts to the metre, 0 = unknown (ScanNet 1000, KITTI 256)."""

    path: Path
    per_metre: float

    def __call__(self) -> F32:
        return _clean(_stored(self.path, np.uint16, "a 16-bit grey PNG") / self.per_metre)


@dataclass(frozen=True, eq=False)
class RawDepth:
    """Bare float32 numbers, row by row, of the size of an image (ETH3D); infinite = unknown."""

    path: Path
    image: Path

    def __call__(self) -> F32:
        height, width = ImageFile(self.image)().shape[:2]
        try:
            values = np.fromfile(self.path, np.float32)
        except OSError as error:
            raise DatasetError(f"{self.path}: cannot be read: {error.strerror}") from error
        if values.size != height * width:
            raise DatasetError(
                f"{self.path}: expected {width}x{height} float32 as {self.image.name} has pixels, "
                f"got {values.size} numbers"
            )
        return _clean(values.reshape(height, width))


@dataclass(frozen=True, eq=False)
class PfmDepth:
    """Portable float map (DTU); ``per_metre`` units to the metre."""

    path: Path
    per_metre: float = 1.0

    def __call__(self) -> F32:
        return _clean(_stored(self.path, np.float32, "a grey PFM") / self.per_metre)


@dataclass(frozen=True, eq=False)
class NpzDepth:
    """The first array of an ``.npz`` (Tanks and Temples as rendered by robustmvd)."""

    path: Path

    def __call__(self) -> F32:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                values = file[file.files[0]]
        except (OSError, ValueError, IndexError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{self.path}: expected an npz with a depth map: {error}") from error
        return _clean(np.squeeze(values))


def _stored(path: Path, dtype: type, kind: str) -> NDArray:
    """A map as OpenCV reads it, of one number a pixel."""
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != dtype or stored.ndim != 2:
        raise DatasetError(f"{path}: expected a depth map, {kind}")
    return stored


def _clean(depth: NDArray) -> F32:
    depth = np.asarray(depth, np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
