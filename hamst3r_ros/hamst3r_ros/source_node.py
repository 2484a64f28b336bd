"""What the camera sources share: parameters with one-line errors, rendering or decoding ahead in a
thread, and how their process ends."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from hamst3r_ros.spinning import spin

T = TypeVar("T", bool, int, float, str)
N = TypeVar("N", int, float)
Item = TypeVar("Item")

PATIENCE = 0.2  # seconds after which a waiting producer looks whether it shall stop
NICENESS = 5  # of a producer's thread: on few cores those who use the images come first


class SourceError(ValueError):
    """A source that cannot start; the message says what to change."""


def parameter(node: Node, name: str, default: T, description: str) -> T:
    """Declare a parameter that is fixed at start and return its value.

    ``rate:=5`` is as good as ``rate:=5.0``.

    Raises:
        SourceError: The value given is of another type.
    """
    descriptor = ParameterDescriptor(description=description, dynamic_typing=True, read_only=True)
    value = node.declare_parameter(name, default, descriptor).value
    kind = type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise SourceError(f"parameter '{name}' is {value!r}, expected {kind.__name__}")
    return value


def positive(name: str, value: N) -> N:
    """The value, if it is above zero.

    Raises:
        SourceError: It is not.
    """
    if not value > 0:
        raise SourceError(f"parameter '{name}' is {value}, expected a number above 0")
    return value


def names(node: Node, name: str, description: str) -> list[str]:
    """Declare a parameter that lists names and return them: ``[a, b]`` or ``"a, b"``.

    Raises:
        SourceError: The value given is of another type.
    """
    descriptor = ParameterDescriptor(description=description, dynamic_typing=True, read_only=True)
    value = node.declare_parameter(name, "", descriptor).value
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
        raise SourceError(f"parameter '{name}' is {value!r}, expected names such as [left, right]")
    return [entry.strip() for entry in listed if entry.strip()]


class Ahead(Generic[Item]):
    """Takes from an iterator in a thread of its own, a few items ahead of who uses them.

    Args:
        make: Called in that thread.
        ahead: Number of items to hold ready.
    """

    def __init__(self, make: Callable[[], Iterator[Item]], ahead: int) -> None:
        self._make = make
        self._items: queue.Queue[Item] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._ended = threading.Event()
        self.error: Exception | None = None  #: what ended the iterator before its time
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether nothing is left and nothing will come."""
        return self._ended.is_set() and self._items.empty()

    def get(self) -> Item | None:
        """The next item, None while it is not ready."""
        try:
            return self._items.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the thread; what is ready is lost."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        if hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            for item in self._make():
                if not self._put(item):
                    return
        except Exception as error:  # handed to the node's thread, which reports it and ends
            self.error = error
        finally:
            self._ended.set()

    def _put(self, item: Item) -> bool:
        while not self._stop.is_set():
            try:
                self._items.put(item, timeout=PATIENCE)
                return True
            except queue.Full:
                continue
        return False


class SourceNode(Node):
    """A camera source: publishes until it is stopped or at its end.

    Attributes:
        done: Set the result (the exit code) to end the process.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.done: Future = Future()

    def finish(self, code: int) -> None:
        """End the process with this exit code; safe from any thread."""
        if not self.done.done():
            self.done.set_result(code)

    def close(self) -> None:
        """Stop threads and release files; called once, before the node is destroyed."""


def run(make: Callable[[], SourceNode], args: Sequence[str] | None) -> int:
    """Run a source to its end and return the exit code: 0, or 1 after a one-line error."""
    rclpy.init(args=None if args is None else list(args))
    node = None
    try:
        try:
            node = make()
        except (ValueError, ParameterException) as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        spin(executor, node.done)
        return node.done.result() if node.done.done() else 0
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
