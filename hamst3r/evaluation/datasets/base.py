"""What readers of data sets return: images with what is truly there, read when they are needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.evaluation.clouds import ScanTruth

F64 = NDArray[np.float64]
Image = NDArray[np.uint8]
Item = TypeVar("Item")


class DatasetError(ValueError):
    """A data set that cannot be read; the message says what was expected where, and what came."""


@dataclass(frozen=True, eq=False)
class Lens:
    """What undistorts an image; its ``K`` (3, 3) stays.

    Attributes:
        distortion: OpenCV's coefficients; of the fisheye model (4) where ``fisheye``.
    """

    K: F64
    distortion: F64
    fisheye: bool = False

    def undistort(self, image: Image) -> Image:
        """The image as a pinhole camera with the same ``K`` would have taken it."""
        if not np.any(self.distortion):
            return image
        if self.fisheye:
            flat = cv2.fisheye.undistortImage(image, self.K, self.distortion[:4], Knew=self.K)
        else:
            flat = cv2.undistort(image, self.K, self.distortion)
        return np.asarray(flat, np.uint8)


@dataclass(frozen=True, eq=False)
class ImageFile:
    """An image on disk, undistorted when read."""

    path: Path
    lens: Lens | None = None

    def __call__(self) -> Image:
        """(H, W, 3) RGB.

        Raises:
            DatasetError: Missing, or not an image.
        """
        stored = cv2.imread(str(self.path), cv2.IMREAD_COLOR)
        if stored is None:
            raise DatasetError(f"{self.path}: {_why_not_read(self.path, 'an image')}")
        return _delivered(stored, self.lens)


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """One frame of a video, undistorted when read."""

    path: Path
    index: int
    lens: Lens | None = None

    def __call__(self) -> Image:
        """(H, W, 3) RGB.

        Raises:
            DatasetError: The video is missing or ends before the frame.
        """
        capture = cv2.VideoCapture(str(self.path))
        try:
            capture.set(cv2.CAP_PROP_POS_FRAMES, self.index)
            read, frame = capture.read()
        finally:
            capture.release()
        if not read:
            raise DatasetError(
                f"{self.path}: {_why_not_read(self.path, f'a video with a frame {self.index}')}"
            )
        return _delivered(frame, self.lens)


def _delivered(bgr: NDArray, lens: Lens | None) -> Image:
    image = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
    return lens.undistort(image) if lens else image


def _why_not_read(path: Path, expected: str) -> str:
    return f"expected {expected}, " + ("it is not one" if path.is_file() else "there is no file")


@dataclass(frozen=True, eq=False)
class Shot:
    """One image and what is known of it.

    Attributes:
        name: Camera, or frame of a video.
        image: Reads (H, W, 3) RGB, without distortion.
        K: (3, 3) of it. T_world_cam: (4, 4), metres unless the data set knows no scale.
        depth: Reads (h, w) float32 z in metres of the same field of view, 0 = unknown.
    """

    name: str
    image: Callable[[], Image]
    K: F64 | None = None
    T_world_cam: F64 | None = None
    depth: Callable[[], NDArray[np.float32]] | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """Images to reconstruct together, and the truth.

    Attributes:
        name: Unique in the data set. group: Figures are means over groups where papers do that.
        shots: Of one time, or of a place where nothing moves. With depth: of the first one.
        people: Name -> (J, 3) joints in the world, metres, NaN where unknown.
        joint_set: Which joints these are, of :data:`~hamst3r.people.joint_sets.JOINT_SETS`; None:
            the body's own 24.
        scan: Reads a scanned object.
    """

    name: str
    group: str
    shots: tuple[Shot, ...]
    people: dict[str, F64] = field(default_factory=dict)
    joint_set: str | None = None
    scan: Callable[[], ScanTruth] | None = None


@dataclass(frozen=True, eq=False)
class Clip:
    """A video of one person by one moving camera.

    Attributes:
        name, group: As of a :class:`Case`. shots: (T), in the order of time, all with K and pose.
        joints: (T, 24, 3) in the world, metres, NaN where unknown.
        rate: Frames per second.
    """

    name: str
    group: str
    shots: tuple[Shot, ...]
    joints: F64
    rate: float


@dataclass(frozen=True)
class ReadOptions:
    """What to read.

    Attributes:
        split: Name of the split; None = the one of the papers.
        views: Images per case; None = as many as the papers use.
        limit: Use no more than so many cases, evenly spread; None = all.
        list_file: A published list of samples, where a data set has one.
        body: Folder or file of the user's own SMPL or SMPL-X model, for sets that give parameters.
        seed: Of random choices.
    """

    split: str | None = None
    views: int | None = None
    limit: int | None = None
    list_file: Path | None = None
    body: Path | None = None
    seed: int = 0


def evenly(items: Sequence[Item], count: int | None) -> list[Item]:
    """No more than ``count`` of the items, evenly spread, the first among them."""
    if count is None or count >= len(items):
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, count).round().astype(int)]


def around(items: Sequence[Item], key: int, count: int) -> list[Item]:
    """The item at ``key`` first, then the ``count - 1`` nearest to it in the order given."""
    order = sorted(range(len(items)), key=lambda index: (abs(index - key), index))
    return [items[index] for index in order[:count]]


def folders(root: Path, what: str) -> list[Path]:
    """Sorted sub-folders.

    Raises:
        DatasetError: There are none.
    """
    found = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not found:
        raise DatasetError(f"{root}: expected folders of {what}, found none")
    return found


def existing(cases: Sequence[Item], root: Path, layout: str) -> list[Item]:
    """The cases themselves.

    Raises:
        DatasetError: There are none; the message gives the layout that was expected.
    """
    if not cases:
        raise DatasetError(f"{root}: found nothing to evaluate; expected {layout}")
    return list(cases)


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        DatasetError: Missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{path}: expected JSON: {error}") from error


def as_pose(extrinsics: Any, where: str) -> F64:
    """T_world_cam (4, 4) of extrinsics (3, 4) or (4, 4) that map the world to the camera.

    Raises:
        DatasetError: Another shape, or no rotation.
    """
    try:
        matrix = np.asarray(extrinsics, float)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape not in ((3, 4), (4, 4)) or not np.isfinite(matrix).all():
        raise DatasetError(f"{where}: expected extrinsics of 3x4 or 4x4 numbers")
    R, t = matrix[:3, :3], matrix[:3, 3]
    if not np.allclose(R @ R.T, np.eye(3), atol=1e-3) or np.linalg.det(R) < 0:
        raise DatasetError(f"{where}: expected extrinsics with a rotation")
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R.T, -R.T @ t
    return T


def matrix3(values: Any, where: str) -> F64:
    """K (3, 3), from nine numbers in any nesting.

    Raises:
        DatasetError: Not that.
    """
    try:
        K = np.asarray(values, float).reshape(3, 3)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where}: expected intrinsics of 3x3 numbers") from error
    if not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0):
        raise DatasetError(f"{where}: expected intrinsics with positive focal lengths")
    return K


def from_coco(keypoints: NDArray, where: str) -> F64:
    """(17, 3) of COCO's keypoints (17 or more, 3 or 4), NaN where not known.

    A fourth column of 0 or less marks a keypoint that is not known.
    """
    keypoints = np.asarray(keypoints, float)
    if keypoints.ndim != 2 or keypoints.shape[0] < 17 or keypoints.shape[1] not in (3, 4):
        raise DatasetError(f"{where}: expected 17 keypoints x y z, got {keypoints.shape}")
    joints = keypoints[:17, :3].copy()
    if keypoints.shape[1] == 4:
        joints[keypoints[:17, 3] <= 0] = np.nan
    return joints
