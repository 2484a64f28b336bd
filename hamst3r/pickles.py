"""Pickles of strangers, read without running any code of theirs.

A pickle is a program that may call whatever it names. Here it may name numpy's arrays, scalars and
types and plain Python's containers. Classes of packages that a caller lists become inert records,
of which only the attributes are known; anything else is refused.
"""

from __future__ import annotations

import codecs
import collections
import io
import pickle
from collections.abc import Collection
from typing import Any

import numpy as np

try:  # numpy 2
    from numpy._core import multiarray
except ImportError:  # numpy 1
    from numpy.core import multiarray  # type: ignore[no-redef]

_RECONSTRUCT = multiarray._reconstruct  # type: ignore[attr-defined]
_SCALAR = multiarray.scalar  # type: ignore[attr-defined]


class PickleError(ValueError):
    """A pickle that is broken, or asks for something it has no need of."""


class Record:
    """An object of which only the attributes are known; its class has the wanted name."""

    def __new__(cls, *_: object, **__: object) -> Record:
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) == 2:  # with __slots__
            state = {**(state[0] or {}), **(state[1] or {})}
        if isinstance(state, dict):
            self.__dict__.update(state)


def loads(data: bytes, records: Collection[str] = ()) -> Any:
    """What a pickle holds.

    Args:
        records: Packages whose classes become :class:`Record`.

    Raises:
        PickleError: It is broken or asks for anything else.
    """
    try:
        return _Unpickler(data, records).load()
    except PickleError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        raise PickleError(f"a damaged pickle, or none: {error!r}") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, records: Collection[str]) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._records = tuple(records)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if any(module == known or module.startswith(known + ".") for known in self._records):
            return type(name, (Record,), {})
        raise PickleError(
            f"refused, it asks for '{module}.{name}'; only numpy arrays and plain values are read "
            "from pickles"
        )


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes; no other codec is looked up."""
    if encoding not in ("latin1", "latin-1"):
        raise PickleError(f"refused, it asks for the encoding {encoding!r}")
    return codecs.latin_1_encode(text)[0]


def _frombuffer(buffer: bytes, dtype: np.dtype, shape: tuple, order: str, *_: Any) -> np.ndarray:
    """What protocol 5 calls for arrays."""
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _rebuild(cls: object, *_: object) -> Record:
    """In place of copyreg's, which protocols 0 and 1 call: only records are made."""
    if isinstance(cls, type) and issubclass(cls, Record):
        return cls()
    raise PickleError(f"refused, it asks for a {cls!r}")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("copyreg", "_reconstructor"): _rebuild,
    ("copy_reg", "_reconstructor"): _rebuild,
    **{
        (module, name): value
        for name, value in (
            ("set", set),
            ("frozenset", frozenset),
            ("complex", complex),
            ("object", Record),
        )
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
