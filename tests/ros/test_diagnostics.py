"""What /diagnostics says: how fast, how late, what is known, and what is wrong around the node."""

from __future__ import annotations

import pytest
import rclpy
from bench import STEP, image
from hamst3r_msgs.msg import HumanArray
from hamst3r_ros.assembler import Assembler, SyncSettings
from hamst3r_ros.diagnostics import ERROR, OK, WARN, Problems, Statistics
from hamst3r_ros.headers import to_time
from hamst3r_ros.reporting import watch_name, watch_sets, watch_worker
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage

from hamst3r_ros import parameters

CLOCK = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class Seconds:
    """Seconds that the test decides."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_percentiles_are_of_the_last_seconds():
    clock = Seconds()
    statistics = Statistics(clock)
    assert statistics.percentiles("latency") == {}
    statistics.record("latency", 9.0)
    clock.now += 60
    for milliseconds in range(1, 201):
        statistics.record("latency", milliseconds / 1e3)
    assert statistics.percentiles("latency") == {
        "latency_p50_ms": "100.0",
        "latency_p95_ms": "190.0",
        "latency_p99_ms": "198.0",
    }


@pytest.fixture
def problems() -> Problems:
    return Problems(lambda level, text: None, Seconds())


def test_a_hang_is_an_error_until_it_is_over(problems):
    values = parameters.defaults()
    watch_worker(30.0, Statistics(), values, problems)
    (problem,) = problems.of("inference").values()
    assert problem.level == ERROR and "taken 30 s" in problem.text
    watch_worker(0.0, Statistics(), values, problems)
    assert problems.of("inference") == {}


def test_images_that_are_few_are_not_clocks_that_differ(problems):
    values = parameters.defaults() | {"cameras": ["a", "b"]}
    assembler = Assembler(["a", "b"], SyncSettings(50_000_000, 2, 500_000_000))
    states = dict.fromkeys("ab", "active")
    for camera, stamp in (("a", 0), ("b", 10_000_000)):
        assembler.add(camera, stamp, None)
    watch_sets(assembler, Statistics(), states, values, 10.0, problems)
    assert problems.of("frame_sets") == {}
    for step in range(1, 4):
        assembler.add("b", 10_000_000 + step * 30_000_000, None)
    watch_sets(assembler, Statistics(), states, values, 10.0, problems)
    (problem,) = problems.of("frame_sets").values()
    assert "differ by up to 0.100 s, sync.slop is 0.05 s" in problem.text
    assembler.add("a", 100_000_000, None)
    watch_sets(assembler, Statistics(), states, values, 10.0, problems)
    assert problems.of("frame_sets") == {}


@pytest.mark.parametrize("delay", [5.0, -5.0, 3e7])
def test_late_outputs_are_told(problems, delay):
    statistics = Statistics()
    for _ in range(3):
        statistics.record("latency", delay)
    values = parameters.defaults()
    watch_worker(0.0, statistics, values, problems)
    (problem,) = problems.of("inference").values()
    assert problem.level == WARN and f"{delay:.1f} s behind" in problem.text
    watch_worker(0.0, statistics, values | {"diagnostics.max_delay": 0.0}, problems)
    assert problems.of("inference") == {}


def test_names_that_are_taken(problems):
    own = "/robot/hamst3r"
    others = [("hamst3r", "/"), ("hamst3r", "/robot2"), ("peer", "/robot")]
    watch_name(own, [("hamst3r", "/robot"), *others], problems)
    assert problems.of("inference") == {}
    watch_name(own, [("hamst3r", "/robot"), ("hamst3r", "/robot"), *others], problems)
    (problem,) = problems.of("inference").values()
    assert "2 nodes are called /robot/hamst3r" in problem.text
    watch_name("/hamst3r", [("hamst3r", "/"), *others[1:]], problems)
    assert problems.of("inference") == {}


def test_rates_latency_memory_weights_and_calibration(bench, tiny_weights):
    it = bench(("a", "b"), world__known_extrinsics="tf")
    it.put_up()
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.activate()
    it.until(lambda: len(humans) > 3 and it.value("inference", "latency_p99_ms"), it.shoot)
    latency, people = (
        float(it.value("inference", f"{what}_p50_ms")) for what in ("latency", "people_latency")
    )
    assert 0 < people <= latency  # they go first
    assert float(it.value("cameras", "a.hz")) > 0
    assert it.value("cameras", "a.intrinsics") == "camera_info"
    assert it.value("cameras", "b.pose") == "tf"
    assert it.value("device", "weights") == tiny_weights
    assert len(it.value("device", "weights_sha256")) == 64
    assert float(it.value("device", "rss_mib")) > 50
    assert int(it.value("device", "open_files")) > 3
    assert it.value("frame_sets", "dropped").isdigit()


def test_nothing_known_is_called_estimated(bench):
    it = bench(("a", "b"))
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.activate()
    it.until(lambda: humans and it.value("cameras", "a.pose"), it.shoot)
    assert it.value("cameras", "a.intrinsics") == it.value("cameras", "a.pose") == "estimated"


def test_delays_are_measured_on_the_clock_of_a_recording(bench):
    it = bench(("a", "b"), use_sim_time=True, diagnostics__max_delay=2.0)
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.activate()

    def play(behind: int):
        it.shoot()
        it.publish("/clock", Clock(clock=to_time(it.stamp + behind)), CLOCK)

    it.until(lambda: len(humans) > 3 and it.value("inference", "latency_p50_ms"), lambda: play(0))
    assert "behind the clock" not in it.message("inference")
    it.until(
        lambda: "behind the clock when they are published" in it.message("inference"),
        lambda: play(5_000_000_000),
    )


def test_a_peer_that_publishes_another_type_is_named(bench):
    it = bench(("a", "b", "c"), sync__max_age=0.3)
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.activate()
    # A participant of its own: within one, a topic has one type.
    elsewhere = rclpy.Context()
    rclpy.init(args=[], context=elsewhere, domain_id=it.node.context.get_domain_id())
    stranger = Node("stranger", context=elsewhere)
    wrong = stranger.create_publisher(CompressedImage, "c/image_raw", 1)

    def shoot():
        it.shoot(["a", "b"])
        wrong.publish(CompressedImage(format="jpeg"))

    text = "publisher of sensor_msgs/msg/CompressedImage, expected sensor_msgs/msg/Image"
    try:
        it.until(lambda: humans and text in it.message("cameras"), shoot)
        assert it.value("cameras", "c.state") == "waiting_image"
    finally:
        stranger.destroy_node()
        rclpy.try_shutdown(context=elsewhere)


def test_two_nodes_of_one_name_are_told_and_go_on(bench):
    it = bench(("a", "b"))
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.activate()
    twin = Node("hamst3r")
    try:
        it.until(lambda: "nodes are called /hamst3r" in it.message("inference"), it.shoot)
        before = len(humans)
        it.until(lambda: len(humans) > before, it.shoot)
    finally:
        twin.destroy_node()
    it.until(lambda: "nodes are called" not in it.message("inference"), it.shoot)


def test_ten_times_as_many_images_as_can_be_used_make_no_backlog(bench):
    it = bench(("a", "b"), rate__max=5.0)
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.activate()
    many = QoSProfile(depth=20)

    def burst():
        for _ in range(10):
            it.stamp += STEP // 10
            for name in it.cameras:
                message = image(it.stamp, name, it.pixels[name])
                it.publish(f"{name}/image_raw", message, many)

    it.until(lambda: len(humans) > 5 and int(it.value("frame_sets", "superseded") or 0) > 5, burst)
    # What is published is of the newest images, not of those that waited.
    newest = it.stamp
    seen = len(humans)
    it.until(lambda: len(humans) > seen + 1, burst)
    stamp = humans[seen + 1].header.stamp
    assert stamp.sec * 10**9 + stamp.nanosec > newest - 2 * STEP
    assert it.status["inference"].level == OK
