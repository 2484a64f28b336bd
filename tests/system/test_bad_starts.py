"""What cannot work says so in one line, and what can go on goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dds_peer import Peer
from recordings import write_recording
from running import Program, Start


def errors(program: Program) -> list[str]:
    return [line for line in program.lines if "[ERROR]" in line or line.startswith("error:")]


def test_missing_weights(start: Start) -> None:
    bringup = start("bringup", "source:=sim", "weights:=no_such.safetensors", "device:=cpu")
    assert bringup.wait() == 1
    (line,) = errors(bringup)
    assert "no_such.safetensors" in line
    assert "Traceback" not in bringup.output


def test_calibration_without_a_key(tmp_path: Path, start: Start) -> None:
    folder = write_recording(tmp_path / "recording", sets=1)
    file = folder / "calibration.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    del document["cameras"]["cam1"]["t"]
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(document), encoding="utf-8")

    node = start("bringup", "cameras:=[cam0, cam1]", f"calibration:={broken}", "device:=cpu")
    assert node.wait() == 1
    (line,) = errors(node)
    assert "broken.json" in line and "cam1" in line and "'t'" in line

    file.write_text(broken.read_text(encoding="utf-8"), encoding="utf-8")
    replay = start("bringup", "source:=replay", f"replay_dir:={folder}")
    assert replay.wait() == 1
    (line,) = replay.lines
    assert "calibration.json" in line and "cam1" in line and "'t'" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sorce:=sim"], ["sorce", "source"]),
        (["source"], ["'source'", "name:=value"]),
        (["source:=webcam"], ["webcam", "replay"]),
        (["source:=replay"], ["replay_dir"]),
        (["source:=replay", "replay_dir:=no_such_folder"], ["no_such_folder"]),
        (["source:=sim", "params_file:=no_such.yaml"], ["no_such.yaml"]),
    ],
)
def test_arguments_that_mean_nothing(arguments: list[str], words: list[str], start: Start) -> None:
    bringup = start("bringup", *arguments)
    assert bringup.wait() == 1
    (line,) = bringup.lines
    assert line.startswith("error:")
    assert all(word in line for word in words), line


def test_show_args(start: Start) -> None:
    bringup = start("bringup", "--show-args")
    assert bringup.wait() == 0
    for name in ("cameras", "calibration", "source", "replay_dir", "rate", "namespace"):
        assert f"'{name}':" in bringup.output


def test_a_camera_that_dies_is_told_and_the_rest_goes_on(
    tmp_path: Path, start: Start, peer: Peer
) -> None:
    folder = write_recording(tmp_path / "recording")
    settings = tmp_path / "settings.yaml"
    # Three programs that play by themselves are up to one period apart.
    settings.write_text(
        "/**/hamst3r:\n  ros__parameters:\n    sync.slop: 0.4\n    diagnostics.period: 0.5\n",
        encoding="utf-8",
    )
    names = ("cam0", "cam1", "cam2")
    peer.listen("/hamst3r/cameras", "hamst3r_msgs/msg/CameraArray")
    peer.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    cameras = {
        name: start(
            "replay",
            *(str(folder), "--rate", "4", "--ros-args"),
            *("-r", f"__node:=play_{name}", "-p", f"cameras:={name}"),
        )
        for name in names
    }
    bringup = start(
        "bringup",
        *(f"cameras:=[{', '.join(names)}]", f"params_file:={settings}", "device:=cpu"),
        *(f"calibration:={folder / 'calibration.json'}",),
    )

    def alive() -> None:
        bringup.alive()
        cameras["cam0"].alive()
        cameras["cam1"].alive()

    def solved() -> list[tuple[str, ...]]:
        return [
            tuple(camera.name for camera in message.cameras)
            for message in peer.received["/hamst3r/cameras"]
        ]

    def state(name: str) -> str:
        for message in reversed(peer.received["/diagnostics"]):
            for status in message.status:
                values = {value.key: value.value for value in status.values}
                if status.name == "hamst3r: cameras" and f"{name}.state" in values:
                    return values[f"{name}.state"]
        return ""

    peer.wait(lambda: names in solved() and state("cam2") == "active", alive)
    cameras["cam2"].kill()
    peer.wait(lambda: state("cam2").startswith("stale"), alive)
    peer.received["/hamst3r/cameras"].clear()
    peer.wait(lambda: solved().count(("cam0", "cam1")) >= 2, alive)
    peer.wait(lambda: state("cam0") == state("cam1") == "active", alive)
    told = [line for line in bringup.lines if "[WARN]" in line and "/cam2/image_raw any" in line]
    assert len(told) == 1, bringup.output
