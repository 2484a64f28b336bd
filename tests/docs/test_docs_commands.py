"""Every command in the docs: run, or checked for what it names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import ROOT, SHELL, Block, blocks, commands, pages
from not_run import NOT_RUN

from hamst3r import cli
from hamst3r.synthetic.motion import MovingScene

sys.path.insert(0, str(ROOT / "tests" / "core"))
import dataset_folders

ALL = [block for page in pages() for block in blocks(page)]
ROBOT = [block for block in ALL if block.why == "robot"]  # tests/system/test_docs_robot.py
RUN = [block for block in ALL if block.mode == "run" and block not in ROBOT]
CHECKED = [block for block in ALL if block.mode == "check" or block in ROBOT]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with the data that the pages name."""
    folder = tmp_path_factory.mktemp("workplace")
    views = MovingScene(3, people=1, size=(224, 160)).render(0.0)
    dataset_folders.scannet(folder / "data" / "scannet", views)
    dataset_folders.realestate10k(folder / "data" / "realestate10k", views)
    command = folder / "bin" / "hamst3r"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hamst3r.cli "$@"\n')
    command.chmod(0o755)
    return folder


def environment_of(workplace: Path) -> dict[str, str]:
    return os.environ | {
        "PATH": f"{workplace / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
    }


@pytest.mark.parametrize("block", RUN, ids=str)
def test_blocks_that_are_run(block: Block, workplace: Path):
    if block.why == "until it answers":
        for line in filter(None, block.text.splitlines()):
            answers(line, workplace)
        return
    if block.language == "python":
        arguments = [sys.executable, "-c", block.text]
    else:
        assert block.language in SHELL
        arguments = ["bash", "-euo", "pipefail", "-c", block.text]
    done = subprocess.run(
        arguments,
        cwd=workplace,
        env=environment_of(workplace),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def answers(line: str, workplace: Path) -> None:
    """The command says something, and ends well: by itself, or where it asks to be interrupted."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {line}"],
        cwd=workplace,
        env=environment_of(workplace),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where these tests run in a shell's background, interrupts are ignored by inheritance.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        if "Ctrl+C ends" in first:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    if "/hamst3r" in line and importlib.util.find_spec("rclpy") is None:
        assert process.returncode == 1 and "ROS" in errors
    else:
        assert process.returncode == 0 and first.strip(), errors


@pytest.mark.parametrize("block", CHECKED, ids=str)
def test_blocks_that_are_checked(block: Block, monkeypatch):
    if block.language == "python":
        compile(block.text, str(block), "exec")
    elif block.language in SHELL:
        syntax = subprocess.run(
            ["bash", "-n"],
            input=re.sub(r"<[a-z][a-z ]*>", "PLACEHOLDER", block.text),
            capture_output=True,
            text=True,
        )
        assert syntax.returncode == 0, syntax.stderr
        for words in commands(block.text):
            check(words, monkeypatch)


def check(words: list[str], monkeypatch) -> None:
    """The commands, options and files of this repository that one command names."""
    words = [word for word in words if word != "..."]
    head, rest = words[0], words[1:]
    if head == "hamst3r":
        parses(rest, monkeypatch)
    elif head.startswith("scripts/"):
        assert (ROOT / head).is_file(), head
    elif re.fullmatch(r"python3?", head) and rest[:1] == ["-m"]:
        if rest[1] == "hamst3r.cli":
            parses(rest[2:], monkeypatch)
        elif rest[1].startswith("hamst3r"):
            assert module_file(rest[1]), rest[1]
    elif re.fullmatch(r"python3?", head) and rest and rest[0].endswith(".py"):
        assert (ROOT / rest[0]).is_file(), rest[0]
    elif words[:3] == ["ros2", "launch", "hamst3r_ros"]:
        launches(words[3:])
    elif words[:3] == ["ros2", "run", "hamst3r_ros"]:
        setup = (ROOT / "hamst3r_ros" / "setup.py").read_text(encoding="utf-8")
        assert re.search(rf'"{re.escape(words[3])} *= *hamst3r_ros\.', setup), words[3]
    elif words[:2] == ["ros2", "param"] and words[2] in ("set", "get") and "hamst3r" in words[3]:
        table = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
        assert f"| `{words[4]}` |" in table, words[4]
    elif words[:3] == ["docker", "compose", "-f"]:
        assert (ROOT / words[3]).is_file(), words[3]


def parses(words: list[str], monkeypatch) -> None:
    """The command line is accepted; nothing is done."""
    name = next((word for word in words if not word.startswith("-")), None)
    assert name is None or name in cli.COMMANDS, name
    if name is not None and not {"-h", "--help"} & set(words):
        module = importlib.import_module(f"hamst3r.commands.{name}")
        monkeypatch.setattr(module, "run", lambda options: 0)
        assert cli.main(words) == 0


def module_file(name: str) -> bool:
    """Whether a module is there, without importing ROS."""
    package = ROOT / "hamst3r_ros" if name.startswith("hamst3r_ros") else ROOT
    path = package / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def launches(words: list[str]) -> None:
    """The launch file is there and knows the arguments."""
    assert (ROOT / "launch" / words[0]).is_file(), words[0]
    plan = (ROOT / "hamst3r_ros" / "hamst3r_ros" / "plan.py").read_text(encoding="utf-8")
    known = set(re.findall(r'Argument\(\s*"(\w+)"', plan))
    assert known
    for word in words[1:]:
        if ":=" in word:
            assert word.split(":=")[0] in known, word


# --- the checks themselves ------------------------------------------------------------------------


def test_pages_have_blocks_of_both_kinds():
    assert len(RUN) >= 6 and len(CHECKED) >= 15
    assert {block.page for block in RUN} >= {"docs/concepts.md", "docs/evaluation.md"}


def test_what_is_not_run_is_listed_with_the_reason():
    lines = [
        re.sub(r"^([A-Z]\w*=\S* )+", "", part)
        for block in CHECKED
        if block not in ROBOT and block.language in SHELL
        for line in block.text.splitlines()
        for part in re.split(r" && ", line.split("  #")[0].strip())[:1]
        if part
    ]
    assert [line for line in lines if not any(re.match(known, line) for known in NOT_RUN)] == []
    unused = [known for known in NOT_RUN if not any(re.match(known, line) for line in lines)]
    assert unused == []


@pytest.mark.parametrize(
    "text",
    [
        "hamst3r eval scannet data --no-such-option",
        "OMP_NUM_THREADS=1 hamst3r nonsense",
        "scripts/no_such_script --fast",
        "cd ws && ros2 launch hamst3r_ros multi_cam.launch.py no_such:=1",
        "ros2 launch hamst3r_ros none.launch.py",
        "ros2 run hamst3r_ros no_such_executable",
        "ros2 param set /hamst3r no.such_parameter 1",
        "python -m hamst3r.no_such_module",
        "python benchmarks/none.py | tee log",
        "docker compose -f docker/none.yaml up",
    ],
)
def test_wrong_commands_are_found(text, monkeypatch):
    with pytest.raises((AssertionError, SystemExit)):
        for words in commands(text):
            check(words, monkeypatch)


def test_right_commands_are_accepted(monkeypatch):
    text = "ros2 run hamst3r_ros replay --dir x; ros2 param set /hamst3r points.max 5\n"
    text += "ros2 launch hamst3r_ros multi_cam.launch.py source:=sim && hamst3r weights list\n"
    assert [check(words, monkeypatch) for words in commands(text)] == [None] * 4


def test_a_block_and_its_mark_belong_together(tmp_path, monkeypatch):
    page = ROOT / "docs" / "index.md"
    found = list(blocks(page))
    assert [(block.mode, block.why) for block in found] == [
        ("check", "installs packages"),
        ("run", ""),
    ]
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[found[1].line - 1] == "hamst3r --help"


def test_extras_that_are_named_exist():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    known = set(re.findall(r"^(\w+) = ", table, re.MULTILINE))
    texts = [
        path.read_text(encoding="utf-8") for path in (*pages(), *(ROOT / "hamst3r").rglob("*.py"))
    ]
    asked = re.findall(r"(?:hamst3r|\.)\[([a-z,]+)\]['\"]", "\n".join(texts))
    named = {extra for extras in asked for extra in extras.split(",")}
    assert len(named) >= 8 and named <= known


def test_lines_are_split_into_commands():
    text = "A=1 b --c 'd e' && f | g  # h\ni \\\n  j\n"
    assert list(commands(text)) == [["b", "--c", "d e"], ["f"], ["g"], ["i", "j"]]
