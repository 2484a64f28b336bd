"""The node over real DDS: lifecycle, outputs, services, parameters, TF."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from bench import FAILURE, LATCHED, STEP, SUCCESS, K, camera_info, image, ring
from hamst3r_msgs.msg import CameraArray, HumanArray
from hamst3r_msgs.srv import SaveScene
from hamst3r_ros.headers import from_transform, to_nanoseconds
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import ChangeState
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from hamst3r.export import load_scene
from hamst3r.network.parity import rule

MAST3R = Path(__file__).parents[1] / "core" / "parity" / "mast3r.json"


def assert_poses(message: TFMessage, known: dict[str, np.ndarray], world: str) -> None:
    found = {t.child_frame_id: t for t in message.transforms}
    assert set(found) == {f"hamst3r/{name}_optical_frame" for name in known}
    for name, T in known.items():
        transform = found[f"hamst3r/{name}_optical_frame"]
        assert transform.header.frame_id == world
        T_found = from_transform(transform.transform)
        assert np.linalg.norm(T_found[:3, 3] - T[:3, 3]) < 1e-3
        turn = Rotation.from_matrix(T_found[:3, :3].T @ T[:3, :3]).magnitude()
        assert np.degrees(turn) < 0.1


def test_every_output_of_a_rig_known_from_tf(bench):
    it = bench(("a", "b"), world__known_extrinsics="tf")
    known = ring(it.cameras)
    it.put_up()
    points = it.listen(PointCloud2, "/hamst3r/points")
    humans = it.listen(HumanArray, "/hamst3r/humans")
    markers = it.listen(MarkerArray, "/hamst3r/humans/markers")
    cameras = it.listen(CameraArray, "/hamst3r/cameras")
    frames = it.listen(TFMessage, "/tf", 100)
    views = [
        it.listen(kind, f"/hamst3r/{name}/{topic}")
        for name in it.cameras
        for kind, topic in (
            (Image, "depth"),
            (Image, "instances"),
            (CameraInfo, "camera_info"),
            (Image, "densepose"),
            (PointCloud2, "points"),
        )
    ]
    obstacles = it.listen(PointCloud2, "/hamst3r/obstacles")
    it.activate()
    outputs = [points, obstacles, humans, markers, cameras, frames, *views]
    it.until(lambda: all(outputs), it.shoot)

    assert_poses(frames[-1], known, "hamst3r_world")
    assert [c.name for c in cameras[-1].cameras] == it.cameras
    np.testing.assert_allclose(cameras[-1].cameras[0].k.reshape(3, 3), K)
    assert cameras[-1].cameras[0].confidence == 1.0
    for message in (points[-1], humans[-1], cameras[-1]):
        assert message.header.frame_id == "hamst3r_world"
        # Stamps are those of images that were sent, to the nanosecond.
        assert (it.stamp - to_nanoseconds(message.header.stamp)) % STEP == 0
    depth, instances, info = (view[-1] for view in views[:3])
    assert (depth.encoding, instances.encoding) == ("32FC1", "16UC1")
    assert (info.width, info.height) == (depth.width, depth.height)
    assert depth.header.frame_id == "a_optical_frame"
    organised = views[4][-1]
    assert organised.header.frame_id == "a_optical_frame"
    assert (organised.width, organised.height) == (depth.width, depth.height)
    it.until(lambda: it.value("inference", "frame_sets") not in ("", "0"))
    assert it.value("cameras", "a.state") == "active"
    assert it.value("world", "cameras_placed") == "2"


def test_poses_from_a_calibration_file(bench, tmp_path):
    names = ("a", "b")
    known = ring(names)
    file = tmp_path / "calibration.json"
    entries = {
        name: {
            "K": K.tolist(),
            "R": T[:3, :3].T.tolist(),
            "t": (-T[:3, :3].T @ T[:3, 3]).tolist(),
            "width": 64,
            "height": 48,
        }
        for name, T in known.items()
    }
    file.write_text(json.dumps({"cameras": entries}))
    it = bench(
        names, world__known_extrinsics="file", world__calibration_file=str(file), world__frame="w"
    )
    frames = it.listen(TFMessage, "/tf", 100)
    it.activate()
    it.until(lambda: frames, it.shoot)
    assert_poses(frames[-1], known, "w")


def test_missing_transforms_are_told_and_estimated(bench):
    it = bench(("a", "b"), world__known_extrinsics="tf", world__rig_frame="base_link")
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.activate()
    it.until(lambda: humans and "base_link" in it.message("world"), it.shoot)
    assert len(it.problems("a: no transform from 'a_optical_frame' to 'base_link'")) == 1


def test_weights_that_are_missing_can_be_corrected(bench, tiny_weights, tmp_path):
    it = bench(("a", "b"), weights=str(tmp_path / "none.safetensors"))
    assert it.node.trigger_configure() == FAILURE
    assert it.node.state == State.PRIMARY_STATE_UNCONFIGURED
    it.until(lambda: it.problems("none.safetensors") and "none" in it.message("inference"))
    (line,) = it.problems("none.safetensors")
    assert "no such weights file" in line and "model.weights" in line and "\n" not in line
    assert it.set(model__weights=tiny_weights) == []
    it.activate()
    it.until(lambda: it.message("inference") == "waiting for the first frame set")
    # Outputs can also be made a second time.
    for trigger in (it.node.trigger_deactivate, it.node.trigger_cleanup):
        assert trigger() == SUCCESS
    it.activate()
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.until(lambda: humans, it.shoot)


@pytest.fixture(scope="module")
def public_weights(tmp_path_factory) -> str:
    """A small file in MASt3R's public format: places, but no people."""
    content = json.loads(MAST3R.read_text())
    state = {key: rule(key, tuple(shape)) for key, shape in content["keys"].items()}
    path = tmp_path_factory.mktemp("weights") / "mast3r.pth"
    torch.save({"args": argparse.Namespace(model=content["meta"]["model"]), "model": state}, path)
    return str(path)


def test_weights_without_human_heads_give_places(bench, public_weights):
    it = bench(("a", "b"), weights=public_weights, world__known_extrinsics="tf")
    it.put_up()
    humans = it.listen(HumanArray, "/hamst3r/humans")
    points = it.listen(PointCloud2, "/hamst3r/points")
    it.activate()
    it.until(lambda: humans and points and it.message("inference"), it.shoot)
    assert humans[0].humans == [] and points[0].width > 0
    assert len(it.problems("no people: the weights have no human heads")) == 1
    assert "no people" in it.message("inference")
    assert it.value("device", "provides") == "pointmaps, descriptors"


def test_people_come_from_a_second_network(bench, public_weights, tiny_weights):
    it = bench(
        ("a", "b"),
        weights=public_weights,
        model__human_weights=tiny_weights,
        world__known_extrinsics="tf",
    )
    it.put_up()
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.activate()
    it.until(lambda: humans and it.value("device", "provides"), it.shoot)
    assert it.problems("no people") == []
    assert it.value("device", "provides") == "pointmaps, descriptors, humans"
    assert it.node.trigger_deactivate() == SUCCESS and it.node.trigger_cleanup() == SUCCESS
    assert it.set(model__human_weights=public_weights) == []
    assert it.node.trigger_configure() == FAILURE
    it.until(lambda: it.problems("'model.human_weights': no human heads in"))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"cameras": [""]}, "'cameras' is empty"),
        ({"cameras": ["a", "/a"]}, "names a camera twice"),
        ({"sync__min_cameras": 3}, "only 2 cameras; lower it"),
        ({"sync__reference_camera": "x"}, "expected one of a, b"),
        ({"image_topics": ["x"]}, "'image_topics' has 1 topics, but there are 2 cameras"),
        ({"stamp_offsets": [0.1, 0.2, 0.3]}, "'stamp_offsets' has 3 numbers"),
        ({"humans__body_model": "none.npz"}, "none.npz: cannot read the body model"),
        ({"world__known_extrinsics": "file"}, "'world.calibration_file' is empty"),
        ({"model__weights_sha256": "0" * 64}, "SHA-256 is"),
        ({"model__image_size": 3}, "expected 0 or at least 16"),
        ({"model__device": "cuda:99"}, "cuda:99"),
    ],
)
def test_parameters_that_cannot_work_are_one_line(bench, values, told):
    it = bench(("a", "b"))
    assert it.set(**values) == []
    assert it.node.trigger_configure() == FAILURE
    it.until(lambda: it.problems("cannot configure"))
    (line,) = it.problems("cannot configure")
    assert told in line and "\n" not in line


def test_a_calibration_file_with_a_missing_key(bench, tmp_path):
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({"cameras": {"a": {"K": K.tolist(), "R": np.eye(3).tolist()}}}))
    it = bench(("a", "b"), world__known_extrinsics="file", world__calibration_file=str(file))
    assert it.node.trigger_configure() == FAILURE
    it.until(lambda: it.problems("calibration.json") and "'t'" in it.message("inference"))
    (line,) = it.problems("calibration.json")
    assert "camera 'a'" in line and "key 't' is missing; add it" in line


@pytest.mark.parametrize("transition", ["configure", "activate"])
def test_what_nobody_expected_is_told_and_can_be_tried_again(bench, monkeypatch, transition):
    it = bench(("a", "b"))
    with monkeypatch.context() as broken:
        broken.setattr(it.node, f"_{transition}", lambda *_: [].pop())
        if transition == "activate":
            assert it.node.trigger_configure() == SUCCESS
        assert getattr(it.node, f"trigger_{transition}")() == FAILURE
    it.until(lambda: it.problems(f"cannot {transition}: IndexError pop from empty list"))
    it.until(lambda: it.message("inference").startswith(f"cannot {transition}"))
    if transition == "configure":
        assert it.node.trigger_configure() == SUCCESS
    assert it.node.trigger_activate() == SUCCESS
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.until(lambda: humans and "cannot" not in it.message("inference"), it.shoot)


def test_lifecycle_over_services(bench):
    it = bench(("a", "b"))
    client = it.peer.create_client(ChangeState, "/hamst3r/change_state")
    it.until(client.service_is_ready)
    for transition, state in (
        ("configure", State.PRIMARY_STATE_INACTIVE),
        ("activate", State.PRIMARY_STATE_ACTIVE),
        ("deactivate", State.PRIMARY_STATE_INACTIVE),
        ("cleanup", State.PRIMARY_STATE_UNCONFIGURED),
        ("shutdown", State.PRIMARY_STATE_FINALIZED),
    ):
        request = ChangeState.Request()
        request.transition.label = transition
        answer = client.call_async(request)
        it.until(answer.done)
        assert answer.result().success, transition
        assert it.node.state == state


def call(it, kind, name, **fields):
    client = it.peer.create_client(kind, f"/hamst3r/{name}")
    it.until(client.service_is_ready)
    answer = client.call_async(kind.Request(**fields))
    it.until(answer.done)
    return answer.result()


def test_pause_reset_and_save(bench, tmp_path):
    it = bench(("a", "b"), output_dir=str(tmp_path / "out"), world__known_extrinsics="tf")
    it.put_up()
    assert not call(it, Trigger, "reset").success
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.activate()
    assert "no scene yet" in call(it, SaveScene, "save_scene", path="x.npz").message
    it.until(lambda: humans, it.shoot)

    saved = call(it, SaveScene, "save_scene", path="sub/x", format="npz", include_humans=True)
    assert saved.success, saved.message
    stored = load_scene(tmp_path / "out" / "sub" / "x.npz")  # as `hamst3r view` does
    assert len(stored.points) == saved.num_points
    assert [camera.name for camera in stored.cameras] == ["a", "b"]
    saved = call(it, SaveScene, "save_scene", path="x.ply")
    head, _, body = (tmp_path / "out" / "x.ply").read_bytes().partition(b"end_header\n")
    assert f"element vertex {saved.num_points}\n".encode() in head
    assert len(body) == saved.num_points * 35
    for path in ("../x.npz", "/tmp/x.npz", "", "a/../../x.ply", "x.pcd"):
        assert not call(it, SaveScene, "save_scene", path=path).success

    assert call(it, SetBool, "pause", data=True).success
    it.until(lambda: it.message("inference") == "paused")
    it.node._worker.mailbox.clear()
    before = int(it.value("inference", "frame_sets"))
    received = int(it.value("frame_sets", "received"))
    it.until(lambda: int(it.value("frame_sets", "received")) > received + 10, it.shoot)
    assert int(it.value("inference", "frame_sets")) <= before + 1
    assert call(it, SetBool, "pause", data=False).success
    answer = call(it, Trigger, "reset")
    assert answer.success and "forgotten" in answer.message
    humans.clear()
    it.until(lambda: humans, it.shoot)


def test_who_asks_late_gets_the_map_at_once_and_a_reset_starts_a_new_one(bench):
    it = bench(("a", "b"), world__known_extrinsics="tf", map__rate=0.0, map__voxel=0.5)
    it.put_up()
    first = it.listen(PointCloud2, "/hamst3r/map", LATCHED)
    it.activate()
    it.until(lambda: first and first[-1].width, it.shoot)
    assert [f.name for f in first[-1].fields] == ["x", "y", "z", "rgb"]
    late = []
    it.peer.create_subscription(PointCloud2, "/hamst3r/map", late.append, LATCHED)
    it.until(lambda: late)  # and no image since
    assert to_nanoseconds(late[0].header.stamp) == to_nanoseconds(first[-1].header.stamp)
    assert call(it, Trigger, "reset").success
    before = len(first)
    it.until(lambda: len(first) > before, it.shoot)
    assert first[before].width == 0  # seen once only


def test_rests_while_nobody_listens(bench):
    it = bench(("a", "b"), lazy=True)
    it.activate()
    it.until(
        lambda: it.status.get("frame_sets") and int(it.value("frame_sets", "nobody_listened")) > 3,
        it.shoot,
    )
    assert it.value("inference", "frame_sets") == "0"
    assert "resting" in it.message("inference")
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.until(lambda: humans, it.shoot)


def test_dynamic_parameters_take_effect_and_others_are_refused(bench):
    it = bench(("a", "b"), world__known_extrinsics="tf")
    it.put_up()
    points = it.listen(PointCloud2, "/hamst3r/points")
    it.activate()
    it.until(lambda: points and points[-1].width > 5, it.shoot)
    assert it.set(points__max=5, points__body_coordinates="on") == []
    it.until(lambda: points[-1].width == 5, it.shoot)
    assert points[-1].point_step == 36
    (reason,) = it.set(cameras=["a"])
    assert "cleanup" in reason
    (reason,) = it.set(sync__min_cameras=3)
    assert "only 2 cameras; lower it" in reason
    (reason,) = it.set(points__max=0)
    assert "points.max" in reason
    (reason,) = it.set(points__body_coordinates="maybe")
    assert "auto | on | off" in reason
    assert it.set(humans__track_timeout=0.5) == []
    # A whole number is a number.
    assert it.set(rate__max=1000) == []


def test_compressed_images(bench):
    from bench import jpeg

    it = bench(("a", "b"), transport="compressed")
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.activate()

    def shoot():
        it.stamp += STEP
        for name in it.cameras:
            it.publish(f"{name}/image_raw/compressed", jpeg(it.stamp, name, it.pixels[name]))

    it.until(lambda: humans, shoot)


def test_drivers_with_topics_of_their_own(bench):
    it = bench(
        ("a", "b"),
        image_topics=["/left/color", "right/image"],
        info_topics=["i", "/j/k"],
        world__known_extrinsics="tf",
    )
    it.put_up()
    cameras = it.listen(CameraArray, "/hamst3r/cameras")
    it.activate()

    def shoot():
        it.stamp += STEP
        for name, topic, info in (("a", "/left/color", "/i"), ("b", "/right/image", "/j/k")):
            it.publish(info, camera_info())
            it.publish(topic, image(it.stamp, name, it.pixels[name]))

    def known():
        return cameras and len(cameras[-1].cameras) and cameras[-1].cameras[-1].k[0] == K[0, 0]

    it.until(known, shoot)
    it.until(lambda: it.value("cameras", "b.topic") == "/right/image")


def test_a_clock_that_is_off_is_put_right_by_its_offset(bench):
    it = bench(("a", "b"), sync__slop=0.01, world__known_extrinsics="tf")
    it.put_up()
    late = 7 * STEP // 20  # 35 ms
    humans = it.listen(HumanArray, "/hamst3r/humans")
    depth = it.listen(Image, "/hamst3r/b/depth")
    it.activate()

    def shoot():
        it.stamp += STEP
        it.publish("a/image_raw", image(it.stamp, "a", it.pixels["a"]))
        it.publish("b/image_raw", image(it.stamp + late, "b", it.pixels["b"]))

    it.until(lambda: "no frame sets" in it.message("frame_sets"), shoot)
    assert not humans
    assert "stamp_offsets" in it.message("frame_sets")
    assert it.set(stamp_offsets=[0.0, -late / 1e9]) == []
    it.until(lambda: humans and depth, shoot)
    # What belongs to an image carries the image's own stamp.
    assert (it.stamp + late - to_nanoseconds(depth[-1].header.stamp)) % STEP == 0
    assert (it.stamp - to_nanoseconds(humans[-1].header.stamp)) % STEP == 0


def test_faults_in_a_row_end_in_the_error_state_and_can_be_mended(bench):
    it = bench(("a", "b"), faults__max_consecutive=3)
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.activate()
    it.until(lambda: humans, it.shoot)
    engine = it.node._pipeline.reconstructor.engine
    # The memory of the weights is lost: a real fault, as of a device.
    engine._network.to("meta")
    it.until(lambda: it.node.state == State.PRIMARY_STATE_UNCONFIGURED, it.shoot)
    it.until(lambda: "stopped: 3 frame sets in a row failed" in it.message("inference"))
    assert len(it.problems("frame set failed")) == 1
    humans.clear()
    it.activate()
    it.until(lambda: humans and "stopped" not in it.message("inference"), it.shoot)


def test_quality_of_service_can_be_overridden(bench):
    it = bench(("a", "b"), **{"qos_overrides./hamst3r/points.publisher.reliability": "best_effort"})
    it.activate()
    it.until(lambda: it.peer.get_publishers_info_by_topic("/hamst3r/points"))
    for topic, expected in (("points", "BEST_EFFORT"), ("humans", "RELIABLE")):
        it.until(lambda topic=topic: it.peer.get_publishers_info_by_topic(f"/hamst3r/{topic}"))
        (found,) = it.peer.get_publishers_info_by_topic(f"/hamst3r/{topic}")
        assert found.qos_profile.reliability.name == expected
