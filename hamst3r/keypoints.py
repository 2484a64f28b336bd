"""Corners that look alike in two images: SIFT by OpenCV, a witness that needs no training.

A network that recognises one view in another needs none of this. One that does not yet guesses how
unknown cameras stand; keypoints know it to a degree wherever the views share enough texture.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.frames import Frame
from hamst3r.image import NetworkImage, detail, resampling

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Found = TypeVar("Found")
MOST = 1500  # keypoints of an image
THREADS = 4
# Rooms are dimly textured: weak corners are taken, too. Geometry will judge.
CONTRAST, EDGE = 0.005, 20.0
# Of a match's distance over that of the second best.
MAX_RATIO = 0.85


class KeypointUse(str, enum.Enum):
    """What keypoints are asked for where the network does not know."""

    OFF = "off"
    POSES = "poses"  # where unknown cameras stand, now and then
    DEPTH = "depth"  # and how deep what they fix in space is, in every frame set


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Of one image.

    Attributes:
        pixels: (N, 2) on the output grid. pixel: Size of the image's pixels there.
        descriptors: (N, 128) float32 of unit length (RootSIFT, Arandjelovic and Zisserman, CVPR
            2012), so that products are Hellinger's kernel.
        matched: What :func:`match` found in other images: several ask for the same.
    """

    pixels: F64
    descriptors: F32
    pixel: float
    matched: WeakKeyDictionary[Keypoints, NDArray[np.intp]] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False
    )


def detect(image: NetworkImage) -> Keypoints:
    """Keypoints of an image as the network sees it; none where nothing has texture."""
    rgb = ((image.tensor.permute(1, 2, 0) + 1) * 127.5).round().byte().cpu().numpy()
    grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    return _detect(grey, resampling(image.grid[1] / grey.shape[1], image.grid[0] / grey.shape[0]))


def detect_detailed(frame: Frame, image: NetworkImage, side: int) -> Keypoints:
    """The same in all detail that was delivered, up to ``side`` pixels: poses gain by it.

    Depth does not, and errors of a calibration hide within the network's coarser pixels.
    """
    return _detect(*detail(frame, image, side))


def _detect(grey: NDArray[np.uint8], T: F64) -> Keypoints:
    """Of an image (h, w) and its map (3, 3) to the output grid."""
    sift = cv2.SIFT.create(nfeatures=MOST, contrastThreshold=CONTRAST, edgeThreshold=EDGE)
    found, descriptors = sift.detectAndCompute(grey, np.empty(0, np.uint8))
    if descriptors is None:
        return Keypoints(np.empty((0, 2)), np.empty((0, 128), np.float32), float(T[0, 0]))
    pixels = np.array([point.pt for point in found]) * T[[0, 1], [0, 1]] + T[:2, 2]
    share = descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9)
    return Keypoints(pixels, np.sqrt(share), float(T[0, 0]))


def at_once(work: Callable[..., Found], *of: Sequence[Any]) -> list[Found]:
    """What OpenCV does for several images, or pairs of them: as many at a time as pay."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, *of))


def match(a: Keypoints, b: Keypoints) -> NDArray[np.intp]:
    """(M, 2) indices into a and b of those that are each other's best and clearly so.

    A corner that has several orientations is matched once.
    """
    if b not in a.matched:
        a.matched[b] = _match(a, b)
    return a.matched[b]


def _match(a: Keypoints, b: Keypoints) -> NDArray[np.intp]:
    if min(len(a.pixels), len(b.pixels)) < 2:
        return np.empty((0, 2), np.intp)
    alike = a.descriptors @ b.descriptors.T
    best = alike.argmax(1)
    rows = np.flatnonzero(alike.argmax(0)[best] == np.arange(len(best)))
    first = alike[rows, best[rows]]
    alike[rows, best[rows]] = -1
    second = alike[rows].max(1)
    # |x - y|^2 = 2 - 2 x.y for unit vectors.
    rows = rows[1 - first < MAX_RATIO**2 * (1 - second)]
    pairs = np.stack([rows, best[rows]], 1)
    places = np.concatenate([a.pixels[pairs[:, 0]], b.pixels[pairs[:, 1]]], 1).round(1)
    return pairs[np.sort(np.unique(places, axis=0, return_index=True)[1])]
