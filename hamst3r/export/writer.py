"""Everything that is known of a scene, in one folder."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamst3r.export import usd
from hamst3r.export.colmap import write_colmap
from hamst3r.export.geometry import Triangles, camera_size, view_surface
from hamst3r.export.glb import write_glb
from hamst3r.export.people import write_people
from hamst3r.export.pictures import write_jpg, write_maps
from hamst3r.export.ply import write_ply
from hamst3r.export.scene_file import describe, save_scene
from hamst3r.people.body import BodyModel, anny24
from hamst3r.reconstructor import ReconstructorConfig, confident
from hamst3r.scene import Scene

# What can be left out; scene.npz, scene.json and the images are always written.
FORMATS = ("ply", "glb", "colmap", "png", "smpl", "usd")
SCENE, DOCUMENT, IMAGES = "scene.npz", "scene.json", "images"


@dataclass(frozen=True)
class ExportOptions:
    """What is written, and how.

    Attributes:
        formats: Of ``FORMATS``. surfaces: Triangles instead of points in GLB and USD.
        camera_size: Depth of drawn cameras in metres; None: by their distances, 0: none.
        confidence: Which pixels become surfaces.
    """

    formats: Collection[str] = FORMATS
    surfaces: bool = False
    camera_size: float | None = None
    confidence: ReconstructorConfig = field(default_factory=ReconstructorConfig)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.formats) - set(FORMATS))
        if unknown:
            raise ValueError(
                f"unknown formats {', '.join(unknown)}; there are {', '.join(FORMATS)}"
            )
        if "usd" in self.formats and set(self.formats) != set(FORMATS):
            usd.require()  # it was asked for; among all formats it is left out where it cannot be
        if self.camera_size is not None and self.camera_size < 0:
            raise ValueError(f"the cameras' size must be 0 or more metres, got {self.camera_size}")


def export_scene(
    scene: Scene,
    folder: Path,
    images: Mapping[str, NDArray[np.uint8]],
    options: ExportOptions | None = None,
    details: Mapping[str, Any] | None = None,
    body: BodyModel | None = None,
) -> list[Path]:
    """Write a scene into a folder; what was written.

    Args:
        images: camera -> (H, W, 3) undistorted image of the camera's size.
        details: More entries for ``scene.json``.
        body: Whose parameters the people have; None = the embedded model.

    Raises:
        OSError: It cannot be written.
    """
    options = options or ExportOptions()
    body = body or anny24()
    folder.mkdir(parents=True, exist_ok=True)
    names = file_names([camera.name for camera in scene.cameras])
    (folder / IMAGES).mkdir(exist_ok=True)
    files = {camera: f"{name}.jpg" for camera, name in names.items()}
    for camera, file in files.items():
        write_jpg(folder / IMAGES / file, images[camera])
    written = [folder / IMAGES]
    surfaces = _surfaces(scene, options) if options.surfaces else None
    size = camera_size(scene) if options.camera_size is None else options.camera_size
    if "ply" in options.formats:
        write_ply(scene.points, folder / "points.ply")
        written.append(folder / "points.ply")
    if "glb" in options.formats:
        write_glb(scene, folder / "scene.glb", body, size, surfaces, images)
        written.append(folder / "scene.glb")
    if "colmap" in options.formats:
        write_colmap(scene, folder / "colmap", files)
        written.append(folder / "colmap")
    if "png" in options.formats:
        write_maps(scene, folder, names)
        written += [folder / "depth", folder / "instances"]
    if "smpl" in options.formats:
        write_people([scene], folder / "people.npz")
        written.append(folder / "people.npz")
    if "usd" in options.formats and usd.available():
        usd.write_usd(scene, folder / "scene.usda", body, surfaces)
        written.append(folder / "scene.usda")
    document = describe(scene) | {"images": files} | dict(details or {})
    write_json(folder / DOCUMENT, document)
    # Last: where this file is, everything is.
    save_scene(scene, folder / SCENE)
    return [*written, folder / DOCUMENT, folder / SCENE]


def write_json(file: Path, document: Mapping[str, Any]) -> None:
    """Write a readable JSON file, whole or not at all; raises OSError."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    partial.replace(file)


def file_names(cameras: Collection[str]) -> dict[str, str]:
    """camera -> a name that every file system takes; different ones stay different."""
    names: dict[str, str] = {}
    for camera in cameras:
        clean = re.sub(r"[^\w.-]+", "_", camera).strip(".") or "camera"
        name, number = clean, 1
        while name.lower() in (taken.lower() for taken in names.values()):
            number += 1
            name = f"{clean}_{number}"
        names[camera] = name
    return names


def _surfaces(scene: Scene, options: ExportOptions) -> dict[str, Triangles]:
    return {
        view.camera: view_surface(view, camera, confident(view, options.confidence))
        for view, camera in zip(scene.views, scene.cameras, strict=True)
    }
