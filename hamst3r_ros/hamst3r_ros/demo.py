"""Cameras, the node, a live table, and a picture of what came out.

Everything shown and drawn was received over DDS from the processes that ``bringup`` starts, on a
ROS domain of their own that only this machine can see.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import re
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from hamst3r.alignment.calibration import load_calibration
from hamst3r_ros.bringup import BringupError, command, parse
from hamst3r_ros.demo_collector import DemoCollector, Status
from hamst3r_ros.demo_picture import draw
from hamst3r_ros.plan import Process, plan
from hamst3r_ros.processes import ProcessGroup, heed_interrupts, own_environment
from hamst3r_ros.status_table import BOLD, RED, YELLOW, StatusTable

PERIOD = 0.2  # seconds between two looks at everything
PATIENCE = 180.0  # seconds until the first frame set has to be there
REPLAY_SIZE = 960  # pixels: the network sees less, the picture needs no more
TRUTH = "/sim_cameras/ground_truth/cameras"
OWN = ("source", "replay_dir", "transport", "namespace", "use_sim_time", "respawn")
STATES = ("new", "seen", "predicted", "lost")
LOG_LINE = re.compile(r"\[(DEBUG|INFO|WARN|ERROR|FATAL)\] \[[\d.]+\] \[[^\]]*\]: (.*)")
STYLES = {"WARN": YELLOW, "ERROR": RED, "FATAL": RED}


class DemoError(RuntimeError):
    """What keeps the demo from its end; one line."""


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    add = parser.add_argument
    add("--replay", metavar="DIR", help="a recording instead of simulated cameras")
    add("--seconds", type=float, default=20.0, help="how long to watch (default 20)")
    add("--out", type=Path, default=Path("demo.png"), help="the picture (default demo.png)")
    add("--seed", type=int, default=4, help="which simulated room and people (default 4)")
    add("--people", type=int, default=2, help="how many simulated people (default 2)")
    add("--rate", type=float, default=5.0, help="frame sets per second (default 5)")
    add("more", nargs="*", metavar="name:=value", help="as for bringup, e.g. device:=cpu")
    options = parser.parse_args(argv)
    if not options.seconds > 0:
        parser.error(f"--seconds is {options.seconds}, expected a number above 0")
    if not options.rate > 0:
        parser.error(f"--rate is {options.rate}, expected a number above 0")
    if not cv2.haveImageWriter(str(options.out)):
        parser.error(f"--out {options.out}: expected the name of a picture such as demo.png")
    if not options.out.absolute().parent.is_dir():
        parser.error(f"--out: the folder {options.out.parent} does not exist")
    return options


def processes(options: argparse.Namespace) -> list[Process]:
    """What runs: that of bringup, with the demo's settings of the cameras.

    Raises:
        DemoError, BringupError, PlanError: Arguments that cannot be followed.
    """
    given = {"source": "sim", "rate": str(options.rate), "transport": "raw"}
    settings: dict[str, object] = {"seed": options.seed, "people": options.people}
    if options.replay:
        given |= {"source": "replay", "replay_dir": options.replay}
        settings = {"size": REPLAY_SIZE}
    more = parse(options.more)
    for name in OWN:
        if name in more:
            raise DemoError(f"'{name}:=' is not for the demo, which needs its own; use bringup")
    planned = plan({**given, **more})
    return [
        dataclasses.replace(process, parameters=[*process.parameters, settings])
        if process.executable in ("sim_cameras", "replay")
        else process
        for process in planned
    ]


def camera_names(planned: Sequence[Process]) -> list[str]:
    """Names of the cameras as the node is told."""
    for process in planned:
        for parameters in process.parameters:
            if process.executable == "hamst3r" and isinstance(parameters, Mapping):
                return list(parameters.get("cameras", []))
    return []


def free_domain(rng: random.Random) -> int:
    """A ROS domain that nobody on this machine uses (1 to 101 are safe on every system)."""
    for domain in rng.sample(range(1, 102), 101):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7410 + 250 * domain))  # of a domain's first participant
            except OSError:
                continue
        return domain
    raise DemoError("all ROS domains of this machine are in use; end a few ROS processes")


class Demo:
    """One run, from the start of the processes to the picture."""

    def __init__(self, options: argparse.Namespace, table: StatusTable) -> None:
        self._options = options
        self._table = table
        planned = processes(options)
        self._cameras = camera_names(planned)
        self._known: dict[str, NDArray[np.float64]] | None = None  # None: the simulation tells
        if options.replay:
            file = Path(options.replay, "calibration.json")
            known = load_calibration(file) if file.exists() else {}
            self._known = {name: c.T_rig_cam for name, c in known.items() if name in self._cameras}
        self._group = ProcessGroup([command(p) for p in planned], self._line, own_environment())
        self._doing = "starting"
        self._started = time.monotonic()

    def run(self) -> None:
        """Run to the end.

        Raises:
            DemoError: It cannot go on.
        """
        what = (
            f"recording {self._options.replay}"
            if self._options.replay
            else (f"simulated cameras, room {self._options.seed}")
        )
        self._table.say(f"hamst3r_ros demo: {what}, ROS domain {os.environ['ROS_DOMAIN_ID']}", BOLD)
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        executor = SingleThreadedExecutor()
        collector = DemoCollector(self._cameras, "" if self._options.replay else TRUTH)
        executor.add_node(collector)
        listener = threading.Thread(target=_spin, args=(executor,), daemon=True)
        try:
            self._group.start()
            listener.start()
            self._watch(collector)
        finally:
            self._table.leave()
            self._group.stop()
            executor.shutdown()
            if listener.is_alive():
                listener.join()
        self._tell_frames(collector)
        self._draw(collector)
        collector.destroy_node()
        rclpy.try_shutdown()

    def _watch(self, collector: DemoCollector) -> None:
        since: float | None = None
        # To the end, and then until there is something to draw: a busy machine loses messages.
        while (
            since is None
            or (watched := time.monotonic() - since) < self._options.seconds
            or (not collector.complete and watched < self._options.seconds + PATIENCE)
        ):
            code = self._group.poll(PERIOD)
            if code is not None:
                raise DemoError(f"{self._group.ended_by or 'everything'} ended (exit code {code})")
            status = collector.status()
            if since is None and status.sets:
                since = time.monotonic()
            if since is None and time.monotonic() - self._started > PATIENCE:
                why = "; ".join(text for text in status.diagnostics.values() if text)
                raise DemoError(f"no points within {PATIENCE:.0f} s: {why or 'no diagnostics'}")
            self._show(status, since)

    def _line(self, name: str, text: str) -> None:
        """A line of a process: problems are shown, good news only say what goes on."""
        match = LOG_LINE.match(text)
        if match and match[1] in ("DEBUG", "INFO"):
            if name == "hamst3r":
                self._doing = match[2]
        elif text.strip():
            level, words = (match[1], match[2]) if match else ("ERROR", text)
            self._table.say(f"{name}: {words}", STYLES[level])

    def _show(self, status: Status, since: float | None) -> None:
        elapsed = time.monotonic() - self._started
        if since is None:
            turn = "|/-\\"[int(elapsed / PERIOD) % 4] if self._table.live else "..."
            text = f"{turn} {elapsed:.0f} s: {self._doing}"
            self._table.show([("starting", text)], text)
            return
        watched = time.monotonic() - since
        inference = status.values.get("inference", {})
        states = {
            name: status.values.get("cameras", {}).get(f"{name}.state", "?")
            for name in self._cameras
        }
        source = status.values.get("world", {}).get("scale_source", "?")
        world, trouble = f"scale from {source}", status.diagnostics.get("world", "")
        if trouble not in ("", source):
            world += f"; {trouble}"
        people = ", ".join(_person(*person) for person in status.people) or "nobody"
        latency = f"{1e3 * status.latency:.0f} ms"
        network = inference.get("network_ms", "").partition(" ")[0]
        rows = [
            ("time", f"{_bar(watched / self._options.seconds)} {watched:.0f} s"),
            ("frame sets", f"{status.sets}, {status.rate:.1f} per second"),
            ("latency", latency + (f" (network {network} ms)" if network else "")),
            ("points", f"{status.points}, {status.people_points} of them on people"),
            ("people", people),
            ("cameras", ", ".join(f"{name} {state}" for name, state in states.items())),
            ("world", world),
        ]
        brief = (
            f"{watched:5.1f} s  {status.sets} frame sets, {status.rate:.1f}/s, {latency}, "
            f"{status.points} points, people: {people}; cameras: "
            + ", ".join(f"{name} {state}" for name, state in states.items())
        )
        self._table.show(rows, brief)

    def _tell_frames(self, collector: DemoCollector) -> None:
        errors = collector.frame_errors(self._known)
        if not errors:
            return
        place = max(errors, key=lambda name: errors[name][0])
        turn = max(errors, key=lambda name: errors[name][1])
        source = "the calibration" if self._options.replay else "the truth"
        self._table.say(
            f"camera frames on /tf differ from {source} by at most {1e3 * errors[place][0]:.3f} mm "
            f"({place}) and {np.degrees(errors[turn][1]):.4f} degrees ({turn})"
        )

    def _draw(self, collector: DemoCollector) -> None:
        snapshot = collector.snapshot("HAMSt3R on ROS 2")
        if snapshot is None:
            raise DemoError("no frame set was received completely, so there is nothing to draw")
        self._table.say("drawing the picture ...")
        _, data = cv2.imencode(self._options.out.suffix, draw(snapshot)[..., ::-1])
        self._options.out.write_bytes(data.tobytes())
        self._table.say(f"picture: {self._options.out}", BOLD)


def _spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


def _person(identity: int, state: int, rmse: float) -> str:
    fit = "" if np.isnan(rmse) else f", body {100 * rmse:.1f} cm"
    return f"{identity} ({STATES[state]}{fit})"


def _bar(share: float, width: int = 24) -> str:
    done = round(min(share, 1.0) * width)
    return "█" * done + "░" * (width - done)


def main(args: Sequence[str] | None = None) -> int:
    """Console entry point; see the module's description."""
    options = arguments(sys.argv[1:] if args is None else args)
    heed_interrupts()
    table = StatusTable(sys.stdout)
    try:
        # Read by rcl in this process and in those it starts.
        os.environ["ROS_DOMAIN_ID"] = str(free_domain(random.Random()))
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        os.environ.pop("ROS_LOCALHOST_ONLY", None)
        Demo(options, table).run()
        return 0
    except KeyboardInterrupt:
        table.say("stopped")
        return 130
    except (DemoError, BringupError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
