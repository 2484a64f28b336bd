"""Faults of whole processes and of what they send: the node goes on, or is there again."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import yaml
from dds_peer import Peer, idl_type, nanoseconds
from recordings import write_recording
from running import Program, Start, children

NAMES = ("cam0", "cam1", "cam2")
ENCODINGS = ("rgb8", "bgr8", "mono16", "bayer_rggb8", "yuv422", "nv12", "32FC1", "", "\u00e9" * 50)
LENGTHS = (0, 1, 1000, 57600, 3_000_000)


def settings(folder: Path, **values: object) -> str:
    """A parameter file for cameras that play by themselves, up to one period apart."""
    given = {"sync.slop": 0.4, "diagnostics.period": 0.2, "world.known_extrinsics": "file"}
    given |= {name.replace("__", "."): value for name, value in values.items()}
    given["world.calibration_file"] = str(folder / "calibration.json")
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump({"/**/hamst3r": {"ros__parameters": given}}), encoding="utf-8")
    return str(file)


def play(start: Start, folder: Path, name: str) -> Program:
    """One camera, as a process of its own."""
    named = ("-r", f"__node:=play_{name}", "-p", f"cameras:={name}")
    return start("replay", str(folder), "--rate", "4", "--ros-args", *named)


def sets(peer: Peer, names: tuple[str, ...], since: int = 0) -> int:
    """How many frame sets of just these cameras were solved, of images after ``since`` (ns)."""
    return sum(
        tuple(camera.name for camera in message.cameras) == names and nanoseconds(message) > since
        for message in peer.received["/hamst3r/cameras"]
    )


def state(peer: Peer, name: str) -> str:
    for message in reversed(peer.received["/diagnostics"]):
        for status in message.status:
            values = {value.key: value.value for value in status.values}
            if status.name == "hamst3r: cameras" and f"{name}.state" in values:
                return values[f"{name}.state"]
    return ""


def runs(pid: int, program: str) -> bool:
    """Whether a process runs one of the package's programs."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return any(Path(word).name == program for word in words[:2])


def broken_image(rng: random.Random) -> object:
    """An Image whose fields have nothing to do with each other."""
    kind = idl_type("sensor_msgs/msg/Image")
    stamp = idl_type("builtin_interfaces/msg/Time")(sec=int(time.time()), nanosec=0)
    size = [0, 1, 17, 160, 5000, 2**31, 2**32 - 1]
    frame_id = rng.choice(["", "x", "/"])
    height, width, encoding = rng.choice(size), rng.choice(size), rng.choice(ENCODINGS)
    big, step, length = rng.randrange(256), rng.choice(size), rng.choice(LENGTHS)
    # Sooner or later all fields would fit each other: what could be an image has no pixels.
    if 0 < width <= step and 0 < height * step <= length:
        length = 0
    return kind(
        header=idl_type("std_msgs/msg/Header")(stamp=stamp, frame_id=frame_id),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=big,
        step=step,
        data=bytes(length),
    )


def test_a_camera_that_sends_garbage_costs_only_itself(
    tmp_path: Path, start: Start, peer: Peer
) -> None:
    folder = write_recording(tmp_path / "recording")
    peer.listen("/hamst3r/cameras", "hamst3r_msgs/msg/CameraArray")
    peer.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    for name in NAMES[:2]:
        play(start, folder, name)
    names = ", ".join(NAMES)
    file = settings(folder)
    node = start("bringup", f"cameras:=[{names}]", f"params_file:={file}", "device:=cpu")
    send = peer.publisher("/cam2/image_raw", "sensor_msgs/msg/Image")
    rng = random.Random(0)

    def mischief() -> None:
        node.alive()
        send(broken_image(rng))

    peer.wait(lambda: state(peer, "cam2").startswith("rejected"), mischief)
    before = sets(peer, NAMES[:2])
    peer.wait(lambda: sets(peer, NAMES[:2]) > before + 10, mischief)
    assert sets(peer, NAMES) == 0
    assert "Traceback" not in node.output

    play(start, folder, "cam2")
    peer.wait(lambda: sets(peer, NAMES) > 1 and state(peer, "cam2") == "active", node.alive)


def test_a_node_that_is_killed_is_there_again_with_new_images(
    tmp_path: Path, start: Start, peer: Peer
) -> None:
    folder = write_recording(tmp_path / "recording")
    peer.listen("/hamst3r/cameras", "hamst3r_msgs/msg/CameraArray")
    replay = ("source:=replay", f"replay_dir:={folder}", "rate:=4")
    bringup = start("bringup", *replay, "device:=cpu", "respawn:=true")
    peer.wait(lambda: sets(peer, NAMES) > 1, bringup.alive)

    (node,) = [p for p in children(bringup.pid) if runs(p, "hamst3r")]
    killed = time.time_ns()
    os.kill(node, signal.SIGKILL)
    peer.wait(lambda: sets(peer, NAMES, since=killed) > 2, bringup.alive)
    # What was on its way when it died may come; what its successor sends is of new images.
    stamps = [nanoseconds(message) for message in peer.received["/hamst3r/cameras"]]
    after = stamps[next(i for i, stamp in enumerate(stamps) if stamp > killed) :]
    assert all(stamp > killed for stamp in after)


def test_a_camera_that_is_killed_comes_back_when_it_is_started_again(
    tmp_path: Path, start: Start, peer: Peer
) -> None:
    folder = write_recording(tmp_path / "recording")
    peer.listen("/hamst3r/cameras", "hamst3r_msgs/msg/CameraArray")
    peer.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    cameras = {name: play(start, folder, name) for name in NAMES}
    names = ", ".join(NAMES)
    node = start(
        "bringup", f"cameras:=[{names}]", f"params_file:={settings(folder)}", "device:=cpu"
    )
    peer.wait(lambda: sets(peer, NAMES) > 1, node.alive)
    cameras["cam1"].kill()
    killed = time.time_ns()
    peer.wait(lambda: sets(peer, ("cam0", "cam2"), since=killed) > 1, node.alive)
    again = time.time_ns()
    play(start, folder, "cam1")
    peer.wait(lambda: sets(peer, NAMES, since=again) > 1, node.alive)
    peer.wait(lambda: state(peer, "cam1") == "active", node.alive)
