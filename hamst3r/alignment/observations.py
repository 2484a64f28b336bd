"""What the pairs say of each view, sanitised: dense for the depth fusion, sampled for the solver.

A *look* is one pair's pointmap of one view. It is the view's *own* look when the pair is expressed
in that very camera; else the view was looked at from the other camera of the pair.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
# exp() of an unbounded activation: beyond this, one pixel would outvote a whole surface.
MAX_WEIGHT = 100.0
MIN_DEPTH, MAX_DEPTH = 1e-2, 1e3
MIN_SAMPLES = 24


@dataclass(frozen=True, eq=False)
class ViewGrid:
    """Where a view is sampled.

    Attributes:
        name: Of the camera.
        shape: (gh, gw) of the output grid.
        rows, columns: (S,) sampled pixels; S is the same for all views.
        people: (gh, gw) int32 who moves by itself there: > 0 the same in all views, -1 somebody,
            0 nobody.
    """

    name: str
    shape: tuple[int, int]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    people: NDArray[np.int32]

    @property
    def mover(self) -> NDArray[np.bool_]:
        """(S,) the sample is on something that moves by itself."""
        return self.people[self.rows, self.columns] != 0

    @property
    def pixels(self) -> F64:
        """(S, 2) as (u, v)."""
        return np.stack([self.columns, self.rows], -1).astype(float)

    @property
    def centre(self) -> F64:
        """(2,) middle of the grid: the assumed principal point."""
        return np.array([self.shape[1] - 1, self.shape[0] - 1]) / 2

    def rays(self, K: F64) -> F64:
        """(S, 3) directions with z = 1 of the samples."""
        pixels = np.stack([self.columns, self.rows, np.ones(len(self.rows))], -1)
        return pixels @ np.linalg.inv(K).T


@dataclass(frozen=True, eq=False)
class Look:
    """One pair's pointmap of one view.

    Attributes:
        view: The view whose pixels these are.
        edge: Index of the pair in the solver's list; slot: 0 of its first view, 1 of its second.
        own: The points are in this view's own camera axes (else in the partner's).
        points: (gh, gw, 3) float32, finite; weight: (gh, gw) float32 >= 0.
        sampled: (3, S) float32 the sampled points; w: (S,) float32 their weights, 0 on movers.
    """

    view: int
    edge: int
    slot: int
    own: bool
    points: F32
    weight: F32
    sampled: F32
    w: F32

    @cached_property
    def X(self) -> F64:
        """(S, 3) the sampled points."""
        return np.ascontiguousarray(self.sampled.T, float)

    @cached_property
    def usable(self) -> bool:
        """Enough valid samples to constrain anything rigid."""
        return int(np.count_nonzero(self.w)) >= MIN_SAMPLES


@dataclass(frozen=True, eq=False)
class Pair:
    """Both looks of a pair, in camera ``i``'s axes; ``i == j`` for a lone view.

    ``descriptors``: (gh, gw, D) of both views, on the network's device; None if they do not fit.
    """

    i: int
    j: int
    first: Look
    second: Look
    descriptors: tuple[Tensor, Tensor] | None = None

    @property
    def looks(self) -> tuple[Look, Look]:
        return self.first, self.second


@dataclass(frozen=True, eq=False)
class Observations:
    """Everything the solver works from.

    Attributes:
        grids, pairs: Views and pairs.
        X: (2 pairs, 3, S) float32 samples of all looks, that of slot s of pair e at 2 e + s.
        w: (2 pairs, S) float32 their weights.
        notes: What was left out.
    """

    grids: tuple[ViewGrid, ...]
    pairs: tuple[Pair, ...]
    X: F32
    w: F32
    notes: tuple[str, ...] = ()

    @cached_property
    def looks_at(self) -> dict[int, list[Look]]:
        """view -> what the pairs say of it."""
        looks: dict[int, list[Look]] = {view: [] for view in range(len(self.grids))}
        for pair in self.pairs:
            for look in pair.looks:
                looks[look.view].append(look)
        return looks

    @cached_property
    def joined(self) -> list[tuple[int, int]]:
        """(i, j), i < j, of the views that some pair looks at together."""
        return sorted({(min(p.i, p.j), max(p.i, p.j)) for p in self.pairs if p.i != p.j})

    def rays(self, K: Sequence[F64]) -> list[F64]:
        """Per view (S, 3) directions with z = 1 of its samples; K (3, 3) per view."""
        return [grid.rays(k) for grid, k in zip(self.grids, K, strict=True)]

    def viewer(self, slot: tuple[int, int]) -> int:
        """Whose pixels a look (index of the pair, 0 or 1) shows."""
        return self.pairs[slot[0]].looks[slot[1]].view

    def without(self, views: Collection[int]) -> Observations:
        """The same pairs, that show nothing of some views and nothing from them."""
        w, pairs = self.w.copy(), []
        for edge, pair in enumerate(self.pairs):
            looks = list(pair.looks)
            for slot, look in enumerate(pair.looks):
                if look.view in views or pair.i in views:
                    w[2 * edge + slot] = 0
                    weight = np.zeros_like(look.weight)
                    looks[slot] = replace(look, weight=weight, w=w[2 * edge + slot])
            pairs.append(replace(pair, first=looks[0], second=looks[1]))
        return replace(self, pairs=tuple(pairs), w=w)

    def own_looks(self, view: int) -> list[Look]:
        """The view's usable pointmaps in its own axes."""
        return [look for look in self.looks_at[view] if look.own and look.usable]


def observe(
    names: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    predictions: Sequence,
    movers: Sequence[NDArray],
    samples: int,
) -> Observations:
    """Sanitise predictions; what is worthless loses its weight, what is malformed is left out.

    Args:
        names: Of the cameras; shapes: (gh, gw) of their grids.
        predictions: :class:`hamst3r.engine.PairPrediction`, on any device.
        movers: Per view (gh, gw): who moves by itself (see :attr:`ViewGrid.people`), or bool.
        samples: Pixels per view that the solver sees, about.
    """
    lattices = [_lattice(tuple(shape), samples) for shape in shapes]
    count = min(len(flat) for flat in lattices)
    grids = tuple(
        _grid(name, shape, flat[np.arange(count) * len(flat) // count], mover)
        for name, shape, flat, mover in zip(names, shapes, lattices, movers, strict=True)
    )
    flat_samples = [grid.rows * grid.shape[1] + grid.columns for grid in grids]
    still = [~grid.mover for grid in grids]
    X = np.empty((2 * len(predictions), 3, count), np.float32)
    w = np.empty((2 * len(predictions), count), np.float32)
    pairs: list[Pair] = []
    notes: list[str] = []
    for prediction in predictions:
        i, j = prediction.i, prediction.j
        label = f"pair {names[i]}-{names[j]}"
        maps = [
            _clean(prediction.pts_i, prediction.conf_i, own=True),
            _clean(prediction.pts_j, prediction.conf_j, own=i == j),
        ]
        if maps[0][1].shape != grids[i].shape or maps[1][1].shape != grids[j].shape:
            notes.append(f"{label} left out: its pointmaps do not have the views' grid sizes")
            continue
        if not maps[0][1].any() and not maps[1][1].any():
            notes.append(f"{label} left out: no valid point")
            continue
        edge = len(pairs)
        looks = []
        for slot, (view, (points, weight)) in enumerate(zip((i, j), maps, strict=True)):
            at, row = flat_samples[view], 2 * edge + slot
            X[row] = points.reshape(-1, 3)[at].T
            w[row] = weight.reshape(-1)[at] * still[view]
            own = slot == 0 or i == j
            looks.append(Look(view, edge, slot, own, points, weight, X[row], w[row]))
        descriptors = prediction.desc_i, prediction.desc_j  # None from networks without
        fits = all(
            d is not None and d.shape[:2] == grids[v].shape
            for v, d in zip((i, j), descriptors, strict=True)
        )
        pairs.append(Pair(i, j, looks[0], looks[1], descriptors if fits else None))
    rows = 2 * len(pairs)
    return Observations(grids, tuple(pairs), X[:rows], w[:rows], tuple(notes))


@lru_cache(maxsize=32)
def _lattice(shape: tuple[int, int], samples: int) -> NDArray[np.intp]:
    """Indices of about ``samples`` pixels, evenly spread over a flattened grid."""
    stride = max(1, round(float(np.sqrt(shape[0] * shape[1] / samples))))
    rows, columns = np.mgrid[stride // 2 : shape[0] : stride, stride // 2 : shape[1] : stride]
    flat = (rows * shape[1] + columns).ravel()
    flat.flags.writeable = False
    return flat


def _grid(name: str, shape: tuple[int, int], flat: NDArray[np.intp], mover: NDArray) -> ViewGrid:
    rows, columns = np.divmod(flat, shape[1])
    people = np.asarray(mover)
    people = -people.astype(np.int32) if people.dtype == bool else people.astype(np.int32)
    return ViewGrid(name, shape, rows, columns, people)


def _clean(points, confidence, own: bool) -> tuple[F32, F32]:
    points = points.detach().float().cpu().numpy()
    weight = confidence.detach().float().cpu().numpy() - 1
    if points.shape != (*weight.shape, 3):
        return np.zeros((0, 0, 3), np.float32), np.zeros((0, 0), np.float32)
    valid = weight > 0  # False for NaN as well.
    finite = max(points.max(), -points.min()) < MAX_DEPTH / 2  # False for NaN as well.
    ahead = points[..., 2] > MIN_DEPTH
    if own:
        valid &= ahead
    if not finite:
        with np.errstate(over="ignore", invalid="ignore"):
            near = np.einsum("...k,...k->...", points, points) < MAX_DEPTH**2
        valid &= near
        # What is multiplied by a weight of 0 must be finite all the same.
        points = np.where(near[..., None], points, np.float32(0))
    if not own:
        behind = np.flatnonzero(~ahead)
        at = points.reshape(-1, 3)[behind]
        valid.ravel()[behind] &= np.einsum("pk,pk->p", at, at) > MIN_DEPTH**2
    np.minimum(weight, MAX_WEIGHT, out=weight)
    weight[~valid] = 0
    return points, weight
