"""Alignment of synthetic rooms: cold, calibrated, partly known, damaged, over time."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_pairs import (
    EXACT,
    Noise,
    described,
    errors,
    garbage,
    make_room,
    predict,
    prediction,
)

from hamst3r.alignment.fusion import DepthOpinion, KeptDepth, clean, clean_by_past, fuse_depth
from hamst3r.alignment.incremental import Aligner
from hamst3r.alignment.intrinsics import FocalAverage, weiszfeld_focal
from hamst3r.alignment.placement import fit_poses
from hamst3r.alignment.resection import resect, weighted_median
from hamst3r.alignment.world import World
from hamst3r.frames import Frame, FrameSet
from hamst3r.geometry import (
    invert,
    make_T,
    pixel_rays,
    rotation_angle,
    split_similarity,
    transform,
)
from hamst3r.pairs import choose_pairs
from hamst3r.scene import ScaleSource

PAIRS = choose_pairs(4)
BOTH_WAYS = [*PAIRS, *((j, i) for i, j in PAIRS)]


def nobody(room):
    return [np.zeros(depth.shape, bool) for depth in room.depth]


def align(room, predictions, poses=False, intrinsics=False, movers=None, aligner=None):
    return (aligner or Aligner()).solve(
        room.frames(poses, intrinsics),
        room.images(poses or intrinsics),
        predictions,
        nobody(room) if movers is None else movers,
    )


# ------------------------------------------------------------------ nothing known


@pytest.mark.parametrize("seed", [10, 11])
def test_exact_pointmaps_give_exact_cameras(seed):
    room = make_room(4, seed)
    result = align(room, predict(room, PAIRS, seed, EXACT))
    error = errors(room, result.T_world_cam, result.K, result.depth)
    assert result.placed.all() and not result.notes
    assert error.camera < 2e-3 and error.rotation < 0.05
    assert error.focal < 1e-3 and error.points < 2e-3


def test_cold_solve_of_noisy_pairs_reaches_the_prototypes_figures():
    """PERFORMANCE.md 3e, all ordered pairs: cameras 32 mm (worst 45), points 48.5 mm."""
    found = []
    for seed in (10, 11, 12):
        room = make_room(4, seed, 112, 84)
        result = align(room, predict(room, BOTH_WAYS, seed))
        found.append(errors(room, result.T_world_cam, result.K, result.depth))
    assert np.median([e.camera for e in found]) < 0.040
    assert max(e.camera for e in found) < 0.055
    assert np.median([e.rotation for e in found]) < 0.5
    assert np.median([e.focal for e in found]) < 0.01
    assert np.mean([e.points for e in found]) < 0.060


@pytest.mark.parametrize("mode", ["complete", "swin", "oneref"])
@pytest.mark.parametrize("cameras", [2, 3, 5])
def test_every_pairing_places_every_number_of_cameras(mode, cameras):
    room = make_room(cameras, 3)
    result = align(room, predict(room, choose_pairs(cameras, mode), 3))
    error = errors(room, result.T_world_cam, result.K, result.depth)
    assert result.placed.all()
    assert error.camera < 0.12 and error.rotation < 1.5 and error.focal < 0.03
    assert result.scale_source is ScaleSource.NETWORK
    assert ((result.camera_confidence > 0.3) & (result.camera_confidence <= 1)).all()


def test_the_world_starts_level_at_a_camera_in_the_networks_scale():
    room = make_room(4, 5)
    result = align(room, predict(room, PAIRS, 5, EXACT))
    np.testing.assert_allclose(result.T_world_cam[0][:3, 3], 0, atol=1e-9)
    np.testing.assert_allclose(result.T_world_cam[0][:3, 1], [0, 0, -1], atol=1e-9)
    ratio = np.concatenate([d / t for d, t in zip(result.depth, room.depth, strict=True)])
    assert np.median(ratio) == pytest.approx(1, abs=0.01)


def test_known_intrinsics_win():
    room = make_room(4, 6)
    result = align(room, predict(room, PAIRS, 6), intrinsics=True)
    for K, truth in zip(result.K, room.K, strict=True):
        np.testing.assert_array_equal(K, truth)


# ------------------------------------------------------------------ known cameras


@pytest.mark.parametrize("seed", [10, 11, 12])
def test_calibrated_poses_are_exact_and_the_scale_metric(seed):
    room = make_room(4, seed)
    far_off = Noise(scale=0.1)
    predictions = predict(room, PAIRS, seed, far_off)
    predictions = [
        replace(p, pts_i=1.7 * p.pts_i, pts_j=1.7 * p.pts_j) for p in predictions
    ]  # The network is off by 1.7 everywhere.
    result = align(room, predictions, poses=True)
    np.testing.assert_array_equal(result.T_world_cam, room.T_world_cam)
    assert (result.camera_confidence == 1).all()
    assert result.scale_source is ScaleSource.CALIBRATION
    for depth, truth in zip(result.depth, room.depth, strict=True):
        assert np.median(depth / truth) == pytest.approx(1, abs=0.03)
    assert 0 < result.scale_std < 0.1


@pytest.mark.parametrize("seed", [10, 11])
def test_matches_make_a_calibrated_rig_metric_when_second_views_are_garbage(seed):
    room = make_room(4, seed)
    predictions = [
        described(room, garbage(replace(p, pts_i=1.7 * p.pts_i), k), seed)
        for k, p in enumerate(predict(room, PAIRS, seed))
    ]
    result = align(room, predictions, poses=True)
    assert result.scale_source is ScaleSource.CALIBRATION
    for depth, truth in zip(result.depth, room.depth, strict=True):
        seen = depth > 0
        assert np.median(depth[seen] / truth[seen]) == pytest.approx(1, abs=0.04)
    without = align(room, [replace(p, desc_i=0 * p.desc_i) for p in predictions], poses=True)
    assert without.scale_source is ScaleSource.NETWORK


@pytest.mark.parametrize("seed", [10, 11])
def test_people_make_a_calibrated_rig_metric_when_second_views_are_garbage(seed):
    room = make_room(4, seed)
    predictions = [
        garbage(replace(p, pts_i=1.7 * p.pts_i), k)
        for k, p in enumerate(predict(room, PAIRS, seed))
    ]
    result = align(room, predictions, poses=True, movers=room.people)
    assert result.scale_source is ScaleSource.CALIBRATION
    ratios = [d[d > 0] / t[d > 0] for d, t in zip(result.depth, room.depth, strict=True)]
    assert np.median(np.concatenate(ratios)) == pytest.approx(1, abs=0.15)
    assert 0.05 < result.scale_std < 0.3
    nameless = align(room, predictions, poses=True, movers=[ids > 0 for ids in room.people])
    assert nameless.scale_source is ScaleSource.NETWORK


def test_calibrated_poses_survive_any_prediction():
    room = make_room(4, 10)
    noise = [garbage(p, k) for k, p in enumerate(predict(room, PAIRS, 10))]
    for predictions in (noise, []):
        result = align(room, predictions, poses=True)
        np.testing.assert_array_equal(result.T_world_cam, room.T_world_cam)
        assert result.placed.all()
    assert result.scale_source is ScaleSource.NETWORK
    assert not any(depth.any() for depth in result.depth)


def test_a_scale_beyond_belief_falls_back_to_the_network():
    room = make_room(4, 10)
    predictions = [
        replace(p, pts_i=p.pts_i / 50, pts_j=p.pts_j / 50) for p in predict(room, PAIRS, 10, EXACT)
    ]
    result = align(room, predictions, poses=True)
    assert result.scale_source is ScaleSource.NETWORK
    assert any("network's own scale is used" in note for note in result.notes)
    assert np.median(result.depth[0] / room.depth[0]) == pytest.approx(1 / 50, rel=0.02)


@pytest.mark.parametrize("known", [(1,), (0, 2), (0, 1, 3)])
def test_known_cameras_hold_the_others(known):
    room = make_room(4, 12)
    frames = room.frames(poses=True)
    frames = FrameSet(
        0,
        tuple(f if v in known else replace(f, T_rig_cam=None) for v, f in enumerate(frames.frames)),
    )
    predictions = predict(room, PAIRS, 12)
    result = Aligner().solve(frames, room.images(True), predictions, nobody(room))
    for view in known:
        np.testing.assert_array_equal(result.T_world_cam[view], room.T_world_cam[view])
        assert result.camera_confidence[view] == 1
    assert result.placed.all()
    assert (np.rad2deg(rotation_angle(result.T_world_cam, room.T_world_cam)) < 2.5).all()
    if len(known) > 1:
        assert result.scale_source is ScaleSource.CALIBRATION
        centres = result.T_world_cam[:, :3, 3] - room.T_world_cam[:, :3, 3]
        assert np.linalg.norm(centres, axis=1).max() < 0.25
        assert np.median(result.depth[2] / room.depth[2]) == pytest.approx(1, abs=0.05)
    else:
        assert result.scale_source is ScaleSource.NETWORK


# ------------------------------------------------------------------ damage


@pytest.mark.parametrize("victim", range(6))
def test_one_garbage_pair_is_rejected(victim):
    room = make_room(4, 11)
    predictions = predict(room, PAIRS, 11)
    predictions[victim] = garbage(predictions[victim], victim)
    result = align(room, predictions)
    error = errors(room, result.T_world_cam, result.K, result.depth)
    assert result.placed.all()
    assert error.camera < 0.12 and error.rotation < 1.2


@pytest.mark.parametrize("victim", range(6))
def test_a_pair_that_is_consistent_but_wrong_is_rejected(victim):
    """Its pointmaps fit each other; only the other pairs can tell that the relative pose is off."""
    room = make_room(4, 11)
    predictions = predict(room, PAIRS, 11)
    bad = predictions[victim]
    wrong = make_T([[0, -1, 0], [1, 0, 0], [0, 0, 1]], [0.5, 0.2, 0])
    points = torch.tensor(transform(wrong, bad.pts_j.numpy().astype(float))).float()
    predictions[victim] = replace(bad, pts_j=points, conf_j=5 * bad.conf_j)
    result = align(room, predictions)
    assert f"pair cam{bad.i}-cam{bad.j} rejected: it contradicts the other pairs" in result.notes
    error = errors(room, result.T_world_cam, result.K, result.depth)
    assert error.camera < 0.12 and error.rotation < 1.2


def ruin(p, kind):
    if kind == "nan":
        return replace(p, pts_i=p.pts_i * torch.nan, pts_j=p.pts_j * torch.nan)
    if kind == "inf":
        return replace(p, pts_i=p.pts_i + torch.inf, pts_j=p.pts_j + torch.inf)
    if kind == "no confidence":
        return replace(p, conf_i=torch.ones_like(p.conf_i), conf_j=torch.ones_like(p.conf_j))
    if kind == "nan confidence":
        return replace(p, conf_i=p.conf_i * torch.nan, conf_j=p.conf_j * torch.nan)
    if kind == "behind":
        return replace(p, pts_i=-p.pts_i, pts_j=-p.pts_j)
    if kind == "one point":
        return replace(p, pts_i=torch.ones_like(p.pts_i), pts_j=torch.ones_like(p.pts_j))
    if kind == "wrong shape":
        return replace(p, pts_i=p.pts_i[:-1], conf_i=p.conf_i[:-1])
    return garbage(p, 0)


KINDS = [
    "nan",
    "inf",
    "no confidence",
    "nan confidence",
    "behind",
    "one point",
    "wrong shape",
    "random",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("poses", [False, True], ids=["uncalibrated", "calibrated"])
def test_ruined_predictions_never_raise(kind, poses):
    room = make_room(3, 2, 40, 30)
    whole = predict(room, choose_pairs(3), 2)
    for predictions in ([ruin(p, kind) for p in whole], [ruin(whole[0], kind), *whole[1:]]):
        result = align(room, predictions, poses=poses)
        assert np.isfinite(result.T_world_cam).all()
        for depth, confidence in zip(result.depth, result.confidence, strict=True):
            assert np.isfinite(depth).all() and (depth >= 0).all()
            assert np.isfinite(confidence).all()
            assert ((confidence >= 1) == (depth > 0)).all()


@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 3))
@settings(max_examples=25)
def test_an_untrained_networks_output_never_raises(seed, poses, cameras):
    rng = np.random.default_rng(seed)
    room = make_room(cameras, seed % 5, 20, 16)

    def noise(i, j):
        points = rng.normal(size=(2, 16, 20, 3)) * 10.0 ** rng.integers(-4, 5)
        confidence = 1 + np.exp(rng.normal(size=(2, 16, 20)) * 3)
        return prediction(i, j, points[0], points[1], confidence[0], confidence[1])

    result = align(room, [noise(i, j) for i, j in choose_pairs(cameras)], poses=poses)
    assert np.isfinite(result.T_world_cam).all()
    assert np.allclose(np.linalg.det(result.T_world_cam[:, :3, :3]), 1)
    assert all(np.isfinite(depth).all() for depth in result.depth)


def test_without_pairs_nobody_is_placed_and_it_says_so():
    room = make_room(3, 2)
    result = align(room, [])
    assert not result.placed.any()
    assert not any(confidence.any() for confidence in result.confidence)
    assert sum("could not be placed" in note for note in result.notes) == 3


def test_separate_components_are_not_glued():
    room = make_room(4, 10)
    # 0-1-2 hang together, 3 is only paired with garbage.
    predictions = predict(room, [(0, 1), (1, 2), (0, 2), (0, 3)], 10)
    predictions[3] = garbage(predictions[3], 0)
    result = align(room, predictions)
    assert result.placed.tolist() == [True, True, True, False]
    assert not result.depth[3].any()
    assert "camera cam3 could not be placed" in result.notes


def test_lengths_that_do_not_match_are_an_error():
    room = make_room(2, 0)
    with pytest.raises(ValueError, match="2 frames, 2 images and 1 mover masks"):
        align(room, [], movers=nobody(room)[:1])


# ------------------------------------------------------------------ people and time


def moved_people(room, predictions, shift):
    """The people of each pair's second view stand elsewhere, and the network is sure of it."""
    result = []
    for p in predictions:
        points, confidence = p.pts_j.clone(), p.conf_j.clone()
        mask = torch.tensor(room.people[p.j] > 0)
        points[mask] += torch.tensor(shift, dtype=torch.float32)
        confidence[mask] = 12.0
        result.append(replace(p, pts_j=points, conf_j=confidence))
    return result


def test_people_who_move_do_not_disturb_the_cameras():
    room = make_room(4, 13)
    still = predict(room, PAIRS, 13)
    moving = moved_people(room, still, [0.5, 0.0, 0.4])
    reference = align(room, still, movers=room.people)
    result = align(room, moving, movers=room.people)
    np.testing.assert_allclose(result.T_world_cam, reference.T_world_cam, atol=1e-9)
    seen = (room.people[0] > 0) & (result.depth[0] > 0)
    assert seen.sum() > 0.9 * (room.people[0] > 0).sum(), (
        "the depth of people is fused all the same"
    )


def test_a_lone_camera_has_depth_and_a_pose():
    room = make_room(1, 4)
    predictions = predict(room, choose_pairs(1), 4)
    result = align(room, predictions)
    assert result.placed.all()
    np.testing.assert_allclose(result.T_world_cam[0][:3, 1], [0, 0, -1], atol=1e-9)
    assert np.median(result.depth[0] / room.depth[0]) == pytest.approx(1, abs=0.3)
    assert (result.depth[0] > 0).mean() > 0.9
    known = align(room, predictions, poses=True)
    np.testing.assert_array_equal(known.T_world_cam, room.T_world_cam)
    assert (known.depth[0] > 0).mean() > 0.9


def test_a_static_rig_keeps_its_world_and_calms_down():
    room = make_room(4, 14)
    aligner = Aligner()
    poses, focals = [], []
    for k in range(12):
        result = align(room, predict(room, PAIRS, 100 + k), aligner=aligner)
        poses.append(result.T_world_cam)
        focals.append(result.K[1][0, 0])
    steps = [np.linalg.norm(b[:, :3, 3] - a[:, :3, 3]) for a, b in pairwise(poses)]
    assert np.mean(steps[-4:]) < 0.5 * np.mean(steps[:4])
    assert np.std(focals[-4:]) < np.std(focals[:4])
    assert errors(room, poses[-1], room.K, room.depth).camera < 0.04


def test_a_view_that_drops_out_leaves_the_others_in_place_and_returns():
    room = make_room(4, 14)
    aligner = Aligner()
    whole = align(room, predict(room, PAIRS, 1), aligner=aligner)
    frames = room.frames()
    lone = aligner.solve(
        FrameSet(0, frames.frames[2:3]),
        room.images()[2:3],
        [replace(p, i=0, j=0) for p in predict(room, [(2, 2)], 1)],
        [room.people[2]],
    )
    assert lone.placed.all()
    np.testing.assert_allclose(lone.T_world_cam[0], whole.T_world_cam[2], atol=1e-6)
    again = align(room, predict(room, PAIRS, 1), aligner=aligner)
    np.testing.assert_allclose(again.T_world_cam, whole.T_world_cam, atol=0.05)
    aligner.reset()
    lone = aligner.solve(
        FrameSet(0, frames.frames[2:3]),
        room.images()[2:3],
        [replace(p, i=0, j=0) for p in predict(room, [(2, 2)], 1)],
        [room.people[2]],
    )
    np.testing.assert_allclose(lone.T_world_cam[0][:3, 3], 0, atol=1e-9)


def test_a_camera_that_was_moved_is_followed_at_once():
    room = make_room(4, 15)
    aligner = Aligner()
    for k in range(5):
        before = align(room, predict(room, PAIRS, k), aligner=aligner)
    turned = room.T_world_cam.copy()
    turned[3] = turned[3] @ make_T(np.eye(3), [0.9, 0.0, -0.3])
    other = make_room(4, 15)
    other = replace(other, T_world_cam=turned)
    after = align(other, predict(other, PAIRS, 9), aligner=aligner)
    assert "camera cam3 has moved" in after.notes
    shift = np.linalg.norm(after.T_world_cam[:, :3, 3] - before.T_world_cam[:, :3, 3], axis=1)
    assert shift[3] == pytest.approx(np.hypot(0.9, 0.3), abs=0.25)
    assert shift[:3].max() < 0.15


def test_poses_that_arrive_later_take_over():
    room = make_room(3, 16)
    aligner = Aligner()
    predictions = predict(room, choose_pairs(3), 16)
    align(room, predictions, aligner=aligner)
    result = align(room, predictions, poses=True, aligner=aligner)
    np.testing.assert_array_equal(result.T_world_cam, room.T_world_cam)


# ------------------------------------------------------------------ the parts


@given(st.integers(0, 2**32 - 1), st.floats(20, 300))
@settings(max_examples=40)
def test_weiszfeld_ignores_a_minority(seed, focal):
    rng = np.random.default_rng(seed)
    points = rng.normal([0, 0, 5], size=(60, 3))
    pixels = focal * points[:, :2] / points[:, 2:]
    pixels[:10] += rng.normal(size=(10, 2)) * focal
    found = weiszfeld_focal(points, pixels, np.ones(60), iterations=40)
    assert found == pytest.approx(focal, rel=0.02)


def test_weiszfeld_without_evidence_is_none():
    assert weiszfeld_focal(np.ones((5, 3)), np.ones((5, 2)), np.zeros(5)) is None
    on_axis = np.tile([0, 0, 1.0], (5, 1))
    assert weiszfeld_focal(on_axis, np.zeros((5, 2)), np.ones(5)) is None


def test_focal_average_is_a_mean_then_a_window():
    average = FocalAverage(window=4)
    average.correct(3.0)  # of nothing
    assert average.value is None
    for value in (1.0, 2.0, 4.0):
        average.add(value)
    assert average.value == pytest.approx(2.0)
    for _ in range(60):
        average.add(1.0)
    assert average.value == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("free_focal", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_resection_finds_camera_and_focal_among_outliers(free_focal, seed):
    room = make_room(2, seed)
    T_1_0 = invert(room.T_world_cam[1]) @ room.T_world_cam[0]
    X = transform(invert(T_1_0), room.points(1)).reshape(-1, 3)
    rng = np.random.default_rng(seed)
    outliers = rng.random(len(X)) < 0.2
    X[outliers] += rng.normal(size=(outliers.sum(), 3))
    K = room.K[1].copy()
    if free_focal:
        K[[0, 1], [0, 1]] *= 1.4  # A wrong guess.
    rays = pixel_rays(K, *room.depth[1].shape).reshape(-1, 3)
    found = resect(X, rays, np.ones(len(X)), free_focal)
    np.testing.assert_allclose(found.T_cam_points, T_1_0, atol=2e-3)
    assert found.focal_factor == pytest.approx(1 / 1.4 if free_focal else 1, rel=2e-3)


def test_resection_of_nothing_is_none():
    rays = np.tile([0, 0, 1.0], (30, 1))
    assert resect(np.ones((30, 3)), rays, np.zeros(30)) is None


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=9))
def test_weighted_median_of_equal_weights_is_a_median(values):
    array = np.array(values)
    found = weighted_median(array, np.ones(len(array)))
    assert (array <= found).sum() * 2 >= len(array) and (array >= found).sum() * 2 >= len(array)


def test_weighted_median_without_weight_is_nan():
    assert np.isnan(weighted_median(np.ones(3), np.zeros(3)))
    assert np.isnan(weighted_median(np.empty(0), np.empty(0)))


def test_fusion_follows_the_majority_and_lowers_confidence_of_dissent():
    points = np.zeros((2, 3, 3), np.float32)
    weight = np.full((2, 3), 4, np.float32)

    def opinion(z, w=weight):
        moved = points.copy()
        moved[..., 2] = z
        return DepthOpinion(moved, w, np.eye(4))

    depth, confidence = fuse_depth(
        (2, 3), [opinion(2.0), opinion(2.02), opinion(3.0, 1.5 * weight)]
    )
    np.testing.assert_allclose(depth, 2.01, atol=0.01)
    agreed = fuse_depth((2, 3), [opinion(2.0)] * 3)[1]
    assert (confidence < agreed).all() and (confidence > 1).all()
    nothing = fuse_depth((2, 3), [opinion(-1.0), opinion(2.0, 0 * weight)])
    assert not nothing[0].any() and not nothing[1].any()
    assert not fuse_depth((2, 3), [])[0].any()


def test_cleaning_takes_only_what_floats_before_a_surer_surface():
    room = make_room(3, 8)
    depths = [depth.astype(np.float32) for depth in room.depth]
    confidences = [np.full(d.shape, 5, np.float32) for d in depths]
    depths[0][20:26, 30:40] *= 0.5
    confidences[0][20:26, 30:40] = 2
    views = [0, 1, 2]
    result = clean(depths, confidences, room.K, room.T_world_cam, views)
    assert (result[0][20:26, 30:40] == 1).mean() > 0.5
    # Equally sure points stay: the surfaces of the true room do not contradict each other.
    assert (result[1] == 5).all() and (result[2] == 5).all()
    confidences[0][:] = 9
    again = clean(depths, confidences, room.K, room.T_world_cam, views)
    assert (again[0] == 9).all()


def test_the_past_judges_lonely_pixels_but_not_what_came_since():
    room = make_room(2, 8)
    depths = [depth.astype(np.float32) for depth in room.depth]
    confidences = [np.full(d.shape, 3, np.float32) for d in depths]
    past = [
        KeptDepth(depth.copy(), np.full(depth.shape, 5, np.float32), K, T)
        for depth, K, T in zip(depths, room.K, room.T_world_cam, strict=True)
    ]
    solid, lonely = np.zeros((2, *depths[0].shape), bool)
    solid[20:32, 30:45] = True
    lonely[5:50:4, 5:25:4] = True
    depths[0][solid | lonely] *= 0.6
    seen = [*room.K], room.T_world_cam, [0, 1]
    result = clean_by_past(depths, confidences, *seen, past)
    assert (result[0][lonely] == 1).mean() > 0.9
    inside = np.zeros_like(solid)
    inside[21:31, 31:44] = True
    assert (result[0][inside] == 3).all(), "somebody put it there"
    assert (result[0] == 1)[~(solid | lonely)].mean() < 0.02
    # Movers of the past are no witnesses, nor is what was less sure.
    nobody = [replace(k, depth=np.zeros_like(k.depth)) for k in past]
    unsure = [replace(k, confidence=np.full_like(k.confidence, 2)) for k in past]
    for witnesses in ([], nobody, unsure):
        same = clean_by_past(depths, confidences, *seen, witnesses)
        np.testing.assert_array_equal(same[0], confidences[0])


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.integers(1, 5))
def test_fit_poses_recovers_a_similarity(seed, scale, count):
    rng = np.random.default_rng(seed)
    turns = np.linalg.qr(rng.normal(size=(count + 1, 3, 3)))[0]
    turns[np.linalg.det(turns) < 0, :, 0] *= -1
    source = np.stack(
        [make_T(R, t) for R, t in zip(turns[1:], rng.normal(size=(count, 3)), strict=True)]
    )
    truth = make_T(turns[0], rng.normal(size=3), scale if count > 1 else 1.0)
    target = split_similarity(truth @ source)[0]
    np.testing.assert_allclose(fit_poses(source, target), truth, atol=1e-7 * max(1, scale))


def test_of_two_cameras_that_disagree_neither_is_averaged():
    world = World()
    start = {"a": np.eye(4), "b": make_T(np.eye(3), [1, 0, 0])}
    image = np.zeros((1, 1, 3), np.uint8)
    frames = {name: Frame(name, 0, image) for name in start}
    world.continue_with(start, frames)
    turned = {"a": np.eye(4), "b": make_T([[0, -1, 0], [1, 0, 0], [0, 0, 1]], [1, 0, 0])}
    _, poses, moved = world.continue_with(turned, frames)
    assert sorted(moved) == ["a", "b"]
    relative = invert(poses["a"]) @ poses["b"]
    np.testing.assert_allclose(relative[:3, :3], turned["b"][:3, :3], atol=1e-9)
