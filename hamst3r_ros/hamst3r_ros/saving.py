"""~/save_scene: a scene as a file, only ever below the folder that the operator named."""

from __future__ import annotations

import os
import uuid
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from hamst3r_msgs.srv import SaveScene

from hamst3r.scene import LABEL_HUMAN, PointCloud, Scene

FORMATS = ("ply", "npz")

_PLY = np.dtype(
    [
        *((axis, "<f4") for axis in "xyz"),
        *((name, "u1") for name in ("red", "green", "blue", "label")),
        ("instance", "<u2"),
        ("camera", "u1"),
        ("confidence", "<f4"),
    ]
)
_PLY_TYPES = {"<f4": "float", "|u1": "uchar", "<u2": "ushort"}


class SaveError(ValueError):
    """A request that is refused; the message says why and what to do."""


def answer(
    request: SaveScene.Request, response: SaveScene.Response, scene: Scene | None, output_dir: str
) -> SaveScene.Response:
    """Do what a request asks for, or say why not."""
    try:
        file, form = target(output_dir, request.path, request.format)
        if scene is None:
            raise SaveError(
                "no scene yet; activate the node, and subscribe to an output or set lazy to false"
            )
        response.num_points = save(scene, file, form, request.include_humans)
        response.success, response.message = True, f"written to {file}"
    except SaveError as error:
        response.message = str(error)
    except OSError as error:
        response.message = f"cannot write, nothing was changed: {error}"
    return response


def target(output_dir: str, path: str, form: str) -> tuple[Path, str]:
    """Where to write and in which format.

    Raises:
        SaveError: No folder is set, the path leads out of it, or the format is not known.
    """
    if not output_dir:
        raise SaveError("parameter 'output_dir' is empty; set it to the folder to save below")
    wanted = PurePosixPath(path)
    if not path or wanted.is_absolute() or ".." in wanted.parts or "\0" in path:
        raise SaveError(f"path '{path}' is refused; give one relative to output_dir, without '..'")
    form = form or wanted.suffix.removeprefix(".")
    if form not in FORMATS:
        raise SaveError(f"format '{form}' is not known, expected {' or '.join(FORMATS)}")
    folder = Path(output_dir).expanduser().resolve()
    file = folder / wanted
    if file.suffix != f".{form}":
        file = file.with_name(f"{file.name}.{form}")
    # Links inside the folder must not lead out of it, either.
    if not file.resolve().is_relative_to(folder):
        raise SaveError(f"path '{path}' leads out of output_dir; choose another")
    return file, form


def save(scene: Scene, file: Path, form: str, include_humans: bool) -> int:
    """Write a scene; the number of points written.

    What was there under that name stays until everything is on the disk.

    Raises:
        OSError: It cannot be written; nothing is left of the attempt.
    """
    keep = np.ones(len(scene.points), bool)
    if not include_humans:
        keep = scene.points.label != LABEL_HUMAN
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as stream:
            if form == "ply":
                _write_ply(stream, scene.points, keep)
            else:
                _write_npz(stream, scene, keep, include_humans)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return int(keep.sum())


def _write_ply(stream: BinaryIO, points: PointCloud, keep: np.ndarray) -> None:
    records = np.empty(int(keep.sum()), _PLY)
    for axis, name in enumerate("xyz"):
        records[name] = points.xyz[keep, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        records[name] = points.rgb[keep, channel]
    for name in ("label", "instance", "camera", "confidence"):
        records[name] = getattr(points, name)[keep]
    properties = [f"property {_PLY_TYPES[_PLY[name].str]} {name}" for name in _PLY.names or ()]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(records)}"]
    stream.write("\n".join([*head, *properties, "end_header\n"]).encode())
    stream.write(records.tobytes())


def _write_npz(stream: BinaryIO, scene: Scene, keep: np.ndarray, include_humans: bool) -> None:
    points = scene.points
    arrays: dict[str, np.ndarray] = {
        "stamp": np.array(scene.stamp),
        "scale_source": np.array(int(scene.scale_source)),
        "camera_names": np.array([camera.name for camera in scene.cameras]),
        "camera_K": np.array([camera.K for camera in scene.cameras]).reshape(-1, 3, 3),
        "camera_T_world_cam": np.array([c.T_world_cam for c in scene.cameras]).reshape(-1, 4, 4),
    }
    for name in ("xyz", "rgb", "confidence", "label", "instance", "camera", "body"):
        arrays[f"points_{name}"] = getattr(points, name)[keep]
    if include_humans:
        fitted = [(person, person.fit) for person in scene.people if person.fit is not None]
        arrays |= {
            "people_id": np.array([person.id for person in scene.people]),
            "people_position": np.array([p.position for p in scene.people]).reshape(-1, 3),
            "fitted_id": np.array([person.id for person, _ in fitted]),
            "fitted_joints": np.array([p.joints for p, _ in fitted]).reshape(-1, 24, 3),
            "fitted_body_model": np.array([fit.model for _, fit in fitted], dtype=str),
            "fitted_body_model_sha256": np.array(
                [fit.model_sha256 for _, fit in fitted], dtype=str
            ),
        }
        for name, size in (("betas", 10), ("global_orient", 3), ("body_pose", 69), ("transl", 3)):
            values = [getattr(fit, name) for _, fit in fitted]
            arrays[f"fitted_{name}"] = np.array(values, np.float32).reshape(-1, size)
    np.savez(stream, **arrays)  # type: ignore[arg-type]
