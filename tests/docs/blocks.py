"""Blocks of code in Markdown pages, and what the comment above each says of testing it.

``<!-- run -->`` above a block: it is run. ``<!-- run: robot -->``: it is run where cameras and a
node are (tests/system/test_docs_robot.py). ``<!-- check: WHY -->``, or nothing: its syntax, and
that the commands, options and files of this repository that it names exist.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(
    r"(?:<!-- (?P<mode>run|check)(?:: (?P<why>[^>]*))? -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^ *```",
    re.MULTILINE | re.DOTALL,
)
SHELL = ("bash", "sh", "shell", "console")


@dataclass(frozen=True)
class Block:
    """One block: the page it is on (relative to the repository), its first line, its text."""

    page: str
    line: int
    language: str
    mode: str
    why: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(path: Path) -> Iterator[Block]:
    """All blocks of a page."""
    content = path.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(content):
        line = content[: found.start("text")].count("\n") + 1
        yield Block(
            path.relative_to(ROOT).as_posix(),
            line,
            found["language"],
            found["mode"] or "check",
            found["why"] or "",
            found["text"],
        )


def pages() -> list[Path]:
    """The pages whose commands are tested."""
    return [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "README.md"]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command in a shell block, without assignments before it."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words = list(lexer)
        command: list[str] = []
        for word in [*words, ";"]:
            if word in (";", "&&", "||", "|", "&"):
                if command:
                    yield command
                command = []
            elif command or not re.match(r"^[A-Za-z_]\w*=", word):
                command.append(word)
