"""Each view's pointmap in its own axes, of all that the pairs say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.observations import Look, Observations
from hamst3r.alignment.pose_graph import SPARSE
from hamst3r.alignment.resection import resect
from hamst3r.alignment.similarity import medians
from hamst3r.geometry import transform

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Canonical:
    """Each view's pointmap in its own axes, in a unit of its own.

    Attributes:
        depth: (N, S) of the samples, 0 where unknown. weight: (N, S).
        known: (N,) whether there is one at all.
        unit: (pairs,) what multiplies a pair to reach the unit of its first view; NaN if nothing.
    """

    depth: F32
    weight: F32
    known: NDArray[np.bool_]
    unit: F64


def canonical_pointmaps(observations: Observations, rays: Sequence[F64]) -> Canonical:
    """Of own looks; of a view without any, from where its camera is found in another's look."""
    shape = len(observations.grids), observations.w.shape[1]
    depth: NDArray = np.zeros(shape, np.float32)
    weight: NDArray = np.zeros(shape, np.float32)
    unit = np.full(len(observations.pairs), np.nan)
    own = [look for view in range(shape[0]) for look in observations.own_looks(view)]
    if own:
        view, edge = (np.array([getattr(look, k) for look in own]) for k in ("view", "edge"))
        at = 2 * edge + [look.slot for look in own]
        z, w = observations.X[at, 2], observations.w[at]
        heaviest = np.zeros(shape[0], int)
        order = np.argsort(w.sum(1))
        heaviest[view[order]] = order
        reference = heaviest[view]
        both, ratio = np.sqrt(w * w[reference]), z[reference] / np.where(w > 0, z, np.float32(1))
        scale = medians(ratio[:, ::SPARSE], both[:, ::SPARSE])
        good = scale > 0
        view, edge, scale, w, z = view[good], edge[good], scale[good], w[good], z[good]
        unit[edge] = scale
        total, moment = np.zeros_like(weight), np.zeros_like(weight)
        np.add.at(total, view, w)
        np.add.at(moment, view, w * scale[:, None].astype(np.float32) * z)
        np.add.at(weight, view, w**2)
        seen = np.where(total > 0, total, np.float32(1))
        depth, weight = moment / seen, weight / seen
    for v in np.flatnonzero(~weight.any(1)).tolist():
        found = _resected(observations.looks_at[v], v, rays)
        if found is not None:
            depth[v], weight[v] = found
    return Canonical(depth, weight, weight.max(1) > 0, unit)


def _resected(looks: Sequence[Look], view: int, rays: Sequence[F64]) -> tuple[F64, F64] | None:
    """The view was only looked at from elsewhere: find its camera in the best of those looks."""
    found = [
        (r.error, look, r)
        for look in looks
        if look.usable and (r := resect(look.X, rays[view], look.w)) is not None
    ]
    if not found:
        return None
    _, look, resection = min(found, key=lambda entry: entry[0])
    z = transform(resection.T_cam_points, look.X)[:, 2]
    return np.where(z > 0, z, 0), np.where(z > 0, look.w, 0)
