"""Contact: what touches the scene stays, scales agree, and nothing is claimed without a surface."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from people_crowd import Crowd
from people_data import standing

from hamst3r.people.body import anny24
from hamst3r.people.contact import (
    FLAGS,
    ContactConfig,
    ContactPoints,
    contact_scale,
    flags,
    touching,
)
from hamst3r.people.smoothing import SmoothingConfig, Window
from hamst3r.people.state import BodyState
from hamst3r.people.surroundings import Surroundings
from hamst3r.scene import Contact

BODY = anny24()
POINTS = ContactPoints(BODY)
FEET = slice(0, 4)
SECOND = 10**9
INFORMATION = np.diag(np.r_[np.full(72, 1e3), np.full(3, 1e4)])
STD = np.full(24, 0.01)


def places(state: BodyState) -> np.ndarray:
    return POINTS.places(state.pose())


def on_floor(transl=(0.0, 0.0)) -> BodyState:
    state = standing((*transl, 0.0))
    low = places(state)[0, FEET, 2].min()
    return BodyState(state.rotations, state.transl - torch.tensor([0, 0, low]).float(), state.betas)


def floor(height=0.0, noise=0.01, count=6000, seed=0) -> Surroundings:
    rng = np.random.default_rng(seed)
    surroundings = Surroundings()
    points = np.column_stack([rng.uniform(-3, 3, (count, 2)), np.full(count, height)])
    surroundings.add(points + noise * rng.normal(size=points.shape))
    return surroundings


def test_contact_points_are_where_bodies_touch():
    state = on_floor()
    found = dict(zip(FLAGS.tolist(), places(state)[0], strict=False))  # the last of each kind
    vertices, joints = BODY(state.rotations, state.transl, state.betas)
    soles = places(state)[0, FEET]
    assert soles[:, 2].max() < vertices[0, :, 2].min() + 0.03
    assert soles[0, 1] > soles[1, 1] + 0.08  # the body looks along -y: the heel is behind the ball
    for flag, wrist in ((Contact.LEFT_HAND, 20), (Contact.RIGHT_HAND, 21)):
        assert np.linalg.norm(found[int(flag)] - joints[0, wrist].numpy()) < 0.15
    seat = found[int(Contact.SEAT)]
    assert joints[0, 4, 2] < seat[2] < joints[0, 1, 2] + 0.05
    assert seat[1] > joints[0, 0, 1] + 0.03  # behind the pelvis


def test_planes_are_found_and_only_where_there_are_any():
    rng = np.random.default_rng(1)
    wall = np.column_stack([np.full(4000, 2.0), rng.uniform(-2, 2, (4000, 2))])
    surroundings = floor(height=0.3)
    surroundings.add(wall + 0.01 * rng.normal(size=wall.shape))
    surroundings.add(np.full((5, 3), np.nan))
    planes = surroundings.planes(np.array([[0, 0, 0.35], [1.95, 0, 1.5], [0, 0, 1.4]]))
    assert planes.known.tolist() == [True, True, False]
    assert planes.normals[0] == pytest.approx([0, 0, 1], abs=0.1)
    assert abs(planes.normals[1, 0]) == pytest.approx(1, abs=0.02)
    assert planes.points[0, 2] == pytest.approx(0.3, abs=0.01)
    clutter = Surroundings()
    clutter.add(rng.uniform(-0.3, 0.3, (3000, 3)))
    assert not clutter.planes(np.zeros((1, 3))).known.any()


def test_what_is_not_seen_any_more_is_forgotten():
    surroundings = floor(count=500)
    for _ in range(400):
        surroundings.add(np.array([[9.0, 9.0, 0.0]]))
    assert len(surroundings) == 1


def test_contact_needs_a_surface_and_stillness():
    state = on_floor()
    here = places(state)[0]
    planes = floor().planes(here)
    none = np.zeros(len(here), dtype=bool)
    config, std = ContactConfig(), np.full(len(here), 0.005)
    both = Contact.LEFT_FOOT | Contact.RIGHT_FOOT
    assert flags(touching(here, here, 0.1, std, planes, none, config)) == both
    walked = here + np.array([0.1, 0, 0])
    assert flags(touching(walked, here, 0.1, std, planes, none, config)) == Contact.NONE
    assert flags(touching(here, None, 0.1, std, planes, none, config)) == Contact.NONE
    nowhere = Surroundings().planes(here)
    assert flags(touching(here, here, 0.1, std, nowhere, none, config)) == Contact.NONE
    raised = here + np.array([0, 0, 0.3])
    assert not touching(raised, raised, 0.1, std, floor().planes(raised), none, config).any()


def test_hands_and_seat_touch_too():
    state = on_floor()
    here = places(state)[0]
    table = here[int(Contact.LEFT_HAND) == FLAGS][0]
    rng = np.random.default_rng(2)
    surroundings = Surroundings()
    surroundings.add(table + np.column_stack([rng.uniform(-0.1, 0.1, (900, 2)), np.zeros(900)]))
    none = np.zeros(len(here), dtype=bool)
    std = np.full(len(here), 0.005)
    touches = touching(here, here, 0.1, std, surroundings.planes(here), none, ContactConfig())
    assert Contact.LEFT_HAND in flags(touches)
    assert Contact.RIGHT_HAND not in flags(touches) and Contact.LEFT_FOOT not in flags(touches)


def smooth(
    states: list[BodyState], config: SmoothingConfig, scene: Surroundings, sure: float = 1.0
) -> list:
    window = Window(BODY, POINTS, config)
    return [
        window.push(round(0.1 * k * SECOND), state, sure * INFORMATION, STD, scene)
        for k, state in enumerate(states)
    ]


def jittered(states: list[BodyState], seed: int = 0) -> list[BodyState]:
    generator = torch.Generator().manual_seed(seed)
    return [
        BodyState(
            state.rotations,
            state.transl + 0.015 * torch.randn(1, 3, generator=generator),
            state.betas,
        )
        for state in states
    ]


def test_standing_feet_stop_skating():
    states = jittered([on_floor()] * 25)
    found = smooth(states, SmoothingConfig(), floor())
    raw = np.stack([places(state)[0, FEET] for state in states])
    kept = np.stack([places(result.state)[0, FEET] for result in found])
    steps = [np.linalg.norm(np.diff(path[8:], axis=0), axis=-1).mean() for path in (raw, kept)]
    assert steps[1] < steps[0] / 5
    assert np.abs(kept[8:, :, 2]).mean() < 0.6 * np.abs(raw[8:, :, 2] - 0.0).mean()
    both = Contact.LEFT_FOOT | Contact.RIGHT_FOOT
    assert sum(flags(result.touches) == both for result in found[3:]) > 18
    # The places told are those of the state told.
    assert np.abs(found[-1].places - places(found[-1].state)[0])[FEET].max() < 0.005


def test_walkers_are_not_held_back():
    crowd = Crowd(BODY, 1, 40, 5, pause=0.0)
    states = [crowd.state(frame) for frame in range(40)]
    found = smooth(states, SmoothingConfig(), floor(), sure=30.0)
    for state, result in zip(states[5:], found[5:], strict=True):
        true = BODY.skeleton(state.rotations, state.transl, state.betas)[1]
        own = result.state
        after = BODY.skeleton(own.rotations, own.transl, own.betas)[1]
        assert (after - true).norm(dim=-1).mean() < 0.03
    walking = [flags(result.touches) for result in found[5:]]
    assert any(Contact.LEFT_FOOT in f and Contact.RIGHT_FOOT not in f for f in walking)
    assert any(Contact.RIGHT_FOOT in f and Contact.LEFT_FOOT not in f for f in walking)


def test_the_window_forgets_as_if_it_were_endless():
    """What leaves the window stays as a prior: a window just longer than the hindsight gives nearly
    what a far longer one does."""
    states = jittered([on_floor()] * 20, seed=3)
    short = smooth(states, SmoothingConfig(window=5), floor())
    long = smooth(states, SmoothingConfig(window=30), floor())
    for a, b in zip(short, long, strict=True):
        assert np.abs(places(a.state) - places(b.state)).max() < 1e-3


def test_hindsight_tells_creeping_from_standing():
    """0.25 m/s: one step of it is within the noise, several are not."""
    creeping = [
        BodyState(
            state.rotations, state.transl + torch.tensor([0.025 * k, 0, 0]).float(), state.betas
        )
        for k, state in enumerate([on_floor()] * 25)
    ]
    off = []
    for hindsight in (1, 4):
        found = smooth(creeping, SmoothingConfig(hindsight=hindsight), floor())
        lag = [a.state.transl - b.transl for a, b in zip(found[5:], creeping[5:], strict=True)]
        off.append(float(torch.cat(lag).norm(dim=-1).mean()))
    assert off[1] < 0.5 * off[0]  # a body that is held where it was lags behind
    standing_still = smooth(jittered([on_floor()] * 25), SmoothingConfig(), floor())
    assert np.mean([result.touches[FEET].mean() for result in standing_still[3:]]) > 0.9


def test_a_gap_in_time_starts_anew():
    window = Window(BODY, POINTS)
    scene = floor()
    for stamp in (0, SECOND // 10, 5 * SECOND, 5 * SECOND, 4 * SECOND):
        result = window.push(stamp, on_floor(), INFORMATION, STD, scene)
        assert torch.isfinite(result.state.transl).all()
    assert not result.touches.any()


@pytest.mark.parametrize("wrong", [0.7, 1.0, 1.3])
def test_contact_finds_the_scale_of_the_scene(wrong):
    rng = np.random.default_rng(4)
    camera = np.array([0.0, -3.0, 1.5])
    points = np.column_stack([rng.uniform(-3, 3, (6000, 2)), 0.02 * rng.normal(size=6000)])
    scene = Surroundings()
    scene.add(camera + wrong * (points - camera))
    soles, groups = [], []
    for person in range(3):
        for _ in range(8):
            foot = places(on_floor((person - 1.0, 0.4 * person)))[0, 0]
            soles.append(foot + 0.015 * rng.normal(size=3))
            groups.append(person)
    found = contact_scale(np.array(soles), np.array(groups), scene, camera)
    assert found is not None
    scale, std = found
    assert scale * wrong == pytest.approx(1, abs=0.03)
    assert abs(scale * wrong - 1) < 3 * std < 0.1


def test_without_contact_there_is_no_scale():
    nothing = contact_scale(np.zeros((9, 3)), np.arange(9), Surroundings(), np.ones(3))
    assert nothing is None
    few = contact_scale(np.zeros((1, 3)), np.arange(1), floor(), np.array([0, 0, 1.5]))
    assert few is None
