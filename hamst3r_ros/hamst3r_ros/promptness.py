"""What the process asks of Python and of the C library, so that nothing waits without need."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading

# glibc's parameters, from its malloc.h, and bytes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
KEPT, MAPPED = 256 << 20, 32 << 20  # the second is the most that it takes

HASTE = 10  # by so much less nice is a thread that is waited for
_NICENESS = os.getpriority(os.PRIO_PROCESS, 0)


def prepare() -> None:
    """At the start of the process."""
    # Freed images and clouds stay with the process: to give their megabytes back to the system for
    # each frame set, and to have them again page by page, takes longer than to fill them.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # only glibc has it
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, MAPPED)
        mallopt(_TRIM_THRESHOLD, KEPT)


def settle() -> None:
    """After much has been loaded that will stay.

    The garbage collector, which would stop everything for a tenth of a second whenever it walks
    through all of it, need not look at it again.
    """
    gc.collect()
    gc.freeze()


def unsettle() -> None:
    """Before what was loaded goes."""
    gc.unfreeze()


def hurry() -> None:
    """Let the system run this thread before others, where it allows that.

    In real time, so that no other thread takes its turn in the middle, or at least less nice than
    the process: CAP_SYS_NICE or limits (``rtprio``, ``nice`` in limits.conf) allow it. Without,
    nothing changes. Threads that it starts meanwhile are as any others.
    """
    if not _scheduled(os.SCHED_RR | os.SCHED_RESET_ON_FORK, 1):
        _be_nice(_NICENESS - HASTE)


def relax() -> None:
    """This thread is as any other again."""
    if not _scheduled(os.SCHED_OTHER, 0):
        _be_nice(_NICENESS)


def _scheduled(policy: int, priority: int) -> bool:
    """Whether this thread is scheduled so now."""
    try:
        os.sched_setscheduler(threading.get_native_id(), policy, os.sched_param(priority))
    except PermissionError:
        return False
    return True


def _be_nice(niceness: int) -> None:
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
