"""For launch_testing (test_launch.py runs it): the launch file starts cameras and the node, people
and clouds come out, and everything ends well when it is told to."""

from __future__ import annotations

import time
import unittest
from pathlib import Path

import launch_testing
import rclpy
from hamst3r_msgs.msg import HumanArray
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2

import launch

FILE = Path(__file__).resolve().parents[2] / "launch" / "multi_cam.launch.py"
ARGUMENTS = {"source": "sim", "rate": "2", "device": "cpu", "namespace": "launched"}
DEADLINE = 120.0  # seconds; only a hang reaches it


def generate_test_description() -> launch.LaunchDescription:
    """Called by launch_testing."""
    included = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(FILE)), launch_arguments=ARGUMENTS.items()
    )
    return launch.LaunchDescription([included, launch_testing.actions.ReadyToTest()])


class TestWhileItRuns(unittest.TestCase):
    """With cameras and node alive."""

    def test_people_and_clouds_come_out(self) -> None:
        rclpy.init()
        node = Node("listener")
        received: dict[str, int] = {}
        for kind, topic in ((HumanArray, "humans"), (PointCloud2, "points")):
            node.create_subscription(
                kind,
                f"/launched/hamst3r/{topic}",
                lambda _, topic=topic: received.update({topic: received.get(topic, 0) + 1}),
                10,
            )
        try:
            end = time.monotonic() + DEADLINE
            while len(received) < 2:
                self.assertLess(time.monotonic(), end, f"only {received} came")
                rclpy.spin_once(node, timeout_sec=0.5)
        finally:
            node.destroy_node()
            rclpy.shutdown()


@launch_testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    """When launch has ended everything."""

    def test_exit_codes(self, proc_info) -> None:
        launch_testing.asserts.assertExitCodes(proc_info)

    def test_no_traceback(self, proc_output) -> None:
        for process in proc_output.processes():
            text = b"".join(io.text for io in proc_output[process]).decode(errors="replace")
            self.assertNotIn("Traceback", text)
