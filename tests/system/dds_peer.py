"""A subscriber that shares nothing with the node: another DDS, and message types made from .msg
definitions by rosbags."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import make_idl_struct, types
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader, Subscriber
from cyclonedds.topic import Topic
from cyclonedds.util import duration
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

ROOT = Path(__file__).parents[2]
DEADLINE = 180.0  # seconds; only a hang reaches it
# Loopback only, where the other side is told to stay, too.
CONFIGURATION = """<CycloneDDS><Domain>
  <General><Interfaces><NetworkInterface name="lo" multicast="true"/></Interfaces></General>
  <Discovery><ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>60</MaxAutoParticipantIndex>
  <Peers><Peer address="127.0.0.1"/></Peers></Discovery>
</Domain></CycloneDDS>"""
BASES = {
    "bool": bool,
    "byte": types.uint8,
    "float32": types.float32,
    "float64": types.float64,
    "int32": types.int32,
    "string": str,
    "uint16": types.uint16,
    "uint32": types.uint32,
    "uint8": types.uint8,
}
POINT_FORMATS = {2: "u1", 4: "<u2", 6: "<u4", 7: "<f4"}  # sensor_msgs/PointField


def _definitions() -> dict:
    store = get_typestore(Stores.ROS2_JAZZY)
    for file in sorted((ROOT / "msg").glob("*.msg")):
        name = f"hamst3r_msgs/msg/{file.stem}"
        store.register(get_types_from_msg(file.read_text(encoding="utf-8"), name))
    return store.fielddefs


DEFINITIONS = _definitions()
_made: dict[str, type] = {}


def idl_type(name: str) -> type:
    """The IDL struct of a ROS message such as ``sensor_msgs/msg/Image``."""
    if name not in _made:
        _, fields = DEFINITIONS[name]
        package, kind, short = name.split("/")
        _made[name] = make_idl_struct(
            short,
            f"{package}::{kind}::dds_::{short}_",
            {field: _field_type(definition) for field, definition in fields},
        )
    return _made[name]


def _field_type(definition: tuple) -> Any:
    kind, detail = definition
    if kind == Nodetype.BASE:
        return BASES[detail[0]]
    if kind == Nodetype.NAME:
        return idl_type(detail)
    inner, length = detail
    if kind == Nodetype.ARRAY:
        return types.array[_field_type(inner), length]
    return types.sequence[_field_type(inner)]


class Peer:
    """Reads topics of one ROS domain.

    Args:
        domain: Its number.
    """

    def __init__(self, domain: int) -> None:
        os.environ["CYCLONEDDS_URI"] = CONFIGURATION
        self._participant = DomainParticipant(domain)
        self._subscriber = Subscriber(self._participant)
        self._readers: dict[str, DataReader] = {}
        self.received: dict[str, list[Any]] = {}

    def listen(self, topic: str, message: str, latched: bool = False) -> None:
        """Collect the messages of a topic in ``received``."""
        durability = Policy.Durability.TransientLocal if latched else Policy.Durability.Volatile
        qos = Qos(
            Policy.Reliability.Reliable(duration(seconds=1)),
            durability,
            Policy.History.KeepLast(100),
        )
        kind = Topic(self._participant, f"rt{topic}", idl_type(message), qos=qos)
        self._readers[topic] = DataReader(self._subscriber, kind, qos=qos)
        self.received[topic] = []

    def publisher(self, topic: str, message: str) -> Callable[[Any], None]:
        """What sends messages of a type on a topic; reliable, so that readers of any kind match."""
        qos = Qos(Policy.Reliability.Reliable(duration(seconds=1)), Policy.History.KeepLast(1))
        kind = Topic(self._participant, f"rt{topic}", idl_type(message), qos=qos)
        return DataWriter(self._participant, kind, qos=qos).write

    def wait(self, until: Callable[[], bool], alive: Callable[[], None] = lambda: None) -> None:
        """Collect until a condition holds.

        Args:
            alive: Raises when waiting has become pointless.
        """
        end = time.monotonic() + DEADLINE
        while not until():
            alive()
            counts = {topic: len(messages) for topic, messages in self.received.items()}
            assert time.monotonic() < end, f"waited in vain; messages received: {counts}"
            time.sleep(0.05)
            for topic, reader in self._readers.items():
                self.received[topic] += [m for m in reader.take(50) if hasattr(m, "__dict__")]

    def close(self) -> None:
        """Leave the domain."""
        self._readers.clear()
        del self._subscriber, self._participant


def nanoseconds(message: Any) -> int:
    """Stamp of a message with a header, or of a time."""
    stamp = message.header.stamp if hasattr(message, "header") else message
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def points(cloud: Any) -> np.ndarray:
    """(N,) records of a PointCloud2; ``rgb`` as an integer."""
    layout = np.dtype(
        {
            "names": [field.name for field in cloud.fields],
            "formats": [
                "<u4" if field.name == "rgb" else POINT_FORMATS[field.datatype]
                for field in cloud.fields
            ],
            "offsets": [field.offset for field in cloud.fields],
            "itemsize": cloud.point_step,
        }
    )
    return np.frombuffer(bytes(cloud.data), layout)
