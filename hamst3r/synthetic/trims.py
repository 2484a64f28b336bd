"""What tells front from back and left from right on clothes: buttons, prints, zips, pockets.

Places are the template's, as in :mod:`hamst3r.synthetic.clothing`: metres, x left, y up, z front.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Trim:
    """A patch on the top or the trousers.

    Attributes:
        x, y: Centre. half: (2,) half sizes. front: Side of the body.
        style: ``box``, ``disc``, ``dots`` (a column of them) or ``ring`` (all around at y).
        row: Material. on: Material row of the garment that carries it.
    """

    x: float
    y: float
    half: tuple[float, float]
    front: bool
    style: str
    row: int
    on: int

    def covers(self, place: F32) -> NDArray[np.bool_]:
        """(N,) which places it covers."""
        dx, dy = (place[:, 0] - self.x) / self.half[0], (place[:, 1] - self.y) / self.half[1]
        if self.style == "ring":
            return abs(dy) < 1
        side = (place[:, 2] > 0.0) == self.front
        if self.style == "disc":
            return side & (dx * dx + dy * dy < 1)
        inside = side & (abs(dx) < 1) & (abs(dy) < 1)
        if self.style == "dots":
            spot = (place[:, 1] / (5 * self.half[0])) % 1 - 0.5
            inside &= dx * dx + (5 * spot) ** 2 < 1
        return inside


def sample_trims(
    rng: np.random.Generator, top: int, bottom: int, contrast: tuple[int, int]
) -> tuple[Trim, ...]:
    """Trims of one outfit.

    Args:
        top, bottom: Material rows of the garments. contrast: Rows to make trims of.
    """
    first, second = contrast
    trims = []
    kind = rng.choice(["none", "buttons", "zip", "print", "tie", "pocket", "bib"], p=_SHARES)
    if kind == "buttons":
        trims.append(Trim(0.0, 0.18, (0.007, 0.24), True, "dots", first, top))
        trims.append(Trim(0.012, 0.18, (0.002, 0.25), True, "box", second, top))
    elif kind == "zip":
        trims.append(Trim(0.0, 0.2, (0.008, 0.28), True, "box", first, top))
    elif kind in ("print", "bib"):
        w, h = rng.uniform(0.05, 0.13), rng.uniform(0.04, 0.12)
        style = "box" if kind == "bib" else str(rng.choice(["box", "disc"]))
        trims.append(Trim(rng.choice([0.0, 0.06]), 0.27, (w, h), True, style, first, top))
        if rng.random() < 0.4:  # another one on the back
            trims.append(Trim(0.0, 0.32, (0.12, 0.05), False, "box", second, top))
    elif kind == "tie":
        trims.append(Trim(0.0, 0.26, (0.02, 0.19), True, "box", first, top))
    if kind == "pocket" or rng.random() < 0.25:  # over the heart, on the wearer's left
        trims.append(Trim(0.075, 0.29, (0.03, 0.03), True, "box", second, top))
    if rng.random() < 0.3:
        trims.append(Trim(0.0, 0.0, (1.0, 0.014), True, "ring", second, bottom))  # a belt
    if rng.random() < 0.12:  # bands that shine at night
        for y in (0.1, 0.24):
            trims.append(Trim(0.0, y, (1.0, 0.02), True, "ring", first, top))
    if rng.random() < 0.3:
        for x in (-0.07, 0.07):
            trims.append(Trim(x, -0.1, (0.035, 0.04), False, "box", second, bottom))
    if rng.random() < 0.12:  # one leg, one sleeve of another colour
        side = rng.choice([-1, 1])
        trims.append(Trim(0.13 * side, -0.5, (0.13, 0.12), True, "box", first, bottom))
        trims.append(Trim(0.45 * side, 0.41, (0.05, 0.3), True, "box", first, top))
    return tuple(trims)


_SHARES = (0.22, 0.17, 0.13, 0.24, 0.07, 0.1, 0.07)
