"""Exports reopened by libraries that are not ours, and scenes that come back as they were."""

from __future__ import annotations

import dataclasses
import importlib
import json
from html.parser import HTMLParser
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import trimesh
from export_scene import make_scene
from roma import rotvec_to_rotmat

from hamst3r.colors import person_colors
from hamst3r.export import FORMATS, SceneFileError, export_scene, load_scene, save_scene
from hamst3r.export.glb import T_GLTF_WORLD
from hamst3r.export.report import ReportFacts, Shown, grouped, write_report
from hamst3r.export.writer import ExportOptions, file_names
from hamst3r.geometry import invert, project, transform
from hamst3r.people.body import anny24
from hamst3r.reconstructor import fuse_points


def reader(name: str) -> Any:
    """A library that is not ours; some want libraries of the system that a machine may lack."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        pytest.skip(f"{name} cannot be imported: {error}")


@pytest.fixture(scope="module")
def made():
    return make_scene()


@pytest.fixture(scope="module")
def scene(made):
    return made[0]


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    export_scene(*made[:1], folder, made[1], ExportOptions(camera_size=0.25))
    return folder


@pytest.fixture(scope="module")
def surfaces(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mesh")
    export_scene(made[0], folder, made[1], ExportOptions(surfaces=True))
    return folder


def assert_same(a, b, where="scene"):
    assert type(a) is type(b) or isinstance(a, (int, float)), where
    if dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            name = f"{where}.{field.name}"
            assert_same(getattr(a, field.name), getattr(b, field.name), name)
    elif isinstance(a, tuple):
        assert len(a) == len(b), where
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{k}]")
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b, where)
    else:
        assert a == b, where


def test_people_with_near_ids_have_colours_of_their_own():
    colors = person_colors(np.arange(1, 60)).astype(int)
    for first in range(len(colors) - 20):
        apart = abs(colors[first : first + 21, None] - colors[first : first + 21]).sum(-1)
        assert apart[~np.eye(21, dtype=bool)].min() > 30


def test_a_scene_comes_back_to_the_last_bit(scene, folder):
    assert any(person.fit for person in scene.people)
    assert_same(load_scene(folder / "scene.npz"), scene)


def test_what_is_written_can_be_chosen(made, tmp_path):
    export_scene(made[0], tmp_path, made[1], ExportOptions(formats=["ply"]))
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"scene.npz", "scene.json", "images", "points.ply"}
    with pytest.raises(ValueError, match="unknown formats stl; there are ply"):
        ExportOptions(formats=["stl"])


def test_scene_json_says_what_is_there(scene, folder):
    document = json.loads((folder / "scene.json").read_text())
    assert [c["name"] for c in document["cameras"]] == [c.name for c in scene.cameras]
    np.testing.assert_array_equal(document["cameras"][1]["K"], scene.cameras[1].K)
    assert document["points"] == len(scene.points)
    person = document["people"][-1]
    assert person["contacts"] == ["left_foot", "seat"] and person["state"] == "ok"
    assert len(person["fit"]["body_pose"]) == 69
    for file in document["images"].values():
        assert cv2.imread(str(folder / "images" / file)) is not None


@pytest.mark.parametrize("damage", ["text", "foreign", "newer", "lacking", "missing"])
def test_what_is_not_a_scene_is_refused_by_name(scene, folder, tmp_path, damage):
    file = tmp_path / "x.npz"
    if damage == "text":
        file.write_text("hello")
    elif damage == "foreign":
        np.savez(file, a=np.zeros(3))
    elif damage != "missing":
        with np.load(folder / "scene.npz") as archive:
            arrays = dict(archive)
        if damage == "newer":
            header = json.loads(str(arrays["header"])) | {"version": 99}
            arrays["header"] = np.array(json.dumps(header))
        else:
            del arrays["view_0_depth"]
        np.savez(file, **arrays)
    with pytest.raises(SceneFileError, match=r"x\.npz"):
        load_scene(file)


def test_nothing_in_a_scene_file_is_unpickled(tmp_path):
    file = tmp_path / "x.npz"
    np.savez(file, header=np.array([{"format": "hamst3r scene"}], object))
    with pytest.raises(SceneFileError, match="not a scene"):
        load_scene(file)


def test_the_ply_opens_in_trimesh_and_open3d(scene, folder):
    cloud = trimesh.load(folder / "points.ply")
    np.testing.assert_array_equal(cloud.vertices.astype(np.float32), scene.points.xyz)
    np.testing.assert_array_equal(cloud.colors[:, :3], scene.points.rgb)
    record = cloud.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_array_equal(record["instance"], scene.points.instance)
    np.testing.assert_array_equal(record["label"], scene.points.label)
    np.testing.assert_array_equal(record["confidence"], scene.points.confidence)
    open3d = reader("open3d")
    other = open3d.io.read_point_cloud(str(folder / "points.ply"))
    np.testing.assert_allclose(np.asarray(other.points), scene.points.xyz, atol=1e-6)
    np.testing.assert_allclose(255 * np.asarray(other.colors), scene.points.rgb, atol=0.5)


def test_the_glb_has_points_bodies_and_cameras_in_metres(scene, folder):
    glb = trimesh.load(folder / "scene.glb", process=False)
    T, name = glb.graph["points"]
    np.testing.assert_allclose(T, T_GLTF_WORLD, atol=1e-9)
    cloud = glb.geometry[name]
    np.testing.assert_allclose(cloud.vertices, scene.points.xyz, atol=1e-5)
    T, name = glb.graph["person/7"]
    body = glb.geometry[name]
    assert len(body.vertices) == len(anny24().v_template)
    upright = transform(T, body.vertices)  # glTF is y-up
    assert 1.2 < np.ptp(upright[:, 1]) < 2.2
    for camera in scene.cameras:
        T, name = glb.graph[f"camera/{camera.name}/image"]
        corners = transform(invert(T_GLTF_WORLD) @ T, glb.geometry[name].vertices)
        depth = transform(invert(camera.T_world_cam), corners)[:, 2]
        np.testing.assert_allclose(depth, 0.25, atol=1e-5)
        pixels = project(transform(invert(camera.T_world_cam), corners), camera.K)
        np.testing.assert_allclose(pixels.min(0), -0.5, atol=0.01)
        np.testing.assert_allclose(
            pixels.max(0), [camera.width - 0.5, camera.height - 0.5], atol=0.01
        )


def test_surfaces_lie_where_the_points_are(scene, surfaces):
    glb = trimesh.load(surfaces / "scene.glb", process=False)
    for index, camera in enumerate(scene.cameras):
        mesh = glb.geometry[glb.graph[f"surface/{camera.name}"][1]]
        own = scene.points.xyz[scene.points.camera == index]
        assert 0.5 * len(own) < len(mesh.vertices) <= len(own)
        _, distance, _ = trimesh.proximity.closest_point_naive(mesh, own[:: len(own) // 40])
        assert np.median(distance) < 1e-4
        # Triangles face the camera that saw them.
        towards = camera.T_world_cam[:3, 3] - mesh.triangles_center
        assert (np.einsum("fk,fk->f", mesh.face_normals, towards) > 0).mean() > 0.95
    open3d = reader("open3d")
    model = open3d.io.read_triangle_model(str(surfaces / "scene.glb"))
    assert sum(len(part.mesh.triangles) for part in model.meshes) == sum(
        len(mesh.faces) for mesh in glb.geometry.values()
    )
    bounds = [part.mesh.get_axis_aligned_bounding_box() for part in model.meshes]
    np.testing.assert_allclose(
        [
            np.min([box.min_bound for box in bounds], axis=0),
            np.max([box.max_bound for box in bounds], axis=0),
        ],
        glb.bounds,
        atol=1e-4,
    )


def test_the_colmap_model_opens_in_pycolmap(scene, folder):
    pycolmap = reader("pycolmap")
    model = pycolmap.Reconstruction(str(folder / "colmap"))
    assert (model.num_cameras(), model.num_images()) == (3, 3)
    assert model.num_points3D() == len(scene.points)
    for index, camera in enumerate(scene.cameras):
        image = model.images[index + 1]
        np.testing.assert_allclose(
            image.cam_from_world().matrix(), invert(camera.T_world_cam)[:3], atol=1e-9
        )
        assert (folder / "images" / image.name).is_file()
        own = model.cameras[image.camera_id]
        assert (own.width, own.height) == (camera.width, camera.height)
        for k in range(0, image.num_points2D(), max(1, image.num_points2D() // 20)):
            seen = image.points2D[k]
            point = model.points3D[seen.point3D_id]
            assert point.track.elements[0].image_id == index + 1
            assert point.track.elements[0].point2D_idx == k
            predicted = own.img_from_cam(image.cam_from_world() * point.xyz)
            np.testing.assert_allclose(predicted, seen.xy, atol=0.02)
            ours = project(transform(invert(camera.T_world_cam), point.xyz), camera.K)
            np.testing.assert_allclose(seen.xy - 0.5, ours, atol=0.02)


def test_depth_and_ids_are_exact_in_png(scene, folder):
    for view in scene.views:
        depth = cv2.imread(str(folder / "depth" / f"{view.camera}.png"), cv2.IMREAD_UNCHANGED)
        assert depth.dtype == np.uint16
        np.testing.assert_allclose(depth / 1000, view.depth, atol=5.1e-4)
        ids = cv2.imread(str(folder / "instances" / f"{view.camera}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(ids, view.instances)


def test_smpl_parameters_pose_the_body_again(scene, folder):
    with np.load(folder / "people.npz") as people:
        assert people["facing"][-1] == np.float32(0.75)
        assert people["id"].tolist() == [p.id for p in scene.people if p.fit is not None]
        assert people["seen_id"].tolist() == [p.id for p in scene.people]
        assert people["model_sha256"][-1] == anny24().sha256
        turns = np.concatenate([people["global_orient"], people["body_pose"]], 1)
        _, joints = anny24()(
            rotvec_to_rotmat(torch.from_numpy(turns.reshape(-1, 24, 3))),
            torch.from_numpy(people["transl"]),
            torch.from_numpy(people["betas"]),
        )
        np.testing.assert_allclose(joints[-1], people["joints"][-1], atol=1e-5)


def test_usd_has_units_cameras_and_bodies(scene, folder):
    pytest.importorskip("pxr")
    from pxr import Usd, UsdGeom

    stage = Usd.Stage.Open(str(folder / "scene.usda"))
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    assert UsdGeom.GetStageUpAxis(stage) == "Z"
    points = UsdGeom.Points(stage.GetPrimAtPath("/World/Points"))
    np.testing.assert_allclose(np.array(points.GetPointsAttr().Get()), scene.points.xyz, atol=1e-6)
    assert stage.GetPrimAtPath("/World/People/person_7").IsValid()
    for camera in scene.cameras:
        prim = UsdGeom.Camera(stage.GetPrimAtPath(f"/World/Cameras/{camera.name}"))
        seen = prim.GetCamera(0).frustum
        own = scene.points.xyz[scene.points.camera == 0][::200].astype(float)
        pixels = project(transform(invert(camera.T_world_cam), own), camera.K)
        matrix = np.array(seen.ComputeViewMatrix() * seen.ComputeProjectionMatrix())
        clip = np.c_[own, np.ones(len(own))] @ matrix
        ndc = clip[:, :2] / clip[:, 3:]
        expected = np.stack(
            [
                2 * (pixels[:, 0] + 0.5) / camera.width - 1,
                1 - 2 * (pixels[:, 1] + 0.5) / camera.height,
            ],
            -1,
        )
        ahead = np.isfinite(pixels).all(1)
        # USD's frustum has square pixels; fx and fy of these cameras are equal.
        np.testing.assert_allclose(ndc[ahead], expected[ahead], atol=2e-3)


def test_usd_that_was_asked_for_is_not_left_out_in_silence(monkeypatch):
    monkeypatch.setattr("hamst3r.export.usd.available", lambda: False)
    assert "usd" in ExportOptions().formats  # all that there are: without it, then
    with pytest.raises(ValueError, match=r"pip install 'hamst3r\[usd\]'"):
        ExportOptions(formats=["ply", "usd"])


def test_notes_of_many_pairs_are_one_line():
    notes = [f"pair a-b{k}: not recognised" for k in range(6)] + ["dark", "dark", "pair c-d: far"]
    told = ["dark", "pairs a-b0, a-b1, a-b2, a-b3 and 2 more: not recognised", "pair c-d: far"]
    assert grouped(notes) == told


def test_names_of_files_are_safe_and_different():
    names = file_names(["a/b", "a_b", "A_B", "..", "ok-1.x"])
    assert names["ok-1.x"] == "ok-1.x"
    assert len({name.lower() for name in names.values()}) == 5
    assert all("/" not in name and name.strip(".") for name in names.values())


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.links, self.images = [], [], 0

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.sources += [values["src"]] if "src" in values else []
        self.links += [values["href"]] if "href" in values else []
        self.images += tag == "img"


def test_the_report_needs_no_other_file_and_no_network(made, tmp_path):
    scene, images = made
    hostile = dataclasses.replace(scene, notes=("<script>alert(1)</script>",))
    facts = ReportFacts("</script><b>x", 1, 3, 3, 3, 2, 1.5, 1 << 30, {"pairs": "auto"})
    write_report(tmp_path / "report.html", [Shown("", hostile, images)], facts)
    text = (tmp_path / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.images == 4 * len(scene.views)
    assert page.sources and all(source.startswith("data:image/") for source in page.sources)
    assert not page.links and "http:" not in text and "https:" not in text
    assert text.count("<script>") == 1 == text.count("</script>"), "nothing breaks out"
    assert f"{len(scene.points):,}" in text and "from the calibration" in text


def test_an_empty_scene_is_exported_too(made, tmp_path):
    scene = dataclasses.replace(
        made[0],
        cameras=(),
        views=(),
        people=(),
        points=fuse_points((), (), ExportOptions().confidence),
    )
    export_scene(scene, tmp_path, {}, ExportOptions(FORMATS))
    assert_same(load_scene(tmp_path / "scene.npz"), scene)
    trimesh.load(tmp_path / "scene.glb")
    facts = ReportFacts("nothing", 1, 1, 0, 1, 0, 0.1, 1 << 20, {})
    write_report(tmp_path / "report.html", [Shown("", scene, {})], facts)


def test_a_scene_is_saved_whole_or_not_at_all(scene, tmp_path):
    target = tmp_path / "no" / "such"
    with pytest.raises(OSError):
        save_scene(scene, target / "scene.npz")
    save_scene(scene, tmp_path / "scene.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["scene.npz"]
