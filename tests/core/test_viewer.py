"""hamst3r view: in a real browser where there is one, and without where that says more."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from export_scene import make_scene

from hamst3r.cli import main
from hamst3r.export import SceneFileError, export_scene
from hamst3r.export.writer import ExportOptions
from hamst3r.live import cloud_of, scene_of
from hamst3r.scene import Contact, ScaleSource, TrackingState
from hamst3r.scene_folder import stored_scenes

pytest.importorskip("viser")
from viser.transforms import SE3

from hamst3r.viewer import Moment, SceneViewer, pick

GL = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="module")
def made():
    return make_scene()


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    export_scene(made[0], folder, made[1], ExportOptions(formats=()))
    return folder


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    playwright = pytest.importorskip("playwright.sync_api")
    if chromium is None:
        pytest.skip("no chromium is installed")
    with playwright.sync_playwright() as tools:
        own = tools.chromium.launch(executable_path=chromium, args=GL)
        yield own
        own.close()


@pytest.fixture
def viewer():
    viewer = SceneViewer("127.0.0.1", 0)
    yield viewer
    viewer.close()


def picture(page, clip=None) -> np.ndarray:
    data = np.frombuffer(page.screenshot(timeout=120_000, clip=clip), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError("it did not come about")


def test_a_ray_picks_the_nearest_point_that_it_hits():
    xyz = np.array([[0, 0, 5], [0, 0.001, 3], [0, 1, 1], [0, 0, -2]], np.float32)
    np.testing.assert_allclose(pick(xyz, (0, 0, 0), (0, 0, 7)), xyz[1])
    np.testing.assert_allclose(pick(xyz, (0, 0, 4), (0, 0, 1)), xyz[0])
    assert pick(xyz, (0, 0, 0), (1, 0, 0)) is None
    assert pick(xyz[:0], (0, 0, 0), (1, 0, 0)) is None


def test_the_page_shows_points_people_and_cameras_and_measures(made, viewer, browser):
    scene, images = made
    later = replace(scene, people=())
    viewer.show([Moment("first", lambda: (scene, images)), Moment("second", lambda: (later, {}))])
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.goto(viewer.address)
    page.get_by_text("second").wait_for(timeout=90_000)
    canvas = {"x": 0, "y": 200, "width": 600, "height": 500}
    until(lambda: picture(page, canvas).std() > 8)
    assert page.get_by_text("nobody").is_visible()
    # Back in time there are people, one of them with a body.
    viewer._time.value = 0
    viewer._show_time()
    page.get_by_text("first").first.wait_for(timeout=30_000)
    page.get_by_text("body ±2 cm").wait_for(timeout=30_000)
    assert {"/people/7", "/names/person_7", "/cameras/2"} <= set(viewer._nodes)
    # Coloured by person, the rest turns grey.
    viewer._coloring.value = "person"
    viewer._draw()
    viewer._show_bodies.value = viewer._show_cameras.value = viewer._show_names.value = False
    viewer._draw()
    until(lambda: np.ptp(picture(page, canvas), axis=-1).mean() > 0.1)
    # Two clicks on points measure their distance.
    viewer._measure.value = True
    viewer._start_measuring()
    page.get_by_text("click a point").wait_for(timeout=30_000)
    (client,) = viewer._server.get_clients().values()
    clicked = []
    for point in _apart(scene, client):
        page.mouse.click(*point)
        clicked.append(point)
        until(lambda: len(viewer._picked) == len(clicked), 30)
    told = np.linalg.norm(viewer._picked[1] - viewer._picked[0])
    page.get_by_text(f"{told:.3f} m").first.wait_for(timeout=30_000)
    if "HAMST3R_SCREENSHOTS" in os.environ:
        page.screenshot(path=f"{os.environ['HAMST3R_SCREENSHOTS']}/view.png", timeout=120_000)
    for picked in viewer._picked:
        assert np.abs(scene.points.xyz - picked).sum(1).min() < 1e-6
    assert 0.1 < told < 15
    page.close()


def _apart(scene, client):
    """Two places on the page (pixels) where points are."""
    T = SE3(np.concatenate([client.camera.wxyz, client.camera.position])).inverse()
    inside = T.as_matrix()[:3, :3] @ scene.points.xyz.T + T.as_matrix()[:3, 3:]
    focal = 350 / np.tan(client.camera.fov / 2)
    u, v = 500 + focal * inside[0] / inside[2], 350 + focal * inside[1] / inside[2]
    seen = (inside[2] > 0.2) & (u > 40) & (u < 620) & (v > 240) & (v < 660)
    u, v = u[seen], v[seen]
    return [(u[k], v[k]) for k in (int(u.argmin()), int(u.argmax()))]


def test_the_report_shows_the_scene_in_a_browser(made, tmp_path, browser):
    from hamst3r.export.report import ReportFacts, Shown, write_report

    scene, images = made
    facts = ReportFacts("a room", 1, 3, 3, 3, 2, 1.5, 1 << 30, {})
    write_report(tmp_path / "report.html", [Shown("", scene, images)], facts)
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    page.get_by_text("person 7").first.wait_for(timeout=60_000)
    stage = page.locator(".stage").bounding_box()
    shown = picture(page, stage)
    assert shown.std() > 10, "there is something to see"
    page.mouse.move(stage["x"] + 300, stage["y"] + 300)
    page.mouse.down()
    page.mouse.move(stage["x"] + 420, stage["y"] + 330)
    page.mouse.up()
    turned = picture(page, stage)
    assert np.abs(turned - shown).mean() > 1, "it turns"
    page.get_by_label("colour").select_option("person")
    assert np.abs(picture(page, stage) - turned).mean() > 1
    if "HAMST3R_SCREENSHOTS" in os.environ:
        page.screenshot(path=f"{os.environ['HAMST3R_SCREENSHOTS']}/report.png", timeout=120_000)
    assert not errors and all(url.startswith(("file:", "data:")) for url in requests)
    page.close()


def test_growing_folders_are_followed(made, tmp_path):
    assert stored_scenes(tmp_path) == []
    for k in range(2):
        export_scene(made[0], tmp_path / f"{k:06d}", made[1], ExportOptions(formats=()))
        sets = [{"folder": f"{j:06d}", "stamp": j} for j in range(k + 1)]
        (tmp_path / "sequence.json").write_text(json.dumps({"sets": sets}))
        assert len(stored_scenes(tmp_path)) == k + 1
    images = stored_scenes(tmp_path)[1].images()
    assert {name: image.shape for name, image in images.items()} == {
        name: image.shape for name, image in made[1].items()
    }
    (tmp_path / "sequence.json").write_text("{")
    with pytest.raises(SceneFileError, match=r"sequence\.json"):
        stored_scenes(tmp_path)


def test_the_command_serves_and_ends(folder):
    command = [sys.executable, "-m", "hamst3r.cli", "view", str(folder), "--port", "0"]
    process = subprocess.Popen([*command, "--live", "--seconds", "60"], stdout=subprocess.PIPE)
    try:
        line = process.stdout.readline().decode()
        assert line.startswith("http://127.0.0.1:") and str(folder) in line
        from urllib.request import urlopen

        with urlopen(line.split()[0], timeout=30) as answer:
            assert b"<html" in answer.read(4000)
        process.send_signal(2)
        assert process.wait(30) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["/hamst3r"], "add --live"),
        (["{empty}"], "holds no scene.npz"),
        (["{folder}", "--port", "99999"], "--port must be"),
        (["{folder}/scene.json"], "scene.json: not a scene"),
        (["{folder}", "--rerun", "no/such/x.rrd"], "no such folder"),
    ],
)
def test_what_cannot_be_viewed_is_one_line(folder, tmp_path, capsys, arguments, expected):
    given = [a.format(folder=folder, empty=tmp_path) for a in arguments]
    assert main(["view", *given]) == 1
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_a_rerun_recording_holds_the_scene(made, folder, tmp_path, capsys):
    pytest.importorskip("rerun")
    file = tmp_path / "x.rrd"
    assert main(["view", str(folder), "--rerun", str(file)]) == 0
    assert file.stat().st_size > made[0].points.xyz.nbytes / 2
    assert "1 scene" in capsys.readouterr().out
    listed = subprocess.run(
        [sys.executable, "-m", "rerun", "rrd", "print", str(file)], capture_output=True, text=True
    ).stdout  # fmt: skip
    for entity in ("/world/points", "/world/people/7/body", f"cameras/{made[0].cameras[0].name}"):
        assert entity in listed


def vector(x, y, z):
    return SimpleNamespace(x=x, y=y, z=z)


def cloud_message(big=False):
    order = ">" if big else "<"
    layout = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("rgb", "f4"), ("label", "u1"),
              ("instance", "u2"), ("confidence", "f4")]  # fmt: skip
    records = np.zeros(3, [(name, order + kind) for name, kind in layout])
    records["x"], records["z"] = [1, 2, np.nan], 3
    packed = np.array([0x102030, 0xFF0001, 0], order + "u4")
    records["rgb"] = packed.view(order + "f4")
    records["instance"], records["label"], records["confidence"] = [0, 9, 9], [0, 1, 1], 2.5
    codes = {"f4": 7, "u1": 2, "u2": 4}
    fields = [
        SimpleNamespace(name=name, offset=records.dtype.fields[name][1], datatype=codes[kind])
        for name, kind in layout
    ]
    stamp = SimpleNamespace(sec=3, nanosec=4)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=stamp), fields=fields, is_bigendian=big, width=3, height=1,
        point_step=records.itemsize, data=records.tobytes(),
    )  # fmt: skip


@pytest.mark.parametrize("big", [False, True])
def test_clouds_of_a_node_become_points(big):
    cloud = cloud_of(cloud_message(big))
    np.testing.assert_array_equal(cloud.xyz, [[1, 0, 3], [2, 0, 3]])
    np.testing.assert_array_equal(cloud.rgb, [[0x10, 0x20, 0x30], [0xFF, 0, 1]])
    assert cloud.instance.tolist() == [0, 9] and cloud.instance.dtype == np.uint16
    assert cloud.confidence.tolist() == [2.5, 2.5] and np.isnan(cloud.body).all()
    message = cloud_message()
    message.fields = message.fields[:2]
    with pytest.raises(ValueError, match="needs fields x, y, z, got x, y"):
        cloud_of(message)


def test_messages_of_a_node_become_a_scene(made):
    source = made[0].people[-1]
    pose = SimpleNamespace(position=vector(1, 2, 3), orientation=vector(0, 0, 0))
    pose.orientation.w = 1.0
    human = SimpleNamespace(
        id=9, tracking_state=1, confidence=0.5, body_model=source.fit.model,
        body_model_sha256=source.fit.model_sha256, betas=source.fit.betas,
        global_orient=source.fit.global_orient, body_pose=source.fit.body_pose,
        transl=source.fit.transl, fit_rmse=0.02, fit_inliers=7,
        joints=[vector(*joint) for joint in source.joints], joint_std=source.joint_std,
        pose=SimpleNamespace(pose=pose, covariance=np.arange(36.0)), velocity_valid=False,
        velocity=SimpleNamespace(linear=vector(0, 0, 0)), num_points=1, cameras=["a"],
        rois=[SimpleNamespace(x_offset=1, y_offset=2, width=3, height=4)], contacts=17,
    )  # fmt: skip
    camera = SimpleNamespace(
        name="a", frame_id="a_optical", stamp=SimpleNamespace(sec=1, nanosec=2), width=64,
        height=48, k=np.eye(3).ravel(), pose=pose, confidence=0.7,
    )  # fmt: skip
    scene = scene_of(
        cloud_message(),
        SimpleNamespace(cameras=[camera]),
        SimpleNamespace(humans=[human], scale_source=2, scale_std=0.1),
    )
    assert scene.stamp == 3_000_000_004 and scene.scale_source is ScaleSource.CALIBRATION
    (person,) = scene.people
    assert person.state is TrackingState.OK and person.contacts == Contact.LEFT_FOOT | Contact.SEAT
    np.testing.assert_array_equal(person.fit.body_pose, source.fit.body_pose)
    np.testing.assert_array_equal(person.joints, source.joints)
    np.testing.assert_array_equal(scene.cameras[0].T_world_cam[:3, 3], [1, 2, 3])
    viewer = SceneViewer("127.0.0.1", 0)
    try:
        viewer.show_scene(scene, {})
        assert {"/points", "/people/9", "/cameras/0"} <= set(viewer._nodes)
        viewer.show_scene(replace(scene, people=(), cameras=()), {})
        assert set(viewer._nodes) == {"/points"}, "what is gone goes"
    finally:
        viewer.close()
