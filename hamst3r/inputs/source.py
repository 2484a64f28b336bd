"""What all inputs have in common: options, errors and the frames they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.calibration import CameraCalibration
from hamst3r.frames import Frame, FrameSet
from hamst3r.image import resampling
from hamst3r.recording import delivered_size

MIN_SIDE = 32  # pixels; less shows nothing to a network with patches of 14 or 16
NANOSECONDS = 1_000_000_000


class InputError(ValueError):
    """An input that cannot be used; the message names the file, what is wrong and the remedy."""


@dataclass(frozen=True)
class InputOptions:
    """How inputs are read.

    Attributes:
        max_images: Most images of a set of photos; more are thinned evenly.
        sets: Most frame sets of a recording from its beginning; 0 = all.
        every: Seconds between two images of a video, or two sets of a recording; None: half a
            second for videos, every image for recordings.
        side: Long side to which images are reduced in pixels, 0 to keep them; K follows.
        exif: Take focal lengths from the photos' EXIF data.
        focal: Focal length in pixels of the images as they are on disk, for those of unknown
            intrinsics.
        calibration: Of photos, by the names of their files without suffix.
        topics: Image topics of a bag; none: all there are.
    """

    max_images: int = 200
    sets: int = 1
    every: float | None = None
    side: int = 800
    exif: bool = True
    focal: float | None = None
    calibration: dict[str, CameraCalibration] = field(default_factory=dict)
    topics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_images < 1:
            raise InputError(f"at least one image is needed, got a limit of {self.max_images}")
        if self.sets < 0:
            raise InputError(f"the number of frame sets must be 0 (all) or more, got {self.sets}")
        if self.every is not None and not self.every > 0:
            raise InputError(f"the time between images must be positive, got {self.every} s")
        if self.focal is not None and not self.focal > 0:
            raise InputError(f"a focal length must be positive, got {self.focal} pixels")

    @property
    def step(self) -> int | None:
        """``every`` in nanoseconds."""
        return None if self.every is None else round(self.every * NANOSECONDS)


@dataclass(frozen=True)
class Original:
    """Where an image came from: the file (or topic) and its (width, height) there."""

    file: str
    width: int
    height: int


class Source(Protocol):
    """Something opened.

    Attributes:
        title: For people: what it is. ordered: Neighbours in the list are neighbours in time.
        sets: Number of frame sets, an upper limit where images may turn out unreadable.
        originals: camera -> where its images are from; filled while frame sets are read.
    """

    title: str
    ordered: bool
    sets: int
    originals: dict[str, Original]

    def frame_sets(self) -> Iterator[FrameSet]: ...


Report = Callable[[str], None]


def reduced_frame(
    name: str,
    stamp: int,
    rgb: NDArray[np.uint8],
    side: int,
    K: NDArray[np.float64] | None,
    known: CameraCalibration | None = None,
) -> Frame:
    """A frame of at most ``side`` pixels, whose K (of ``rgb`` as it is) follows."""
    height, width = rgb.shape[:2]
    w, h = delivered_size(width, height, side)
    if (w, h) != (width, height):
        rgb = np.asarray(cv2.resize(rgb, (w, h), interpolation=cv2.INTER_AREA), np.uint8)
    if known is not None:
        K = known.K
    if K is not None:
        K = resampling(w / width, h / height) @ K
    if known is None:
        return Frame(name, stamp, rgb, K)
    return Frame(
        name,
        stamp,
        rgb,
        K,
        known.distortion,
        known.T_rig_cam,
        K_std=known.focal_std,
        T_rig_cam_covariance=known.covariance,
    )


def check_size(where: str, width: int, height: int) -> None:
    """Raises InputError for an image on which nothing can be seen."""
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"{where}: is {width}x{height} pixels; at least {MIN_SIDE} are needed on each side"
        )


def check_calibrated_size(where: str, known: CameraCalibration, width: int, height: int) -> None:
    """Raises InputError where a calibration is for another size of image."""
    if known.width and (known.width, known.height) != (width, height):
        raise InputError(
            f"{where}: is {width}x{height} pixels, its calibration is for "
            f"{known.width}x{known.height}; calibrate at the size of the images"
        )


def unique_names(paths: list[Path]) -> list[str]:
    """Short names: the stem, with as many folders before it as tell them apart."""
    for depth in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = ["_".join((*path.parts[-depth:-1], path.stem)) for path in paths]
        if len(set(names)) == len(names):
            return names
    # Only suffixes, or nothing, tells them apart.
    return [f"{path.stem}_{index}" for index, path in enumerate(paths)]


def thinned(count: int, most: int) -> list[int]:
    """Indices of at most ``most`` of ``count`` things, evenly spread."""
    if count <= most:
        return list(range(count))
    return np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()
