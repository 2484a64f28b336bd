"""The mailbox and its thread: newest first, faults survived, stopped in order."""

from __future__ import annotations

import os
import threading

from hamst3r_ros.worker import Worker

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


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_who_is_waited_for_is_less_nice_where_that_is_allowed():
    usual, seen, done = niceness(), [], threading.Event()

    def process(_: int) -> None:
        seen.append(niceness())
        promptness.relax()
        seen.append(niceness())
        other = threading.Thread(target=lambda: seen.append(niceness()))
        other.start()
        other.join()
        done.set()

    worker = Worker(process, lambda *_: None, lambda: 0.0)
    worker.start()
    for _ in range(2):  # in haste again for the second one
        done.clear()
        worker.mailbox.put(0)
        assert done.wait(30)
    worker.stop()
    hasty = usual - promptness.HASTE if allowed(usual) else usual
    assert seen == [hasty, usual, usual] * 2
    assert niceness() == usual


def allowed(usual: int) -> bool:
    """Whether this process may be less nice than it is."""

    def ask() -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), usual - promptness.HASTE)
            may.append(True)
        except PermissionError:
            pass

    may: list[bool] = []
    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    return bool(may)


def test_without_the_right_to_hurry_all_goes_on(monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "setpriority", refuse)
    promptness.hurry()
    promptness.relax()
