"""From frames to scene: with a real (untrained) network, and with exact predictions for values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic_pairs import EXACT, make_room, predict
from test_network import SMALL

from hamst3r.engine import PairEngine
from hamst3r.frames import Frame, FrameSet
from hamst3r.geometry import invert, project, transform
from hamst3r.image import prepare
from hamst3r.network.checkpoint import CheckpointError, save_checkpoint
from hamst3r.network.hamst3r import HAMSt3R
from hamst3r.reconstructor import Reconstructor, ReconstructorConfig, confident, known_eyes
from hamst3r.scene import LABEL_HUMAN, ScaleSource, TrackingState

STAGES = {"prepare", "network", "instances", "align", "people", "fuse"}


class ExactEngine:
    """Says of a synthetic room what a perfect network would; people are queries of their own."""

    patch, stride, image_size = 2, 2, 160

    def __init__(self, room) -> None:
        self.room = room

    def predict(self, images, edges):
        return [self._with_people(p) for p in predict(self.room, edges, 0, EXACT)]

    def _with_people(self, prediction):
        changes = {}
        queries = np.arange(len(self.room.standing_at) + 1)[:, None, None]
        for view, suffix in ((prediction.i, "i"), (prediction.j, "j")):
            person = self.room.people[view]
            mask = torch.tensor((person == queries) & (person > 0))
            changes[f"mask_logits_{suffix}"] = torch.where(mask, 6.0, -6.0)
            changes[f"body_logits_{suffix}"] = torch.where(mask.any(0), 6.0, -6.0)
            changes[f"densepose_{suffix}"] = torch.tensor(self._body(view)).float()
        probability = torch.tensor([0.0] + [0.9] * len(self.room.standing_at))
        return replace(prediction, person_prob=probability, **changes)

    def _body(self, view):
        """Roughly the body coordinates of somebody 1.75 m tall who faces along y."""
        xyz = transform(self.room.T_world_cam[view], self.room.points(view))
        at = np.concatenate([np.zeros((1, 2)), self.room.standing_at])[self.room.people[view]]
        across, ahead = (xyz[..., :2] - at).transpose(2, 0, 1)
        return np.stack([0.5 - across / 1.5, xyz[..., 2] / 1.75, 0.5 + ahead / 0.6], -1).clip(0, 1)


@pytest.fixture(scope="module")
def room():
    return make_room(3, 1)


def untrained(config: ReconstructorConfig | None = None) -> Reconstructor:
    torch.manual_seed(0)
    ticks = iter(range(10_000))
    return Reconstructor(
        PairEngine(HAMSt3R(SMALL), "cpu", "fp32"), config, clock=lambda: float(next(ticks))
    )


def random_frames(count: int, known: bool = False, stamp: int = 7) -> FrameSet:
    rng = np.random.default_rng(0)
    sizes = [(60, 90), (90, 60), (48, 48), (60, 90)]
    frames = []
    for k in range(count):
        T, K = None, None
        if known:
            T = np.eye(4)
            T[0, 3] = k
            K = np.array([[80.0, 0, 44.5], [0, 80, 29.5], [0, 0, 1]])
        image = rng.integers(0, 255, (*sizes[k], 3), dtype=np.uint8)
        frames.append(Frame(f"cam{k}", stamp + k, image, K, None, T, f"optical{k}"))
    return FrameSet(stamp, tuple(frames))


def check_consistent(scene, frames):
    assert [v.camera for v in scene.views] == [c.name for c in scene.cameras]
    for camera in scene.cameras:
        frame = next(f for f in frames.frames if f.camera == camera.name)
        assert (camera.stamp, camera.frame_id) == (frame.stamp, frame.frame_id)
        assert (camera.height, camera.width) == frame.image.shape[:2]
        assert 0 <= camera.confidence <= 1
    cloud = scene.points
    for name in ("xyz", "rgb", "confidence", "label", "instance", "camera", "body"):
        assert len(getattr(cloud, name)) == len(cloud)
    assert np.isfinite(cloud.xyz).all()
    assert ((cloud.label == LABEL_HUMAN) == (cloud.instance > 0)).all()
    assert set(scene.timings) == STAGES
    known = {person.id for person in scene.people}
    assert set(np.unique(cloud.instance)) <= known | {0}


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("known", [False, True], ids=["uncalibrated", "calibrated"])
def test_an_untrained_network_yields_a_consistent_scene(count, known):
    frames = random_frames(count, known)
    reconstructor = untrained(ReconstructorConfig(image_size=84))
    for _ in range(2):
        scene = reconstructor.push(frames)
        check_consistent(scene, frames)
        if known:
            assert len(scene.cameras) == count
            for camera, frame in zip(scene.cameras, frames.frames, strict=True):
                np.testing.assert_array_equal(camera.T_world_cam, frame.T_rig_cam)
                np.testing.assert_array_equal(camera.K, frame.K)
    assert all(seconds == 1.0 for seconds in scene.timings.values()), "the clock is injected"


@pytest.mark.parametrize("poses", [False, True], ids=["uncalibrated", "calibrated"])
def test_exact_predictions_give_the_room(room, poses):
    frames = room.frames(poses=poses)
    scene = Reconstructor(ExactEngine(room)).push(frames)
    check_consistent(scene, frames)
    assert len(scene.cameras) == 3
    assert scene.scale_source is (ScaleSource.CALIBRATION if poses else ScaleSource.BODIES)
    # Whatever the world: seen from camera 0, the points are the room's; without a calibration in a
    # scale that people tell a little of.
    told = (room.T_world_cam, [camera.T_world_cam for camera in scene.cameras])
    spans = [np.linalg.norm(T[2][:3, 3] - T[0][:3, 3]) for T in told]
    scale = spans[1] / spans[0]
    assert scale == pytest.approx(1, abs=1e-6 if poses else 0.1)
    T_0_world = invert(scene.cameras[0].T_world_cam)
    for index, view in enumerate(scene.views):
        of_view = scene.points.camera == index
        xyz = transform(T_0_world, scene.points.xyz[of_view].astype(float))
        keep = confident(view, ReconstructorConfig())
        assert keep.mean() > 0.9
        T_0_view = invert(room.T_world_cam[0]) @ room.T_world_cam[index]
        truth = scale * transform(T_0_view, room.points(index)[keep])
        assert np.median(np.linalg.norm(xyz - truth, axis=1)) < 0.02
        K = scene.cameras[index].K
        expected = frames.frames[index].K if poses else np.diag([2, 2, 1]) @ room.K[index]
        assert K[0, 0] == pytest.approx(expected[0, 0], rel=5e-3)


def test_points_of_people_are_labelled_where_the_people_are(room):
    scene = Reconstructor(ExactEngine(room)).push(room.frames(poses=True))
    assert scene.people
    for index, view in enumerate(scene.views):
        assert ((view.instances > 0) == (room.people[index] > 0)).mean() > 0.98
    for person in scene.people:
        mine = scene.points.instance == person.id
        assert person.num_points == mine.sum() > 50
        # One person, not several, and standing where the room says.
        distance = np.linalg.norm(
            room.standing_at - np.median(scene.points.xyz[mine, :2], 0), axis=1
        )
        assert distance.min() < 0.25
        centre = room.standing_at[distance.argmin()]
        assert (np.linalg.norm(scene.points.xyz[mine, :2] - centre, axis=1) < 0.5).mean() > 0.95
    assert len(scene.people) == len(room.standing_at)
    on_people = scene.points.label == LABEL_HUMAN
    assert np.isfinite(scene.points.body[on_people]).all()


class ConfusedEngine(ExactEngine):
    """Takes everybody for the next one in the second view of every pair."""

    def predict(self, images, edges):
        found = []
        for prediction in super().predict(images, edges):
            logits = prediction.mask_logits_j
            moved = torch.cat([logits[:1], logits[1:].roll(1, 0)])
            found.append(replace(prediction, mask_logits_j=moved))
        return found


def test_with_known_cameras_nobody_is_taken_for_another_whatever_the_queries_say(room):
    scene = Reconstructor(ConfusedEngine(room)).push(room.frames(poses=True))
    for view, true in zip(scene.views, room.people, strict=True):
        for person in scene.people:
            who = true[(view.instances == person.id) & (true > 0)]
            distance = np.linalg.norm(room.standing_at - person.position[:2], axis=1)
            if len(who) > 50:
                assert np.bincount(who).argmax() == distance.argmin() + 1
                assert (who == np.bincount(who).argmax()).mean() > 0.95


def test_cameras_are_known_as_well_as_the_calibration_says(room):
    frames = room.frames(poses=True)
    images = [prepare(f, 160, 2, 2) for f in frames.frames]
    turned = np.diag([0.02] * 3 + [0.03] * 3) ** 2
    vague = [
        replace(frames.frames[0], T_rig_cam_covariance=turned, K_std=0.05),
        replace(frames.frames[1], T_rig_cam_covariance=100 * turned),
        *frames.frames[2:],
    ]
    eyes = known_eyes(FrameSet(0, tuple(vague)), images, 0.1)
    assert sorted(eyes) == [0, *range(2, len(images))]
    assert eyes[0].turn_std == pytest.approx(np.hypot(0.03, 0.025))
    assert eyes[0].place_std == pytest.approx(0.02)
    assert eyes[2].turn_std == eyes[2].place_std == 0
    assert eyes[2].grid == images[2].grid
    unknown = [replace(f, T_rig_cam=None) for f in frames.frames]
    assert known_eyes(FrameSet(0, tuple(unknown)), images, 0.1) == {}


def test_rois_are_in_pixels_of_the_delivered_image(room):
    scene = Reconstructor(ExactEngine(room)).push(room.frames(poses=True))
    person = scene.people[0]
    for camera in scene.cameras:
        if camera.name not in person.rois:
            continue
        x, y, width, height = person.rois[camera.name]
        index = [c.name for c in scene.cameras].index(camera.name)
        mine = (scene.points.instance == person.id) & (scene.points.camera == index)
        pixels = project(
            transform(invert(camera.T_world_cam), scene.points.xyz[mine].astype(float)), camera.K
        )
        assert (pixels >= [x - 2, y - 2]).all()
        assert (pixels <= [x + width + 2, y + height + 2]).all()


def test_the_cloud_is_capped_evenly_and_filtered_by_voxels(room):
    whole = Reconstructor(ExactEngine(room)).push(room.frames(poses=True)).points
    config = ReconstructorConfig(max_points=500)
    capped = Reconstructor(ExactEngine(room), config).push(room.frames(poses=True)).points
    assert len(capped) == 500
    share = np.bincount(capped.camera, minlength=3) / 500
    np.testing.assert_allclose(share, np.bincount(whole.camera) / len(whole), atol=0.01)
    config = ReconstructorConfig(voxel=0.25)
    thin = Reconstructor(ExactEngine(room), config).push(room.frames(poses=True)).points
    cubes = np.floor(thin.xyz.astype(float) / 0.25).astype(int)
    assert len(np.unique(cubes, axis=0)) == len(thin) < len(whole)
    all_cubes = np.floor(whole.xyz.astype(float) / 0.25).astype(int)
    assert len(np.unique(all_cubes, axis=0)) == len(thin)


def test_confidence_threshold(room):
    def confidence(**settings):
        config = ReconstructorConfig(**settings)
        scene = Reconstructor(ExactEngine(room), config).push(room.frames(poses=True))
        return scene.points.confidence

    everything = confidence(relative_confidence=0.0)
    middle = float(np.median(everything))
    np.testing.assert_array_equal(
        confidence(point_confidence=middle, relative_confidence=0.0),
        everything[everything > middle],
    )
    # Relative to its own view: the more is asked, the fewer are left, whatever the numbers mean.
    sizes = [len(confidence(relative_confidence=share)) for share in (0.0, 0.9, 1.0)]
    assert sizes[0] > sizes[1] > sizes[2] > 0.4 * sizes[0]


def test_a_clock_that_jumps_back_forgets_people_and_says_so(room):
    reconstructor = Reconstructor(ExactEngine(room))
    first = reconstructor.push(room.frames(poses=True, stamp=10**10))
    late = reconstructor.push(room.frames(poses=True, stamp=10**10 - 10**8))
    assert not any("jumped" in note for note in late.notes)
    scene = reconstructor.push(room.frames(poses=True, stamp=10**9))
    assert "time jumped back by 8.9 s; people were forgotten" in scene.notes
    assert {p.id for p in scene.people} == {p.id for p in first.people}


def test_a_person_is_lost_as_soon_as_the_settings_of_now_say(room):
    def after_a_second(timeout: float) -> TrackingState:
        engine = ExactEngine(room)
        reconstructor = Reconstructor(engine)
        for stamp in (0, 100_000_000):
            reconstructor.push(room.frames(poses=True, stamp=stamp))
        tracking = replace(reconstructor.config.tracking, timeout=timeout)
        reconstructor.config = replace(reconstructor.config, tracking=tracking)
        engine.room = replace(room, people=[np.zeros_like(view) for view in room.people])
        return reconstructor.push(room.frames(poses=True, stamp=1_100_000_000)).people[0].state

    assert after_a_second(2.0) == TrackingState.PREDICTED
    assert after_a_second(0.5) == TrackingState.LOST


def test_reset_forgets_the_world(room):
    reconstructor = Reconstructor(ExactEngine(room))
    first = reconstructor.push(room.frames())
    reconstructor.push(room.frames(stamp=10**8))
    reconstructor.reset()
    again = reconstructor.push(room.frames())
    for a, b in zip(first.cameras, again.cameras, strict=True):
        np.testing.assert_array_equal(a.T_world_cam, b.T_world_cam)


def test_from_checkpoint_runs_what_was_saved(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    save_checkpoint(HAMSt3R(SMALL), path)
    reconstructor = Reconstructor.from_checkpoint(path, "cpu", "fp32")
    frames = random_frames(2, known=True)
    scene = reconstructor.push(frames)
    assert max(scene.views[0].depth.shape) * SMALL.output_stride == SMALL.image_size
    check_consistent(scene, frames)
    with pytest.raises(CheckpointError, match="no such weights file"):
        Reconstructor.from_checkpoint(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"max_points": 0}, "max_points must be at least 1, got 0"), ({"voxel": -1.0}, "voxel must")],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        ReconstructorConfig(**settings)
