"""What the pairs say of each view, sanitised: dense for the depth fusion, sampled for the solver.

A *look* is one pair's pointmap of one view. It is the view's *own* look when the pair is expressed
in that very camera; else the view was looked at from the other camera of the pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hamst3r.geometry import lengths, pixel_rays

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
        rows, columns: (S,) sampled pixels.
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
        return pixel_rays(K, *self.shape)[self.rows, self.columns]


@dataclass(frozen=True, eq=False)
class Look:
    """One pair's pointmap of one view.

    Attributes:
        view: The view whose pixels these are.
        edge: Index of the pair in the solver's list.
        own: The points are in this view's own camera axes (else in the partner's).
        points: (gh, gw, 3) float32, finite (0 where worthless); weight: (gh, gw) float32 >= 0.
        X: (S, 3) float64 the sampled points; w: (S,) their weights, 0 on movers.
    """

    view: int
    edge: int
    own: bool
    points: NDArray[np.float32]
    weight: NDArray[np.float32]
    X: F64
    w: F64

    @property
    def usable(self) -> bool:
        """Enough valid samples to constrain anything rigid."""
        return int((self.w > 0).sum()) >= MIN_SAMPLES


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
    """Everything the solver works from."""

    grids: tuple[ViewGrid, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()
    looks_at: dict[int, list[Look]] = field(init=False)

    def __post_init__(self) -> None:
        looks: dict[int, list[Look]] = {view: [] for view in range(len(self.grids))}
        for pair in self.pairs:
            for look in pair.looks:
                looks[look.view].append(look)
        object.__setattr__(self, "looks_at", looks)

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
    grids = tuple(
        _grid(name, shape, mover, samples)
        for name, shape, mover in zip(names, shapes, movers, strict=True)
    )
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
        first = _look(i, edge, True, *maps[0], grids[i])
        second = _look(j, edge, i == j, *maps[1], grids[j])
        descriptors = prediction.desc_i, prediction.desc_j  # None from networks without
        fits = all(
            d is not None and d.shape[:2] == grids[v].shape
            for v, d in zip((i, j), descriptors, strict=True)
        )
        pairs.append(Pair(i, j, first, second, descriptors if fits else None))
    return Observations(grids, tuple(pairs), tuple(notes))


def _grid(name: str, shape: tuple[int, int], mover: NDArray, samples: int) -> ViewGrid:
    stride = max(1, round(float(np.sqrt(shape[0] * shape[1] / samples))))
    rows, columns = np.mgrid[stride // 2 : shape[0] : stride, stride // 2 : shape[1] : stride]
    rows, columns = rows.ravel(), columns.ravel()
    people = np.asarray(mover)
    people = -people.astype(np.int32) if people.dtype == bool else people.astype(np.int32)
    return ViewGrid(name, shape, rows, columns, people)


def _clean(points, confidence, own: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    points = points.detach().float().cpu().numpy()
    weight = confidence.detach().float().cpu().numpy() - 1
    if points.shape != (*weight.shape, 3):
        return np.zeros((0, 0, 3), np.float32), np.zeros((0, 0), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        distance = lengths(points)
        valid = np.isfinite(distance) & (distance > MIN_DEPTH) & (distance < MAX_DEPTH)
        valid &= weight > 0  # False for NaN as well.
        if own:
            valid &= points[..., 2] > MIN_DEPTH
    weight = np.where(valid, np.clip(weight, 0, MAX_WEIGHT), 0).astype(np.float32)
    return np.where(valid[..., None], points, 0).astype(np.float32), weight


def _look(
    view: int,
    edge: int,
    own: bool,
    points: NDArray[np.float32],
    weight: NDArray[np.float32],
    grid: ViewGrid,
) -> Look:
    at = grid.rows, grid.columns
    w = np.where(grid.mover, 0, weight[at]).astype(float)
    return Look(view, edge, own, points, weight, points[at].astype(float), w)
