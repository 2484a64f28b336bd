"""Close-ups: whoever might be somebody is looked at again, in the pixels as delivered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from hamst3r.combined import CombinedEngine
from hamst3r.engine import PairEngine, PairPrediction
from hamst3r.evaluation.replay import Replay
from hamst3r.frames import Frame
from hamst3r.image import prepare
from hamst3r.network.closeup import CloseupOutput
from hamst3r.network.config import NetworkConfig
from hamst3r.network.hamst3r import HAMSt3R
from hamst3r.pair_store import PairStore
from hamst3r.people.closeups import FILLED, CloseupsConfig, see_people
from hamst3r.people.votes import InstancesConfig

SIZE, PATCH, STRIDE = 224, 16, 2
WIDTH, HEIGHT = 640, 480
Box = tuple[int, int, int, int]  # left, top, right, bottom: pixels of the delivered image
SMALL: Box = (301, 203, 327, 262)


class Eyesight:
    """Sees the people of single images: whatever is bright, with one query and a body that is as
    high as the image; counts what it was shown."""

    patch, stride, image_size = PATCH, STRIDE, SIZE

    def __init__(self, probability: float = 0.9) -> None:
        self.probability = probability
        self.shown: list = []

    def people(self, images):
        self.shown.append(list(images))
        return [self._see(image) for image in images]

    def _see(self, image):
        bright = torch.nn.functional.avg_pool2d(image.tensor.mean(0)[None], STRIDE)[0]
        logits = 12 * bright
        return prediction(0, 0, image.grid, logits, self.probability)


class OneByOne:
    """The same, as a network of single people: what it sees is whoever is in the middle."""

    closeup_side = 112

    def __init__(self, probability: float = 0.9) -> None:
        self.probability = probability
        self.shown: list = []

    def look(self, images):
        self.shown.append(images)
        logits = 12 * torch.nn.functional.avg_pool2d(images.mean(1), 4)
        rows = torch.linspace(0, 1, logits.shape[1])[:, None].expand(logits.shape[1:])
        return CloseupOutput(
            torch.logit(torch.full((len(images),), self.probability)),
            torch.stack([in_the_middle(one) for one in logits]),
            logits,
            torch.stack([rows * 0, rows, rows * 0], -1).expand(len(images), -1, -1, -1),
            torch.zeros(len(images), 2),
        )


def in_the_middle(logits):
    """Of the bright parts, the one nearest to the middle."""
    bright = (logits > 0).numpy()
    if not bright.any():
        return logits
    part = cv2.connectedComponents(bright.astype(np.uint8))[1]
    places = np.argwhere(bright)
    nearest = np.linalg.norm(places - (np.array(bright.shape) - 1) / 2, axis=1).argmin()
    return logits.where(torch.from_numpy(part == part[tuple(places[nearest])]), -6.0)


BOTH = pytest.mark.parametrize("eyes", [Eyesight, OneByOne])


def prediction(i, j, grid, logits, probability, body=None):
    rows = torch.linspace(0, 1, grid[0])[:, None].expand(grid)
    zeros = torch.zeros(*grid, 3)
    return PairPrediction(
        i=i,
        j=j,
        pts_i=zeros,
        pts_j=zeros,
        conf_i=torch.ones(grid),
        conf_j=torch.ones(grid),
        mask_logits_i=logits[None],
        mask_logits_j=logits[None],
        person_prob=torch.tensor([probability]),
        densepose_i=torch.stack([rows * 0, rows, rows * 0], -1),
        densepose_j=torch.stack([rows * 0, rows, rows * 0], -1),
        body_logits_i=logits if body is None else body,
        body_logits_j=logits if body is None else body,
    )


def frame(*boxes: Box, name: str = "front", size: tuple[int, int] = (WIDTH, HEIGHT)) -> Frame:
    image = np.zeros((size[1], size[0], 3), np.uint8)
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = 255
    return Frame(name, 0, image)


def cells(box: Box, image) -> np.ndarray:
    """Pixels of the output grid whose middles are in a box."""
    T, (rows, columns) = image.T_image_grid, image.grid
    u, v = T[0, 0] * np.arange(columns) + T[0, 2], T[1, 1] * np.arange(rows) + T[1, 2]
    return np.outer((v >= box[1]) & (v < box[3]), (u >= box[0]) & (u < box[2]))


def look(engine, boxes: list[Box], guess: Box, probability: float, size=(WIDTH, HEIGHT), **config):
    """People of a view with bright boxes, paired with another that shows nothing; the pair guesses
    that somebody is in a box."""
    frames = [frame(*boxes, size=size), frame(name="rear", size=size)]
    images = [prepare(f, SIZE, PATCH, STRIDE) for f in frames]
    guessed = torch.from_numpy(np.where(cells(guess, images[0]), 6.0, -6.0)).float()
    one = prediction(0, 1, images[0].grid, guessed, probability)
    one = replace(one, mask_logits_j=one.mask_logits_j * 0 - 6, body_logits_j=guessed * 0 - 6)
    people = see_people(engine, frames, images, [one], closeups=CloseupsConfig(**config))
    return people, images


def iou(a, b) -> float:
    return (a & b).sum() / (a | b).sum()


@BOTH
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1280, 720), (224, 168)])
def test_a_doubtful_person_is_found_in_the_delivered_pixels(size, eyes):
    left, top = size[0] // 2, size[1] // 3
    true = (left, top, left + size[0] // 20, top + size[1] // 6)
    guess = (true[0] - size[0] // 40, true[1], true[2], true[3] + size[1] // 20)
    people, images = look(eyes(), [true], guess, 0.3, size)
    (identity,) = people[0].scores
    assert people[0].scores[identity] > 0.5
    least = 0.8 if size[0] > SIZE else 0.7  # where there is no more to see than before
    assert iou(people[0].instances == identity, cells(true, images[0])) > least
    assert not people[1].scores
    # The body is seen closer, too: its coordinates run over the close-up, not over the view, of
    # which this is a sixth.
    shown = people[0].densepose[cells(true, images[0]), 1]
    assert np.isfinite(shown).mean() > 0.8
    assert np.ptp(shown[np.isfinite(shown)]) > 0.2
    whole, _ = look(object(), [true], guess, 0.3, size)
    assert not whole[0].scores or max(whole[0].scores.values()) < 0.5


@BOTH
def test_nobody_there_means_nobody(eyes):
    """The pair is fairly sure; the close-up shows an empty floor."""
    before, _ = look(object(), [], SMALL, 0.6)
    assert before[0].instances.any()
    people, _ = look(eyes(), [], SMALL, 0.6)
    assert not people[0].instances.any()


@pytest.mark.parametrize("corner", [(0, 0), (WIDTH - 24, 0), (0, HEIGHT - 50)])
@BOTH
def test_who_is_at_the_edge_is_seen_closer_too(corner, eyes):
    true = (*corner, corner[0] + 24, corner[1] + 50)
    people, images = look(eyes(), [true], true, 0.3)
    (identity,) = people[0].scores
    assert iou(people[0].instances == identity, cells(true, images[0])) > 0.75


@pytest.mark.parametrize("there", [True, False])
def test_a_network_of_single_people_says_nothing_of_others_nearby(there):
    """Two of whom the pair is fairly sure, side by side; one of them is looked at."""
    other = (SMALL[2] + 6, SMALL[1], SMALL[2] + 32, SMALL[3])
    frames = [frame(SMALL, other) if there else frame(SMALL)]
    images = [prepare(f, SIZE, PATCH, STRIDE) for f in frames]
    logits = [torch.from_numpy(np.where(cells(b, images[0]), 6.0, -6.0)) for b in (SMALL, other)]
    masks = torch.stack(logits).float()
    pair = replace(
        prediction(0, 0, images[0].grid, masks.amax(0), 0.0),
        mask_logits_i=masks,
        mask_logits_j=masks,
        person_prob=torch.tensor([0.9, 0.7]),
    )
    engine = OneByOne()
    (view,) = see_people(engine, frames, images, [pair], closeups=CloseupsConfig(most=1))
    assert [len(shown) for shown in engine.shown] == [1]
    assert iou(view.instances == 1, cells(SMALL, images[0])) > 0.7
    seen = (view.instances[cells(other, images[0])] > 1).mean()
    assert seen == pytest.approx(float(there), abs=0.2)


@pytest.mark.parametrize("corner", [(0, 0), (WIDTH - 24, 0), (0, HEIGHT - 50)])
def test_a_network_of_single_people_is_shown_the_edge_as_nothing(corner):
    engine, true = OneByOne(), (*corner, corner[0] + 24, corner[1] + 50)
    look(engine, [true], true, 0.3)
    image = engine.shown[0][0]
    bright = torch.nonzero(image.mean(0) > 0.5).float()
    assert abs(bright.mean(0) - 55.5).max() < 12  # the person is in the middle all the same
    assert image.eq(0).all(0).float().mean() > 0.2


def test_a_network_of_single_people_sees_whoever_fills_the_view_whole():
    engine, large = OneByOne(), (100, 20, 400, 460)
    look(engine, [large], large, 0.4)
    bright = torch.nonzero(engine.shown[0][0].mean(0) > 0.5)
    filled = (bright.amax(0) - bright.amin(0) + 1).max() / 112
    assert filled == pytest.approx(FILLED, abs=0.05)


def test_what_is_large_unlikely_or_not_wanted_is_not_looked_at():
    large = (100, 20, 400, 460)
    for guess, probability, config in (
        (large, 0.4, {}),
        (SMALL, 0.05, {}),
        (SMALL, 0.4, {"most": 0}),
        (SMALL, 0.4, {"min_score": 0.9}),
    ):
        engine = Eyesight()
        look(engine, [guess], guess, probability, **config)
        assert not engine.shown, (guess, probability, config)


def test_nothing_is_looked_at_twice_and_no_more_than_asked_for():
    frames = [frame(SMALL)]
    images = [prepare(f, SIZE, PATCH, STRIDE) for f in frames]
    # The halves may be two people, but one look shows both.
    left, top, right, bottom = 301, 203, 327, 300
    halves = [(left, top, left + 13, bottom), (left + 13, top, right, bottom)]
    guesses = [*halves, (60, 300, 80, 360), (500, 300, 520, 360)]
    logits = [torch.from_numpy(np.where(cells(box, images[0]), 6.0, -6.0)) for box in guesses]
    masks = torch.stack(logits).float()
    pair = replace(
        prediction(0, 0, images[0].grid, masks.amax(0), 0.4),
        mask_logits_i=masks,
        mask_logits_j=masks,
        person_prob=torch.full((len(guesses),), 0.4),
    )
    for most, looks in ((6, 3), (3, 3), (2, 2)):
        engine = Eyesight()
        see_people(engine, frames, images, [pair], closeups=CloseupsConfig(most=most, rounds=1))
        assert [len(shown) for shown in engine.shown] == [looks]


def test_who_turns_out_to_be_larger_is_looked_at_with_more_room():
    engine, tall = Eyesight(), (290, 150, 330, 262)
    people, images = look(engine, [tall], SMALL, 0.4, rounds=2)
    assert [len(shown) for shown in engine.shown] == [1, 1]
    (identity,) = people[0].scores
    assert iou(people[0].instances == identity, cells(tall, images[0])) > 0.8
    engine = Eyesight()
    look(engine, [tall], SMALL, 0.4, rounds=1)
    assert [len(shown) for shown in engine.shown] == [1]


def test_networks_without_people_take_no_close_ups():
    engine = Eyesight()
    frames = [frame(SMALL)]
    images = [prepare(f, SIZE, PATCH, STRIDE) for f in frames]
    blind = replace(
        prediction(0, 0, images[0].grid, torch.zeros(images[0].grid), 0.5), person_prob=None
    )
    (view,) = see_people(engine, frames, images, [blind], InstancesConfig())
    assert not engine.shown and not view.scores


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = NetworkConfig(
        encoder_dim=48, encoder_depth=1, decoder_dim=48, decoder_depth=1, image_size=SIZE
    )
    return PairEngine(HAMSt3R(config), "cpu", "fp32")


def test_an_engine_sees_the_people_of_single_images_alike_in_any_company(network):
    images = [
        prepare(frame(box, name=str(k)), SIZE, PATCH, STRIDE)
        for k, box in enumerate([SMALL, (10, 10, 90, 400)])
    ]
    both = network.people(images)
    for image, seen in zip(images, both, strict=True):
        (alone,) = network.people([replace(image)])
        assert seen.person_prob.shape == (network._network.config.queries,)
        assert torch.allclose(seen.mask_logits_i, alone.mask_logits_i, atol=1e-4)
        assert torch.allclose(seen.body_logits_i, alone.body_logits_i, atol=1e-4)
    assert network.closeup_side == 0
    with pytest.raises(ValueError, match="no network for close-ups"):
        network.look(torch.zeros(1, 3, 48, 48))
    combined = CombinedEngine(network, network)
    for seen, same in zip(combined.people(images), both, strict=True):
        assert torch.allclose(seen.mask_logits_i, same.mask_logits_i, atol=1e-4)


def test_an_engine_looks_at_single_people_alike_in_any_company():
    torch.manual_seed(0)
    config = NetworkConfig(
        encoder_dim=48, encoder_depth=1, decoder_dim=48, decoder_depth=1, closeup_side=48
    )
    engine = PairEngine(HAMSt3R(config), "cpu", "fp32")
    images = torch.rand(9, 3, 48, 48) * 2 - 1  # more than one batch
    seen = engine.look(images)
    assert seen.densepose.shape == (9, 12, 12, 3) and engine.counters.closeups == 9
    for row, image in enumerate(images):
        for part, alone in zip(seen, engine.look(image[None]), strict=True):
            assert torch.allclose(part[row], alone[0], atol=1e-4)
    for stands_in in (CombinedEngine(engine, engine), Replay(engine)):
        assert stands_in.closeup_side == 48
        assert torch.equal(stands_in.look(images).mask_logits, seen.mask_logits)
    replay, before = Replay(engine), engine.counters.closeups
    replay.look(images[:3])
    replay.look(images[[2, 0, 5, 5]])
    assert engine.counters.closeups == before + 4  # nobody is looked at twice
    assert PairStore(engine, Path("nowhere")).closeup_side == 48
