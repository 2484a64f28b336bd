"""Starting the real programs, and never leaving one behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ament_index_python.packages import get_package_prefix
from dds_peer import DEADLINE, ROOT

BALANCING = ROOT.parent / "shared" / "data" / "balancing"


def program(name: str) -> str:
    """Path of an installed program of the package, or of one of the repository (with a /)."""
    if "/" in name:
        return str(ROOT / name)
    return str(Path(get_package_prefix("hamst3r_ros"), "lib", "hamst3r_ros", name))


def free_domain() -> int:
    """A ROS domain that no process of this machine is in."""
    for domain in range(30 + os.getpid() % 60, 101):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7410 + 250 * domain))
            except OSError:
                continue
        return domain
    raise AssertionError("no ROS domain is free")


class Program:
    """A running program in a session of its own.

    Args:
        domain: Its ROS domain, which it does not leave this machine in.
        argv: Program and arguments.
    """

    def __init__(self, domain: int, *argv: str, log: Path) -> None:
        environment = {
            **os.environ,
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": str(log),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        """Everything it has said."""
        return "\n".join(self.lines)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def alive(self) -> None:
        """Fail with its output if it has ended."""
        code = self._process.poll()
        assert code is None, f"ended with {code}:\n{self.output}"

    def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        code = self._process.wait(timeout=DEADLINE)
        self._reader.join(timeout=10)
        return code

    def interrupt(self) -> int:
        """Stop it as Ctrl-C would; its exit code."""
        self._process.send_signal(signal.SIGINT)
        return self.wait()

    def kill(self) -> None:
        """End it without a chance to say goodbye."""
        self._process.kill()
        self.wait()

    def close(self) -> None:
        """End it, and everything it started, in whatever state."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self._process.kill()  # what it started is interrupted by the kernel
                self._process.wait()


Start = Callable[..., Program]


@contextmanager
def programs(domain: int, log: Path) -> Iterator[Start]:
    """Gives a function that starts programs; all are ended at the end."""
    started: list[Program] = []

    def start(name: str, *arguments: str) -> Program:
        started.append(Program(domain, program(name), *arguments, log=log))
        return started[-1]

    try:
        yield start
    finally:
        for running in reversed(started):
            running.close()


def children(pid: int) -> list[int]:
    """Processes that a process has started (Linux)."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def gone(pids: list[int]) -> bool:
    """Whether all processes have ended, or do so soon."""
    end = time.monotonic() + DEADLINE
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
