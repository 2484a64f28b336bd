"""Which pairs of views the network looks at: the edges of the pose graph."""

from __future__ import annotations

import enum


class Pairing(str, enum.Enum):
    """How the pairs are chosen; all pairs run one way only (each unordered pair once).

    A pair gives both pointmaps in the first view's camera, so the way back adds little for twice
    the time.
    """

    COMPLETE = "complete"  # every pair: n (n - 1) / 2, the best and the default for few cameras
    SWIN = "swin"  # a ring: each view with its next one, in the order of the cameras
    ONEREF = "oneref"  # the first view with every other: n - 1


def choose_pairs(n: int, mode: Pairing | str = Pairing.COMPLETE) -> list[tuple[int, int]]:
    """Edges (i, j), i < j, that connect ``n`` views; a lone view is paired with itself.

    Raises:
        ValueError: No view, or a mode that is not a :class:`Pairing`.
    """
    try:
        mode = Pairing(mode)
    except ValueError:
        known = ", ".join(m.value for m in Pairing)
        raise ValueError(f"pairing must be one of {known}, got {mode!r}") from None
    if n < 1:
        raise ValueError(f"pairs need at least one view, got {n}")
    if n == 1:
        return [(0, 0)]
    if mode is Pairing.COMPLETE:
        return [(i, j) for i in range(n) for j in range(i + 1, n)]
    if mode is Pairing.ONEREF:
        return [(0, j) for j in range(1, n)]
    ring = [(i, i + 1) for i in range(n - 1)]
    return [*ring, (0, n - 1)] if n > 2 else ring
