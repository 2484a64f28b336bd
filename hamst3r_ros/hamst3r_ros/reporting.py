"""The five statuses on /diagnostics, from what the node's parts know."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus

from hamst3r.scene import Scene
from hamst3r_ros.assembler import Assembler
from hamst3r_ros.cameras import Cameras
from hamst3r_ros.diagnostics import Problems, Statistics, status
from hamst3r_ros.headers import NANOSECONDS
from hamst3r_ros.parameters import Values

# Seconds without a frame set, while images come, until that is worth a word.
SET_PATIENCE = 2.0


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
        lags = assembler.lags()
        text = (
            "no frame sets: the cameras' newest stamps differ by up to "
            f"{max(lags.values(), default=0.0):.3f} s, sync.slop is {values['sync.slop']:g} s; "
            "synchronise the cameras' clocks, give their stamp_offsets, or raise it"
        )
    problems.add("frame_sets", "none", text)


def statuses(
    hardware_id: str,
    state: str,
    problems: Problems,
    statistics: Statistics,
    values: Values,
    cameras: Cameras | None,
    states: dict[str, str],
    assembler: Assembler | None,
    superseded: int,
    device: dict[str, object],
    world: dict[str, object],
) -> list[DiagnosticStatus]:
    """The five of them, also while the node does nothing.

    Args:
        state: What the node does: "active", "paused", ... the summary of those without a problem.
    """

    def of(name: str, summary: str, shown: dict[str, object]) -> DiagnosticStatus:
        return status(name, hardware_id, problems.of(name).values(), summary, shown)

    counts = assembler.counts if assembler is not None else None
    active = sum(state == "active" for state in states.values())
    sets: dict[str, object] = {
        "hz_in": f"{statistics.rate('set'):.2f}",
        "hz_out": f"{statistics.rate('out'):.2f}",
        "superseded": superseded,
        "undecodable": statistics.count("undecodable"),
        "waiting_for_tf": statistics.count("waiting_for_tf"),
        "nobody_listened": statistics.count("idle"),
    }
    if counts is not None:
        sets |= vars(counts)
    spreads = statistics.recent("set")
    if spreads:
        sets["spread_max_ms"] = f"{1e3 * max(spreads):.1f}"
    inference: dict[str, object] = {
        "state": state,
        "frame_sets": statistics.count("out"),
        "failed": statistics.count("failed"),
        **statistics.durations(),
    }
    latency, age = statistics.recent("latency"), statistics.age("out")
    if latency:
        inference["output_latency_ms"] = f"{1e3 * latency[-1]:.0f}"
    if age is not None:
        inference["time_since_last_publish_ms"] = f"{1e3 * age:.0f}"
    return [
        of("cameras", f"{active} of {len(states)} active", _cameras(cameras, states)),
        of("frame_sets", f"{sets['hz_in']} Hz in, {sets['hz_out']} Hz out", sets),
        of("inference", state, inference),
        of("device", str(device.get("device", state)), device),
        of("world", str(world.get("scale_source", state)), world),
    ]


def world(scene: Scene | None) -> dict[str, object]:
    """What is known of the world, from the latest scene."""
    if scene is None:
        return {}
    return {
        "scale_source": scene.scale_source.name.lower(),
        "scale_std": f"{scene.scale_std:.3f}",
        "cameras_placed": len(scene.cameras),
        "people": len(scene.people),
        "points": len(scene.points),
    }


def _cameras(cameras: Cameras | None, states: dict[str, str]) -> dict[str, object]:
    shown: dict[str, object] = {}
    if cameras is None:
        return shown
    for name, camera in cameras.inputs.items():
        age = camera.age()
        shown[f"{name}.state"] = states[name]
        shown[f"{name}.topic"] = cameras.topics[name]
        shown[f"{name}.age_ms"] = "never" if age is None else f"{1e3 * age:.0f}"
        shown[f"{name}.received"] = camera.received
        shown[f"{name}.rejected"] = camera.rejected
    stamps = [c.last_stamp for c in cameras.inputs.values() if c.received]
    if len(stamps) > 1:
        shown["max_inter_camera_ms"] = f"{1e3 * (max(stamps) - min(stamps)) / NANOSECONDS:.1f}"
    return shown
