"""Bodies from outlines: of people whose left and right a network averages away."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from people_data import (
    GRID,
    WeakEyes,
    calibrated,
    camera_at,
    cameras_around,
    intrinsics,
    photograph,
    random_people,
    standing,
    weakly_seen,
)

from hamst3r.alignment.incremental import Alignment
from hamst3r.people.body import JOINT_NAMES, anny24
from hamst3r.people.contour_fit import ContourConfig
from hamst3r.people.densepose import VertexLookup
from hamst3r.people.detections import Detection
from hamst3r.people.facing import Walk, facing_about
from hamst3r.people.fitting import fit
from hamst3r.people.instances import ViewPeople
from hamst3r.people.outlines import outlines
from hamst3r.people.standing import StandingConfig, StandingFitter
from hamst3r.people.state import BodyState
from hamst3r.people.track import TrackingConfig
from hamst3r.people.tracking import PeopleTracker
from hamst3r.scene import Contact, ScaleSource

BODY = anny24()
FITTER = StandingFitter(BODY)
WEAK = WeakEyes()
BLOCK = np.ones((3, 3), np.uint8)
AROUND = [
    camera_at(place, (0.0, 0.0, 0.9))
    for place in ((0.0, -3.4, 1.4), (3.2, 0.8, 1.7), (-0.6, 3.4, 1.2), (-3.3, -0.4, 1.6))
]
TRUNK = [JOINT_NAMES.index(n) for n in ("pelvis", "left_hip", "right_hip", "spine3", "neck")]
LEGS = [k for k, n in enumerate(JOINT_NAMES) if n.split("_")[-1] in ("hip", "knee", "ankle")]


def posed(state):
    vertices, joints = BODY(state.rotations, state.transl, state.betas)
    return vertices[0].numpy(), joints[0].numpy()


def seen(state, cameras=AROUND, eyes=WEAK, seed=0):
    return weakly_seen(BODY, posed(state)[0], cameras, eyes, np.random.default_rng(seed))


def forward(rotation) -> np.ndarray:
    return np.asarray(rotation)[:2, 2]


@pytest.mark.parametrize(("views", "lost"), [(2, 0), (3, 0), (4, 0), (4, 1)])
def test_who_stands_is_found_by_outlines_though_left_and_right_are_averaged_away(views, lost):
    state = standing((0.1, -0.05, 0.95), turn=0.7)
    cameras = AROUND[lost and 0 :][:views]
    outlines = seen(state, cameras, WeakEyes(lost=lost), seed=views)
    stance = FITTER.fit(outlines)
    assert stance is not None
    true = posed(state)[1]
    assert np.linalg.norm(stance.joints - true, axis=1)[TRUNK].mean() < 0.12
    assert lost == 0 or 0 not in stance.overlaps
    assert len(stance.overlaps) == views - lost
    # The line along which the person faces is known; which way, nearly not.
    ahead = forward(stance.pose.rotations[0, 0]) @ forward(state.rotations[0, 0])
    assert abs(ahead) > 0.7
    assert 0.5 <= stance.facing < 0.9
    opposite = forward(stance.opposite.rotations[0, 0]) @ forward(stance.pose.rotations[0, 0])
    assert opposite < -0.8


def test_the_ordinary_fit_refuses_what_outlines_carry():
    """Otherwise there would be nothing to do here."""
    state = standing((0.0, 0.0, 0.95), turn=0.4)
    vertices = posed(state)[0]
    lookup = VertexLookup(BODY)
    points, ids = [], []
    for outline, T in zip(seen(state), AROUND, strict=True):
        _, depth, _ = photograph(BODY, {1: state}, T, intrinsics())
        rows, columns = np.nonzero(depth > 0)
        rays = np.column_stack([columns, rows, np.ones(len(rows))]) @ np.linalg.inv(intrinsics()).T
        points.append(rays * depth[rows, columns, None] @ T[:3, :3].T + T[:3, 3])
        ids.append(lookup(outline.coordinates[rows, columns]))
    cloud, vertex = np.concatenate(points), np.concatenate(ids)
    assert np.ptp(cloud[:, 2]) == pytest.approx(np.ptp(vertices[:, 2]), abs=0.1)
    given = torch.from_numpy(cloud).float()[None], torch.from_numpy(vertex)[None]
    assert fit(BODY, *given, torch.ones(1, len(cloud))).reasons[0]


def test_deviations_are_honest():
    """Of everyday poses, well beyond those who stand; also the doubt about the way of facing."""
    rng = np.random.default_rng(5)
    people = random_people(24, torch.Generator().manual_seed(5))
    within, errors = [], []
    for number in range(len(people)):
        vertices, true = posed(people.person(number))
        cameras = cameras_around(true[0], 4, rng)
        stance = FITTER.fit(weakly_seen(BODY, vertices, cameras, WeakEyes(), rng))
        assert stance is not None
        within.append(np.abs(stance.joints - true) < stance.joint_std[:, None])
        errors.append(np.linalg.norm(stance.joints - true, axis=1))
        # Little is known of hands, and more of the trunk.
        assert stance.joint_std[JOINT_NAMES.index("left_wrist")] > 2 * stance.joint_std[0]
    assert 0.6 < np.mean(within) < 0.88
    assert np.mean(errors) < 0.25


def test_the_height_is_told():
    heights = []
    for beta in (-1.0, 1.5):
        state = replace(standing((0.0, 0.0, 0.95)), betas=torch.eye(10)[:1] * beta)
        vertices = posed(state)[0]
        stance = FITTER.fit(seen(state, eyes=WeakEyes(wobble=0.5, cut=0)))
        assert stance is not None
        found = BODY(*BodyState.of(stance.pose).__dict__.values())[0][0].numpy()
        assert np.ptp(found[:, 2]) == pytest.approx(np.ptp(vertices[:, 2]), abs=0.07)
        heights.append(np.ptp(vertices[:, 2]))
    assert abs(heights[1] - heights[0]) > 0.15


def test_places_on_the_body_that_tell_the_sides_tell_the_way_of_facing():
    for turn in (0.0, 2.0, 4.0):
        state = standing((0.0, 0.0, 0.95), turn=turn)
        stance = FITTER.fit(seen(state, eyes=WeakEyes(sided=0.4)))
        assert stance is not None
        assert stance.facing > 0.8
        assert forward(stance.pose.rotations[0, 0]) @ forward(state.rotations[0, 0]) > 0.7


@pytest.mark.parametrize("way", [1.0, -1.0])
def test_who_walks_walks_forward(way):
    state = standing((0.0, 0.0, 0.95), turn=0.5)
    ahead = np.append(forward(state.rotations[0, 0]), 0.0)
    stance, time = None, 0.0
    for k in range(6):
        stance = FITTER.fit(seen(state, seed=k), stance, time, Walk(way * ahead, 0.2))
        time = 0.5
    assert stance is not None
    assert stance.facing > 0.9
    assert np.sign(forward(stance.pose.rotations[0, 0]) @ ahead[:2]) == way


def test_facing_about_keeps_the_outline():
    state = random_people(1, torch.Generator().manual_seed(3))
    pose = state.pose()
    turned = facing_about(pose)
    again = facing_about(turned)
    np.testing.assert_allclose(again.rotations, pose.rotations, atol=1e-5)
    before, after = (posed(BodyState.of(p))[1] for p in (pose, turned))
    assert forward(turned.rotations[0, 0]) @ forward(pose.rotations[0, 0]) < 0
    # The ankle that was the left one's is the right one's now.
    swap = [JOINT_NAMES.index(f"{side}_ankle") for side in ("left", "right")]
    assert np.linalg.norm(after[swap] - before[swap[::-1]], axis=1).max() < 0.25


@pytest.mark.parametrize(
    "flaw",
    ["one view", "one direction", "blots", "everywhere", "upside down", "nothing known", "none"],
)
def test_what_does_not_show_a_person_gives_no_body(flaw):
    state = standing((0.0, 0.0, 0.95))
    outlines = seen(state, eyes=WeakEyes(cut=0))
    if flaw == "one view":
        outlines = outlines[:1]
    elif flaw == "one direction":
        outlines = [outlines[0], replace(outlines[0], view=1)]
    elif flaw == "blots":
        outlines = seen(state, eyes=WeakEyes(lost=4))
    elif flaw == "everywhere":
        outlines = [replace(o, mask=np.ones_like(o.mask)) for o in outlines]
    elif flaw == "upside down":
        outlines = [replace(o, coordinates=1 - o.coordinates) for o in outlines]
    elif flaw == "nothing known":
        nothing = np.full_like(outlines[0].coordinates, np.nan)
        outlines = [replace(o, coordinates=nothing) for o in outlines]
    else:
        outlines = []
    assert FITTER.fit(outlines) is None


def test_a_mask_at_the_border_does_not_shorten_the_body():
    """Feet outside of all images: contours along the border are none."""
    state = standing((0.0, 0.0, 0.95))
    high = [camera_at(tuple(T[:3, 3]), (0.0, 0.0, 1.75)) for T in AROUND]
    outlines = seen(state, high, WeakEyes(wobble=0.3, cut=0))
    assert all(outline.mask[-1].any() for outline in outlines)
    stance = FITTER.fit(outlines)
    assert stance is not None
    true = posed(state)[1]
    assert np.linalg.norm(stance.joints - true, axis=1)[TRUNK].mean() < 0.1
    assert abs(stance.joints[LEGS, 2].min() - true[LEGS, 2].min()) < 0.2


def test_who_stands_before_another_hides_without_cutting_off():
    """Where another's mask begins, the body behind does not end."""
    behind, before = standing((0.0, 0.5, 0.95), turn=0.3), standing((0.1, -0.4, 0.95), turn=2.0)
    views = []
    for T in AROUND:
        instances, _, canonical = photograph(BODY, {1: behind, 2: before}, T, intrinsics())
        near, far = (
            cv2.morphologyEx((instances == k).astype(np.uint8), cv2.MORPH_CLOSE, BLOCK)
            for k in (2, 1)
        )
        filled = np.where(near > 0, 2, far).astype(np.int32)
        scores = {int(k): 0.9 for k in np.unique(filled) if k}
        views.append(ViewPeople(filled, scores, canonical, (filled > 0).astype(np.float32)))
    hidden = (views[0].instances == 1).sum() / (views[0].instances == 2).sum()
    assert hidden < 0.6  # for the first camera most of the one is behind the other
    for who, state in ((1, behind), (2, before)):
        own = outlines(views, aligned(), person(who), 40)
        assert any(outline.unknown.any() for outline in own)
        for outline in own:
            rows, columns = np.rint(outline.contour[0][:, ::-1]).astype(int).T
            assert outline.unknown[rows, columns].mean() < 0.1
        stance = FITTER.fit(own)
        assert stance is not None
        off = np.linalg.norm(stance.joints - posed(state)[1], axis=1)
        assert off[TRUNK].mean() < 0.1


def person(local: int) -> Detection:
    """Somebody whose masks have that id."""
    nothing = np.zeros((0, 3))
    none = np.zeros(0, np.int64)
    seen_by = frozenset(range(len(AROUND)))
    place = np.zeros(3), np.eye(3) * 0.05**2, 0.5
    return Detection(
        (local,), seen_by, 0.9, 100, *place, nothing, none, np.zeros(0), {}, np.zeros(3)
    )


def aligned(depths=None, scale=ScaleSource.CALIBRATION) -> Alignment:
    """The cameras :data:`AROUND`, exactly known."""
    depths = depths or [np.full(GRID, 3.0, np.float32) for _ in AROUND]
    return calibrated(AROUND, intrinsics(), depths, scale)


def watch(tracker: PeopleTracker, time: float, state, scale=ScaleSource.CALIBRATION):
    """One frame set of a weak network, whose depth is rough."""
    outlines = seen(state, seed=int(1000 * time))
    views, depths = [], []
    for outline, T in zip(outlines, AROUND, strict=True):
        away = float((np.array([0, 0, 0.9]) - T[:3, 3]) @ T[:3, 2])
        instances = outline.mask.astype(np.int32)
        places = np.where(outline.mask[..., None], outline.coordinates, np.nan)
        sure = outline.mask.astype(np.float32)
        views.append(ViewPeople(instances, {1: 0.8}, places.astype(np.float32), sure))
        depths.append(np.full(outline.mask.shape, 1.15 * away, np.float32))
    alignment = aligned(depths, scale)
    names = [f"cam{k}" for k in range(len(AROUND))]
    return tracker.update(round(time * 1e9), views, alignment, names, [np.eye(3)] * 4)


def photographed(state):
    """What the tracker takes of one frame set of a network without fault."""
    views, depths = [], []
    for T in AROUND:
        instances, depth, canonical = photograph(BODY, {1: state}, T, intrinsics())
        views.append(ViewPeople(instances, {1: 0.9}, canonical, (instances > 0).astype(np.float32)))
        depths.append(depth.astype(np.float32))
    return views, aligned(depths), [f"cam{k}" for k in range(4)], [np.eye(3)] * 4


def test_a_tracked_person_has_a_body_that_says_how_little_is_known():
    tracker = PeopleTracker(BODY)
    for k in range(5):
        state = standing((0.0, 0.0, 0.95), turn=1.0 + 0.05 * k)
        (person,) = watch(tracker, k / 5, state).people
        assert person.fit is not None
        assert 0.5 <= person.fit.facing < 0.95
        assert person.contacts == Contact.NONE
        true = posed(state)[1]
        assert np.linalg.norm(person.joints - true, axis=1)[TRUNK].mean() < 0.12
        assert np.linalg.norm(person.position - true[1:3].mean(0)) < 0.12
        assert person.id == 1
    # Hips may be exchanged: that is doubted, too.
    assert person.joint_std[1] > person.joint_std[0]


@pytest.mark.parametrize(("source", "believed"), [("NETWORK", False), ("BODIES", True)])
def test_outlines_are_believed_where_something_tells_the_scale(source, believed):
    tracker = PeopleTracker(BODY)
    state = standing((0.0, 0.0, 0.95))
    (person,) = watch(tracker, 0.0, state, ScaleSource[source]).people
    assert (person.fit is not None) == believed


def test_who_wants_no_bodies_gets_none_of_any_kind():
    tracker = PeopleTracker(BODY, TrackingConfig(bodies=False))
    state = standing((0.0, 0.0, 0.95))
    for k in range(3):
        (person,) = watch(tracker, k / 5, state).people
        assert person.fit is None and len(person.joints) == 0
        assert np.linalg.norm(person.position[:2]) < 0.3
    (person,) = tracker.update(10**9, *photographed(state)).people
    assert person.fit is None


def test_who_had_a_body_of_places_gets_none_of_outlines_at_once():
    """A person must not change from one to the other with every doubtful frame set."""
    tracker = PeopleTracker(BODY, TrackingConfig(timeout=1.0))
    state = standing((0.0, 0.0, 0.95))
    (person,) = tracker.update(0, *photographed(state)).people
    assert person.fit is not None and person.fit.facing == 1
    fits = [watch(tracker, 0.3 + 0.3 * k, state).people[0].fit for k in range(6)]
    assert fits[0] is None and fits[1] is None
    assert fits[-1] is not None and fits[-1].facing < 1


def test_settings_are_heeded():
    state = standing((0.0, 0.0, 0.95))
    strict = StandingFitter(BODY, replace(StandingConfig(), min_overlap=0.97))
    assert strict.fit(seen(state)) is None


def test_masks_that_no_body_comes_near_draw_none():
    """As of a weak network, whose masks in different views are of different things."""
    state = standing((0.0, 0.0, 0.95))
    alone = replace(StandingConfig(), contours=replace(ContourConfig(), reach=1e-9))
    guessed, drawn = (StandingFitter(BODY, c).fit(seen(state)) for c in (alone, StandingConfig()))
    assert drawn is not None
    true = posed(state)[1]
    errors = [
        np.inf if found is None else np.linalg.norm(found.joints - true, axis=1).mean()
        for found in (drawn, guessed)
    ]
    assert errors[0] < errors[1]
