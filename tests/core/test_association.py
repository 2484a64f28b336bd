"""Who is who among views of known cameras: masks of simulated people, and wrong queries."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from people_crowd import GRID, Crowd, Flaws, rig

from hamst3r.people.association import AssociationConfig, Eye, Sighting, associate
from hamst3r.people.body import anny24

POSES, K = rig()
EYES = {view: Eye(K, GRID, pose) for view, pose in enumerate(POSES)}
# Exact masks without a split; local ids then are the truth.
EXACT = Flaws(depth_scale=0, depth=0, place=0, wrong=0, missed=0, split=0)


@pytest.fixture(scope="module")
def moments():
    """Moments of three people who walk about: lists of (sighting, who)."""
    crowd = Crowd(anny24(), 3, 40, 5, pause=0.0)
    found = []
    for frame in range(0, 40, 4):
        views, _ = crowd.see(crowd.state(frame), EXACT)
        found.append(
            [
                (Sighting(view, people.instances == who), who)
                for view, people in enumerate(views)
                for who in people.scores
            ]
        )
    return found


def score(moments, links=None, eyes=EYES, config=None) -> tuple[float, float]:
    """Shares of the people in groups that hold nobody else, and that have all of their masks."""
    pure, whole = [], []
    for seen in moments:
        sightings, who = [s for s, _ in seen], np.array([w for _, w in seen])
        told = np.zeros((len(who), len(who))) if links is None else links(sightings, who)
        groups = associate(sightings, eyes, told, config)
        assert sorted(k for group in groups for k in group) == list(range(len(who)))
        for group in groups:
            views = [sightings[k].view for k in group]
            assert len(set(views)) == len(views)
            pure.append(len(set(who[group])) == 1)
        whole += [any(set(np.flatnonzero(who == w)) == set(g) for g in groups) for w in set(who)]
    return float(np.mean(pure)), float(np.mean(whole))


def right(sightings, who):
    views = np.array([sighting.view for sighting in sightings])
    return ((who[:, None] == who) & (views[:, None] != views)).astype(float)


def guessed(sightings, who):
    """A query joins somebody of one view with anybody of another."""
    rng = np.random.default_rng(int(who.sum()))
    views = np.array([sighting.view for sighting in sightings])
    links = np.zeros((len(who), len(who)))
    for a, b in combinations(set(views.tolist()), 2):
        one, other = (rng.permutation(np.flatnonzero(views == view)) for view in (a, b))
        for i, j in zip(one, other, strict=False):
            links[i, j] = links[j, i] = 1
    return links


def test_rays_say_who_is_who(moments):
    pure, whole = score(moments[:4])
    assert pure == whole == 1


def test_queries_that_guess_mislead_nobody(moments):
    pure, whole = score(moments[:4], guessed)
    assert pure > 0.9 and whole > 0.9


def test_where_people_pass_each_other_the_word_of_a_good_network_helps(moments):
    """Half a metre apart, masks hidden by each other: rays alone take some for others."""
    alone, told = score(moments), score(moments, right)
    assert 0.6 < alone[1] < 0.95
    assert told[0] > 0.97 and told[1] > 0.97


def test_who_is_seen_where_nobody_can_be_is_not_joined(moments):
    """Two cameras have each other's pose: their rays do not meet with anybody's."""
    swapped = {view: Eye(K, GRID, POSES[k]) for view, k in enumerate((2, 1, 0, 3))}
    _, whole = score(moments[:4], eyes=swapped)
    assert whole < 0.4


def test_of_two_cameras_at_one_height_queries_choose_among_rays_that_meet():
    """Two people at equal distances, in the middle of two views: every two rays meet."""
    eyes = {0: Eye(K, GRID, facing(-4.0, 0.0)), 1: Eye(K, GRID, facing(0.0, 4.0))}
    sightings = [
        Sighting(view, box(eye, place))
        for view, eye in eyes.items()
        for place in ((-0.3, 0.3), (0.3, -0.3))
    ]
    for pairs in ([[0, 2], [1, 3]], [[0, 3], [1, 2]]):
        links = np.zeros((4, 4))
        for a, b in pairs:
            links[a, b] = links[b, a] = 1
        assert sorted(associate(sightings, eyes, links)) == pairs


def facing(x: float, y: float) -> np.ndarray:
    """A level camera 1 m high at (x, y) that looks at the origin."""
    ahead = -np.array([x, y, 0.0]) / np.hypot(x, y)
    T = np.eye(4)
    T[:3, :3] = np.stack([np.cross([0, 0, -1.0], ahead), [0, 0, -1], ahead], 1)
    T[:3, 3] = x, y, 1.0
    return T


def box(eye: Eye, place: tuple[float, float]) -> np.ndarray:
    """The mask of a board of a person's size at (x, y) on the floor, that faces the camera."""
    at = (np.array([*place, 0.85]) - eye.T_rig_cam[:3, 3]) @ eye.T_rig_cam[:3, :3]
    u, v = (at[:2] / at[2]) * eye.K[[0, 1], [0, 1]] + eye.K[:2, 2]
    half = np.array([0.15, 0.8]) / at[2] * eye.K[[0, 1], [0, 1]]
    mask = np.zeros(GRID, bool)
    mask[round(v - half[1]) : round(v + half[1]), round(u - half[0]) : round(u + half[0])] = True
    return mask


@pytest.mark.parametrize("off", [0.0, 1.6])
def test_a_mask_joins_another_only_where_rays_meet(off):
    eyes = {0: Eye(K, GRID, facing(-4.0, 0.0)), 1: Eye(K, GRID, facing(0.0, 4.0))}
    masks = [Sighting(0, box(eyes[0], (0.3, 0.2))), Sighting(1, box(eyes[1], (0.3, 0.2)))]
    up = round(off / 4 * K[1, 1])  # the second is seen so many metres higher
    masks[1] = Sighting(1, np.roll(masks[1].mask, -up, axis=0))
    groups = associate(masks, eyes, np.ones((2, 2)) - np.eye(2))
    assert groups == ([[0, 1]] if off == 0 else [[0], [1]])


def test_rays_of_cameras_that_may_be_turned_are_believed_less():
    """Masks whose rays pass 0.5 m from each other."""
    for turn, groups in ((0.0, 2), (0.08, 1)):
        eyes = {
            view: Eye(K, GRID, pose, turn_std=turn)
            for view, pose in enumerate((facing(-4.0, 0.0), facing(0.0, 4.0)))
        }
        masks = [Sighting(view, box(eye, (0.0, 0.0))) for view, eye in eyes.items()]
        up = round(0.9 / 4 * K[1, 1])
        masks[1] = Sighting(1, np.roll(masks[1].mask, -up, axis=0))
        assert len(associate(masks, eyes, np.zeros((2, 2)))) == groups


def test_nobody_is_nobody_and_the_number_of_seeds_is_bounded(moments):
    assert associate([], EYES, np.zeros((0, 0))) == []
    pure, _ = score(moments, config=AssociationConfig(max_seeds=6))
    assert pure > 0.9
