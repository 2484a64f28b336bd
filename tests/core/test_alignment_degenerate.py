"""Input that leaves little to align: black, identical or unrelated images, one or two cameras."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic_pairs import EXACT, errors, make_room, misplaced, predict

from hamst3r.alignment.incremental import Aligner
from hamst3r.geometry import rotation_angle

PAIR = [(0, 1)]
WITH_SELF = [(0, 1), (1, 0)]


def align(room, predictions, poses=False, aligner=None):
    nobody = [np.zeros(depth.shape, bool) for depth in room.depth]
    result = (aligner or Aligner()).solve(
        room.frames(poses), room.images(poses), predictions, nobody
    )
    assert np.isfinite(result.T_world_cam).all() and np.isfinite(result.scale_std)
    assert np.allclose(np.linalg.det(result.T_world_cam[:, :3, :3]), 1)
    assert np.isfinite(result.camera_confidence).all()
    for K, depth, confidence in zip(result.K, result.depth, result.confidence, strict=True):
        assert np.isfinite(K).all() and K[0, 0] > 0
        assert np.isfinite(depth).all() and np.isfinite(confidence).all()
    return result


def blind(p, view):
    """What a network says of a pair with a black image: noise, and that it is unsure of it."""
    rng = np.random.default_rng(p.i * 10 + p.j)

    def noise(points):
        shape = tuple(points.shape)
        return torch.tensor(rng.normal([0, 0, 2], 0.5, shape), dtype=torch.float32)

    unsure = torch.full_like(p.conf_i, 1.002)
    if p.i == view:
        p = replace(p, pts_i=noise(p.pts_i), pts_j=noise(p.pts_j), conf_i=unsure, conf_j=unsure)
    elif p.j == view:
        p = replace(p, pts_j=noise(p.pts_j), conf_j=unsure)
    return p


def unrelated(room, other, i, j, seed):
    """Images of different places: each view for itself is fine, the second one's place is not."""
    first = predict(room, [(i, i)], seed)[0]
    second = predict(other, [(j, j)], seed)[0]
    return replace(
        first, i=i, j=j, pts_j=second.pts_i, conf_j=1 + 0.002 * (second.conf_i - 1)
    )  # The network puts it where it always does: into the first camera.


@pytest.mark.parametrize("poses", [False, True])
@pytest.mark.parametrize("edges", [PAIR, WITH_SELF])
def test_two_images_of_different_places(edges, poses):
    """Each view keeps its depth; nothing tells that a lone pair is wrong."""
    places = make_room(2, 1), make_room(2, 2)
    predictions = [unrelated(places[i], places[j], i, j, 1) for i, j in edges]
    result = align(places[0], predictions, poses)
    assert result.placed[0]
    assert np.median(result.depth[0] / places[0].depth[0]) == pytest.approx(1, abs=0.3)


def test_a_camera_in_another_place_is_not_placed():
    room, other = make_room(3, 1), make_room(3, 2)
    edges = [(i, j) for i in range(3) for j in range(3) if i != j]
    places = room, room, other
    predictions = [
        unrelated(places[i], places[j], i, j, 1) if 2 in (i, j) else p
        for p in predict(room, edges, 1)
        for i, j in [(p.i, p.j)]
    ]
    result = align(room, predictions)
    assert result.placed.tolist() == [True, True, False]
    assert "pair cam0-cam2 rejected: its images do not overlap" in result.notes
    assert "camera cam2 could not be placed" in result.notes


@pytest.mark.parametrize("seed", range(3))
def test_one_black_image_among_four(seed):
    room = make_room(4, seed)
    edges = [(i, j) for i in range(4) for j in range(4) if i != j]
    predictions = [blind(p, 2) for p in predict(room, edges, seed)]
    result = align(room, predictions)
    others = [0, 1, 3]
    assert result.placed[others].all() and not result.placed[2]
    assert "camera cam2 could not be placed" in result.notes
    rest = replace(
        room,
        T_world_cam=room.T_world_cam[others],
        K=[room.K[v] for v in others],
        depth=[room.depth[v] for v in others],
    )
    found = [[values[v] for v in others] for values in (result.K, result.depth)]
    error = errors(rest, result.T_world_cam[others], *found)
    assert error.camera < 0.1 and error.rotation < 1


@pytest.mark.parametrize("cameras", [1, 2])
@pytest.mark.parametrize("poses", [False, True])
def test_nothing_but_black_images(cameras, poses):
    room = make_room(cameras, 1)
    edges = PAIR if cameras == 2 else [(0, 0)]
    predictions = [blind(blind(p, 0), 1) for p in predict(room, edges, 1)]
    align(room, predictions, poses)


@pytest.mark.parametrize("edges", [PAIR, WITH_SELF])
@pytest.mark.parametrize("poses", [False, True])
def test_two_identical_images(edges, poses):
    """The same image twice: no baseline. One pose, one depth."""
    room = make_room(2, 3)
    same = replace(
        room,
        T_world_cam=room.T_world_cam[[0, 0]],
        K=[room.K[0]] * 2,
        depth=[room.depth[0]] * 2,
        people=[room.people[0]] * 2,
    )
    result = align(same, predict(same, edges, 3), poses)
    assert result.placed.all()
    apart = np.linalg.norm(result.T_world_cam[1, :3, 3] - result.T_world_cam[0, :3, 3])
    assert apart < 0.15 and rotation_angle(*result.T_world_cam) < np.deg2rad(1.5)
    assert np.median(result.depth[0] / room.depth[0]) == pytest.approx(1, abs=0.3)
    exact = align(same, predict(same, edges, 3, EXACT), poses)
    assert np.abs(exact.T_world_cam[1] - exact.T_world_cam[0]).max() < 2e-3


@pytest.mark.parametrize("edges", [PAIR, WITH_SELF])
def test_two_cameras(edges):
    room = make_room(2, 5)
    result = align(room, predict(room, edges, 5))
    error = errors(room, result.T_world_cam, result.K, result.depth)
    assert result.placed.all() and error.rotation < 1.5 and error.camera < 0.12


def test_two_cameras_of_which_one_goes_blind_and_returns():
    room, aligner = make_room(2, 6), Aligner()
    before = align(room, predict(room, WITH_SELF, 0), aligner=aligner)
    black = [blind(p, 1) for p in predict(room, WITH_SELF, 1)]
    during = align(room, black, aligner=aligner)
    assert during.placed[0]
    np.testing.assert_allclose(during.T_world_cam[0], before.T_world_cam[0], atol=0.02)
    after = align(room, predict(room, WITH_SELF, 2), aligner=aligner)
    assert after.placed.all()
    np.testing.assert_allclose(after.T_world_cam, before.T_world_cam, atol=0.15)


def test_two_cameras_that_take_one_place_for_another():
    """Nothing contradicts a lone pair: it is believed, but finite and in front of the cameras."""
    room = make_room(2, 7)
    result = align(room, [misplaced(p, 1) for p in predict(room, PAIR, 7)])
    assert result.placed[0]


def test_a_network_that_is_never_sure_of_second_views_still_places_the_cameras():
    """As weakly trained networks are: what is rejected for doubt must be doubtful by comparison."""
    room = make_room(4, 2)
    predictions = [
        replace(p, conf_j=1 + 1e-4 * (p.conf_j - 1))
        for p in predict(room, [(0, 1), (1, 2), (2, 3), (3, 0)], 2)
    ]
    result = align(room, predictions)
    assert result.placed.all()
    error = errors(room, result.T_world_cam, result.K, result.depth)
    assert error.camera < 0.15 and error.rotation < 1.5
