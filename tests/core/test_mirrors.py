"""Mirrors show people where nobody is: the image is right, and the labels do not follow it."""

from __future__ import annotations

import numpy as np
import pytest

from hamst3r.synthetic.bodies import Figure, PersonMesh, sample_betas
from hamst3r.synthetic.cameras import SyntheticCamera, intrinsics, look_at
from hamst3r.synthetic.clothing import sample_outfit
from hamst3r.synthetic.materials import MaterialMaker
from hamst3r.synthetic.meshes import MeshBuilder, upright
from hamst3r.synthetic.poses import sample_pose
from hamst3r.synthetic.render import Renderer, SyntheticView
from hamst3r.synthetic.surfaces import Cast
from hamst3r.synthetic.world import Light, World

WALL = 2.0  # metres before the camera, which looks along y
SIZE = (96, 72)


def hall(mirror: bool) -> World:
    """A hall and boxes, with or without a mirror in the plane y = WALL."""
    rng = np.random.default_rng(3)
    maker, builder = MaterialMaker(rng), MeshBuilder(rng)
    floor, red, blue = (
        maker.draw(("checker",), (0.8, 0.9)),
        *(maker.plain(c) for c in np.eye(3)[::2]),
    )
    glass = maker.mirror()
    builder.box((0, 0, 2), (30, 30, 4), floor, inward=True)
    builder.box((-1.0, -2.0, 0.5), (0.5, 0.5, 1.0), red)
    builder.box((1.2, -3.5, 0.75), (0.6, 0.6, 1.5), blue)
    if mirror:
        builder.picture(upright(-3.0, 3.0, 0.3, 2.6, WALL), glass)
    light = Light(np.array([0.5, -1.0, 3.5]), np.full(3, 1.0), 0.2, 8.0)
    half = np.array([15.0, 15.0])
    return World(builder.build(), maker.table(), (light,), np.full(3, 0.4), None, half, 4.0)


@pytest.fixture(scope="module")
def person() -> PersonMesh:
    rng = np.random.default_rng(1)
    figure = Figure(sample_outfit(rng), sample_betas(rng))
    rotations, _ = sample_pose(rng, "stand")
    return figure.stand_on_floor(rotations, np.array([0.1, -1.5]), 1, "stand")[1]


def shot(world: World, y: float, towards: float, people: list[PersonMesh]) -> SyntheticView:
    place = np.array([0.3, y, 1.4])
    pose = look_at(place, place + np.array([0.0, towards, -0.1]))
    renderer = Renderer(world)
    camera = SyntheticCamera("eye", *SIZE, intrinsics(*SIZE, np.radians(70)), pose)
    return renderer.render(renderer.background(camera), Cast(people))


def test_a_mirror_shows_what_the_mirrored_camera_sees(person: PersonMesh) -> None:
    inside = shot(hall(mirror=True), 0.0, 1.0, [person])
    behind = shot(hall(mirror=False), 2 * WALL, -1.0, [person])
    glass = (abs(inside.depth - WALL) < 0.3) & (inside.depth > 0)
    glass[:12] = glass[45:] = False  # well inside of the frame
    assert glass.sum() > 1500
    shown = inside.rgb.astype(float) ** 2.2
    seen = behind.rgb[:, ::-1].astype(float) ** 2.2
    # Exposure and the glass take a share of the light, the same one everywhere.
    share = np.median(shown[glass] / np.maximum(seen[glass], 1), axis=0)
    assert ((share > 0.4) & (share < 1.6)).all()
    level = [(image / scale)[glass] ** (1 / 2.2) for image, scale in ((shown, share), (seen, 1.0))]
    assert np.median(abs(level[0] - level[1])) < 4
    assert np.corrcoef(level[0].ravel(), level[1].ravel())[0, 1] > 0.95
    assert (behind.instances[:, ::-1][glass] == 1).sum() > 50  # somebody is in the picture


def test_a_mirror_is_a_wall_without_people(person: PersonMesh) -> None:
    view = shot(hall(mirror=True), 0.0, 1.0, [person])
    empty = shot(hall(mirror=True), 0.0, 1.0, [])
    assert not view.instances.any() and np.isnan(view.densepose).all()
    np.testing.assert_array_equal(view.depth, empty.depth)
    assert (view.rgb != empty.rgb).any(-1).sum() > 100


def test_who_stands_before_a_mirror_is_labelled(person: PersonMesh) -> None:
    view = shot(hall(mirror=True), -4.0, 1.0, [person])
    assert (view.instances == 1).sum() > 100
    assert (view.depth[view.instances == 1] < 3.2).all()
    alone = shot(hall(mirror=False), -4.0, 1.0, [person])
    np.testing.assert_array_equal(view.instances, alone.instances)
