"""Messages of several cameras, gathered into sets of (nearly) one time. Pure Python, no clock.

Whether a camera is late is judged by stamps alone, so that a bag at any speed gives the same sets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

# Stamps may arrive a little out of order; a longer way back is another recording or clock.
CLOCK_JUMP_NS = 500_000_000
# Messages kept per camera. More than one, because transports delay cameras differently: the
# match of a slow camera's newest image is often the one before the newest of a fast camera.
DEPTH = 4


class Pace:
    """Time between the messages of a camera, which one late message does not change."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=3)

    def add(self, at: float) -> None:
        """A message came, or is of this time."""
        self._times.append(at)

    @property
    def last(self) -> float | None:
        """Time of the newest message."""
        return self._times[-1] if self._times else None

    @property
    def period(self) -> float | None:
        """The shorter one of the last two intervals, None before there is one."""
        return min((b - a for a, b in pairwise(self._times)), default=None)


@dataclass(frozen=True)
class SyncSettings:
    """How frame sets are gathered; times in nanoseconds.

    Attributes:
        slop: Largest difference between the stamps of a set.
        min_cameras: Smallest number of cameras in a set.
        max_age: A camera this far behind the newest stamp, apart from the time between its own
            images, is not waited for.
        reference: Camera whose stamp the set carries, "" = the newest stamp.
    """

    slop: int
    min_cameras: int
    max_age: int
    reference: str = ""


@dataclass(frozen=True, eq=False)
class MessageSet:
    """Messages of one time.

    Attributes:
        stamp: Of the reference camera, else the newest, ns.
        messages: camera -> message, in the order of the cameras.
        partial: Whether a camera is missing.
        spread: Difference between the newest and the oldest stamp, ns.
    """

    stamp: int
    messages: dict[str, Any]
    partial: bool
    spread: int


@dataclass
class AssemblerCounts:
    """What happened since the start."""

    received: int = 0
    complete: int = 0
    partial: int = 0
    out_of_order: int = 0
    unmatched: int = 0
    clock_jumps: int = 0


class Assembler:
    """Approximate synchroniser that drops the oldest and never waits for the silent.

    Work and memory per message are bounded by the number of cameras.
    """

    def __init__(self, cameras: Sequence[str], settings: SyncSettings) -> None:
        self.settings = settings
        self.counts = AssemblerCounts()
        self.jump: float | None = None  # seconds of the last jump back, until taken
        self._cameras = tuple(cameras)
        self._queues: dict[str, deque[tuple[int, Any]]] = {}
        self.flush()

    def flush(self) -> None:
        """Forget all messages and stamps."""
        self._queues = {name: deque(maxlen=DEPTH) for name in self._cameras}
        self._last: dict[str, int] = {}
        self._paces = {name: Pace() for name in self._cameras}
        self._first: int | None = None

    def take_jump(self) -> float | None:
        """Seconds that stamps jumped back since the last call, None if they did not."""
        jump, self.jump = self.jump, None
        return jump

    def add(self, camera: str, stamp: int, message: Any) -> MessageSet | None:
        """Take a message; the set that it completes, if any.

        Args:
            camera: One of the cameras.
            stamp: Of the message, ns.
            message: Anything.
        """
        self.counts.received += 1
        last = self._last.get(camera)
        if last is not None and stamp <= last:
            if stamp > last - CLOCK_JUMP_NS:
                self.counts.out_of_order += 1
                return None
            self.flush()
            self.jump = (last - stamp) / 1e9
            self.counts.clock_jumps += 1
        self._last[camera] = stamp
        self._paces[camera].add(stamp)
        self._first = stamp if self._first is None else min(self._first, stamp)
        queue = self._queues[camera]
        if len(queue) == DEPTH:
            self.counts.unmatched += 1
        queue.append((stamp, message))
        return self._match()

    def lags(self) -> dict[str, float]:
        """Seconds that the newest stamp of each camera heard of is behind the newest of all."""
        newest = max(self._last.values(), default=0)
        return {name: (newest - stamp) / 1e9 for name, stamp in self._last.items()}

    def waited_for(self) -> list[str]:
        """Cameras that have not fallen behind by more than ``max_age`` and their own period."""
        if not self._last or self._first is None:
            return list(self._cameras)
        oldest = max(self._last.values()) - self.settings.max_age
        periods = {name: pace.period for name, pace in self._paces.items()}
        usual = max((p for p in periods.values() if p is not None), default=0)
        return [
            name
            for name in self._cameras
            if self._last.get(name, self._first) + _either(periods[name], usual) >= oldest
        ]

    def _match(self) -> MessageSet | None:
        live = self.waited_for()
        if len(live) < self.settings.min_cameras or not all(self._queues[name] for name in live):
            return None
        # The slowest camera's newest message decides: the others have all that can match it.
        pivot = min(self._queues[name][-1][0] for name in live)
        chosen = {
            name: min(self._queues[name], key=lambda item: abs(item[0] - pivot)) for name in live
        }
        stamps = [stamp for stamp, _ in chosen.values()]
        spread = max(stamps) - min(stamps)
        if spread > self.settings.slop:
            for name in live:
                self._drop(name, pivot - self.settings.slop)
            return None
        for name, (stamp, _) in chosen.items():
            self._drop(name, stamp)
            self._queues[name].popleft()
        partial = len(live) < len(self._cameras)
        if partial:
            self.counts.partial += 1
        else:
            self.counts.complete += 1
        reference = chosen.get(self.settings.reference)
        return MessageSet(
            stamp=max(stamps) if reference is None else reference[0],
            messages={name: message for name, (_, message) in chosen.items()},
            partial=partial,
            spread=spread,
        )

    def _drop(self, camera: str, before: int) -> None:
        """Drop a camera's messages older than a stamp: nothing can match them any more."""
        queue = self._queues[camera]
        while queue and queue[0][0] < before:
            queue.popleft()
            self.counts.unmatched += 1


def _either(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
