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

    Linux knows niceness per thread. Less than the process' own takes CAP_SYS_NICE or a limit
    (``nice`` in limits.conf); without, nothing changes.
    """
    _be_nice(_NICENESS - HASTE)


def relax() -> None:
    """This thread is as any other again, and so are those that it starts."""
    _be_nice(_NICENESS)


def _be_nice(niceness: int) -> None:
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
