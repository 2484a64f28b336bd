"""Bodies as they are drawn and measured, against the model that they come from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hamst3r_ros.bodies import CoarseBody
from roma import rotvec_to_rotmat
from scipy.spatial.transform import Rotation
from test_conversions import fitted, from_transform_of, glimpsed, human

from hamst3r.people.body import BodyModel, anny24


def bending() -> BodyModel:
    """The embedded body with pose-dependent shapes, as users' SMPL files have them: every joint
    that bends moves what it carries by up to some centimetres."""
    plain = anny24()
    arrays = {
        name: getattr(plain, name).numpy()
        for name in ("v_template", "shapedirs", "weights", "J_regressor")
    }
    noise = 0.03 * np.random.default_rng(2).normal(size=(1, 3, 207))
    where = np.sin(9 * plain.v_template.numpy()[:, :1, None])
    return BodyModel(
        arrays | {"f": plain.faces.numpy(), "posedirs": noise * where}, "bending", "0" * 64
    )


@pytest.fixture(scope="module", params=["plain", "bending"])
def model(request) -> BodyModel:
    return anny24() if request.param == "plain" else bending()


def posed(model: BodyModel, person) -> np.ndarray:
    """All vertices, as the model itself poses them."""
    fit = person.fit
    turns = torch.from_numpy(np.r_[fit.global_orient, fit.body_pose].reshape(1, 24, 3))
    vertices, _ = model(
        rotvec_to_rotmat(turns),
        torch.from_numpy(fit.transl[None]),
        torch.from_numpy(fit.betas[None]),
    )
    return vertices[0].numpy()


def test_the_coarse_body_is_the_body(model):
    person = fitted()
    body = CoarseBody(model)
    vertices = body.pose([person, glimpsed()])
    assert set(vertices) == {7}
    assert len(vertices[7]) < 0.2 * len(model.v_template)
    assert body.faces.max() < len(vertices[7])
    assert np.linalg.norm(vertices[7].mean(0) - person.position) < 0.3
    assert body.pose([glimpsed()]) == {} == body.boxes([glimpsed()])


def test_the_coarse_body_is_posed_as_the_model_poses_it(model):
    person = fitted()
    vertices = posed(model, person)
    found = CoarseBody(model).pose([person, fitted(8)])[7]
    distance = np.linalg.norm(vertices[None] - found[::20, None], axis=-1).min(1)
    assert distance.max() < 1e-5
    other = posed(bending() if model.posedirs is None else anny24(), person)
    assert np.linalg.norm(other - vertices, axis=1).max() > 0.01  # which the test tells apart


def test_the_size_of_a_person_is_that_of_the_whole_body(model):
    body = CoarseBody(model)
    people = [fitted(i) for i in range(1, 9)]
    bent = np.zeros((23, 3), np.float32)
    bent[[0, 1]] = -1.5, 0, 0  # sitting, and a twist
    bent[2] = 0, 0.7, 0
    fit = people[0].fit
    people[0] = replace(people[0], fit=replace(fit, body_pose=bent.ravel()))
    boxes = body.boxes(people)
    for person in people:
        message = human(person, boxes[person.id])
        turn = from_transform_of(message.pose.pose)[:3, :3]
        exact = np.ptp(posed(model, person) @ turn, axis=0)
        found = [message.size.x, message.size.y, message.size.z]
        np.testing.assert_allclose(found, exact, atol=0.03)
        assert message.size.z > 0.6
        # Wherever the body is and looks: only its pose counts.
        orient = Rotation.random(random_state=person.id).as_rotvec().astype(np.float32)
        moved = replace(person, fit=replace(person.fit, global_orient=orient))
        again = body.boxes([moved])[person.id]
        np.testing.assert_allclose(again.size, boxes[person.id].size, atol=1e-5)


def test_shapes_are_told_apart(model):
    body, person = CoarseBody(model), fitted()
    for step in range(100):
        betas = np.zeros(10, np.float32)
        betas[0] = 0.01 * step
        body.boxes([replace(person, fit=replace(person.fit, betas=betas))])
    other = replace(person, fit=replace(person.fit, betas=person.fit.betas + 1))
    together = body.boxes([person, replace(other, id=8)])
    alone = CoarseBody(model).boxes([other])[7]
    np.testing.assert_allclose(together[8].size, alone.size, atol=1e-6)
    assert np.abs(np.subtract(together[7].size, together[8].size)).max() > 0.01
