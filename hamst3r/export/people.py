"""People's parameters as NPZ, one row per person and time: what SMPL's tools expect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hamst3r.scene import Scene

_SIZES = {"betas": 10, "global_orient": 3, "body_pose": 69, "transl": 3}


def write_people(scenes: Sequence[Scene], file: Path) -> int:
    """Write everybody with a body; the number of rows.

    Arrays: ``stamp`` (ns), ``id``, ``betas`` (N, 10), ``global_orient`` (N, 3), ``body_pose``
    (N, 69), ``transl`` (N, 3), ``joints`` (N, 24, 3), ``joint_std`` (N, 24), ``rmse``,
    ``inliers``, ``facing``, ``model``, ``model_sha256``; and of everybody, with or without a body,
    ``seen_stamp``, ``seen_id``, ``seen_position`` (M, 3), ``seen_confidence``.

    Raises:
        OSError: It cannot be written.
    """
    everybody = [(scene.stamp, person) for scene in scenes for person in scene.people]
    fitted = [(stamp, p, p.fit) for stamp, p in everybody if p.fit is not None]
    arrays = {
        "stamp": np.array([stamp for stamp, _, _ in fitted], np.int64),
        "id": np.array([p.id for _, p, _ in fitted], np.int64),
        "joints": np.array([p.joints for _, p, _ in fitted], np.float32).reshape(-1, 24, 3),
        "joint_std": np.array([p.joint_std for _, p, _ in fitted], np.float32).reshape(-1, 24),
        "rmse": np.array([fit.rmse for _, _, fit in fitted], np.float32),
        "inliers": np.array([fit.inliers for _, _, fit in fitted], np.int64),
        "facing": np.array([fit.facing for _, _, fit in fitted], np.float32),
        "model": np.array([fit.model for _, _, fit in fitted], dtype=str),
        "model_sha256": np.array([fit.model_sha256 for _, _, fit in fitted], dtype=str),
        "seen_stamp": np.array([stamp for stamp, _ in everybody], np.int64),
        "seen_id": np.array([p.id for _, p in everybody], np.int64),
        "seen_position": np.array([p.position for _, p in everybody], float).reshape(-1, 3),
        "seen_confidence": np.array([p.confidence for _, p in everybody], float),
    }
    for name, size in _SIZES.items():
        values = [getattr(fit, name) for _, _, fit in fitted]
        arrays[name] = np.array(values, np.float32).reshape(-1, size)
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    partial.replace(file)
    return len(fitted)
