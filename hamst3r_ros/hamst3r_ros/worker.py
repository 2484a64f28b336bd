"""One thread that does the slow work, behind a mailbox that holds only the newest item."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from hamst3r_ros import promptness

T = TypeVar("T")
NAME = "hamst3r_worker"  # of its thread
GIVE_WAY = 3e-3  # seconds; people are out in half of it where nothing has to be inferred


class Mailbox(Generic[T]):
    """Holds one item; putting replaces.

    Attributes:
        superseded: How many items were replaced before they were taken.
    """

    def __init__(self) -> None:
        self.superseded = 0
        self._item: T | None = None
        self._wanted = math.inf  # from when on somebody who waits takes an item
        self._condition = threading.Condition()
        self._closed = False

    def put(self, item: T) -> None:
        """Leave an item; one not yet taken is dropped. Who waits for it goes first."""
        with self._condition:
            self.superseded += self._item is not None
            self._item = item
            awaited, self._wanted = self._wanted <= time.monotonic(), math.inf
            self._condition.notify_all()
        # Only who sleeps lets another thread have the interpreter at once, and does not want it
        # back whenever numpy lets go of it for a moment.
        if awaited:
            time.sleep(GIVE_WAY)

    def clear(self) -> None:
        """Drop what was not yet taken."""
        with self._condition:
            self._item = None

    def close(self) -> None:
        """Let everybody who waits go away with nothing, now and from now on."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def take(self, not_before: float) -> T | None:
        """Wait for an item, and take the newest one when the time has come.

        Args:
            not_before: On :func:`time.monotonic`'s scale.

        Returns:
            The item, None once the mailbox is closed.
        """
        with self._condition:
            while not self._closed:
                wait = not_before - time.monotonic()
                if self._item is not None and wait <= 0:
                    item, self._item = self._item, None
                    return item
                self._wanted = not_before
                self._condition.wait(wait if self._item is not None else None)
            return None


class Worker(Generic[T]):
    """Processes items of a mailbox in a thread of its own.

    Args:
        process: The work, begun in haste (see :mod:`hamst3r_ros.promptness`). An exception costs
            its item and nothing else.
        failed: Called with each exception and how many there were in a row.
        period: Least seconds between the starts of two items, asked anew each time.
    """

    def __init__(
        self,
        process: Callable[[T], None],
        failed: Callable[[Exception, int], None],
        period: Callable[[], float],
    ) -> None:
        self.mailbox: Mailbox[T] = Mailbox()
        self._process = process
        self._failed = failed
        self._period = period
        self._started: float | None = None
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)

    def start(self) -> None:
        """Start the thread; once."""
        self._thread.start()

    def busy(self) -> float:
        """Seconds that the item in hand has taken until now; 0 without one."""
        started = self._started
        return 0.0 if started is None else time.monotonic() - started

    def stop(self) -> None:
        """Finish the item in hand, then end the thread; returns when it has ended."""
        self.mailbox.close()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        faults, started = 0, float("-inf")
        promptness.hurry()  # to be there at once when an item comes
        while (item := self.mailbox.take(started + self._period())) is not None:
            started = self._started = time.monotonic()
            try:
                self._process(item)
                faults = 0
            except Exception as error:
                faults += 1
                self._failed(error, faults)
            self._started = None
            promptness.hurry()
            del item  # images of the last set need not wait for the next one
