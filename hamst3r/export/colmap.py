"""A scene as a COLMAP model in text form: cameras.txt, images.txt, points3D.txt.

COLMAP's pixels have their centres at halves, and its poses map world to camera (its documentation,
"Output format"). Each point is observed by the one camera that made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from hamst3r.geometry import invert, project, transform
from hamst3r.scene import Scene

# The text takes a hundred bytes a point; what COLMAP's users do with points needs no more.
MAX_POINTS = 100_000


def write_colmap(scene: Scene, folder: Path, images: Mapping[str, str]) -> int:
    """Write the model; the number of points written.

    Args:
        images: camera -> name of its image file, of the camera's size and undistorted.

    Raises:
        OSError: It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cameras, poses = ["# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy"], []
    count = len(scene.points)
    chosen = np.linspace(0, count - 1, min(count, MAX_POINTS)).astype(int)
    xyz, seen_by = scene.points.xyz[chosen].astype(float), scene.points.camera[chosen]
    pixels = np.full((len(chosen), 2), np.nan)
    order = np.zeros(len(chosen), int)
    for index, camera in enumerate(scene.cameras):
        fx, fy, cx, cy = camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]
        intrinsics = _numbers(fx, fy, cx + 0.5, cy + 0.5)
        cameras.append(f"{index + 1} PINHOLE {camera.width} {camera.height} {intrinsics}")
        T_cam_world = invert(camera.T_world_cam)
        own = np.flatnonzero(seen_by == index)
        pixels[own] = project(transform(T_cam_world, xyz[own]), camera.K) + 0.5
        order[own] = np.arange(len(own))
        x, y, z, w = Rotation.from_matrix(T_cam_world[:3, :3]).as_quat()
        pose = _numbers(w, x, y, z, *T_cam_world[:3, 3])
        poses.append(f"{index + 1} {pose} {index + 1} {images[camera.name]}")
        poses.append(
            " ".join(
                f"{u:.2f} {v:.2f} {k + 1}"
                for k, (u, v) in zip(own.tolist(), pixels[own].tolist(), strict=True)
            )
        )
    rows = ["# POINT3D_ID X Y Z R G B ERROR TRACK(IMAGE_ID POINT2D_IDX)"]
    for k, (p, rgb, camera_index, at) in enumerate(
        zip(
            xyz.tolist(),
            scene.points.rgb[chosen].tolist(),
            seen_by.tolist(),
            order.tolist(),
            strict=True,
        )
    ):
        rows.append(
            f"{k + 1} {p[0]:.6f} {p[1]:.6f} {p[2]:.6f} {rgb[0]} {rgb[1]} {rgb[2]} 0 "
            f"{camera_index + 1} {at}"
        )
    poses.insert(0, "# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then X Y POINT3D_ID ...")
    for name, lines in (("cameras", cameras), ("images", poses), ("points3D", rows)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(chosen)


def _numbers(*values: float) -> str:
    return " ".join(repr(float(value)) for value in values)
