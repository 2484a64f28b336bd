"""Knowledge with covariances: calibrations that are a little off, gravity, stated and checked."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from synthetic_pairs import EXACT, Noise, errors, garbage, make_room, predict

from hamst3r.alignment.calibration import CalibrationError, load_calibration
from hamst3r.alignment.factors import Absolute, Level, Metric, Nodes, Relative, pose_information
from hamst3r.alignment.fusing import fuse, marginalise, normal_equations
from hamst3r.alignment.incremental import Aligner
from hamst3r.frames import Frame, FrameSet
from hamst3r.geometry import invert, make_T, rotation_angle
from hamst3r.pairs import choose_pairs
from hamst3r.scene import ScaleSource

POSITION, TURN, FOCAL = 0.03, np.deg2rad(2.0), 0.05
COVARIANCE = np.diag([POSITION**2] * 3 + [TURN**2] * 3)


def disturbed(room, seed, sign=1):
    """The room's frame set and images with a calibration that is off as it says it is.

    Another ``sign`` is off by as much the other way.
    """
    rng = np.random.default_rng(seed)
    frames, images = [], []
    for frame, image in zip(room.frames(True).frames, room.images(True), strict=True):
        T = frame.T_rig_cam.copy()
        T[:3, 3] += sign * POSITION * rng.normal(size=3)
        T[:3, :3] = Rotation.from_rotvec(sign * TURN * rng.normal(size=3)).as_matrix() @ T[:3, :3]
        K = image.K.copy()
        K[[0, 1], [0, 1]] *= np.exp(sign * FOCAL * rng.normal())
        frames.append(replace(frame, T_rig_cam=T, T_rig_cam_covariance=COVARIANCE, K_std=FOCAL))
        images.append(replace(image, K=K))
    return FrameSet(0, tuple(frames)), images


def nobody(room):
    return [np.zeros(depth.shape, bool) for depth in room.depth]


def off(room, T, K):
    """Mean errors in the rig's frame: metres, radians, relative focal length."""
    return np.array(
        [
            np.linalg.norm(T[:, :3, 3] - room.T_world_cam[:, :3, 3], axis=1).mean(),
            rotation_angle(T, room.T_world_cam).mean(),
            np.mean([abs(k[0, 0] / t[0, 0] - 1) for k, t in zip(K, room.K, strict=True)]),
        ]
    )


def compare(cameras, sets, seeds):
    """Mean errors of prior and fused in the rig's frame, of network and fused after alignment."""
    rows = []
    for seed in seeds:
        room = make_room(cameras, seed)
        frames, images = disturbed(room, seed + 1)
        both, alone = Aligner(), Aligner()
        for k in range(sets):
            pairs = predict(room, choose_pairs(cameras), seed + 100 * k)
            fused = both.solve(frames, images, pairs, nobody(room))
            network = alone.solve(room.frames(), room.images(), pairs, nobody(room))
        assert fused.scale_source is ScaleSource.CALIBRATION and 0 < fused.scale_std < 0.05
        prior = off(room, np.stack([f.T_rig_cam for f in frames.frames]), [i.K for i in images])
        aligned = [
            [e.camera, e.rotation, e.focal, e.points]
            for r in (network, fused)
            for e in [errors(room, r.T_world_cam, r.K, r.depth)]
        ]
        rows.append([prior, off(room, fused.T_world_cam, fused.K), *aligned])
        metric = np.concatenate(
            [np.ravel(d / t) for d, t in zip(fused.depth, room.depth, strict=True)]
        )
        assert np.median(metric) == pytest.approx(1, abs=0.04)
    return [np.mean(column, axis=0) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("sets", [1, 5])
def test_an_uncertain_calibration_and_the_pairs_are_better_than_either(sets):
    prior, fused, network, fused_aligned = compare(4, sets, range(12))
    assert fused[0] < 0.9 * prior[0], "positions in the rig's frame"
    assert fused[1] < 0.5 * prior[1] and fused[2] < 0.25 * prior[2], "rotations, focal lengths"
    assert (fused_aligned < network).all(), "cameras to each other, focal lengths, points"


@pytest.mark.parametrize(("cameras", "sets"), [(2, 1), (3, 1), (4, 1), (2, 4), (4, 4)])
def test_focal_lengths_are_better_than_by_either(cameras, sets):
    """Of four images the coarse calibration knows a hundredth of what the network does.

    That shows only where calibrations are off both ways alike: what one that is off adds to an
    error by chance is a multiple of what it takes from it on average.
    """
    prior, fused, network = [], [], []

    def log_focals(room, K):
        return np.log([k[0, 0] / t[0, 0] for k, t in zip(K, room.K, strict=True)])

    for seed in range(12):
        room = make_room(cameras, seed)
        calibrations = [disturbed(room, seed + 1, sign) for sign in (1, -1)]
        aligners = [Aligner() for _ in range(3)]
        for k in range(sets):
            pairs = predict(room, choose_pairs(cameras), seed + 100 * k)
            *both, alone = [
                aligner.solve(frames, images, pairs, nobody(room))
                for aligner, (frames, images) in zip(
                    aligners, [*calibrations, (room.frames(), room.images())], strict=True
                )
            ]
        prior += [log_focals(room, [i.K for i in images]) for _, images in calibrations]
        fused += [log_focals(room, result.K) for result in both]
        network += [log_focals(room, alone.K)] * 2
    squares = [np.square(x).mean() for x in (prior, fused, network)]
    assert squares[1] < 0.1 * squares[0] and squares[1] < squares[2]
    if sets == 1:
        # How sure the network is was judged well: as much is won as a share of the variances.
        share = squares[2] / squares[0]
        assert 0.3 * share < 1 - squares[1] / squares[2] < 2 * share


def test_of_two_cameras_as_well():
    prior, fused, network, fused_aligned = compare(2, 1, range(12))
    assert (fused < prior).all()
    assert (fused_aligned < network).all()


def test_a_covariance_of_zero_is_exact():
    room = make_room(4, 3)
    frames, images = disturbed(room, 4)
    zero = tuple(
        replace(f, T_rig_cam_covariance=np.zeros((6, 6)), K_std=0.0) for f in frames.frames
    )
    result = Aligner().solve(
        FrameSet(0, zero), images, predict(room, choose_pairs(4), 3), nobody(room)
    )
    for T, K, frame, image in zip(result.T_world_cam, result.K, zero, images, strict=True):
        np.testing.assert_array_equal(T, frame.T_rig_cam)
        np.testing.assert_array_equal(K, image.K)


def test_exact_and_uncertain_cameras_together():
    room = make_room(4, 5)
    frames, images = disturbed(room, 6)
    mixed = list(frames.frames)
    mixed[1] = room.frames(True).frames[1]
    images[1] = room.images(True)[1]
    mixed[3] = replace(mixed[3], T_rig_cam=None, T_rig_cam_covariance=None)
    result = Aligner().solve(
        FrameSet(0, tuple(mixed)), images, predict(room, choose_pairs(4), 5), nobody(room)
    )
    assert result.placed.all()
    np.testing.assert_array_equal(result.T_world_cam[1], room.T_world_cam[1])
    assert np.linalg.norm((result.T_world_cam - room.T_world_cam)[:, :3, 3], axis=1).max() < 0.35


@pytest.mark.parametrize("kind", ["garbage", "nothing"])
def test_without_help_from_the_pairs_the_calibration_stands(kind):
    room = make_room(3, 7)
    frames, images = disturbed(room, 8)
    both_ways = [*choose_pairs(3), *((j, i) for i, j in choose_pairs(3))]
    pairs = [garbage(p, k) for k, p in enumerate(predict(room, both_ways, 7))]
    result = Aligner().solve(frames, images, pairs if kind == "garbage" else [], nobody(room))
    assert result.placed.all() and np.isfinite(result.T_world_cam).all()
    for T, frame in zip(result.T_world_cam, frames.frames, strict=True):
        assert np.linalg.norm(T[:3, 3] - frame.T_rig_cam[:3, 3]) < 5 * POSITION
    assert result.scale_source is ScaleSource.NETWORK and result.scale_std >= 0.2
    if kind == "garbage":  # of second views: what each shows in its own axes is good
        for depth, true in zip(result.depth, room.depth, strict=True):
            assert np.median(depth[depth > 0] / true[depth > 0]) == pytest.approx(1, abs=0.3)
            assert (depth > 0).mean() > 0.9


def test_gravity_rights_a_tilted_calibration():
    """All cameras were calibrated against a floor that is not level; one has an IMU."""
    room = make_room(4, 9)
    frames, images = disturbed(room, 10)
    tilt = make_T(Rotation.from_euler("x", 3, degrees=True).as_matrix(), np.zeros(3))
    loose = np.diag([0.1**2] * 3 + [np.deg2rad(5) ** 2] * 3)
    tilted = [
        replace(f, T_rig_cam=tilt @ T, T_rig_cam_covariance=loose)
        for f, T in zip(frames.frames, room.T_world_cam, strict=True)
    ]
    pairs = predict(room, choose_pairs(4), 9)

    def tilt_of(frames):
        result = Aligner().solve(FrameSet(0, tuple(frames)), images, pairs, nobody(room))
        turns = result.T_world_cam[:, :3, :3] @ room.T_world_cam[:, :3, :3].transpose(0, 2, 1)
        return np.rad2deg(np.arccos(turns[:, 2, 2].clip(-1, 1)).mean())

    down = room.T_world_cam[0][:3, :3].T @ [0, 0, -9.81]
    told = [replace(tilted[0], gravity=down, gravity_std=0.005), *tilted[1:]]
    assert tilt_of(tilted) > 2 and tilt_of(told) < 0.7


def test_gravity_rights_a_world_of_unknown_cameras():
    room = make_room(3, 9)
    pairs = predict(room, choose_pairs(3), 9, EXACT)

    def up(**more):
        """The room's z in the world that was found: the cameras look down by some degrees."""
        frames = [
            replace(f, **{name: values[v] for name, values in more.items()})
            for v, f in enumerate(room.frames().frames)
        ]
        result = Aligner().solve(FrameSet(0, tuple(frames)), room.images(), pairs, nobody(room))
        return result.T_world_cam[0][:3, :3] @ room.T_world_cam[0][:3, :3].T @ [0, 0, 1]

    assert up()[2] < np.cos(np.deg2rad(5)), "the first camera was taken for level"
    down = [T[:3, :3].T @ [0, 0, -9.81] for T in room.T_world_cam]
    np.testing.assert_allclose(up(gravity=down), [0, 0, 1], atol=2e-3)
    # The surer one decides.
    wrong = [np.array([0.0, 1, 0]), down[1], down[2]]
    np.testing.assert_allclose(
        up(gravity=wrong, gravity_std=[1.0, 0.01, 0.01]), [0, 0, 1], atol=5e-3
    )


# ------------------------------------------------------------------ factors


def random_poses(rng, count):
    turns = Rotation.from_rotvec(rng.normal(size=(count, 3)))
    return np.stack(
        [make_T(R, t) for R, t in zip(turns.as_matrix(), rng.normal(size=(count, 3)), strict=True)]
    )


def spd(rng, count, size):
    A = rng.normal(size=(count, size, size))
    return A @ A.transpose(0, 2, 1) + 0.5 * np.eye(size)


def chain(rng, count, noise=0.01):
    """A ring of nodes, relative factors of all neighbours, and the first node known."""
    T = random_poses(rng, count)
    i, j = np.arange(count), (np.arange(count) + 1) % count
    E = Nodes.at(invert(T[i]) @ T[j]).moved(noise * rng.normal(size=(count, 7)))
    ring = Relative(i, j, E.T, E.log_scale, spd(rng, count, 7))
    first = Absolute(np.array([0]), T[:1], 1e4 * np.eye(6)[None])
    scale = Metric(np.array([0]), np.zeros(1), np.array([0.01]))
    return Nodes.at(T), [ring, first, scale]


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_derivatives_are_those_of_the_error(seed):
    """The gradient against differences of the error, near the minimum where it is exact."""
    rng = np.random.default_rng(seed)
    T = random_poses(rng, 3)
    T_i_j = invert(T[[0, 1]]) @ T[[1, 2]]
    factor = Relative(np.array([0, 1]), np.array([1, 2]), T_i_j, np.zeros(2), spd(rng, 2, 7))
    nodes = Nodes.at(T)
    H = normal_equations(nodes, [factor])[0].transpose(0, 2, 1, 3).reshape(21, 21)
    step = 1e-4 * rng.normal(size=(3, 7))
    expected = step.ravel() @ H @ step.ravel()
    assert factor.errors(nodes.moved(step)).sum() == pytest.approx(expected, rel=5e-3)


def test_fusing_recovers_what_the_factors_say():
    rng = np.random.default_rng(0)
    nodes, factors = chain(rng, 5, noise=0.0)
    start = nodes.moved(np.vstack([np.zeros(7), 0.1 * rng.normal(size=(4, 7))]))
    found = fuse(start, factors, np.ones(5, bool)).nodes
    np.testing.assert_allclose(found.T, nodes.T, atol=1e-5)
    np.testing.assert_allclose(found.log_scale, 0, atol=1e-5)


def test_the_covariance_is_that_of_the_errors():
    rng = np.random.default_rng(1)
    T = random_poses(rng, 1)
    std = np.array([0.01, 0.02, 0.03, 0.001, 0.002, 0.003])
    information = np.diag(std**-2.0)[None]
    found = []
    for _ in range(400):
        seen = Nodes.at(T).moved(np.append(std * rng.normal(size=6), 0)[None]).T
        factors = [Absolute(np.array([0]), seen, information)]
        result = fuse(Nodes.at(T), [*factors, *factors], np.ones(1, bool))
        E = invert(T[0]) @ result.nodes.T[0]
        found.append(np.append(E[:3, 3], Rotation.from_matrix(E[:3, :3]).as_rotvec()))
    np.testing.assert_allclose(np.std(found, axis=0), std, rtol=0.15)
    np.testing.assert_allclose(result.std(0)[:6], std / 2**0.5, rtol=1e-3)


def test_what_is_marginalised_still_counts():
    rng = np.random.default_rng(2)
    nodes, factors = chain(rng, 6)
    free = np.ones(6, bool)
    whole = fuse(nodes, factors, free)
    staying, remainder = marginalise(whole.nodes, factors, {2, 3})
    assert remainder is not None and remainder.touches() == {1, 4}
    # Something new is learned of a node that stays: the others follow as in the whole problem.
    moved = whole.nodes.T[[4]].copy()
    moved[0, :3, 3] += 0.02
    news = Absolute(np.array([4]), moved, 50 * np.eye(6)[None])
    expected = fuse(whole.nodes, [*factors, news], free).nodes
    kept = np.array([True, True, False, False, True, True])
    found = fuse(whole.nodes, [*staying, remainder, news], kept).nodes
    np.testing.assert_allclose(found.T[kept], expected.T[kept], atol=1e-3)


def test_gravity_turns_only_what_it_can():
    rng = np.random.default_rng(3)
    T = make_T(Rotation.from_euler("xyz", [5, -4, 30], degrees=True).as_matrix(), [1, 2, 3])[None]
    up = (np.eye(3)[2])[None]
    loose = Absolute(np.array([0]), T, np.eye(6)[None])
    found = fuse(Nodes.at(T), [loose, Level(np.array([0]), up, np.array([1e-3]))], np.ones(1, bool))
    np.testing.assert_allclose(found.nodes.T[0, :3, 2], [0, 0, 1], atol=1e-3)
    np.testing.assert_allclose(found.nodes.T[0, :3, 3], [1, 2, 3], atol=1e-6)
    assert rng is not None


def test_pose_information_is_in_the_cameras_axes():
    T = make_T(Rotation.from_euler("z", 90, degrees=True).as_matrix(), [1, 2, 3])
    covariance = np.diag([1.0, 4, 9, 1, 4, 9])
    expected = 1 / np.array([4.0, 1, 9, 4, 1, 9])
    np.testing.assert_allclose(np.diag(pose_information(T, covariance)), expected, rtol=1e-6)


# ------------------------------------------------------------------ scale


def test_people_correct_the_networks_scale_slowly():
    """The network makes everything a quarter too large; people say so, by their size."""
    room = make_room(3, 13)
    aligner = Aligner()
    ratios, positions, results = [], [], []
    for k in range(50):
        pairs = predict(room, choose_pairs(3), k, EXACT)
        pairs = [replace(p, pts_i=1.25 * p.pts_i, pts_j=1.25 * p.pts_j) for p in pairs]
        result = aligner.solve(room.frames(), room.images(), pairs, nobody(room))
        ratios.append(np.median(result.depth[0] / room.depth[0]))
        positions.append(result.T_world_cam[:, :3, 3])
        results.append(result)
        aligner.heed_scale(1 / ratios[-1], 0.05, ScaleSource.BODIES)
    assert ratios[0] == pytest.approx(1.25, rel=0.01) and results[0].scale_std >= 0.3
    assert results[0].scale_source is ScaleSource.NETWORK
    assert ratios[-1] == pytest.approx(1, abs=0.02)
    assert np.abs(np.diff(np.log(ratios))).max() < 0.0101
    assert results[-1].scale_source is ScaleSource.BODIES and results[-1].scale_std < 0.06
    # Cameras and depths keep fitting each other.
    baselines = [np.linalg.norm(p[1] - p[0]) for p in positions]
    assert baselines[0] / baselines[-1] == pytest.approx(ratios[0] / ratios[-1], rel=1e-3)


def test_a_world_that_nobody_knows_takes_the_scale_at_once():
    room = make_room(3, 13)
    aligner = Aligner()
    solve = partial(aligner.solve, room.frames(), room.images(), predict(room, choose_pairs(3), 0))
    first = solve(nobody(room))
    aligner.heed_scale(1.5, 0.1, ScaleSource.BODIES)
    settled = aligner.settle(first)
    growth = settled.gain / first.gain
    assert 1.4 < growth < 1.5 and settled.scale_source is ScaleSource.BODIES
    assert settled.scale_std < first.scale_std
    for a, b in zip(first.depth, settled.depth, strict=True):
        np.testing.assert_allclose(b, growth * a, rtol=1e-6)
    np.testing.assert_allclose(
        settled.T_world_cam[:, :3, 3], growth * first.T_world_cam[:, :3, 3], atol=1e-9
    )
    # And goes on in it.
    then = solve(nobody(room))
    assert then.gain == pytest.approx(settled.gain)
    np.testing.assert_allclose(then.T_world_cam, settled.T_world_cam, atol=0.01)


def test_a_calibration_is_not_talked_out_of_its_scale_by_people():
    room = make_room(3, 13)
    aligner = Aligner()
    for k in range(5):
        aligner.heed_scale(2.0, 0.01, ScaleSource.BODIES)
        pairs = predict(room, choose_pairs(3), k)
        result = aligner.solve(room.frames(True), room.images(True), pairs, nobody(room))
    np.testing.assert_array_equal(result.T_world_cam, room.T_world_cam)
    assert result.scale_source is ScaleSource.CALIBRATION
    assert aligner.settle(result) is result


@pytest.mark.parametrize(("factor", "std"), [(0.0, 0.1), (np.nan, 0.1), (1.0, 0.0), (-1, 1)])
def test_a_scale_that_cannot_be_is_refused(factor, std):
    with pytest.raises(ValueError, match="a factor and a relative std above 0"):
        Aligner().heed_scale(factor, std, ScaleSource.BODIES)


# ------------------------------------------------------------------ stated by the user


def write(tmp_path, **more):
    entry = {"K": np.diag([80.0, 80, 1]).tolist(), "R": np.eye(3).tolist(), "t": [0, 0, 0], **more}
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"cameras": {"left": entry}}))
    return path


def test_calibration_files_say_how_sure_they_are(tmp_path):
    exact = load_calibration(write(tmp_path))["left"]
    assert exact.covariance is None and exact.focal_std == 0
    some = load_calibration(write(tmp_path, focal_std=0.05, position_std=0.03, rotation_std_deg=2))[
        "left"
    ]
    assert some.focal_std == 0.05
    np.testing.assert_allclose(some.covariance, COVARIANCE)
    full = load_calibration(write(tmp_path, covariance=COVARIANCE.tolist()))["left"]
    np.testing.assert_allclose(full.covariance, COVARIANCE)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"focal_std": -1}, "'focal_std' needs a number of 0"),
        ({"position_std": "wide"}, "'position_std' needs a number of 0"),
        ({"covariance": [[1, 2], [3, 4]]}, "'covariance' needs shape"),
        ({"covariance": (-COVARIANCE).tolist()}, "without negative eigenvalues"),
    ],
)
def test_wrong_uncertainties_are_named(tmp_path, more, message):
    with pytest.raises(CalibrationError, match=message):
        load_calibration(write(tmp_path, **more))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"K_std": 2.0}, r"K_std must be in \[0, 1\)"),
        ({"T_rig_cam_covariance": np.eye(3)}, r"must be finite and of shape \(6, 6\)"),
        ({"T_rig_cam_covariance": np.triu(np.ones((6, 6)))}, "must be symmetric"),
        ({"gravity": np.zeros(3)}, "gravity needs a length"),
    ],
)
def test_wrong_frames_are_named(more, message):
    with pytest.raises(ValueError, match=message):
        Frame("left", 0, np.zeros((4, 4, 3), np.uint8), **more)


def test_an_overconfident_network_does_not_beat_an_honest_calibration():
    """Pairs that contradict each other by degrees say so: then the calibration decides."""
    room = make_room(4, 11)
    frames, images = disturbed(room, 12)
    wild = Noise(rotation=25.0, translation=0.4, smooth=0.15)
    found = []
    for k in range(4):
        pairs = predict(room, choose_pairs(4), k, wild)
        result = Aligner().solve(frames, images, pairs, nobody(room))
        found.append(off(room, result.T_world_cam, result.K))
    prior = off(room, np.stack([f.T_rig_cam for f in frames.frames]), [i.K for i in images])
    assert np.mean(found, axis=0)[0] < 2.5 * prior[0] and np.mean(found, axis=0)[1] < 2 * prior[1]
