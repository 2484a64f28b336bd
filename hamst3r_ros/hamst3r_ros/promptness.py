"""What the process asks of Python and of the C library, so that nothing waits without need."""

from __future__ import annotations

import ctypes
import gc
import sys

# Seconds after which a thread gives way to another one that waits for the interpreter. Python's own
# 5 ms are more than everything takes that is done for the people of a frame set.
SWITCH = 1e-3
# glibc's parameters, from its malloc.h, and bytes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
KEPT, MAPPED = 256 << 20, 32 << 20  # the second is the most that it takes


def prepare() -> None:
    """At the start of the process."""
    sys.setswitchinterval(SWITCH)
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
