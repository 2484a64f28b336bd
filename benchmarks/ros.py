#!/usr/bin/env python3
"""What ROS costs: time that the node adds to the reconstruction, over real DDS.

Three processes: cameras (8 x 640x480 rgb8), the node with a reconstruction that takes no time (two
people with bodies, 200,000 points), and a reader. Per frame set is counted, on the wall clock,
everything from the arrival of its last image in the node to the return from the last publish(),
less the reconstruction: ``handover`` (matching, the way to the worker), ``decode`` and ``publish``
(conversion, serialising and handing over to DDS). First only people and /tf are subscribed to,
then ~/points, too. What DDS needs to bring the images, and the results to their readers, is in
``end_to_end``: from the images' stamp to the reader. Cameras and reader sleep but for 10 ms of
each 100 ms in which they send and take; the two cores then are the node's.

The machine must be left alone: every millisecond that others take from it is in the 99th
percentile. ``*_cpu_*`` are the same in processor time of the worker, which others do not change
much, and ``receiving_cpu`` is that of the thread that takes the images, per frame set.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from ros_common import NoEngine, ReadyScene, child, free_domain, stop

CAMERAS = tuple(f"cam{index}" for index in range(8))
WIDTH, HEIGHT = 640, 480
PEOPLE, POINTS, GRID = 2, 200_000, (120, 160)
PARTS = ("handover", "decode", "publish")  # of the time that the node adds
WARM_UP = 20  # frame sets that are not counted
PATIENCE = 60.0  # seconds until waiting for a process or a message is given up


def cameras(rate: float, out: Path) -> None:
    """Publish until interrupted, all cameras of a set with one stamp; then the stamps as JSON."""
    import rclpy
    from hamst3r_ros.headers import byte_array, header
    from rclpy.executors import ExternalShutdownException
    from rclpy.node import Node
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import Image

    rclpy.init(args=[])
    node = Node("cameras")
    publishers = {
        name: node.create_publisher(Image, f"{name}/image_raw", QoSProfile(depth=4))
        for name in CAMERAS
    }
    message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
    message.data = byte_array(
        np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    )
    stamps, due = [], time.monotonic()
    try:
        while rclpy.ok():
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))
            stamps.append(time.time_ns())
            for name, publisher in publishers.items():
                message.header = header(stamps[-1], f"{name}_optical_frame")
                publisher.publish(message)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        out.write_text(json.dumps(stamps))
        rclpy.try_shutdown()


def node(out: Path) -> None:
    """The node itself, until interrupted; then the times of its frame sets as JSON."""
    from hamst3r_ros.assembler import Assembler, MessageSet
    from hamst3r_ros.parameter import Values
    from hamst3r_ros.worker import NAME as WORKER
    from rclpy.lifecycle import LifecyclePublisher

    from hamst3r_ros import node as module
    from hamst3r_ros import reconstruction

    reconstruction.make_engine = lambda values: NoEngine()  # type: ignore
    reconstruction.make_reconstructor = lambda engine, values, body: ReadyScene(  # type: ignore
        values["cameras"], PEOPLE, POINTS, GRID
    )
    arrivals: dict[int, tuple[float, float]] = {}
    times: list[dict[str, float]] = []

    class TimedAssembler(Assembler):
        """Notes when the message came that completed a set, and what its thread had used."""

        def add(self, camera: str, stamp: int, message: object) -> MessageSet | None:
            now = time.perf_counter()
            messages = super().add(camera, stamp, message)
            if messages is not None:
                arrivals[messages.stamp] = now, time.thread_time()
            return messages

    class TimedNode(module.Hamst3rNode):
        """Notes what each frame set takes, less the reconstruction."""

        def _configure(self, values: Values) -> None:
            super()._configure(values)
            pipeline = self._pipeline
            assert pipeline is not None
            process, push = pipeline.process, pipeline.reconstructor.push
            pushed = [0.0] * 3  # start, end and processor time of the reconstruction
            out = [0.0] * 2  # time and processor time at the return from the last publish()

            def timed_push(frames):
                start, cpu = time.perf_counter(), time.thread_time()
                scene = push(frames)
                pushed[:] = start, time.perf_counter(), time.thread_time() - cpu
                return scene

            def timed_publish(publisher, message):
                publish(publisher, message)
                if threading.current_thread().name == WORKER:
                    out[:] = time.perf_counter(), time.thread_time()

            def timed_process(messages):
                start, cpu = time.perf_counter(), time.thread_time()
                process(messages)
                end, cpu = out[0], out[1] - cpu
                arrival, executor = arrivals.pop(messages.stamp)
                times.append(
                    {
                        "stamp": messages.stamp,
                        "handover": start - arrival,
                        "decode": pushed[0] - start,
                        "publish": end - pushed[1],
                        "cpu": cpu - pushed[2],
                        "executor": executor,
                    }
                )

            pipeline.process = timed_process  # type: ignore
            pipeline.reconstructor.push = timed_push  # type: ignore
            publish, LifecyclePublisher.publish = LifecyclePublisher.publish, timed_publish

    module.Assembler, module.Hamst3rNode = TimedAssembler, TimedNode  # type: ignore
    settings = {"cameras": list(CAMERAS), "points.max": POINTS, "points.body_coordinates": "off"}
    arguments = [
        word for name in settings for word in ("-p", f"{name}:={json.dumps(settings[name])}")
    ]
    code = module.main(["--ros-args", "--log-level", "error", *arguments])
    out.write_text(json.dumps(times))
    sys.exit(code)


class Reader:
    """Hears what the node publishes and notes when.

    Attributes:
        heard: Topic -> stamp -> seconds from that stamp to its arrival.
    """

    def __init__(self, domain: int) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node

        rclpy.init(args=[], domain_id=domain)
        self.heard: dict[str, dict[int, float]] = {}
        self._node = Node("reader")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)

    def listen(self, kind: type, topic: str) -> None:
        """Subscribe to a topic, too."""
        from hamst3r_ros.headers import to_nanoseconds

        heard: dict[int, float] = self.heard.setdefault(topic, {})

        def arrived(message) -> None:
            now = time.time_ns()
            first = message.transforms[0] if hasattr(message, "transforms") else message
            stamp = to_nanoseconds(first.header.stamp)
            heard[stamp] = (now - stamp) / 1e9

        self._node.create_subscription(kind, topic, arrived, 20)

    def until(self, topic: str, count: int, alive: list) -> None:
        """Listen until ``count`` more messages of a topic have come."""
        wanted = len(self.heard[topic]) + count
        silence = time.monotonic()
        while (before := len(self.heard[topic])) < wanted:
            self._executor.spin_once(timeout_sec=0.1)
            if len(self.heard[topic]) > before:
                silence = time.monotonic()
            ended = [process.args for process in alive if process.poll() is not None]
            if ended or time.monotonic() - silence > PATIENCE:
                raise SystemExit(f"error: nothing on {topic}; ended: {ended or 'none'}")

    def close(self) -> None:
        """Leave the domain."""
        import rclpy

        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()


def measure(sets: int, rate: float) -> dict[str, float]:
    """Figures by name; times in milliseconds."""
    from hamst3r_msgs.msg import HumanArray
    from sensor_msgs.msg import PointCloud2
    from tf2_msgs.msg import TFMessage

    humans, points = "/hamst3r/humans", "/hamst3r/points"
    domain = free_domain()
    with tempfile.TemporaryDirectory() as folder:
        sent_file, times_file = Path(folder, "sent.json"), Path(folder, "times.json")
        reader = Reader(domain)
        reader.listen(HumanArray, humans)
        reader.listen(TFMessage, "/tf")
        running = [child(__file__, domain, "--role", "node", "--out", str(times_file))]
        try:
            role = ("--role", "cameras", "--rate", str(rate), "--out", str(sent_file))
            running.append(child(__file__, domain, *role))
            reader.until(humans, WARM_UP, running)
            first = max(reader.heard[humans])
            reader.until(humans, sets, running)
            reader.listen(PointCloud2, points)
            middle = max(reader.heard[humans])
            reader.until(points, WARM_UP, running)
            second = max(reader.heard[points])
            reader.until(points, sets, running)
            last = max(reader.heard[points])
        finally:
            stop(running)
            reader.close()
        times = json.loads(times_file.read_text())
        sent = json.loads(sent_file.read_text())

    figures: dict[str, float] = {}
    for name, topic, start, end in (
        ("humans_tf", humans, first, middle),
        ("clouds", points, second, last),
    ):
        taken = [t for t in times if start < t["stamp"] <= end]
        ends = [at for stamp, at in reader.heard[topic].items() if start < stamp <= end]
        columns = {part: [t[part] for t in taken] for part in PARTS}
        columns[""] = [sum(t[part] for part in PARTS) for t in taken]
        columns["cpu"] = [t["cpu"] for t in taken]
        columns["receiving_cpu"] = np.diff([t["executor"] for t in taken]).tolist()
        columns["end_to_end"] = ends
        for part, column in columns.items():
            for share in (50, 99):
                key = "_".join(word for word in (name, part, f"p{share}_ms") if word)
                figures[key] = round(1e3 * float(np.percentile(column, share)), 3)
        wanted = [stamp for stamp in sent if start < stamp <= end]
        got = [stamp for stamp in wanted if stamp in reader.heard[topic]]
        figures[f"{name}_received_fraction"] = round(len(got) / len(wanted), 4)
    figures["received_fraction"] = figures["humans_tf_received_fraction"]
    figures["frame_sets"] = sets
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=300, help="frame sets per figure (%(default)s)")
    parser.add_argument("--rate", type=float, default=10.0, help="of them per second (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--role", choices=("cameras", "node"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "cameras":
        cameras(options.rate, options.out)
        return 0
    if options.role == "node":
        node(options.out)
        return 0
    figures = measure(options.sets, options.rate)
    for name, value in figures.items():
        print(f"{name:34}{value:10g}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
