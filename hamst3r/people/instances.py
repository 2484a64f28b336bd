"""People in 2D: from every pair's queries to one set of ids that all views share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hamst3r.engine import PairPrediction
from hamst3r.people.association import Eye, Sighting, associate
from hamst3r.people.densepose import DensePoseEstimate, fuse
from hamst3r.people.matching import rematch
from hamst3r.people.votes import (
    Half,
    Hint,
    InstancesConfig,
    Node,
    Vote,
    elect,
    hinted,
    join,
    sightings_of,
    unify,
)

NEGLIGIBLE = 0.05  # person probability of a query below which it does not doubt the background


@dataclass(frozen=True, eq=False)
class ViewPeople:
    """People of one view.

    Attributes:
        instances: (gh, gw) int32, ids local to this frame set and shared by its views, 0 = none.
        doubtful: (gh, gw) int32, ids of those who are believed only if somebody is expected there,
            on pixels that nobody else has.
        scores: Local id -> person probability, for every id of the frame set seen in this view,
            the doubtful ones included.
        densepose: (gh, gw, 3) float32 fused over pairs, NaN off the body.
        confidence: (gh, gw) float32 weight of the densepose pixel in [0, 1].
    """

    instances: NDArray[np.int32]
    scores: dict[int, float]
    densepose: NDArray[np.float32]
    confidence: NDArray[np.float32]
    doubtful: NDArray[np.int32] | None = None

    @cached_property
    def claimed(self) -> NDArray[np.int32]:
        """(gh, gw) ids of all, the doubtful included."""
        if self.doubtful is None:
            return self.instances
        return np.where(self.instances > 0, self.instances, self.doubtful)


@dataclass(frozen=True, eq=False)
class Closeup:
    """What a network says of a part of one view, on the output grid of the whole view.

    Attributes:
        view: Whose part. seen: (gh, gw) float32 how much of a pixel it speaks of, 0 outside.
        weight: How much it counts where a pair counts 1.
        person_prob: (Q,). mask_logits: (Q, gh, gw). body_logits, confidence: (gh, gw). densepose:
            (gh, gw, 3). As of :class:`hamst3r.engine.PairPrediction`.
    """

    view: int
    seen: NDArray[np.float32]
    weight: float
    person_prob: Tensor
    mask_logits: Tensor
    body_logits: Tensor
    densepose: Tensor
    confidence: Tensor


def merge_instances(
    predictions: Sequence[PairPrediction],
    grids: Sequence[tuple[int, int]],
    config: InstancesConfig | None = None,
    eyes: Mapping[int, Eye] | None = None,
    closeups: Sequence[Closeup] = (),
) -> list[ViewPeople]:
    """People of each view.

    A query names the same person in both views of its pair; pairs that share a view are joined
    where their masks overlap there. Two queries of one pair are never joined so: the network saw
    two people. Then descriptors of pixels say who is the same in two views, or, where cameras are
    known, where rays meet: both know better than the query. Pixels on a body but in no mask stay
    background.

    Args:
        predictions: Of any edges, self-edges (one camera) and both directions included.
        grids: (gh, gw) of each view; views without any prediction come back empty.
        eyes: The cameras that are known, by view.
        closeups: Of parts of the views.

    Raises:
        ValueError: A prediction's grid is not its view's.
    """
    config = config or InstancesConfig()
    hearing = Hearing(grids, config)
    hearing.hear_pairs(predictions)
    hearing.hear_closeups(closeups)
    densepose = _fuse_densepose(predictions, closeups, len(grids))
    return hearing.people(eyes, densepose)


class Hearing:
    """What pairs and close-ups say of who is where, each heard once.

    Args:
        grids: (gh, gw) of each view. config: When a query is a person.
    """

    def __init__(self, grids: Sequence[tuple[int, int]], config: InstancesConfig) -> None:
        self._grids, self._config = grids, config
        self._votes: list[Vote] = []
        self._scores: dict[Node, float] = {}
        self._hints: list[Hint] = []
        self._pairs: list[PairPrediction] = []
        self._weights: list[float] = []

    def hear_pairs(self, predictions: Sequence[PairPrediction]) -> None:
        """Of any edges; raises ValueError where a grid is not its view's."""
        for p in predictions:
            if p.person_prob is not None:  # Networks without human heads see no people.
                self._hear(_of_pair(p))
                self._pairs.append(p)

    def hear_closeups(self, closeups: Sequence[Closeup]) -> None:
        """Of parts of the views."""
        for closeup in closeups:
            self._hear(_of_closeup(closeup))

    def _hear(self, opinion: _Opinion) -> None:
        number = len(self._weights)
        votes, scores, hints = _instances(number, opinion, self._grids, self._config)
        self._votes += votes
        self._scores |= {(number, query): score for query, score in scores.items()}
        self._hints += hints
        self._weights.append(opinion.weight)

    def people(
        self,
        eyes: Mapping[int, Eye] | None = None,
        densepose: Mapping[int, tuple[NDArray[np.float32], NDArray[np.float32]]] | None = None,
    ) -> list[ViewPeople]:
        """People of each view, as far as was heard.

        Args:
            eyes: The cameras that are known, by view.
            densepose: View -> coordinates (gh, gw, 3) and their confidence (gh, gw).
        """
        config, votes = self._config, self._votes
        groups = self._who_is_who(eyes or {})
        group_scores = _group_scores(groups, self._scores, self._weights)
        believed = {local for local, score in group_scores.items() if score >= config.min_score}
        doubted = {k for k, score in group_scores.items() if score >= config.doubtful_score}
        people = []
        for view, grid in enumerate(self._grids):
            own = [vote for vote in votes if vote.view == view]
            instances = elect(own, groups, believed, grid, config)
            doubtful = _unclaimed(
                elect(own, groups, doubted - believed, grid, config), instances, config.min_kept
            )
            present = (int(k) for k in np.unique([instances, doubtful]) if k)
            coordinates, confidence = (densepose or {}).get(view, _no_densepose(grid))
            people.append(
                ViewPeople(
                    instances=instances,
                    scores={local: group_scores[local] for local in present},
                    densepose=coordinates,
                    confidence=confidence,
                    doubtful=doubtful,
                )
            )
        return people

    def _who_is_who(self, eyes: Mapping[int, Eye]) -> dict[Half, int]:
        """Halves of queries -> group."""
        config, votes = self._config, self._votes
        halves = sorted({(vote.pair, query, vote.view) for vote in votes for query in vote.sizes})
        if len(eyes) < 2:
            whole = unify(votes, sorted(self._scores), config)
            groups = {half: whole[half[:2]] for half in halves}
            groups = join(groups, hinted(votes, self._hints, config))
            return rematch(groups, votes, self._pairs, self._grids, config)
        sightings, of_half = _sightings(votes, halves, self._grids, config)
        links = _links(votes, of_half, len(sightings))
        known = [k for k, sighting in enumerate(sightings) if sighting.view in eyes]
        gathered = associate(
            [sightings[k] for k in known], eyes, links[np.ix_(known, known)], config.association
        )
        people = [[known[k] for k in group] for group in gathered]
        _add_linked(people, sightings, links, [k for k in range(len(sightings)) if k not in known])
        group_of = {k: number for number, group in enumerate(people) for k in group}
        return {half: group_of[k] for half, k in of_half.items()}


def _unclaimed(
    doubtful: NDArray[np.int32], instances: NDArray[np.int32], min_kept: float
) -> NDArray[np.int32]:
    """A view's doubtful ids (gh, gw) off the sure ones' pixels, without those of whom less than a
    share is left: the rim of a wider mask is no second person."""
    wanted = np.bincount(doubtful.ravel())
    left = np.where(instances > 0, 0, doubtful)
    kept = np.bincount(left.ravel(), minlength=len(wanted)) >= min_kept * wanted
    return np.where(kept[left], left, 0)


@dataclass(frozen=True, eq=False)
class _Map:
    """What one opinion says of one view, or of as much as was seen (gh, gw) of it."""

    view: int
    mask_logits: Tensor
    body_logits: Tensor
    seen: NDArray[np.float32] | float = 1.0


@dataclass(frozen=True, eq=False)
class _Opinion:
    """Queries (Q,), their maps of one or two views, and how much they count."""

    person_prob: Tensor
    maps: tuple[_Map, ...]
    weight: float = 1.0


def _of_pair(p: PairPrediction) -> _Opinion:
    return _Opinion(
        _there(p.person_prob),
        (
            _Map(p.i, _there(p.mask_logits_i), _there(p.body_logits_i)),
            _Map(p.j, _there(p.mask_logits_j), _there(p.body_logits_j)),
        ),
    )


def _of_closeup(c: Closeup) -> _Opinion:
    return _Opinion(c.person_prob, (_Map(c.view, c.mask_logits, c.body_logits, c.seen),), c.weight)


def _instances(
    number: int,
    opinion: _Opinion,
    grids: Sequence[tuple[int, int]],
    config: InstancesConfig,
) -> tuple[list[Vote], dict[int, float], list[Hint]]:
    """Maps of the views of an opinion and the scores of the queries that hold pixels in them; and
    what the other ones say.

    The best query takes its whole mask, over all views, then the next one what is left of its own:
    a mask that is mostly taken is a duplicate. (Were each pixel given to whoever wants it most,
    duplicates would tear a person's mask to pieces.)
    """
    maps = opinion.maps
    person = _array(opinion.person_prob)
    # The many queries that are surely nobody need no maps.
    queries = np.flatnonzero(person >= min(NEGLIGIBLE, config.min_probability))
    person = person[queries]
    views = tuple(own.view for own in maps)
    masks = [
        _masks(
            _on_grid(own.mask_logits[queries], grids[own.view], f"views {views}"),
            own.body_logits,
            config,
        )
        for own in maps
    ]
    held = [mask > 0.5 for mask in masks]
    person = _anybody(person, held, config)
    # Background is as sure as the likeliest person, accepted or not, is unlikely.
    votes = [
        Vote(
            number,
            own.view,
            query=np.full(grids[own.view], -1, dtype=np.int64),
            strength=opinion.weight
            * own.seen
            * (1 - (person[:, None, None] * mask).max(0, initial=0)),
            sizes={},
        )
        for own, mask in zip(maps, masks, strict=True)
    ]
    bodies = [_array(own.body_logits.sigmoid()) for own in maps]
    rated = {
        int(k): _score(person[k], [own[k] for own in masks], bodies)
        for k in np.flatnonzero(person >= config.min_probability)
    }
    scores: dict[int, float] = {}
    for k, score in sorted(rated.items(), key=lambda item: -item[1]):
        wanted = [own[k] for own in held]
        free = [mask & (vote.query < 0) for mask, vote in zip(wanted, votes, strict=True)]
        if _area(free) < config.min_kept * _area(wanted):
            continue
        for taken, vote, own in zip(free, votes, masks, strict=True):
            if taken.sum() >= config.min_pixels:
                vote.query[taken] = queries[k]
                vote.sizes[int(queries[k])] = int(taken.sum())
                vote.strength[taken] = opinion.weight * person[k] * own[k][taken]
                scores[int(queries[k])] = score
    return votes, scores, _hints(person, held, queries, votes, config)


def _hints(
    person: NDArray[np.float32],
    held: Sequence[NDArray[np.bool_]],
    queries: NDArray[np.intp],
    votes: Sequence[Vote],
    config: InstancesConfig,
) -> list[Hint]:
    """Of the queries that have a mask in two views and were not given both."""
    views = [vote.view for vote in votes]
    if len(set(views)) < 2:
        return []
    hints = []
    for k, query in enumerate(queries.tolist()):
        masks = [own[k] for own in held]
        shown = min(int(mask.sum()) for mask in masks) >= config.min_pixels
        if shown and not all(query in vote.sizes for vote in votes):
            hints.append(Hint(float(person[k]), dict(zip(views, masks, strict=True))))
    return hints


def _masks(logits: Tensor, body: Tensor, config: InstancesConfig) -> NDArray[np.float32]:
    """(Q, gh, gw) probability of each query's pixels.

    The query says who it is; the body head, which knows better where bodies end, may only object:
    by as much as its log odds fall short of a margin. Without it, queries claim too much.
    """
    return _array((logits + (body - config.body_margin).clamp(max=0)).sigmoid())


def _anybody(
    person: NDArray[np.float32], held: Sequence[NDArray[np.bool_]], config: InstancesConfig
) -> NDArray[np.float32]:
    """(Q,) probability that a query's mask, or one like it, is a person: 1 - prod (1 - p).

    One query alone may call a person its own, so that those who see the same one learn to hesitate:
    most of the people that the score missed were known to two or three queries at 0.3 each.
    """
    if not len(person):
        return person
    flat = np.concatenate([own.reshape(len(own), -1) for own in held], 1).astype(np.float32)
    common = flat @ flat.T
    area = flat.sum(1)
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


def _sightings(
    votes: list[Vote],
    halves: list[Half],
    grids: Sequence[tuple[int, int]],
    config: InstancesConfig,
) -> tuple[list[Sighting], dict[Half, int]]:
    """What pairs agree to be one mask of a view, and which halves of queries that is."""
    groups: dict[Half, int] = {}
    for view in range(len(grids)):
        mine = [half for half in halves if half[2] == view]
        own = [vote for vote in votes if vote.view == view]
        local = unify(own, sorted({half[:2] for half in mine}), config)
        groups |= {half: local[half[:2]] for half in mine}
    return sightings_of(groups, votes, grids, config)


def _links(votes: list[Vote], of_half: dict[Half, int], number: int) -> NDArray[np.float64]:
    """(n, n) share of the pairs of two sightings' views of which one query is both."""
    pairs: dict[frozenset[int], int] = defaultdict(int)
    views: dict[int, tuple[int, ...]] = {}
    for vote in votes:
        views[vote.pair] = (*views.get(vote.pair, ()), vote.view)
    for both in views.values():
        pairs[frozenset(both)] += 1
    links = np.zeros((number, number))
    for pair, query, view in of_half:
        first, second = views[pair][0], views[pair][-1]  # a close-up has one
        other = of_half.get((pair, query, second))
        if view == first and first != second and other is not None:
            one = of_half[pair, query, first]
            share = 1 / pairs[frozenset((first, second))]
            links[one, other] += share
            links[other, one] += share
    return links


def _add_linked(
    people: list[list[int]],
    sightings: list[Sighting],
    links: NDArray[np.float64],
    others: list[int],
) -> None:
    """Sightings of unknown cameras go to whom most queries link them, one of a view each."""
    while others:
        told = [
            (links[k, group].sum(), -k, -number)
            for k in others
            for number, group in enumerate(people)
            if all(sightings[k].view != sightings[member].view for member in group)
        ]
        share, k, number = max(told, default=(0.0, -others[0], 0))
        if share > 0:
            people[-number].append(-k)
        else:
            people.append([-k])
        others.remove(-k)


def _group_scores(
    groups: dict[Half, int], scores: dict[Node, float], weights: Sequence[float]
) -> dict[int, float]:
    """Local id -> mean score, ids from 1 by falling score; ``groups`` is renumbered to match."""
    gathered: dict[int, list[Node]] = defaultdict(list)
    for node, group in {(half[:2], group) for half, group in groups.items()}:
        gathered[group].append(node)
    mean: dict[int, float] = {}
    for group, nodes in gathered.items():
        counts = [weights[number] for number, _ in nodes]
        mean[group] = float(np.average([scores[node] for node in nodes], weights=counts))
    order = sorted(mean, key=lambda group: -mean[group])
    local = {group: rank + 1 for rank, group in enumerate(order)}
    for half in groups:
        groups[half] = local[groups[half]]
    return {local[group]: mean[group] for group in order}


def _fuse_densepose(
    predictions: Sequence[PairPrediction],
    closeups: Sequence[Closeup],
    views: int,
) -> dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    estimates: dict[int, list[DensePoseEstimate]] = defaultdict(list)

    def add(view: int, coordinates: Tensor, body: Tensor, confidence: Tensor) -> None:
        estimates[view].append(
            DensePoseEstimate(_array(coordinates), _array(body.sigmoid()), _array(confidence))
        )

    for p in predictions:
        if p.person_prob is not None:
            add(p.i, _there(p.densepose_i), _there(p.body_logits_i), p.conf_i)
            add(p.j, _there(p.densepose_j), _there(p.body_logits_j), p.conf_j)
    for c in closeups:
        seen = torch.from_numpy(c.seen).to(c.confidence)
        add(c.view, c.densepose, c.body_logits, c.weight * c.confidence * seen)
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
    assert tensor is not None  # of a prediction with people
    return tensor


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()
