"""A group of processes lives and ends together; the processes are real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from hamst3r_ros.processes import Command, ProcessGroup
from running import gone

from hamst3r_ros import processes

DEADLINE = 60.0
SLEEPER = "import time\nprint('ready', flush=True)\ntime.sleep(600)"


def python(name: str, code: str, **settings: bool) -> Command:
    return Command(name, (sys.executable, "-u", "-c", code), **settings)


Make = Callable[..., tuple[ProcessGroup, list[tuple[str, str]]]]


@pytest.fixture
def group() -> Iterator[Make]:
    made: list[ProcessGroup] = []

    def make(*commands: Command) -> tuple[ProcessGroup, list[tuple[str, str]]]:
        lines: list[tuple[str, str]] = []
        made.append(ProcessGroup(commands, lambda name, line: lines.append((name, line))))
        made[-1].start()
        return made[-1], lines

    yield make
    for running in made:
        running.stop()


def poll(group: ProcessGroup, until: Callable[[int | None], bool]) -> int | None:
    end = time.monotonic() + DEADLINE
    while not until(code := group.poll()):
        assert time.monotonic() < end, "waited in vain"
    return code


def ended(code: int | None) -> bool:
    return code is not None


def test_first_failure_ends_all_with_its_code(group: Make) -> None:
    both, lines = group(
        python("good", SLEEPER), python("bad", "import sys\nprint('alas')\nsys.exit(7)")
    )
    assert poll(both, ended) == 7
    assert both.ended_by == "bad"
    assert ("bad", "alas") in lines
    both.stop()
    assert both.running == ()


def test_all_that_end_well_end_the_group_with_zero(group: Make) -> None:
    both, lines = group(python("one", "print(1)"), python("two", "print(2)"))
    assert poll(both, ended) == 0
    both.stop()
    assert sorted(lines) == [("one", "1"), ("two", "2")]


def test_an_essential_process_ends_the_group_even_without_failure(group: Make) -> None:
    both, _ = group(python("other", SLEEPER), python("main", "pass", essential=True))
    assert poll(both, ended) == 0
    assert both.running == ("other",)


def test_a_signal_is_a_failure(group: Make) -> None:
    code = f"import os\nos.kill(os.getpid(), {int(signal.SIGKILL)})"
    one, _ = group(python("killed", code))
    assert poll(one, ended) == -signal.SIGKILL


def test_what_is_to_respawn_starts_again(group: Make) -> None:
    one, lines = group(python("again", "print('here')\nraise SystemExit(3)", respawn=True))
    poll(one, lambda code: code is not None or lines.count(("again", "here")) >= 2)
    assert lines.count(("again", "here")) >= 2


def test_who_ignores_interrupts_is_ended_by_force(
    group: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "INTERRUPT_GRACE", 0.5)
    monkeypatch.setattr(processes, "TERMINATE_GRACE", 0.5)
    deaf = "import signal\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\n"
    one, lines = group(python("deaf", deaf + SLEEPER))
    poll(one, lambda code: code is not None or ("deaf", "ready") in lines)
    one.stop()
    assert one.running == ()


@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_who_interrupts_again_is_not_made_to_wait(pause: float) -> None:
    """Some send a signal twice at once (timeout), some have no patience; nothing stays behind."""
    deaf = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + SLEEPER
    code = (
        "import sys\n"
        "from hamst3r_ros import processes\n"
        "processes.INTERRUPT_GRACE = 600.0\n"
        "def line(_, text): print(text, group._running['child'].pid, flush=True)\n"
        f"command = processes.Command('child', (sys.executable, '-c', {deaf!r}))\n"
        "group = processes.ProcessGroup([command], line)\n"
        "processes.heed_interrupts()\n"
        "try:\n"
        "    group.start()\n"
        "    while group.poll() is None: pass\n"
        "except KeyboardInterrupt:\n"
        "    print('stopping', flush=True)\n"
        "finally:\n"
        "    group.stop()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        said, child = parent.stdout.readline().split()
        assert said == "ready"
        parent.send_signal(signal.SIGTERM)
        time.sleep(pause)
        while parent.poll() is None:
            parent.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        assert parent.returncode == 0
        assert gone([int(child)])
    finally:
        parent.kill()
        parent.wait()


def test_processes_end_with_a_parent_that_is_killed() -> None:
    code = (
        "import sys, time\n"
        "from hamst3r_ros.processes import Command, ProcessGroup\n"
        f"command = Command('child', (sys.executable, '-c', {SLEEPER!r}))\n"
        "group = ProcessGroup([command], lambda *_: None)\n"
        "group.start()\n"
        "sys.stdout.write(str(group._running['child'].pid) + '\\n')\n"
        "sys.stdout.flush()\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)  # it is there
    finally:
        parent.kill()
        parent.wait()
    assert gone([child])


def test_names_must_differ() -> None:
    with pytest.raises(ValueError, match="different names"):
        ProcessGroup([python("a", ""), python("a", "")], lambda *_: None)


def test_a_program_that_is_not_there_stops_the_others() -> None:
    group = ProcessGroup(
        [python("good", SLEEPER), Command("none", ("/no/such/program",))], lambda *_: None
    )
    with pytest.raises(OSError, match="/no/such/program"):
        group.start()
    assert group.running == ()
