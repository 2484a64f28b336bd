"""A scene as USD, for Omniverse, Blender and the like; needs ``usd-core``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hamst3r.colors import person_colors
from hamst3r.export.geometry import Triangles, pose_bodies
from hamst3r.people.body import BodyModel
from hamst3r.scene import Camera, Scene

# USD's cameras look along -z with y up; ours along z with y down.
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
APERTURE = 36.0  # tenths of a scene unit by USD's rule; only its ratio to the focal length counts
POINT_WIDTH = 0.01  # metres


def available() -> bool:
    """Whether usd-core is installed."""
    try:
        import pxr  # noqa: F401
    except ImportError:
        return False
    return True


def require() -> None:
    """Raises ValueError without usd-core."""
    if not available():
        raise ValueError("USD needs usd-core; install it: pip install 'hamst3r[usd]'")


def write_usd(
    scene: Scene,
    file: Path,
    body: BodyModel,
    surfaces: Mapping[str, Triangles] | None = None,
) -> None:
    """Write ``/World/Points`` or ``/World/Surfaces``, ``/World/People`` and ``/World/Cameras``.

    Metres, z up. Raises ValueError without usd-core.
    """
    require()
    from pxr import Usd, UsdGeom, Vt

    partial = file.with_name(f"{file.stem}.partial{file.suffix}")
    stage = Usd.Stage.CreateInMemory()
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    stage.SetDefaultPrim(UsdGeom.Xform.Define(stage, "/World").GetPrim())

    def colored(prim, rgb) -> None:
        primvar = prim.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex)
        primvar.Set(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(rgb, np.float32) / 255))

    def mesh(path: str, vertices, faces, rgb) -> None:
        prim = UsdGeom.Mesh.Define(stage, path)
        prim.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(vertices, np.float32)))
        prim.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32)))
        flat = np.ascontiguousarray(faces.reshape(-1), np.int32)
        prim.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(flat))
        prim.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
        colored(prim, rgb)

    if surfaces is None:
        cloud = UsdGeom.Points.Define(stage, "/World/Points")
        cloud.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(scene.points.xyz)))
        cloud.CreateWidthsAttr(Vt.FloatArray([POINT_WIDTH]))
        cloud.SetWidthsInterpolation(UsdGeom.Tokens.constant)
        colored(cloud, scene.points.rgb)
    else:
        for name, surface in surfaces.items():
            path = f"/World/Surfaces/{_identifier(name)}"
            mesh(path, surface.vertices, surface.faces, surface.rgb)
    for person, vertices in pose_bodies(scene.people, body).items():
        rgb = np.tile(person_colors(np.array(person)), (len(vertices), 1))
        mesh(f"/World/People/person_{person}", vertices, body.faces.numpy(), rgb)
    taken: set[str] = set()
    for index, camera in enumerate(scene.cameras):
        name = _identifier(camera.name)
        name = name if name not in taken else f"{name}_{index}"
        taken.add(name)
        _camera(stage, f"/World/Cameras/{name}", camera)
    stage.GetRootLayer().Export(str(partial))
    partial.replace(file)


def _camera(stage, path: str, camera: Camera) -> None:
    from pxr import Gf, UsdGeom

    prim = UsdGeom.Camera.Define(stage, path)
    per_pixel = APERTURE / camera.width
    prim.CreateHorizontalApertureAttr(APERTURE)
    prim.CreateVerticalApertureAttr(per_pixel * camera.height)
    prim.CreateFocalLengthAttr(float(per_pixel * camera.K[0, 0]))
    offset_x = (camera.width - 1) / 2 - camera.K[0, 2]
    offset_y = camera.K[1, 2] - (camera.height - 1) / 2
    prim.CreateHorizontalApertureOffsetAttr(float(per_pixel * offset_x))
    prim.CreateVerticalApertureOffsetAttr(float(per_pixel * offset_y))
    # USD's matrices multiply rows.
    matrix = Gf.Matrix4d(*(camera.T_world_cam @ FLIP).T.ravel().tolist())
    prim.AddTransformOp().Set(matrix)


def _identifier(name: str) -> str:
    clean = re.sub(r"\W", "_", name, flags=re.ASCII)
    return clean if clean[:1].isalpha() or clean[:1] == "_" else f"_{clean}"
