"""The five statuses on /diagnostics, from what the node's parts know."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticStatus

from hamst3r_ros.assembler import Assembler
from hamst3r_ros.cameras import Cameras
from hamst3r_ros.diagnostics import ERROR, Problems, Statistics, status
from hamst3r_ros.headers import NANOSECONDS
from hamst3r_ros.parameter import Values

if TYPE_CHECKING:
    from hamst3r_ros.pipeline import Pipeline

# Seconds without a frame set, while images come, until that is worth a word.
SET_PATIENCE = 2.0
READERS = "readers of "


def watch_sets(
    assembler: Assembler,
    statistics: Statistics,
    states: dict[str, str],
    values: Values,
    active_for: float,
    problems: Problems,
) -> None:
    """Tell why no frame sets come about although images do, and when stamps jumped."""
    jump = assembler.take_jump()
    if jump is not None:
        problems.event(
            "frame_sets",
            "jump",
            f"stamps jumped back by {jump:.1f} s (a recording that starts again, or another "
            "clock); frame sets begin anew and people are forgotten",
        )
    patience = max(SET_PATIENCE, 2 * values["sync.max_age"])
    age = statistics.age("set")
    if min(active_for, active_for if age is None else age) < patience:
        problems.remove("frame_sets", "none")
        return
    alive = [n for n, state in states.items() if state == "active" or state.startswith("rejected")]
    if len(alive) < values["sync.min_cameras"]:
        text = (
            f"no frame sets: {len(alive)} of {len(states)} cameras deliver, sync.min_cameras is "
            f"{values['sync.min_cameras']}"
        )
    else:
        lag = max(assembler.lags().values(), default=0.0)
        if lag <= values["sync.slop"]:  # they agree: images are merely few, or just beginning
            problems.remove("frame_sets", "none")
            return
        text = (
            f"no frame sets: the cameras' newest stamps differ by up to {lag:.3f} s, sync.slop is "
            f"{values['sync.slop']:g} s; synchronise the cameras' clocks, give their "
            "stamp_offsets, or raise it"
        )
    problems.add("frame_sets", "none", text)


def watch_worker(busy: float, statistics: Statistics, values: Values, problems: Problems) -> None:
    """Tell when a frame set takes too long, and when outputs are old before they are sent."""
    if busy > values["diagnostics.max_processing"]:
        text = (
            f"a frame set has taken {busy:.0f} s until now; lower model.image_size or the number "
            "of cameras, or look at what else the machine does"
        )
        problems.add("inference", "hang", text, ERROR)
    else:
        problems.remove("inference", "hang")
    delays = statistics.recent("latency")
    usual = median(delays) if delays else 0.0
    if 0 < values["diagnostics.max_delay"] < abs(usual):
        text = (
            f"outputs are {usual:.1f} s behind the clock when they are published; lower "
            "model.image_size or rate.max, synchronise the cameras' clocks with this machine's, "
            "or set use_sim_time if this is a recording"
        )
        problems.add("inference", "delay", text)
    else:
        problems.remove("inference", "delay")


def watch_name(own: str, names: Iterable[tuple[str, str]], problems: Problems) -> None:
    """Tell when several nodes have this node's name.

    Args:
        own: The node's fully qualified name.
        names: (name, namespace) of all nodes.
    """
    count = sum(f"{namespace.rstrip('/')}/{name}" == own for name, namespace in names)
    if count > 1:
        text = (
            f"{count} nodes are called {own}: they publish on the same topics, and services reach "
            "any of them; end all but one, or start the others in a namespace of their own"
        )
        problems.add("inference", "name", text)
    else:
        problems.remove("inference", "name")


def watch_readers(unheard: dict[str, str], problems: Problems) -> None:
    """Tell who subscribes in vain.

    Args:
        unheard: Topic -> who does, and why.
    """
    for topic, why in unheard.items():
        text = (
            f"nothing of {topic} gets to {why}; change that subscriber's quality of service, or "
            f"the topic's by qos_overrides.{topic}.publisher"
        )
        problems.add("inference", f"{READERS}{topic}", text)
    for subject in problems.of("inference"):
        if subject.startswith(READERS) and subject.removeprefix(READERS) not in unheard:
            problems.remove("inference", subject)


@dataclass(frozen=True, eq=False)
class Facts:
    """What the node's parts know at one moment; None or empty where there is no such part.

    Attributes:
        hardware_id: The node's fully qualified name.
        state: What the node does: "active", "paused", ...; the summary of what has no problem.
        states: Camera -> its state.
        superseded: Frame sets that were replaced by newer ones before their turn came.
        device: What is said of the device.
    """

    hardware_id: str
    state: str
    values: Values
    cameras: Cameras | None
    states: dict[str, str]
    assembler: Assembler | None
    superseded: int
    device: dict[str, object]
    world: dict[str, object]


def statuses(facts: Facts, problems: Problems, statistics: Statistics) -> list[DiagnosticStatus]:
    """The five of them, also while the node does nothing."""
    sets = _sets(facts, statistics)
    active = sum(state == "active" for state in facts.states.values())
    device = facts.device | _process()
    shown: dict[str, tuple[str, dict[str, object]]] = {
        "cameras": (f"{active} of {len(facts.states)} active", _cameras(facts)),
        "frame_sets": (f"{sets['hz_in']} Hz in, {sets['hz_out']} Hz out", sets),
        "inference": (facts.state, _inference(facts.state, statistics)),
        "device": (str(facts.device.get("device", facts.state)), device),
        "world": (str(facts.world.get("scale_source", facts.state)), facts.world),
    }
    return [
        status(name, facts.hardware_id, problems.of(name).values(), summary, values)
        for name, (summary, values) in shown.items()
    ]


def _sets(facts: Facts, statistics: Statistics) -> dict[str, object]:
    counts = facts.assembler.counts if facts.assembler is not None else None
    dropped: dict[str, int] = {
        "superseded": facts.superseded,
        **{name: statistics.count(name) for name in ("undecodable", "waiting_for_tf", "failed")},
    }
    sets: dict[str, object] = {
        "hz_in": f"{statistics.rate('set'):.2f}",
        "hz_out": f"{statistics.rate('out'):.2f}",
        "dropped": sum(dropped.values()),
        **dropped,
        "nobody_listened": statistics.count("idle"),
    }
    if counts is not None:
        sets |= vars(counts)
    spreads = statistics.recent("set")
    if spreads:
        sets["spread_max_ms"] = f"{1e3 * max(spreads):.1f}"
    return sets


def _inference(state: str, statistics: Statistics) -> dict[str, object]:
    shown: dict[str, object] = {
        "state": state,
        "frame_sets": statistics.count("out"),
        "failed": statistics.count("failed"),
        **statistics.durations(),
    }
    latency, age = statistics.recent("latency"), statistics.age("out")
    if latency:
        shown["output_latency_ms"] = f"{1e3 * latency[-1]:.0f}"
        shown |= statistics.percentiles("latency") | statistics.percentiles("people_latency")
    if age is not None:
        shown["time_since_last_publish_ms"] = f"{1e3 * age:.0f}"
    return shown


def _process() -> dict[str, object]:
    """Memory and open files of this process, where the system tells (Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files = len(os.listdir("/proc/self/fd"))
    except (OSError, IndexError, ValueError):
        return {}
    return {"rss_mib": f"{pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.0f}", "open_files": files}


def world(pipeline: Pipeline) -> dict[str, object]:
    """What is known of the world, from the latest scene, and of its anchor."""
    scene, anchor, residual = pipeline.scene, pipeline.anchor, pipeline.residual
    if scene is None:
        return {}
    tied: dict[str, object] = (
        {} if anchor is None else {"anchor": f"{anchor.camera} in {anchor.frame}"}
    )
    if residual is not None:
        tied["anchor_residual_m"] = f"{residual:.3f}"
    if pipeline.settling.settled is not None:
        tied["kept_poses"] = ", ".join(pipeline.settling.settled.cameras)
    return tied | {
        "scale_source": scene.scale_source.name.lower(),
        "scale_std": f"{scene.scale_std:.3f}",
        "cameras_placed": len(scene.cameras),
        "people": len(scene.people),
        "points": len(scene.points),
    }


def _cameras(facts: Facts) -> dict[str, object]:
    shown: dict[str, object] = {}
    cameras = facts.cameras
    if cameras is None:
        return shown
    for name, camera in cameras.inputs.items():
        age = camera.age()
        intrinsics, pose = camera.known_by
        shown[f"{name}.state"] = facts.states[name]
        shown[f"{name}.topic"] = cameras.topics[name]
        shown[f"{name}.hz"] = f"{camera.rate():.2f}"
        shown[f"{name}.age_ms"] = "never" if age is None else f"{1e3 * age:.0f}"
        shown[f"{name}.received"] = camera.received
        shown[f"{name}.rejected"] = camera.rejected
        shown[f"{name}.intrinsics"] = intrinsics
        shown[f"{name}.pose"] = pose
    stamps = [c.last_stamp for c in cameras.inputs.values() if c.received]
    if len(stamps) > 1:
        shown["max_inter_camera_ms"] = f"{1e3 * (max(stamps) - min(stamps)) / NANOSECONDS:.1f}"
    return shown
