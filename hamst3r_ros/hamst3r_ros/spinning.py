"""How the executor's thread spends its time: until when, and whom it lets go first."""

from __future__ import annotations

import threading
from types import TracebackType

import rclpy
from rclpy.executors import Executor
from rclpy.task import Future

PATIENCE = 0.02  # seconds that somebody with the right of way is waited for at most


class RightOfWay:
    """What one thread does within ``with``, other threads let happen at :meth:`give`.

    Only one thread of Python runs at a time. When two want to, they take turns of milliseconds,
    and what is urgent takes twice as long. One thread may have it, any number may give it.
    """

    def __init__(self) -> None:
        self._free = threading.Event()
        self._free.set()

    def __enter__(self) -> None:
        self._free.clear()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._free.set()

    def give(self) -> None:
        """Wait while somebody is within, but not for ever."""
        self._free.wait(PATIENCE)


def spin(executor: Executor, ended: Future, way: RightOfWay | None = None) -> None:
    """Execute callbacks until ``ended`` is done or the context ends.

    As ``Executor.spin_until_future_complete``, which leaves one more callback in the future with
    everything that it executes, until memory runs out.

    Args:
        way: What goes before each callback.

    Raises:
        ExternalShutdownException: The context ended.
    """
    # Something to execute: who is only woken looks for work and goes on waiting.
    ended.add_done_callback(lambda _: executor.create_task(lambda: None))
    while rclpy.ok() and not ended.done():
        if way is not None:
            way.give()
        executor.spin_once()
