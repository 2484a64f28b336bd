"""Runs a group of processes: forwards what they say, and stops all when one fails."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

INTERRUPT_GRACE, TERMINATE_GRACE = 15.0, 5.0  # seconds before the next, harder signal
POLL = 0.1  # seconds
RESPAWN_DELAY = 1.0  # seconds, so that a process that dies at once does not keep the machine busy
PR_SET_PDEATHSIG = 1  # prctl(2)
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Command:
    """A process to run.

    Attributes:
        name: Before each of its lines.
        argv: Program and arguments.
        respawn: Whether it is started again when it has ended.
        essential: Whether its end, also without failure, is the end of the group.
    """

    name: str
    argv: tuple[str, ...]
    respawn: bool = False
    essential: bool = False


class ProcessGroup:
    """Processes that live and end together.

    Each is in a session of its own, so that Ctrl-C in the terminal reaches only the one who runs
    the group, which then ends them in order. On Linux they end with it even if it is killed.

    Args:
        commands: What to run.
        line: Called with name and line for each line of output, in the order of arrival, by
            :meth:`poll`.
        env: Environment of the processes; default is that of this process.
    """

    def __init__(
        self,
        commands: Sequence[Command],
        line: Callable[[str, str], None],
        env: dict[str, str] | None = None,
    ) -> None:
        self._commands = {command.name: command for command in commands}
        if len(self._commands) < len(commands):
            raise ValueError("processes of one group need different names")
        self._line = line
        self._env = env
        # Not a SimpleQueue: signals can make it forget its timeout (Python 3.11).
        self._lines: queue.Queue[tuple[str, str]] = queue.Queue()
        self._readers: list[threading.Thread] = []
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._respawn_at: dict[str, float] = {}
        self._impatient = False
        self.ended_by = ""  #: name of the process that ended the group, if one did

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the processes that have not ended."""
        return tuple(self._running)

    def start(self) -> None:
        """Start all of them.

        Raises:
            OSError: One could not be started; the others are stopped then.
        """
        try:
            for name in self._commands:
                self._start(name)
        except OSError:
            self.stop()
            raise

    def _start(self, name: str) -> None:
        process = subprocess.Popen(
            self._commands[name].argv,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            start_new_session=True,
            preexec_fn=_prepare_child,
        )
        self._running[name] = process
        reader = threading.Thread(target=self._read, args=(name, process), daemon=True)
        reader.start()
        self._readers.append(reader)

    def _read(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                self._lines.put((name, line.rstrip("\n")))

    def poll(self, timeout: float = POLL) -> int | None:
        """Forward the lines of the next ``timeout`` seconds.

        Returns:
            None while all is well; the exit code of a process that failed (negative for a
            signal) or was essential; or 0 when none is left.
        """
        self._forward(timeout)
        for name, process in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[name]
            if self._commands[name].respawn:
                self._respawn_at[name] = time.monotonic() + RESPAWN_DELAY
            elif code != 0 or self._commands[name].essential:
                self._forward(POLL)  # its last words
                self.ended_by = name
                return code
        for name, due in list(self._respawn_at.items()):
            if time.monotonic() >= due:
                del self._respawn_at[name]
                self._start(name)
        return None if self._running or self._respawn_at else 0

    def _forward(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            try:
                self._line(*self._lines.get(timeout=left))
            except queue.Empty:
                return

    def stop(self) -> None:
        """Interrupt all, wait for them, and use force on those that do not end.

        Who interrupts this process meanwhile is not patient: the next means is used at once.
        """
        if threading.current_thread() is not threading.main_thread():
            self._stop()
            return
        before = {number: signal.signal(number, self._hasten) for number in INTERRUPTS}
        try:
            self._stop()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hasten(self, *_: object) -> None:
        self._impatient = True

    def _stop(self) -> None:
        self._respawn_at.clear()
        for number, grace in (
            (signal.SIGINT, INTERRUPT_GRACE),
            (signal.SIGTERM, TERMINATE_GRACE),
            (signal.SIGKILL, TERMINATE_GRACE),
        ):
            for process in self._running.values():
                if process.poll() is None:
                    process.send_signal(number)
            self._impatient = False
            deadline = time.monotonic() + grace
            while time.monotonic() < deadline and self._running and not self._impatient:
                self._forward(POLL)
                self._running = {n: p for n, p in self._running.items() if p.poll() is None}
            if not self._running:
                break
        for reader in self._readers:
            reader.join(timeout=1.0)
        self._forward(POLL)


def heed_interrupts() -> None:
    """Let the first SIGINT or SIGTERM raise KeyboardInterrupt, and others be ignored from then on:
    they would end this process before it has ended those that it started."""

    def interrupted(*_: object) -> None:
        for number in INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in INTERRUPTS:
        signal.signal(number, interrupted)


def _prepare_child() -> None:
    """In a child, before its program starts: heed interrupts, and get one when the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs inherit ignoring it
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def own_environment(**changes: str) -> dict[str, str]:
    """This process's environment for children, with changes.

    ROS from wheels marks that it has already set the library path; a child must find that out
    by itself.
    """
    environment = {**os.environ, **changes}
    environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
