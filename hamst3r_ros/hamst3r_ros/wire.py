"""Plain values to the bytes of a message, without the message in between.

rclpy's publishers take bytes as well as messages. To fill a message of many parts, and to have it
read out again, takes Python several times as long as to write down what it holds. The layout
follows from the message's own description, so that it cannot differ from the definition: CDR as
every DDS middleware of ROS has it (OMG DDSI-RTPS 9.4.2.12; numbers aligned to their own size).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

import numpy as np

# Field -> value; what is missing has the message's default. Messages of constant size are the flat
# sequence of their numbers, others such mappings; sequences of numbers are arrays or buffers.
Fields = Mapping[str, Any]
Parts = list[Any]  # buffers
# Appends the bytes of one field or a few to the parts that are ``at`` bytes long already; the new
# length.
Step = Callable[[Fields, Parts, int], int]

_HEAD = b"\x00\x01\x00\x00"  # CDR, little endian; alignment counts from here on
_CODES = {
    "boolean": "?",
    "octet": "B",
    "uint8": "B",
    "int8": "b",
    "uint16": "H",
    "int16": "h",
    "uint32": "I",
    "int32": "i",
    "uint64": "Q",
    "int64": "q",
    "float": "f",
    "double": "d",
}
_COUNT = struct.Struct("<I")


def pack(kind: type, fields: Fields) -> bytes:
    """The serialised form of a message.

    Args:
        kind: Its class.
        fields: What it holds, see ``Fields``.

    Raises:
        TypeError, struct.error: Values that do not fit the fields, or fields of a kind that none
            of our messages has (wide strings).
    """
    parts: Parts = [_HEAD]
    at = 0
    for step in _steps(kind):
        at = step(fields, parts, at)
    return b"".join(parts)


@cache
def _steps(kind: type) -> tuple[Step, ...]:
    """What writes a message's fields, those of constant size side by side in one go."""
    described_fields: dict[str, str] = kind.get_fields_and_field_types()  # type: ignore[attr-defined]
    steps: list[Step] = [_known_step(kind.__name__, frozenset(described_fields))]
    run: list[tuple[str, str, Any]] = []
    default = kind()
    for name, described in described_fields.items():
        codes = _constant(described)
        if codes:
            run.append((name, codes, _numbers(getattr(default, name))))
            continue
        if run:
            steps.append(_constant_step(run))
            run = []
        steps.append(_variable_step(name, described))
    if run:
        steps.append(_constant_step(run))
    return tuple(steps)


@cache
def _constant(described: str) -> str:
    """The codes of the numbers in a field of constant size, "" for others."""
    if described in _CODES:
        return _CODES[described]
    if described.endswith("]"):
        element, _, count = described[:-1].rpartition("[")
        return _constant(element) * int(count)
    if "/" not in described or "<" in described:
        return ""
    parts = [_constant(part) for part in _class(described).get_fields_and_field_types().values()]
    return "".join(parts) if all(parts) else ""


def _class(described: str) -> Any:
    package, _, name = described.partition("/")
    return getattr(import_module(f"{package}.msg"), name)


def _numbers(value: Any) -> list[Any]:
    """All numbers of a field of constant size, in their order."""
    if hasattr(value, "get_fields_and_field_types"):
        names = value.get_fields_and_field_types()
        return [number for name in names for number in _numbers(getattr(value, name))]
    if isinstance(value, bytes):  # an octet
        return list(value)
    if hasattr(value, "__len__"):
        return [number for item in value for number in _numbers(item)]
    return [value]


@lru_cache(maxsize=1024)
def _struct(codes: str, phase: int) -> struct.Struct:
    """Numbers side by side, the first one at a place whose remainder by 8 is ``phase``."""
    layout, at = "<", phase
    for code in codes:
        size = struct.calcsize(code)
        gap = -at % size
        layout += "x" * gap + code
        at += gap + size
    return struct.Struct(layout)


def _known_step(kind: str, names: frozenset[str]) -> Step:
    def step(fields: Fields, _: Parts, at: int) -> int:
        if not fields.keys() <= names:
            raise TypeError(f"{kind} has no field {', '.join(sorted(fields.keys() - names))}")
        return at

    return step


def _constant_step(run: Sequence[tuple[str, str, Any]]) -> Step:
    layouts = [_struct("".join(codes for _, codes, _ in run), phase) for phase in range(8)]
    members = [(name, len(codes) == 1, default) for name, codes, default in run]

    def step(fields: Fields, parts: Parts, at: int) -> int:
        values: list[Any] = []
        for name, single, default in members:
            value = fields.get(name)
            if value is None:
                values += default
            elif single:
                values.append(value)
            else:
                values += value
        layout = layouts[at & 7]
        parts.append(layout.pack(*values))
        return at + layout.size

    return step


def _variable_step(name: str, described: str) -> Step:
    if described == "string" or described.startswith("string<"):
        return lambda fields, parts, at: _write_strings((fields.get(name, ""),), parts, at)
    if not described.startswith("sequence<"):
        inner = _steps(_class(described))

        def nested(fields: Fields, parts: Parts, at: int) -> int:
            own = fields.get(name, {})
            for step in inner:
                at = step(own, parts, at)
            return at

        return nested
    element = described[len("sequence<") : -1].split(",")[0]
    if element.startswith("string"):
        return lambda fields, parts, at: _write_list(fields.get(name, ()), parts, at)
    codes = _constant(element)
    if not codes:
        return _messages_step(name, _class(element))
    if len(set(codes)) == 1:
        return _array_step(name, np.dtype(f"<{codes[0]}"), len(codes))
    return _records_step(name, codes)


def _array_step(name: str, kind: np.dtype, width: int) -> Step:
    """A sequence of equal numbers, ``width`` of them an element."""

    def step(fields: Fields, parts: Parts, at: int) -> int:
        value = fields.get(name, ())
        buffer = value if isinstance(value, memoryview) else np.ascontiguousarray(value, kind)
        size = buffer.nbytes
        at = _count(size // (kind.itemsize * width), parts, at)
        if not size:
            return at
        gap = -at % kind.itemsize
        parts += (bytes(gap), buffer)
        return at + gap + size

    return step


def _records_step(name: str, codes: str) -> Step:
    """A sequence of messages of constant size with numbers of several kinds."""

    def step(fields: Fields, parts: Parts, at: int) -> int:
        value = fields.get(name, ())
        at = _count(len(value), parts, at)
        layout = _struct(codes * len(value), at & 7)
        parts.append(layout.pack(*(number for record in value for number in record)))
        return at + layout.size

    return step


def _messages_step(name: str, kind: type) -> Step:
    inner = _steps(kind)

    def step(fields: Fields, parts: Parts, at: int) -> int:
        value = fields.get(name, ())
        at = _count(len(value), parts, at)
        for own in value:
            for write in inner:
                at = write(own, parts, at)
        return at

    return step


def _count(count: int, parts: Parts, at: int) -> int:
    gap = -at & 3
    parts.append(bytes(gap) + _COUNT.pack(count))
    return at + gap + 4


def _write_list(texts: Sequence[str], parts: Parts, at: int) -> int:
    return _write_strings(tuple(texts), parts, _count(len(texts), parts, at))


def _write_strings(texts: tuple[str, ...], parts: Parts, at: int) -> int:
    written = _strings(texts, at & 3)
    parts.append(written)
    return at + len(written)


@lru_cache(maxsize=4096)
def _strings(texts: tuple[str, ...], phase: int) -> bytes:
    """Texts one after the other, each with its length before and a zero behind."""
    parts: Parts = []
    at = phase
    for text in texts:
        encoded = text.encode() + b"\0"
        at = _count(len(encoded), parts, at) + len(encoded)
        parts.append(encoded)
    return b"".join(parts)
