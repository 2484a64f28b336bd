"""The pages' commands for robots (``<!-- run: robot -->``), run as they are written.

Simulated cameras stand for the robot's. Where ROS comes from PyPI, which has no ``ros2``, the one
in bin/ takes the same words.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dds_peer import DEADLINE, ROOT, Peer
from running import Program, Start, free_domain, programs

from hamst3r.geometry import invert
from hamst3r.synthetic.motion import MovingScene

sys.path.insert(0, str(ROOT / "tests" / "docs"))
from blocks import blocks, pages

LINES = list(
    dict.fromkeys(
        line.split("  #")[0].strip()
        for page in pages()
        for block in blocks(page)
        if (block.mode, block.why) == ("run", "robot")
        for line in block.text.splitlines()
        if line.strip()
    )
)
LAUNCHED = [line for line in LINES if line.startswith("ros2 launch ")]
ANCHORING = [line for line in LINES if "anchor" in line]
ASKED = [line for line in LINES if line not in (*LAUNCHED, *ANCHORING)]
SIZE = 320, 240
ENDLESS = {"hz", "echo", "top"}  # words of lines that go on until they are interrupted
INTERRUPTED = (0, int(signal.SIGINT))  # how ours, and how an installed ros2 ends then
# What a machine without these says, and the remedy in it.
MISSING = {
    "params_file:=jetson": "sees no CUDA device",
    "rviz:=true": "ROS package 'rviz2' is not here; install it",
    "foxglove:=true": "ROS package 'foxglove_bridge' is not here; install it",
}


@pytest.fixture(autouse=True)
def ros2(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("ros2") is None:
        path = f"{Path(__file__).parent / 'bin'}:{Path(sys.executable).parent}"
        monkeypatch.setenv("PATH", path, prepend=":")


def run(start: Start, line: str, folder: Path) -> Program:
    """A line of a page, in a folder with what it names."""
    return start("/bin/bash", "-c", f"cd {folder} && exec {line}")


def cameras(start: Start, names: str, frame: str = "rig") -> Program:
    """Simulated cameras of these names below a frame of TF."""
    settings = {"cameras": f"'{names}'", "transport": "both", "world_frame": frame, "rate": 2.0}
    settings |= {"width": SIZE[0], "height": SIZE[1]}
    words = [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
    return start("sim_cameras", "--ros-args", *words)


def test_the_pages_have_such_lines() -> None:
    assert len(LAUNCHED) >= 6 and len(ANCHORING) == 2 and len(ASKED) >= 6


@pytest.mark.parametrize("line", LAUNCHED)
def test_a_launch_line_gives_people(line: str, start: Start, peer: Peer, tmp_path: Path) -> None:
    if "--show-args" in line:
        shown = run(start, line, tmp_path)
        assert shown.wait() == 0 and "params_file" in shown.output
        return
    names = line.split('cameras:="[')[1].split("]")[0]
    peer.listen("/hamst3r/humans", "hamst3r_msgs/msg/HumanArray")
    scene = MovingScene(0, people=2, size=SIZE)
    known = {}
    for name, camera in zip(names.split(", "), scene.cameras, strict=False):
        T = invert(camera.T_world_cam)
        K, R, t = (part.tolist() for part in (camera.K, T[:3, :3], T[:3, 3]))
        known[name] = {"K": K, "R": R, "t": t}
    (tmp_path / "calibration.json").write_text(json.dumps({"cameras": known}))
    simulated = cameras(start, names, "base_link")
    launched = run(start, line, tmp_path)
    expected = next((said for part, said in MISSING.items() if part in line), None)

    def alive() -> None:
        simulated.alive()
        if expected is None:
            launched.alive()

    def done() -> bool:
        return bool(peer.received["/hamst3r/humans"]) or (
            expected is not None and expected in launched.output
        )

    peer.wait(done, alive)
    if expected is not None and expected in launched.output:
        assert launched.wait() == 1
    else:
        assert launched.interrupt() in INTERRUPTED, launched.output
    assert "Traceback" not in launched.output


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Start, Peer]]:
    """Cameras below the map, an unconfigured node, and one of another robot."""
    domain = free_domain()
    with programs(domain, tmp_path_factory.mktemp("log")) as start:
        cameras(start, "front, left", "map")
        settings = ["-p", "cameras:=[front, left]", "-p", "autostart:=false"]
        settings += ["-p", "tf.mode:=anchor", "-p", "world.anchor_frame:=map"]
        start("hamst3r", "--ros-args", *settings)
        other = ["-r", "__ns:=/robot1", "-p", "cameras:=[cam0]", "-p", "autostart:=false"]
        start("hamst3r", "--ros-args", *other)
        peer = Peer(domain)
        peer.listen("/hamst3r/humans", "hamst3r_msgs/msg/HumanArray")
        yield start, peer
        peer.close()


def answer(start: Start, line: str, folder: Path) -> str:
    """What a line says; one that goes on for ever is interrupted when it has said something."""
    asked = run(start, line, folder)
    endless = bool(ENDLESS & set(line.split())) and "--once" not in line
    end = time.monotonic() + DEADLINE
    while asked.running and not (endless and asked.lines):
        assert time.monotonic() < end, f"{line}: says nothing"
        time.sleep(0.1)
    if endless:
        time.sleep(1.0)
        assert asked.interrupt() in INTERRUPTED, asked.output
    else:
        assert asked.wait() == 0, asked.output
    assert asked.lines and "Traceback" not in asked.output
    return asked.output


def test_the_lines_about_a_running_node(robot: tuple[Start, Peer], tmp_path: Path) -> None:
    start, peer = robot
    setting, calling = ANCHORING
    assert "successful" in answer(start, setting, tmp_path)
    for transition in ("configure", "activate"):
        line = f"ros2 lifecycle set /hamst3r {transition}"
        assert "successful" in answer(start, line, tmp_path)
    peer.wait(lambda: bool(peer.received["/hamst3r/humans"]))
    assert "success=True" in answer(start, calling, tmp_path)
    said = {line: answer(start, line, tmp_path) for line in ASKED}
    assert said["ros2 lifecycle get /hamst3r"].startswith("active")
    assert "average rate" in said["ros2 topic hz /hamst3r/humans"]
    assert "/robot1/hamst3r" in said["ros2 run hamst3r_ros top /robot1/hamst3r --once"]
