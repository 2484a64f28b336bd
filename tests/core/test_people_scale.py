"""The scale of a stream that no calibration tells: people stand on the ground and have a size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from people_crowd import GRID, STEP, Crowd, Flaws, floor_depth, rig
from people_data import observe, random_people

from hamst3r.engine import PairPrediction
from hamst3r.frames import Frame, FrameSet
from hamst3r.geometry import invert, pixel_rays, transform
from hamst3r.people.body import anny24
from hamst3r.people.contact import ContactPoints
from hamst3r.people.fitting import FitConfig, fit
from hamst3r.people.judging import JudgeConfig
from hamst3r.people.scaling import PeopleScale, Sized
from hamst3r.people.state import BodyState
from hamst3r.people.surroundings import Surroundings
from hamst3r.people.track import TrackingConfig
from hamst3r.reconstructor import Reconstructor, ReconstructorConfig
from hamst3r.scene import ScaleSource

BODY = anny24()
# People of a few hundred pixels are bodies here: their places on the body are good.
FEW_PIXELS = ReconstructorConfig(
    tracking=TrackingConfig(fit=FitConfig(judge=JudgeConfig(min_points=60)))
)


class CrowdEngine:
    """A network that sees a crowd well, but takes places for ``scene`` times, and people for
    ``people`` times as far away as they are."""

    patch, stride, image_size = 2, 2, 2 * GRID[1]

    def __init__(self, crowd: Crowd, cameras: int, scene: float, people: float) -> None:
        self.crowd, self.cameras, self.frame = crowd, cameras, 0
        self.scene_scale, self.people_scale = scene, people

    def predict(self, images, edges):
        views, truth = self.crowd.see(self.crowd.state(self.frame), Flaws(missed=0.0, split=0.0))
        self.frame += 1
        points = []
        for view, depth, K in zip(views, truth.depth, truth.K, strict=True):
            wrong = np.where(view.instances > 0, self.people_scale, self.scene_scale)
            depth = np.where(depth > 0, depth * wrong, np.nan)
            points.append(pixel_rays(K, *GRID) * depth[..., None])
        poses = truth.T_world_cam.copy()
        poses[:, :3, 3] *= self.scene_scale
        return [self._pair(i, j, views, points, invert(poses[i]) @ poses[j]) for i, j in edges]

    def _pair(self, i, j, views, points, T_i_j):
        count = len(self.crowd.betas)
        queries = np.arange(1, count + 1)[:, None, None]
        own = {}
        for name, view, xyz in (("i", views[i], points[i]), ("j", views[j], points[j])):
            mask = view.instances == queries
            own[f"mask_logits_{name}"] = torch.where(torch.from_numpy(mask), 6.0, -6.0)
            own[f"body_logits_{name}"] = torch.where(torch.from_numpy(mask.any(0)), 6.0, -6.0)
            own[f"densepose_{name}"] = torch.from_numpy(np.nan_to_num(view.densepose)).float()
            seen = np.isfinite(xyz[..., 0])
            own[f"conf_{name}"] = torch.from_numpy(np.where(seen, 5.0, 1.0)).float()
            placed = transform(T_i_j, xyz) if name == "j" else xyz
            own[f"pts_{name}"] = torch.from_numpy(np.nan_to_num(placed)).float()
        return PairPrediction(i, j, person_prob=torch.full((count,), 0.95), **own)


def frames(frame: int, cameras: int) -> FrameSet:
    stamp = round(frame * STEP * 1e9)
    K = np.diag([2, 2, 1.0]) @ rig()[1]
    K[:2, 2] += 0.5
    image = np.zeros((2 * GRID[0], 2 * GRID[1], 3), np.uint8)
    return FrameSet(stamp, tuple(Frame(f"cam{k}", stamp, image, K) for k in range(cameras)))


def crowd_of_usual_size(frames: int, seed: int) -> Crowd:
    """Two pairs of people, in each of which one is as much above the mean as the other below."""
    crowd = Crowd(BODY, 4, frames, seed, pause=0.0)
    crowd.betas[2:] = -crowd.betas[:2]
    return crowd


@pytest.mark.parametrize(
    ("cameras", "scene", "people", "first", "sets"),
    [(2, 0.7, 0.7, 0.94, 65), (1, 0.7, 1.0, 0.7, 50), (1, 1.3, 1.0, 1.3, 50)],
)
def test_a_stream_finds_its_scale(cameras, scene, people, first, sets):
    """A scene that is 30 % wrong is brought within 3 % while it runs; what people's sizes tell at
    once, at once. With one camera the network knows how far away people are, but not the room: only
    what they stand on tells, and that is not known yet."""
    crowd = crowd_of_usual_size(sets, 4)
    reconstructor = Reconstructor(CrowdEngine(crowd, cameras, scene, people), FEW_PIXELS)
    floor = floor_depth(rig()[0][0], rig()[1])
    sizes = []
    for frame in range(sets):
        result = reconstructor.push(frames(frame, cameras))
        view = result.views[0]
        both = (view.instances == 0) & (floor > 0) & (view.depth > 0)
        sizes.append(float(np.median(view.depth[both] / floor[both])))
    assert sizes[0] == pytest.approx(first, rel=0.02)
    assert sizes[-1] == pytest.approx(1, abs=0.03)
    assert np.abs(np.diff(np.log(sizes))).max() < 0.02  # nothing jumps
    assert result.scale_source is ScaleSource.CONTACT
    assert 0.02 < result.scale_std < 0.12


@pytest.mark.parametrize("wrong", [0.6, 1.0, 1.4])
def test_sizes_alone_tell_the_scale_as_well_as_they_are_known(wrong):
    generator = torch.Generator().manual_seed(6)
    state = random_people(6, generator)
    adults = BodyState(state.rotations, state.transl, torch.zeros(6, 10))
    data = observe(BODY, adults, generator, number=500)
    found = fit(BODY, wrong * data.points, data.vertex_ids, data.weights)
    scale = PeopleScale(BODY, ContactPoints(BODY))
    people = [
        Sized(k, found.state.person(k), np.zeros(3), float(found.height[k])) for k in range(6)
    ]
    opinion = scale.heed(people, Surroundings())
    assert opinion is not None and opinion.source is ScaleSource.BODIES
    assert opinion.factor * wrong == pytest.approx(1, abs=0.04)
    assert 0.1 < opinion.std < 0.12  # six sizes, and that the place need not err as people do
    assert scale.heed([], Surroundings()) is None
    scale.grow(1 / wrong)
    again = scale.heed(people[:1], Surroundings())  # one of the seven sights is of another world
    assert again is not None and again.factor == pytest.approx(1, abs=0.04)


def test_how_large_people_look_tells_the_scale_where_there_are_no_bodies():
    scale = PeopleScale(BODY, ContactPoints(BODY))
    usual = scale.config.look
    looks = {1: 1.3 * usual, 2: 1.5 * usual, 3: float("nan")}
    opinion = scale.heed([], Surroundings(), looks)
    assert opinion is not None and opinion.source is ScaleSource.BODIES
    assert opinion.factor == pytest.approx((1.3 * 1.5) ** -0.5)
    assert opinion.std == pytest.approx(np.hypot(0.3 / 2**0.5, 0.1))
    # The median of a person's looks counts, in the world as large as it is by then.
    scale.grow(0.5)
    opinion = scale.heed([], Surroundings(), {1: 5 * usual})
    assert opinion is not None
    assert opinion.factor == pytest.approx(((0.65 * 5) ** 0.5 * 0.75) ** -0.5)
    assert scale.heed([], Surroundings(), {3: float("nan")}) is None


def test_what_stood_still_grows_with_the_world():
    rng = np.random.default_rng(0)
    surroundings = Surroundings()
    surroundings.add(np.column_stack([rng.uniform(-1, 1, (5000, 2)), np.full(5000, -1.0)]))
    before = len(surroundings)
    surroundings.grow(1.3)
    planes = surroundings.planes(np.array([[0.0, 0.0, -1.25], [0.0, 0.0, -1.0]]))
    assert planes.known.tolist() == [True, False]
    assert planes.points[0, 2] == pytest.approx(-1.3, abs=1e-6)
    assert np.abs(surroundings.points[:, :2]).max() == pytest.approx(1.3, abs=0.05)
    assert len(surroundings) <= before
