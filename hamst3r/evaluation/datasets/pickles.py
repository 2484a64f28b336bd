"""Pickles of data sets, read without running any code of theirs.

A pickle is a program that may call whatever it names. Here it may name numpy's arrays, scalars and
types, plain Python's containers, and SMPL files' wrappers; anything else is refused. Classes that
a file needs only as containers (lists of samples) become :class:`Record`.
"""

from __future__ import annotations

import codecs
import collections
import io
import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from hamst3r.evaluation.datasets.base import DatasetError

try:  # numpy 2
    from numpy._core import multiarray
except ImportError:  # numpy 1
    from numpy.core import multiarray  # type: ignore[no-redef]

_RECONSTRUCT = multiarray._reconstruct  # type: ignore[attr-defined]
_SCALAR = multiarray.scalar  # type: ignore[attr-defined]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes; no other codec is looked up."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"encoding {encoding!r} in a pickle")
    return codecs.latin_1_encode(text)[0]


def _frombuffer(buffer: bytes, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
    """What protocol 5 calls for arrays."""
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)  # type: ignore[call-overload]


class Record:
    """An object of which only the attributes are known."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) == 2:  # with __slots__
            state = {**(state[0] or {}), **(state[1] or {})}
        if isinstance(state, dict):
            self.__dict__.update(state)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): collections.OrderedDict,
    **{
        (module, name): value
        for name, value in (("set", set), ("frozenset", frozenset), ("complex", complex))
        for module in ("builtins", "__builtin__")
    },
    **{
        (module, name): value
        for name, value in (("_reconstruct", _RECONSTRUCT), ("scalar", _SCALAR))
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    },
    **{
        (module, "_frombuffer"): _frombuffer
        for module in ("numpy.core.numeric", "numpy._core.numeric")
    },
    **{
        ("numpy.dtypes", type(np.dtype(name)).__name__): type(np.dtype(name))
        for name in ("float64", "float32", "int64", "int32", "uint8", "bool", "uint16", "int16")
        if hasattr(np, "dtypes")
    },
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, path: Path, records: Collection[str]) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._path, self._records = path, tuple(records)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if any(module == known or module.startswith(known + ".") for known in self._records):
            return type(name, (Record,), {})
        raise DatasetError(
            f"{self._path}: refused, it asks for '{module}.{name}'; only numpy arrays and plain "
            "values are read from pickles"
        )


def load_pickle(path: Path, records: Collection[str] = ()) -> Any:
    """What a pickle holds.

    Args:
        records: Packages whose classes become :class:`Record`.

    Raises:
        DatasetError: The file is missing, broken, or asks for anything else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    return _loads(data, path, records)


def load_npy(path: Path) -> Any:
    """What an ``.npy`` file holds, also of Python's objects (``allow_pickle`` without the risk).

    Raises:
        DatasetError: As :func:`load_pickle`.
    """
    try:
        with path.open("rb") as file:
            version = npy_format.read_magic(file)
            read = {
                (1, 0): npy_format.read_array_header_1_0,
                (2, 0): npy_format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise ValueError(f"version {version}")
            dtype = read(file)[2]
            rest = file.read()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{path}: expected an .npy file: {error}") from error
    if not dtype.hasobject:
        return np.load(path, allow_pickle=False)
    value = _loads(rest, path, ())
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _loads(data: bytes, path: Path, records: Collection[str]) -> Any:
    try:
        return _Unpickler(data, path, records).load()
    except DatasetError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        raise DatasetError(f"{path}: expected a pickle of numpy arrays: {error}") from error
