"""People in 2D: shared ids over views, whatever the order of the queries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hamst3r.engine import PairPrediction
from hamst3r.people.association import Eye
from hamst3r.people.body import anny24
from hamst3r.people.densepose import DensePoseEstimate, VertexLookup, fuse
from hamst3r.people.instances import merge_instances
from hamst3r.people.votes import InstancesConfig

GRID = (40, 60)
Box = tuple[int, int, int, int]  # rows, then columns: from, to
QUERIES = 5

# Three people; where each of three cameras sees them.
SCENE: list[dict[str, Box]] = [
    {"ann": (5, 30, 5, 15), "bob": (5, 30, 15, 26), "eve": (8, 35, 40, 50)},
    {"ann": (5, 30, 30, 42), "bob": (5, 30, 18, 30)},
    {"bob": (2, 25, 8, 20), "eve": (8, 35, 45, 55)},
]
EDGES = [(0, 1), (1, 2), (0, 2)]


def mask(box: Box | None, sure: float = 4.0) -> torch.Tensor:
    logits = torch.full(GRID, -sure)
    if box:
        logits[box[0] : box[1], box[2] : box[3]] = sure
    return logits


def predict(i: int, j: int, queries: list[tuple[Box | None, Box | None, float]]) -> PairPrediction:
    """A pair whose queries hold a box in each view and a person probability."""
    queries = queries + [(None, None, 0.02)] * (QUERIES - len(queries))
    logits = [torch.stack([mask(query[side]) for query in queries]) for side in (0, 1)]
    ones = torch.ones(GRID)
    body = [torch.where(part.amax(0) > 0, 5.0, -5.0) for part in logits]
    return PairPrediction(
        i=i,
        j=j,
        pts_i=torch.zeros(*GRID, 3),
        pts_j=torch.zeros(*GRID, 3),
        conf_i=ones,
        conf_j=ones,
        desc_i=torch.zeros(*GRID, 1),
        desc_j=torch.zeros(*GRID, 1),
        desc_conf_i=ones,
        desc_conf_j=ones,
        mask_logits_i=logits[0],
        mask_logits_j=logits[1],
        person_prob=torch.tensor([query[2] for query in queries]),
        densepose_i=torch.full((*GRID, 3), 0.3),
        densepose_j=torch.full((*GRID, 3), 0.6),
        body_logits_i=body[0],
        body_logits_j=body[1],
    )


def pair(i: int, j: int, order: list[str], prob: float = 0.9) -> PairPrediction:
    return predict(i, j, [(SCENE[i].get(name), SCENE[j].get(name), prob) for name in order])


def id_at(view, box: Box) -> int:
    """The only id within a box's middle."""
    row, column = (box[0] + box[1]) // 2, (box[2] + box[3]) // 2
    return int(view.instances[row, column])


@settings(max_examples=25)
@given(st.lists(st.permutations(["ann", "bob", "eve"]), min_size=3, max_size=3))
def test_ids_agree_over_three_views_for_any_order_of_queries(orders):
    views = merge_instances(
        [pair(*edge, order) for edge, order in zip(EDGES, orders, strict=True)], [GRID] * 3
    )
    ids = {
        name: {id_at(view, SCENE[k][name]) for k, view in enumerate(views) if name in SCENE[k]}
        for name in ("ann", "bob", "eve")
    }
    assert all(len(found) == 1 for found in ids.values())
    assert set.union(*ids.values()) == {1, 2, 3}
    for k, view in enumerate(views):
        for name, box in SCENE[k].items():
            inside = view.instances[box[0] : box[1], box[2] : box[3]]
            assert (inside == id_at(view, box)).mean() > 0.95, (k, name)
        assert set(view.scores) == {int(x) for x in np.unique(view.instances) if x}


def eye(x: float, y: float) -> Eye:
    """A level camera 1 m high at (x, y) that looks at the origin, 4 m away."""
    ahead = -np.array([x, y, 0.0]) / np.hypot(x, y)
    T = np.eye(4)
    T[:3, :3] = np.stack([np.cross([0, 0, -1.0], ahead), [0, 0, -1], ahead], 1)
    T[:3, 3] = x, y, 1.0
    K = np.array([[60.0, 0, 29.5], [0, 60.0, 19.5], [0, 0, 1]])
    return Eye(K, GRID, T)


# A cross of cameras; where they see two people of 1.6 m, 0.9 m from the middle of the room.
CROSS = {0: eye(-4, 0), 1: eye(0, 4), 2: eye(4, 0), 3: eye(0, -4)}
PLACES = {"ann": (0.0, 0.9), "bob": (0.3, -0.9)}


def seen(view: int, name: str) -> Box:
    camera = CROSS[view]
    at = (np.array([*PLACES[name], 0.85]) - camera.T_rig_cam[:3, 3]) @ camera.T_rig_cam[:3, :3]
    u, v = 60 * at[:2] / at[2] + camera.K[:2, 2]
    high, wide = 60 * np.array([0.8, 0.2]) / at[2]
    return round(v - high), round(v + high), round(u - wide), round(u + wide)


@pytest.mark.parametrize("known", [4, 3])
def test_a_query_whose_rays_do_not_meet_is_taken_apart(known):
    """Pairs that see an opposite camera take ann for bob; with known cameras nobody is mixed up.
    The last camera may be unknown: right queries tell who is who there."""
    edges = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    other = {"ann": "bob", "bob": "ann"}
    predictions = []
    for i, j in edges:
        wrong = (i, j) in ((0, 2), (1, 3))
        queries = [(seen(i, n), seen(j, other[n] if wrong else n), 0.9) for n in PLACES]
        predictions.append(predict(i, j, queries))
    eyes = {view: CROSS[view] for view in range(known)}
    views = merge_instances(predictions, [GRID] * 4, eyes=eyes)
    ids = {name: [id_at(view, seen(k, name)) for k, view in enumerate(views)] for name in PLACES}
    assert all(len(set(found)) == 1 for found in ids.values()), ids
    assert {found[0] for found in ids.values()} == {1, 2}
    views = merge_instances(predictions, [GRID] * 4)
    ids = {name: [id_at(view, seen(k, name)) for k, view in enumerate(views)] for name in PLACES}
    assert any(len(set(found)) > 1 for found in ids.values())  # the queries alone are no use


def test_who_was_found_by_pairs_of_other_views_only_is_joined_by_rays():
    predictions = [predict(view, view + 2, [(seen(view, "ann"), None, 0.9)]) for view in (0, 1)]
    views = merge_instances(predictions, [GRID] * 4, eyes=CROSS)
    assert id_at(views[0], seen(0, "ann")) == id_at(views[1], seen(1, "ann")) == 1
    views = merge_instances(predictions, [GRID] * 4)
    assert id_at(views[0], seen(0, "ann")) != id_at(views[1], seen(1, "ann"))


def test_two_touching_people_stay_two():
    views = merge_instances([pair(0, 1, ["ann", "bob"]), pair(1, 0, ["bob", "ann"])], [GRID] * 2)
    for k, view in enumerate(views):
        assert id_at(view, SCENE[k]["ann"]) != id_at(view, SCENE[k]["bob"])
        assert len(view.scores) == 2


def test_specks_of_a_mask_are_not_the_person_but_both_halves_of_a_hidden_one_are():
    prediction = predict(0, 1, [(SCENE[0]["ann"], SCENE[1]["ann"], 0.9)])
    logits = prediction.mask_logits_i
    logits[0, 2:4, 50:58] = 1.0  # an unsure speck far from a mask of 250 pixels
    logits[0, 36:38, 50:58] = 4.0  # a hand beside something that hides the arm
    prediction.body_logits_i[36:38, 50:58] = 5.0
    prediction.body_logits_i[2:4, 50:58] = 5.0
    logits[0, 14:17] = -4.0  # something hides the person's middle
    view = merge_instances([prediction], [GRID] * 2)[0]
    assert not view.instances[2:4, 50:58].any()
    assert (view.instances[36:38, 50:58] == 1).all()
    assert (view.instances[5:14, 5:15] == 1).all() and (view.instances[17:30, 5:15] == 1).all()
    everything = merge_instances([prediction], [GRID] * 2, InstancesConfig(min_part=0))[0]
    assert (everything.instances[2:4, 50:58] == 1).all()


def test_one_mask_over_both_does_not_join_two_people():
    """One pair saw a single blob where the other saw two touching people."""
    blob = (5, 30, 5, 26)
    views = merge_instances(
        [pair(0, 1, ["ann", "bob"]), predict(0, 2, [(blob, None, 0.9)])], [GRID] * 3
    )
    assert id_at(views[0], SCENE[0]["ann"]) != id_at(views[0], SCENE[0]["bob"])


def test_one_person_in_all_pairs_is_one():
    edges = [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)]
    views = merge_instances([pair(*edge, ["bob"]) for edge in edges], [GRID] * 3)
    assert [set(view.scores) for view in views] == [{1}, {1}, {1}]
    sure = 1 / (1 + np.exp(-4.0)) / (1 + np.exp(-5.0))  # the query and the body head
    expected = 0.9 * 2 * sure / (sure + 1)  # person probability x the mask's expected Dice
    assert views[0].scores[1] == pytest.approx(expected, abs=1e-3)


def test_a_mask_that_cannot_decide_where_it_ends_scores_less():
    clear, vague = pair(0, 1, ["bob"]), pair(0, 1, ["bob"])
    for logits, body in (
        (vague.mask_logits_i, vague.body_logits_i),
        (vague.mask_logits_j, vague.body_logits_j),
    ):
        logits[logits < 0] = -0.5  # everywhere nearly the person
        body[:] = 5.0
    sure, unsure = (merge_instances([one], [GRID] * 2)[1] for one in (clear, vague))
    assert sure.scores[1] > 0.8 and unsure.scores[1] < 0.5 and not unsure.instances.any()


def test_a_mask_of_what_is_hardly_a_body_scores_less():
    clear, doubtful = pair(0, 1, ["bob"]), pair(0, 1, ["bob"])
    for body in (doubtful.body_logits_i, doubtful.body_logits_j):
        body[body > 0] = -0.5  # too little to object
    sure, unsure = (merge_instances([one], [GRID] * 2)[1] for one in (clear, doubtful))
    assert sure.scores[1] > 0.8 and unsure.scores[1] < 0.5 and not unsure.instances.any()


def test_who_is_not_sure_enough_over_all_pairs_is_nobody():
    edges = [(0, 1), (0, 2)]
    config = InstancesConfig(min_probability=0.4)
    for probability, ids in ((0.45, {0}), (0.9, {0, 1})):
        predictions = [pair(*edge, ["bob"], probability) for edge in edges]
        for view in merge_instances(predictions, [GRID] * 3, config):
            assert set(np.unique(view.instances)) == ids


def test_who_scores_less_is_doubtful_and_takes_nobodys_pixels():
    ann, eve = SCENE[0]["ann"], SCENE[0]["eve"]
    wider = (ann[0] - 3, ann[1] + 3, ann[2] - 3, ann[3] + 3)
    queries = [(ann, None, 0.9), (wider, None, 0.55), (eve, None, 0.5)]
    config = InstancesConfig(min_probability=0.3, min_kept=0.1, min_like=0.9, min_score=0.6)
    (view, _) = merge_instances([predict(0, 1, queries)], [GRID] * 2, config)
    assert set(np.unique(view.instances)) == {0, 1} and id_at(view, ann) == 1
    assert view.doubtful is not None and not view.doubtful[view.instances > 0].any()
    assert set(np.unique(view.doubtful)) == {0, 2, 3} == {0} | set(view.scores) - {1}
    rows, columns = slice(*eve[:2]), slice(*eve[2:])
    assert (view.claimed[rows, columns] == view.doubtful[rows, columns]).all()
    nobody = InstancesConfig(min_score=0.6, doubtful_score=0.6)
    (view, _) = merge_instances([predict(0, 1, queries)], [GRID] * 2, nobody)
    assert set(view.scores) == {1} and not view.doubtful.any()


@pytest.mark.parametrize(("wider", "there"), [(3, False), (6, True)])
def test_the_rim_of_a_wider_mask_is_nobody(wider, there):
    ann = SCENE[0]["ann"]
    wide = (max(ann[0] - wider, 0), ann[1] + wider, max(ann[2] - wider, 0), ann[3] + wider)
    apart = InstancesConfig(min_iou=1.1, min_overlap=1.1)  # the two pairs' queries are not joined
    queries = [(ann, 0.98), (wide, 0.7), (wide, 0.7)]
    pairs = [predict(0, k, [(box, None, prob)]) for k, (box, prob) in enumerate(queries, 1)]
    view, *_ = merge_instances(pairs, [GRID] * 4, replace(apart, min_score=0.8))
    assert len(view.scores) == 1 + there and id_at(view, ann) == 1
    assert view.doubtful is not None and view.doubtful.any() == there


def test_a_mask_ends_where_the_body_head_sees_no_body():
    prediction = pair(0, 1, ["ann"])
    body = prediction.body_logits_i.clone()
    body[20:] = -8.0  # the mask goes on to row 30
    view, other = merge_instances([replace(prediction, body_logits_i=body)], [GRID] * 2)
    assert (view.instances[5:20, 5:15] == 1).all()
    assert not view.instances[20:].any()
    assert (other.instances[5:30, 30:42] == 1).all()


def test_one_camera_alone_is_a_pair_with_itself():
    views = merge_instances([pair(0, 0, ["ann", "eve"])], [GRID])
    assert len(views[0].scores) == 2
    assert id_at(views[0], SCENE[0]["ann"]) != id_at(views[0], SCENE[0]["eve"])


def test_weak_queries_specks_and_duplicates_are_nobody():
    box = SCENE[0]["ann"]
    speck = (0, 4, 50, 54)
    inner = (box[0] + 1, box[1] - 1, box[2] + 1, box[3] - 1)
    queries = [(box, None, 0.9), (SCENE[0]["eve"], None, 0.3), (speck, None, 0.9)]
    view = merge_instances([predict(0, 1, [*queries, (inner, None, 0.6)])], [GRID] * 2)[0]
    assert set(view.scores) == {1}
    assert id_at(view, box) == 1
    assert id_at(view, SCENE[0]["eve"]) == 0
    assert not merge_instances([predict(0, 1, [(speck, None, 0.9)])], [GRID] * 2)[0].scores
    lenient = InstancesConfig(min_pixels=10)
    assert merge_instances([predict(0, 1, [(speck, None, 0.9)])], [GRID] * 2, lenient)[0].scores


def test_duplicates_do_not_tear_a_person_to_pieces():
    """Of two queries that see the same person each is surer of another half."""
    whole, upper, lower = (5, 30, 30, 42), (5, 17, 30, 42), (17, 30, 30, 42)
    queries: list[tuple[Box | None, Box | None, float]] = [(whole, None, 0.9), (whole, None, 0.85)]
    prediction = predict(0, 1, queries)
    for query, half in enumerate((upper, lower)):
        rows, columns = slice(*half[:2]), slice(*half[2:])
        prediction.mask_logits_i[query, rows, columns] = 8.0
        prediction.mask_logits_i[1 - query, rows, columns] = 1.0
    view = merge_instances([prediction], [GRID] * 2)[0]
    assert (view.instances[5:30, 30:42] == 1).all()
    assert set(view.scores) == {1}


def test_pairs_vote_with_their_confidence():
    """Two pairs sure of nothing outvote one; one pair that saw half of it does not."""
    box = SCENE[0]["ann"]
    sees, blind = predict(0, 1, [(box, None, 0.9)]), predict(0, 1, [(None, None, 0.05)])
    doubts = predict(0, 1, [(box, None, 0.45)])
    assert merge_instances([sees, blind, blind], [GRID] * 2)[0].scores == {}
    assert set(merge_instances([sees, doubts], [GRID] * 2)[0].scores) == {1}


def test_body_without_an_instance_is_background():
    prediction = predict(0, 1, [(SCENE[0]["ann"], None, 0.2)])
    view = merge_instances([prediction], [GRID] * 2)[0]
    assert not view.instances.any()
    assert np.isfinite(view.densepose).any()  # the body map itself is kept


def test_views_without_predictions_are_empty():
    views = merge_instances([], [GRID, (8, 9)])
    assert [view.instances.shape for view in views] == [GRID, (8, 9)]
    assert np.isnan(views[1].densepose).all() and not views[1].confidence.any()


def test_a_foreign_grid_is_named():
    with pytest.raises(ValueError, match=r"masks are \(40, 60\).*grid is \(20, 30\)"):
        merge_instances([pair(0, 1, ["bob"])], [GRID, (20, 30)])


def test_coarse_masks_are_brought_to_the_grid():
    fine = pair(0, 1, ["ann", "bob"])
    coarse = replace(
        fine,
        mask_logits_i=fine.mask_logits_i[:, ::2, ::2],
        mask_logits_j=fine.mask_logits_j[:, ::2, ::2],
    )
    for a, b in zip(
        merge_instances([fine], [GRID] * 2), merge_instances([coarse], [GRID] * 2), strict=True
    ):
        assert (a.instances == b.instances).mean() > 0.95
        assert set(a.scores) == set(b.scores)


def test_networks_without_human_heads_see_nobody():
    nothing = {name: None for name in vars(pair(0, 1, [])) if name not in ("i", "j")}
    places = {name: torch.ones(*GRID, 3) for name in ("pts_i", "pts_j")}
    places |= {name: torch.ones(GRID) for name in ("conf_i", "conf_j")}
    people = merge_instances([PairPrediction(0, 1, **(nothing | places))], [GRID] * 2)
    assert all(not view.instances.any() and np.isnan(view.densepose).all() for view in people)


def estimate(value: float, body: float, confidence: float) -> DensePoseEstimate:
    grid = (2, 2)
    return DensePoseEstimate(
        np.full((*grid, 3), value, np.float32),
        np.full(grid, body, np.float32),
        np.full(grid, confidence, np.float32),
    )


def test_fusion_averages_what_agrees_and_drops_what_contradicts():
    fused, sure = fuse([estimate(0.50, 0.9, 3.0), estimate(0.52, 0.9, 1.0)])
    np.testing.assert_allclose(fused, 0.505, atol=1e-4)
    np.testing.assert_allclose(sure, 0.9, atol=1e-4)
    fused, unsure = fuse([estimate(0.2, 0.9, 3.0), estimate(0.8, 0.9, 1.0)])
    np.testing.assert_allclose(fused, 0.2, atol=1e-6)
    assert (unsure < sure).all()
    fused, none = fuse([estimate(0.2, 0.3, 3.0), estimate(0.2, 0.1, 1.0)])
    assert np.isnan(fused).all() and not none.any()


def test_canonical_coordinates_find_their_vertex():
    body = anny24()
    lookup = VertexLookup(body)
    ids = np.arange(0, len(body.v_template), 97)
    found = lookup(body.canonical.numpy()[ids])
    places = body.v_template.numpy()
    assert np.linalg.norm(places[found] - places[ids], axis=1).max() < 1e-5
    grid = np.full((1, 3, 3), np.nan)
    grid[0, 0] = body.canonical[5]
    grid[0, 1] = [0.0, 0.0, 0.0]  # a corner of the box, far from the body
    assert lookup(grid).shape == (1, 3)
    assert lookup(grid)[0, 1] == lookup(grid)[0, 2] == -1


class Row:
    """People in a row before three cameras, each of which sees the row from another side: nearer
    people hide a part of those behind; queries come in any order."""

    def __init__(self, people: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.count = people
        width, step = 10, 54 // people  # boxes overlap where people are many
        self.masks = []
        for _ in range(3):
            order = self.rng.permutation(people)
            owner = np.full(GRID, -1)
            left = 2 + step * order + self.rng.integers(-1, 2, people)
            for person in self.rng.permutation(people):  # the last hides the others
                top = int(self.rng.integers(2, 8))
                column = int(left[person])
                owner[top : top + 28, column : column + width] = person
            self.masks.append(owner)

    def pair(self, i: int, j: int, missed: float, merged: bool) -> PairPrediction:
        """What a network says of views i and j; it misses people, or takes two that touch for
        one."""
        groups = [[person] for person in range(self.count)]
        if merged and self.count > 1:
            first = int(self.rng.integers(self.count - 1))
            groups[first : first + 2] = [[first, first + 1]]
        groups = [group for group in groups if self.rng.random() >= missed]
        self.rng.shuffle(groups)
        prediction = predict(i, j, [(None, None, 0.9)] * len(groups))
        queries = max(QUERIES, len(groups))
        logits = []
        for view in (i, j):
            layers = [np.where(np.isin(self.masks[view], group), 4.0, -4.0) for group in groups]
            layers += [np.full(GRID, -4.0)] * (queries - len(groups))
            layers = [layer + self.rng.normal(0, 0.8, GRID) for layer in layers]
            logits.append(torch.from_numpy(np.stack(layers)).float())
        probability = torch.cat([torch.full((len(groups),), 0.9), torch.full((queries,), 0.02)])
        return replace(
            prediction,
            mask_logits_i=logits[0],
            mask_logits_j=logits[1],
            person_prob=probability[:queries],
            body_logits_i=torch.from_numpy(np.where(self.masks[i] >= 0, 5.0, -5.0)).float(),
            body_logits_j=torch.from_numpy(np.where(self.masks[j] >= 0, 5.0, -5.0)).float(),
        )


@pytest.mark.parametrize("people", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("merged", [False, True])
def test_crowds_are_neither_merged_nor_split(people, merged):
    """Every id is one person's over all views, and every person has one id; one of six pairs may
    take two who touch for one, and each pair may miss people."""
    wrong_merges = wrong_splits = found = 0
    for seed in range(6):
        row = Row(people, seed)
        edges = [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)]
        predictions = [
            row.pair(*edge, missed=0.1, merged=merged and k == seed) for k, edge in enumerate(edges)
        ]
        views = merge_instances(predictions, [GRID] * 3)
        ids: dict[int, set[int]] = {}
        for view, owner in zip(views, row.masks, strict=True):
            for person in range(people):
                own = view.instances[owner == person]
                if (owner == person).sum() < 60:  # hidden
                    continue
                values, counts = np.unique(own[own > 0], return_counts=True)
                if len(values) and counts.max() > 0.5 * len(own):
                    ids.setdefault(person, set()).add(int(values[counts.argmax()]))
        found += len(ids)
        wrong_splits += sum(len(own) > 1 for own in ids.values())
        held = [identity for own in ids.values() for identity in own]
        wrong_merges += len(held) - len(set(held))
    assert wrong_merges == 0
    assert wrong_splits <= (0 if not merged else 1)
    assert found >= 0.95 * 6 * people


def test_queries_of_one_person_share_their_probability():
    """Two that hesitate over the same mask are somebody together; apart, neither is."""
    ann, shifted, eve = (5, 30, 5, 15), (5, 30, 6, 16), (8, 35, 40, 50)
    both = merge_instances(
        [predict(0, 1, [(ann, ann, 0.45), (shifted, shifted, 0.45)])], [GRID] * 2
    )
    for view in both:
        assert id_at(view, ann) == 1 and len(view.scores) == 1
        assert view.scores[1] == pytest.approx(1 - 0.55**2, abs=0.03)
    apart = merge_instances([predict(0, 1, [(ann, ann, 0.45), (eve, eve, 0.45)])], [GRID] * 2)
    assert all(not view.instances.any() for view in apart)


def test_an_unsure_query_tells_who_is_the_same():
    """Two queries found one person in a view each; a third one doubts that there is anybody, but
    has both."""
    ann = SCENE[0]["ann"], SCENE[1]["ann"]
    halves = [(ann[0], None, 0.9), (None, ann[1], 0.9)]
    apart = merge_instances([predict(0, 1, halves)], [GRID] * 2)
    assert id_at(apart[0], ann[0]) != id_at(apart[1], ann[1])
    # Its masks are like theirs, but not so like that it would make them surer.
    wide = [(box[0] - 3, box[1], box[2] - 3, box[3] + 3) for box in ann]
    joined = merge_instances([predict(0, 1, [*halves, (*wide, 0.2)])], [GRID] * 2)
    assert id_at(joined[0], ann[0]) == id_at(joined[1], ann[1]) > 0
    # Who is seen beside somebody in one view is not made the same by it.
    bob = SCENE[0]["bob"], None
    both = [(ann[0], ann[1], 0.9), (bob[0], None, 0.9)]
    kept = merge_instances([predict(0, 1, [*both, (bob[0], (2, 33, 27, 45), 0.2)])], [GRID] * 2)
    assert id_at(kept[0], ann[0]) == id_at(kept[1], ann[1]) != id_at(kept[0], bob[0])
