"""Pair graphs for many images: by their order, or by what the encoder finds alike.

The names are those that DUSt3R's users know: ``complete``, ``swin-K`` (each view with its K next
ones, around; ``swin-K-noncyclic`` stops at the last), ``oneref-K`` (view K with every other).
``auto`` is complete for few views; for many it is each view's most similar ones and a tree that
holds all together. All pairs run one way only, see :class:`hamst3r.pairs.Pairing`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import minimum_spanning_tree

from hamst3r.pairs import Pairing, choose_pairs

Edge = tuple[int, int]
# Up to here "auto" is complete: 28 pairs.
FEW_VIEWS = 8
SIMILAR = 5
_NAMES = re.compile(r"(complete|auto)|(swin|oneref)(?:-(\d+))?(-noncyclic)?")


@dataclass(frozen=True)
class PairGraph:
    """A parsed name.

    Attributes:
        kind: complete, swin, oneref or auto. size: Its K. cyclic: Of swin.
    """

    kind: str
    size: int = 0
    cyclic: bool = True

    @classmethod
    def parse(cls, name: str) -> PairGraph:
        """From a name as in the module's description; raises ValueError for another."""
        found = _NAMES.fullmatch(name)
        if found is None or (found[4] and found[2] != "swin") or (found[2] and found[3] is None):
            raise ValueError(
                f"pairs must be complete, swin-K, swin-K-noncyclic, oneref-K or auto, got {name!r}"
            )
        if found[1]:
            return cls(found[1])
        size = int(found[3])
        if found[2] == "swin" and size < 1:
            raise ValueError(f"swin-K needs K of at least 1, got {name!r}")
        return cls(found[2], size, not found[4])

    def count(self, views: int) -> int:
        """Pairs among so many views, at most."""
        if views < 2:
            return 1
        complete = views * (views - 1) // 2
        if self.kind == "complete" or (self.kind == "auto" and views <= FEW_VIEWS):
            return complete
        if self.kind == "oneref":
            return views - 1
        return min(complete, views * (self.size or SIMILAR + 2))

    def edges(
        self, views: int, describe: Callable[[], NDArray[np.float32]], ordered: bool = False
    ) -> list[Edge]:
        """The pairs.

        Args:
            views: How many there are.
            describe: Gives (views, D) features; called only where likeness decides.
            ordered: Views are in the order of time: each is also paired with its next one.

        Raises:
            ValueError: ``oneref-K`` of a view that is not there.
        """
        if views < 2 or self.kind == "complete":
            return choose_pairs(views, Pairing.COMPLETE)
        if self.kind == "oneref":
            if self.size >= views:
                raise ValueError(
                    f"oneref-{self.size}: there are only {views} views, numbered from 0"
                )
            return [(self.size, view) for view in range(views) if view != self.size]
        if self.kind == "swin":
            return swin(views, self.size, self.cyclic)
        if views <= FEW_VIEWS:
            return choose_pairs(views, Pairing.COMPLETE)
        return similar(describe(), SIMILAR, ordered)


def swin(views: int, size: int, cyclic: bool) -> list[Edge]:
    """Each view with its ``size`` next ones."""
    edges: dict[frozenset[int], Edge] = {}
    for view in range(views):
        for step in range(1, size + 1):
            other = view + step
            if other >= views and not cyclic:
                break
            if other % views != view:
                edges.setdefault(frozenset((view, other % views)), (view, other % views))
    return list(edges.values())


def similar(features: NDArray[np.float32], size: int, ordered: bool) -> list[Edge]:
    """Each view with its ``size`` most similar ones, and what connects all.

    The likeness is the cosine of features from which the collection's mean is taken: it is what
    tells these images apart. One product of (N, D) matrices; everything else is linear in the
    pairs.
    """
    centred = features - features.mean(0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    likeness = centred @ centred.T
    views = len(features)
    np.fill_diagonal(likeness, -np.inf)
    size = min(size, views - 1)
    chosen = {
        frozenset((view, int(other)))
        for view in range(views)
        for other in np.argpartition(-likeness[view], size - 1)[:size]
    }
    # Distances above 0: a zero would be no edge to scipy.
    distance = np.where(np.isfinite(likeness), 2.001 - likeness, 0)
    tree = minimum_spanning_tree(distance).tocoo()
    chosen |= {frozenset((int(a), int(b))) for a, b in zip(tree.row, tree.col, strict=True)}
    if ordered:
        chosen |= {frozenset((view, view + 1)) for view in range(views - 1)}
    return _directed(sorted(tuple(sorted(pair)) for pair in chosen))


def _directed(pairs: list[tuple[int, ...]]) -> list[Edge]:
    """First in a pair is who was first less often: almost every view comes to be."""
    first: dict[int, int] = {}
    edges = []
    for a, b in pairs:
        i, j = (a, b) if first.get(a, 0) <= first.get(b, 0) else (b, a)
        first[i] = first.get(i, 0) + 1
        edges.append((i, j))
    return edges
