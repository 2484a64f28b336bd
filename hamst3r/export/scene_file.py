"""A whole :class:`~hamst3r.scene.Scene` as one NumPy archive, and back.

The archive holds plain arrays and one JSON text, ``header``, for what is not an array; nothing in
it is pickled. Next to it a readable ``scene.json`` may lie (:func:`describe`), which is for people
and other programs and is never read back.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamst3r.scene import (
    BodyFit,
    Camera,
    Contact,
    Person,
    PointCloud,
    ScaleSource,
    Scene,
    TrackingState,
    View,
)

FORMAT, VERSION = "hamst3r scene", 1
CONVENTIONS = (
    "metres, seconds, radians; T_world_cam maps camera to world; cameras are OpenCV's (x right, "
    "y down, z forward); the world is z-up; pixel centres are at integers; K is of the undistorted "
    "image of the given size"
)
_FIT_ARRAYS = ("betas", "global_orient", "body_pose", "transl")
_VIEW_ARRAYS = ("K", "depth", "confidence", "rgb", "instances", "densepose")


class SceneFileError(ValueError):
    """A file that is not a scene, or is broken; the message names it and what is wrong."""


def save_scene(scene: Scene, file: str | Path, compressed: bool = True) -> None:
    """Write a scene; the file appears only when it is whole.

    Args:
        compressed: A third of the size for many times the time.

    Raises:
        OSError: It cannot be written.
    """
    arrays: dict[str, Any] = {
        f"points_{field.name}": getattr(scene.points, field.name) for field in fields(PointCloud)
    }
    for index, view in enumerate(scene.views):
        for name in _VIEW_ARRAYS:
            arrays[f"view_{index}_{name}"] = getattr(view, name)
    for index, camera in enumerate(scene.cameras):
        arrays[f"camera_{index}_K"] = camera.K
        arrays[f"camera_{index}_T_world_cam"] = camera.T_world_cam
    for index, person in enumerate(scene.people):
        for name in ("joints", "joint_std", "position", "covariance"):
            arrays[f"person_{index}_{name}"] = getattr(person, name)
        if person.velocity is not None:
            arrays[f"person_{index}_velocity"] = person.velocity
        if person.fit is not None:
            for name in _FIT_ARRAYS:
                arrays[f"person_{index}_{name}"] = getattr(person.fit, name)
    file = Path(file)
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("wb") as stream:
        write = np.savez_compressed if compressed else np.savez
        write(stream, header=np.array(json.dumps(_header(scene))), **arrays)
    partial.replace(file)


def _header(scene: Scene) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "conventions": CONVENTIONS,
        "stamp": scene.stamp,
        "scale_source": int(scene.scale_source),
        "scale_std": scene.scale_std,
        "timings": scene.timings,
        "notes": list(scene.notes),
        "cameras": [
            {
                "name": c.name,
                "frame_id": c.frame_id,
                "stamp": c.stamp,
                "width": c.width,
                "height": c.height,
                "confidence": c.confidence,
            }
            for c in scene.cameras
        ],
        "views": [view.camera for view in scene.views],
        "people": [
            {
                "id": p.id,
                "state": int(p.state),
                "confidence": p.confidence,
                "num_points": p.num_points,
                "rois": {camera: list(roi) for camera, roi in p.rois.items()},
                "contacts": int(p.contacts),
                "fit": None
                if p.fit is None
                else {
                    "model": p.fit.model,
                    "model_sha256": p.fit.model_sha256,
                    "rmse": p.fit.rmse,
                    "inliers": p.fit.inliers,
                    "facing": p.fit.facing,
                },
            }
            for p in scene.people
        ],
    }


def load_scene(file: str | Path) -> Scene:
    """Read a file of :func:`save_scene`; the scene is the one that was saved, to the last bit.

    Raises:
        SceneFileError: Not such a file, a newer one, or one that lacks something.
        OSError: It cannot be read.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(str(arrays["header"]))
        if header["format"] != FORMAT:
            raise KeyError("format")
        if header["version"] > VERSION:
            raise SceneFileError(
                f"{file}: written by a newer version (format {header['version']}, this reads up to "
                f"{VERSION}); update hamst3r"
            )
    except FileNotFoundError:
        raise SceneFileError(f"{file}: no such file") from None
    except SceneFileError:
        raise
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile, AttributeError, EOFError) as error:
        raise SceneFileError(
            f"{file}: not a scene; expected a scene.npz that hamst3r reconstruct wrote"
        ) from error
    try:
        return _scene(header, arrays)
    except (KeyError, ValueError, TypeError) as error:
        raise SceneFileError(f"{file}: the scene is not whole: {error}") from error


def _scene(header: dict[str, Any], arrays: dict[str, NDArray]) -> Scene:
    cameras = tuple(
        Camera(
            **entry,
            K=arrays[f"camera_{index}_K"],
            T_world_cam=arrays[f"camera_{index}_T_world_cam"],
        )
        for index, entry in enumerate(header["cameras"])
    )
    views = tuple(
        View(camera, *(arrays[f"view_{index}_{name}"] for name in _VIEW_ARRAYS))
        for index, camera in enumerate(header["views"])
    )
    points = PointCloud(**{f.name: arrays[f"points_{f.name}"] for f in fields(PointCloud)})
    if any(len(getattr(points, f.name)) != len(points.xyz) for f in fields(PointCloud)):
        raise ValueError("columns of the cloud differ in length")
    return Scene(
        stamp=header["stamp"],
        cameras=cameras,
        views=views,
        points=points,
        people=tuple(_person(k, entry, arrays) for k, entry in enumerate(header["people"])),
        scale_source=ScaleSource(header["scale_source"]),
        scale_std=header["scale_std"],
        timings=header["timings"],
        notes=tuple(header["notes"]),
    )


def _person(index: int, entry: dict[str, Any], arrays: dict[str, NDArray]) -> Person:
    def get(name: str) -> NDArray:
        return arrays[f"person_{index}_{name}"]

    fit = entry["fit"]
    if fit is not None:
        fit = BodyFit(**(fit | {name: get(name) for name in _FIT_ARRAYS}))
    return Person(
        id=entry["id"],
        state=TrackingState(entry["state"]),
        confidence=entry["confidence"],
        fit=fit,
        joints=get("joints"),
        joint_std=get("joint_std"),
        position=get("position"),
        covariance=get("covariance"),
        velocity=arrays.get(f"person_{index}_velocity"),
        num_points=entry["num_points"],
        rois={camera: tuple(roi) for camera, roi in entry["rois"].items()},
        contacts=Contact(entry["contacts"]),
    )


def describe(scene: Scene) -> dict[str, Any]:
    """The scene without its dense arrays, as JSON's types, for people and other programs."""
    document = _header(scene)
    document["scale_source"] = scene.scale_source.name.lower()
    document["points"] = len(scene.points)
    for entry, camera in zip(document["cameras"], scene.cameras, strict=True):
        entry |= {"K": camera.K.tolist(), "T_world_cam": camera.T_world_cam.tolist()}
    for entry, person in zip(document["people"], scene.people, strict=True):
        entry["state"] = person.state.name.lower()
        entry["contacts"] = [f.name.lower() for f in Contact if f.name and f & person.contacts]
        entry |= {
            "position": person.position.tolist(),
            "velocity": None if person.velocity is None else person.velocity.tolist(),
            "joints": person.joints.tolist(),
            "joint_std": person.joint_std.tolist(),
        }
        if person.fit is not None:
            entry["fit"] |= {name: getattr(person.fit, name).tolist() for name in _FIT_ARRAYS}
    return document
