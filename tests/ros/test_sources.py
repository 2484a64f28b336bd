"""Recordings, replay and simulated cameras: what they publish, and what they refuse."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
from hamst3r_msgs.msg import CameraArray, HumanArray
from hamst3r_ros.ground_truth import Truth
from hamst3r_ros.headers import from_transform, to_nanoseconds
from hamst3r_ros.replay import Replay
from hamst3r_ros.rig_publisher import TF_STATIC_QOS
from hamst3r_ros.sim_cameras import SimCameras, rendered_sets
from hamst3r_ros.source_node import Ahead, SourceError, SourceNode
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from hamst3r.alignment.calibration import CalibrationError
from hamst3r.recording import RecordingError, delivered_size, open_recording
from hamst3r.scene import Contact
from hamst3r.synthetic.motion import MovingScene

DEADLINE = 60.0  # seconds; only a hang reaches it
STEP = 100_000_000  # ns


def colour(camera: int, index: int) -> np.ndarray:
    """An image that says which it is, also after JPEG and video compression."""
    return np.full((48, 64, 3), (40 * index + 20, 80 * camera + 30, 128), np.uint8)


def write_images(folder: Path, names: list[list[str]]) -> Path:
    for camera, files in enumerate(names):
        (folder / f"cam{camera}").mkdir(parents=True)
        for index, name in enumerate(files):
            cv2.imwrite(str(folder / f"cam{camera}" / name), colour(camera, index)[..., ::-1])
    return folder


def write_video(path: Path, frames: int, fps: float = 20.0) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (64, 48))
    assert writer.isOpened()
    for index in range(frames):
        writer.write(colour(0, index)[..., ::-1])
    writer.release()


def calibrate(folder: Path, cameras: dict[str, dict]) -> None:
    entry = {"K": [[60, 0, 31.5], [0, 60, 23.5], [0, 0, 1]], "R": np.eye(3).tolist()}
    document = {
        name: {**entry, "t": [0.1 * index, 0, 1], **extra}
        for index, (name, extra) in enumerate(cameras.items())
    }
    (folder / "calibration.json").write_text(json.dumps({"cameras": document}), encoding="utf-8")


def opened(folder: Path, **settings):
    settings = {"step": STEP, "period": STEP, "report": pytest.fail, **settings}
    return open_recording(folder, **settings)


def indices(image_sets, camera: str) -> list[int]:
    """Which image of a camera is in each set; -1 where it is absent."""
    return [
        round((float(s.images[camera][..., 0].mean()) - 20) / 40) if camera in s.images else -1
        for s in image_sets
    ]


# --- recordings -------------------------------------------------------------------------------


def test_numbered_images_are_one_per_set(tmp_path: Path) -> None:
    files = [f"{index:04d}.png" for index in range(4)]
    recording = opened(write_images(tmp_path, [files, files[:3]]))
    sets = list(recording.play())
    assert indices(sets, "cam0") == [0, 1, 2, 3]
    assert indices(sets, "cam1") == [0, 1, 2, -1]
    assert [s.time for s in sets] == [0, STEP, 2 * STEP, 3 * STEP]
    assert all(s.stamp is None for s in sets)
    np.testing.assert_array_equal(sets[2].images["cam1"], colour(1, 2))
    assert recording.cameras == {"cam0": None, "cam1": None}
    assert indices(recording.play(), "cam0") == [0, 1, 2, 3]  # a second pass is like the first


def test_images_named_by_stamp_keep_their_time(tmp_path: Path) -> None:
    start = 1_700_000_000_000_000_000
    first = [f"{start + k * STEP}.png" for k in range(3)]
    second = [f"{start + STEP // 2 + k * STEP}.png" for k in range(3)]
    sets = list(opened(write_images(tmp_path, [first, second])).play())
    assert [s.stamp for s in sets] == [start + k * STEP for k in range(len(sets))]
    assert indices(sets, "cam0")[:3] == [0, 1, 2]
    assert indices(sets, "cam1") == [-1, 0, 1, 2]


@pytest.mark.parametrize(("rate", "expected"), [(20, [0, 1, 2, 3, 4]), (10, [0, 2, 4])])
def test_video_is_read_at_the_rate(tmp_path: Path, rate: int, expected: list[int]) -> None:
    write_video(tmp_path / "left.avi", frames=5, fps=20)
    recording = opened(tmp_path, step=round(1e9 / rate))
    assert indices(recording.play(), "left") == expected
    assert indices(recording.play(), "left") == expected
    recording.close()


def test_calibration_names_cameras_and_scales_with_the_images(tmp_path: Path) -> None:
    write_images(tmp_path, [["0.png"], ["0.png"], ["0.png"]])
    calibrate(tmp_path, {"cam1": {"width": 64, "height": 48}, "cam0": {}})
    recording = opened(tmp_path, size=32)
    assert list(recording.cameras) == ["cam1", "cam0"]
    known = recording.cameras["cam1"]
    assert (known.width, known.height) == (32, 24)
    # The image's middle stays its middle; pixel centres are at integers.
    np.testing.assert_allclose(known.K, [[30, 0, 15.5], [0, 30, 11.5], [0, 0, 1]])
    (only,) = recording.play()
    assert only.images["cam1"].shape == (24, 32, 3)


@pytest.mark.parametrize(
    ("width", "height", "size", "expected"),
    [
        (1080, 1920, 960, (540, 960)),
        (640, 480, 0, (640, 480)),
        (640, 480, 800, (640, 480)),
        (4000, 1, 40, (40, 1)),
    ],
)
def test_delivered_size(width: int, height: int, size: int, expected: tuple[int, int]) -> None:
    assert delivered_size(width, height, size) == expected


def test_unreadable_image_is_told_and_left_out(tmp_path: Path) -> None:
    files = [f"{index}.png" for index in range(3)]
    write_images(tmp_path, [files, files])
    (tmp_path / "cam1" / "1.png").write_bytes(b"not a picture")
    told: list[str] = []
    sets = list(opened(tmp_path, report=told.append).play())
    assert indices(sets, "cam0") == [0, 1, 2]
    assert indices(sets, "cam1") == [0, -1, 2]
    assert len(told) == 1 and "1.png" in told[0]


def _nothing(folder: Path) -> None:
    pass


def _missing_video(folder: Path) -> None:
    calibrate(folder, {"cam7": {"video": "cam7.mp4"}})


def _broken_video(folder: Path) -> None:
    (folder / "cam0.mp4").write_bytes(b"x" * 1000)


def _missing_key(folder: Path) -> None:
    write_images(folder, [["0.png"]])
    (folder / "calibration.json").write_text('{"cameras": {"cam0": {"K": 1}}}', encoding="utf-8")


def _other_size(folder: Path) -> None:
    write_images(folder, [["0.png"]])
    calibrate(folder, {"cam0": {"width": 640, "height": 480}})


def _broken_first_image(folder: Path) -> None:
    _other_size(folder)
    (folder / "cam0" / "0.png").write_bytes(b"not a picture")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_nothing, ["calibration.json", "folder of images", "videos"]),
        (_missing_video, ["cam7.mp4", "'video'"]),
        (_broken_video, ["cam0.mp4", "complete"]),
        (_missing_key, ["cam0", "'K'"]),
        (_other_size, ["64x48", "640x480", "calibrate"]),
        (_broken_first_image, ["cam0", "first image"]),
    ],
)
def test_recordings_that_cannot_be_played(
    make: Callable[[Path], None], words: list[str], tmp_path: Path
) -> None:
    make(tmp_path)
    with pytest.raises((RecordingError, CalibrationError)) as error:
        opened(tmp_path, report=lambda _: None)
    text = str(error.value)
    assert all(word in text for word in words), text
    assert "\n" not in text


def test_folder_or_camera_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no such folder"):
        opened(tmp_path / "nowhere")
    write_images(tmp_path, [["0.png"]])
    with pytest.raises(RecordingError, match="no camera left; it has cam0"):
        opened(tmp_path, cameras=["left"])


# --- working ahead ----------------------------------------------------------------------------


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def taken(ahead: Ahead) -> list:
    items = []
    wait(lambda: items.append(ahead.get()) or ahead.ended)
    return [item for item in items if item is not None]


def test_ahead_keeps_order_and_tells_the_end() -> None:
    ahead: Ahead[int] = Ahead(lambda: iter(range(20)), 3)
    assert taken(ahead) == list(range(20))
    assert ahead.error is None
    ahead.close()


def test_ahead_works_no_further_than_asked_and_stops() -> None:
    counter = itertools.count()
    ahead: Ahead[int] = Ahead(lambda: counter, 3)
    wait(lambda: ahead.get() is not None)
    ahead.close()  # would hang if the producer did not stop
    assert next(counter) <= 6


def test_ahead_hands_over_what_went_wrong() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise RecordingError("broken")

    ahead: Ahead[int] = Ahead(broken, 3)
    assert taken(ahead) == [1]
    assert str(ahead.error) == "broken"
    ahead.close()


# --- on the wire ------------------------------------------------------------------------------


class Wire:
    """A source and a listener in one executor; the messages really go through DDS."""

    def __init__(self, make: Callable[[], SourceNode], parameters: dict[str, object]) -> None:
        arguments = ["--ros-args"]
        for name, value in parameters.items():
            arguments += ["-p", f"{name}:={json.dumps(value)}"]
        rclpy.init(args=arguments)
        self.source: SourceNode | None = None
        self.received: dict[str, list] = {}
        try:
            self.executor = SingleThreadedExecutor()
            self.listener = Node("listener", use_global_arguments=False)
            self.executor.add_node(self.listener)
            self._make = make
        except BaseException:
            rclpy.shutdown()
            raise

    def listen(self, topic: str, kind: type, qos: QoSProfile | int = 50) -> None:
        messages = self.received.setdefault(topic, [])
        self.listener.create_subscription(kind, topic, messages.append, qos)

    def start(self) -> SourceNode:
        self.source = self._make()
        self.executor.add_node(self.source)
        return self.source

    def spin(self, until: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE
        while not until():
            counts = {topic: len(messages) for topic, messages in self.received.items()}
            assert time.monotonic() < end, f"waited in vain: {counts}"
            self.executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        if self.source is not None:
            self.source.close()
            self.source.destroy_node()
        self.listener.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown()


@pytest.fixture
def wired() -> Iterator[Callable[..., Wire]]:
    made: list[Wire] = []

    def make(source: Callable[[], SourceNode], **parameters: object) -> Wire:
        made.append(Wire(source, parameters))
        return made[-1]

    yield make
    for wire in made:
        wire.close()


def stamps(messages: list) -> list[int]:
    return [to_nanoseconds(message.header.stamp) for message in messages]


@pytest.mark.parametrize("kind", ["now", "recorded"])
def test_stamps_go_on_over_loops(kind: str, tmp_path: Path, wired: Callable[..., Wire]) -> None:
    start = 1_700_000_000_000_000_000
    names = [f"{start + k * STEP}.png" for k in range(3)]
    folder = write_images(tmp_path, [names, names])
    wire = wired(lambda: Replay({}), dir=str(folder), rate=20.0, stamps=kind, wait=30.0, speed=2.0)
    for name in ("cam0", "cam1"):
        wire.listen(f"/{name}/image_raw", Image)
    wire.start()
    wire.spin(lambda: all(len(messages) >= 8 for messages in wire.received.values()))
    for messages in wire.received.values():
        found = stamps(messages)
        assert all(later > sooner for sooner, later in itertools.pairwise(found))
        if kind == "recorded":
            assert all((stamp - start) % STEP == 0 for stamp in found)
            assert found[-1] >= start + 7 * STEP  # in the third pass over three images
    first, second = (set(stamps(messages)) for messages in wire.received.values())
    assert len(first & second) >= 4  # both cameras of a set have one stamp


def test_replay_publishes_what_was_recorded(tmp_path: Path, wired: Callable[..., Wire]) -> None:
    write_images(tmp_path, [["0.png", "1.png"], ["0.png", "1.png"]])
    calibrate(tmp_path, {"cam0": {"distortion": [0.1, 0.2, 0.01, 0.02]}, "cam1": {}})
    wire = wired(
        lambda: Replay({"loop": False}), dir=str(tmp_path), rate=10.0, transport="both", wait=30.0
    )
    wire.listen("/cam0/image_raw", Image)
    wire.listen("/cam1/image_raw", Image)
    wire.listen("/cam0/image_raw/compressed", CompressedImage)
    wire.listen("/cam1/image_raw/compressed", CompressedImage)
    wire.listen("/cam0/camera_info", CameraInfo)
    wire.listen("/tf_static", TFMessage, TF_STATIC_QOS)
    source = wire.start()
    wire.spin(source.done.done)
    assert source.done.result() == 0
    wire.spin(lambda: len(wire.received["/cam1/image_raw"]) == 2)
    wire.spin(lambda: len(wire.received["/cam0/image_raw/compressed"]) == 2)

    for index, message in enumerate(wire.received["/cam1/image_raw"]):
        assert (message.encoding, message.width, message.height) == ("rgb8", 64, 48)
        assert message.header.frame_id == "cam1_optical_frame"
        assert bytes(message.data) == colour(1, index).tobytes()
    for index, message in enumerate(wire.received["/cam0/image_raw/compressed"]):
        bgr = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
        assert "jpeg" in message.format
        np.testing.assert_allclose(bgr[..., ::-1].astype(int), colour(0, index), atol=6)
    info = wire.received["/cam0/camera_info"][0]
    assert (info.width, info.height, info.distortion_model) == (64, 48, "plumb_bob")
    np.testing.assert_allclose(info.k, [60, 0, 31.5, 0, 60, 23.5, 0, 0, 1])
    np.testing.assert_allclose(info.d, [0.1, 0.2, 0.01, 0.02, 0])
    (frames,) = wire.received["/tf_static"]
    poses = {t.child_frame_id: t for t in frames.transforms}
    assert {t.header.frame_id for t in frames.transforms} == {"rig"}
    T = from_transform(poses["cam1_optical_frame"].transform)
    np.testing.assert_allclose(T[:3, 3], [-0.1, 0, -1])


@pytest.mark.parametrize(
    ("make", "parameters", "words"),
    [
        (lambda: Replay({}), {}, "no recording named"),
        (lambda: Replay({}), {"dir": "x", "rate": 0}, "'rate' is 0.0, expected a number above 0"),
        (lambda: Replay({}), {"dir": "x", "size": "big"}, "'size' is 'big', expected int"),
        (lambda: Replay({}), {"dir": "x", "stamps": "old"}, "now or recorded"),
        (lambda: Replay({}), {"dir": "x", "cameras": 3}, "expected names"),
        (SimCameras, {"people": 9}, "people must be 0 to 6"),
        (SimCameras, {"width": 0}, "'width' is 0, expected a number above 0"),
        (SimCameras, {"height": 9000}, "16 to 4096"),
        (SimCameras, {"seed": -1}, "'seed' is -1"),
        (SimCameras, {"cameras": "a,b,c,d,e"}, "4 corners"),
        (SimCameras, {"transport": "png"}, "raw, compressed, both"),
    ],
)
def test_settings_that_cannot_be_followed(
    make: Callable[[], SourceNode],
    parameters: dict[str, object],
    words: str,
    wired: Callable[..., Wire],
) -> None:
    wire = wired(make, **parameters)
    with pytest.raises(ValueError, match=words) as error:
        wire.start()
    assert "\n" not in str(error.value)
    assert isinstance(error.value, SourceError) or "people" in words or "raw" in words


# --- simulated cameras ------------------------------------------------------------------------


def test_sets_come_at_the_rate_and_late_ones_are_left_out() -> None:
    scene = MovingScene(1, people=1, size=(32, 24))
    on_time = rendered_sets(scene, 5.0, now=lambda: -1.0)
    np.testing.assert_allclose([next(on_time).time for _ in range(4)], [0, 0.2, 0.4, 0.6])
    late = rendered_sets(scene, 5.0, now=lambda: 100.0)
    assert next(late).time == 0
    assert next(late).time > 100.0


def test_truth_fits_the_images() -> None:
    scene = MovingScene(1, people=2, size=(160, 120))
    views = scene.render(0.7)
    truth = Truth(scene).at(0.7, views)
    assert truth.stamp == 700_000_000
    assert [person.id for person in truth.people] == [1, 2]
    seen = 0
    for person in truth.people:
        assert 0.5 < person.position[2] < 1.2
        assert person.contacts & (Contact.LEFT_FOOT | Contact.RIGHT_FOOT)
        soon = next(p for p in Truth(scene).at(0.75, views).people if p.id == person.id)
        walked = (soon.position - person.position) / 0.05
        np.testing.assert_allclose(person.velocity, walked, atol=0.15)
        assert 0.3 < np.linalg.norm(person.velocity[:2]) < 2.5
        for view, camera in zip(views, scene.cameras, strict=True):
            if person.id not in view.instances:
                assert view.name not in person.rois
                continue
            x, y, width, height = person.rois[view.name]
            box = view.instances[y : y + height, x : x + width] == person.id
            assert box.sum() == (view.instances == person.id).sum()
            assert box[0].any() and box[-1].any() and box[:, 0].any() and box[:, -1].any()
            (pixel,), _ = camera.project(person.position[None])
            seen += x - 2 <= pixel[0] <= x + width + 2 and y - 2 <= pixel[1] <= y + height + 2
    assert seen >= 4  # of 8; elsewhere furniture, another person or the border cuts the box


def test_simulated_cameras_tell_the_truth_of_every_set(wired: Callable[..., Wire]) -> None:
    wire = wired(
        SimCameras, seed=2, people=2, width=64, height=48, rate=4.0, cameras=["left", "right"]
    )
    wire.listen("/left/image_raw", Image)
    wire.listen("/right/image_raw", Image)
    wire.listen("/right/camera_info", CameraInfo)
    wire.listen("/sim_cameras/ground_truth/humans", HumanArray)
    wire.listen("/sim_cameras/ground_truth/cameras", CameraArray)
    wire.listen("/tf_static", TFMessage, TF_STATIC_QOS)
    wire.start()

    def common() -> list[int]:
        topics = [messages for topic, messages in wire.received.items() if topic != "/tf_static"]
        return sorted(set.intersection(*(set(stamps(messages)) for messages in topics)))

    wire.spin(lambda: len(common()) >= 3 and bool(wire.received["/tf_static"]))
    gaps = np.diff(stamps(wire.received["/left/image_raw"]))
    assert (gaps >= 249_000_000).all()
    assert len({bytes(message.data) for message in wire.received["/left/image_raw"]}) > 1
    (frames,) = wire.received["/tf_static"]
    poses = {t.child_frame_id: from_transform(t.transform) for t in frames.transforms}
    assert set(poses) == {"left_optical_frame", "right_optical_frame"}
    for message in wire.received["/sim_cameras/ground_truth/cameras"]:
        assert message.header.frame_id == "rig"
        assert [camera.name for camera in message.cameras] == ["left", "right"]
        for camera in message.cameras:
            p = camera.pose.position
            np.testing.assert_allclose([p.x, p.y, p.z], poses[camera.frame_id][:3, 3], atol=1e-9)
            assert to_nanoseconds(camera.stamp) == to_nanoseconds(message.header.stamp)
    for message in wire.received["/sim_cameras/ground_truth/humans"]:
        assert [human.id for human in message.humans] == [1, 2]
        assert all(len(human.betas) == 10 and len(human.joints) == 24 for human in message.humans)
        assert all(1.0 < human.size.z < 2.3 for human in message.humans)


def test_parameters_of_sources_are_described(wired: Callable[..., Wire]) -> None:
    source = wired(SimCameras, width=32, height=24, rate=1.0).start()
    for name in ("seed", "people", "width", "height", "rate", "cameras", "transport"):
        assert source.describe_parameter(name).description
        (result,) = source.set_parameters([Parameter(name, value=1)])
        assert not result.successful  # fixed at start
