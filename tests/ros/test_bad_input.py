"""Bad input: one clear message in the log and on /diagnostics, and the rest keeps running."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bench import STEP, image, jpeg
from hamst3r_msgs.msg import CameraArray, HumanArray
from hamst3r_ros.headers import to_nanoseconds
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo


def cameras_seen(humans: list[HumanArray]) -> list[str]:
    return list(humans[-1].cameras) if humans else []


@pytest.fixture
def running(bench):
    """An active node with three cameras, and the people it publishes."""

    def make(**values):
        it = bench(("a", "b", "c"), sync__max_age=0.3, **values)
        humans = it.listen(HumanArray, "/hamst3r/humans")
        it.activate()
        return it, humans

    return make


def told_once(it, text: str, status: str, each) -> None:
    """It is in the log, and stays on /diagnostics, while things go on."""
    it.until(lambda: it.problems(text) and text in it.message(status), each)
    done = int(it.value("inference", "frame_sets"))
    it.until(lambda: int(it.value("inference", "frame_sets")) > done + 3, each)
    assert len(it.problems(text)) == 1
    assert text in it.message(status)
    assert it.status[status].level == b"\x01"


def test_an_unknown_encoding(running):
    it, humans = running()

    def shoot():
        it.shoot(["a", "b"])
        message = image(it.stamp, "c", it.pixels["c"])
        message.encoding = "yuv999"
        it.publish("c/image_raw", message)

    told_once(it, "c: rejected: encoding 'yuv999' is not known", "cameras", shoot)
    assert it.value("cameras", "c.state").startswith("rejected:encoding")
    assert set(cameras_seen(humans)) <= {"a", "b"}
    it.until(lambda: it.value("cameras", "c.state") == "active", it.shoot)
    it.until(lambda: it.message("cameras") == "3 of 3 active", it.shoot)


def test_a_short_image(running):
    it, _ = running()

    def shoot():
        it.shoot(["a", "b"])
        message = image(it.stamp, "c", it.pixels["c"])
        message.data = message.data[:-100]
        it.publish("c/image_raw", message)

    told_once(it, "c: rejected: 9116 bytes of data, expected 9216", "cameras", shoot)


def test_a_truncated_compressed_image(running):
    it, _ = running(transport="compressed")

    def shoot():
        it.stamp += STEP
        for name in it.cameras:
            message = jpeg(it.stamp, name, it.pixels[name])
            if name == "c":
                message.data = message.data[: len(message.data) // 2]
            it.publish(f"{name}/image_raw/compressed", message)

    told_once(it, "c: rejected: truncated", "cameras", shoot)


def test_a_camera_that_never_speaks(running):
    it, humans = running()
    told_once(
        it, "c: no image yet on /c/image_raw: nobody", "cameras", lambda: it.shoot(["a", "b"])
    )
    assert it.value("cameras", "c.state") == "waiting_image"
    assert int(it.value("frame_sets", "partial")) > 3
    assert set(cameras_seen(humans)) <= {"a", "b"}


def test_a_camera_that_stops_and_comes_back(running):
    it, humans = running()
    it.until(lambda: len(humans) > 2, it.shoot)
    told_once(it, "c: no image on /c/image_raw any more", "cameras", lambda: it.shoot(["a", "b"]))
    assert it.value("cameras", "c.state") == "stale"
    complete = int(it.value("frame_sets", "complete"))
    it.until(lambda: int(it.value("frame_sets", "complete")) > complete + 3, it.shoot)
    it.until(lambda: any("over: c: no image" in text for _, text in it.said), it.shoot)


def test_stamps_that_jump_back(running):
    it, humans = running()
    it.until(lambda: len(humans) > 2, it.shoot)
    it.stamp -= 100 * 1_000_000_000
    after = it.stamp
    told_once_event = "stamps jumped back by"
    it.until(lambda: told_once_event in it.message("frame_sets"), it.shoot)
    it.until(lambda: to_nanoseconds(humans[-1].header.stamp) < after + 50 * 1_000_000_000, it.shoot)
    it.until(lambda: told_once_event not in it.message("frame_sets"), it.shoot)
    assert len(it.problems(told_once_event)) == 1
    before = len(humans)
    it.until(lambda: len(humans) > before + 3, it.shoot)


def test_stamps_that_jump_ahead(running):
    it, humans = running()
    it.until(lambda: len(humans) > 2, it.shoot)
    it.stamp += 3600 * 1_000_000_000
    after = it.stamp
    it.until(lambda: to_nanoseconds(humans[-1].header.stamp) > after, it.shoot)
    seen = len(humans)
    it.until(lambda: len(humans) > seen + 3 and len(humans[-1].cameras) in (0, 3), it.shoot)
    assert all(to_nanoseconds(h.header.stamp) > after for h in humans[seen:])


def test_running_out_of_memory_costs_frame_sets_and_nothing_else(running, monkeypatch):
    it, humans = running(world__known_extrinsics="tf")
    it.put_up()
    it.until(lambda: len(humans) > 2, it.shoot)
    engine = it.node._pipeline.reconstructor.engine
    with monkeypatch.context() as hook:

        def full(*_):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

        hook.setattr(engine, "predict", full)
        it.until(lambda: int(it.value("device", "out_of_memory") or 0) > 2, it.shoot)
        assert it.message("device").startswith("out of GPU memory, the frame set was dropped")
        assert it.status["device"].level == b"\x02"
        during = len(humans)
        failed = int(it.value("frame_sets", "failed"))
        it.until(lambda: int(it.value("frame_sets", "failed")) > failed + 1, it.shoot)
        assert len(humans) == during  # nothing old is sent as if it were new
    assert len(it.problems("out of GPU memory")) == 1
    now = it.stamp
    it.until(lambda: to_nanoseconds(humans[-1].header.stamp) > now, it.shoot)
    it.until(lambda: it.status["device"].level == b"\x00", it.shoot)


def test_cameras_whose_clocks_differ(running):
    it, _ = running()

    def shoot():
        it.stamp += STEP
        for index, name in enumerate(it.cameras):
            stamp = it.stamp + index * STEP // 3
            it.publish(f"{name}/image_raw", image(stamp, name, it.pixels[name]))

    assert it.set(sync__slop=0.01) == []
    text = "no frame sets: the cameras' newest stamps differ"
    it.until(lambda: text in it.message("frame_sets"), shoot)
    assert len(it.problems(text)) == 1
    assert it.set(sync__slop=0.08) == []
    it.until(lambda: it.value("inference", "frame_sets") not in ("", "0"), shoot)


def test_one_camera_of_three_is_too_few(running):
    it, _ = running()
    text = "no frame sets: 1 of 3 cameras deliver, sync.min_cameras is 2"
    it.until(lambda: text in it.message("frame_sets"), lambda: it.shoot(["a"]))


def test_a_fisheye_camera_info(running):
    it, _ = running()
    info = CameraInfo(width=64, height=48, k=np.diag([60.0, 60, 1]).ravel().tolist(), d=[0.1] * 4)
    info.distortion_model = "equidistant"
    told_once(
        it,
        "c: camera_info has distortion model 'equidistant'",
        "cameras",
        lambda: (it.publish("c/camera_info", info), it.shoot()),
    )


def test_a_publisher_of_another_quality_of_service(bench):
    it = bench(("a", "b", "c"), image_reliability="reliable")
    it.activate()
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)

    def shoot():
        it.shoot(["a", "b"])
        it.publish("c/image_raw", image(it.stamp, "c", it.pixels["c"]), best_effort)

    told_once(it, "c: the publisher of /c/image_raw offers another quality", "cameras", shoot)
    assert it.value("cameras", "c.state") == "qos_incompatible"


def test_a_subscriber_of_another_quality_of_service(running):
    it, _ = running()
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    heard = []
    reader = it.peer.create_subscription(CameraArray, "/hamst3r/cameras", heard.append, latched)
    text = "nothing of /hamst3r/cameras gets to /peer"
    it.until(lambda: it.problems(text), it.shoot)
    it.until(lambda: text in it.message("inference"), it.shoot)
    told = it.problems(text)[0]
    assert "volatile publisher and transient local subscription" in told
    assert "qos_overrides./hamst3r/cameras.publisher" in told
    assert heard == []
    it.peer.destroy_subscription(reader)
    it.until(lambda: any(f"over: {text}" in line for _, line in it.said), it.shoot)
