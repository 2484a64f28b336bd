"""A dashboard in the terminal, from /diagnostics alone.

    top [NODE] [--once]

NODE is a name such as /hamst3r or /robot1/hamst3r; without it all nodes heard of are shown.
Cameras, rates, drops, latency, stages, memory and what is wrong; redrawn in place on a terminal, a
line now and then elsewhere. --once prints the first report and ends.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.utilities import remove_ros_args

from hamst3r_ros import qos
from hamst3r_ros.diagnostics import ERROR, OK, STATUSES
from hamst3r_ros.status_table import BOLD, ESCAPES, FAINT, RED, RESET, YELLOW, StatusTable

SILENT = 5.0  # seconds without a report until a node is called silent
PATIENCE = 10.0  # seconds that --once waits for a first report
PERIOD = 0.5  # seconds between two looks

Row = tuple[str, str]


class Report:
    """The newest statuses of one node.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard = clock()
        self._levels: dict[str, tuple[bytes, str]] = {}
        self._values: dict[str, dict[str, str]] = {}

    def take(self, name: str, level: bytes, message: str, values: dict[str, str]) -> None:
        """One status."""
        self._heard = self._clock()
        self._levels[name], self._values[name] = (level, message), values

    @property
    def whole(self) -> bool:
        """Whether every status has come."""
        return set(self._levels) >= set(STATUSES)

    def rows(self, node: str) -> list[Row]:
        """(name, text) of each line."""
        inference, sets, device, world = (
            self._values.get(name, {}) for name in ("inference", "frame_sets", "device", "world")
        )
        age = self._clock() - self._heard
        state = inference.get("state", "?") if age < SILENT else f"silent for {age:.0f} s"
        rows = [(BOLD + node + RESET, state), *self._cameras()]
        rows.append(
            (
                "frame sets",
                _words(
                    sets, "{hz_in} Hz in, {hz_out} Hz out, {complete} complete, {partial} partial"
                ),
            )
        )
        reasons = ("superseded", "undecodable", "failed", "waiting_for_tf", "unmatched")
        lost = [f"{sets[reason]} {reason}" for reason in reasons if sets.get(reason, "0") != "0"]
        rows.append(("dropped", ", ".join(lost) or "none"))
        if "latency_p50_ms" in inference:
            text = "{latency_p50_ms} ms median, {latency_p95_ms} p95, {latency_p99_ms} p99"
            if "people_latency_p50_ms" in inference:
                text += "; of people {people_latency_p50_ms} ms median"
            rows.append(("latency", _words(inference, text)))
        known = ("output_latency_ms", "time_since_last_publish_ms")
        stages = [
            f"{key[:-3]} {value.split()[0]}"
            for key, value in inference.items()
            if key.endswith("_ms") and "mean" in value and key not in known
        ]
        if stages:
            rows.append(("stages, ms", "  ".join(stages)))
        memory = f"{device.get('rss_mib', '?')} MiB"
        if "allocated_mib" in device:
            memory += f", GPU {device['allocated_mib']} of {device['reserved_mib']} MiB"
        weights = device.get("weights_sha256", "")[:12]
        rows.append(
            (
                "device",
                f"{device.get('device', '?')} {device.get('precision', '')}, {memory}"
                + (f", weights {weights}" if weights else ""),
            )
        )
        if world:
            text = (
                "{people} people, {points} points, {cameras_placed} cameras; scale {scale_source}"
            )
            rows.append(("world", _words(world, text)))
        return rows + self._problems()

    def _cameras(self) -> list[Row]:
        values = self._values.get("cameras", {})
        names = [key.removesuffix(".state") for key in values if key.endswith(".state")]
        rows = []
        for name in names:
            state = values[f"{name}.state"]
            colour = "" if state == "active" else YELLOW
            text = f"{colour}{state}{RESET}  {values.get(f'{name}.hz', '?')} Hz"
            text += f"  {values.get(f'{name}.rejected', '?')} rejected"
            known = [
                f"{what} {by}"
                for what in ("intrinsics", "pose")
                if (by := values.get(f"{name}.{what}", ""))
            ]
            rows.append((f"  {name}", f"{text}  {FAINT}{', '.join(known)}{RESET}"))
        return rows

    def _problems(self) -> list[Row]:
        rows = []
        for name, (level, message) in self._levels.items():
            if level != OK:
                colour = RED if level == ERROR else YELLOW
                rows += [("", f"{colour}{name}: {text}{RESET}") for text in message.split("; ")]
        return rows

    def brief(self, node: str) -> str:
        """One line."""
        return "; ".join(f"{name.strip()} {text}" for name, text in self.rows(node) if name.strip())


def _words(values: dict[str, str], text: str) -> str:
    class Missing(dict):
        def __missing__(self, key: str) -> str:
            return "?"

    return text.format_map(Missing(values))


class Top(Node):
    """Listens to /diagnostics.

    Args:
        only: Fully qualified name of the one node to show; "" = all.

    Attributes:
        reports: Node -> its report.
    """

    def __init__(self, only: str) -> None:
        super().__init__("hamst3r_top")
        self._only = only
        self.reports: dict[str, Report] = {}
        self.create_subscription(DiagnosticArray, "/diagnostics", self._heard, qos.DIAGNOSTICS)

    def _heard(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = status.name.rpartition(": ")[2]
            node = status.hardware_id
            if name not in STATUSES or not node.startswith("/") or self._only not in ("", node):
                continue
            values = {value.key: value.value for value in status.values}
            level = status.level if isinstance(status.level, bytes) else bytes([status.level])
            self.reports.setdefault(node, Report()).take(name, level, status.message, values)


def main(args: Sequence[str] | None = None) -> int:
    """Console entry point: 0, or 1 where --once heard nothing."""
    words = remove_ros_args(list(sys.argv if args is None else ["top", *args]))[1:]
    parser = argparse.ArgumentParser(
        prog="top", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("node", nargs="?", default="", help="show this node only")
    parser.add_argument("--once", action="store_true", help="print one report and end")
    options = parser.parse_args(words)
    rclpy.init(args=None if args is None else list(args))
    only = f"/{options.node.strip('/')}" if options.node else ""
    table, end = StatusTable(sys.stdout), time.monotonic() + PATIENCE
    top, executor = Top(only), SingleThreadedExecutor()
    executor.add_node(top)
    due = 0.0
    try:
        while rclpy.ok():
            executor.spin_once(timeout_sec=PERIOD / 2)
            whole = {node: report for node, report in top.reports.items() if report.whole}
            if options.once:
                if whole:
                    return _print(whole)
                if time.monotonic() > end:
                    sys.stderr.write(
                        f"error: nothing heard of {only or 'any node'} on /diagnostics in "
                        f"{PATIENCE:.0f} s; is it running, and ROS_DOMAIN_ID the same?\n"
                    )
                    return 1
            elif time.monotonic() >= due:
                due = time.monotonic() + PERIOD
                rows = [row for node, report in whole.items() for row in report.rows(node)]
                briefs = " | ".join(report.brief(node) for node, report in whole.items())
                waiting = f"waiting for {only or 'a node'} on /diagnostics ..."
                table.show(rows or [("", waiting)], briefs or waiting)
        return 0
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        top.destroy_node()
        rclpy.try_shutdown()


def _print(reports: dict[str, Report]) -> int:
    plain = not sys.stdout.isatty()
    for node, report in reports.items():
        for name, text in report.rows(node):
            line = f"{name:<12}{text}" if not name.startswith(BOLD) else f"{name}  {text}"
            sys.stdout.write((ESCAPES.sub("", line) if plain else line) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
