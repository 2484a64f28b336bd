"""Pickles of data sets, read as :mod:`hamst3r.pickles` reads them, with the file in the message."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from hamst3r.evaluation.datasets.base import DatasetError
from hamst3r.pickles import PickleError, loads


def load_pickle(path: Path, records: Collection[str] = ()) -> Any:
    """What a pickle holds.

    Args:
        records: Packages whose classes become :class:`hamst3r.pickles.Record`.

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
        return loads(data, records)
    except PickleError as error:
        raise DatasetError(f"{path}: {error}") from error
