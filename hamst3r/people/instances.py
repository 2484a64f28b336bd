"""People in 2D: from every pair's queries to one set of ids that all views share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hamst3r.engine import PairPrediction
from hamst3r.people.densepose import DensePoseEstimate, fuse

Node = tuple[int, int]  # (prediction, query)
NEGLIGIBLE = 0.05  # person probability of a query below which it does not doubt the background


@dataclass(frozen=True)
class InstancesConfig:
    """When a query is a person, and when two are the same.

    Attributes:
        min_probability: Smallest person probability of a query.
        min_score: Smallest score of a person: probability times the Dice that the mask expects to
            have, mean over the pairs.
        min_like: Queries of a pair whose masks have more than this intersection over union are
            thought to see one person, and share its probability.
        min_pixels: Smallest mask in a view, in pixels of the output grid.
        min_kept: A query that loses more than the rest of its mask to better ones is a duplicate.
        body_margin: Log odds of being a body below which the body head objects to a mask.
        min_iou, min_overlap: Queries of two pairs are one person where their masks in a common
            view reach this intersection over union, or over the smaller one.
        min_part, sure_part: Parts of a mask are dropped that are smaller than this share of the
            largest, and less sure than this share of its sureness.
    """

    min_probability: float = 0.5
    min_score: float = 0.5
    min_like: float = 0.4
    min_pixels: int = 24
    min_kept: float = 0.5
    body_margin: float = 1.5
    min_iou: float = 0.35
    min_overlap: float = 0.7
    min_part: float = 0.25
    sure_part: float = 0.9


@dataclass(frozen=True, eq=False)
class ViewPeople:
    """People of one view.

    Attributes:
        instances: (gh, gw) int32, ids local to this frame set and shared by its views, 0 = none.
        scores: Local id -> person probability, for every id of the frame set seen in this view.
        densepose: (gh, gw, 3) float32 fused over pairs, NaN off the body.
        confidence: (gh, gw) float32 weight of the densepose pixel in [0, 1].
    """

    instances: NDArray[np.int32]
    scores: dict[int, float]
    densepose: NDArray[np.float32]
    confidence: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Vote:
    """One pair's map of one view: query (-1 = background) and how sure the pair is of it."""

    pair: int
    view: int
    query: NDArray[np.int64]
    strength: NDArray[np.float32]


def merge_instances(
    predictions: Sequence[PairPrediction],
    grids: Sequence[tuple[int, int]],
    config: InstancesConfig | None = None,
) -> list[ViewPeople]:
    """People of each view.

    A query names the same person in both views of its pair; pairs that share a view are joined
    where their masks overlap there. Two queries of one pair are never joined: the network saw two
    people. Pixels on a body but in no mask stay background.

    Args:
        predictions: Of any edges, self-edges (one camera) and both directions included.
        grids: (gh, gw) of each view; views without any prediction come back empty.

    Raises:
        ValueError: A prediction's grid is not its view's.
    """
    config = config or InstancesConfig()
    # Networks without human heads see no people.
    predictions = [p for p in predictions if p.person_prob is not None]
    votes: list[_Vote] = []
    scores: dict[Node, float] = {}
    for pair, prediction in enumerate(predictions):
        pair_votes, pair_scores = _pair_instances(pair, prediction, grids, config)
        votes += pair_votes
        scores |= {(pair, query): score for query, score in pair_scores.items()}
    groups = _unify(votes, sorted(scores), config)
    group_scores = _group_scores(groups, scores)
    believed = {local for local, score in group_scores.items() if score >= config.min_score}
    densepose = _fuse_densepose(predictions, len(grids))
    people = []
    for view, grid in enumerate(grids):
        own = [vote for vote in votes if vote.view == view]
        instances = _elect(own, groups, believed, grid, config)
        present = (int(local) for local in np.unique(instances) if local)
        coordinates, confidence = densepose.get(view, _no_densepose(grid))
        people.append(
            ViewPeople(
                instances=instances,
                scores={local: group_scores[local] for local in present},
                densepose=coordinates,
                confidence=confidence,
            )
        )
    return people


def _pair_instances(
    pair: int,
    prediction: PairPrediction,
    grids: Sequence[tuple[int, int]],
    config: InstancesConfig,
) -> tuple[list[_Vote], dict[int, float]]:
    """Maps of both views of a pair and the scores of the queries that hold pixels in them.

    The best query takes its whole mask, over both views, then the next one what is left of its own:
    a mask that is mostly taken is a duplicate. (Were each pixel given to whoever wants it most,
    duplicates would tear a person's mask to pieces.)
    """
    person = _array(_there(prediction.person_prob))
    # The many queries that are surely nobody need no maps.
    queries = np.flatnonzero(person >= min(NEGLIGIBLE, config.min_probability))
    person = person[queries]
    views = (prediction.i, prediction.j)
    masks = [
        _masks(
            _on_grid(_there(logits)[queries], grids[view], f"pair {views}"), _there(body), config
        )
        for view, logits, body in (
            (prediction.i, prediction.mask_logits_i, prediction.body_logits_i),
            (prediction.j, prediction.mask_logits_j, prediction.body_logits_j),
        )
    ]
    person = _anybody(person, masks, config)
    # Background is as sure as the likeliest person, accepted or not, is unlikely.
    votes = [
        _Vote(
            pair,
            view,
            query=np.full(grids[view], -1, dtype=np.int64),
            strength=1 - (person[:, None, None] * own).max(0, initial=0),
        )
        for view, own in zip(views, masks, strict=True)
    ]
    bodies = [
        _array(_there(logits).sigmoid())
        for logits in (prediction.body_logits_i, prediction.body_logits_j)
    ]
    rated = {
        int(k): _score(person[k], [own[k] for own in masks], bodies)
        for k in np.flatnonzero(person >= config.min_probability)
    }
    scores: dict[int, float] = {}
    for k, score in sorted(rated.items(), key=lambda item: -item[1]):
        wanted = [own[k] > 0.5 for own in masks]
        free = [mask & (vote.query < 0) for mask, vote in zip(wanted, votes, strict=True)]
        if _area(free) < config.min_kept * _area(wanted):
            continue
        for held, vote, own in zip(free, votes, masks, strict=True):
            if held.sum() >= config.min_pixels:
                vote.query[held] = queries[k]
                vote.strength[held] = person[k] * own[k][held]
                scores[int(queries[k])] = score
    return votes, scores


def _masks(logits: Tensor, body: Tensor, config: InstancesConfig) -> NDArray[np.float32]:
    """(Q, gh, gw) probability of each query's pixels.

    The query says who it is; the body head, which knows better where bodies end, may only object:
    by as much as its log odds fall short of a margin. Without it, queries claim too much.
    """
    return _array((logits + (body - config.body_margin).clamp(max=0)).sigmoid())


def _anybody(
    person: NDArray[np.float32], masks: Sequence[NDArray[np.float32]], config: InstancesConfig
) -> NDArray[np.float32]:
    """(Q,) probability that a query's mask, or one like it, is a person: 1 - prod (1 - p).

    One query alone may call a person its own, so that those who see the same one learn to hesitate:
    most of the people that the score missed were known to two or three queries at 0.3 each.
    """
    if not len(person):
        return person
    held = np.concatenate([own.reshape(len(own), -1) > 0.5 for own in masks], 1)
    held = held.astype(np.float32)
    common = held @ held.T
    area = held.sum(1)
    like = common > config.min_like * (area[:, None] + area - common)
    np.fill_diagonal(like, True)
    return 1 - np.where(like, 1 - person, 1).prod(1)


def _score(
    person: float,
    masks: Sequence[NDArray[np.float32]],
    bodies: Sequence[NDArray[np.float32]],
) -> float:
    """Person probability times the Dice that the mask can expect, 2 sum p_in / (sum p + pixels in).

    A pixel is the person's (p) if the query and the body head both say so. Unlike Mask2Former's
    mean probability within the mask it also counts what is nearly in it: on generated scenes it
    knows good masks from bad ones better.
    """
    own = np.concatenate([mask.ravel() for mask in masks])
    both = own * np.concatenate([body.ravel() for body in bodies])
    held = own > 0.5
    size = int(held.sum())
    return float(2 * person * both[held].sum() / (both.sum() + size)) if size else 0.0


def _area(masks: Sequence[NDArray[np.bool_]]) -> int:
    return sum(int(mask.sum()) for mask in masks)


def _unify(votes: list[_Vote], nodes: list[Node], config: InstancesConfig) -> dict[Node, int]:
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


def _overlaps(votes: list[_Vote], config: InstancesConfig) -> list[tuple[float, Node, Node]]:
    found = []
    by_view: dict[int, list[_Vote]] = defaultdict(list)
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
                size_a, size_b = int((a.query == qa).sum()), int((b.query == qb).sum())
                iou = common / (size_a + size_b - common)
                if iou >= config.min_iou or common / min(size_a, size_b) >= config.min_overlap:
                    found.append((float(iou), (a.pair, int(qa)), (b.pair, int(qb))))
    return found


def _group_scores(groups: dict[Node, int], scores: dict[Node, float]) -> dict[int, float]:
    """Local id -> mean score, ids from 1 by falling score; ``groups`` is renumbered to match."""
    gathered: dict[int, list[float]] = defaultdict(list)
    for node, group in groups.items():
        gathered[group].append(scores[node])
    mean = {group: float(np.mean(values)) for group, values in gathered.items()}
    order = sorted(mean, key=lambda group: -mean[group])
    local = {group: rank + 1 for rank, group in enumerate(order)}
    for node in groups:
        groups[node] = local[groups[node]]
    return {local[group]: mean[group] for group in order}


def _elect(
    votes: list[_Vote],
    groups: dict[Node, int],
    believed: set[int],
    grid: tuple[int, int],
    config: InstancesConfig,
) -> NDArray[np.int32]:
    """A view's ids, of those believed, by majority of its pairs weighted with their confidence."""
    seen = {groups[vote.pair, int(q)] for vote in votes for q in np.unique(vote.query) if q >= 0}
    # argmax takes the first of equals: who scores less, as a better mask may hold both.
    involved = sorted(seen & believed, reverse=True)
    tally = np.zeros((len(involved) + 1, *grid), dtype=np.float32)
    for vote in votes:
        tally[0] += np.where(vote.query < 0, vote.strength, 0)
        for q in np.unique(vote.query[vote.query >= 0]):
            local = groups[vote.pair, int(q)]
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


def _fuse_densepose(
    predictions: Sequence[PairPrediction], views: int
) -> dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    estimates: dict[int, list[DensePoseEstimate]] = defaultdict(list)
    for p in predictions:
        for view, coordinates, body, confidence in (
            (p.i, p.densepose_i, p.body_logits_i, p.conf_i),
            (p.j, p.densepose_j, p.body_logits_j, p.conf_j),
        ):
            probability = _there(body).sigmoid()
            estimates[view].append(
                DensePoseEstimate(
                    _array(_there(coordinates)), _array(probability), _array(confidence)
                )
            )
    return {view: fuse(estimates[view]) for view in range(views) if estimates[view]}


def _no_densepose(grid: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.full((*grid, 3), np.nan, dtype=np.float32), np.zeros(grid, dtype=np.float32)


def _on_grid(logits: Tensor, grid: tuple[int, int], pair: str) -> Tensor:
    """Mask logits (Q, mh, mw), which may be coarser, on the view's output grid."""
    size = tuple(logits.shape[1:])
    if size == tuple(grid):
        return logits
    if size[0] > grid[0] or size[1] > grid[1]:
        raise ValueError(f"{pair}: masks are {size}, but the view's output grid is {tuple(grid)}")
    resized = F.interpolate(logits[None].float(), size=tuple(grid), mode="bilinear")
    return resized[0]


def _there(tensor: Tensor | None) -> Tensor:
    assert tensor is not None  # :func:`merge_instances` keeps only predictions with people
    return tensor


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()
