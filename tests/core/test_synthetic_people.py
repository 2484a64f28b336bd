"""Generated people stand, sit and lie on what is there, and in nothing and nobody."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from hamst3r.synthetic import groups
from hamst3r.synthetic.acting import SOLO, arms_clear, perform
from hamst3r.synthetic.bodies import Figure, PersonMesh, sample_betas
from hamst3r.synthetic.clothing import BODY, TOP_ROW, sample_outfit
from hamst3r.synthetic.crowds import Crowd, sample_crowd
from hamst3r.synthetic.generator import GeneratorConfig, SceneGenerator, SyntheticScene
from hamst3r.synthetic.props import HELD, seat_height
from hamst3r.synthetic.skeleton import aim, forward, reach
from hamst3r.synthetic.solids import Solid, Space
from hamst3r.synthetic.worlds import sample_place, sample_world

# Collisions are tested on every third vertex; what lies between may be this much deeper, metres.
SLACK = 0.012


def dressed(rng: np.random.Generator) -> Figure:
    return Figure(sample_outfit(rng), sample_betas(rng))


@pytest.fixture(scope="module")
def crowds() -> list[tuple[np.ndarray, Crowd]]:
    out = []
    for seed in range(16):
        rng = np.random.default_rng([seed, 5])
        half = rng.uniform(1.5, 4.0, 2)
        out.append((half, sample_crowd(rng, half, 2.8, 5, lambda rng=rng: dressed(rng), 0.6)))
    return out


@pytest.fixture(scope="module")
def scenes() -> list[SyntheticScene]:
    generator = SceneGenerator(GeneratorConfig(empty=0.0, difficulty=0.8, sensor=0.0))
    return [generator.sample(seed, (48, 36), views=1) for seed in range(40, 49)]


def depth_inside(points: np.ndarray, mesh: PersonMesh) -> float:
    """How deep the deepest of points (N, 3) is in a body's skin, metres; <= 0 outside."""
    skin = len(mesh.figure.model.v_template)
    distance, index = cKDTree(mesh.vertices[:skin]).query(points, distance_upper_bound=0.1)
    near = np.isfinite(distance)
    way = points[near] - mesh.vertices[index[near]]
    return float(np.max(-(way * mesh.normals[index[near]]).sum(1), initial=-1.0))


def test_depth_inside_knows_in_from_out() -> None:
    rng = np.random.default_rng(0)
    mesh = perform(rng, dressed(rng), "stand").mesh
    skin = len(mesh.figure.model.v_template)
    crown = int(mesh.figure.template[:skin, 1].argmax())
    point, normal = mesh.vertices[[crown]], mesh.normals[[crown]]
    assert depth_inside(point - 0.02 * normal, mesh) > 0.01
    assert depth_inside(point + 0.02 * normal, mesh) < -0.01


def test_nobody_is_inside_anybody(crowds) -> None:
    pairs = 0
    for _, crowd in crowds:
        for a in crowd.meshes:
            for b in crowd.meshes:
                if a is b:
                    continue
                low = np.maximum(a.vertices.min(0), b.vertices.min(0)) - 0.05
                high = np.minimum(a.vertices.max(0), b.vertices.max(0)) + 0.05
                near = ((a.vertices > low) & (a.vertices < high)).all(1)
                if near.any():
                    pairs += 1
                    assert depth_inside(a.vertices[near], b) < SLACK / 2, crowd.activities
    assert pairs > 12  # they do stand close


def test_everybody_touches_the_floor_or_what_carries_them(crowds) -> None:
    kinds = set()
    for half, crowd in crowds:
        for state, mesh in zip(crowd.states, crowd.meshes, strict=True):
            kinds.add(state.kind)
            assert (abs(mesh.vertices[:, :2]) < half).all()
            lowest = float(mesh.vertices[:, 2].min())
            assert lowest > -1e-4
            if lowest < 1e-3 and state.kind != "sit":
                continue
            tops = [
                solid.top
                for prop in crowd.props
                if prop.kind not in HELD
                for solid in prop.solids
                if solid.inside(state.joints[:1] * [1, 1, 0] + [0, 0, solid.centre[2]], 0.1).any()
            ]
            carried = lowest
            if state.kind == "sit":  # measured in the person's own frame
                left = state.joints[1] - state.joints[2]
                own = groups.moved(mesh.vertices, 0.0, 0.0, -np.arctan2(left[1], left[0]))
                pelvis = groups.moved(state.joints[:1], 0.0, 0.0, -np.arctan2(left[1], left[0]))
                carried = seat_height(own, pelvis[0])
            assert tops and min(abs(np.array(tops) - carried)) < SLACK, state.kind
    assert {"stand", "walk", "sit", "lie"} <= kinds


def test_nobody_is_inside_furniture(scenes) -> None:
    compared = 0
    for scene in scenes:
        held = {s for p in scene.metadata["props"] if p.kind in HELD for s in p.solids}
        for solid in set(scene.metadata["solids"]) - held:
            for mesh in scene.meshes:
                compared += 1
                assert not solid.inside(mesh.vertices, -SLACK).any()
    assert compared > 150


def test_no_surface_of_the_world_is_inside_a_person() -> None:
    """Furniture fills no more than its solid says, or little more."""
    for seed in range(40, 43):
        rng = np.random.default_rng([seed, 6])
        place = sample_place(rng, "room")
        crowd = sample_crowd(rng, place.half, place.height, 4, lambda rng=rng: dressed(rng))
        space = Space(place.half, crowd.points)
        space.take(*crowd.solids)
        world = sample_world(rng, place, space, [p for p in crowd.props if p.kind not in HELD], 2)
        samples = world.mesh.vertices[world.mesh.faces].mean(1)
        for mesh in crowd.meshes:
            near = (abs(samples - mesh.vertices.mean(0)) < 1.2).all(1) & (samples[:, 2] > 0.02)
            assert depth_inside(samples[near], mesh) < 2 * SLACK


@pytest.mark.parametrize("kind", SOLO)
def test_solo_acts(kind: str) -> None:
    rng = np.random.default_rng(3)
    done = [perform(rng, dressed(rng), kind) for _ in range(6)]
    own = [actor for actor in done if actor.state.kind == kind]
    assert len(own) >= 3  # who finds no seat stands
    for actor in own:
        product = actor.state.rotations @ actor.state.rotations.transpose(0, 2, 1)
        np.testing.assert_allclose(product, np.broadcast_to(np.eye(3), product.shape), atol=1e-6)
        assert kind != "sit" or actor.props
        if kind in ("stand", "walk", "sit"):
            assert actor.state.joints[15, 2] > actor.state.joints[0, 2] + 0.2
    if kind == "lie":
        tops = [actor.props[0].solids[0].top if actor.props else 0.0 for actor in own]
        above = [a.state.joints[0, 2] - top for a, top in zip(own, tops, strict=True)]
        assert np.median(above) < 0.3 and max(above) < 0.55
    if kind == "balance":
        ankles = np.array([actor.state.joints[[7, 8], 2] for actor in own])
        assert (abs(np.diff(ankles)) > 0.1).sum() >= 3
    if kind == "carry":
        assert sum(bool(actor.holding) for actor in own) >= 3


def test_groups_keep_their_members_apart() -> None:
    rng = np.random.default_rng(8)
    for activity, low, high, _ in groups.ACTIVITIES:
        sizes = []
        for _ in range(3):
            group = activity(rng, lambda: dressed(rng), high)
            sizes.append(len(group.members))
            for k, a in enumerate(group.members):
                for b in group.members[:k]:
                    assert groups.apart(a.points(), b.points(), 0.02), activity.__name__
        assert max(sizes) >= max(low, min(high, 2)), activity.__name__


def test_talking_people_face_each_other() -> None:
    rng = np.random.default_rng(2)
    group = groups.talk(rng, lambda: dressed(rng), 2)
    front = [np.array([np.sin(m.yaw), -np.cos(m.yaw)]) for m in group.members]
    assert front[0] @ front[1] < -0.3


def test_a_hand_reaches_what_it_can() -> None:
    rng = np.random.default_rng(4)
    figure = dressed(rng)
    rest, rotations = figure.rest_joints, perform(rng, figure, "stand", "hang").state.rotations
    for side, wrist, shoulder in ((1, 20, 16), (-1, 21, 17)):
        joints = forward(rest, rotations)[1]
        arm = np.linalg.norm(rest[wrist] - rest[shoulder])
        target = joints[shoulder] + np.array([0.2 * side, -0.6, -0.2]) * arm
        moved = forward(rest, reach(rest, rotations, side, target))[1]
        np.testing.assert_allclose(moved[wrist], target, atol=1e-6)
        far = joints[shoulder] + np.array([0.0, -5.0, 0.0])
        moved = forward(rest, reach(rest, rotations, side, far))[1]
        way = moved[wrist] - moved[shoulder]
        assert way[1] / np.linalg.norm(way) < -0.99


def test_aim_turns_one_direction_to_another() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        a, b = rng.normal(size=(2, 3))
        np.testing.assert_allclose(aim(a, b).apply(a / np.linalg.norm(a)), b / np.linalg.norm(b))


def test_arms_through_the_trunk_are_seen() -> None:
    rng = np.random.default_rng(6)
    figure = dressed(rng)
    rest = figure.rest_joints
    rotations = perform(rng, figure, "walk", "hang").state.rotations
    assert arms_clear(rest, rotations)
    joints = forward(rest, rotations)[1]
    assert not arms_clear(rest, reach(rest, rotations, 1, joints[6]))


def test_people_are_of_all_sizes() -> None:
    rng = np.random.default_rng(0)
    model = dressed(rng).model
    heights = []
    for _ in range(300):
        shape = model.shapedirs.numpy() @ sample_betas(rng).astype(np.float32)
        heights.append(np.ptp((model.v_template.numpy() + shape)[:, 1]))
    assert 0.1 < np.mean(np.array(heights) < 1.5) < 0.4
    assert 1.5 < np.median(heights) < 1.75 and max(heights) < 2.1 and min(heights) < 1.2


def test_front_and_back_look_different() -> None:
    rng = np.random.default_rng(9)
    y, x = np.mgrid[0.0:0.45:40j, -0.1:0.1:20j]
    different = 0
    for _ in range(60):
        outfit = sample_outfit(rng)
        colours = []
        for z in (0.09, -0.09):
            place = np.stack([x, y, np.full_like(x, z)], -1).reshape(-1, 3).astype(np.float32)
            part = np.full(len(place), BODY)
            row = outfit.regions(place)
            colour = outfit.colour(part, place, np.full(len(place), 0.005, np.float32))
            colours.append(np.where((row == TOP_ROW)[:, None], colour, np.nan))
        if np.isnan(colours).all():
            continue  # a bare trunk
        trimmed = [np.nanstd(c, 0).sum() for c in colours]
        different += abs(trimmed[0] - trimmed[1]) > 0.01
    assert different > 25


def test_solids_know_what_is_in_them_and_what_they_meet() -> None:
    box = Solid((0, 0, 0.5), (2, 1, 1)).moved(1.0, 2.0, np.pi / 2)
    assert box.inside(np.array([[1.0, 2.9, 0.5]])).all()  # its length is along y now
    assert not box.inside(np.array([[1.9, 2.0, 0.5]])).any()
    assert box.top == 1.0
    assert box.overlaps(Solid((1.0, 3.2, 0.5), (1, 1, 1), 0.3))
    assert not box.overlaps(Solid((1.0, 4.2, 0.5), (1, 1, 1), 0.3))
    assert not box.overlaps(Solid((1.0, 2.0, 2.0), (1, 1, 1)))  # above it
    assert box.overlaps(Solid((2.2, 2.0, 0.5), (1, 1, 1)), apart=0.3)
    assert not box.overlaps(Solid((2.2, 2.0, 0.5), (1, 1, 1)))
