"""Who is the same in two views, as descriptors of pixels have it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_instances import GRID, SCENE, Box, id_at, pair, predict

from hamst3r.engine import PairPrediction
from hamst3r.people.instances import merge_instances

NAMES = ["ann", "bob", "eve"]


def described(prediction: PairPrediction, *names: str) -> PairPrediction:
    """With descriptors that are alike on one person in both views, for those who are named."""
    torch.manual_seed(0)
    like = F.normalize(torch.randn(len(NAMES), 16), dim=-1)
    descriptors = []
    for view in (prediction.i, prediction.j):
        own = F.normalize(torch.randn(*GRID, 16), dim=-1)
        for name in names:
            if name in SCENE[view]:
                top, bottom, left, right = SCENE[view][name]
                own[top:bottom, left:right] = like[NAMES.index(name)]
        descriptors.append(own)
    return replace(prediction, desc_i=descriptors[0], desc_j=descriptors[1])


def shown(name: str) -> tuple[Box, Box]:
    return SCENE[0][name], SCENE[1][name]


def test_descriptors_know_better_than_queries_that_mix_people_up():
    (ann, ann_there), (bob, bob_there) = shown("ann"), shown("bob")
    mixed = predict(0, 1, [(ann, bob_there, 0.9), (bob, ann_there, 0.9)])
    told = merge_instances([mixed], [GRID] * 2)
    assert id_at(told[0], ann) == id_at(told[1], bob_there)
    seen = merge_instances([described(mixed, "ann", "bob")], [GRID] * 2)
    assert id_at(seen[0], ann) == id_at(seen[1], ann_there) > 0
    assert id_at(seen[0], bob) == id_at(seen[1], bob_there) > 0
    assert id_at(seen[0], ann) != id_at(seen[0], bob)


def test_whom_no_query_has_in_both_views_is_joined():
    ann, there = shown("ann")
    halves = predict(0, 1, [(ann, None, 0.9), (None, there, 0.9)])
    seen = merge_instances([described(halves, "ann")], [GRID] * 2)
    assert id_at(seen[0], ann) == id_at(seen[1], there) > 0


@pytest.mark.parametrize("names", [[], ["bob"]])
def test_queries_count_where_descriptors_do_not_tell(names):
    ann, there = shown("ann")
    seen = merge_instances([described(pair(0, 1, ["ann", "bob"]), *names)], [GRID] * 2)
    assert id_at(seen[0], ann) == id_at(seen[1], there) > 0


def test_one_view_has_everybody_once():
    """Two people who look the same to the network stay two."""
    alike = torch.ones(*GRID, 16) / 4
    prediction = replace(pair(0, 1, ["ann", "bob"]), desc_i=alike, desc_j=alike)
    for view, boxes in zip(merge_instances([prediction], [GRID] * 2), SCENE, strict=False):
        assert id_at(view, boxes["ann"]) != id_at(view, boxes["bob"])
        assert set(view.scores) == {1, 2}


def test_views_that_are_no_pair_are_joined_by_a_third():
    """As with the first camera paired with each other one."""
    bob = [SCENE[view]["bob"] for view in range(3)]
    pairs = [described(pair(k, 1, ["bob"]), "bob") for k in (0, 2)]
    views = merge_instances(pairs, [GRID] * 3)
    assert {id_at(view, box) for view, box in zip(views, bob, strict=True)} == {1}


def test_networks_without_descriptors_are_taken_at_their_queries_word():
    plain = replace(pair(0, 1, ["ann"]), desc_i=None, desc_j=None)
    views = merge_instances([plain], [GRID] * 2)
    assert id_at(views[0], SCENE[0]["ann"]) == id_at(views[1], SCENE[1]["ann"]) > 0
