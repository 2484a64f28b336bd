"""COLMAP's text model: ``cameras.txt`` and ``images.txt``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.evaluation.datasets.base import DatasetError, Lens
from hamst3r.geometry import make_T

F64 = NDArray[np.float64]

# Which parameters are focal lengths, centre and distortion; COLMAP's pixel centres are at .5.
_MODELS: dict[str, tuple[int, bool]] = {  # number of focal lengths, fisheye
    "SIMPLE_PINHOLE": (1, False),
    "PINHOLE": (2, False),
    "SIMPLE_RADIAL": (1, False),
    "RADIAL": (1, False),
    "OPENCV": (2, False),
    "OPENCV_FISHEYE": (2, True),
}


@dataclass(frozen=True, eq=False)
class ColmapCamera:
    """Intrinsics of one camera of (width, height) pixels."""

    width: int
    height: int
    lens: Lens


@dataclass(frozen=True, eq=False)
class ColmapImage:
    """One image: name, id of its camera, (4, 4) T_cam_world in the model's unit."""

    name: str
    camera: int
    T_cam_world: F64


def read_colmap(folder: Path) -> tuple[dict[int, ColmapCamera], list[ColmapImage]]:
    """Cameras by id, and images.

    Raises:
        DatasetError: A file is missing or not of that format, or a camera model is not known.
    """
    cameras = {}
    for number, fields in _lines(folder / "cameras.txt"):
        where = f"{folder / 'cameras.txt'}:{number}"
        try:
            identity, model = int(fields[0]), fields[1]
            width, height = int(fields[2]), int(fields[3])
            values = [float(value) for value in fields[4:]]
        except (IndexError, ValueError) as error:
            raise DatasetError(f"{where}: expected ID MODEL WIDTH HEIGHT PARAMS") from error
        cameras[identity] = ColmapCamera(width, height, _lens(model, values, where))
    images = []
    # Every image has two lines; the second one lists points and may be empty.
    for number, fields in list(_lines(folder / "images.txt", empty=True))[::2]:
        where = f"{folder / 'images.txt'}:{number}"
        try:
            qw, qx, qy, qz, *t = (float(value) for value in fields[1:8])
            camera, name = int(fields[8]), " ".join(fields[9:])
            rotation = Rotation.from_quat([qx, qy, qz, qw]).as_matrix()
        except (IndexError, ValueError) as error:
            raise DatasetError(f"{where}: expected ID QW QX QY QZ TX TY TZ CAMERA NAME") from error
        if camera not in cameras:
            raise DatasetError(f"{where}: camera {camera} is not in cameras.txt")
        images.append(ColmapImage(name, camera, make_T(rotation, t)))
    return cameras, images


def _lines(path: Path, empty: bool = False):
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("#") and (line.strip() or empty):
            yield number, line.split()


def _lens(model: str, values: list[float], where: str) -> Lens:
    if model not in _MODELS:
        raise DatasetError(f"{where}: camera model {model} is not one of {', '.join(_MODELS)}")
    focals, fisheye = _MODELS[model]
    if len(values) < focals + 2:
        raise DatasetError(f"{where}: too few parameters for {model}")
    fx, fy = values[0], values[focals - 1]
    cx, cy = values[focals : focals + 2]
    rest = values[focals + 2 :]
    distortion = np.zeros(4)
    distortion[: len(rest)] = rest[:4]
    K = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1.0]])
    return Lens(K, distortion, fisheye)
