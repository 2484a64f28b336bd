"""A few lines that stay in place on a terminal, and become single lines elsewhere."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from typing import TextIO

BOLD, FAINT, RED, YELLOW, RESET = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[33m", "\x1b[0m"
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
LINE_PERIOD = 2.0  # seconds between lines where nothing can be redrawn


class StatusTable:
    """Writes to a stream.

    Args:
        stream: Redrawn in place if it is a terminal.
        clock: Seconds, monotonic.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self.live = stream.isatty()
        self._drawn: list[str] = []
        self._last = float("-inf")

    def show(self, rows: Sequence[tuple[str, str]], brief: str) -> None:
        """Replace the table.

        Args:
            rows: (name, text) of each line.
            brief: What a stream that is no terminal gets, now and then.
        """
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            lines = [f"  {FAINT}{name:<12}{RESET}{_cut(text, width - 14)}" for name, text in rows]
            self._erase()
            self._write("".join(line + "\n" for line in lines))
            self._drawn = lines
        elif self._clock() - self._last >= LINE_PERIOD:
            self._last = self._clock()
            self._write(brief + "\n")

    def say(self, text: str, style: str = "") -> None:
        """A line that stays, above the table."""
        self._erase()
        self._write(f"{style}{text}{RESET}\n" if self.live and style else f"{text}\n")
        if self.live:
            self._write("".join(line + "\n" for line in self._drawn))

    def leave(self) -> None:
        """Let the table stand as it is; what comes next is written below."""
        self._drawn = []

    def _erase(self) -> None:
        if self.live and self._drawn:
            self._write(f"\x1b[{len(self._drawn)}A\x1b[J")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _cut(text: str, width: int) -> str:
    """At most ``width`` characters, so that no line wraps and spoils the redrawing."""
    plain = ESCAPES.sub("", text)
    return text if len(plain) <= width else plain[: max(width - 1, 0)] + "…"
