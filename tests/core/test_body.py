"""The body model: skinning, its derivatives, and files that are none."""

from __future__ import annotations

import numpy as np
import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from people_data import observe, random_people

from hamst3r.people.body import (
    JOINT_NAMES,
    PARENTS,
    BodyModelError,
    anny24,
)
from hamst3r.people.body_files import load_body_model
from hamst3r.people.kinematics import (
    BETAS,
    ROTATIONS,
    TRANSLATION,
    Surface,
    apply_increment,
    linearize,
    rig,
    rotation_vectors,
    rotations,
)
from hamst3r.people.normal import ShapePrior, geman_mcclure, normal_equations
from hamst3r.people.prior import LIMIT_STD, joint_limits, pose_prior
from hamst3r.people.state import BodyState

BODY = anny24()
NUMBER = st.floats(-2, 2, width=32)


def test_zero_pose_is_the_template():
    vertices, joints = BODY(torch.eye(3).repeat(1, 24, 1, 1), torch.zeros(1, 3), torch.zeros(1, 10))
    torch.testing.assert_close(vertices[0], BODY.v_template, atol=1e-5, rtol=0)
    torch.testing.assert_close(joints[0], BODY.joint_template, atol=1e-5, rtol=0)


@settings(max_examples=20)
@given(st.tuples(NUMBER, NUMBER, NUMBER), st.tuples(NUMBER, NUMBER, NUMBER), st.integers(0, 99))
def test_a_rigid_move_of_the_parameters_moves_the_body(turn, shift, seed):
    state = random_people(1, torch.Generator().manual_seed(seed))
    R, t = roma.rotvec_to_rotmat(torch.tensor(turn)), torch.tensor(shift)
    vertices, joints = BODY(state.rotations, state.transl, state.betas)
    moved = state.rotations.clone()
    moved[:, 0] = R @ moved[:, 0]
    root = BODY.rest_joints(state.betas)[:, 0]
    transl = (root + state.transl) @ R.T + t - root
    after, joints_after = BODY(moved, transl, state.betas)
    torch.testing.assert_close(after, vertices @ R.T + t, atol=2e-5, rtol=0)
    torch.testing.assert_close(joints_after, joints @ R.T + t, atol=2e-5, rtol=0)


def test_a_subset_of_vertices_is_the_same_as_all():
    generator = torch.Generator().manual_seed(0)
    state = random_people(3, generator)
    full, _ = BODY(state.rotations, state.transl, state.betas)
    each = torch.randint(len(BODY.v_template), (3, 40), generator=generator)
    own, _ = BODY(state.rotations, state.transl, state.betas, each)
    torch.testing.assert_close(own, full.gather(1, each[..., None].expand(-1, -1, 3)))
    shared, _ = BODY(state.rotations, state.transl, state.betas, each[0])
    torch.testing.assert_close(shared, full[:, each[0]])


def stepped(state, step):
    """The state after increments (P, 85), by differentiable code; see ``kinematics.py``."""
    turn, _ = BODY.skeleton(state.rotations, state.transl, state.betas)
    above = torch.cat([torch.eye(3).expand(len(state), 1, 3, 3), turn[:, PARENTS[1:]]], 1)
    local = (above.mT @ step[:, ROTATIONS].unflatten(1, (24, 3, 1)))[..., 0]
    return BodyState(
        roma.rotvec_to_rotmat(local) @ state.rotations,
        state.transl + step[:, TRANSLATION],
        state.betas + step[:, BETAS],
    )


def test_derivatives_equal_automatic_ones():
    generator = torch.Generator().manual_seed(1)
    state = random_people(2, generator)
    ids = torch.randint(len(BODY.v_template), (2, 6), generator=generator)
    line, surface = linearize(rig(BODY), state.pose()), Surface.of(rig(BODY), ids.numpy())
    features = surface.features(state.pose())
    by_state = np.einsum("pfn,pfcd->pncd", features, line.turned)
    by_state[..., BETAS] += np.einsum(
        "pcan,pban->pncb", line.turn_surface(surface), surface.directions
    )
    by_joints = line.joint_derivatives(rig(BODY))

    def moved(step):
        after = stepped(state, step)
        return BODY(after.rotations, after.transl, after.betas, ids)

    points, places = moved(torch.zeros(2, 85))
    posed = line.bones.swapaxes(1, 2) @ features
    np.testing.assert_allclose(posed, points.mT, atol=1e-5)
    np.testing.assert_allclose(surface.posed(state.pose()), points.mT, atol=1e-5)
    np.testing.assert_allclose(line.bones[:, 72:], places, atol=1e-5)
    expected, joints = torch.autograd.functional.jacobian(moved, torch.zeros(2, 85))
    for p in range(2):
        np.testing.assert_allclose(by_state[p], expected[p, :, :, p], atol=2e-5)
        np.testing.assert_allclose(by_joints[p], joints[p, :, :, p], atol=2e-5)


def test_an_increment_is_what_the_derivatives_mean():
    generator = torch.Generator().manual_seed(5)
    state, step = random_people(3, generator), 0.3 * torch.randn(3, 85, generator=generator)
    expected = stepped(state, step)
    after = apply_increment(
        state.pose(),
        linearize(rig(BODY), state.pose()),
        *(
            part.numpy()
            for part in (step[:, ROTATIONS].unflatten(1, (24, 3)), step[:, 72:75], step[:, BETAS])
        ),
    )
    np.testing.assert_allclose(after.rotations, expected.rotations, atol=1e-5)
    np.testing.assert_allclose(after.transl, expected.transl, atol=1e-6)
    np.testing.assert_allclose(after.betas, expected.betas, atol=1e-6)


@settings(max_examples=50)
@given(st.tuples(NUMBER, NUMBER, NUMBER), st.sampled_from([1e-6, 1e-3, 0.1, 1.0, 1.5]))
def test_rotation_vectors_and_matrices_are_inverse(vector, size):
    """For tiny angles, and past the half turns that go the slow way."""
    vector = np.float32(size) * np.array([vector], np.float32)
    turn = rotations(vector)
    np.testing.assert_allclose(turn, roma.rotvec_to_rotmat(torch.from_numpy(vector)), atol=2e-6)
    np.testing.assert_allclose(rotations(rotation_vectors(turn)), turn, atol=5e-5)


def test_the_gradient_of_a_fit_is_that_of_its_loss():
    """Of the condensed normal equations, by automatic differentiation of the plain loss; and the
    Hessian is that of the squared residuals."""
    generator = torch.Generator().manual_seed(3)
    data = observe(BODY, random_people(2, generator), generator, number=60)
    start = random_people(2, torch.Generator().manual_seed(4))
    state = BodyState(start.rotations, data.state.transl, start.betas)
    prior = ShapePrior(torch.full((2, 10), 0.3), 2 * torch.eye(10).double().repeat(2, 1, 1))
    surface, width = Surface.of(rig(BODY), data.vertex_ids.numpy()), 0.5
    information = torch.rand(2, 60, generator=generator)
    equations = normal_equations(
        state.pose(),
        surface,
        data.points.mT.numpy(),
        information.numpy(),
        geman_mcclure(width),
        prior,
    )
    mean, std = pose_prior()
    low, high = joint_limits()

    def off(step):
        """Residuals of the points, of the pose, of its limits and of the shape."""
        after = stepped(state, step)
        posed, _ = BODY(after.rotations, after.transl, after.betas, data.vertex_ids)
        angles = roma.rotmat_to_rotvec(after.rotations)[:, 1:]
        beyond = angles - torch.minimum(torch.maximum(angles, low[1:]), high[1:])
        shape = 2**0.5 * (after.betas - 0.3)
        return posed - data.points, (angles - mean[1:]) / std[1:], beyond / LIMIT_STD, shape

    def loss(step):
        points, *others = off(step)
        square = points.square().sum(-1)
        total = (information * square * width**2 / (square + width**2)).sum()
        return total + sum(other.square().sum() for other in others)

    expected = torch.autograd.functional.jacobian(loss, torch.zeros(2, 85)) / 2
    scale = expected.abs().max()
    gradient = torch.from_numpy(equations.gradient).float()
    torch.testing.assert_close(gradient / scale, expected / scale, atol=2e-5, rtol=0)

    square = off(torch.zeros(2, 85))[0].square().sum(-1)
    root = (information / (1 + square / width**2) ** 2).sqrt()[..., None]

    def weighted(step):
        points, *others = off(step)
        return torch.cat([(root * points).flatten(1), *(o.flatten(1) for o in others)], 1)

    derivatives = torch.autograd.functional.jacobian(weighted, torch.zeros(2, 85))
    for p in range(2):
        expected = derivatives[p, :, p].T @ derivatives[p, :, p]
        hessian = torch.from_numpy(equations.hessian[p]).float()
        scale = expected.abs().max()
        torch.testing.assert_close(hessian / scale, expected / scale, atol=2e-5, rtol=0)
    assert (np.linalg.eigvalsh(equations.hessian) > 0).all()


def test_axes_and_sides_are_smpls():
    joints = dict(zip(JOINT_NAMES, BODY.joint_template.tolist(), strict=True))
    assert joints["left_shoulder"][0] > 0.1 > -0.1 > joints["right_shoulder"][0]
    assert joints["head"][1] > joints["pelvis"][1] > joints["left_knee"][1]
    assert joints["left_foot"][2] > joints["left_ankle"][2]  # toes point to the front
    low, high = BODY.v_template.amin(0), BODY.v_template.amax(0)
    assert 1.4 < float(high[1] - low[1]) < 1.9
    torch.testing.assert_close(BODY.canonical.amin(0), torch.zeros(3))
    torch.testing.assert_close(BODY.canonical.amax(0), torch.ones(3))


def test_mirror_and_parts_agree():
    mirror = BODY.mirror
    swapped = BODY.v_template * torch.tensor([-1.0, 1.0, 1.0])
    assert (BODY.v_template[mirror] - swapped).norm(dim=1).max() < 0.02
    twin = [
        JOINT_NAMES.index(name.replace("left", "@").replace("right", "left").replace("@", "right"))
        for name in JOINT_NAMES
    ]
    agreeing = torch.tensor(twin)[BODY.part] == BODY.part[mirror]
    assert agreeing.float().mean() > 0.98
    assert set(BODY.part.tolist()) == set(range(len(PARENTS)))


def test_files_that_are_no_body_are_refused(tmp_path):
    with pytest.raises(BodyModelError, match="cannot read"):
        load_body_model(tmp_path / "absent.npz")
    path = tmp_path / "wrong.npz"
    np.savez(path, v_template=np.zeros((5, 3)))
    with pytest.raises(BodyModelError, match="shapedirs"):
        load_body_model(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(BodyModelError, match=r"wrong\.npz"):
        load_body_model(path)


def test_a_state_can_be_split_and_stacked():
    state = random_people(3, torch.Generator().manual_seed(2))
    again = BodyState.stack([state.person(k) for k in range(3)])
    torch.testing.assert_close(again.rotations, state.rotations)
    torch.testing.assert_close(again.transl, state.transl)
