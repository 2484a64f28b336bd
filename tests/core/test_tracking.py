"""Tracking: ids that last, bodies in place, honest states; on bodies seen by simulated cameras."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from people_crowd import STEP, Crowd, Flaws
from people_data import GRID, calibrated, camera_at, intrinsics, photograph, standing
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from hamst3r.people.body import anny24
from hamst3r.people.densepose import VertexLookup
from hamst3r.people.detections import Detection, DetectionConfig, detect
from hamst3r.people.instances import ViewPeople
from hamst3r.people.lifting import lift
from hamst3r.people.motion import ConstantVelocity, JointMotion
from hamst3r.people.track import TrackingConfig
from hamst3r.people.tracking import PeopleTracker
from hamst3r.people.triangulation import Triangulator
from hamst3r.scene import Contact, ScaleSource, TrackingState

BODY = anny24()
HIP = 0.95  # metres: the height at which a standing person's pelvis is
FRONT = camera_at((0.0, -4.0, 1.4), (0.0, 0.0, 0.9))
SIDE = camera_at((4.0, 0.3, 1.4), (0.0, 0.0, 0.9))
K = intrinsics()
SECOND = 10**9


def see(people, cameras=(FRONT,), depth_scale=1.0, names=None):
    """Views and alignment of people (name -> state); ``names`` gives local ids per view."""
    views, depths = [], []
    for index, T in enumerate(cameras):
        local = {
            (names[index][name] if names else rank + 1): state
            for rank, (name, state) in enumerate(sorted(people.items()))
        }
        instances, depth, canonical = photograph(BODY, local, T, K)
        scores = {int(k): 0.9 for k in np.unique(instances) if k}
        sure = (instances > 0).astype(np.float32)
        views.append(ViewPeople(instances, scores, canonical, sure))
        depths.append((depth * depth_scale).astype(np.float32))
    alignment = calibrated(cameras, K, depths)
    return views, alignment


def feed(tracker, time, people, cameras=(FRONT,), **options):
    views, alignment = see(people, cameras, **options)
    names = [f"cam{k}" for k in range(len(cameras))]
    pixel_maps = [np.diag([4.0, 4.0, 1.0])] * len(cameras)
    people, maps, _ = tracker.update(round(time * SECOND), views, alignment, names, pixel_maps)
    return people, maps


def quick(**options) -> PeopleTracker:
    """Without body fits, for tests of ids alone."""
    return PeopleTracker(BODY, TrackingConfig(detection=DetectionConfig(max_points=100), **options))


def test_a_person_is_found_where_it_is_with_its_body():
    state = standing((0.2, 0.1, HIP), turn=0.4)
    tracker = PeopleTracker(BODY, TrackingConfig(floor=0.0))
    (new,), maps = feed(tracker, 0.0, {"ann": state})
    (person,), _ = feed(tracker, 0.1, {"ann": state})
    assert new.state == TrackingState.NEW and person.state == TrackingState.OK
    assert new.id == person.id == 1
    assert new.velocity is None and np.linalg.norm(person.velocity) < 0.3
    truth = BODY.skeleton(state.rotations, state.transl, state.betas)[1][0].numpy()
    assert person.fit is not None and person.fit.model == "anny24"
    assert np.linalg.norm(person.joints - truth, axis=1).mean() < 0.03
    np.testing.assert_allclose(person.position, truth[1:3].mean(0), atol=0.03)
    assert set(np.unique(maps[0])) == {0, 1}
    assert maps[0].dtype == np.uint16
    assert person.num_points > 300

    # The box is the mask's, in pixels of the delivered image (four times the grid).
    rows, columns = np.nonzero(maps[0])
    x, y, width, height = person.rois["cam0"]
    assert x == 4 * columns.min() - 2 and y == 4 * rows.min() - 2
    assert width == 4 * (columns.max() - columns.min() + 1)
    assert height == 4 * (rows.max() - rows.min() + 1)


def test_contacts_need_a_surface_and_time():
    state = standing((0.0, 0.0, HIP))
    soles = BODY(state.rotations, state.transl, state.betas)[0][0, :, 2].min().item()
    grounded = standing((0.0, 0.0, HIP - soles))
    flying = standing((0.0, 0.0, HIP - soles + 0.3))
    both = Contact.LEFT_FOOT | Contact.RIGHT_FOOT
    floor = TrackingConfig(floor=0.0)
    for person, config, expected in (
        (grounded, floor, both),
        (flying, floor, Contact.NONE),
        (grounded, TrackingConfig(), Contact.NONE),
    ):
        tracker = PeopleTracker(BODY, config)
        assert feed(tracker, 0.0, {"ann": person})[0][0].contacts == Contact.NONE  # no motion yet
        for step in range(1, 4):
            (found,), _ = feed(tracker, 0.1 * step, {"ann": person}, (FRONT, SIDE))
        assert found.contacts & both == expected & both


def test_two_who_cross_keep_their_ids():
    tracker = quick()
    home = {}
    for step in range(31):
        time = step * 0.1
        x = -0.9 + 0.6 * time
        people = {"ann": standing((x, -0.35, HIP)), "bob": standing((-x, 0.35, HIP))}
        # Local ids mean nothing: they swap in every frame.
        names = [{"ann": 1 + step % 2, "bob": 2 - step % 2}]
        found, _ = feed(tracker, time, people, names=names)
        visible = [p for p in found if p.state in (TrackingState.NEW, TrackingState.OK)]
        for person in visible:
            own = min(
                people, key=lambda n: abs(person.position[1] - (0.35 if n == "bob" else -0.35))
            )
            home.setdefault(person.id, set()).add(own)
    assert home == {1: {"ann"}, 2: {"bob"}} or home == {1: {"bob"}, 2: {"ann"}}
    ann = next(person for person in visible if "ann" in home[person.id])
    assert ann.position[0] > 0.6
    assert ann.velocity[0] == pytest.approx(0.6, abs=0.25)


def test_an_occlusion_of_one_and_a_half_seconds_keeps_the_id():
    tracker = quick()

    def walk(time):
        return {"ann": standing((-0.7 + 0.4 * time, 0.0, HIP))}

    for step in range(10):
        (person,), _ = feed(tracker, step * 0.1, walk(step * 0.1))
    last_seen = person
    scores = []
    for step in range(10, 25):
        (person,), maps = feed(tracker, step * 0.1, {})
        assert person.state == TrackingState.PREDICTED
        assert person.num_points == 0 and not maps[0].any() and person.rois == {}
        scores.append(person.confidence)
    assert sorted(scores, reverse=True) == scores and scores[-1] < 0.5 * scores[0]
    assert person.position[0] > last_seen.position[0] + 0.05
    assert np.trace(person.covariance) > np.trace(last_seen.covariance)
    (person,), _ = feed(tracker, 2.5, walk(2.5))
    assert person.id == last_seen.id and person.state == TrackingState.OK


def test_who_leaves_is_lost_once_and_the_id_is_not_used_again():
    tracker = quick()
    ann = {"ann": standing((0.0, 0.0, HIP))}
    for step in range(4):
        feed(tracker, step * 0.1, ann)
    states = []
    for step in range(4, 40):
        found, _ = feed(tracker, step * 0.1, {})
        states += [person.state for person in found]
    assert states[-1] == TrackingState.LOST
    assert states.count(TrackingState.LOST) == 1
    assert states.count(TrackingState.PREDICTED) == 20  # two seconds
    (person,), _ = feed(tracker, 4.0, ann)
    assert person.id == 2 and person.state == TrackingState.NEW


def test_somebody_seen_only_once_is_soon_dismissed():
    tracker = quick()
    feed(tracker, 0.0, {"ann": standing((0.0, 0.0, HIP))})
    assert feed(tracker, 0.4, {})[0][0].state == TrackingState.PREDICTED
    assert feed(tracker, 0.6, {})[0][0].state == TrackingState.LOST
    assert feed(tracker, 0.7, {})[0] == ()


def test_one_miss_of_somebody_just_seen_is_survived_however_rare_frame_sets_are():
    tracker, ann = quick(), {"ann": standing((0.0, 0.0, HIP))}
    (first,), _ = feed(tracker, 0.0, ann)
    assert feed(tracker, 0.8, {})[0][0].state == TrackingState.PREDICTED
    (person,), _ = feed(tracker, 1.6, ann)
    assert person.id == first.id and person.state == TrackingState.OK
    tracker = quick()
    feed(tracker, 0.0, ann)
    feed(tracker, 0.8, {})
    assert feed(tracker, 1.6, {})[0][0].state == TrackingState.LOST


def swaying(time):
    return 0.45 * math.sin(2 * math.pi * time / 1.7), 0.0


def round_and_round(time):
    return math.cos(1.3 * time), 0.2 + math.sin(1.3 * time)  # 1.3 m/s


def to_and_fro(time):
    return 1.2 - abs(time % 4.8 - 2.4), 0.0  # 1 m/s, and suddenly back


@pytest.mark.parametrize("path", [swaying, round_and_round, to_and_fro])
@pytest.mark.parametrize("step", [0.35, 0.5, 0.8, 1.0])
def test_ids_last_where_frame_sets_are_rare_uneven_and_sometimes_empty(path, step):
    rng = np.random.default_rng(7)
    tracker, time, ids, missed = quick(), 0.0, set(), False
    for count in range(40):
        missed = count > 1 and not missed and step < 0.6 and rng.random() < 0.25
        ann = {"ann": standing((*path(time), HIP))}
        found, _ = feed(tracker, time, {} if missed else ann)
        ids |= {person.id for person in found}
        time += step * rng.uniform(0.7, 1.3)
    assert ids == {1}


def test_a_fragment_does_not_become_the_person_after_a_long_time():
    """After a second the place is known to a metre: the whole one is it, not the nearest."""
    tracker = quick()
    for time in (0.0, 1.0, 2.0):
        feed(tracker, time, {"ann": standing((0.0, 0.0, HIP))})
    before = see({"ann": standing((0.0, 0.0, HIP))})[0][0].instances > 0
    rows, columns = np.nonzero(before)
    middle = int(columns.mean())
    fragment = np.s_[int(rows.min()) : int(rows.max()), middle - 1 : middle + 2]
    views, alignment = see({"ann": standing((0.6, 0.0, HIP))})
    views[0].instances[fragment] = 2
    alignment.depth[0][fragment], alignment.confidence[0][fragment] = 4.0, 5
    views[0].scores[2] = 0.7
    people, _, _ = tracker.update(3 * SECOND, views, alignment, ["cam0"], [np.eye(3)])
    assert people[0].id == 1 and people[0].position[0] == pytest.approx(0.6, abs=0.15)


def test_how_far_somebody_is_expected_does_not_depend_on_the_steps():
    ways = []
    for steps in (1, 4, 40):
        motion = ConstantVelocity(np.zeros(3), np.eye(3) * 0.02**2)
        motion.state[3] = 1.0
        for step in range(steps):
            motion.predict(1.2 / steps, unseen=step * 1.2 / steps)
        ways.append((motion.position[0], motion.velocity[0]))
    np.testing.assert_allclose(ways, [ways[0]] * 3, rtol=1e-9)
    assert 0.5 < ways[0][0] < 0.9 and 0.1 < ways[0][1] < 0.5


def test_reset_starts_over():
    tracker = quick()
    people = {"ann": standing((-0.5, 0.0, HIP)), "bob": standing((0.5, 0.0, HIP))}
    first, _ = feed(tracker, 5.0, people)
    tracker.reset()
    again, _ = feed(tracker, 1.0, people)  # an earlier time is a new time line
    assert [p.id for p in again] == [p.id for p in first] == [1, 2]
    assert all(p.state == TrackingState.NEW for p in again)
    np.testing.assert_array_equal(first[0].position, again[0].position)


def test_equal_and_backward_stamps_do_no_harm():
    tracker = quick()
    ann = {"ann": standing((0.0, 0.0, HIP))}
    for time in (10.0, 10.0, 9.9, 3.0, 10.1):
        (person,), _ = feed(tracker, time, ann)
        assert person.id == 1
        assert np.isfinite(person.position).all() and np.isfinite(person.covariance).all()
    assert feed(tracker, 1000.0, {})[0][0].state == TrackingState.LOST


def test_views_that_share_no_pair_are_joined_in_space():
    people = {"ann": standing((-0.1, 0.0, HIP))}
    names = [{"ann": 1}, {"ann": 2}]
    tracker = quick()
    (person,), maps = feed(tracker, 0.0, people, (FRONT, SIDE), names=names)
    assert set(person.rois) == {"cam0", "cam1"}
    assert {int(k) for m in maps for k in np.unique(m)} == {0, person.id}


def test_two_people_of_one_view_are_never_joined():
    near = {"ann": standing((-0.2, 0.0, HIP)), "bob": standing((0.2, 0.0, HIP))}
    assert len(feed(quick(), 0.0, near)[0]) == 2


def test_unplaced_views_do_not_count():
    people = {"ann": standing((0.0, 0.0, HIP))}
    views, alignment = see(people, (FRONT, SIDE))
    alignment.placed[1] = False
    alignment.T_world_cam[1, :3, 3] = 100.0
    (person,), maps, _ = quick().update(0, views, alignment, ["a", "b"], [np.eye(3)] * 2)
    assert np.linalg.norm(person.position[:2]) < 0.3
    assert maps[1].any()  # the picture still shows who it is


def test_without_evidence_there_is_a_person_but_no_body():
    people = {"ann": standing((0.0, 0.0, HIP))}
    views, alignment = see(people)
    views[0].densepose[:] = np.nan
    (person,), *_ = PeopleTracker(BODY).update(0, views, alignment, ["a"], [np.eye(3)])
    assert person.fit is None and person.joints.shape == (0, 3)
    assert np.linalg.norm(person.position - [0, 0, HIP]) < 0.2  # inside, not on the skin


def test_how_large_somebody_looks():
    lookup, rng = VertexLookup(BODY), np.random.default_rng(0)

    def stature(state, depth_scale=1.0, noise=0.0) -> float:
        views, alignment = see({"ann": state}, (FRONT,), depth_scale=depth_scale)
        views[0].densepose[..., 1] += noise * rng.standard_normal(GRID).astype(np.float32)
        return lift(views, alignment, lookup, rng)[1][0].stature

    upright = standing((0.0, 0.0, HIP))
    usual = stature(upright)
    assert usual == pytest.approx(0.9, abs=0.04)
    assert stature(upright, depth_scale=1.5) == pytest.approx(1.5 * usual, rel=0.01)
    assert stature(upright, noise=0.06) == pytest.approx(usual, rel=0.08)
    bent = upright.rotations.clone()
    bent[:, 1:3] = torch.tensor(Rotation.from_euler("x", -90, degrees=True).as_matrix()).float()
    assert stature(replace(upright, rotations=bent)) < 0.8
    # Places in no order tell nothing, and none do neither.
    assert math.isnan(stature(upright, noise=2.0)) and math.isnan(stature(upright, noise=math.nan))


def test_nobody_is_a_giant_whatever_the_network_says_of_depth():
    views, alignment = see({"ann": standing((0.0, 0.0, HIP))}, depth_scale=2.5)
    lookup, rng = VertexLookup(BODY), np.random.default_rng(0)
    wrong, right = (
        lift(views, a, lookup, rng)[1][0]
        for a in (alignment, replace(alignment, depth=[d / 2.5 for d in alignment.depth]))
    )
    assert right.no_giant() is right
    ratio = np.median(wrong.no_giant().depth) / np.median(right.depth)
    assert 1 < ratio < 1.6  # of 2.5
    factors = PeopleTracker(BODY).update(0, views, alignment, ["a"], [np.eye(3)]).depth_factors
    assert factors[0].min() == pytest.approx(ratio / 2.5, rel=0.05)
    # Where the network tells the scale, people tell how far off it is.
    guessed = replace(alignment, scale_source=ScaleSource.NETWORK)
    factors = PeopleTracker(BODY).update(0, views, guessed, ["a"], [np.eye(3)]).depth_factors
    assert (factors[0] == 1).all()


def test_crossed_rays_correct_a_depth_a_fifth_too_large():
    state = standing((0.1, 0.0, HIP), turn=-0.8)
    truth = BODY.skeleton(state.rotations, state.transl, state.betas)[1][0].numpy()
    diagonal = camera_at((2.8, -2.8, 1.6), (0.0, 0.0, 0.9))
    views, alignment = see({"ann": state}, (FRONT, diagonal), depth_scale=1.2)
    lookup, triangulator = VertexLookup(BODY), Triangulator(BODY)
    rng = np.random.default_rng(0)
    glimpses = lift(views, alignment, lookup, rng)[1]
    crossed, corrected = triangulator(glimpses)
    assert len(crossed.points) > 30
    posed = BODY(state.rotations, state.transl, state.betas)[0][0].numpy()
    off = np.linalg.norm(crossed.points - posed[crossed.vertex_ids], axis=1)
    assert np.median(off) < 0.04
    for before, after in zip(glimpses, corrected, strict=True):
        assert np.median(after.depth / before.depth) == pytest.approx(1 / 1.2, abs=0.02)
    (detection,) = detect(views, alignment, lookup, triangulator, rng)
    assert np.linalg.norm(detection.centre[:2] - truth[0, :2]) < 0.12

    (person,), _ = feed(
        PeopleTracker(BODY), 0.0, {"ann": state}, (FRONT, diagonal), depth_scale=1.2
    )
    assert person.fit is not None
    assert np.linalg.norm(person.joints - truth, axis=1).mean() < 0.05


@pytest.mark.parametrize("scales", [(1.3, 0.8), (0.7, 1.4)])
def test_middles_of_masks_correct_depth_where_no_place_of_the_body_is_known(scales):
    state = standing((0.1, 0.0, HIP), turn=-0.8)
    views, alignment = see({"ann": state}, (FRONT, SIDE))
    blank = [replace(view, densepose=np.full_like(view.densepose, np.nan)) for view in views]
    depth = [d * np.float32(k) for d, k in zip(alignment.depth, scales, strict=True)]
    (person,), maps, factors = PeopleTracker(BODY).update(
        0, blank, replace(alignment, depth=depth), ["a", "b"], [np.eye(3)] * 2
    )
    assert np.linalg.norm(person.position - [0.1, 0, HIP]) < 0.2
    for ids, factor, scale in zip(maps, factors, scales, strict=True):
        assert factor[ids > 0] == pytest.approx(1 / scale, rel=0.08)
        assert (factor[ids == 0] == 1).all()


@pytest.mark.parametrize("shift", [-3, 3])
def test_masks_that_are_a_little_off_mislead_nobody_where_cameras_stand_together(shift):
    state = standing((0.0, 0.0, HIP))
    beside = camera_at((0.4, -4.0, 1.2), (0.0, 0.0, 0.9))
    alone = camera_at((0.0, -4.0, 1.2), (0.0, 0.0, 0.9))
    views, alignment = see({"ann": state}, (alone, beside))
    blank = [replace(view, densepose=np.full_like(view.densepose, np.nan)) for view in views]
    blank[1] = replace(blank[1], instances=np.roll(blank[1].instances, shift, 1))
    (person,), _, _ = PeopleTracker(BODY).update(0, blank, alignment, ["a", "b"], [np.eye(3)] * 2)
    assert np.linalg.norm(person.position - [0, 0, HIP]) < 0.25  # by rays alone 0.6


def test_flying_pixels_and_far_ones_are_dropped():
    views, alignment = see({"ann": standing((0.0, 0.0, HIP))})
    lookup, rng = VertexLookup(BODY), np.random.default_rng(0)
    (clean,) = lift(views, alignment, lookup, rng)[1]
    rows, columns = np.nonzero(views[0].instances)
    alignment.depth[0][rows[::60], columns[::60]] += 0.7  # between the person and the wall behind
    alignment.depth[0][rows[:20], columns[:20]] += 5.0
    (trimmed,) = lift(views, alignment, lookup, rng)[1]
    assert clean.count > 600
    assert clean.depth.max() < 4.6
    assert trimmed.count > 20
    assert (np.abs(trimmed.depth - np.median(clean.depth)) < 0.5).all()


def test_crossed_rays_of_different_people_are_refused():
    """Two people in one id: their rays pass each other, so nothing is made of them."""
    triangulator = Triangulator(BODY)
    rng = np.random.default_rng(0)
    lookup = VertexLookup(BODY)
    above = camera_at((4.0, 0.3, 3.6), (0.0, 0.0, 0.9))
    ann, bob = standing((-0.6, 0.8, HIP)), standing((0.7, -0.9, HIP))
    first = lift(*see({"ann": ann}, (FRONT,)), lookup, rng)[1]
    views, alignment = see({"bob": bob}, (above, above))
    second = lift(views, alignment, lookup, rng)[1][1:]  # view 1, so that the views differ
    crossed, corrected = triangulator([*first, *second])
    assert len(crossed.points) < 8
    assert corrected[0].depth == pytest.approx(first[0].depth)


def test_bodies_stay_calm_over_time():
    """Warm starts and the running average of the shape: a still person keeps still."""
    state = standing((0.0, 0.2, HIP), turn=0.3)
    tracker = PeopleTracker(BODY)
    people = [feed(tracker, k * 0.1, {"ann": state}, (FRONT, SIDE))[0][0] for k in range(8)]
    assert all(person.fit is not None for person in people)
    late = np.stack([person.joints for person in people[3:]])
    assert np.linalg.norm(late - late.mean(0), axis=-1).mean() < 0.01
    shapes = np.stack([person.fit.betas for person in people])
    steps = np.abs(np.diff(shapes, axis=0)).max(1)
    assert steps[-1] < 0.35


def test_disagreeing_inputs_are_named():
    views, alignment = see({"ann": standing((0.0, 0.0, HIP))})
    with pytest.raises(ValueError, match="1 views, 2 cameras"):
        quick().update(0, views, alignment, ["a", "b"], [np.eye(3)])
    alignment.depth[0] = np.zeros((3, 3), np.float32)
    with pytest.raises(ValueError, match="same output grid"):
        quick().update(0, views, alignment, ["a"], [np.eye(3)])


def test_the_filter_is_consistent():
    """Its own deviation matches its error on a walk with measurement noise."""
    rng = np.random.default_rng(1)
    errors, spreads, speeds = [], [], []
    for _ in range(20):
        velocity = rng.normal(0, 1, 3)
        motion = ConstantVelocity(rng.normal(0, 0.05, 3), np.eye(3) * 0.05**2)
        for step in range(1, 30):
            motion.predict(0.1)
            motion.correct(velocity * 0.1 * step + rng.normal(0, 0.05, 3), np.eye(3) * 0.05**2)
        errors.append(motion.position - velocity * 2.9)
        spreads.append(motion.covariance[0, 0])
        speeds.append(motion.velocity - velocity)
    assert np.std(speeds) < 0.35
    assert 0.4 < np.std(errors) / np.sqrt(np.mean(spreads)) < 1.3


def test_a_crowd_that_crosses_keeps_its_ids():
    """Five people before four cameras with noise, misses and unjoined masks, scored by motmetrics
    (a whole minute: benchmarks/tracking.py)."""
    motmetrics = pytest.importorskip("motmetrics")
    crowd, tracker = Crowd(BODY, 5, 40, 3, pause=0.0), PeopleTracker(BODY)
    scores = motmetrics.MOTAccumulator(auto_id=True)
    for frame in range(40):
        state = crowd.state(frame)
        views, alignment = crowd.see(state, Flaws())
        people, *_ = tracker.update(
            round(frame * STEP * SECOND), views, alignment, list("abcd"), [np.eye(3)] * 4
        )
        hips = BODY.skeleton(state.rotations, state.transl, state.betas)[1][:, 1:3].mean(1).numpy()
        gap = cdist(hips, np.array([person.position for person in people]))
        scores.update(list(range(5)), [p.id for p in people], np.where(gap < 0.5, gap, np.nan))
    figures = motmetrics.metrics.create().compute(scores, metrics=["num_switches", "mota"])
    assert figures["num_switches"].iloc[0] == 0
    assert figures["mota"].iloc[0] >= 0.95


@pytest.mark.parametrize("size", [0.85, 1.0, 1.15])
def test_people_tell_the_scale_that_no_calibration_tells(size):
    """The world is ``size`` times as large as it should be; so are its people."""
    crowd, tracker = Crowd(BODY, 3, 4, 5, pause=0.0), PeopleTracker(BODY)
    told = []
    for frame in range(4):
        views, known = crowd.see(crowd.state(frame), Flaws(missed=0.0, split=0.0))
        poses = known.T_world_cam.copy()
        poses[:, :3, 3] *= size
        guessed = replace(
            known,
            T_world_cam=poses,
            depth=[depth * np.float32(size) for depth in known.depth],
            scale_source=ScaleSource.NETWORK,
        )
        stamp = round(frame * STEP * SECOND)
        pixels = list("abcd"), [np.eye(3)] * 4
        tracker.update(stamp, views, guessed, *pixels)
        told.append(tracker.scale)
    tracker.update(stamp + SECOND, views, known, *pixels)
    assert tracker.scale is None
    factor = np.median([scale[0] for scale in told if scale])
    assert abs(np.log(factor * size)) < 0.12  # these people's own sizes are not known
    assert all(0.03 < scale[1] < 0.2 for scale in told if scale)


def test_the_shape_of_a_person_is_learnt_and_then_held():
    state = standing((0.0, 0.2, HIP), turn=0.3)
    state = replace(state, betas=torch.tensor([[0.8, -0.6, 0.4, 0, 0, 0, 0, 0, 0, 0]]))
    config = TrackingConfig(shape_frames=5, shape_std=1.0)
    tracker = PeopleTracker(BODY, config)
    betas = []
    for step in range(9):
        (person,), _ = feed(tracker, 0.1 * step, {"ann": state}, (FRONT, SIDE))
        assert person.fit is not None
        betas.append(person.fit.betas)
    np.testing.assert_allclose(betas[-1], betas[-3], atol=1e-3)
    assert np.abs(betas[1] - betas[0]).max() > 1e-3  # it was still learnt there
    assert np.abs(betas[-1][:3] - [0.8, -0.6, 0.4]).max() < 0.9


@pytest.mark.parametrize("flaw", ["nan depth", "infinite depth", "nobody", "one arm"])
def test_broken_evidence_is_survived_and_not_made_up(flaw):
    state = standing((0.0, 0.0, HIP), raise_arms=1.2)
    views, alignment = see({"ann": state}, (FRONT, SIDE))
    for view, depth in zip(views, alignment.depth, strict=True):
        part = np.zeros(depth.shape, dtype=bool)
        if flaw == "nan depth":
            depth[:] = np.nan
        elif flaw == "infinite depth":
            depth[::2] = np.inf
        elif flaw == "nobody":
            view.instances[:] = 0
        else:
            arm = torch.isin(BODY.part, torch.tensor([16, 18, 20, 22])).numpy()
            ids = VertexLookup(BODY)(view.densepose)
            part = (ids >= 0) & arm[ids]
            view.instances[~part] = 0
    tracker = PeopleTracker(BODY)
    for stamp in (0, SECOND // 10, SECOND // 5):
        people, maps, _ = tracker.update(stamp, views, alignment, ["a", "b"], [np.eye(3)] * 2)
        for person in people:
            assert np.isfinite(person.position).all() and np.isfinite(person.covariance).all()
            assert np.isfinite(person.joints).all() and np.isfinite(person.joint_std).all()
        if flaw == "one arm":  # somebody, but no body
            assert [person.fit for person in people] == [None]
        elif flaw != "infinite depth":
            assert people == ()
    assert all(m.dtype == np.uint16 for m in maps)


def test_one_wrong_place_does_not_become_a_speed():
    motion = ConstantVelocity(np.zeros(3), np.eye(3) * 0.02**2)
    for step in range(1, 20):
        motion.predict(0.1)
        assert motion.correct(np.array([0.1 * step, 0, 0]), np.eye(3) * 0.02**2) or step < 3
    before = motion.position.copy()
    motion.predict(0.1)
    assert not motion.correct(before + np.array([0, 0.7, 0]), np.eye(3) * 0.02**2)
    assert abs(motion.velocity[1]) < 2 and abs(motion.position[1]) < 0.25
    for _ in range(30):  # but who really is elsewhere is followed there
        motion.predict(0.1)
        motion.correct(np.array([2.0, 1.5, 0.0]), np.eye(3) * 0.02**2)
    assert np.linalg.norm(motion.position - [2.0, 1.5, 0.0]) < 0.05


def test_velocities_of_joints_are_found_with_their_deviation():
    """A body that walks at 0.7 m/s while its joints swing by 0.6 m/s, seen with 1 cm noise."""
    rng = np.random.default_rng(2)
    rest, swing = rng.normal(size=(24, 3)), 0.15 * rng.uniform(-1, 1, (24, 3))
    off, share = [], []
    motion = None
    for step in range(80):
        time = 0.1 * step
        true = rest + [0.7 * time, 0, 0] + swing * np.sin(4 * time)
        seen, std = true + 0.01 * rng.normal(size=true.shape), np.full(24, 0.01)
        if motion is None:
            motion = JointMotion(seen, std)
            continue
        motion.step(0.1, seen, std)
        if step > 10:
            error = motion.velocities - [0.7, 0, 0] - 4 * swing * np.cos(4 * time)
            off.append(error)
            share.append(np.abs(error) < motion.velocity_std[:, None])
    assert np.sqrt(np.mean(np.square(off))) < 0.2
    assert 0.6 < np.mean(share) < 0.95
    motion.step(0.1, motion.places + 50.0, np.full(24, 0.01))  # one wrong fit
    assert np.abs(motion.velocities).max() < 5 and np.isfinite(motion.covariance).all()


def test_people_tell_how_fast_their_joints_are():
    tracker = PeopleTracker(BODY)
    for step in range(8):
        state = standing((0.06 * step - 0.2, 0.0, HIP))
        (person,), _ = feed(tracker, 0.1 * step, {"ann": state}, (FRONT, SIDE))
        if step == 0:
            assert person.joint_velocities.shape == (0, 3)
    assert person.joint_velocities.shape == (24, 3) and person.joint_velocity_std.shape == (24,)
    assert person.joint_velocities.mean(0) == pytest.approx([0.6, 0, 0], abs=0.15)
    (hidden,), _ = feed(tracker, 0.9, {}, (FRONT, SIDE))
    assert np.ptp(hidden.joint_velocities, axis=0).max() == 0  # carried as a whole
    assert (hidden.joint_velocity_std > person.joint_velocity_std.min()).all()
    (found,), _ = feed(tracker, 1.9, {"ann": state}, (FRONT, SIDE))
    assert found.joint_velocities.shape == (0, 3)  # where they were a second ago says nothing


BACK = camera_at((0.2, 4.0, 1.4), (0.0, 0.0, 0.9))


def test_a_piece_of_a_mask_inside_somebodys_outline_is_theirs():
    """The legs in one view are a query of their own; the other views show whose they are."""
    tracker = quick()
    for step in range(3):
        views, alignment = see({"ann": standing((0.0, 0.0, HIP))}, (FRONT, SIDE, BACK))
        mask = views[0].instances
        rows = np.nonzero(mask)[0]
        mask[(mask > 0) & (np.arange(len(mask))[:, None] > np.percentile(rows, 65))] = 2
        views[0].scores[2] = 0.7
        (person,), maps, _ = tracker.update(
            step * SECOND // 2, views, alignment, list("abc"), [np.eye(3)] * 3
        )
        assert person.id == 1
        assert ((maps[0] == 1) == (mask > 0)).all()


def test_who_is_claimed_by_one_view_against_two_is_not_told_of_at_once():
    tracker, told = quick(), []
    for step in range(4):
        views, alignment = see({"ann": standing((0.0, 0.0, HIP))}, (FRONT, SIDE, BACK))
        views[0].instances[40:60, 4:16] = 2  # nobody: the other views see the floor there
        alignment.depth[0][40:60, 4:16] = 3.6
        alignment.confidence[0][40:60, 4:16] = 5
        views[0].scores[2] = 0.7
        people, maps, _ = tracker.update(
            step * SECOND // 10, views, alignment, list("abc"), [np.eye(3)] * 3
        )
        told.append([(person.id, person.state.name) for person in people])
        assert set(np.unique(maps[0])) == {0, *(person.id for person in people)}
    ann = (1, "OK")
    assert told == [[(1, "NEW")], [ann], [ann, (2, "NEW")], [ann, (2, "OK")]]


def found(place, views=(0, 1, 2), local=1, vague=None) -> Detection:
    """Somebody at a place; along ``vague`` (3,) it is not known to more than a metre."""
    covariance = np.eye(3) * 0.05**2
    if vague is not None:
        covariance += np.outer(vague, vague) / np.dot(vague, vague)
    return Detection(
        local_ids=(local,),
        views=frozenset(views),
        score=0.9,
        num_points=400,
        centre=np.array(place, float),
        covariance=covariance,
        size=0.4,
        points=np.empty((0, 3), np.float32),
        vertex_ids=np.empty(0, np.int64),
        weights=np.empty(0, np.float32),
        depth_factors={},
        camera=np.zeros(3),
    )


def followed(monkeypatch, *sets: list[Detection]) -> list[dict[int, np.ndarray]]:
    """Id -> place of those seen in each of several frame sets, 0.3 s apart."""
    tracker, result = quick(), []
    views, alignment = see({}, (FRONT, SIDE, BACK))
    for step, detections in enumerate(sets):
        monkeypatch.setattr("hamst3r.people.tracking.detect", lambda *_, d=detections: d)
        people, *_ = tracker.update(
            round(0.3 * step * SECOND), views, alignment, list("abc"), [np.eye(3)] * 3
        )
        result.append({p.id: p.position for p in people if p.state != TrackingState.PREDICTED})
    return result


def test_nobody_gives_up_a_good_match_for_the_sake_of_two_bad_ones(monkeypatch):
    """Somebody new is 1.2 m from where bob, who is gone, was expected, and not too far from ann."""
    ann, bob = (0.0, 0.0, HIP), (-1.1, 0.0, HIP)
    both = [found(ann), found(bob, local=2)]
    sets = followed(monkeypatch, both, both, both, [found(ann), found((1.0, 0.0, HIP), local=2)])
    assert sets[-1][1][0] == pytest.approx(0.0, abs=0.1)


def test_one_view_tells_a_place_across_its_line_of_sight_only(monkeypatch):
    """The view looks along y, where the place is 1.7 m off: it is still ann, and the next sight
    finds her where she was; to the side it would be somebody else. Nor would it be ann if other
    views did not show her there."""
    ann, along = found((0.0, 0.0, HIP)), np.array([0.0, 1.0, 0.0])
    for place, missed, same in (
        ((0.05, 1.7, HIP), 0, True),
        ((1.7, 0.05, HIP), 0, False),
        ((0.05, 1.7, HIP), 2, False),
    ):
        odd = replace(found(place, views=(0,), vague=along), missed=missed)
        *_, then, last = followed(monkeypatch, [ann], [ann], [ann], [odd], [ann])
        assert (1 in then) == same
        assert 1 in last


def test_a_weak_sight_does_not_take_a_strong_persons_place():
    """Seen again after half a second, the person is farther from where it was expected than a
    fragment is."""
    tracker = quick()
    feed(tracker, 0.0, {"ann": standing((0.0, 0.0, HIP))})
    feed(tracker, 0.1, {"ann": standing((0.0, 0.0, HIP))})
    views, alignment = see({"ann": standing((0.35, 0.0, HIP))})
    mask = views[0].instances
    columns = np.nonzero(mask)[1]
    left = (mask > 0) & (np.arange(mask.shape[1])[None] < np.percentile(columns, 12))
    mask[left] = 2
    views[0].scores[2] = 0.7
    people, maps, _ = tracker.update(SECOND * 6 // 10, views, alignment, ["cam0"], [np.eye(3)])
    sizes = {person.id: int((maps[0] == person.id).sum()) for person in people}
    assert sizes[1] > 0.8 * sum(sizes.values())
