"""Transforms and projection hold their defining properties for any input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hamst3r import geometry as g

seeds = st.integers(0, 2**32 - 1)
scales = st.floats(0.01, 100)


def random_similarity(rng, scale=1.0):
    return g.make_T(Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3) * 5, scale)


def generator(seed):
    return np.random.RandomState(seed)


@given(seeds, scales)
def test_invert_and_transform_are_inverse(seed, scale):
    rng = generator(seed)
    T_a_b, points_b = random_similarity(rng, scale), rng.normal(size=(4, 5, 3))
    back = g.transform(g.invert(T_a_b), g.transform(T_a_b, points_b))
    np.testing.assert_allclose(back, points_b, atol=1e-9)


@given(seeds)
def test_lengths_are_norms(seed):
    vectors = generator(seed).normal(size=(3, 4, 2))
    np.testing.assert_allclose(g.lengths(vectors), np.linalg.norm(vectors, axis=-1))


@given(seeds, scales)
def test_split_similarity_recomposes(seed, scale):
    T = np.stack([random_similarity(generator(seed), scale), np.eye(4)])
    rigid, found = g.split_similarity(T)
    np.testing.assert_allclose(found, [scale, 1], rtol=1e-9)
    np.testing.assert_allclose(np.linalg.det(rigid[:, :3, :3]), 1, rtol=1e-9)
    np.testing.assert_allclose(rigid[0, :3, 3], T[0, :3, 3])


@given(seeds)
def test_projection_returns_the_pixel_it_was_unprojected_from(seed):
    rng = generator(seed)
    K = np.array([[rng.uniform(20, 90), 0, 9], [0, rng.uniform(20, 90), 7], [0, 0, 1]])
    depth = rng.uniform(0.1, 10, (6, 8))
    pixels = g.project(g.unproject(depth, K), K)
    v, u = np.mgrid[0:6, 0:8]
    np.testing.assert_allclose(pixels, np.stack([u, v], -1), atol=1e-9)


def test_nothing_is_seen_behind_the_camera():
    assert np.isnan(g.project(np.array([[0.1, 0.2, -1.0], [0.0, 0.0, 0.0]]), np.eye(3))).all()


@given(seeds, scales)
@settings(max_examples=50)
def test_umeyama_recovers_a_similarity_despite_worthless_points(seed, scale):
    rng = generator(seed)
    truth, source = random_similarity(rng, scale), rng.normal(size=(12, 3))
    target, weights = g.transform(truth, source), rng.uniform(0.5, 2, 12)
    target[:3] += 50
    weights[:3] = 0
    np.testing.assert_allclose(g.umeyama(source, target, weights), truth, atol=1e-7 * max(1, scale))


def test_umeyama_of_a_plane_is_a_proper_rotation():
    rng = generator(0)
    source = rng.normal(size=(20, 3)) * [1, 1, 0]
    truth = random_similarity(rng, 2.0)
    np.testing.assert_allclose(g.umeyama(source, g.transform(truth, source)), truth, atol=1e-9)


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((2, 3)),
        np.ones((5, 3)),
        np.arange(5)[:, None] * np.array([[1.0, 2, 3]]),
        np.full((5, 3), np.nan),
        np.empty((0, 3)),
    ],
    ids=["too few", "one point", "a line", "not finite", "none"],
)
def test_umeyama_refuses_what_does_not_determine_it(source):
    assert g.umeyama(source, source) is None
    assert g.rigid_fit(source, source) is None


def test_umeyama_refuses_points_without_weight():
    assert g.umeyama(np.eye(3), np.eye(3), np.zeros(3)) is None


@given(seeds)
def test_rigid_fit_keeps_lengths(seed):
    rng = generator(seed)
    truth, source = random_similarity(rng), rng.normal(size=(9, 3))
    np.testing.assert_allclose(g.rigid_fit(source, g.transform(truth, source)), truth, atol=1e-9)
    scaled = g.rigid_fit(source, 3 * g.transform(truth, source))
    np.testing.assert_allclose(scaled[:3, :3], truth[:3, :3], atol=1e-9)


@given(seeds, st.floats(0, 3.1))
def test_rotation_angle(seed, angle):
    rng = generator(seed)
    axis = rng.normal(size=3)
    turn = g.make_T(Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix(), 0)
    T = random_similarity(rng)
    assert g.rotation_angle(T, T @ turn) == pytest.approx(angle, abs=1e-6)


def test_mean_rotation_is_between():
    turns = Rotation.from_euler("z", [[0.1], [0.3]]).as_matrix()
    np.testing.assert_allclose(
        g.mean_rotation(turns), Rotation.from_euler("z", 0.2).as_matrix(), atol=1e-12
    )


def test_rays_that_cross_meet_there_and_others_leave_their_gap():
    here, there = np.zeros(3), np.array([2.0, 0.5, -1.0])
    places = np.random.default_rng(0).normal([0, 0, 5], size=(20, 3))
    rays_a, rays_b = places / 3, (places - there) / 7
    along_a, along_b, gap, cosine = g.closest_approach(rays_a, rays_b, there - here)
    np.testing.assert_allclose(along_a, 3, rtol=1e-9)
    np.testing.assert_allclose(along_b, 7, rtol=1e-9)
    assert (gap < 1e-9).all() and (np.abs(cosine) < 1).all()
    # Along x at y = 0, and along y at x = 4 and z = 1: a gap of one metre.
    x, y, base = np.array([[2.0, 0, 0]]), np.array([[0, 1.0, 0]]), np.array([4.0, -3, 1])
    found = g.closest_approach(x, y, base)
    np.testing.assert_allclose(np.concatenate(found), [2, 3, 1, 0], atol=1e-12)


@pytest.mark.parametrize("angle", [0, 1e-9, 1e-4, 0.3, 2, np.pi - 1e-3, np.pi - 1e-9])
def test_rotation_vectors_and_matrices_are_scipys(angle):
    axes = np.random.default_rng(0).normal(size=(50, 3))
    vectors = angle * axes / g.lengths(axes)[:, None]
    expected = Rotation.from_rotvec(vectors)
    matrices = g.rotation_matrices(vectors)
    assert np.abs(matrices - expected.as_matrix()).max() < 1e-14
    assert np.abs(g.rotation_vectors(matrices) - expected.as_rotvec()).max() < 1e-7 * angle + 1e-14
    assert np.abs(g.rotation_matrices(g.rotation_vectors(matrices)) - matrices).max() < 1e-13


def test_cross_matrices_multiply_as_the_cross_product_does():
    a, b = np.random.default_rng(1).normal(size=(2, 10, 3))
    assert np.allclose((g.cross_matrices(a) @ b[..., None])[..., 0], np.cross(a, b))
