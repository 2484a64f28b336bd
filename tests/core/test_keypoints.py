"""Keypoints, alone and as the alignment asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from synthetic_pairs import EXACT, Room, make_room, predict, prediction

from hamst3r.alignment import incremental, structure
from hamst3r.alignment.bundle import Bundle, _Equations, adjust
from hamst3r.alignment.incremental import Aligner, AlignerConfig
from hamst3r.alignment.landmarks import Landmarks, correct, landmarks
from hamst3r.alignment.looks import rigid_steps
from hamst3r.alignment.recognition import EVERY, FIRST, GIVE_UP
from hamst3r.alignment.structure import first_depths
from hamst3r.alignment.two_views import confirmed, gather, link
from hamst3r.frames import FrameSet
from hamst3r.geometry import invert, make_T, pixel_rays, project, rotation_angle, transform
from hamst3r.image import NetworkImage
from hamst3r.keypoints import Keypoints, KeypointUse, detect, match
from hamst3r.pairs import Pairing, choose_pairs

K = np.array([[100.0, 0, 79.5], [0, 100, 59.5], [0, 0, 1]])
COMPLETE = choose_pairs(4, Pairing.COMPLETE)
EACH = [(0, 1), (0, 2), (1, 2)]


def near(**changes) -> Room:
    """Four cameras some 15 degrees from one another."""
    return make_room(4, 5, 112, 84, spread=0.16, **changes)


def corners(room: Room) -> np.ndarray:
    """Images (V, 3, H, W) of cubes of random colours, 15 cm wide, fixed in the world."""
    images = []
    for view, image in enumerate(room.images(intrinsics=True)):
        height, width = image.tensor.shape[1:]
        depth = cv2.resize(room.depth[view], (width, height), interpolation=cv2.INTER_LINEAR)
        points = pixel_rays(image.K_image, height, width) * depth[..., None]
        cube = np.floor(transform(room.T_world_cam[view], points) / 0.15 + 0.37).astype(np.int64)
        hashed = (cube * [73856093, 19349663, 83492791]).sum(-1) % 9973
        colour = np.random.default_rng(0).random((9973, 3))[hashed]
        images.append(cv2.GaussianBlur(colour, (3, 3), 0.7).transpose(2, 0, 1) * 2 - 1)
    return np.stack(images)


def textured(room: Room, intrinsics: bool = True):
    """The room's images, with corners on everything."""
    return [
        replace(image, tensor=torch.tensor(rgb, dtype=torch.float32))
        for image, rgb in zip(room.images(intrinsics), corners(room), strict=True)
    ]


def filmed(frames: FrameSet, images: Sequence[NetworkImage]) -> FrameSet:
    """The frames as cameras deliver them that show the images."""
    shown = [((x.tensor.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy() for x in images]
    pairs = zip(frames.frames, shown, strict=True)
    return FrameSet(frames.stamp, tuple(replace(frame, image=image) for frame, image in pairs))


def weak(room: Room, seed: int, wider: float = 1.0):
    """Pairs of a network that knows depth roughly, and thinks that all cameras look one way.

    What was learned by regression varies less than the truth does, and not more. Lenses, it thinks,
    are ``wider`` than they are.
    """
    rng = np.random.default_rng(seed)
    found = []
    for i, j in COMPLETE:
        bend = []
        for v in (i, j):
            log = np.log(room.depth[v])
            error = 0.28 * cv2.resize(rng.standard_normal((4, 4)), log.shape[::-1])
            bend.append(np.exp(error - 0.3 * (log - np.median(log))))
        stretch = [wider, wider, 1]
        points = [
            room.points(v) * b[..., None] * stretch for v, b in zip((i, j), bend, strict=True)
        ]
        sure = np.full(room.depth[i].shape, 3.0)
        found.append(prediction(i, j, *points, sure, sure))
    return found


def turns(T: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(V - 1,) degrees by which cameras are turned wrongly against the first."""
    found, wanted = (invert(x[0]) @ x[1:] for x in (T, true))
    return np.degrees(rotation_angle(found, wanted))


def cloud(rng, views: int = 3, points: int = 80, noise: float = 0.0):
    """Poses, and keypoints (with descriptors of their own) of points in front of all of them."""
    X = rng.uniform([-2, -1.5, 3], [2, 1.5, 8], (points, 3))
    poses = np.stack(
        [
            make_T(Rotation.from_rotvec(rng.normal(0, 0.1, 3)).as_matrix(), rng.normal(0, 0.5, 3))
            for _ in range(views)
        ]
    )
    words = rng.normal(size=(points, 128))
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    keypoints = []
    for T in poses:
        pixels = project(transform(invert(T), X), K) + noise * rng.normal(size=(points, 2))
        keypoints.append(Keypoints(pixels, words.astype(np.float32), 0.5))
    return X, poses, keypoints


def bundle_of(poses, keypoints, **changes) -> Bundle:
    count = len(poses)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    links = [link(i, j, keypoints, [K] * count) for i, j in pairs]
    tracks = gather([s for s in links if s is not None], keypoints)
    nothing = np.full(len(tracks.view), np.nan)
    values = {
        "tracks": tracks,
        "K": [K] * count,
        "pixel": np.full(count, 0.5),
        "free": np.arange(count) > 0,
        "open_lens": np.zeros(count, bool),
        "focal_information": np.zeros((count, count)),
        "depth": nothing,
        "depth_std": 0.2,
        "T_world_cam": poses,
        "log_focal": np.zeros(count),
        "log_depth": first_depths(tracks, [K] * count, poses, nothing),
    }
    return Bundle(**(values | changes))


# --- images -----------------------------------------------------------------------------------


def test_keypoints_of_a_shifted_image_are_found_again():
    room = make_room(1, 3, 112, 84)
    (image,) = textured(room)
    shifted = replace(image, tensor=torch.roll(image.tensor, (6, -10), (1, 2)))
    a, b = detect(image), detect(shifted)
    pairs = match(a, b)
    moved = b.pixels[pairs[:, 1]] - a.pixels[pairs[:, 0]]
    assert len(pairs) > 100
    # Ten pixels of the image are five of the grid.
    assert np.mean(np.abs(moved - [-5, 3]).max(1) < 0.3) > 0.95
    assert len(np.unique(pairs[:, 0])) == len(np.unique(pairs[:, 1])) == len(pairs)


def test_an_image_without_texture_has_none():
    (image,) = make_room(1, 3).images()
    flat = detect(image)
    assert flat.pixels.shape == (0, 2) and match(flat, flat).shape == (0, 2)


# --- two views --------------------------------------------------------------------------------


def test_the_motion_between_two_views_is_found_among_wrong_matches():
    rng = np.random.default_rng(1)
    _, poses, keypoints = cloud(rng, views=2, points=120, noise=0.1)
    wrong = keypoints[1].descriptors.copy()
    wrong[:50] = wrong[rng.permutation(50)]
    found = link(0, 1, [keypoints[0], replace(keypoints[1], descriptors=wrong)], [K, K])
    true = invert(poses[0]) @ poses[1]
    assert np.degrees(rotation_angle(found.T_i_j, true)) < 1.5
    along = found.T_i_j[:3, 3] @ true[:3, 3] / np.linalg.norm(true[:3, 3])
    assert along > np.cos(np.radians(10))
    assert (found.matches[:, 0] == found.matches[:, 1]).mean() > 0.95


def test_views_of_different_things_have_no_motion():
    rng = np.random.default_rng(2)
    one, other = cloud(rng)[2][0], cloud(rng)[2][0]
    assert link(0, 1, [one, other], [K, K]) is None
    few = [Keypoints(k.pixels[:10], k.descriptors[:10], 0.5) for k in cloud(rng)[2]]
    assert link(0, 1, few, [K, K]) is None


def test_matches_are_confirmed_by_a_true_motion_only():
    rng = np.random.default_rng(3)
    _, poses, keypoints = cloud(rng)
    T = invert(poses[0]) @ poses[1]
    assert len(confirmed(0, 1, keypoints, [K] * 3, T)) == 80
    turned = make_T(Rotation.from_euler("z", 40, degrees=True).as_matrix(), T[2::-1, 3])
    assert len(confirmed(0, 1, keypoints, [K] * 3, turned)) == 0


def test_what_would_be_twice_in_a_view_is_no_point():
    rng = np.random.default_rng(4)
    _, _, keypoints = cloud(rng, points=40)
    links = [link(0, 1, keypoints, [K] * 3), link(1, 2, keypoints, [K] * 3)]
    shifted = np.stack([np.arange(40), np.roll(np.arange(40), 1)], 1)
    good = gather(links, keypoints)
    assert good.count == 40 and (np.bincount(good.point) == 3).all()
    # Points that are one another's neighbours now form one chain through everything.
    torn = gather([*links, replace(links[0], i=0, j=2, matches=shifted)], keypoints)
    assert torn.count == 0


# --- bundle -----------------------------------------------------------------------------------


def test_derivatives_are_those_of_the_residuals():
    rng = np.random.default_rng(5)
    _, poses, keypoints = cloud(rng, noise=0.3)
    count = len(poses)
    bundle = bundle_of(
        poses,
        keypoints,
        free=np.ones(count, bool),
        open_lens=np.ones(count, bool),
        log_focal=np.array([0.1, -0.05, 0.02]),
    )
    bundle = replace(bundle, depth=rng.uniform(3, 8, len(bundle.depth)))
    equations = _Equations(bundle)
    J, by_point = equations.by_views(), equations.by_points()
    weight = equations._weight.ravel()

    def residuals(step, deeper):
        moved = replace(
            bundle,
            T_world_cam=bundle.T_world_cam @ rigid_steps(step),
            log_focal=bundle.log_focal + step[:, 6],
            log_depth=bundle.log_depth + deeper,
        )
        new = _Equations(moved)
        # With the weights of the first state: those are held in a step.
        return new._r.ravel() / np.maximum(new._weight.ravel(), 1e-12) * weight

    step, deeper = 1e-5 * rng.normal(size=(count, 7)), 1e-5 * rng.normal(size=bundle.tracks.count)
    ahead, behind = residuals(step, deeper), residuals(-step, -deeper)
    expected = J @ step.ravel() + by_point * np.repeat(deeper[bundle.tracks.point], 3)
    np.testing.assert_allclose((ahead - behind) / 2, expected, atol=2e-7)


def test_poses_are_found_again_from_a_bad_start():
    rng = np.random.default_rng(6)
    X, poses, keypoints = cloud(rng, noise=0.05)
    off = np.stack(
        [
            make_T(Rotation.from_rotvec(x[:3]).as_matrix(), 2 * x[3:])
            for x in rng.normal(0, 0.05, (3, 6))
        ]
    )
    off[0] = np.eye(4)
    start = bundle_of(poses @ off, keypoints)
    # The network's depths, a tenth too deep and rough, are what gives the scale.
    z = np.concatenate([transform(invert(T), X)[:, 2] for T in poses])
    depth = 1.1 * z.reshape(3, -1).T.ravel() * np.exp(0.1 * rng.normal(size=len(z)))
    found = adjust(replace(start, depth=depth))
    assert turns(found.T_world_cam, poses).max() < 0.2
    true, new = (
        np.linalg.norm(T[1:, :3, 3] - T[0, :3, 3], axis=1) for T in (poses, found.T_world_cam)
    )
    np.testing.assert_allclose(new / true, 1.1, atol=0.06)


def test_a_lens_is_found_by_what_three_views_share():
    rng = np.random.default_rng(7)
    _, poses, keypoints = cloud(rng, points=150, noise=0.05)
    longer = K * [[1.15, 1, 1], [1, 1.15, 1], [1, 1, 1]]
    start = bundle_of(
        poses, keypoints, K=[longer] * 3, open_lens=np.ones(3, bool), focal_information=np.eye(3)
    )
    found = adjust(start)
    focals = np.array([x[0, 0] for x in found.adjusted_K])
    assert np.abs(focals / 100 - 1).max() < 0.04


# --- depth ------------------------------------------------------------------------------------


def test_landmarks_are_where_their_rays_meet():
    rng = np.random.default_rng(8)
    X, poses, keypoints = cloud(rng, noise=0.05)
    marks = landmarks(keypoints, [K] * 3, dict(enumerate(poses)), EACH)
    for T, mark in zip(poses, marks, strict=True):
        true = transform(invert(T), X)
        seen = project(true, K)
        nearest = np.linalg.norm(mark.pixels[:, None] - seen, axis=2).argmin(1)
        off = np.abs(mark.inverse - 1 / true[nearest, 2])
        assert len(off) > 50 and np.median(off * true[nearest, 2]) < 0.02
        assert np.mean(off < 3 * mark.std) > 0.9
    alone = landmarks(keypoints, [K] * 3, {0: poses[0]}, EACH)
    assert all(len(mark.inverse) == 0 for mark in alone)
    together = landmarks(keypoints, [K] * 3, dict.fromkeys(range(3), poses[0]), EACH)
    assert all(len(mark.inverse) == 0 for mark in together)


def test_bent_depth_is_drawn_to_landmarks_and_outliers_are_not_followed():
    rng = np.random.default_rng(9)
    u, v = np.meshgrid(np.arange(112), np.arange(84))
    true = (3 + 0.01 * u + 0.02 * v).astype(np.float32)
    bent = (true * np.exp(0.4 * np.sin(u / 25) + 0.3)).astype(np.float32)
    bent[:10] = 0
    pixels = np.stack([rng.uniform(0, 111, 60), rng.uniform(12, 83, 60)], 1)
    columns, rows = pixels.round().astype(int).T
    depth = true[rows, columns] * np.exp(0.03 * rng.normal(size=60))
    depth[:6] *= 3
    fixed, std = correct(bent, Landmarks(pixels, 1 / depth, 0.03 / depth))
    before, after = (np.abs(z[10:] / true[10:] - 1) for z in (bent, fixed))
    assert np.median(after) < 0.06 < 0.2 < np.median(before)
    assert np.quantile(after, 0.95) < 0.25
    assert (fixed[:10] == 0).all() and fixed.dtype == np.float32
    few = Landmarks(pixels[:4], 1 / depth[:4], 0.03 / depth[:4])
    assert correct(bent, few)[0] is bent and np.isnan(correct(bent, few)[1])
    straight = np.where(bent > 0, true, 0)
    assert correct(straight, Landmarks(pixels, 1 / depth, 0.03 / depth))[1] < 0.06 < std < 0.1


def test_what_a_short_baseline_tells_of_depth_is_not_too_near():
    """Noise that brings a point nearer makes it look surer, too."""
    rng = np.random.default_rng(10)
    true = np.full((84, 112), 4.0, np.float32)
    std = 0.09  # of the inverse depth: a third of it
    pixels = np.stack([rng.uniform(0, 111, 200), rng.uniform(0, 83, 200)], 1)
    inverse = np.maximum(1 / 4 + std * rng.normal(size=200), 1e-3)
    fixed, _ = correct(true * np.float32(1.3), Landmarks(pixels, inverse, np.full(200, std)))
    assert abs(np.median(fixed) / 4 - 1) < 0.06


def test_an_alignment_with_known_poses_has_better_depth():
    room = near()
    found = {}
    for use in (KeypointUse.OFF, KeypointUse.DEPTH):
        aligner = Aligner(AlignerConfig(keypoints=use))
        found[use] = aligner.solve(
            room.frames(poses=True), textured(room), weak(room, 1), still(room)
        )
    errors = {
        use: np.mean(
            [np.median(np.abs(z / t - 1)) for z, t in zip(a.depth, room.depth, strict=True)]
        )
        for use, a in found.items()
    }
    assert errors[KeypointUse.DEPTH] < 0.7 * errors[KeypointUse.OFF]
    assert found[KeypointUse.DEPTH].scale_std < 0.05
    np.testing.assert_array_equal(found[KeypointUse.DEPTH].T_world_cam, room.T_world_cam)


# --- unknown cameras --------------------------------------------------------------------------


def still(room: Room):
    return [np.zeros(depth.shape, bool) for depth in room.depth]


@pytest.mark.parametrize("intrinsics", [True, False])
def test_unknown_cameras_are_found_where_the_network_guesses(intrinsics):
    room = near()
    images = textured(room, intrinsics)
    frames = filmed(room.frames(intrinsics=intrinsics), images)
    guessed = Aligner(AlignerConfig(keypoints=KeypointUse.OFF)).solve(
        frames, images, weak(room, 1), still(room)
    )
    found = Aligner().solve(frames, images, weak(room, 1), still(room))
    assert found.placed.all()
    assert turns(guessed.T_world_cam, room.T_world_cam).max() > 20
    assert turns(found.T_world_cam, room.T_world_cam).max() < (1 if intrinsics else 3)


@pytest.mark.parametrize("wider", [0.65, 1.55])
def test_lenses_are_found_that_the_network_takes_for_others(wider):
    room = near(focals=[0.7, 1.1, 0.7, 1.1])
    images = textured(room, intrinsics=False)
    frames = filmed(room.frames(), images)
    found = Aligner().solve(frames, images, weak(room, 1, wider), still(room))
    assert found.placed.all()
    assert turns(found.T_world_cam, room.T_world_cam).max() < 4
    focals = np.array([own[0, 0] / true[0, 0] for own, true in zip(found.K, room.K, strict=True)])
    assert np.abs(np.log(focals)).max() < 0.15


def test_a_network_that_knows_is_believed():
    room = near()
    images = textured(room)
    frames = filmed(room.frames(intrinsics=True), images)
    pairs = predict(room, COMPLETE, 1, EXACT)
    with_them, without = (
        Aligner(AlignerConfig(keypoints=use)).solve(frames, images, pairs, still(room))
        for use in (KeypointUse.DEPTH, KeypointUse.OFF)
    )
    np.testing.assert_array_equal(with_them.T_world_cam, without.T_world_cam)
    for a, b in zip(with_them.depth, without.depth, strict=True):
        np.testing.assert_array_equal(a, b)


def test_cameras_stay_where_they_were_seen_and_are_looked_for_now_and_then(monkeypatch):
    room = near()
    images = textured(room)
    frames = filmed(room.frames(intrinsics=True), images)
    looked = []
    at_once = incremental.at_once
    monkeypatch.setattr(incremental, "at_once", lambda *x: looked.append(now) or at_once(*x))
    aligner = Aligner(AlignerConfig(keypoints=KeypointUse.POSES))
    poses = []
    for now in range(FIRST + EVERY + 2):
        seen = images if now < FIRST else [replace(x, tensor=0 * x.tensor) for x in images]
        result = aligner.solve(filmed(frames, seen), seen, weak(room, now), still(room))
        poses.append(result.T_world_cam)
        assert not any("moved" in note for note in result.notes)
    assert looked == [0, 1, 2, 3, 4, EVERY]
    # In the dark they are where they were.
    np.testing.assert_allclose(poses[-1], poses[FIRST - 1], atol=1e-12)
    assert turns(poses[-1], room.T_world_cam).max() < 2
    assert result.camera_confidence.min() > 0.5


def test_a_camera_that_comes_later_is_placed_beside_the_others():
    room = near()
    images = textured(room)
    frames = filmed(room.frames(intrinsics=True), images)
    dark = [*images[:3], replace(images[3], tensor=0 * images[3].tensor)]
    aligner = Aligner()
    for now in range(EVERY + 1):
        seen = dark if now < FIRST else images
        result = aligner.solve(filmed(frames, seen), seen, weak(room, now), still(room))
        if now == FIRST - 1:
            before = result.T_world_cam
    assert turns(before, room.T_world_cam)[2] > 5
    np.testing.assert_allclose(result.T_world_cam[:3], before[:3], atol=1e-9)
    assert turns(result.T_world_cam, room.T_world_cam).max() < 3


def test_a_camera_that_nothing_ties_to_the_others_has_no_place_beside_them():
    room = near(turned={3: 40.0})
    images = textured(room)
    images[3] = replace(images[3], tensor=0 * images[3].tensor)
    frames = filmed(room.frames(intrinsics=True), images)
    aligner = Aligner()
    for now in range(FIRST + 1):  # The last one is not looked at.
        found = aligner.solve(frames, images, weak(room, now), still(room))
        assert found.placed.tolist() == [True, True, True, False]
        assert "camera cam3 could not be placed" in found.notes
        assert not any("moved" in note for note in found.notes)
        assert all((z > 0).mean() > 0.9 for z in found.depth[:3])
        assert turns(found.T_world_cam[:3], room.T_world_cam[:3]).max() < 2
    # A network that knows where it is says so in pairs that fit each other.
    knows = predict(room, COMPLETE, 1, EXACT)
    pairs = [k if 3 in (k.i, k.j) else w for k, w in zip(knows, weak(room, 1), strict=True)]
    assert Aligner().solve(frames, images, pairs, still(room)).placed.all()
    # Where nothing is known any better, all there is are guesses.
    nothing = AlignerConfig(keypoints=KeypointUse.OFF)
    assert Aligner(nothing).solve(frames, images, weak(room, 1), still(room)).placed.all()


def test_a_camera_that_moved_is_noticed():
    before, after = near(), near(turned={3: 12.0})
    aligner = Aligner()
    last = EVERY + GIVE_UP - 1  # One look might err.
    for now in range(last + 1):
        room = before if now < EVERY else after
        images = textured(room)
        frames = filmed(room.frames(intrinsics=True), images)
        result = aligner.solve(frames, images, weak(room, now), still(room))
        assert ("camera cam3 has moved" in result.notes) == (now == last)
    assert turns(result.T_world_cam, after.T_world_cam).max() < 3


@pytest.mark.parametrize("what", ["noise", "one image", "nothing", "a stripe"])
def test_whatever_images_show_cameras_get_places(what):
    room = near()
    rng = np.random.default_rng(11)
    shape = room.images()[0].tensor.shape
    one = rng.uniform(-1, 1, shape)
    seen = {
        "noise": [rng.uniform(-1, 1, shape) for _ in range(4)],
        "one image": [one] * 4,
        "nothing": [np.zeros(shape)] * 4,
        "a stripe": [np.where(np.arange(shape[2]) // 9 % 2, 1.0, -1.0) * np.ones(shape)] * 4,
    }[what]
    images = [
        replace(image, tensor=torch.tensor(rgb, dtype=torch.float32))
        for image, rgb in zip(room.images(), seen, strict=True)
    ]
    aligner = Aligner()
    for now in range(3):
        frames = filmed(room.frames(), images)
        result = aligner.solve(frames, images, weak(room, now), still(room))
        assert result.placed.any()
        assert np.isfinite(result.T_world_cam).all()
        assert all(np.isfinite(z).all() for z in result.depth)


def test_lenses_are_not_believed_that_are_far_from_all_guesses(monkeypatch):
    """Even where they are right, as here: of those that real matches want, hardly any is."""
    room = near(focals=[0.7, 1.1, 0.7, 1.1])
    images = textured(room, intrinsics=False)
    frames = filmed(room.frames(), images)

    def focals():
        found = Aligner().solve(frames, images, weak(room, 1, 5.0), still(room))
        return np.array([own[0, 0] / true[0, 0] for own, true in zip(found.K, room.K, strict=True)])

    assert focals() == pytest.approx(0.2, rel=0.1)
    monkeypatch.setattr(structure, "FARTHEST_GUESS", np.inf)
    assert focals() == pytest.approx(1.0, rel=0.1)
