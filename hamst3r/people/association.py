"""Who is who in the views of cameras whose poses are known: by where rays meet.

A network that is unsure of who is who pairs people by chance, while rays through the middles of
two masks of one person meet, in front of both cameras and where the masks have a person's size. So
every mask of every view is a sighting, and sightings are gathered into people by Bayesian evidence:
how much likelier the places and the sizes of masks are if they are one person's, whose place is
unknown, than if each is anybody's anywhere in its image. The network's word counts as a prior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.geometry import project

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class AssociationConfig:
    """What masks of one person have in common. Metres; measured on masks of the shipped network.

    Attributes:
        middle_std: Deviation of a mask's middle from the person's, and what is added for every
            metre of the mask's extent along the same axis: parts may be hidden, or cut off.
        size: Root of the area that a person shows. larger_std, smaller_std: Deviations of its
            logarithm: whoever is hidden in part shows less.
        size_range: Range of that logarithm for anything that is taken for a person.
        missed: Log odds of a view that should show somebody and does not.
        linked: Log odds of two masks that a network which is never wrong says are one person's.
        doubted: Number of queries, no better than chance, that the network's word is mixed with
            before its worth is told by how rarely it joins masks whose rays do not meet.
        min_depth: Nearest that people come to a camera.
        max_turn: Radians; cameras whose rays may be farther off are as good as unknown.
        max_seeds: Most pairs of masks that are looked at further: those that fit best.
    """

    middle_std: tuple[float, float] = (0.06, 0.1)
    size: float = 0.7
    larger_std: float = 0.2
    smaller_std: float = 0.3
    size_range: float = 2.0
    missed: float = -0.5
    linked: float = 3.0
    doubted: float = 2.0
    min_depth: float = 0.3
    max_turn: float = 0.1
    max_seeds: int = 1000


@dataclass(frozen=True, eq=False)
class Eye:
    """A camera that is known.

    Attributes:
        K: (3, 3) of the output grid. grid: Its (gh, gw). T_rig_cam: (4, 4) rigid, metres.
        turn_std: Radians that its rays may be off. place_std: Metres that it may be.
    """

    K: F64
    grid: tuple[int, int]
    T_rig_cam: F64
    turn_std: float = 0.0
    place_std: float = 0.0


@dataclass(frozen=True, eq=False)
class Sighting:
    """A mask and the camera that it is of: ``mask`` (gh, gw), not empty; ``view``: its index."""

    view: int
    mask: NDArray[np.bool_]


def associate(
    sightings: Sequence[Sighting],
    eyes: Mapping[int, Eye],
    links: F64,
    config: AssociationConfig | None = None,
) -> list[list[int]]:
    """Groups of sightings, each of one person; every sighting is in one group.

    Args:
        sightings: n. eyes: Of their views.
        links: (n, n) share of the pairs of the two views that say they are one person.
    """
    if not sightings:
        return []
    people = _Evidence(sightings, eyes, links, config or AssociationConfig())
    groups, free = [], np.ones(len(sightings), bool)
    seeds = people.seeds()
    while len(seeds):
        members, scores = people.grow(seeds, free)
        best = int(scores.argmax())
        if scores[best] <= 0:
            break
        groups.append(np.flatnonzero(members[best]).tolist())
        free[groups[-1]] = False
        seeds = seeds[free[seeds].all(1)]
    return groups + [[k] for k in np.flatnonzero(free).tolist()]


class _Evidence:
    """How likely sets of sightings are one person's; m sets and n sightings.

    A place p is beside the ray of a sighting by ``rows @ p - offsets`` (2,), metres along the axes
    of the image, and at the depth ``ahead @ p - starts``: linear, as the most likely place is.
    """

    def __init__(
        self,
        sightings: Sequence[Sighting],
        eyes: Mapping[int, Eye],
        links: F64,
        config: AssociationConfig,
    ) -> None:
        self._config = config
        self._view = np.array([sighting.view for sighting in sightings])
        self._eyes = eyes
        own = [eyes[view] for view in self._view]
        pixels = [np.argwhere(sighting.mask)[:, ::-1] for sighting in sightings]
        focal = np.array([eye.K[[0, 1], [0, 1]] for eye in own])
        middle = np.array([np.median(p, axis=0) for p in pixels])
        slope = (middle - [eye.K[:2, 2] for eye in own]) / focal
        turn = np.array([eye.T_rig_cam[:3, :3].T for eye in own])
        centre = np.array([eye.T_rig_cam[:3, 3] for eye in own])
        self._ahead = turn[:, 2]
        self._rows = turn[:, :2] - slope[:, :, None] * turn[:, 2:]
        self._offsets = np.einsum("nak,nk->na", self._rows, centre)
        self._starts = np.einsum("nk,nk->n", self._ahead, centre)
        # At unit depth: the mask's extents and root of its area, and the area of the image.
        self._extent = np.array([np.ptp(p, axis=0) + 1 for p in pixels]) / focal
        self._size = np.sqrt(np.array([len(p) for p in pixels]) / focal.prod(1))
        self._image = np.array([s.mask.size for s in sightings]) / focal.prod(1)
        self._turn_std = np.array([eye.turn_std for eye in own])
        self._place_std = np.array([eye.place_std for eye in own])

        self._seeds, fits = self._pairs()
        self._told = self._trust(links, fits) * links

    def seeds(self) -> NDArray[np.int64]:
        """(m, 2) pairs of sightings of two views that may be one person's."""
        return self._seeds

    def _pairs(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The seeds, and for all two sightings (n, n) whether they may be one person's."""
        number = len(self._view)
        a, b = np.triu_indices(number, 1)
        two = np.stack([a, b], 1)[self._view[a] != self._view[b]]
        pair = np.broadcast_to(np.arange(len(two))[:, None], two.shape)
        members = np.zeros((len(two), number), bool)
        members[pair, two] = True
        places, _ = self._places(members)
        gains = self._gains(places)[pair, two]
        possible = np.flatnonzero((gains > 0).all(1))
        fits = np.zeros((number, number), bool)
        fits[tuple(two[possible].T)] = True
        best = np.argsort(-gains[possible].sum(1), kind="stable")[: self._config.max_seeds]
        return two[possible[best]], fits | fits.T

    def _trust(self, links: F64, fits: NDArray[np.bool_]) -> float:
        """Log odds that a link is worth: the fewer of them rays contradict, against chance."""
        others = self._view[:, None] != self._view
        chance = max(float(np.mean(~fits[others])) if others.any() else 0.0, 0.02)
        told, wrong = links[others].sum() / 2, links[others & ~fits].sum() / 2
        doubted = self._config.doubted
        share = (wrong + doubted * chance) / max(told + doubted, 1e-9)
        return self._config.linked * max(1 - share / chance, 0.0)

    def grow(
        self, seeds: NDArray[np.int64], free: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], F64]:
        """Members (m, n) of the likeliest people that hold the seeds, of those sightings that are
        free, and their evidence (m,): log odds against as many people as there are members."""
        index = np.arange(len(seeds))
        members = np.zeros((len(seeds), len(free)), bool)
        members[index[:, None], seeds] = True
        told = self._told[seeds].mean(1)
        for _ in range(2):
            places, information = self._places(members)
            # Whoever was not asked where the place is has it, and the doubt about it, to meet.
            doubt = np.einsum(
                "nak,mkl,nal->mna", self._rows, np.linalg.inv(information), self._rows
            )
            gains = self._gains(places, np.where(members[..., None], 0, doubt))
            members = self._best_of_views(gains + told, seeds, free)
        places, information = self._places(members)
        gains = np.where(members, self._gains(places) + told, 0).sum(1)
        return members, gains + self._prior(places, information, seeds[:, 0], members)

    def _best_of_views(
        self, gains: F64, seeds: NDArray[np.int64], free: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """(m, n) at most one sighting of each view: the seeds, and what is likelier with them."""
        index = np.arange(len(seeds))
        gains = np.where(free, gains, -np.inf)
        gains[index[:, None], seeds] = np.inf
        members = np.zeros(gains.shape, bool)
        for view in np.unique(self._view):
            own = np.flatnonzero(self._view == view)
            best = own[gains[:, own].argmax(1)]
            members[index, best] = gains[index, best] > 0
        return members

    def _places(self, members: NDArray[np.bool_]) -> tuple[F64, F64]:
        """Most likely places (m, 3) of people, and their information (m, 3, 3)."""
        depth = self._config.size / self._size
        beside = 1 / self._deviations(depth[None])[0] ** 2  # (n, 2)
        far = 1 / (self._config.smaller_std * depth) ** 2
        square = np.einsum("nak,na,nal->nkl", self._rows, beside, self._rows)
        square += far[:, None, None] * self._ahead[:, :, None] * self._ahead[:, None]
        aim = np.einsum("nak,na->nk", self._rows, beside * self._offsets)
        aim += (far * (self._starts + depth))[:, None] * self._ahead
        information = np.einsum("mn,nkl->mkl", members.astype(float), square)
        places = np.linalg.solve(information, (members.astype(float) @ aim)[..., None])[..., 0]
        return places, information

    def _deviations(self, depth: F64) -> F64:
        """(m, n, 2) metres that the middle of a mask at a depth (m, n) may be beside the place."""
        least, share = self._config.middle_std
        body = least + share * self._extent * depth[..., None]
        camera = (self._turn_std * depth) ** 2 + self._place_std**2
        return np.sqrt(body**2 + camera[..., None])

    def _gains(self, places: F64, doubt: F64 | float = 0.0) -> F64:
        """(m, n) log odds that a sighting is of somebody at a place, against anywhere and
        anything; -inf where the place is behind the camera.

        Args:
            doubt: (m, n, 2) variance of the place along the axes of the sighting's image.
        """
        config = self._config
        depth = places @ self._ahead.T - self._starts
        before = depth > config.min_depth
        depth = np.maximum(depth, config.min_depth)
        off = np.einsum("nak,mk->mna", self._rows, places) - self._offsets
        std = np.sqrt(self._deviations(depth) ** 2 + doubt)
        beside = np.log(self._image * depth**2 / (2 * np.pi * std.prod(-1)))
        beside -= ((off / std) ** 2).sum(-1) / 2
        size = np.log(self._size * depth / config.size)
        wide = np.where(size > 0, config.larger_std, config.smaller_std)
        usual = (config.larger_std + config.smaller_std) / 2
        like = np.log(config.size_range / (np.sqrt(2 * np.pi) * usual)) - (size / wide) ** 2 / 2
        return np.where(before, beside + like, -np.inf)

    def _prior(
        self, places: F64, information: F64, first: NDArray[np.int64], members: NDArray[np.bool_]
    ) -> F64:
        """(m,) what the unknown place costs (a person may be anywhere in an image, at distances as
        different as sizes are), and those views that do not show the person."""
        depth = np.einsum("mk,mk->m", self._ahead[first], places) - self._starts[first]
        room = self._image[first] * np.maximum(depth, self._config.min_depth) ** 3
        room *= self._config.size_range
        cost = 1.5 * np.log(2 * np.pi) - np.linalg.slogdet(information)[1] / 2 - np.log(room)
        for view, eye in self._eyes.items():
            seen = (places - eye.T_rig_cam[:3, 3]) @ eye.T_rig_cam[:3, :3]
            column, row = np.nan_to_num(project(seen, eye.K), nan=-1.0).T
            height, width = eye.grid
            inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
            missed = inside & ~members[:, self._view == view].any(1)
            cost += self._config.missed * missed
        return cost
