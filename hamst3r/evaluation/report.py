"""Figures as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hamst3r.evaluation.samples import Figure, Samples, figures


def table(figure_list: Sequence[Figure], samples: Samples) -> str:
    """One line per figure: name, value, and how many of what it rests on."""
    values, counts = figures(figure_list, samples)
    width = max(len(figure.name) for figure in figure_list)
    lines = []
    for figure in figure_list:
        value = values[figure.name]
        text = "-" if value is None else f"{value:.3f}"
        count = counts[figure.name]
        lines.append(f"{figure.name:<{width}}  {text:>8}  over {count:>6} x {figure.unit}")
    return "\n".join(lines)


def document(
    figure_list: Sequence[Figure], samples: Samples, settings: dict[str, object]
) -> dict[str, object]:
    """All figures by name (None where nothing was measured), ``counts`` and ``settings``."""
    values, counts = figures(figure_list, samples)
    return {**values, "counts": counts, "settings": settings}


def write(path: Path, report: dict[str, object]) -> None:
    """Write a report as JSON.

    Raises:
        OSError: The file cannot be written.
    """
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
