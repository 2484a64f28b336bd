"""The executor's loop: it ends, keeps nothing of what it executed, and lets the urgent go first."""

from __future__ import annotations

import threading

import pytest
import rclpy
from hamst3r_ros.spinning import RightOfWay, spin
from rclpy.executors import SingleThreadedExecutor
from rclpy.task import Future

from hamst3r_ros import spinning


class Counted(Future):
    """Counts who waits for it."""

    waiting = 0

    def add_done_callback(self, callback) -> None:
        self.waiting += 1
        super().add_done_callback(callback)


@pytest.fixture
def node(ros):
    node = rclpy.create_node("spun")
    yield node
    node.destroy_node()


@pytest.fixture
def executor(node):
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    yield executor
    executor.shutdown()


def test_it_ends_when_told_and_keeps_nothing_of_what_it_executed(node, executor):
    ended, ticks = Counted(), []

    def tick() -> None:
        ticks.append(None)
        if len(ticks) == 50:
            ended.set_result(3)

    node.create_timer(1e-3, tick)
    spin(executor, ended)
    assert len(ticks) == 50 and ended.result() == 3
    assert ended.waiting == 1


def test_another_thread_can_end_it_while_nothing_happens(executor):
    ended = Future()
    threading.Timer(0.1, ended.set_result, (0,)).start()
    spin(executor, ended)
    assert ended.result() == 0


def test_nothing_is_executed_while_somebody_has_the_right_of_way(node, executor, monkeypatch):
    monkeypatch.setattr(spinning, "PATIENCE", 30.0)
    way, ended, order = RightOfWay(), Future(), []
    inside, leave = threading.Event(), threading.Event()

    def urgent() -> None:
        with way:
            inside.set()
            leave.wait(30)
            order.append("urgent")

    def tick() -> None:
        order.append("tick")
        ended.set_result(0)

    node.create_timer(1e-3, tick)
    worker = threading.Thread(target=urgent)
    worker.start()
    assert inside.wait(30)
    threading.Timer(0.2, leave.set).start()
    spin(executor, ended, way)
    worker.join()
    assert order == ["urgent", "tick"]


def test_the_right_of_way_ends_with_an_error_and_is_not_waited_for_for_ever():
    way = RightOfWay()
    with pytest.raises(ValueError, match="broken"), way:
        way.give()  # comes back by itself
        raise ValueError("broken")
    assert way._free.is_set()
