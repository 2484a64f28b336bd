"""The generator's labels are what training and the simulated cameras take for truth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from hamst3r.people.body import anny24
from hamst3r.synthetic.bodies import Figure, sample_betas
from hamst3r.synthetic.cameras import STYLES
from hamst3r.synthetic.clothing import sample_outfit
from hamst3r.synthetic.furniture import footprint_of
from hamst3r.synthetic.generator import GeneratorConfig, SceneGenerator, SyntheticScene
from hamst3r.synthetic.humanlike import HUMANLIKE
from hamst3r.synthetic.lens import RESIDUE, resampled, through_lenses
from hamst3r.synthetic.lighting import Tracer
from hamst3r.synthetic.materials import MaterialMaker
from hamst3r.synthetic.meshes import MeshBuilder
from hamst3r.synthetic.motion import MovingScene
from hamst3r.synthetic.portraits import picture_bank
from hamst3r.synthetic.poses import KINDS, sample_pose
from hamst3r.synthetic.preview import contact_sheet
from hamst3r.synthetic.render import Renderer, SyntheticView
from hamst3r.synthetic.sensor import compress, expose, photograph
from hamst3r.synthetic.surfaces import Cast
from hamst3r.synthetic.worlds import PLACES

SIZE = (96, 72)
# Clothes stand off the skin by at most this (coat, folds included), metres.
MAX_PUFF = 0.045


@pytest.fixture(scope="module")
def scenes() -> list[SyntheticScene]:
    generator = SceneGenerator(GeneratorConfig(empty=0.0))
    return [generator.sample(seed, SIZE, views=4) for seed in range(5)]


@pytest.fixture(scope="module")
def moving() -> MovingScene:
    return MovingScene(4, people=2, size=SIZE)


def world_points(view: SyntheticView) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of pixels with depth and their world points (N, 3)."""
    index = np.flatnonzero(view.depth.ravel() > 0)
    rows, cols = np.divmod(index, view.depth.shape[1])
    rays = np.linalg.solve(view.K, np.stack([cols, rows, np.ones(len(cols))]))
    local = (rays * view.depth.ravel()[index]).T
    return index, local @ view.T_world_cam[:3, :3].T + view.T_world_cam[:3, 3]


def test_the_same_seed_gives_the_same_bytes(scenes: list[SyntheticScene]) -> None:
    again = SceneGenerator(GeneratorConfig(empty=0.0)).sample(3, SIZE, views=4)
    for old, new in zip(scenes[3].views, again.views, strict=True):
        for name in ("rgb", "depth", "instances", "densepose", "K", "T_world_cam"):
            assert getattr(old, name).tobytes() == getattr(new, name).tobytes(), name
    assert any((a.rgb != b.rgb).any() for a, b in zip(scenes[2].views, again.views, strict=True))


def test_shapes_and_types(scenes: list[SyntheticScene]) -> None:
    shape = SIZE[::-1]
    for view in (view for scene in scenes for view in scene.views):
        assert view.rgb.shape == (*shape, 3) and view.rgb.dtype == np.uint8
        assert view.depth.shape == shape and view.depth.dtype == np.float32
        assert view.instances.shape == shape and view.instances.dtype == np.uint16
        assert view.densepose.shape == (*shape, 3) and view.densepose.dtype == np.float32
        assert np.isfinite(view.depth).all() and (view.depth >= 0).all()
        R = view.T_world_cam[:3, :3]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(R) > 0


def test_depths_of_different_views_agree_in_the_world(scenes: list[SyntheticScene]) -> None:
    """A point of view A, seen by B, lies on the plane of B's pixels around it (< 1 mm)."""
    compared = 0
    for scene in scenes:
        for a in scene.views:
            index, points = world_points(a)
            on_static = a.instances.ravel()[index] == 0
            points = points[on_static]
            for b in scene.views:
                if b is a:
                    continue
                R, centre = b.T_world_cam[:3, :3], b.T_world_cam[:3, 3]
                local = (points - centre) @ R
                ahead = local[:, 2] > 0.1
                u, v = ((local[ahead] / local[ahead, 2:]) @ b.K.T)[:, :2].T
                x, y = np.floor(u).astype(int), np.floor(v).astype(int)
                inside = (x >= 1) & (y >= 1) & (x < SIZE[0] - 3) & (y < SIZE[1] - 3)
                x, y, u, v = x[inside], y[inside], u[inside], v[inside]
                z = local[ahead][inside, 2]
                # On a plane, inverse depth is linear in the image.
                with np.errstate(divide="ignore"):
                    inverse = 1 / b.depth.astype(float)
                patch = np.stack(
                    [inverse[y + dy, x + dx] for dy in range(-1, 3) for dx in range(-1, 3)], 1
                )
                corners = np.array([[dx, dy] for dy in range(-1, 3) for dx in range(-1, 3)])
                design = np.concatenate([corners, np.ones((16, 1))], 1)
                usable = np.isfinite(patch).all(1)
                plane = np.linalg.lstsq(design, patch[usable].T, rcond=None)[0]
                flat = abs(design @ plane - patch[usable].T).max(0) < 1e-6
                here = np.stack([u - x, v - y, np.ones(len(u))], 1)[usable][flat]
                predicted = 1 / (here * plane.T[flat]).sum(1)
                gap = predicted - z[usable][flat]
                # Where B's surface is nearer or farther, something is in the way, be it as thin as
                # a rug or a picture's frame.
                visible = abs(gap) < 0.005
                compared += int(visible.sum())
                if visible.any():
                    assert np.percentile(abs(gap[visible]), 98) < 1e-3
    assert compared > 5000


def test_the_label_names_the_body_vertex_at_the_point(scenes: list[SyntheticScene]) -> None:
    model = anny24()
    canonical = model.canonical.numpy()
    span = np.ptp(model.v_template.numpy(), axis=0)
    skin_points = 0
    for scene in scenes:
        meshes = {mesh.id: mesh for mesh in scene.meshes}
        for view in scene.views:
            index, points = world_points(view)
            ids = view.instances.ravel()[index]
            labels = view.densepose.reshape(-1, 3)[index]
            for id in np.unique(ids[ids > 0]):
                mesh = meshes[id]
                own = ids == id
                body = mesh.vertices[: len(canonical)]
                # Only the skin: the label of a skirt or a bag names the nearest skin at rest.
                difference = (labels[own, None] - canonical[None]) * span
                squared = np.einsum("nvk,nvk->nv", difference, difference)
                nearest = squared.argmin(1)
                distance = np.linalg.norm(points[own] - body[nearest], axis=1)
                outfit = mesh.figure.outfit
                bare = outfit.skirt is None and not outfit.bag and not outfit.hat
                if bare and outfit.hair != 2:
                    skin_points += int(own.sum())
                    # Vertices are up to 3 cm apart and joints stretch the skin between them.
                    assert np.median(distance) < 0.012
                    assert np.percentile(distance, 95) < 0.04
    assert skin_points > 300


def test_labels_and_ids_belong_together(scenes: list[SyntheticScene]) -> None:
    seen = 0
    for scene in scenes:
        known = {person.id for person in scene.people}
        assert len(known) == len(scene.people)
        for view in scene.views:
            person = view.instances > 0
            assert set(np.unique(view.instances[person])) <= known
            assert (np.isfinite(view.densepose).all(-1) == person).all()
            values = view.densepose[person]
            assert ((values >= 0) & (values <= 1)).all()
            assert (view.depth[person] > 0).all()
            seen += int(person.any())
    assert seen >= 10


def test_points_of_an_instance_lie_around_that_person(scenes: list[SyntheticScene]) -> None:
    for scene in scenes:
        meshes = {mesh.id: mesh for mesh in scene.meshes}
        for view in scene.views:
            index, points = world_points(view)
            ids = view.instances.ravel()[index]
            for id in np.unique(ids[ids > 0]):
                low, high = meshes[id].vertices.min(0), meshes[id].vertices.max(0)
                own = points[ids == id]
                assert (own > low - 1e-3).all() and (own < high + 1e-3).all()


def test_states_reproduce_the_joints_with_the_body_model(scenes) -> None:
    import torch

    model = anny24()
    for person in (p for scene in scenes for p in scene.people):
        _, joints = model.skeleton(
            *(
                torch.from_numpy(np.asarray(a, np.float32))[None]
                for a in (person.rotations, person.transl, person.betas)
            )
        )
        np.testing.assert_allclose(joints[0].numpy(), person.joints, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_pose_is_a_set_of_rotations_with_the_head_in_place(kind: str) -> None:
    rng = np.random.default_rng(11)
    for _ in range(5):
        rotations, got = sample_pose(rng, kind)
        assert got == kind and rotations.shape == (24, 3, 3)
        product = rotations @ rotations.transpose(0, 2, 1)
        np.testing.assert_allclose(product, np.broadcast_to(np.eye(3), product.shape), atol=1e-9)
        figure = Figure(sample_outfit(rng), sample_betas(rng))
        state, mesh = figure.stand_on_floor(rotations, np.zeros(2), 1, kind)
        head, pelvis = state.joints[15, 2], state.joints[0, 2]
        if kind in ("stand", "walk", "sit"):
            assert head > pelvis + 0.2
        if kind == "lie":
            assert np.ptp(mesh.vertices[:, 2]) < 1.2
        skin = figure.pose(rotations, state.transl, 1, kind)[1].vertices
        np.testing.assert_allclose(skin, mesh.vertices, atol=1e-5)


def test_an_unknown_pose_is_refused() -> None:
    with pytest.raises(ValueError, match="stand, walk"):
        sample_pose(np.random.default_rng(0), "fly")


def test_clothes_stand_off_by_little() -> None:
    rng = np.random.default_rng(5)
    template = anny24().v_template.numpy()
    offsets = np.stack([sample_outfit(rng).offsets(template) for _ in range(40)])
    assert offsets.min() >= 0 and offsets.max() < MAX_PUFF
    assert offsets.max() > 0.01


def test_cached_background_equals_a_full_render(moving: MovingScene) -> None:
    moving.render(0.3)  # fills the cache
    cached = moving.render(1.0, [2])[0]
    people = [walker.at(1.0)[1] for walker in moving._walkers]
    fresh = Renderer(moving.renderer.world)
    full = fresh.render(fresh.background(moving.cameras[2]), Cast(people))
    for name in ("rgb", "depth", "instances", "densepose"):
        assert getattr(cached, name).tobytes() == getattr(full, name).tobytes(), name


def test_composition_equals_tracing_all_at_once(moving: MovingScene) -> None:
    t = 0.7
    people = [walker.at(t)[1] for walker in moving._walkers]
    world = moving.renderer.world.mesh
    together = Tracer(
        [(world.vertices, world.faces), *((p.vertices, p.figure.faces) for p in people)]
    )
    seen = 0
    for view, camera in zip(moving.render(t), moving.cameras, strict=True):
        hit = together.hits(*camera.rays())
        ids = np.array([0, *(p.id for p in people)])[hit["geomID"]]
        depth = hit["tfar"].reshape(view.depth.shape)
        assert (ids.reshape(view.depth.shape) == view.instances).mean() > 0.9995
        np.testing.assert_allclose(view.depth, depth, atol=1e-4)
        seen += int((ids > 0).sum())
    assert seen > 100


def test_people_darken_the_floor_they_stand_on(moving: MovingScene) -> None:
    empty = moving.renderer.render(moving.renderer.background(moving.cameras[0]), Cast([]))
    view = moving.render(0.0, [0])[0]
    background = view.instances == 0
    change = view.rgb.astype(int).sum(-1) - empty.rgb.astype(int).sum(-1)
    assert (change[background] < -15).sum() > 5
    assert (change[background] > 15).mean() < 0.01


def test_walkers_move_smoothly_and_stay_apart(moving: MovingScene) -> None:
    times = np.arange(0, 20, 0.1)
    joints = np.stack([[person.joints for person in moving.at(t)] for t in times])
    speed = np.linalg.norm(np.diff(joints[:, :, 0, :2], axis=0), axis=-1) / 0.1
    assert speed.min() > 0.1 and speed.max() < 2.5
    assert np.linalg.norm(joints[:, 0, 0] - joints[:, 1, 0], axis=-1).min() > 0.8
    assert (abs(joints[..., :2]) < moving.half).all()
    ankles = joints[:, :, [7, 8], 2]
    left_higher = (ankles[..., 0] > ankles[..., 1]).astype(int)
    assert (abs(np.diff(left_higher, axis=0)).sum(0) >= 10).all()  # feet alternate


def test_stance_feet_hardly_slide(moving: MovingScene) -> None:
    dt = 0.02
    times = np.arange(0, 4, dt)
    feet = np.stack([[p.joints[[10, 11]] for p in moving.at(t)] for t in times])
    hips = np.stack([[p.joints[0] for p in moving.at(t)] for t in times])
    walk = np.linalg.norm(np.diff(hips[..., :2], axis=0), axis=-1).mean() / dt
    low = feet[:-1, :, :, 2].argmin(-1)[..., None]
    speed = np.linalg.norm(np.diff(feet[..., :2], axis=0), axis=-1) / dt
    assert np.median(np.take_along_axis(speed, low, -1)) < 0.5 * walk


def test_every_style_of_cameras_sees_something() -> None:
    for style in STYLES:
        config = GeneratorConfig(camera_style=style, place="room", empty=0.0)
        scene = SceneGenerator(config).sample(21, SIZE, views=3)
        assert scene.metadata["style"] == style
        for view in scene.views:
            assert (view.depth > 0).all()
            assert np.median(view.depth) > 0.8
            assert view.rgb.std() > 5


def test_the_sky_has_no_depth() -> None:
    generator = SceneGenerator(GeneratorConfig(place="yard", empty=1.0))
    views = [view for seed in range(3) for view in generator.sample(seed, SIZE, views=2).views]
    assert any((view.depth == 0).any() for view in views)
    assert all((view.depth > 0).any() for view in views)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 x 16"):
        SceneGenerator().sample(0, size=(8, 8))
    for wrong in ({"place": "moon"}, {"difficulty": 2.0}, {"max_people": 9}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            GeneratorConfig(**wrong)
    with pytest.raises(ValueError, match="0 to 6"):
        MovingScene(0, people=7)


def test_sensor_keeps_the_picture_recognisable(scenes: list[SyntheticScene]) -> None:
    rgb = SceneGenerator(GeneratorConfig(sensor=0.0, empty=0.0)).sample(1, SIZE, 1).views[0].rgb
    assert (expose(rgb, np.random.default_rng(0), 0.0) == rgb).all()
    changed = [expose(rgb, np.random.default_rng(k)) for k in range(6)]
    for image in changed:
        assert image.shape == rgb.shape and image.dtype == np.uint8
        assert np.corrcoef(image.ravel(), rgb.ravel())[0, 1] > 0.6
    assert any((image != rgb).mean() > 0.5 for image in changed)


@pytest.mark.parametrize("quality", [20, 50, 90])
def test_compression_is_that_of_a_jpeg_file(quality: int) -> None:
    """OpenCV's encoder and ours lose the same."""
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    rgb = cv2.resize(rgb, (96, 72), interpolation=cv2.INTER_CUBIC)
    rgb[20:40, 30:60] = (250, 20, 90)
    flag = [cv2.IMWRITE_JPEG_QUALITY, quality]
    packed = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), flag)[1]
    theirs = cv2.imdecode(packed, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
    image = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 255
    ours = compress(image, torch.tensor([quality]))[0].permute(1, 2, 0).numpy() * 255
    lost = np.abs(theirs - rgb).mean()
    assert np.abs(ours - theirs).mean() < 0.4 * lost
    assert abs(np.abs(ours - rgb).mean() - lost) < 0.1 * lost


def test_photographs_of_a_batch_are_those_of_many_cameras() -> None:
    grey = torch.full((8, 3, 40, 50), 0.4)  # neither a multiple of a block
    images = photograph(grey, np.random.default_rng(0))
    assert images.shape == grey.shape and ((images >= 0) & (images <= 1)).all()
    brightness = images.mean((1, 2, 3))
    assert brightness.std() > 0.02
    again = photograph(grey, np.random.default_rng(0))
    torch.testing.assert_close(images, again, rtol=0, atol=0)


def test_contact_sheet_holds_every_view(scenes: list[SyntheticScene]) -> None:
    sheet = contact_sheet(scenes[0].views)
    assert sheet.shape == (4 * SIZE[1], 4 * SIZE[0], 3)
    assert (sheet[: SIZE[1], : SIZE[0]] == scenes[0].views[0].rgb).all()


def test_lenses_move_nothing_by_a_pixel() -> None:
    """Images of their own coordinates: what a pixel holds is where it came from."""
    rows, cols = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    places = torch.stack([rows, cols, rows])[None].repeat(20, 1, 1, 1)
    chosen = np.arange(20) % 2 == 0
    seen = through_lenses(places, chosen, np.random.default_rng(0))
    moved = (seen - places)[:, :2, 3:-3, 3:-3].norm(dim=1)
    assert (moved[~chosen] == 0).all()
    assert moved.max() < RESIDUE + 0.1
    assert (moved[chosen].amax((1, 2)) > 0.01).all()  # but none is perfect


def test_resampling_loses_detail_and_nothing_else() -> None:
    grain = torch.rand(4, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    chosen = np.array([True, False, True, True])
    out = resampled(grain, chosen, np.random.default_rng(1))
    assert (out[1] == grain[1]).all()
    for k in (0, 2, 3):
        assert out[k].std() < 0.95 * grain[k].std()
        assert abs(out[k].mean() - grain[k].mean()) < 0.02


def test_what_looks_like_people_is_never_labelled() -> None:
    config = GeneratorConfig(sensor=0.0, empty=1.0, lookalikes=6.0, clutter=0.3)
    looked_at = 0
    for seed in range(6):
        scene = SceneGenerator(config).sample(seed, SIZE, 2)
        assert not scene.people
        for view in scene.views:
            assert not view.instances.any() and np.isnan(view.densepose).all()
            looked_at += int((view.depth > 0).any())
    assert looked_at == 12


@pytest.mark.parametrize("stand_in", list(HUMANLIKE), ids=lambda kind: kind.__name__)
def test_stand_ins_stand_where_they_should(stand_in) -> None:
    rng = np.random.default_rng(3)
    for _ in range(8):
        size = footprint_of(stand_in, rng)
        builder, maker = MeshBuilder(rng), MaterialMaker(rng, picture_bank())
        stand_in(builder, maker, rng, size)
        vertices = builder.build().vertices
        assert abs(vertices[:, 2].min()) < 0.03
        assert 0.4 * size[2] < vertices[:, 2].max() < size[2] + 0.15
        assert (abs(vertices[:, :2]) < np.array(size[:2]) / 2 + 0.15).all()


def test_cameras_look_at_stand_ins_where_nobody_is() -> None:
    config = GeneratorConfig(sensor=0.0, empty=1.0, lookalikes=5.0, clutter=0.3)
    looked = []
    for seed in range(8):
        scene = SceneGenerator(config).sample(seed, SIZE, 1)
        view, middles = scene.views[0], np.asarray(scene.metadata["lookalikes"])
        assert (abs(middles[:, :2]) < scene.metadata["half"]).all()
        local = (middles - view.T_world_cam[:3, 3]) @ view.T_world_cam[:3, :3]
        pixels = (local @ view.K.T)[:, :2] / local[:, 2:]
        inside = (local[:, 2] > 0) & (pixels > 0).all(1) & (pixels < np.array(SIZE)).all(1)
        looked.append(bool(inside.any()))
    assert np.mean(looked) > 0.6


@pytest.mark.parametrize("place", PLACES)
def test_places_are_what_they_are_called(place: str) -> None:
    generator = SceneGenerator(GeneratorConfig(place=place, empty=1.0, sensor=0.0))
    for seed in range(3):
        scene = generator.sample(seed, SIZE, 2)
        assert scene.metadata["place"] == place
        short, long = np.sort(2 * np.asarray(scene.metadata["half"]))
        sky = any((view.depth == 0).any() for view in scene.views)
        assert place == "yard" or not sky
        assert (place == "corridor") == (long > 2.2 * short) or place != "corridor"
        assert scene.metadata["height"] > 2.0


def test_harder_scenes_have_more_people_who_are_smaller() -> None:
    count, size = [], []
    for difficulty in (0.0, 1.0):
        config = GeneratorConfig(difficulty=difficulty, empty=0.0, sensor=0.0, clutter=0.1)
        scenes = [SceneGenerator(config).sample(seed, (64, 48), 1) for seed in range(14)]
        count.append(np.mean([len(scene.people) for scene in scenes]))
        shares = [
            (view.instances == person.id).mean()
            for scene in scenes
            for view in scene.views
            for person in scene.people
        ]
        size.append(np.mean([share for share in shares if share > 0]))
    assert count[1] > 1.4 * count[0]
    assert size[1] < 0.8 * size[0]


def test_cameras_are_within_what_is_promised() -> None:
    poses, angles = [], []
    for seed in range(12):
        scene = SceneGenerator(GeneratorConfig(sensor=0.0, empty=1.0, clutter=0.1)).sample(
            seed, (48, 36), 4
        )
        poses += [view.T_world_cam for view in scene.views]
        angles += [np.degrees(2 * np.arctan(24 / view.K[0, 0])) for view in scene.views]
    heights = np.array([pose[2, 3] for pose in poses])
    assert heights.min() >= 0.2 - 1e-9 and heights.max() <= 3.0 + 1e-9 and np.ptp(heights) > 1.0
    assert min(angles) >= 35 - 1e-6 and max(angles) <= 110 + 1e-6 and np.ptp(angles) > 40
