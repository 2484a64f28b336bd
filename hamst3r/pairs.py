"""Which pairs of views the network looks at: the edges of the pose graph."""

from __future__ import annotations

import enum

Edge = tuple[int, int]


class Pairing(str, enum.Enum):
    """How the pairs are chosen; all pairs run one way only (each unordered pair once).

    A pair gives both pointmaps in its first view's camera, so the way back adds little for twice
    the time. But a view that is first in some pair has a pointmap in its own axes, and with it a
    better focal length: the directions are chosen so that, if possible, every view is.
    """

    COMPLETE = "complete"  # every pair: n (n - 1) / 2, the best and the default for few cameras
    SWIN = "swin"  # a ring: each view with its next one, in the order of the cameras
    ONEREF = "oneref"  # the first view with every other: n - 1
    RIG = "rig"  # every pair, and each view with its own past: for cameras that move


def choose_pairs(n: int, mode: Pairing | str = Pairing.COMPLETE) -> list[tuple[int, int]]:
    """Edges (i, j) that connect ``n`` views; a lone view is paired with itself.

    Those with the past are not among them (:meth:`hamst3r.alignment.stream.Stream.recall`).

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
    if mode in (Pairing.COMPLETE, Pairing.RIG):
        # As on a round table: each with those to its left, until all have met.
        return [(i, (i + step) % n) for step in range(1, (n + 1) // 2) for i in range(n)] + [
            (i, i + n // 2) for i in range(n // 2) if n % 2 == 0
        ]
    if mode is Pairing.ONEREF:
        return [(0, j) for j in range(1, n)]
    return [(i, (i + 1) % n) for i in range(n)] if n > 2 else [(0, 1)]
