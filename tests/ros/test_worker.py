"""The mailbox and its thread: newest first, faults survived, stopped in order."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from types import SimpleNamespace

import pytest
from hamst3r_ros.worker import Mailbox, Worker

from hamst3r_ros import promptness


def test_only_the_newest_item_is_kept():
    taken, busy, go, done = [], threading.Event(), threading.Event(), threading.Event()

    def process(item: int) -> None:
        taken.append(item)
        busy.set()
        go.wait(30)
        if item == 9:
            done.set()

    worker = Worker(process, lambda *_: None, lambda: 0.0)
    worker.start()
    worker.mailbox.put(0)
    assert busy.wait(30)
    for item in range(1, 10):
        worker.mailbox.put(item)
    go.set()
    assert done.wait(30)
    worker.stop()
    assert taken == [0, 9]
    assert worker.mailbox.superseded == 8


def test_faults_are_counted_in_a_row_and_survived():
    failures, reached = [], threading.Event()
    once = threading.Semaphore(0)

    def process(item: str) -> None:
        once.release()
        if item == "bad":
            raise ValueError(item)

    def failed(error: Exception, in_a_row: int) -> None:
        failures.append((str(error), in_a_row))
        if len(failures) == 3:
            reached.set()

    worker = Worker(process, failed, lambda: 0.0)
    worker.start()
    for item in ("bad", "bad", "good", "bad"):
        worker.mailbox.put(item)
        assert once.acquire(timeout=30)
    assert reached.wait(30)
    worker.stop()
    assert failures == [("bad", 1), ("bad", 2), ("bad", 1)]


def test_stopping_waits_for_the_item_in_hand_and_takes_no_other():
    taken, busy, go = [], threading.Event(), threading.Event()

    def process(item: int) -> None:
        busy.set()
        go.wait(30)
        taken.append(item)

    worker = Worker(process, lambda *_: None, lambda: 0.0)
    worker.start()
    worker.mailbox.put(1)
    assert busy.wait(30)
    worker.mailbox.put(2)
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    go.set()
    stopper.join(30)
    assert not stopper.is_alive()
    assert taken == [1]


def test_a_worker_that_never_started_can_be_stopped():
    Worker(lambda _: None, lambda *_: None, lambda: 0.0).stop()


def test_the_rate_is_limited_and_the_newest_item_taken_when_it_is_due():
    taken, first, last = [], threading.Event(), threading.Event()
    period = [1e6]

    def process(item: int) -> None:
        taken.append(item)
        (first if item == 0 else last).set()

    worker = Worker(process, lambda *_: None, lambda: period[0])
    worker.start()
    worker.mailbox.put(0)
    assert first.wait(30)
    for item in (1, 2, 3):
        worker.mailbox.put(item)
    worker.mailbox.clear()
    worker.stop()  # also while it waits for the period to end
    assert taken == [0]
    assert not last.is_set()


@pytest.mark.parametrize(("due", "gives"), [(0.0, 1), (float("inf"), 0)])
def test_way_is_given_to_who_would_take_an_item_at_once(monkeypatch, due, gives):
    slept, waiting, taken = [], threading.Event(), []

    class Noticed(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            waiting.set()
            return super().wait(timeout and min(timeout, threading.TIMEOUT_MAX))

    clock = SimpleNamespace(monotonic=time.monotonic, sleep=slept.append)
    monkeypatch.setattr("hamst3r_ros.worker.time", clock)
    monkeypatch.setattr("hamst3r_ros.worker.threading.Condition", Noticed)
    mailbox = Mailbox()
    mailbox.put(0)
    assert mailbox.take(0.0) == 0 and not slept  # nobody waited
    thread = threading.Thread(target=lambda: taken.append(mailbox.take(due)))
    thread.start()
    assert waiting.wait(30)
    mailbox.put(1)
    assert len(slept) == gives
    mailbox.close()
    thread.join(30)
    assert taken in ([1], [None])


def scheduling() -> tuple[int, int]:
    """Policy and niceness of this thread."""
    thread = threading.get_native_id()
    policy = os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK
    return policy, os.getpriority(os.PRIO_PROCESS, thread)


def haste() -> tuple[int, int]:
    """Policy and niceness of a thread of this process that tries to hurry."""
    usual, seen = scheduling(), []
    for ask in (
        lambda thread: os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(1)),
        lambda thread: os.setpriority(os.PRIO_PROCESS, thread, usual[1] - promptness.HASTE),
        lambda thread: None,
    ):

        def attempt(ask=ask) -> None:
            with contextlib.suppress(PermissionError):
                ask(threading.get_native_id())
                seen.append(scheduling())

        asking = threading.Thread(target=attempt)
        asking.start()
        asking.join()
    return seen[0]


def test_who_is_waited_for_goes_first_where_that_is_allowed():
    usual, seen, done = scheduling(), [], threading.Event()

    def process(_: int) -> None:
        seen.append(scheduling())
        other = threading.Thread(target=lambda: seen.append(scheduling()[0]))
        other.start()
        other.join()
        promptness.relax()
        seen.append(scheduling())
        done.set()

    worker = Worker(process, lambda *_: None, lambda: 0.0)
    worker.start()
    for _ in range(2):  # in haste again for the second one
        done.clear()
        worker.mailbox.put(0)
        assert done.wait(30)
    worker.stop()
    assert seen == [haste(), usual[0], usual] * 2
    assert scheduling() == usual


@pytest.mark.parametrize("also", [False, True])
def test_without_the_right_to_hurry_all_goes_on(monkeypatch, also):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    usual = scheduling()
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    if also:
        monkeypatch.setattr(os, "setpriority", refuse)
    seen = []

    def hurried() -> None:
        promptness.hurry()
        seen.append(scheduling()[0])
        promptness.relax()
        seen.append(scheduling())

    thread = threading.Thread(target=hurried)
    thread.start()
    thread.join()
    assert seen == [usual[0], usual]
