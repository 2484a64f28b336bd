"""What was measured on a public data set, beside what papers report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from hamst3r.evaluation.datasets.registry import Dataset
from hamst3r.evaluation.samples import Samples, figures


@dataclass(frozen=True, eq=False)
class Measured:
    """Figures of one run.

    Attributes:
        values: Figure -> value, None where nothing was measured. counts: Figure -> values behind.
        cases, groups: How many.
    """

    values: dict[str, float | None]
    counts: dict[str, int]
    cases: int
    groups: int


def measure(dataset: Dataset, groups: Mapping[str, Sequence[Samples]]) -> Measured:
    """Sum up samples by group; where the papers do so, each group counts alike."""
    pooled = Samples()
    per_group = []
    for members in groups.values():
        together = Samples()
        for samples in members:
            together.extend(samples)
        pooled.extend(together)
        per_group.append(figures(dataset.protocol.figures, together)[0])
    values, counts = figures(dataset.protocol.figures, pooled)
    if dataset.by_group:
        for name in values:
            known = [group[name] for group in per_group if group[name] is not None]
            values[name] = float(np.mean(known)) if known else None
    return Measured(values, counts, sum(map(len, groups.values())), len(groups))


def images_used(dataset: Dataset, changed: Mapping[str, object]) -> str:
    """Which images were used, one sentence; ``changed`` are options other than the default."""
    given = " ".join(f"--{name} {value}" for name, value in changed.items() if value is not None)
    return f"{dataset.choice}; but with {given}" if given else dataset.choice


def text(dataset: Dataset, measured: Measured, weights: str, images: str) -> str:
    """The papers' table with ours below, what was asked and chosen, and what else was measured."""
    sources = list(dict.fromkeys(row.source for row in dataset.published))
    table = [["", *dataset.columns.values()]]
    for row in dataset.published:
        name = f"{row.method} [{sources.index(row.source) + 1}]"
        table.append([name, *(_number(row.values.get(column)) for column in dataset.columns)])
    ours = [measured.values[column] for column in dataset.columns]
    table.append([f"this run, {weights}", *(_number(value) for value in ours)])
    first = max(len(line[0]) for line in table)
    lines = [f"{dataset.title} ({dataset.paper}), {measured.cases} cases", ""]
    lines += [
        f"{line[0]:<{first}}"
        + "".join(f"  {cell:>{len(head)}}" for cell, head in _heads(line, table))
        for line in table
    ]
    lines += ["", *(f"[{number}] {source}" for number, source in enumerate(sources, 1))]
    lines += [f"protocol: {dataset.protocol.about}", f"images: {images}"]
    lines += ["Compare rows only as far as the images are the papers' own.", ""]
    for figure in dataset.protocol.figures:
        value, count = _number(measured.values[figure.name], 3), measured.counts[figure.name]
        lines.append(f"{figure.name:<20}  {value:>9}  over {count:>6} x {figure.unit}")
    return "\n".join(lines)


def _heads(line: list[str], table: list[list[str]]) -> list[tuple[str, str]]:
    """The line's cells after the first, each with the longest text of its column."""
    longest = [max((row[k] for row in table), key=len) for k in range(1, len(line))]
    return list(zip(line[1:], longest, strict=True))


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def document(
    dataset: Dataset, measured: Measured, settings: dict[str, object], images: str
) -> dict[str, object]:
    """All of it for programs."""
    return {
        **measured.values,
        "counts": measured.counts,
        "settings": settings,
        "protocol": dataset.protocol.about,
        "images": images,
        "published": [asdict(row) for row in dataset.published],
    }
