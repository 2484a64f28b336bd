"""Measures of videos and clouds against cases made by hand and independent implementations."""

from __future__ import annotations

import evo.core.metrics
import evo.core.trajectory
import numpy as np
import pytest
import trimesh
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from hamst3r.evaluation import clouds, trajectories
from hamst3r.geometry import make_T, transform

MOTION = make_T(Rotation.from_rotvec([0.3, -0.9, 0.4]).as_matrix(), [1.0, -2.0, 0.5])


def walk(frames: int, seed: int = 0) -> np.ndarray:
    """(T, 24, 3) joints of somebody who goes along x."""
    rng = np.random.default_rng(seed)
    body = rng.normal(size=(24, 3)) * 0.3
    way = np.linspace(0, 0.02 * frames, frames)[:, None, None] * [1.0, 0, 0]
    return body + way + 0.01 * rng.normal(size=(frames, 24, 3))


# --- videos -------------------------------------------------------------------------------------


def test_chunks_cover_the_video_but_for_a_lone_frame():
    assert list(trajectories.chunks(250)) == [slice(0, 100), slice(100, 200), slice(200, 250)]
    assert list(trajectories.chunks(101)) == [slice(0, 100)]
    assert list(trajectories.chunks(1)) == []


def test_every_chunk_has_its_own_world_and_scale():
    true = walk(200)
    found = np.concatenate([0.5 * transform(MOTION, true[:100]), true[100:] + 7])
    for error in (trajectories.w_mpjpe(found, true), trajectories.wa_mpjpe(found, true)):
        np.testing.assert_allclose(error, 0, atol=1e-9)


def test_drift_costs_w_more_than_wa():
    true = walk(100)
    found = true + np.linspace(0, 1, 100)[:, None, None] * [0, 1.0, 0]
    w, wa = trajectories.w_mpjpe(found, true), trajectories.wa_mpjpe(found, true)
    assert w[0] < 0.01 and w[-1] > 0.5
    assert wa.mean() < 0.5 * w.mean()


def test_chunk_errors_are_those_after_evos_alignment():
    true, found = walk(120, 0), walk(120, 1)
    expected = []
    for part, first in ((slice(0, 100), 0), (slice(100, 120), 100)):
        R, t, s = evo.core.geometry.umeyama_alignment(
            found[first : first + 2].reshape(-1, 3).T,
            true[first : first + 2].reshape(-1, 3).T,
            True,
        )
        expected += list(np.linalg.norm(s * found[part] @ R.T + t - true[part], axis=2).mean(1))
    np.testing.assert_allclose(trajectories.w_mpjpe(found, true), expected, rtol=1e-9)


def test_frames_without_truth_are_left_out():
    true, found = walk(100), walk(100) + 3
    true[:10] = np.nan
    error = trajectories.w_mpjpe(found, true)
    assert np.isnan(error[:10]).all()
    np.testing.assert_allclose(error[10:], 0, atol=1e-9)
    assert np.isnan(trajectories.w_mpjpe(found, np.full_like(true, np.nan))).all()


@pytest.mark.parametrize("scale", [False, True])
def test_ate_is_evos(scale):
    rng = np.random.default_rng(0)
    true = np.cumsum(rng.normal(size=(60, 3)), 0)
    found = transform(MOTION, true) * 1.3 + 0.1 * rng.normal(size=(60, 3))
    paths = [
        evo.core.trajectory.PosePath3D(
            positions_xyz=xyz, orientations_quat_wxyz=np.tile([1.0, 0, 0, 0], (60, 1))
        )
        for xyz in (true, found)
    ]
    paths[1].align(paths[0], correct_scale=scale)
    ape = evo.core.metrics.APE(evo.core.metrics.PoseRelation.translation_part)
    ape.process_data(tuple(paths))
    errors = trajectories.trajectory_errors(found, true, scale)
    np.testing.assert_allclose(errors, ape.error, rtol=1e-9)
    rmse = ape.get_statistic(evo.core.metrics.StatisticsType.rmse)
    assert np.sqrt((errors**2).mean()) == pytest.approx(rmse)


def test_rte_is_a_share_of_the_way():
    true = np.linspace(0, 10, 11)[:, None] * [1.0, 0, 0]
    assert trajectories.root_translation_error(transform(MOTION, true), true) == pytest.approx(0)
    # Twice as far: both ends are off by a half of the way, the middle is right.
    longer = trajectories.root_translation_error(2 * true, true)
    assert longer == pytest.approx(np.abs(np.linspace(-5, 5, 11)).mean() / 10)
    assert np.isnan(trajectories.root_translation_error(true, 0 * true))


# --- clouds -------------------------------------------------------------------------------------


def test_nearest_is_brute_force():
    a, b = np.random.default_rng(0).normal(size=(2, 50, 3))
    np.testing.assert_allclose(clouds.nearest(a, b), cdist(a, b).min(1))
    assert np.isinf(clouds.nearest(a, b[:0])).all()


def test_thinned_points_keep_their_distance_and_lose_no_place():
    points = np.random.default_rng(0).uniform(size=(3000, 3))
    kept = clouds.thinned(points, 0.1)
    distances = cdist(kept, kept) + np.eye(len(kept))
    assert distances.min() > 0.1
    assert clouds.nearest(points, kept).max() <= 0.1


def test_chamfer_is_brute_force_both_ways():
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=5)
    larger = sphere.vertices * 1.1
    a, b = (clouds.voxel_means(points, 0.3) for points in (sphere.vertices, larger))
    there = cdist(a, b)
    expected = (there.min(1).mean() + there.min(0).mean()) / 2
    assert clouds.chamfer(sphere.vertices, larger) == pytest.approx(expected)
    assert clouds.chamfer(sphere.vertices, larger) == pytest.approx(0.5, abs=0.06)


def scan() -> clouds.ScanTruth:
    """A plate of 20 x 20 mm at z = 5, over a table at z = 0; looked at from 0 to 20 mm."""
    plate = np.mgrid[0:20:41j, 0:20:41j].reshape(2, -1).T
    points = np.column_stack([plate, np.full(len(plate), 5.0)])
    table = np.column_stack([plate, np.full(len(plate), -1.0)])
    mask = np.ones((21, 21, 21), bool)
    return clouds.ScanTruth(
        np.concatenate([points, table]), mask, np.zeros(3), 1.0, np.array([0, 0, 1.0, 0])
    )


def test_dtu_errors_by_hand():
    truth = scan()
    plate = truth.points[truth.points[:, 2] > 0]
    assert clouds.dtu_errors(plate, truth) == pytest.approx((0, 0))
    assert clouds.dtu_errors(plate + np.array([0, 0, 2.0]), truth) == pytest.approx((2, 2))
    # Half a plate is as accurate, but not complete; the table is not asked for.
    half = plate[plate[:, 0] <= 10]
    accuracy, completeness = clouds.dtu_errors(half, truth)
    assert accuracy == 0
    assert completeness == pytest.approx(np.maximum(plate[:, 0] - 10, 0).mean())


def test_what_the_mask_hides_and_what_is_far_is_not_judged():
    truth = scan()
    plate = truth.points[truth.points[:, 2] > 0]
    stray = np.array([[100.0, 0, 0], [-50, 0, 5]])
    assert clouds.dtu_errors(np.concatenate([plate, stray]), truth) == pytest.approx((0, 0))
    assert np.isnan(clouds.dtu_errors(stray, truth)).all()


def test_dtu_accuracy_is_brute_force():
    truth = scan()
    rng = np.random.default_rng(0)
    points = rng.uniform(1, 19, (300, 3))
    accuracy, completeness = clouds.dtu_errors(points, truth, spacing=0.0)
    table = cdist(points, truth.points)
    asked = truth.points[:, 2] > 0
    assert accuracy == pytest.approx(table.min(1).mean())
    assert completeness == pytest.approx(table.min(0)[asked].mean())
