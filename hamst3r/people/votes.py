"""What pairs say of who is where in a view, and what they agree on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.people.association import AssociationConfig, Sighting

Node = tuple[int, int]  # (prediction, query)
Half = tuple[int, int, int]  # (prediction, query, view)


@dataclass(frozen=True)
class InstancesConfig:
    """When a query is a person, and when two are the same.

    Attributes:
        min_probability: Smallest person probability of a query.
        min_score: Smallest score of a person: probability times the Dice that the mask expects to
            have, mean over the pairs.
        doubtful_score: The same, of somebody who is expected at the place.
        min_like: Queries of a pair whose masks have more than this intersection over union are
            thought to see one person, and share its probability.
        min_pixels: Smallest mask in a view, in pixels of the output grid.
        min_kept: A query that loses more than the rest of its mask to better ones is a duplicate.
        body_margin: Log odds of being a body below which the body head objects to a mask.
        min_iou, min_overlap: Queries of two pairs are one person where their masks in a common
            view reach this intersection over union, or over the smaller one.
        min_matched: Two masks of two views are one person where this share of their pixels finds
            its like, by descriptors, in the other one. told_matched: What is added to that share
            where queries say that they are one.
        min_part, sure_part: Parts of a mask are dropped that are smaller than this share of the
            largest, and less sure than this share of its sureness.
        association: Among views of known cameras.
    """

    min_probability: float = 0.5
    min_score: float = 0.5
    doubtful_score: float = 0.25
    min_like: float = 0.4
    min_pixels: int = 24
    min_kept: float = 0.5
    body_margin: float = 1.5
    min_iou: float = 0.35
    min_overlap: float = 0.7
    min_matched: float = 0.1
    told_matched: float = 0.12
    min_part: float = 0.25
    sure_part: float = 0.9
    association: AssociationConfig = field(default_factory=AssociationConfig)


@dataclass(frozen=True, eq=False)
class Vote:
    """One pair's map of one view: query (-1 = background) and how sure the pair is of it.

    ``sizes`` has the pixels of each query that holds any.
    """

    pair: int
    view: int
    query: NDArray[np.int64]
    strength: NDArray[np.float32]
    sizes: dict[int, int]


@dataclass(frozen=True, eq=False)
class Hint:
    """A query that is not sure that there is anybody, but says who would be the same.

    Attributes:
        person: Its probability. masks: View -> (gh, gw), of two views.
    """

    person: float
    masks: dict[int, NDArray[np.bool_]]


def unify(votes: Sequence[Vote], nodes: Sequence[Node], config: InstancesConfig) -> dict[Node, int]:
    """Queries -> group, joining the best overlaps first; no group holds a pair's query twice."""
    parent = {node: node for node in nodes}
    members = {node: {node} for node in nodes}

    def find(node: Node) -> Node:
        while parent[node] != node:
            node = parent[node]
        return node

    for _, a, b in sorted(_overlaps(votes, config), reverse=True):
        root_a, root_b = find(a), find(b)
        if root_a == root_b:
            continue
        pairs_a = {pair for pair, _ in members[root_a]}
        if any(pair in pairs_a for pair, _ in members[root_b]):
            continue
        parent[root_b] = root_a
        members[root_a] |= members.pop(root_b)
    roots = list(members)
    return {node: roots.index(find(node)) for node in nodes}


def _overlaps(votes: Sequence[Vote], config: InstancesConfig) -> list[tuple[float, Node, Node]]:
    found = []
    by_view: dict[int, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_view[vote.view].append(vote)
    for own in by_view.values():
        for a, b in combinations(own, 2):
            if a.pair == b.pair:  # a self-edge: both halves show one view, the queries agree
                continue
            both = (a.query >= 0) & (b.query >= 0)
            joint, counts = np.unique(
                np.stack([a.query[both], b.query[both]]), axis=1, return_counts=True
            )
            for (qa, qb), common in zip(joint.T, counts, strict=True):
                size_a, size_b = a.sizes[int(qa)], b.sizes[int(qb)]
                iou = common / (size_a + size_b - common)
                if iou >= config.min_iou or common / min(size_a, size_b) >= config.min_overlap:
                    found.append((float(iou), (a.pair, int(qa)), (b.pair, int(qb))))
    return found


def hinted(
    votes: Sequence[Vote], hints: Sequence[Hint], config: InstancesConfig
) -> list[tuple[float, Half, Half]]:
    """What queries that found neither of two sightings, but have a mask like both, say of them: how
    likely they are one person."""
    of_view: dict[int, list[tuple[Half, NDArray[np.bool_]]]] = defaultdict(list)
    for vote in votes:
        of_view[vote.view] += [((vote.pair, q, vote.view), vote.query == q) for q in vote.sizes]

    def like(view: int, mask: NDArray[np.bool_]) -> tuple[float, Half | None]:
        rows, columns = np.nonzero(mask)
        best: tuple[float, Half | None] = (0.0, None)
        for half, held in of_view[view]:
            common = np.count_nonzero(held[rows, columns])
            iou = common / (np.count_nonzero(held) + len(rows) - common)
            best = max(best, (iou, half), key=lambda one: one[0])
        return best

    told = []
    for hint in hints:
        (iou_a, a), (iou_b, b) = (like(view, mask) for view, mask in hint.masks.items())
        if a is not None and b is not None and min(iou_a, iou_b) >= config.min_iou:
            told.append((hint.person * iou_a * iou_b, a, b))
    return told


def join(groups: Mapping[Half, int], told: Sequence[tuple[float, Half, Half]]) -> dict[Half, int]:
    """Groups, joined where two of their members are told to be one person: the likeliest first; no
    group holds two sightings of a view that others keep apart."""
    members: dict[int, set[Half]] = defaultdict(set)
    for half, group in groups.items():
        members[group].add(half)
    joined = dict(groups)
    for _, a, b in sorted(told, key=lambda one: -one[0]):
        one, other = members[joined[a]], members[joined[b]]
        if not {view for *_, view in one} & {view for *_, view in other}:
            joined |= dict.fromkeys(other, joined[a])
            one |= other
    return joined


def elect(
    votes: Sequence[Vote],
    groups: Mapping[Half, int],
    believed: set[int],
    grid: tuple[int, int],
    config: InstancesConfig,
) -> NDArray[np.int32]:
    """A view's ids, of those believed, by majority of its pairs weighted with their confidence."""
    halves = [(vote.pair, query, vote.view) for vote in votes for query in vote.sizes]
    seen = {groups[half] for half in halves if half in groups}
    # argmax takes the first of equals: who scores less, as a better mask may hold both.
    involved = sorted(seen & believed, reverse=True)
    tally = np.zeros((len(involved) + 1, *grid), dtype=np.float32)
    for vote in votes:
        tally[0] += np.where(vote.query < 0, vote.strength, 0)
        for q in vote.sizes:
            local = groups.get((vote.pair, q, vote.view))
            if local in believed:
                row = involved.index(local) + 1
                tally[row] += np.where(vote.query == q, vote.strength, 0)
    # Pairs that agree on "somebody" outvote the background together; then the strongest wins.
    anybody = tally[1:].sum(0) > tally[0]
    winner = tally[1:].argmax(0) if involved else np.zeros(grid, dtype=np.int64)
    labels = np.array(involved or [0], dtype=np.int32)
    instances = np.where(anybody, labels[winner], 0).astype(np.int32)
    for row, local in enumerate(involved, start=1):
        held = instances == local
        kept = _person(held, tally[row], config)
        if kept.sum() < config.min_pixels:
            kept[:] = False
        instances[held & ~kept] = 0
    return instances


def sightings_of(
    groups: Mapping[Half, int],
    votes: Sequence[Vote],
    grids: Sequence[tuple[int, int]],
    config: InstancesConfig,
) -> tuple[list[Sighting], dict[Half, int]]:
    """The mask of each group in each view, and of which one each half is; not those halves whose
    group has no pixels in their view."""
    sightings: list[Sighting] = []
    of_half: dict[Half, int] = {}
    for view, grid in enumerate(grids):
        own = [vote for vote in votes if vote.view == view]
        mine = {half: group + 1 for half, group in groups.items() if half[2] == view}
        instances = elect(own, mine, set(mine.values()), grid, config)
        for number in sorted(set(mine.values())):
            mask = instances == number
            if not mask.any():
                continue
            of_half |= {half: len(sightings) for half, k in mine.items() if k == number}
            sightings.append(Sighting(view, mask))
    return sightings, of_half


def _person(
    held: NDArray[np.bool_], strength: NDArray[np.float32], config: InstancesConfig
) -> NDArray[np.bool_]:
    """A mask (gh, gw) without the parts that are both small and unsure."""
    parts, part, stats, _ = cv2.connectedComponentsWithStats(held.astype(np.uint8))
    if parts <= 2:
        return held
    size = stats[1:, cv2.CC_STAT_AREA]
    sure = np.bincount(part.ravel(), strength.ravel(), parts)[1:] / size
    largest = size.argmax()
    kept = (size >= config.min_part * size[largest]) | (sure >= config.sure_part * sure[largest])
    return held & np.concatenate([[False], kept])[part]
