"""Pairs averaged as wholes: better than pixels alone, and honest about how much."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from synthetic_pairs import EXACT, Noise, errors, make_room, misplaced, predict

from hamst3r.alignment import polish as polishing
from hamst3r.alignment import uncalibrated
from hamst3r.alignment.averaging import _about, _lever
from hamst3r.alignment.factors import Nodes
from hamst3r.alignment.fusing import normal_equations
from hamst3r.alignment.incremental import Aligner, AlignerConfig
from hamst3r.geometry import invert, make_T, split_similarity
from hamst3r.pairs import choose_pairs


def both_ways(cameras):
    edges = choose_pairs(cameras)
    return edges + [(j, i) for i, j in edges]


def solve(room, pairs, **config):
    nobody = [np.zeros(depth.shape, bool) for depth in room.depth]
    return Aligner(AlignerConfig(**config)).solve(room.frames(), room.images(), pairs, nobody)


def mean_errors(cameras, seeds, noise=None, **config):
    rows = []
    for seed in seeds:
        room = make_room(cameras, seed)
        result = solve(room, predict(room, both_ways(cameras), seed, noise), **config)
        e = errors(room, result.T_world_cam, result.K, result.depth)
        rows.append([e.camera, e.rotation, e.focal, e.points])
    return np.mean(rows, axis=0)


def test_it_is_better_than_pixels_alone(monkeypatch):
    with_it = mean_errors(4, range(300, 308))
    monkeypatch.setattr(polishing, "average", lambda *_: None)
    without = mean_errors(4, range(300, 308), polish_rounds=8)
    assert (with_it < [0.95, 0.95, 0.8, 1.0] * without).all(), with_it / without


def test_exact_pairs_stay_exact():
    assert (mean_errors(3, [4], EXACT) < [2e-3, 0.02, 1e-3, 3e-3]).all()


@pytest.mark.parametrize(
    ("noise", "most"), [(Noise(), 2.0), (Noise(rotation=1.5, translation=0.03), 4.5)]
)
def test_what_it_says_of_its_precision_is_true(noise, most, monkeypatch):
    """Squared errors of the cameras relative to the first, by the variances that are stated.

    Six pairs have little to contradict each other in: unusual noise is believed by halves.
    """
    placements, squares = [], []
    place = uncalibrated._place_group

    def placed(problem, *rest):
        object.__setattr__(problem, "measure", True)
        placements.append(place(problem, *rest))
        return placements[-1]

    monkeypatch.setattr(uncalibrated, "_place_group", placed)
    for seed in range(320, 336):
        room = make_room(4, seed)
        solved = solve(room, predict(room, choose_pairs(4), seed, noise))
        placement = placements[-1]
        (measured,) = placement.measured
        cameras = np.stack([placement.T_world_cam[v] for v in range(4)])
        true = room.T_world_cam.copy()
        first = solved.depth[0] > 0
        true[:, :3, 3] *= np.median(solved.depth[0][first] / room.depth[0][first])
        true = cameras[0] @ invert(true[0]) @ true
        H, _ = normal_equations(Nodes.at(cameras), [measured])
        covariance = np.linalg.inv(H[1:, 1:].transpose(0, 2, 1, 3).reshape(21, 21))
        for k in range(3):
            E = invert(cameras[k + 1]) @ true[k + 1]
            off = np.append(E[:3, 3], Rotation.from_matrix(E[:3, :3]).as_rotvec())
            of_pose = slice(7 * k, 7 * k + 6)
            squares.append(off @ np.linalg.solve(covariance[of_pose, of_pose], off) / 6)
    assert 0.3 < np.mean(squares) < most


def test_a_pair_of_things_that_look_alike_does_not_disturb():
    for seed in range(340, 344):
        room = make_room(4, seed)
        pairs = predict(room, both_ways(4), seed)
        pairs[2] = misplaced(pairs[2], seed)
        e = errors(room, *(getattr(solve(room, pairs), k) for k in ("T_world_cam", "K", "depth")))
        assert e.camera < 0.07 and e.rotation < 1.0


def test_places_of_looks_agree_with_cameras_and_depth():
    """Each view, found in each pair, sees that pair's points where its pixels are."""
    room = make_room(3, 350)
    pairs = predict(room, both_ways(3), 350, Noise(outliers=0))
    solved = solve(room, pairs)
    for v in range(3):
        ratio = np.log(solved.depth[v] / room.depth[v])
        assert np.std(ratio) < 0.03
    assert split_similarity(solved.T_world_cam)[1] == pytest.approx(np.ones(3))


def test_the_point_about_which_cameras_turn_is_found():
    rng = np.random.default_rng(0)
    ahead = rng.uniform(2, 5, 200)
    steps = rng.normal(size=(200, 7)) * [0.001, 0.001, 0.001, 0.01, 0.01, 0.01, 0.01]
    for lever in (0.0, 0.4, 1.0):
        off = (_about(lever * ahead) @ steps[..., None])[..., 0]
        assert _lever(off, np.ones(200), ahead) == pytest.approx(lever, abs=0.03)
    # A turn about a point leaves that point where it is.
    step = (_about(np.array([3.0])) @ np.array([0, 0, 0, 0.01, -0.02, 0.005, 0]))[0]
    T = make_T(Rotation.from_rotvec(step[3:6]).as_matrix(), step[:3])
    np.testing.assert_allclose(T @ [0, 0, 3, 1], [0, 0, 3, 1], atol=1e-3)


def test_pixels_without_any_confidence_change_nothing():
    room = make_room(2, 360)
    pairs = predict(room, both_ways(2), 360)
    empty = [type(p)(**{**vars(p), "conf_j": torch.ones_like(p.conf_j)}) for p in pairs]
    solved = solve(room, empty)
    assert np.isfinite(solved.T_world_cam).all() and np.isfinite(solved.depth[0]).all()
