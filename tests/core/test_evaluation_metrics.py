"""Error measures against exact cases made by hand and against independent implementations."""

from __future__ import annotations

import evo.core.geometry
import evo.core.metrics
import evo.core.trajectory
import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from scipy.spatial.distance import cosine
from scipy.spatial.transform import Rotation
from torchmetrics.functional import mean_absolute_percentage_error
from torchmetrics.functional.classification import binary_accuracy

from hamst3r.evaluation import metrics
from hamst3r.geometry import invert, make_T, transform


def turned(degrees: float, axis: str = "z") -> np.ndarray:
    return Rotation.from_euler(axis, degrees, degrees=True).as_matrix()


def cloud(seed: int, count: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)) * [1.0, 2.0, 0.5]


def rig(seed: int = 0, count: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rotations = Rotation.random(count, random_state=seed).as_matrix()
    return np.stack([make_T(R, rng.normal(size=3) * 2) for R in rotations])


MOTION = make_T(Rotation.from_rotvec([0.3, -0.9, 0.4]).as_matrix(), [1.0, -2.0, 0.5])


# --- alignment ----------------------------------------------------------------------------------


def test_rigid_registration_is_scipys():
    source = cloud(1)
    target = transform(MOTION, source) + 0.1 * cloud(2)
    T = metrics.registration(source, target, scale=False)
    rotation, _ = Rotation.align_vectors(target - target.mean(0), source - source.mean(0))
    np.testing.assert_allclose(T[:3, :3], rotation.as_matrix(), atol=1e-9)
    np.testing.assert_allclose(transform(T, source).mean(0), target.mean(0), atol=1e-12)


def test_similarity_leaves_what_scipys_procrustes_leaves():
    source = cloud(3)
    target = 1.7 * transform(MOTION, source) + 0.2 * cloud(4)
    T = metrics.registration(source, target, scale=True)
    left = ((transform(T, source) - target) ** 2).sum()
    spread = ((target - target.mean(0)) ** 2).sum()
    disparity = procrustes(target, source)[2]  # of targets scaled to a spread of 1
    assert left / spread == pytest.approx(disparity, rel=1e-9)


def test_registration_never_mirrors():
    source = cloud(5)
    for scale in (False, True):
        T = metrics.registration(source, source * [-1, 1, 1], scale)
        assert np.linalg.det(T[:3, :3]) > 0
        assert metrics.mpjpe(transform(T, source)[None], (source * [-1, 1, 1])[None])[0] > 0.1


@pytest.mark.parametrize("align", [metrics.align_by_centres, metrics.align_by_poses])
def test_cameras_bring_worlds_together(align):
    true = rig()
    np.testing.assert_allclose(align(invert(MOTION) @ true, true), MOTION, atol=1e-9)


@pytest.mark.parametrize("centres", [[[0, 0, 0], [2, 0, 0]], [[0, 0, 0], [2, 0, 0], [5, 0, 0]]])
def test_cameras_on_a_line_are_aligned_by_their_poses(centres):
    """Their centres leave the turn about the line open."""
    true = np.stack([make_T(turned(20 * k), c) for k, c in enumerate(centres)])
    np.testing.assert_allclose(
        metrics.align_by_centres(invert(MOTION) @ true, true), MOTION, atol=1e-9
    )


# --- people -------------------------------------------------------------------------------------


def test_joint_errors_by_hand():
    true = np.stack([cloud(0), cloud(1) + 3])
    shift = np.array([[[0.3, 0, 0.4]], [[0, 0, 0.1]]])
    np.testing.assert_allclose(metrics.mpjpe(true + shift, true), [0.5, 0.1])
    np.testing.assert_allclose(metrics.pa_mpjpe(true + shift, true), 0, atol=1e-9)
    # One motion for both cannot undo two different shifts, but a common motion and scale it can.
    assert metrics.ga_mpjpe(true + shift, true).min() > 0.01
    together = 0.5 * transform(MOTION, true)
    np.testing.assert_allclose(metrics.ga_mpjpe(together, true), 0, atol=1e-9)
    assert metrics.mpjpe(together, true).min() > 1


def test_joints_not_known_are_left_out():
    true = np.stack([cloud(0), cloud(1) + 3])
    found = 0.5 * transform(MOTION, true)
    found[0, 3] += 100  # of a joint whose truth is not known
    true[0, 3] = true[1] = np.nan
    for error in (metrics.mpjpe(found, found + 0 * true), metrics.pa_mpjpe(found, true)):
        assert error[0] == pytest.approx(0, abs=1e-9) and np.isnan(error[1])
    assert metrics.ga_mpjpe(found, true)[0] == pytest.approx(0, abs=1e-9)


def test_similarities_are_evos():
    """An implementation that shares no line and no library with ours."""
    true, found = np.stack([cloud(0), cloud(1)]), np.stack([cloud(2), cloud(3)])
    errors = []
    for t, f in zip(true, found, strict=True):
        R, shift, scale = evo.core.geometry.umeyama_alignment(f.T, t.T, with_scale=True)
        errors.append(np.linalg.norm(scale * f @ R.T + shift - t, axis=1).mean())
    np.testing.assert_allclose(metrics.pa_mpjpe(found, true), errors, rtol=1e-9)
    R, shift, scale = evo.core.geometry.umeyama_alignment(
        found.reshape(-1, 3).T, true.reshape(-1, 3).T, with_scale=True
    )
    errors = np.linalg.norm(scale * found @ R.T + shift - true, axis=2).mean(1)
    np.testing.assert_allclose(metrics.ga_mpjpe(found, true), errors, rtol=1e-9)


def test_w_mpjpe_is_joints_after_evos_motion_of_the_cameras():
    true, found = rig(1), rig(2)
    R, shift, _ = evo.core.geometry.umeyama_alignment(found[:, :3, 3].T, true[:, :3, 3].T)
    T = metrics.align_by_centres(found, true)
    joints = cloud(4)[None]
    moved = metrics.mpjpe(transform(T, joints), joints)
    expected = np.linalg.norm(joints @ R.T + shift - joints, axis=2).mean(1)
    np.testing.assert_allclose(moved, expected, rtol=1e-9)


# --- cameras ------------------------------------------------------------------------------------


def test_perfect_cameras_in_another_world_have_no_error():
    true = rig()
    found = MOTION @ true
    for scale in (False, True):
        np.testing.assert_allclose(metrics.centre_errors(found, true, scale), 0, atol=1e-9)
    np.testing.assert_allclose(metrics.pair_rotation_errors(found, true), 0, atol=1e-5)
    np.testing.assert_allclose(metrics.pair_translation_errors(found, true), 0, atol=1e-5)


def test_a_wrong_scale_costs_te_but_neither_s_te_nor_angles():
    true = rig()
    found = true.copy()
    found[:, :3, 3] *= 2
    assert metrics.centre_errors(found, true, scale=False).min() > 0.1
    np.testing.assert_allclose(metrics.centre_errors(found, true, scale=True), 0, atol=1e-9)
    np.testing.assert_allclose(metrics.pair_translation_errors(found, true), 0, atol=1e-5)


def test_centre_errors_by_hand():
    """A square of cameras, two opposite ones 0.2 m too far out: half of that remains to each."""
    square = np.array([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    true = np.stack([make_T(np.eye(3), c) for c in square])
    found = np.stack([make_T(np.eye(3), c) for c in square * [[1.2], [1], [1.2], [1]]])
    np.testing.assert_allclose(
        metrics.centre_errors(found, true, scale=False), [0.2, 0, 0.2, 0], atol=1e-12
    )
    assert metrics.extent(true) == pytest.approx(1)


def test_pair_angles_by_hand():
    true = np.stack([make_T(np.eye(3), [0, 0, 0]), make_T(turned(90), [1, 0, 0])])
    found = np.stack([make_T(np.eye(3), [0, 0, 0]), make_T(turned(50), [0, 3, 0])])
    np.testing.assert_allclose(metrics.pair_rotation_errors(found, true), [40], atol=1e-6)
    np.testing.assert_allclose(metrics.pair_translation_errors(found, true), [90], atol=1e-6)
    found[1, :3, 3] = [-2, 0, 0]  # the opposite direction is the same line
    np.testing.assert_allclose(metrics.pair_translation_errors(found, true), [0], atol=1e-6)
    true[1, :3, 3] = [0, 0, 0.001]  # cameras in one place: no direction
    assert np.isnan(metrics.pair_translation_errors(found, true)).all()


def test_pair_angles_are_those_between_scipys_rotations():
    true, found = rig(1), rig(2)
    angles = []
    for i in range(5):
        for j in range(i + 1, 5):
            a, b = (
                Rotation.from_matrix(T[i, :3, :3]).inv() * Rotation.from_matrix(T[j, :3, :3])
                for T in (true, found)
            )
            angles.append(np.degrees((a.inv() * b).magnitude()))
    np.testing.assert_allclose(metrics.pair_rotation_errors(found, true), angles, atol=1e-6)


@pytest.mark.parametrize("scale", [False, True])
def test_centre_errors_are_evos(scale):
    true, found = rig(1), rig(2)
    reference, estimate = (
        evo.core.trajectory.PosePath3D(poses_se3=list(poses)) for poses in (true, found)
    )
    estimate.align(reference, correct_scale=scale)
    ape = evo.core.metrics.APE(evo.core.metrics.PoseRelation.translation_part)
    ape.process_data((reference, estimate))
    np.testing.assert_allclose(metrics.centre_errors(found, true, scale), ape.error, rtol=1e-9)


def test_pair_rotations_are_evos():
    """Its relative pose error of every pair of poses."""
    true, found = rig(1), rig(2)
    errors = []
    for i in range(5):
        for j in range(i + 1, 5):
            paths = [
                evo.core.trajectory.PosePath3D(poses_se3=[poses[i], poses[j]])
                for poses in (true, found)
            ]
            rpe = evo.core.metrics.RPE(evo.core.metrics.PoseRelation.rotation_angle_deg, delta=1)
            rpe.process_data(tuple(paths))
            errors += list(rpe.error)
    np.testing.assert_allclose(metrics.pair_rotation_errors(found, true), errors, atol=1e-6)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.0, 0.5], 1.0),
        ([180.0, 90.0], 0.0),
        ([10.0], 20 / 30),  # below 11, 12, ... 30
        ([0.0, 180.0], 0.5),
        ([29.5, 30.5], 0.5 / 30),
    ],
)
def test_mean_average_accuracy_by_hand(errors, expected):
    assert metrics.mean_average_accuracy(errors) == pytest.approx(expected)


def test_mean_average_accuracy_is_a_histogram_summed_up():
    """As others compute it: bins of one degree, their running sum, its mean."""
    errors = np.random.default_rng(0).uniform(0, 60, 500)
    histogram = np.histogram(errors, bins=np.arange(31))[0] / len(errors)
    assert metrics.mean_average_accuracy(errors) == pytest.approx(np.cumsum(histogram).mean())


def test_pair_directions_are_scipys_cosines():
    true, found = rig(1), rig(2)
    angles = []
    for i in range(5):
        for j in range(i + 1, 5):
            a, b = ((invert(T[i]) @ T[j])[:3, 3] for T in (true, found))
            angle = np.degrees(np.arccos(1 - cosine(a, b)))
            angles.append(min(angle, 180 - angle))
    np.testing.assert_allclose(metrics.pair_translation_errors(found, true), angles, atol=1e-6)


# --- pixels -------------------------------------------------------------------------------------


def test_point_errors_by_hand():
    true = np.array([[0, 0, 2.0], [3, 0, 4]])
    found = np.array([[0, 0, 1.0], [3, 0, 4]])
    np.testing.assert_allclose(metrics.relative_distances(found, true), [0.5, 0])
    assert metrics.median_scale(0.25 * true, true) == pytest.approx(4)


def test_depth_errors_by_hand():
    true = np.array([1.0, 2, 4, 8, 10])
    assert metrics.depth_errors(3 * true, true) == pytest.approx((0, 1))  # the scale is free
    found = np.array([1.0, 2, 4, 8.2, 11])  # 2.5 % and 10 % too far
    relative, inliers = metrics.depth_errors(found, true)
    assert relative == pytest.approx((0.025 + 0.1) / 5)
    assert inliers == pytest.approx(4 / 5)
    missing = metrics.depth_errors(np.append(true, 0.0), np.append(true, 2.0))
    assert missing == pytest.approx((0.95 / 6, 5 / 6))  # limited to 0.1 m, and wrong
    assert np.isnan(metrics.depth_errors(found[:0], true[:0])).all()
    beyond = metrics.depth_errors(np.append(found, 50.0), np.append(true, 150.0))
    assert beyond == pytest.approx((relative, inliers))  # too far away to be asked for


def test_depth_errors_are_those_of_torchmetrics():
    rng = np.random.default_rng(0)
    true = rng.uniform(0.5, 50, 1000)
    found = true * rng.lognormal(0, 0.05, 1000)
    scaled = found * np.median(true) / np.median(found)
    relative, inliers = metrics.depth_errors(found, true)
    error = mean_absolute_percentage_error(torch.from_numpy(scaled), torch.from_numpy(true))
    assert relative == pytest.approx(float(error), rel=1e-6)
    # tau is what binary accuracy says of "within the factor" against "always".
    within = torch.from_numpy(np.abs(np.log(scaled / true)) < np.log(1.03))
    assert inliers == pytest.approx(float(binary_accuracy(within, torch.ones(1000))), rel=1e-6)


def test_overlaps_by_hand():
    true = np.array([[7, 7, 0, 9], [7, 7, 0, 9]])
    found = np.array([[3, 3, 3, 0], [3, 0, 3, 5]])
    ids, people, counts = metrics.overlaps(found, true)
    assert ids.tolist() == [3, 5] and people.tolist() == [7, 9]
    assert counts.tolist() == [[3, 0, 2], [0, 1, 0], [1, 1, 0]]
    np.testing.assert_allclose(metrics.intersections_over_unions(counts), [[3 / 6, 0], [0, 1 / 2]])


def test_overlaps_of_empty_maps():
    nobody = np.zeros((2, 3), int)
    ids, people, counts = metrics.overlaps(nobody, nobody)
    assert len(ids) == len(people) == 0 and counts.tolist() == [[6]]
    assert metrics.intersections_over_unions(counts).shape == (0, 0)
