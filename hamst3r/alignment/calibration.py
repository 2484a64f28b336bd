"""Calibration files: what is known of a rig before the first image.

The format is the one of our recordings (JSON): ``cameras.<name>`` with ``K`` (3x3), optional
``distortion`` (OpenCV), ``R`` (3x3) and ``t`` (3) such that ``x_cam = R x_world + t``, metres.
How well that is known may be said too: ``focal_std`` (relative), ``position_std`` (m) and
``rotation_std_deg``, or instead of these two ``covariance`` (6x6: x, y, z, rotations about the
fixed axes of the world; metres, radians). What is not said is exact.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamst3r.frames import check_covariance


class CalibrationError(ValueError):
    """A calibration file that cannot be used; the message names file, camera, key and remedy."""


@dataclass(frozen=True, eq=False)
class CameraCalibration:
    """Known intrinsics and pose of one camera.

    Attributes:
        K: (3, 3) pixels of the (width, height) image.
        distortion: OpenCV coefficients, possibly empty.
        T_rig_cam: (4, 4) maps camera (OpenCV axes) to the rig's frame, metres.
        focal_std: Relative standard deviation of the focal length, 0: exact.
        covariance: (6, 6) of ``T_rig_cam`` as in :class:`hamst3r.frames.Frame`; None: exact.
        width, height: Image size in pixels, 0 if the file does not say.
        video: Name of the recording beside the file, "" if none.
    """

    K: NDArray[np.float64]
    distortion: NDArray[np.float64]
    T_rig_cam: NDArray[np.float64]
    width: int = 0
    height: int = 0
    video: str = ""
    focal_std: float = 0.0
    covariance: NDArray[np.float64] | None = None


def load_calibration(path: str | Path) -> dict[str, CameraCalibration]:
    """Read a rig's calibration.

    Returns:
        Camera name -> calibration, in the file's order.

    Raises:
        CalibrationError: The file is missing, not JSON, or a camera lacks a key or has a wrong one.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CalibrationError(f"{path}: cannot read the calibration: {error.strerror}") from error
    except ValueError as error:
        raise CalibrationError(f"{path}: not a JSON file: {error}") from error
    cameras = document.get("cameras") if isinstance(document, dict) else None
    if not isinstance(cameras, dict) or not cameras:
        raise CalibrationError(f"{path}: expected an object 'cameras' with at least one camera")
    return {name: _camera(f"{path}: camera '{name}'", entry) for name, entry in cameras.items()}


def _camera(where: str, entry: object) -> CameraCalibration:
    if not isinstance(entry, dict):
        raise CalibrationError(f"{where}: expected an object")
    K = _array(where, entry, "K", (3, 3))
    rotation = _array(where, entry, "R", (3, 3))
    translation = _array(where, entry, "t", (3,))
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
        raise CalibrationError(f"{where}: 'R' is not a rotation matrix")
    if K[0, 0] <= 0 or K[1, 1] <= 0:
        raise CalibrationError(f"{where}: 'K' needs positive focal lengths")
    distortion = np.asarray(entry.get("distortion", []), dtype=float)
    if distortion.ndim != 1 or distortion.size not in (0, 4, 5, 8):
        raise CalibrationError(f"{where}: 'distortion' needs 0, 4, 5 or 8 coefficients")
    T_rig_cam = np.eye(4)
    T_rig_cam[:3, :3] = rotation.T
    T_rig_cam[:3, 3] = -rotation.T @ translation
    return CameraCalibration(
        K=K,
        distortion=distortion,
        T_rig_cam=T_rig_cam,
        width=int(entry.get("width", 0)),
        height=int(entry.get("height", 0)),
        video=str(entry.get("video", "")),
        focal_std=_std(where, entry, "focal_std"),
        covariance=_covariance(where, entry),
    )


def _std(where: str, entry: dict, key: str) -> float:
    value = entry.get(key, 0.0)
    if not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise CalibrationError(f"{where}: '{key}' needs a number of 0 (exact) or more, got {value}")
    return float(value)


def _covariance(where: str, entry: dict) -> NDArray[np.float64] | None:
    if "covariance" in entry:
        covariance = _array(where, entry, "covariance", (6, 6))
        try:
            check_covariance(f"{where}: 'covariance'", covariance)
        except ValueError as error:
            raise CalibrationError(str(error)) from error
    else:
        position, turn = (_std(where, entry, k) for k in ("position_std", "rotation_std_deg"))
        covariance = np.diag([position**2] * 3 + [np.deg2rad(turn) ** 2] * 3)
    return covariance if covariance.any() else None


def _array(where: str, entry: dict, key: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if key not in entry:
        raise CalibrationError(
            f"{where}: key '{key}' is missing; add it (shape {shape}, metres and pixels)"
        )
    try:
        value = np.asarray(entry[key], dtype=float)
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"{where}: '{key}' is not a numeric array") from error
    if value.shape != shape or not np.isfinite(value).all():
        raise CalibrationError(f"{where}: '{key}' needs shape {shape}, got {value.shape}")
    return value
