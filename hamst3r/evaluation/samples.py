"""What was measured, value by value, and the figures that sum it up."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np


class Samples:
    """Lists of values by name; NaN values are left out."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, *values: float | bool | np.floating) -> None:
        """Append values."""
        self._values[name] += [float(value) for value in values if not math.isnan(value)]

    def extend(self, other: Samples) -> None:
        """Append everything of another one."""
        for name, values in other._values.items():
            self._values[name] += values

    def __getitem__(self, name: str) -> list[float]:
        """All values of a name, possibly none."""
        return self._values.get(name, [])

    def mean(self, name: str) -> float:
        """NaN where there are no values."""
        return float(np.mean(self[name])) if self[name] else math.nan


def mean(values: Sequence[float]) -> float:
    """Reducer of a :class:`Figure`."""
    return float(np.mean(values))


def median(values: Sequence[float]) -> float:
    """Reducer of a :class:`Figure`."""
    return float(np.median(values))


def share_below(limit: float) -> Callable[[Sequence[float]], float]:
    """Reducer of a :class:`Figure`: the share of values below a limit."""
    return lambda values: float((np.asarray(values) < limit).mean())


@dataclass(frozen=True)
class Figure:
    """One number of a report.

    Attributes:
        name: Key in the JSON file; ends in its unit (_m, _cm, _deg), shares have none.
        samples: Name of the values it sums up.
        reduce: How. factor: Multiplied with the result.
        unit: What one value is, for readers: "pair", "person per view".
    """

    name: str
    samples: str
    unit: str
    reduce: Callable[[Sequence[float]], float] = mean
    factor: float = 1.0


def figures(table: Iterable[Figure], samples: Samples) -> tuple[dict, dict[str, int]]:
    """Name -> value (None where nothing was measured), and name -> number of values behind it."""
    values, counts = {}, {}
    for figure in table:
        found = samples[figure.samples]
        values[figure.name] = figure.factor * figure.reduce(found) if found else None
        counts[figure.name] = len(found)
    return values, counts
