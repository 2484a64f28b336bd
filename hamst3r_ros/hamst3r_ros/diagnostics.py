"""What is wrong, said once in the log and as long as it lasts on /diagnostics."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from hamst3r_ros.headers import header

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
EVENT_SILENCE = 30.0  # seconds until the same event is logged again
STATUSES = ("cameras", "frame_sets", "inference", "device", "world")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: how bad, and one sentence that says what to do."""

    level: bytes
    text: str


class Problems:
    """What is wrong at the moment; safe from any thread.

    A problem belongs to a status (one of ``STATUSES``) and a subject (a camera, "stamps", ...).
    It is logged when it appears and when it has gone, not while it lasts.

    Args:
        log: Called with (level, sentence).
        clock: Seconds, monotonic.
    """

    def __init__(
        self, log: Callable[[bytes, str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._clock = clock
        self._told: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._problems: dict[tuple[str, str], Problem] = {}
        self._expiring: dict[tuple[str, str], int] = {}

    def add(self, status: str, subject: str, text: str, level: bytes = WARN) -> None:
        """Something is wrong until it is removed; repeating it only renews the sentence."""
        key = (status, subject)
        with self._lock:
            known = self._problems.get(key)
            self._problems[key] = Problem(level, text)
            self._expiring.pop(key, None)
        if known is None or known.level != level:
            self._log(level, text)

    def event(self, status: str, subject: str, text: str, level: bytes = WARN) -> None:
        """Something happened: in the next report, then over; logged only now and then."""
        key, now = (status, subject), self._clock()
        with self._lock:
            self._problems[key] = Problem(level, text)
            self._expiring[key] = 1
            told = now - self._told.get(key, float("-inf")) < EVENT_SILENCE
            if not told:
                self._told[key] = now
        if not told:
            self._log(level, text)

    def remove(self, status: str, subject: str) -> None:
        """It is right again."""
        with self._lock:
            known = self._problems.pop((status, subject), None)
            self._expiring.pop((status, subject), None)
        if known is not None:
            self._log(OK, f"over: {known.text}")

    def clear(self, status: str) -> None:
        """Forget all of a status, silently."""
        with self._lock:
            for key in [key for key in self._problems if key[0] == status]:
                del self._problems[key]
                self._expiring.pop(key, None)

    def of(self, status: str) -> dict[str, Problem]:
        """Subject -> problem."""
        with self._lock:
            return {key[1]: p for key, p in self._problems.items() if key[0] == status}

    def reported(self) -> None:
        """A report was sent: events that were in it are over."""
        with self._lock:
            for key in [key for key, left in self._expiring.items() if left <= 0]:
                del self._expiring[key]
                self._problems.pop(key, None)
            for key in self._expiring:
                self._expiring[key] -= 1


class Statistics:
    """Rates and durations of the worker; safe from any thread.

    Args:
        clock: Seconds, monotonic.
        window: Seconds of the past that rates and means are of.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, window: float = 10.0) -> None:
        self._clock = clock
        self._window = window
        self._lock = threading.Lock()
        self._values: dict[str, deque[tuple[float, float]]] = {}
        self._counts: dict[str, int] = {}

    def record(self, name: str, value: float = 0.0) -> None:
        """Something happened, and its value (a duration, a size)."""
        now = self._clock()
        with self._lock:
            values = self._values.setdefault(name, deque(maxlen=1000))
            values.append((now, value))
            self._counts[name] = self._counts.get(name, 0) + 1

    def count(self, name: str) -> int:
        """How often it happened at all."""
        with self._lock:
            return self._counts.get(name, 0)

    def recent(self, name: str) -> list[float]:
        """Values of the last seconds."""
        oldest = self._clock() - self._window
        with self._lock:
            return [value for at, value in self._values.get(name, ()) if at >= oldest]

    def rate(self, name: str) -> float:
        """How often per second, lately."""
        with self._lock:
            times = [at for at, _ in self._values.get(name, ())]
        times = [at for at in times if at >= self._clock() - self._window]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0

    def age(self, name: str) -> float | None:
        """Seconds since it last happened, None if never."""
        with self._lock:
            values = self._values.get(name)
            return self._clock() - values[-1][0] if values else None

    def percentiles(self, name: str) -> dict[str, str]:
        """``<name>_p50_ms``, p95 and p99 of the last seconds' durations; {} without any."""
        values = sorted(self.recent(name))
        if not values:
            return {}
        return {
            f"{name}_p{share}_ms": f"{1e3 * values[math.ceil(len(values) * share / 100) - 1]:.1f}"
            for share in (50, 95, 99)
        }

    def durations(self) -> dict[str, str]:
        """``<stage>_ms`` -> mean and largest of the last seconds, for names that are stages."""
        with self._lock:
            stages = [name for name in self._values if name.startswith("stage/")]
        shown = {}
        for name in stages:
            values = self.recent(name)
            if values:
                mean, most = 1e3 * sum(values) / len(values), 1e3 * max(values)
                shown[f"{name.removeprefix('stage/')}_ms"] = f"{mean:.1f} mean, {most:.1f} max"
        return shown


def status(
    name: str,
    hardware_id: str,
    problems: Iterable[Problem],
    summary: str,
    values: dict[str, object],
) -> DiagnosticStatus:
    """One status: the worst level of its problems, and their sentences or else the summary."""
    found = list(problems)
    level = max((problem.level for problem in found), default=OK)
    text = "; ".join(problem.text for problem in found)
    return DiagnosticStatus(
        level=level,
        name=f"{hardware_id.lstrip('/')}: {name}",
        message=text or summary,
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def report(stamp: int, statuses: Iterable[DiagnosticStatus]) -> DiagnosticArray:
    """The message on /diagnostics."""
    return DiagnosticArray(header=header(stamp, ""), status=list(statuses))
