"""The demo from its script to its picture, and its ways to end early."""

from __future__ import annotations

import re
import time
from pathlib import Path

import cv2
import pytest
from dds_peer import DEADLINE
from recordings import write_recording
from running import Program, Start, children, gone


def wait_for_line(program: Program, words: str) -> None:
    end = time.monotonic() + DEADLINE
    while not any(words in line for line in program.lines):
        program.alive()
        assert time.monotonic() < end, program.output
        time.sleep(0.1)


@pytest.mark.parametrize("source", ["simulation", "recording", "uncalibrated"])
def test_picture_and_frames(source: str, tmp_path: Path, start: Start) -> None:
    picture = tmp_path / "demo.png"
    arguments = ["--seconds", "2", "--out", str(picture), "--rate", "2", "device:=cpu"]
    if source != "simulation":
        folder = write_recording(tmp_path / "recording")
        arguments += ["--replay", str(folder)]
        if source == "uncalibrated":
            (folder / "calibration.json").unlink()
    demo = start("scripts/demo", *arguments)
    assert demo.wait() == 0, demo.output
    image = cv2.imread(str(picture))
    assert image.shape[1] == 1920
    assert image.reshape(-1, 3).std(axis=0).min() > 10  # not one colour
    told = re.findall(r"differ from .* most ([\d.]+) mm .* ([\d.]+) degrees", demo.output)
    assert len(told) == (source != "uncalibrated")
    for millimetres, degrees in told:
        assert float(millimetres) < 1 and float(degrees) < 0.1
    assert any("frame sets" in line for line in demo.lines)
    assert "Traceback" not in demo.output and "\x1b" not in demo.output


def test_failing_node_is_told(tmp_path: Path, start: Start) -> None:
    picture = tmp_path / "demo.png"
    demo = start("demo", "--out", str(picture), "weights:=no_such.safetensors")
    assert demo.wait() == 1
    assert len([line for line in demo.lines if "no_such.safetensors" in line]) == 1
    assert demo.lines[-1] == "error: hamst3r ended (exit code 1)"
    assert not picture.exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--seconds", "0"], "--seconds"),
        (["--rate", "-1"], "--rate"),
        (["--out", "demo.txt"], "demo.png"),
        (["--out", "no/such/folder/demo.png"], "no/such/folder"),
        (["--replay", "no_such_folder"], "no_such_folder"),
        (["people:=3"], "people"),
        (["namespace:=robot"], "namespace"),
    ],
)
def test_options_that_cannot_be_followed(arguments: list[str], word: str, start: Start) -> None:
    demo = start("demo", *arguments)
    assert demo.wait() in (1, 2)
    assert word in demo.lines[-1] and "error: " in demo.lines[-1]
    assert "Traceback" not in demo.output


def test_interrupt_ends_everything(start: Start) -> None:
    demo = start("demo", "--seconds", "600", "device:=cpu")
    wait_for_line(demo, "frame sets")
    started = children(demo.pid)
    assert len(started) == 2
    assert demo.interrupt() == 130, demo.output
    assert gone(started)
    assert "Traceback" not in demo.output
