"""Joint sets of others, regressed from our body."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from people_data import random_people

from hamst3r.people.body import JOINT_NAMES, anny24
from hamst3r.people.joint_sets import JOINT_SETS, joints, regressor

BODY = anny24()


@pytest.mark.parametrize(("name", "number"), [("coco17", 17), ("h36m17", 17), ("common14", 14)])
def test_regressors_are_means_of_vertices(name, number):
    weights = regressor(BODY, name)
    assert weights.shape == (number, len(BODY.v_template)) and len(set(JOINT_SETS[name])) == number
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(number))


def test_limbs_of_posed_bodies_are_the_skeletons():
    """The surface around a joint stays around it, within what skinning makes of bends."""
    state = random_people(16, torch.Generator().manual_seed(0))
    vertices, skeleton = BODY(state.rotations, state.transl, state.betas)
    for name, names in JOINT_SETS.items():
        found = joints(BODY, name, vertices)
        own = [k for k, joint in enumerate(names) if joint in JOINT_NAMES]
        there = [JOINT_NAMES.index(names[k]) for k in own]
        off = (found[:, own] - skeleton[:, there]).norm(dim=-1)
        assert off.mean() < 0.02 and off.max() < 0.09


def test_faces_are_where_faces_are():
    names = JOINT_SETS["coco17"]
    rest = joints(BODY, "coco17", BODY.v_template[None])[0]
    place = {name: rest[k].numpy() for k, name in enumerate(names)}
    top = joints(BODY, "h36m17", BODY.v_template[None])[0, JOINT_SETS["h36m17"].index("head_top")]
    assert abs(place["nose"][0]) < 0.01
    assert place["nose"][2] > place["left_eye"][2] > place["left_ear"][2]  # z is to the front
    assert top[1] > place["left_eye"][1] > place["nose"][1] > place["left_shoulder"][1]
    for part, apart in (("eye", (0.05, 0.075)), ("ear", (0.13, 0.19))):
        left, right = place[f"left_{part}"], place[f"right_{part}"]
        assert apart[0] < left[0] - right[0] < apart[1]
        np.testing.assert_allclose(left * [-1, 1, 1], right, atol=0.01)


def test_mirrored_bodies_have_mirrored_joints():
    """Which also says that the map from left to right, the parts and the regressors agree."""
    mirrored = BODY.v_template[BODY.mirror][None]
    for name, names in JOINT_SETS.items():
        own = joints(BODY, name, BODY.v_template[None])[0]
        other = joints(BODY, name, mirrored)[0]
        swapped = [
            names.index(n.replace("left", "@").replace("right", "left").replace("@", "right"))
            for n in names
        ]
        assert (other - own[swapped]).norm(dim=-1).max() < 0.02


def test_what_is_unknown_is_named():
    with pytest.raises(ValueError, match="coco17, h36m17"):
        regressor(BODY, "coco18")
    with pytest.raises(ValueError, match=r"\(P, 13348, 3\)"):
        joints(BODY, "coco17", torch.zeros(1, 6890, 3))
