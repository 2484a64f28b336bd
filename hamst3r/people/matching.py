"""Who is the same in views of unknown cameras: by which pixels have the same descriptors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamst3r.engine import PairPrediction
from hamst3r.geometry import F64
from hamst3r.people.association import Sighting
from hamst3r.people.votes import Half, InstancesConfig, Vote, sightings_of

ASKED = 32  # pixels of a mask whose like is looked for, at most
STEP = 2  # of rows and columns where it is looked for


def rematch(
    groups: Mapping[Half, int],
    votes: Sequence[Vote],
    predictions: Sequence[PairPrediction],
    grids: Sequence[tuple[int, int]],
    config: InstancesConfig,
) -> dict[Half, int]:
    """Groups, parted by views and joined anew where descriptors match.

    A query that is unsure of who is the same takes anybody in the second view, and whom close-ups
    find in two views no query may have in both; but a person's pixels find their like on the same
    person. Where descriptors do not tell, it is as the groups have it.

    Args:
        groups: Of all queries' halves. votes: With those halves.
        predictions: With or without descriptors; of the latter nothing is learned.
        grids: (gh, gw) of each view.
    """
    described = [
        (p.i, p.j, p.desc_i, p.desc_j)
        for p in predictions
        if p.i != p.j and p.desc_i is not None and p.desc_j is not None
    ]
    if not described:
        return dict(groups)
    sightings, of_half = sightings_of(groups, votes, grids, config)
    group_of = {k: groups[half] for half, k in of_half.items()}
    numbers = [group_of[k] for k in range(len(sightings))]
    shares, asked = _shares(sightings, described)
    joined = _gather(
        np.array([sighting.view for sighting in sightings]),
        shares + config.told_matched * asked * np.equal.outer(numbers, numbers),
        asked,
        config.min_matched,
    )
    # Halves without pixels of their own go with the largest part of their group.
    by_size = sorted(group_of, key=lambda k: (int(sightings[k].mask.sum()), k))
    largest = {group_of[k]: k for k in by_size}
    anew: dict[Half, int] = {}
    for half, group in groups.items():
        part = of_half.get(half, largest.get(group))
        anew[half] = len(sightings) + group if part is None else joined[part]
    return anew


def _shares(
    sightings: Sequence[Sighting], described: Sequence[tuple[int, int, Tensor, Tensor]]
) -> tuple[F64, F64]:
    """(n, n) sums over the pairs of two sightings' views of the share of pixels that find their
    like in the other mask, in both directions; and (n, n) how many pairs that are.

    Args:
        described: Pairs of views i, j and their descriptors (gh, gw, D).
    """
    shares, asked = np.zeros((2, len(sightings), len(sightings)))
    of_view: dict[int, list[int]] = {}
    for k, sighting in enumerate(sightings):
        of_view.setdefault(sighting.view, []).append(k)
    for i, j, descriptors_i, descriptors_j in described:
        a, b = of_view.get(i, []), of_view.get(j, [])
        if not a or not b:
            continue
        masks_a, masks_b = ([sightings[k].mask for k in own] for own in (a, b))
        there = _found(descriptors_i, descriptors_j, masks_a, masks_b)
        share = (there + _found(descriptors_j, descriptors_i, masks_b, masks_a).T) / 2
        shares[np.ix_(a, b)] += share
        shares[np.ix_(b, a)] += share.T
        asked[np.ix_(a, b)] += 1
        asked[np.ix_(b, a)] += 1
    return shares, asked


def _found(
    first: Tensor,
    second: Tensor,
    masks_a: Sequence[NDArray[np.bool_]],
    masks_b: Sequence[NDArray[np.bool_]],
) -> F64:
    """(A, B) share of the pixels of each mask of the first view whose like is in one of the second.

    Args:
        first, second: (gh, gw, D) unit descriptors.
    """
    pixels = [_some(np.flatnonzero(mask)) for mask in masks_a]
    chosen = torch.from_numpy(np.concatenate(pixels)).to(first.device)
    likeness = first.flatten(0, 1)[chosen] @ second[::STEP, ::STEP].flatten(0, 1).T
    like = likeness.argmax(1).cpu().numpy()
    inside = np.stack([mask[::STEP, ::STEP].ravel()[like] for mask in masks_b])
    ends = np.cumsum([len(own) for own in pixels])[:-1]
    return np.stack([part.mean(1) for part in np.split(inside, ends, axis=1)])


def _some(pixels: NDArray[np.intp]) -> NDArray[np.intp]:
    return pixels[:: -(-len(pixels) // ASKED)]


def _gather(views: NDArray[np.int64], sums: F64, counts: F64, least: float) -> NDArray[np.int64]:
    """(n,) clusters by average linkage, at least ``least``, of at most one item of a view each.

    Args:
        views: (n,). sums, counts: (n, n) of what is told about two items.
    """
    cluster = np.arange(len(views))
    sums, counts = sums.copy(), counts.copy()
    apart = views[:, None] == views
    while len(views):
        mean = np.where(apart | (counts == 0), -np.inf, sums / np.maximum(counts, 1))
        one, other = np.unravel_index(mean.argmax(), mean.shape)
        if mean[one, other] < least:
            break
        cluster[cluster == other] = one
        for table in (sums, counts):
            table[one] += table[other]
            table[:, one] += table[:, other]
        apart[one] |= apart[other]
        apart[:, one] |= apart[:, other]
        apart[other] = apart[:, other] = True
    return cluster
