"""Looking up known poses of cameras: what we need of tf2_ros, which is not on PyPI."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

import numpy as np
from geometry_msgs.msg import TransformStamped
from numpy.typing import NDArray
from rclpy.node import Node
from tf2_msgs.msg import TFMessage

from hamst3r_ros import qos
from hamst3r_ros.headers import from_transform, to_nanoseconds

F64 = NDArray[np.float64]
HISTORY = 200  # transforms kept per moving frame
MAX_DEPTH = 100  # longer chains are loops


class _Edge:
    """A frame's pose in its parent over time."""

    def __init__(self, parent: str) -> None:
        self.parent = parent
        self.static: F64 | None = None
        self._stamps: list[int] = []
        self._poses: list[F64] = []

    def add(self, stamp: int, T: F64) -> None:
        if self._stamps and stamp < self._stamps[-1]:
            if self._stamps[-1] - stamp < 10_000_000_000:
                return  # a little late: the newer ones say more
            self._stamps.clear()  # time began anew
            self._poses.clear()
        self._stamps.append(stamp)
        self._poses.append(T)
        if len(self._stamps) > HISTORY:
            del self._stamps[0], self._poses[0]

    def at(self, stamp: int) -> F64:
        """The pose nearest in time."""
        if self.static is not None:
            return self.static
        after = bisect_left(self._stamps, stamp)
        if after == len(self._stamps):
            return self._poses[-1]
        if after and stamp - self._stamps[after - 1] <= self._stamps[after] - stamp:
            after -= 1
        return self._poses[after]


class FrameBuffer:
    """The tree of frames, as far as heard of.

    Read by the worker while the executor writes: edges are only ever replaced or appended to.
    """

    def __init__(self) -> None:
        self._edges: dict[str, _Edge] = {}

    def add(self, transforms: Iterable[TransformStamped], static: bool) -> None:
        """Take transforms of /tf or /tf_static; broken ones are left out."""
        for message in transforms:
            T = from_transform(message.transform)
            parent = message.header.frame_id.lstrip("/")
            child = message.child_frame_id.lstrip("/")
            if T is None or not parent or not child or parent == child:
                continue
            edge = self._edges.get(child)
            if edge is None or edge.parent != parent:
                edge = _Edge(parent)
            if static:
                edge.static = T
            else:
                edge.static = None
                edge.add(to_nanoseconds(message.header.stamp), T)
            self._edges[child] = edge

    def lookup(self, target: str, source: str, stamp: int) -> F64 | None:
        """T_target_source: (4, 4) that maps coordinates in source to target.

        Moving frames are taken at their pose nearest to ``stamp`` (ns), not interpolated.
        None while the two are not connected.
        """
        up = self._to_root(source.lstrip("/"), stamp)
        down = self._to_root(target.lstrip("/"), stamp)
        for frame, T_frame_source in up.items():
            if frame in down:
                return np.linalg.inv(down[frame]) @ T_frame_source
        return None

    def _to_root(self, frame: str, stamp: int) -> dict[str, F64]:
        """Ancestor -> pose of ``frame`` in it, from itself upwards."""
        T = np.eye(4)
        chain = {frame: T}
        while (edge := self._edges.get(frame)) is not None and len(chain) < MAX_DEPTH:
            T = edge.at(stamp) @ T
            frame = edge.parent
            if frame in chain:
                break
            chain[frame] = T
        return chain


class FrameListener:
    """Fills a buffer from /tf and /tf_static while it lives."""

    def __init__(self, node: Node) -> None:
        self.buffer = FrameBuffer()
        self._node = node
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", self._heard, qos.TF),
            node.create_subscription(TFMessage, "/tf_static", self._heard_static, qos.TF_STATIC),
        ]

    def _heard(self, message: TFMessage) -> None:
        self.buffer.add(message.transforms, static=False)

    def _heard_static(self, message: TFMessage) -> None:
        self.buffer.add(message.transforms, static=True)

    def destroy(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
