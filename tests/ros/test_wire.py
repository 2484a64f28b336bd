"""Bytes written from plain values are those that rclpy makes of the message."""

from __future__ import annotations

import math

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from hamst3r_msgs.msg import CameraArray, Human, HumanArray
from hamst3r_ros.wire import pack
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from hamst3r_ros import wire

random = np.random.default_rng(0)
TEXTS = ("", "a", "left", "/rig/cam0", "für")
SPANS = {"uint8": 2**8, "int8": 2**7, "uint16": 2**16, "int32": 2**31, "uint32": 2**32}
SPANS |= {"int64": 2**62, "uint64": 2**62}


def filled(described: str):
    """Random content of a field, and the same as plain values."""
    if described in ("boolean", "octet"):
        value = int(random.integers(2))
        return (bool(value) if described == "boolean" else bytes([value])), value
    if described in ("float", "double"):
        value = float(np.float32(random.normal()))
        return value, value
    if described in SPANS:
        value = int(random.integers(SPANS[described]))
        return value, value
    if described == "string":
        text = TEXTS[random.integers(len(TEXTS))]
        return text, text
    if described.endswith("]"):
        element, _, count = described[:-1].rpartition("[")
        pairs = [filled(element) for _ in range(int(count))]
    elif described.startswith("sequence<"):
        element = described[len("sequence<") : -1].split(",")[0]
        pairs = [filled(element) for _ in range(random.integers(4))]
    else:
        return message_of(wire._class(described))
    message, plain = [a for a, _ in pairs], [b for _, b in pairs]
    if "/" in element and wire._constant(element) and described.endswith("]"):
        plain = [number for numbers in plain for number in numbers]
    if element == "octet":
        message = plain
    return message, plain


def message_of(kind: type):
    """A message with random content, and the same as plain values."""
    message, fields = kind(), {}
    for name, described in kind.get_fields_and_field_types().items():
        value, fields[name] = filled(described)
        setattr(message, name, value)
    if all(wire._constant(t) for t in kind.get_fields_and_field_types().values()):
        return message, wire._numbers(message)
    return message, fields


@pytest.mark.parametrize(
    "kind",
    [
        HumanArray,
        Human,
        TFMessage,
        CameraArray,
        CameraInfo,
        Image,
        PointCloud2,
        MarkerArray,
        PoseStamped,
        DiagnosticArray,
    ],
)
def test_any_content_is_written_as_rclpy_writes_it(kind):
    for _ in range(40):
        message, fields = message_of(kind)
        written = pack(kind, fields)
        assert deserialize_message(written, kind) == message
        assert len(written) == len(serialize_message(message))  # whose padding is not zeroed


@pytest.mark.parametrize("kind", [HumanArray, Human, TFMessage, PoseStamped, CameraInfo])
def test_what_is_left_out_has_the_default(kind):
    assert str(deserialize_message(pack(kind, {}), kind)) == str(kind())  # NaN is not itself


def test_arrays_and_buffers_are_sequences():
    joints = random.normal(size=(24, 3))  # written in the field's own type
    read = deserialize_message(pack(Human, {"joints": joints, "fit_rmse": math.nan}), Human)
    np.testing.assert_array_equal([[p.x, p.y, p.z] for p in read.joints], joints.astype("f4"))
    data = memoryview(bytearray(range(7)))
    assert bytes(deserialize_message(pack(Image, {"data": data}), Image).data) == bytes(range(7))


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(wire.struct.error):
        pack(Human, {"id": -1})
    with pytest.raises(wire.struct.error):
        pack(Human, {"size": (1.0, 2.0)})
    with pytest.raises((AttributeError, TypeError)):
        pack(String, {"data": 5})
    with pytest.raises(TypeError, match="pose_typo"):
        pack(Human, {"pose_typo": 1})
