"""Batches say the truth whatever the augmentation; a trainer learns, saves and resumes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_network import SMALL

from hamst3r import cli
from hamst3r.commands import train as train_command
from hamst3r.engine import PairPrediction
from hamst3r.network.checkpoint import load_checkpoint, save_checkpoint
from hamst3r.network.config import NetworkConfig
from hamst3r.network.hamst3r import HAMSt3R
from hamst3r.synthetic.generator import GeneratorConfig, SceneGenerator
from hamst3r.training.closeups import Claimant, Claims, CloseupSampler
from hamst3r.training.dataset import Cut, PairSampler
from hamst3r.training.loader import PairBatches, Stage, batches
from hamst3r.training.losses import PairTarget, ViewTarget
from hamst3r.training.muon import hidden_matrices, orthogonalised
from hamst3r.training.state import pack_signed, pack_squares, unpack_signed, unpack_squares
from hamst3r.training.store import (
    SceneBank,
    SceneStore,
    StoredScene,
    overlap_of,
    places_of,
    render_scenes,
)
from hamst3r.training.train import OPTIMISERS, Table, TrainConfig, Trainer, TrainingError, train
from hamst3r.training.window import Window

SIZES = ((112, 80), (80, 112))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> SceneStore:
    store = SceneStore(tmp_path_factory.mktemp("scenes"))
    # Rooms with people nearby: the tolerances below are of coarse grids at a few metres.
    config = GeneratorConfig(sensor=0.0, empty=0.0, clutter=0.3, place="room", difficulty=0.0)
    generator = SceneGenerator(config)
    assert list(render_scenes(store, range(1, 5), generator)) == [1, 2, 3, 4]
    assert list(render_scenes(store, range(1, 5), generator)) == []  # nothing is rendered twice
    return store


CPU = torch.device("cpu")


def bank(store: SceneStore, capacity: int = 1 << 30) -> SceneBank:
    return SceneBank(store, CPU, capacity)


def sampler(store: SceneStore, seed: int = 0, augment: bool = True, sizes=SIZES) -> PairSampler:
    return PairSampler(bank(store), sizes, 2, np.random.default_rng(seed), augment=augment)


@pytest.mark.parametrize("augment", [False, True])
def test_labels_agree_between_the_views(store, augment):
    """Matched pixels of both views have the same 3D point, person and body coordinate."""
    draws = sampler(store, augment=augment)
    distances, people, coordinates = [], [], []
    for _ in range(6):
        target = draws.batch(6).target
        pair, row = (target.matches[..., 0] >= 0).nonzero().T
        a, b = target.matches[pair, row].T
        left, right = (_at(view, pair, pixel) for view, pixel in ((target.i, a), (target.j, b)))
        distances.append((left["points"] - right["points"]).norm(dim=-1))
        people.append(left["instances"] == right["instances"])
        both = left["body"] & right["body"]
        coordinates.append((left["densepose"] - right["densepose"])[both].norm(dim=-1))
    # A pixel of these coarse grids is some centimetres of wall; edges belong to either side.
    assert torch.cat(distances).median() < 0.05
    assert torch.cat(people).float().mean() > 0.97
    assert torch.cat(coordinates).median() < 0.05


def _at(view: ViewTarget, pair: torch.Tensor, pixel: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        name: getattr(view, name).flatten(1, 2)[pair, pixel]
        for name in ("points", "instances", "densepose", "body")
    }


def test_first_view_is_seen_from_its_own_camera(store):
    target = sampler(store).batch(8).target
    assert (target.i.points[..., 2][target.i.valid] > 0).all()
    centre = target.i.points[:, target.i.points.shape[1] // 2, target.i.points.shape[2] // 2]
    ahead = centre[:, 2] / centre.norm(dim=-1)
    assert (ahead[centre.norm(dim=-1) > 0] > 0.7).all()


def test_matches_are_distinct_pixels_on_both_sides(store):
    matches = sampler(store, seed=3).batch(6, overlap=1.0).target.matches
    assert (matches[..., 0] >= 0).sum() > 200
    for rows in matches:
        rows = rows[rows[:, 0] >= 0]
        assert len(rows[:, 0].unique()) == len(rows[:, 1].unique()) == len(rows)


def every_window(store: SceneStore) -> tuple[list[tuple[StoredScene, int]], Window]:
    """Every view of a store, and random windows on them, every other one mirrored."""
    scenes = bank(store)
    scenes.refresh()
    views = [(scene, v) for scene in scenes.get(scenes.paths) if scene for v in range(4)]
    mirror = np.arange(len(views)) % 2 == 0
    return views, Window.draw(views, mirror, (112, 80), np.random.default_rng(0))


def test_windows_and_their_inverse_agree(store):
    """A pixel followed to its source and back, through crop, roll, mirror and distortion."""
    views, window = every_window(store)
    assert (window.bend != 0).any() and (window.bend == 0).any()
    rolled = window.turn[:, 0, 1] != 0
    assert rolled.any() and not rolled.all()
    corners = torch.tensor([[0.0, 0.0], [111.0, 79.0], [40.0, 30.0]]).expand(len(views), -1, -1)
    source = window.source(corners)
    points = window.rays(source[:, None])[:, 0] * 3.0
    torch.testing.assert_close(window.project(points), corners, rtol=0, atol=0.02)
    for (scene, _), pixels in zip(views, source, strict=True):
        height, width = scene.depth.shape[1:]
        assert (pixels > -1).all() and (pixels < torch.tensor([width, height])).all()


def test_rolled_windows_are_those_of_a_rolled_camera(store):
    """Its rays go right with the columns and down with the rows, and with nothing else."""
    _, window = every_window(store)
    rolled = window.turn[:, 0, 1] != 0
    assert (rolled & window.mirror).any() and (rolled & ~window.mirror).any()
    straight = replace(window, bend=torch.zeros_like(window.bend))
    rays = straight.own_axes(straight.rays(straight.source(straight.pixels((80, 112)))))
    step = 1 / (window.scale * window.focal[:, 0])
    for axis, along, across in ((0, 2, 1), (1, 1, 2)):
        steps = rays[..., axis].diff(dim=along)
        torch.testing.assert_close(steps, step[:, None, None].expand_as(steps), rtol=0, atol=1e-5)
        assert rays[..., axis].diff(dim=across).abs().max() < 1e-5
    assert (rays[..., 2] == 1).all()


def test_windows_look_at_people(store):
    """Small ones fill more of the image, and windows stay on it."""
    scenes = bank(store)
    scenes.refresh()
    views, boxes = [], []
    for scene in scenes.get(scenes.paths):
        assert scene is not None
        if scene.landscape:
            for row, v in np.argwhere(scene.shown > 0):
                views.append((scene, int(v)))
                boxes.append(scene.boxes[row, v])
    assert len(boxes) > 3
    scene = views[0][0]
    views.append((replace(scene, labels=torch.zeros_like(scene.labels)), 0))
    boxes.append(None)
    seen = torch.tensor([box is not None for box in boxes])
    mirror = np.arange(len(views)) % 2 == 0
    share = []
    for places in ([None] * len(views), boxes):
        drawn = []
        for seed in range(8):
            window = Window.draw(views, mirror, (112, 80), np.random.default_rng(seed), places)
            shown = (Cut(views, window, 2).labels[:, 0] > 0).flatten(1)
            drawn.append(shown.float().mean(1))
            source = window.source(window.pixels((80, 112)))
            assert (source > -1).all() and (source < torch.tensor([224, 168])).all()
        share.append(torch.stack(drawn).mean(0))
    assert torch.equal(shown.any(1), seen)
    small = seen & (share[0] < 0.05)
    assert share[1][small].mean() > 1.5 * share[0][small].mean()


def test_people_are_known_by_where_they_are_seen():
    maps = np.zeros((2, 10, 20), np.uint8)
    maps[0, 2:5, 3:9] = 4
    maps[1, 9, 19] = 7
    ids, boxes, shown = places_of(maps)
    assert ids.tolist() == [4, 7]
    np.testing.assert_allclose(shown, [[18 / 200, 0], [0, 1 / 200]])
    np.testing.assert_array_equal(boxes[0, 0], [[3, 2], [8, 4]])
    np.testing.assert_array_equal(boxes[1, 1], [[19, 9], [19, 9]])
    _, boxes, shown = places_of(np.zeros((2, 10, 20), np.uint8))
    assert boxes.shape == (0, 2, 2, 2) and shown.shape == (0, 2)


def test_pairs_look_at_somebody_both_show(store):
    """Where people are asked for, and also where a store has none."""
    target = sampler(store).batch(24, people=1.0).target
    for truth in (target.i, target.j):
        assert (truth.instances > 0).flatten(1).any(1).float().mean() > 0.9
    at_people = _people(target)
    assert at_people > 1.5 * _people(sampler(store).batch(24).target)

    draws = sampler(store)
    draws.bank.get = _deserted(draws.bank.get)
    assert len(draws.batch(4, people=1.0).images_i) == 4


def test_closeups_are_of_people_and_paired_with_themselves(store):
    batch = sampler(store).closeups(24)
    target = batch.target
    assert batch.images_j is batch.images_i and target.j is target.i
    matched = target.matches[target.matches[..., 0] >= 0]
    assert len(matched) and (matched[:, 0] == matched[:, 1]).all()
    seen = (target.i.instances > 0).flatten(1).any(1).float().mean()
    assert seen > 0.7  # a few show nobody
    assert _people(target) > 1.5 * _people(sampler(store).batch(24).target)

    draws = sampler(store)
    draws.bank.get = _deserted(draws.bank.get)
    assert len(draws.closeups(2).images_i) == 2


def test_a_stage_may_be_of_closeups(store):
    shares = []
    for share in (0.0, 0.5, 1.0):
        data = PairBatches(bank(store), Stage(1.0, SIZES, 0.0, closeups=share), 1, 2, seed=3)
        drawn = [data[step] for step in range(12)]
        shares.append(sum(batch.images_j is batch.images_i for batch in drawn))
    assert shares[0] == 0 and 0 < shares[1] < 12 and shares[2] == 12


def _deserted(read):
    """Scenes as they are read, without people."""

    def without(paths):
        nobody = np.zeros((0, 4))
        return [replace(s, boxes=np.zeros((0, 4, 2, 2)), shown=nobody) for s in read(paths)]

    return without


def closeups(store: SceneStore, seed: int = 0, augment: bool = True, claims=None) -> CloseupSampler:
    nothing = Claims(np.zeros(0, np.int64), np.zeros((0, 2, 2)), np.zeros(0, np.int64))
    rng = np.random.default_rng(seed)
    return CloseupSampler(bank(store), 112, rng, claims or (lambda scene: nothing), augment)


def test_closeups_show_people_in_the_middle(store):
    batch = closeups(store).batch(48)
    meant = batch.person > 0
    assert 0.5 < meant.float().mean() < 0.95  # the rest shows whatever there is
    assert batch.judged[meant].all()
    grid = torch.arange(28) - 13.5
    for axis in (1, 2):
        profile = batch.mask[meant].float().sum(3 - axis)
        middle = (profile * grid).sum(1) / profile.sum(1)
        assert middle.abs().median() < 4
    filled = batch.mask[meant].any(1).sum(1).maximum(batch.mask[meant].any(2).sum(1)) / 28
    assert 0.35 < filled.median() < 0.95
    assert not batch.mask[~meant].any()
    assert not (batch.mask & ~batch.body)[meant].float().mean() > 0.1  # hair and skirts


def test_mirrored_closeups_are_of_mirrored_bodies(store):
    """Left and right of a body stay where the image shows them, whatever the augmentation: seen
    from the front, somebody's left is on the right."""
    draws, told = closeups(store, seed=1), []
    for _ in range(6):
        batch = draws.batch(24)
        grid = torch.arange(28).float().expand(28, 28)
        for mask, places in zip(batch.mask & batch.body, batch.densepose, strict=True):
            front = places[mask][:, 2].mean() > 0.5 if mask.any() else None
            if mask.sum() > 40:
                x = torch.stack([places[mask][:, 0], grid[mask]])
                told.append((bool(front), float(torch.corrcoef(x)[0, 1])))
    for front in (True, False):
        mean = np.nanmean([slope for way, slope in told if way is front])
        assert (mean > 0.2) if front else (mean < 0), told


def test_uncut_closeups_are_of_the_rendered_image(store):
    """Without augmentation: what lies beyond the view is nothing, and all else its pixels."""
    batch = closeups(store, augment=False).batch(24)
    beyond = (batch.images == 0).all(1)
    assert 0 < beyond.float().mean() < 0.8
    assert batch.images.abs().amax() <= 1
    again = closeups(store, augment=False).batch(24)
    assert torch.equal(batch.images, again.images) and torch.equal(batch.mask, again.mask)


class Guesser:
    """A pair network that claims the upper half of somebody in every view, and a piece of wall."""

    image_size, patch, stride = 224, 16, 2

    def __init__(self, scene: StoredScene) -> None:
        self.scene, self.asked = scene, 0

    def predict(self, images, edges):
        self.asked += 1
        return [self._pair(images, i, j) for i, j in edges]

    def _pair(self, images, i: int, j: int) -> PairPrediction:
        masks = [torch.stack([12 * mask - 6.0 for mask in self.claims(view)]) for view in (i, j)]
        nothing = [torch.zeros(*images[view].grid, 3) for view in (i, j)]
        return PairPrediction(
            i,
            j,
            *nothing,
            *(part[..., 0] + 1 for part in nothing),
            mask_logits_i=masks[0],
            mask_logits_j=masks[1],
            person_prob=torch.tensor([0.9, 0.9]),
            densepose_i=nothing[0],
            densepose_j=nothing[1],
            body_logits_i=masks[0].amax(0),
            body_logits_j=masks[1].amax(0),
        )

    def claims(self, view: int) -> tuple[torch.Tensor, torch.Tensor]:
        people = self.scene.labels[view, 0, 4:-4:2, ::2]  # what the network sees of it
        largest = people == (people.flatten().bincount()[1:].argmax() + 1)
        rows = largest.any(1).nonzero()[:, 0]
        half, wall = largest.clone(), torch.zeros_like(largest)
        half[(rows.min() + rows.max()) // 2 :] = False
        top, left = self.free(people)
        wall[top : top + 8, left : left + 8] = True
        return half.float(), wall.float()

    @staticmethod
    def free(people: torch.Tensor) -> list[int]:
        crowd = torch.nn.functional.max_pool2d((people > 0).float()[None], 8, 1)[0]
        return (crowd == 0).nonzero()[0].tolist()


def test_claims_are_of_whom_they_show_or_nobody(store):
    scenes = bank(store)
    scenes.refresh()
    (scene,) = scenes.get(scenes.paths[:1])
    guesser = Guesser(scene)
    ask = Claimant(guesser)
    claims = ask(scene)
    assert ask(scene) is claims and guesser.asked == 1
    for view in range(4):
        own = claims.views == view
        people = scene.labels[view, 0]
        largest = int(people.flatten().bincount()[1:].argmax()) + 1
        assert sorted(claims.ids[own]) == [0, largest]
        box = claims.boxes[own][claims.ids[own] == largest][0]
        row = scene.ids.tolist().index(largest)
        assert abs(box[0] - scene.boxes[row, view, 0]).max() < 3
        assert box[1, 1] < scene.boxes[row, view, 1, 1]
    batch = closeups(store, claims=lambda scene: claims).batch(64)
    assert 0.4 < batch.person.mean() < 0.9
    assert not batch.person[batch.judged].all()


def test_closeups_alone_are_learned(store, tmp_path):
    """Nothing else changes, not even in what is published."""
    torch.manual_seed(0)
    network = HAMSt3R(replace(SMALL, closeup_side=112))
    save_checkpoint(network, tmp_path / "before.safetensors", {})
    before = load_checkpoint(tmp_path / "before.safetensors").network
    config = TrainConfig(steps=12, batch=8, part="closeups", warmup=1, learning_rate=2e-3)
    trainer = Trainer(before, config, CPU)
    kept = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    batch = closeups(store).batch(8)
    losses = [float(trainer.train_step(batch, 0.0)["loss"]) for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]
    trainer.save(tmp_path, {"pairs_seen": "7"})
    after = load_checkpoint(tmp_path / "network.safetensors")
    assert after.notes["closeups_seen"] == "96" and after.notes["pairs_seen"] == "7"
    changed = {
        name.split(".")[0]
        for name, value in after.network.state_dict().items()
        if (value != kept[name]).any()
    }
    assert changed == {"closeup"}


def test_a_network_without_closeups_cannot_learn_them():
    with pytest.raises(ValueError, match="no part for close-ups"):
        start(part="closeups")


def _people(target: PairTarget) -> float:
    """Share of the pixels that are people's."""
    return torch.cat([target.i.instances, target.j.instances]).gt(0).float().mean().item()


def test_uncut_images_are_the_rendered_ones(store):
    """Without augmentation and at the source's size nothing moves."""
    scenes = bank(store)
    scenes.refresh()
    scene = next(scene for scene in scenes.get(scenes.paths) if scene and scene.landscape)
    views = [(scene, 2)]
    cut = Cut(views, Window.draw(views, np.zeros(1, bool), (224, 168), None), 2)
    plain = scene.rgb[2].float() / 255
    assert (cut.images()[0] - plain).abs().median() < 0.01
    points = torch.from_numpy(np.linalg.inv(scene.K[2])).float() @ torch.tensor([112.5, 84.5, 1.0])
    torch.testing.assert_close(cut.points[0, 42, 56], points * cut.depth[0, 42, 56])


def test_a_bank_outlives_deleted_scenes(store, tmp_path):
    copy = SceneStore(tmp_path)
    for path in store.paths():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    kept, small = bank(copy), bank(copy, capacity=1)
    for one in (kept, small):
        one.refresh()
        assert all(scene is not None for scene in one.get(one.paths))
    gone = copy.paths()[0]
    gone.unlink()
    assert kept.get([gone])[0] is not None and small.get([gone])[0] is None
    sampler_of_small = PairSampler(small, SIZES, 2, np.random.default_rng(0))
    for _ in range(4):
        sampler_of_small.batch(4)  # never fails, and no longer knows the lost scene
    assert gone not in small.paths
    kept.refresh()
    assert gone in kept.paths


def test_overlap_is_of_what_both_see(store):
    scene = store.read(store.paths()[0])
    assert (np.diag(scene.overlap) > 0.95).all()
    assert ((scene.overlap >= 0) & (scene.overlap <= 1)).all()
    away = scene.T_world_cam.copy()
    away[1] = away[0] @ np.diag([-1.0, 1, -1, 1])  # the same place, turned round
    assert overlap_of(scene.depth.numpy(), scene.K, away)[0, 1] == 0


def test_batches_are_reproducible(store):
    first, again, other = (sampler(store, seed).batch(4) for seed in (1, 1, 2))
    torch.testing.assert_close(first.images_i, again.images_i, rtol=0, atol=0)
    assert first.images_i.shape != other.images_i.shape or not torch.equal(
        first.images_i, other.images_i
    )


def test_empty_store_says_how_to_fill_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"hamst3r\.training\.render"):
        sampler(SceneStore(tmp_path)).batch(1)


def test_training_learns(store, tmp_path):
    torch.manual_seed(0)
    config = TrainConfig(batch=4, learning_rate=3e-3, warmup=5, average=0.9)
    trainer = Trainer(HAMSt3R(SMALL), config, torch.device("cpu"))
    draws = sampler(store, sizes=((96, 64),))
    losses = [float(trainer.train_step(draws.batch(4), 0.0)["loss"]) for _ in range(40)]
    assert np.mean(losses[-8:]) < 0.75 * np.mean(losses[:8])
    trainer.save(tmp_path, {"licence": "ours"})
    saved = load_checkpoint(tmp_path / "network.safetensors")
    assert saved.notes == {
        "licence": "ours",
        "steps": "40",
        "pairs_seen": "160",
        "seconds": "0",
    }
    for name, value in trainer.averaged().state_dict().items():
        torch.testing.assert_close(saved.network.state_dict()[name], value, rtol=0, atol=0)


STAGES = (Stage(0.5, ((96, 64), (64, 96)), 0.8), Stage(1.0, ((96, 64),), 0.0))


def start(**changes) -> Trainer:
    torch.manual_seed(0)
    config = TrainConfig(
        **{"steps": 8, "seconds": 0, "batch": 2, "stages": STAGES, "save_every": 1e9, **changes}
    )
    return Trainer(HAMSt3R(SMALL), config, torch.device("cpu"))


class Clock:
    """Counts its readings: one a step."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_a_run_can_be_stopped_and_resumed(store, tmp_path):
    first, second = start(), start()
    train(first, store, tmp_path, stop_after=3.0, clock=Clock())
    assert torch.tensor(1e-40) * 0.5 > 0  # small numbers count again
    assert 0 < first.step < 8
    second.resume(tmp_path)
    assert (second.step, second.pairs, second.spent) == (first.step, first.pairs, first.spent)
    train(second, store, tmp_path, clock=Clock())
    assert second.step == 8 and second.progress == 1.0


def test_losses_are_written_as_a_table(tmp_path):
    table = Table(tmp_path, every=2)
    for step in range(1, 5):
        table.add(step, {"loss": torch.tensor(1.0 / step)})
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert rows[0] == "step,loss" and [row.split(",")[0] for row in rows[1:]] == ["2", "4"]


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_saving_rounds_what_goes_on(store, tmp_path, optimiser):
    """The next step after a save is that of a run resumed from it, to the last bit."""
    trainer, resumed = start(optimiser=optimiser), start(optimiser=optimiser)
    draws = sampler(store, sizes=((96, 64),))
    for _ in range(3):
        trainer.train_step(draws.batch(2), 0.0)
    trainer.save(tmp_path, {})
    resumed.resume(tmp_path)
    batch = draws.batch(2)
    losses = [t.train_step(batch, 0.5)["loss"] for t in (trainer, resumed)]
    assert losses[0] == losses[1]
    for a, b in zip(trainer.network.parameters(), resumed.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    for name, value in trainer.average.items():
        torch.testing.assert_close(value, resumed.average[name], rtol=0, atol=0)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_the_shipped_networks_state_travels(tmp_path, optimiser):
    """Under 60 MiB with everything that resumes it."""
    # The part for close-ups is carried along, rounded as in a file.
    network = HAMSt3R(NetworkConfig(closeup_side=112)).to(torch.bfloat16).float()
    trainer = Trainer(network, TrainConfig(optimiser=optimiser), torch.device("cpu"))
    for parameter in trainer.network.parameters():
        parameter.grad = torch.randn_like(parameter)
    trainer.optimiser.step()
    trainer.save(tmp_path, {})
    assert (tmp_path / "state.pt").stat().st_size < 60 * 2**20


@pytest.mark.parametrize("size", [1, 63, 64, 1000])
def test_eight_bits_are_near(size):
    rng = torch.Generator().manual_seed(size)
    x = torch.randn(size, generator=rng) * torch.logspace(-6, 0, size)
    near = unpack_signed(pack_signed(x), x.shape)
    assert ((near - x).abs() <= x.abs().max() / 250).all()
    squares = x.square()
    near = unpack_squares(pack_squares(squares), x.shape)
    assert (near[squares > 0] > 0).all()  # Adam divides by it
    big = squares > squares.max() * 1e-3
    torch.testing.assert_close(near[big], squares[big], rtol=0.15, atol=0)


@pytest.mark.parametrize("capacity", [0, 1 << 30])
def test_batches_depend_on_step_and_seed_alone(store, capacity):
    stream = batches(PairBatches(bank(store, capacity), STAGES[0], 2, 2, seed=3), 5)
    for step in (5, 6):
        batch, again = next(stream), PairBatches(bank(store), STAGES[0], 2, 2, seed=3)[step]
        torch.testing.assert_close(batch.images_i, again.images_i, rtol=0, atol=0)
        torch.testing.assert_close(batch.target.j.points, again.target.j.points, rtol=0, atol=0)


def test_overlapping_pairs_come_first(store):
    def matches(overlap: float) -> float:
        draws = sampler(store, seed=4, augment=False, sizes=((112, 80),))
        found = [draws.batch(4, overlap=overlap).target.matches[..., 0] >= 0 for _ in range(6)]
        return float(torch.cat(found).float().mean())

    assert matches(1.0) > matches(0.0)


def test_unknown_optimisers_are_refused():
    with pytest.raises(ValueError, match=r"optimiser must be one of .*muon.*'sgd'"):
        TrainConfig(optimiser="sgd")


@pytest.mark.parametrize("shape", [(12, 48), (48, 12), (20, 20)])
def test_orthogonalised_matrices_keep_their_directions(shape):
    """Singular vectors stay, singular values come near one; zero stays zero."""
    torch.manual_seed(0)
    x = torch.randn(3, *shape)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    values = u.mT @ orthogonalised(x) @ v.mT
    # Newton-Schulz reaches what is not much smaller than the largest.
    large = s > 0.1 * s.amax(1, keepdim=True)
    diagonal = values.diagonal(dim1=-2, dim2=-1)
    assert ((diagonal > 0.6) & (diagonal < 1.3))[large].all()
    torch.testing.assert_close(values, torch.diag_embed(diagonal), rtol=0, atol=1e-4)
    assert not orthogonalised(torch.zeros(1, *shape)).any()


def test_muon_moves_hidden_matrices_and_adam_the_rest(store):
    """Steps of both have Adam's size; every parameter moves, and no gradient is lost before."""
    trainer = start(optimiser="muon", warmup=1)
    hidden = {id(p) for p in hidden_matrices(trainer.network)}
    names = {name for name, p in trainer.network.named_parameters() if id(p) in hidden}
    assert {n.split(".")[0] for n in names} == {"encoder", "decoder", "instance_head"}
    assert all(n.endswith("weight") for n in names)
    before = {name: p.detach().clone() for name, p in trainer.network.named_parameters()}
    trainer.train_step(sampler(store).batch(2), 0.5)
    rate = trainer.optimiser.param_groups[0]["lr"]
    for name, p in trainer.network.named_parameters():
        step = (p.detach() - before[name]).square().mean().sqrt() / rate
        if name in names:
            assert set(trainer.optimiser.state[p]) == {"step", "exp_avg"}
            assert 0.02 < step < 0.4, name
        else:
            assert "exp_avg_sq" in trainer.optimiser.state[p]
    assert trainer.skipped == 0


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_people_alone_are_learned(store, tmp_path, optimiser):
    """Nothing else changes, not even in what is published; batches may be learned repeatedly."""
    once, thrice = (
        start(part="people", optimiser=optimiser, repeats=repeats, warmup=1) for repeats in (1, 3)
    )
    batch = sampler(store).batch(4)
    for trainer in (once, thrice):
        save_checkpoint(trainer.network, tmp_path / "before.safetensors", {})
        before = load_checkpoint(tmp_path / "before.safetensors").network
        trainer.network.load_state_dict(before.state_dict())
        trainer.average = {k: v.clone() for k, v in before.state_dict().items()}
        first = [trainer.train_step(batch, 0.0) for _ in range(4)]
        assert trainer.step == 4 and trainer.pairs == 16
        trainer.save(tmp_path, {})
        after = load_checkpoint(tmp_path / "network.safetensors").network.state_dict()
        changed = {
            name for name, value in before.state_dict().items() if (value != after[name]).any()
        }
        assert {name.split(".")[0] for name in changed} == {"instance_head", "mask_head"}
        assert first[0]["points"] == first[-1]["points"]
    a, b = (t.train_step(batch, 0.0)["instance"] for t in (once, thrice))
    assert b < a


def test_repeats_are_of_people_alone():
    with pytest.raises(ValueError, match="only people are learned"):
        TrainConfig(repeats=2)


def test_a_run_that_broke_gives_up(store):
    trainer = start(patience=3)
    batch = sampler(store).batch(2)
    batch.images_i[0, 0, 0, 0] = float("nan")
    trainer.train_step(batch, 0.0)
    trainer.train_step(batch, 0.0)
    with pytest.raises(TrainingError, match=r"3 steps in a row.*lower the learning rate"):
        trainer.train_step(batch, 0.0)


def test_the_command_trains_and_resumes(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_command, "HAMSt3R", lambda config=SMALL: HAMSt3R(config))
    out = tmp_path / "run"
    arguments = ["train", "--scenes", str(store.folder), "--out", str(out), "--batch", "2"]
    arguments += ["--device", "cpu", "--steps", "4"]
    assert cli.main([*arguments, "--stop-after", "0"]) == 0
    assert cli.main([*arguments, "--resume", "--refine"]) == 0
    assert "4 steps, 8 pairs" in capsys.readouterr().out
    notes = load_checkpoint(out / "network.safetensors").notes
    assert notes["pairs_seen"] == "8" and notes["licence"] == "Apache-2.0"
    on_top = [*arguments, "--part", "closeups", "--start", str(out / "network.safetensors")]
    assert cli.main([*on_top, "--out", str(tmp_path / "closer")]) == 0
    both = load_checkpoint(tmp_path / "closer" / "network.safetensors")
    assert both.network.closeup is not None
    assert both.notes["pairs_seen"] == "8" and both.notes["closeups_seen"] == "8"
    assert (
        cli.main([*arguments[:3], "--out", str(tmp_path / "new"), "--resume", "--steps", "1"]) == 1
    )
    assert "no run to resume" in capsys.readouterr().err


def test_two_processes_train_one_network(store, tmp_path):
    """As torchrun starts them, on real processes: one run, one result, all pairs counted."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "hamst3r.cli", "train", "--device", "cpu"]
    command += ["--scenes", str(store.folder), "--out", str(tmp_path), "--steps", "2"]
    done = subprocess.run(
        [*command, "--batch", "1"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 steps, 4 pairs") == 1
    assert load_checkpoint(tmp_path / "network.safetensors").notes["pairs_seen"] == "4"


def test_a_step_with_infinite_gradients_changes_nothing(store):
    torch.manual_seed(0)
    trainer = Trainer(HAMSt3R(SMALL), TrainConfig(), torch.device("cpu"))
    batch = sampler(store).batch(2)
    batch.images_i[0, 0, 0, 0] = float("nan")
    before = [p.clone() for p in trainer.network.parameters()]
    trainer.train_step(batch, 0.0)
    assert trainer.skipped == 1
    for a, b in zip(before, trainer.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
