"""The soak's world around the node: cameras, operator and reader in one, and what goes wrong."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from soak_room import CAMERAS, PERIOD, WIDTH, render

STEP = 100_000_000  # ns between frame sets
PATIENCE = 60.0


class Rig:
    """Cameras, operator and reader of the node in one.

    Attributes:
        people: Largest number of people heard of at once. ids: All that were given.
    """

    def __init__(self, domain: int) -> None:
        import rclpy
        from hamst3r_msgs.msg import HumanArray
        from lifecycle_msgs.srv import ChangeState
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node
        from rclpy.qos import QoSProfile
        from sensor_msgs.msg import Image, PointCloud2
        from tf2_msgs.msg import TFMessage
        from visualization_msgs.msg import MarkerArray

        rclpy.init(args=[], domain_id=domain)
        self.stamp = time.time_ns()
        self.step = 0
        self.ids: set[int] = set()
        self.people = 0
        self.counts: dict[str, int] = {}
        self._newest: tuple[int, tuple[str, ...]] = (0, ())
        self._node = Node("rig")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._images = {
            name: self._node.create_publisher(Image, f"{name}/image_raw", QoSProfile(depth=4))
            for name in CAMERAS
        }
        self._change = self._node.create_client(ChangeState, "/hamst3r/change_state")
        self._node.create_subscription(HumanArray, "/hamst3r/humans", self._heard, 20)
        for kind, topic in (
            (PointCloud2, "points"),
            (PointCloud2, "obstacles"),
            (PointCloud2, "map"),
            (MarkerArray, "humans/markers"),
        ):
            self._count(kind, f"/hamst3r/{topic}")
        self._count(TFMessage, "/tf")
        for name in CAMERAS:
            self._count(Image, f"/hamst3r/{name}/depth")

    def _count(self, kind: type, topic: str) -> None:
        self.counts[topic] = 0

        def arrived(_: object) -> None:
            self.counts[topic] += 1

        # Raw: the reader's own work is not looked at.
        self._node.create_subscription(kind, topic, arrived, 20, raw=True)

    def _heard(self, message) -> None:
        from hamst3r_ros.headers import to_nanoseconds

        self._newest = to_nanoseconds(message.header.stamp), tuple(message.cameras)
        self.people = max(self.people, len(message.humans))
        self.ids |= {human.id for human in message.humans}

    def send(
        self, without: Sequence[str] = (), spoil: Callable[[NDArray], NDArray] | None = None
    ) -> None:
        """One image of each camera, of the next time.

        Args:
            without: Cameras that say nothing. spoil: Makes other pixels of the first camera's.
        """
        from hamst3r_ros.headers import byte_array, header
        from sensor_msgs.msg import Image

        self.stamp += STEP
        self.step += 1
        for name, publisher in self._images.items():
            if name in without:
                continue
            pixels = render(name, self.step % PERIOD)
            if spoil is not None and name == CAMERAS[0]:
                pixels = spoil(pixels)
            message = Image(
                header=header(self.stamp, name),
                height=pixels.shape[0],
                width=pixels.shape[1],
                encoding="rgb8",
                step=3 * WIDTH,
            )
            message.data = byte_array(pixels)
            publisher.publish(message)

    def spin(self, seconds: float) -> None:
        """Listen for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.01)

    def answered(self, seconds: float, since: int | None = None) -> bool:
        """Whether people of all cameras come within a time, not older than ``since``.

        Args:
            since: A stamp; by default that of the images sent last.
        """
        since = self.stamp if since is None else since
        end = time.monotonic() + seconds
        while not (self._newest[0] in range(since, self.stamp + 1) and self._newest[1] == CAMERAS):
            if time.monotonic() > end:
                return False
            self._executor.spin_once(timeout_sec=0.02)
        return True

    def transition(self, label: str) -> None:
        """Drive the node's lifecycle."""
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request()
        request.transition.label = label
        self._change.wait_for_service(PATIENCE)
        future = self._change.call_async(request)
        self._executor.spin_until_future_complete(future, PATIENCE)
        if not future.done() or not future.result().success:
            raise SystemExit(f"error: the node did not {label}")

    def close(self) -> None:
        """Leave the domain."""
        import rclpy

        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()


def silent(rig: Rig) -> None:
    """A camera says nothing for a second."""
    for _ in range(10):
        rig.send(without=CAMERAS[:1])
        rig.spin(0.1)


def garbage(rig: Rig) -> None:
    """A camera's images are too short for what they say."""
    for _ in range(10):
        rig.send(spoil=lambda pixels: pixels[:, : WIDTH // 3])
        rig.spin(0.05)


def huge(rig: Rig) -> None:
    """A camera's images are suddenly much larger, and of another shape."""
    for _ in range(3):
        rig.send(spoil=lambda _: np.zeros((2000, WIDTH, 3), np.uint8))
        rig.spin(0.1)


def jump_back(rig: Rig) -> None:
    """All clocks go back by a minute."""
    rig.stamp -= 60_000_000_000


def jump_ahead(rig: Rig) -> None:
    """All clocks go ahead by an hour."""
    rig.stamp += 3_600_000_000_000


def out_of_memory(rig: Rig) -> None:
    """The network runs out of memory, five times in a row."""

    def spoil(pixels: NDArray) -> NDArray:
        marked = pixels.copy()
        marked[:8, :8] = (0, 0, 255)
        return marked

    for _ in range(5):
        rig.send(spoil=spoil)
        rig.spin(0.1)


def deactivated(rig: Rig) -> None:
    """An operator takes the node out of service and back."""
    rig.transition("deactivate")
    for _ in range(3):
        rig.send()
        rig.spin(0.05)
    rig.transition("activate")


def flood(rig: Rig) -> None:
    """Ten times as many images as can be used, all at once."""
    for _ in range(50):
        rig.send()


FAULTS = (silent, garbage, huge, jump_back, jump_ahead, out_of_memory, deactivated, flood)


def recover(rig: Rig, running: subprocess.Popen[str]) -> float:
    """Seconds from now until a frame set of all cameras, sent from now on, comes out."""
    start, since = time.monotonic(), rig.stamp + STEP
    while time.monotonic() - start < PATIENCE:
        if running.poll() is not None:
            raise SystemExit(f"error: the node ended with exit code {running.returncode}")
        rig.send()
        if rig.answered(0.1, since):
            return time.monotonic() - start
    raise SystemExit("error: the node did not recover")
