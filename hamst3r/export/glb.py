"""One GLB (binary glTF) with everything: points or surfaces, bodies with ids, cameras."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image
from trimesh.visual.material import PBRMaterial
from trimesh.visual.texture import TextureVisuals

from hamst3r.colors import PALETTE, person_colors
from hamst3r.export.geometry import Triangles, frustum, pose_bodies
from hamst3r.people.body import BodyModel
from hamst3r.scene import Camera, Scene

# glTF is y-up: the root node turns our z-up world.
T_GLTF_WORLD = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
MAX_TEXTURE = 320  # long side in pixels of the image before a camera


def write_glb(
    scene: Scene,
    file: Path,
    body: BodyModel,
    camera_size: float,
    surfaces: Mapping[str, Triangles] | None = None,
    images: Mapping[str, NDArray[np.uint8]] | None = None,
) -> None:
    """Write ``points`` or ``surface/<camera>``, ``person/<id>`` and ``camera/<name>``.

    Args:
        camera_size: Depth of the drawn cameras in metres; 0 draws none.
        surfaces: By camera; None writes the cloud instead.
        images: By camera, drawn where the camera looks; the views' own small ones by default.

    Raises:
        OSError: It cannot be written.
    """
    world = trimesh.Scene(base_frame="gltf_y_up")
    world.graph.update("world", "gltf_y_up", matrix=T_GLTF_WORLD)

    def add(geometry: trimesh.parent.Geometry, name: str) -> None:
        world.add_geometry(geometry, node_name=name, geom_name=name, parent_node_name="world")

    if surfaces is None:
        if len(scene.points):
            add(trimesh.PointCloud(scene.points.xyz, _opaque(scene.points.rgb)), "points")
    else:
        for name, surface in surfaces.items():
            if len(surface.faces):
                colors = _opaque(surface.rgb)
                add(_mesh(surface.vertices, surface.faces, colors), f"surface/{name}")
    for person, vertices in pose_bodies(scene.people, body).items():
        colors = _opaque(np.tile(person_colors(np.array(person)), (len(vertices), 1)))
        add(_mesh(vertices, body.faces.numpy(), colors), f"person/{person}")
    small = {view.camera: view.rgb for view in scene.views} | dict(images or {})
    for index, camera in enumerate(scene.cameras if camera_size > 0 else ()):
        for part, geometry in _camera(camera, camera_size, small.get(camera.name), index).items():
            add(geometry, f"camera/{camera.name}{part}")
    if not world.geometry:
        # A file without any geometry cannot be written, or be opened.
        add(trimesh.PointCloud(np.zeros((1, 3)), _opaque(np.zeros((1, 3), np.uint8))), "empty")
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(world.export(file_type="glb"))
    partial.replace(file)


def _opaque(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.column_stack([rgb, np.full(len(rgb), 255, np.uint8)])


def _mesh(vertices: NDArray, faces: NDArray, colors: NDArray[np.uint8]) -> trimesh.Trimesh:
    # Without "process": vertices stay as many as they are and in their order.
    return trimesh.Trimesh(vertices, faces, vertex_colors=colors, process=False)


def _camera(
    camera: Camera, size: float, image: NDArray[np.uint8] | None, index: int
) -> dict[str, trimesh.Trimesh]:
    """A pyramid of four thin edges' worth of triangles, and the image at its base."""
    centre, corners = frustum(camera, size)
    vertices, faces = _rods(centre, corners, 0.02 * size)
    color = np.append(PALETTE[index % len(PALETTE)], 255)
    parts = {"": _mesh(vertices, faces, np.tile(color, (len(vertices), 1)).astype(np.uint8))}
    if image is not None:
        picture = Image.fromarray(image)
        picture.thumbnail((MAX_TEXTURE, MAX_TEXTURE))
        material = PBRMaterial(
            baseColorTexture=picture, doubleSided=True, metallicFactor=0.0, roughnessFactor=1.0
        )
        uv = np.array([[0, 1], [1, 1], [1, 0], [0, 0.0]])
        parts["/image"] = trimesh.Trimesh(
            corners,
            [[0, 3, 1], [1, 3, 2]],
            visual=TextureVisuals(uv, material=material),
            process=False,
        )
    return parts


def _rods(centre: NDArray, corners: NDArray, width: float) -> tuple[NDArray, NDArray]:
    """The eight edges of a pyramid as three-sided rods: lines are a pixel wide, or not drawn."""
    starts = np.concatenate([np.tile(centre, (4, 1)), corners])
    ends = np.concatenate([corners, np.roll(corners, -1, axis=0)])
    vertices: list[NDArray] = []
    faces: list[NDArray] = []
    for start, end in zip(starts, ends, strict=True):
        along = (end - start) / max(float(np.linalg.norm(end - start)), 1e-9)
        aside = np.cross(along, np.eye(3)[np.abs(along).argmin()])
        aside /= np.linalg.norm(aside)
        third = np.cross(along, aside)
        ring = [
            0.5 * width * (np.cos(angle) * aside + np.sin(angle) * third)
            for angle in (0, 2 * np.pi / 3, 4 * np.pi / 3)
        ]
        first = 6 * len(faces)
        vertices += [start + offset for offset in ring] + [end + offset for offset in ring]
        faces.append(first + np.array([[0, 1, 3], [1, 4, 3], [1, 2, 4], [2, 5, 4], [2, 0, 5],
                                       [0, 3, 5], [0, 2, 1], [3, 4, 5]]))  # fmt: skip
    return np.array(vertices), np.concatenate(faces)
