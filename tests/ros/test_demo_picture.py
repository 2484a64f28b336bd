"""The demo's picture, drawn from the truth of a synthetic scene, and what it is made of."""

from __future__ import annotations

import io
import random
import socket

import numpy as np
import pytest
from hamst3r_ros.demo_collector import read_image, read_points
from hamst3r_ros.demo_picture import BACKGROUND, draw, person_color
from hamst3r_ros.demo_snapshot import Body, CameraShot, Snapshot
from hamst3r_ros.splat import Splats, look_at, project, render, segments
from hamst3r_ros.status_table import StatusTable
from rclpy.serialization import deserialize_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import PointCloud2

from hamst3r.scene import PointCloud
from hamst3r.synthetic.motion import MovingScene
from hamst3r_ros import clouds, demo

RED, GREEN = np.uint8([[250, 10, 10]]), np.uint8([[10, 250, 10]])


def seen_by(scene: MovingScene, time: float, bodies: bool) -> Snapshot:
    """What a perfect node would send of a scene."""
    xyz, rgb, instance, camera, shots = [], [], [], [], []
    for index, view in enumerate(scene.render(time)):
        v, u = np.mgrid[: view.depth.shape[0], : view.depth.shape[1]]
        x, y = (u - view.K[0, 2]) / view.K[0, 0], (v - view.K[1, 2]) / view.K[1, 1]
        local = np.stack([x, y, np.ones_like(x)], axis=-1) * view.depth[..., None]
        world = local @ view.T_world_cam[:3, :3].T + view.T_world_cam[:3, 3]
        hit = view.depth > 0
        xyz.append(world[hit])
        rgb.append(view.rgb[hit])
        instance.append(view.instances[hit])
        camera.append(np.full(hit.sum(), index))
        shot = CameraShot(view.name, view.rgb, view.instances, view.K, view.K, view.T_world_cam)
        shots.append(shot)
    people = []
    for state in scene.at(time):
        turns = Rotation.from_matrix(state.rotations).as_rotvec().astype(np.float32)
        parameters = (state.betas, turns[0], turns[1:].ravel(), state.transl)
        fit = (np.float32(p) for p in parameters) if bodies else (None,) * 4
        people.append(Body(state.id, state.joints.astype(np.float32), *fit))
    return Snapshot(
        np.concatenate(xyz).astype(np.float32),
        np.concatenate(rgb),
        np.concatenate(instance),
        np.concatenate(camera),
        tuple(shots),
        tuple(people),
        "title",
        "subtitle",
    )


@pytest.fixture(scope="module")
def scene() -> MovingScene:
    return MovingScene(4, people=2, size=(80, 60))


def share_of(image: np.ndarray, color: tuple[int, int, int]) -> float:
    """Share of the pixels that have a colour's hue and are neither dark nor pale."""
    pixels = image.reshape(-1, 3).astype(float)
    wanted = np.array(color, float) - np.mean(color)
    own = pixels - pixels.mean(axis=1, keepdims=True)
    length = np.linalg.norm(own, axis=1)
    alike = own @ wanted / np.maximum(length * np.linalg.norm(wanted), 1e-6)
    return float(np.mean((alike > 0.985) & (length > 60)))


def test_people_have_their_colours_in_both_views_and_in_the_images(scene: MovingScene) -> None:
    shot = seen_by(scene, 0.5, bodies=False)
    image = draw(shot)
    assert image.dtype == np.uint8 and image.shape[1:] == (1920, 3)
    left, right, strip = image[76:836, :954], image[76:836, 966:], image[848:]
    for part in (left, right, strip):
        for person in (1, 2):
            assert share_of(part, person_color(person)) > 0.001
        assert share_of(part, person_color(4)) < 0.001  # nobody has this one


def test_bodies_are_drawn_over_their_points(scene: MovingScene) -> None:
    plain, fitted = (draw(seen_by(scene, 0.5, bodies=bodies)) for bodies in (False, True))
    changed = np.abs(plain.astype(int) - fitted).max(axis=2) > 12
    assert 0.001 < changed[76:836].mean() < 0.2
    assert not changed[848:].any()  # the images stay as they are


def test_unplaced_and_silent_cameras_leave_a_picture(scene: MovingScene) -> None:
    shot = seen_by(scene, 0.5, bodies=False)
    cameras = list(shot.cameras)
    cameras[0] = CameraShot("off", None, None, None, None, None)
    image = draw(Snapshot(**{**vars(shot), "cameras": tuple(cameras)}))
    assert image.shape[1] == 1920


def test_nothing_is_a_picture_too() -> None:
    none = np.zeros(0, int)
    empty = Snapshot(
        np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), none, none, (), (), "t", "s"
    )
    image = draw(empty)
    assert (image[200:800, 100:900] == BACKGROUND).all()


def test_instances_are_painted_through_both_intrinsics() -> None:
    # A grid of half the size, shifted: its pixel (10, 5) is the image's (20.5 + 4, 10.5 + 6).
    K_image = np.array([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]])
    K_grid = np.array([[50.0, 0, 13.75], [0, 50, 8.75], [0, 0, 1]])
    instances = np.zeros((24, 32), np.uint16)
    instances[3:8, 8:13] = 3
    grey = np.full((48, 64, 3), 128, np.uint8)
    pose = np.eye(4)
    camera = CameraShot("c", grey, instances, K_grid, K_image, pose)
    shot = Snapshot(
        np.zeros((0, 3), np.float32),
        np.zeros((0, 3), np.uint8),
        np.zeros(0, int),
        np.zeros(0, int),
        (camera,),
        (),
        "",
        "",
    )
    strip = draw(shot)[848:-12]
    height = strip.shape[0]
    tile = strip[:, (1920 - int(height * 64 / 48)) // 2 :][:, : int(height * 64 / 48)]
    scale = height / 48
    rows, columns = np.nonzero(
        np.abs(tile.astype(int) - tile.mean(axis=2, keepdims=True)).max(2) > 40
    )
    inner = (rows > 3 * scale) & (columns > 20)  # not the frame, not the name
    expected = K_image @ np.linalg.inv(K_grid) @ [10, 5, 1]
    middle = np.array([np.median(columns[inner]), np.median(rows[inner])]) / scale - 0.5
    np.testing.assert_allclose(middle, expected[:2], atol=2.0)


# --- the renderer -----------------------------------------------------------------------------


def test_nearer_points_hide_farther_ones() -> None:
    view = look_at(np.array([4.0, 0, 0]), np.zeros(3), 60, 40, np.radians(60))
    far = Splats(np.float32([[-1, 0, 0]]), RED, 0.5)
    near = Splats(np.float32([[1, 0, 0]]), GREEN, 0.5)
    for order in ([far, near], [near, far]):
        image = render(view, order)
        assert image[20, 30, 1] > 200 and image[20, 30, 0] < 60
    assert (image[2, 2] == BACKGROUND).all()


def test_an_overlay_is_blended_unless_it_is_clearly_behind() -> None:
    view = look_at(np.array([4.0, 0, 0]), np.zeros(3), 60, 40, np.radians(60))
    points = Splats(np.float32([[0, 0, 0]]), RED, 0.5)
    for depth, visible in ((-0.1, True), (-1.5, False)):
        overlay = Splats(np.float32([[depth, 0, 0]]), GREEN, 0.5)
        assert (render(view, [points], [overlay])[20, 30, 1] > 150) == visible


def test_projection_looks_where_it_is_told() -> None:
    view = look_at(np.array([3.0, 2.0, 1.0]), np.array([0.0, 0, 0.5]), 101, 81, np.radians(90))
    u, v, z = project(view, np.array([[0.0, 0, 0.5], [0.0, 0, 1.5], [6.0, 4.0, 1.5]]))
    np.testing.assert_allclose([u[0], v[0]], [50, 40], atol=1e-9)
    assert v[1] < v[0]  # up is up
    assert z[0] > 0 > z[2]  # the last one is behind


def test_segments_are_evenly_filled() -> None:
    points = segments(np.array([[0.0, 0, 0]]), np.array([[1.0, 0, 0]]), 0.01)
    assert np.diff(points[:, 0]).max() < 0.011
    np.testing.assert_allclose(points[[0, -1], 0], [0, 1])


# --- reading messages -------------------------------------------------------------------------


@pytest.mark.parametrize("body_coordinates", [False, True])
def test_points_are_read_as_they_were_written(body_coordinates: bool) -> None:
    rng = np.random.default_rng(0)
    cloud = PointCloud(
        xyz=rng.normal(size=(50, 3)).astype(np.float32),
        rgb=rng.integers(0, 256, (50, 3)).astype(np.uint8),
        confidence=np.ones(50, np.float32),
        label=rng.integers(0, 2, 50).astype(np.uint8),
        instance=rng.integers(0, 60000, 50).astype(np.uint16),
        camera=rng.integers(0, 4, 50).astype(np.uint8),
        body=rng.random((50, 3)).astype(np.float32),
    )
    sent = clouds.point_cloud(cloud, {}, body_coordinates)
    records = read_points(deserialize_message(sent, PointCloud2))
    np.testing.assert_array_equal(records["z"], cloud.xyz[:, 2])
    np.testing.assert_array_equal(records["rgb"] >> 8 & 255, cloud.rgb[:, 1])
    np.testing.assert_array_equal(records["instance"], cloud.instance)
    np.testing.assert_array_equal(records["camera"], cloud.camera)
    if body_coordinates:
        np.testing.assert_array_equal(records["w"], cloud.body[:, 2])


def test_images_of_another_encoding_are_refused() -> None:
    from sensor_msgs.msg import Image

    with pytest.raises(ValueError, match="mono8"):
        read_image(Image(encoding="mono8", width=1, height=1, step=1))


# --- the demo's other parts -------------------------------------------------------------------


def test_a_domain_in_use_is_not_taken() -> None:
    domain = demo.free_domain(random.Random(5))
    assert 1 <= domain <= 101
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 7410 + 250 * domain))
        assert demo.free_domain(random.Random(5)) != domain


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_table_is_redrawn_in_place_on_a_terminal() -> None:
    stream = Terminal()
    table = StatusTable(stream)
    table.show([("points", "1"), ("people", "nobody")], "brief")
    table.show([("points", "2"), ("people", "nobody")], "brief")
    assert stream.getvalue().count("\x1b[2A\x1b[J") == 1
    table.say("hello")
    after = stream.getvalue().rpartition("hello\n")[2]
    assert after.count("\n") == 2 and "points" in after  # the table is below the line again
    assert "brief" not in stream.getvalue()


def test_long_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    StatusTable(stream).show([("points", "x" * 100)], "")
    assert stream.getvalue().count("x") < 30 and "…" in stream.getvalue()


def test_elsewhere_there_is_a_plain_line_now_and_then() -> None:
    stream, times = io.StringIO(), iter([0.0, 0.0, 0.5, 2.5, 2.5])
    table = StatusTable(stream, clock=lambda: next(times))
    for brief in ("first", "second", "third"):
        table.show([("points", "1")], brief)
    table.say("hello", "\x1b[31m")
    assert stream.getvalue() == "first\nthird\nhello\n"
