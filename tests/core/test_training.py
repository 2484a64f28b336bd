"""Batches say the truth whatever the augmentation; a trainer learns, saves and resumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_network import SMALL

from hamst3r.network.checkpoint import load_checkpoint
from hamst3r.network.hamst3r import HAMSt3R
from hamst3r.synthetic.generator import GeneratorConfig, SceneGenerator
from hamst3r.training.dataset import PairSampler, SceneStore, render_scenes
from hamst3r.training.losses import ViewTarget
from hamst3r.training.train import TrainConfig, Trainer

SIZES = ((112, 80), (80, 112))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> SceneStore:
    store = SceneStore(tmp_path_factory.mktemp("scenes"))
    generator = SceneGenerator(GeneratorConfig(sensor=0.0, empty=0.0, clutter=0.3))
    assert list(render_scenes(store, range(1, 5), generator)) == [1, 2, 3, 4]
    assert list(render_scenes(store, range(1, 5), generator)) == []  # nothing is rendered twice
    return store


def sampler(store: SceneStore, seed: int = 0, augment: bool = True, sizes=SIZES) -> PairSampler:
    return PairSampler(store, sizes, 2, np.random.default_rng(seed), augment=augment)


@pytest.mark.parametrize("augment", [False, True])
def test_labels_agree_between_the_views(store, augment):
    """Matched pixels of both views have the same 3D point, person and body coordinate."""
    draws = sampler(store, augment=augment)
    distances, people, coordinates = [], [], []
    for _ in range(6):
        target = draws.batch(6).target
        pair, a, b = target.matches.T
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


def test_batches_are_reproducible(store):
    first, again, other = (sampler(store, seed).batch(4) for seed in (1, 1, 2))
    torch.testing.assert_close(first.images_i, again.images_i, rtol=0, atol=0)
    assert first.images_i.shape != other.images_i.shape or not torch.equal(
        first.images_i, other.images_i
    )


def test_empty_store_says_how_to_fill_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"hamst3r\.training\.render"):
        sampler(SceneStore(tmp_path)).batch(1)


def test_training_learns_and_resumes(store, tmp_path):
    torch.manual_seed(0)
    config = TrainConfig(batch=4, learning_rate=3e-3, warmup=5, average=0.9)
    trainer = Trainer(HAMSt3R(SMALL), config, torch.device("cpu"))
    draws = sampler(store, sizes=((96, 64),))
    losses = [trainer.train_step(draws.batch(4), 0.0)["loss"] for _ in range(40)]
    assert np.mean(losses[-8:]) < 0.75 * np.mean(losses[:8])
    trainer.save(tmp_path, {"steps": "40"})

    resumed = Trainer(HAMSt3R(SMALL), config, torch.device("cpu"))
    resumed.resume(tmp_path)
    assert resumed.step == 40
    for a, b in zip(trainer.network.parameters(), resumed.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    saved = load_checkpoint(tmp_path / "network.safetensors")
    assert saved.notes == {"steps": "40"}
    averaged = trainer.averaged().state_dict()["decoder.embed.weight"]
    torch.testing.assert_close(
        saved.network.state_dict()["decoder.embed.weight"], averaged, rtol=1e-2, atol=1e-3
    )


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
