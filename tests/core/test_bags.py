"""Bags, written here by rosbags in both storages: what comes out is what went in."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip("rosbags.image")
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from hamst3r.inputs import InputError, InputOptions, open_inputs

STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = STORE.types
SECOND = 1_000_000_000
K = np.array([[90.0, 0, 47.5], [0, 90, 31.5], [0, 0, 1]])


def header(stamp, frame):
    time = TYPES["builtin_interfaces/msg/Time"](stamp // SECOND, stamp % SECOND)
    return TYPES["std_msgs/msg/Header"](time, frame)


def image(value, stamp, frame, encoding="bgr8"):
    pixels = np.full((64, 96, 3), value, np.uint8)
    pixels[..., 0] = 7  # blue in bgr8
    return TYPES["sensor_msgs/msg/Image"](
        header(stamp, frame), 64, 96, encoding, 0, 96 * 3, pixels.reshape(-1)
    )


def compressed(value, stamp, frame):
    pixels = np.full((64, 96, 3), value, np.uint8)
    data = cv2.imencode(".png", pixels)[1].reshape(-1)
    return TYPES["sensor_msgs/msg/CompressedImage"](header(stamp, frame), "png", data)


def info(frame, k=K, model="plumb_bob", size=(96, 64)):
    roi = TYPES["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    p = np.concatenate([k, np.zeros((3, 1))], 1)
    return TYPES["sensor_msgs/msg/CameraInfo"](
        header(0, frame), size[1], size[0], model, np.array([0.01, 0, 0, 0, 0.0]), k.reshape(-1),
        np.eye(3).reshape(-1), p.reshape(-1), 0, 0, roi,
    )  # fmt: skip


def static_tf(parent, child, place, quaternion=(0, 0, 0, 1.0)):
    geometry = "geometry_msgs/msg/"
    return TYPES["tf2_msgs/msg/TFMessage"](
        [
            TYPES[f"{geometry}TransformStamped"](
                header(0, parent),
                child,
                TYPES[f"{geometry}Transform"](
                    TYPES[f"{geometry}Vector3"](*place), TYPES[f"{geometry}Quaternion"](*quaternion)
                ),
            )
        ]
    )


def write_bag(path, messages, storage=StoragePlugin.MCAP):
    """Messages: (topic, time, message)."""
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {}
        for topic, time, message in messages:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], time, STORE.serialize_cdr(message, kind))
    return path


def rig(count=3):
    """Two cameras at 10 Hz, the second 4 ms late; stamps of headers lie 50 ms before arrival."""
    turned = Rotation.from_euler("z", 90, degrees=True).as_quat().tolist()
    messages = [
        ("/tf_static", 0, static_tf("base", "left_optical", (0, 0.1, 0))),
        ("/tf_static", 0, static_tf("base", "mast", (0, 0, 1))),
        ("/tf_static", 0, static_tf("mast", "right_optical", (0.5, 0, 0), turned)),
        ("/left/camera_info", 0, info("left_optical")),
        ("/right/camera_info", 0, info("right_optical")),
    ]
    for k in range(count):
        time = SECOND + k * SECOND // 10
        messages.append(("/left/image_raw", time, image(10 * k, time - 50_000_000, "left_optical")))
        late = time + 4_000_000
        message = compressed(10 * k + 1, late - 50_000_000, "right_optical")
        messages.append(("/right/image_raw/compressed", late, message))
    return messages


@pytest.mark.parametrize("storage", list(StoragePlugin), ids=lambda s: s.name)
def test_a_rig_comes_out_with_its_calibration(tmp_path, storage):
    heard: list[str] = []
    path = write_bag(tmp_path / "bag", rig(), storage)
    source = open_inputs([path], InputOptions(sets=0), heard.append)
    sets = list(source.frame_sets())
    assert source.sets == len(sets) == 3 and not heard
    for k, frames in enumerate(sets):
        assert frames.cameras == ("left", "right")
        left, right = frames.frames
        assert left.image[0, 0].tolist() == [10 * k, 10 * k, 7], "BGR became RGB"
        assert right.image[0, 0].tolist() == [10 * k + 1] * 3
        assert left.stamp == SECOND + k * SECOND // 10 - 50_000_000
        np.testing.assert_allclose(left.K, K)
        np.testing.assert_allclose(left.distortion, [0.01, 0, 0, 0, 0])
        np.testing.assert_allclose(left.T_rig_cam[:3, 3], [0, 0.1, 0])
        np.testing.assert_allclose(right.T_rig_cam[:3, 3], [0.5, 0, 1], atol=1e-12)
        np.testing.assert_allclose(right.T_rig_cam[:3, 0], [0, 1, 0], atol=1e-12)


def test_a_file_of_the_bag_may_be_named(tmp_path):
    for storage in StoragePlugin:
        path = write_bag(tmp_path / storage.name, rig(1), storage)
        suffix = ".mcap" if storage is StoragePlugin.MCAP else ".db3"
        (file,) = path.glob(f"*{suffix}")
        assert open_inputs([file], InputOptions(), print).sets == 1


def test_a_silent_camera_is_left_out_of_its_sets(tmp_path):
    messages = rig()
    del messages[8]  # the second image of the right camera
    sets = list(open_inputs([write_bag(tmp_path / "b", messages)], InputOptions(sets=0), print)
                .frame_sets())  # fmt: skip
    assert [frames.cameras for frames in sets] == [("left", "right"), ("left",), ("left", "right")]


def test_one_topic_is_a_moving_camera(tmp_path):
    path = write_bag(tmp_path / "b", rig(12))
    options = InputOptions(topics=("/left/image_raw",), every=0.5)
    source = open_inputs([path], options, print)
    (frames,) = source.frame_sets()
    assert source.ordered and [int(f.image[0, 0, 0]) for f in frames.frames] == [0, 50, 100]
    assert all(f.T_rig_cam is None and f.K is not None for f in frames.frames)


def test_sets_may_be_further_apart(tmp_path):
    path = write_bag(tmp_path / "b", rig(12))
    sets = list(open_inputs([path], InputOptions(sets=2, every=0.3), print).frame_sets())
    assert [int(frames.frames[0].image[0, 0, 0]) for frames in sets] == [0, 30]


@pytest.mark.parametrize("what", ["uncalibrated", "fisheye", "size", "apart"])
def test_what_is_not_known_of_a_camera_is_not_made_up(tmp_path, what):
    heard: list[str] = []
    messages = rig(1)
    changed = {
        "uncalibrated": info("right_optical", np.zeros((3, 3))),
        "fisheye": info("right_optical", model="equidistant"),
        "size": info("right_optical", size=(48, 32)),
    }
    if what == "apart":
        messages[2] = ("/tf_static", 0, static_tf("elsewhere", "right_optical", (0.5, 0, 0)))
    else:
        messages[4] = ("/right/camera_info", 0, changed[what])
    (frames,) = open_inputs(
        [write_bag(tmp_path / "b", messages)], InputOptions(), heard.append
    ).frame_sets()
    left, right = frames.frames
    assert left.K is not None
    if what == "apart":
        assert left.T_rig_cam is None and right.K is not None
    else:
        assert right.K is None and right.T_rig_cam is None
    told = {"fisheye": "equidistant", "size": "another size"}.get(what)
    assert (len(heard) == 1 and told in heard[0]) if told else not heard


def test_a_broken_image_is_left_out_by_name(tmp_path):
    heard: list[str] = []
    messages = rig(2)
    message = messages[6][2]
    broken = TYPES["sensor_msgs/msg/CompressedImage"](
        message.header, "png", np.frombuffer(b"no image", np.uint8)
    )
    messages[6] = (messages[6][0], messages[6][1], broken)
    path = write_bag(tmp_path / "b", messages)
    sets = list(open_inputs([path], InputOptions(sets=0), heard.append).frame_sets())
    assert [frames.cameras for frames in sets] == [("left",), ("left", "right")]
    assert len(heard) == 1 and "/right/image_raw/compressed" in heard[0]


def test_bags_without_images_are_refused_by_name(tmp_path):
    path = write_bag(tmp_path / "no_topic", rig(0))
    with pytest.raises(InputError, match=r"no_topic: the bag has no image topic"):
        open_inputs([path], InputOptions(), print)
    with Writer(tmp_path / "empty", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection("/cam/image_raw", "sensor_msgs/msg/Image", typestore=STORE)
    with pytest.raises(InputError, match=r"empty: its image topics \(/cam/image_raw\) hold no"):
        open_inputs([tmp_path / "empty"], InputOptions(), print)
    path = write_bag(tmp_path / "b", rig(1))
    with pytest.raises(InputError, match=r"no image topic /x; it has /left/image_raw, /right"):
        open_inputs([path], InputOptions(topics=("/x",)), print)


@pytest.mark.parametrize("kind", ["text", "cut", "folder"])
def test_what_is_no_bag_is_refused_by_name(tmp_path, kind):
    path = tmp_path / "x.mcap"
    if kind == "text":
        path.write_text("hello")
    elif kind == "cut":
        whole = next(write_bag(tmp_path / "b", rig(5)).glob("*.mcap")).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path = tmp_path / "folder"
        path.mkdir()
        (path / "metadata.yaml").write_text("nothing: here")
    with pytest.raises(InputError, match=rf"{path.name}: cannot be read as a bag"):
        list(open_inputs([path], InputOptions(), print).frame_sets())
