"""The pose graph of synthetic rooms: any pairs, wrong pairs, parts that do not hang together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_pairs import errors, garbage, make_room, misplaced, predict

from hamst3r.alignment.incremental import Aligner, AlignerConfig
from hamst3r.pairs import choose_pairs

PAIRS = choose_pairs(5)


def align(room, predictions, **settings):
    nobody = [np.zeros(depth.shape, bool) for depth in room.depth]
    aligner = Aligner(AlignerConfig(**settings))
    return aligner.solve(room.frames(), room.images(), predictions, nobody)


def wrong_pairs(result):
    return {(score.i, score.j) for score in result.scores if not score.used}


@pytest.mark.parametrize("seed", range(4))
def test_the_spanning_tree_uses_each_cameras_own_focal_length(seed):
    """On a chain the tree is all there is; lenses from tele to wide, in random order."""
    focals = np.random.default_rng(seed).permutation([0.6, 0.8, 1.2, 1.7])
    room = make_room(4, seed, 112, 84, focals)
    result = align(room, predict(room, [(0, 1), (1, 2), (2, 3)], seed), polish_rounds=0)
    assert result.placed.all()
    for K, truth in zip(result.K, room.K, strict=True):
        assert K[0, 0] == pytest.approx(truth[0, 0], rel=0.06)
    error = errors(room, result.T_world_cam, result.K, result.depth)
    assert error.camera < 0.3 and error.rotation < 3


@given(st.integers(0, 10_000))
@settings(max_examples=12)
def test_any_graph_that_connects_the_cameras_places_them(seed):
    rng = np.random.default_rng(seed)
    room = make_room(5, seed % 7)
    order = rng.permutation(5)
    edges = [(order[k], order[rng.integers(k)]) for k in range(1, 5)]  # A random tree,
    edges += [tuple(rng.choice(5, 2, replace=False)) for _ in range(3)]  # and some more.
    edges = [(int(i), int(j)) if rng.random() < 0.5 else (int(j), int(i)) for i, j in edges]
    result = align(room, predict(room, list(dict.fromkeys(edges)), seed))
    assert result.placed.all()
    error = errors(room, result.T_world_cam, result.K, result.depth)
    assert error.camera < 0.35 and error.rotation < 5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_pairs_that_are_sure_but_wrong_are_found(wrong, seed):
    """Up to three of ten pairs take one place for another (repeated structure)."""
    room = make_room(5, seed)
    predictions = predict(room, PAIRS, seed)
    # No camera has more wrong pairs than right ones: nothing could tell then where it is.
    victims = [{0, 1}, {2, 3}, {0, 4}][:wrong]
    predictions = [
        misplaced(p, k) if {p.i, p.j} in victims else p for k, p in enumerate(predictions)
    ]
    result = align(room, predictions)
    assert {frozenset(pair) for pair in wrong_pairs(result)} == set(map(frozenset, victims))
    right = [score.score for score in result.scores if score.used]
    assert min(right) > 2 * max(score.score for score in result.scores if not score.used)
    error = errors(room, result.T_world_cam, result.K, result.depth)
    assert result.placed.all() and error.camera < 0.12 and error.rotation < 1.5


def test_every_pair_has_a_score():
    room = make_room(4, 3)
    predictions = predict(room, choose_pairs(4), 3)
    predictions[2] = garbage(predictions[2], 0)
    scores = {(s.i, s.j): s for s in align(room, predictions).scores}
    assert set(scores) == set(choose_pairs(4))
    bad = scores.pop((predictions[2].i, predictions[2].j))
    assert not bad.used and bad.score < 0.1
    assert all(s.used and 0.1 < s.score <= 1 for s in scores.values())


def test_parts_that_do_not_hang_together_are_reported_not_glued():
    room = make_room(5, 4)
    predictions = predict(room, [(0, 1), (1, 2), (3, 4)], 4)
    result = align(room, predictions)
    assert result.placed.tolist() == [True, True, True, False, False]
    assert "cameras cam3, cam4 see nothing of what the others see" in result.notes
    glued = [*predictions, garbage(predict(room, [(2, 3)], 4)[0], 1)]
    assert align(room, glued).placed.tolist() == result.placed.tolist()


def test_what_only_a_contradicted_pair_holds_is_not_placed():
    """Camera 3 is seen by two pairs that disagree with one another, and neither is believed."""
    room = make_room(4, 5)
    predictions = predict(room, [(0, 1), (1, 2), (0, 2), (0, 3), (1, 3), (2, 3)], 5)
    predictions = [misplaced(p, k) if p.j == 3 else p for k, p in enumerate(predictions)]
    result = align(room, predictions)
    assert result.placed[:3].all()
    error = errors(
        type(room)(room.T_world_cam[:3], room.K[:3], room.depth[:3], room.people[:3], None),
        result.T_world_cam[:3],
        result.K[:3],
        result.depth[:3],
    )
    assert error.camera < 0.12 and error.rotation < 1.5
    assert len(wrong_pairs(result)) >= 2
