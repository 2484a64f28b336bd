"""Localisation with perfect descriptors, with worthless ones, and with the shipped weights."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_pairs import EXACT, make_room, predict
from test_reconstructor import ExactEngine

from hamst3r.cli import main
from hamst3r.frames import FrameSet
from hamst3r.geometry import rotation_angle, transform
from hamst3r.localization import LocalizationConfig, localize
from hamst3r.reconstructor import Reconstructor

QUERY = 3


class DescriptorEngine:
    """Exact pointmaps; descriptors are functions of the place in the world, plus noise.

    Args:
        wrong: Share of the query's pixels whose descriptors are those of a random place.
    """

    patch, stride, image_size = 2, 2, 160
    precision, sha256 = "fp32", "exact"

    def __init__(self, room, wrong=0.0, dim=24):
        self.room, self.wrong = room, wrong
        rng = np.random.default_rng(0)
        self.frequency = rng.normal(0, 1.5, (3, dim // 2))
        self.rng = rng
        self.seen: list[set[str]] = []

    def _view(self, image):
        return QUERY if image.camera == "\0query" else int(image.camera.removeprefix("cam"))

    def _descriptors(self, view):
        world = transform(self.room.T_world_cam[view], self.room.points(view))
        if view == QUERY:
            lost = self.rng.random(world.shape[:2]) < self.wrong
            world[lost] = self.rng.uniform(-3, 3, (int(lost.sum()), 3))
        phase = world @ self.frequency
        values = np.concatenate([np.sin(phase), np.cos(phase)], -1)
        values += self.rng.normal(0, 0.02, values.shape)
        values /= np.linalg.norm(values, axis=-1, keepdims=True)
        return torch.tensor(values).float()

    def predict(self, images, edges):
        views = [self._view(image) for image in images]
        self.seen.append({images[i].camera for i, _ in edges})
        found = []
        for i, j in edges:
            (p,) = predict(self.room, [(views[i], views[j])], 0, EXACT)
            descriptors = self._descriptors(views[i]), self._descriptors(views[j])
            found.append(replace(p, i=i, j=j, desc_i=descriptors[0], desc_j=descriptors[1]))
        return found

    def describe(self, images):
        """Like the query is cam1, then cam0."""
        likeness = {QUERY: 1.0, 1: 0.9, 0: 0.1, 2: -1.0}
        return torch.tensor([[likeness[self._view(image)], 1.0, 0.5] for image in images])


@pytest.fixture(scope="module")
def room():
    return make_room(4, 1)


@pytest.fixture(scope="module")
def scene(room):
    frames = room.frames(poses=True)
    chosen = FrameSet(0, tuple(f for f in frames.frames if f.camera != f"cam{QUERY}"))
    scene = Reconstructor(ExactEngine(room)).push(chosen)
    return scene, {frame.camera: frame.image for frame in chosen.frames}


def query(room, known=True):
    frame = room.frames(poses=True).frames[QUERY]
    return frame if known else replace(frame, K=None)


def errors(result, room):
    truth = room.T_world_cam[QUERY]
    away = np.linalg.norm(result.T_world_cam[:3, 3] - truth[:3, 3])
    return away, np.degrees(rotation_angle(result.T_world_cam, truth))


@pytest.mark.parametrize("wrong", [0.0, 0.6])
def test_a_known_camera_is_placed_exactly(room, scene, wrong):
    result = localize(*scene, query(room), DescriptorEngine(room, wrong))
    away, turned = errors(result, room)
    assert result.found and result.known_K
    assert away < 0.02 and turned < 0.3
    np.testing.assert_array_equal(result.K, query(room).K)
    assert result.inliers <= result.matches and sum(result.references.values()) == result.inliers
    assert set(result.references) == {"cam0", "cam1", "cam2"}
    if not wrong:
        assert result.inliers > 0.5 * result.matches
    assert 0 < result.error < 4


def test_an_unknown_focal_length_is_found_too(room, scene):
    result = localize(*scene, query(room, known=False), DescriptorEngine(room, 0.2))
    away, turned = errors(result, room)
    assert result.found and not result.known_K
    assert result.K[0, 0] == pytest.approx(query(room).K[0, 0], rel=0.03)
    assert away < 0.1 and turned < 1


def test_the_frames_own_claim_of_a_pose_is_not_believed(room, scene):
    frame = query(room)
    elsewhere = np.eye(4)
    elsewhere[:3, 3] = 50
    moved = replace(frame, T_rig_cam=elsewhere)
    assert errors(localize(*scene, moved, DescriptorEngine(room)), room)[0] < 0.02


def test_chance_is_not_taken_for_a_place(room, scene):
    for seed in range(3):
        engine = DescriptorEngine(room, wrong=1.0)
        engine.rng = np.random.default_rng(seed)
        result = localize(*scene, query(room), engine)
        assert not result.found and result.inliers < result.needed


def test_only_the_most_similar_views_are_matched(room, scene):
    engine = DescriptorEngine(room)
    config = LocalizationConfig(references=2)
    result = localize(*scene, query(room), engine, config)
    assert set(result.references) == {"cam0", "cam1"} and engine.seen == [{"cam0", "cam1"}]
    assert result.found


def test_people_are_not_landmarks(room, scene):
    """Depth of people is spoiled; as they are masked, nothing changes."""
    stored, images = scene
    assert any((view.instances > 0).any() for view in stored.views)
    views = tuple(
        replace(view, depth=np.where(view.instances > 0, 0.3 * view.depth, view.depth))
        for view in stored.views
    )
    result = localize(replace(stored, views=views), images, query(room), DescriptorEngine(room))
    assert errors(result, room)[0] < 0.02
    assert result.inliers > 0.5 * result.matches


def test_what_cannot_be_matched_is_said(room, scene):
    stored, images = scene
    with pytest.raises(ValueError, match="no view with depth"):
        localize(stored, {}, query(room), DescriptorEngine(room))
    with pytest.raises(ValueError, match="no descriptors"):
        localize(stored, images, query(room), _Without(room))


class _Without(DescriptorEngine):
    def predict(self, images, edges):
        return [replace(p, desc_i=None, desc_j=None) for p in super().predict(images, edges)]


def test_the_command_tells_inliers_and_writes_poses(tmp_path, capsys):
    rng = np.random.default_rng(0)
    photos = tmp_path / "photos"
    photos.mkdir()
    coarse = rng.integers(0, 255, (24, 32, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC)
    for k in range(3):
        picture.crop((4 * k, 0, 300 + 4 * k, 240)).save(photos / f"p{k}.png")
    out = tmp_path / "out"
    assert main(["reconstruct", str(photos), "--out", str(out), "--formats", "", "--quiet"]) == 0
    capsys.readouterr()
    target, file = photos / "p1.png", tmp_path / "poses.json"
    status = main(["localize", str(out), str(target), "--json", str(file), "--focal", "270"])
    told = capsys.readouterr().out
    entry = json.loads(file.read_text())["images"][str(target)]
    assert status == (0 if entry["found"] else 1)
    assert f"{entry['inliers']} inliers of {entry['matches']} matches" in told
    assert (entry["width"], entry["height"]) == (300, 240)
    assert entry["K"][0][0] == pytest.approx(270) and entry["known_K"]
    for arguments, expected in (
        (["nowhere", str(target)], "nowhere: no such file or folder"),
        ([str(out), str(tmp_path / "no.png")], "no.png: no such file"),
        ([str(out), str(target), "--set", "1"], "--set must be 0 to 0"),
        ([str(out), str(target), "--references", "0"], "--references must be at least 1"),
    ):
        assert main(["localize", *arguments]) == 1
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1
