"""Simulated cameras -> node -> a subscriber of another DDS, in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from dds_peer import Peer, nanoseconds, points
from running import Program, children, free_domain, gone, programs
from scipy.spatial.transform import Rotation

CAMERAS = ("cam0", "cam1", "cam2", "cam3")
SETS = 3  # frame sets looked at
TRUTH = "/sim_cameras/ground_truth/cameras"


class Heard:
    """What the peer heard, by stamp."""

    def __init__(self, peer: Peer, bringup: Program) -> None:
        self._received = peer.received
        self.bringup = bringup

    def at(self, topic: str, stamp: int):
        (message,) = [m for m in self._received[topic] if nanoseconds(m) == stamp]
        return message

    def has(self, topic: str, stamp: int) -> bool:
        return any(nanoseconds(m) == stamp for m in self._received[topic])

    def transforms(self, stamp: int) -> list:
        (message,) = [m for m in self._received["/tf"] if nanoseconds(m.transforms[0]) == stamp]
        return message.transforms

    def stamps(self) -> list[int]:
        """Of the frame sets heard completely."""
        complete = []
        for cloud in self._received["/hamst3r/points"]:
            stamp = nanoseconds(cloud)
            topics = ["/hamst3r/humans", "/hamst3r/cameras", TRUTH]
            for name in CAMERAS:
                topics += [f"/{name}/image_raw"]
                topics += [f"/hamst3r/{name}/{what}" for what in ("depth", "instances")]
            on_tf = any(nanoseconds(m.transforms[0]) == stamp for m in self._received["/tf"])
            if on_tf and all(self.has(topic, stamp) for topic in topics):
                complete.append(stamp)
        return complete


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heard]:
    domain = free_domain()
    peer = Peer(domain)
    for name in CAMERAS:
        peer.listen(f"/{name}/image_raw", "sensor_msgs/msg/Image")
        for what in ("depth", "instances"):
            peer.listen(f"/hamst3r/{name}/{what}", "sensor_msgs/msg/Image")
    peer.listen("/hamst3r/points", "sensor_msgs/msg/PointCloud2")
    peer.listen("/hamst3r/humans", "hamst3r_msgs/msg/HumanArray")
    peer.listen("/hamst3r/cameras", "hamst3r_msgs/msg/CameraArray")
    peer.listen("/tf", "tf2_msgs/msg/TFMessage")
    peer.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    peer.listen(TRUTH, "hamst3r_msgs/msg/CameraArray")
    with programs(domain, tmp_path_factory.mktemp("log")) as start:
        bringup = start("bringup", "source:=sim", "rate:=2", "device:=cpu")
        found = Heard(peer, bringup)
        peer.wait(lambda: len(found.stamps()) >= SETS, bringup.alive)
        yield found
    peer.close()


def test_points_are_a_metric_cloud_of_the_room(heard: Heard) -> None:
    for stamp in heard.stamps():
        cloud = heard.at("/hamst3r/points", stamp)
        assert cloud.header.frame_id == "hamst3r_world"
        assert cloud.is_dense
        assert cloud.row_step == cloud.width * cloud.point_step == len(cloud.data)
        records = points(cloud)
        assert len(records) > 1000
        xyz = np.stack([records["x"], records["y"], records["z"]], axis=1)
        assert np.isfinite(xyz).all()
        # The room is 5 to 6 m wide; what a weak network sees may lie behind its walls.
        assert 0.5 < np.median(np.linalg.norm(xyz - np.median(xyz, axis=0), axis=1)) < 10
        assert set(records["camera"]) <= set(range(len(CAMERAS)))
        assert len(np.unique(records["rgb"])) > 100


def test_labels_instances_and_people_agree(heard: Heard) -> None:
    for stamp in heard.stamps():
        records = points(heard.at("/hamst3r/points", stamp))
        humans = {h.id: h for h in heard.at("/hamst3r/humans", stamp).humans}
        assert set(records["label"]) <= {0, 1}
        np.testing.assert_array_equal(records["label"] == 1, records["instance"] > 0)
        assert set(records["instance"]) - {0} <= set(humans)
        for identity, human in humans.items():
            assert identity > 0
            assert human.body_id == f"h{identity:05d}"
            assert human.num_points == np.count_nonzero(records["instance"] == identity)
            assert len(human.cameras) == len(human.rois)
            if human.body_model:
                assert (len(human.betas), len(human.body_pose)) == (10, 69)
                assert len(human.joints) == len(human.joint_names) == len(human.joint_std) == 24
                assert np.isfinite([[p.x, p.y, p.z] for p in human.joints]).all()
        for name in CAMERAS:
            image = heard.at(f"/hamst3r/{name}/instances", stamp)
            assert image.encoding == "16UC1"
            assert set(np.frombuffer(bytes(image.data), "<u2")) - {0} <= set(humans)


def test_frames_equal_the_truth(heard: Heard) -> None:
    for stamp in heard.stamps():
        truth = {camera.name: camera for camera in heard.at(TRUTH, stamp).cameras}
        solved = {camera.name: camera for camera in heard.at("/hamst3r/cameras", stamp).cameras}
        transforms = {t.child_frame_id: t for t in heard.transforms(stamp)}
        assert set(transforms) == {f"hamst3r/{name}_optical_frame" for name in CAMERAS}
        assert set(truth) == set(solved) == set(CAMERAS)
        for name in CAMERAS:
            found = transforms[f"hamst3r/{name}_optical_frame"]
            assert found.header.frame_id == "hamst3r_world"
            position, turn = found.transform.translation, found.transform.rotation
            for pose in (truth[name].pose, solved[name].pose):
                assert _apart(position, pose.position) < 1e-3
                assert np.degrees(_turned(turn, pose.orientation)) < 0.1
            np.testing.assert_allclose(solved[name].k, truth[name].k, rtol=1e-3)
            assert (solved[name].width, solved[name].height) == (320, 240)


def test_stamps_are_those_of_the_images(heard: Heard) -> None:
    stamps = heard.stamps()
    assert stamps == sorted(set(stamps))
    for stamp in stamps:
        for camera in heard.at("/hamst3r/cameras", stamp).cameras:
            assert nanoseconds(camera.stamp) == stamp
        for name in CAMERAS:
            image = heard.at(f"/{name}/image_raw", stamp)
            for what in ("depth", "instances"):
                made = heard.at(f"/hamst3r/{name}/{what}", stamp)
                assert made.header.frame_id == image.header.frame_id == f"{name}_optical_frame"


def test_everything_ends_with_an_interrupt(heard: Heard) -> None:
    started = children(heard.bringup.pid)
    assert len(started) == 2  # the cameras and the node
    assert heard.bringup.interrupt() == 0, heard.bringup.output
    assert gone(started)
    assert "Traceback" not in heard.bringup.output


def _apart(a, b) -> float:
    return float(np.linalg.norm([a.x - b.x, a.y - b.y, a.z - b.z]))


def _turned(a, b) -> float:
    first, second = (Rotation.from_quat([q.x, q.y, q.z, q.w]) for q in (a, b))
    return float((first.inv() * second).magnitude())
