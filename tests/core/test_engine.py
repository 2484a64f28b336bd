"""The pair engine: the network's own outputs, for any batch size and order."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from test_network import SMALL

from hamst3r.engine import PairEngine
from hamst3r.frames import Frame
from hamst3r.image import prepare
from hamst3r.network.hamst3r import HAMSt3R

EDGES = [(0, 1), (2, 0), (1, 2), (2, 2)]


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    sizes = [(60, 90), (60, 90), (96, 54)]  # two landscapes and a portrait
    frames = [
        Frame(f"cam{k}", 0, rng.integers(0, 255, (*size, 3), dtype=np.uint8))
        for k, size in enumerate(sizes)
    ]
    return [prepare(frame, 96, SMALL.patch, SMALL.output_stride) for frame in frames]


def build(batch: int = 16, precision: str = "fp32") -> PairEngine:
    torch.manual_seed(0)
    return PairEngine(HAMSt3R(SMALL), "cpu", precision, batch=batch)


def test_predictions_are_the_networks(images):
    engine = build()
    torch.manual_seed(0)
    network = HAMSt3R(SMALL).eval()
    for edge, prediction in zip(EDGES, engine.predict(images, EDGES), strict=True):
        assert (prediction.i, prediction.j) == edge
        with torch.inference_mode():
            output = network(*(images[view].tensor[None] for view in edge))
        torch.testing.assert_close(prediction.pts_i, output.i.points[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(prediction.pts_j, output.j.points[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            prediction.mask_logits_j, output.instances[-1].mask_logits_j[0], rtol=1e-4, atol=1e-4
        )
        gh, gw = images[edge[1]].rgb.shape[:2]
        assert prediction.conf_j.shape == (gh, gw)


def test_batch_size_and_order_do_not_matter(images):
    reference = build(batch=16).predict(images, EDGES)
    reordered = build(batch=1).predict(images, EDGES[::-1])[::-1]
    for a, b in zip(reference, reordered, strict=True):
        for field in fields(a):
            left, right = getattr(a, field.name), getattr(b, field.name)
            if isinstance(left, torch.Tensor):
                torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3)


def test_every_used_image_is_encoded_once(images):
    engine = build()
    encoded = []
    encode = engine._network.encode
    engine._network.encode = lambda stack: encoded.append(len(stack)) or encode(stack)
    engine.predict(images, [(0, 1), (1, 0), (0, 1)])
    assert sum(encoded) == 2


def test_bf16_is_close_to_fp32(images):
    exact, rounded = (build(precision=p).predict(images, EDGES) for p in ("fp32", "bf16"))
    for a, b in zip(exact, rounded, strict=True):
        assert b.pts_i.dtype == torch.float32
        relative = (a.pts_i - b.pts_i).norm(dim=-1) / a.pts_i.norm(dim=-1)
        assert relative.median() < 0.05


def test_errors_say_what_is_wrong(images):
    with pytest.raises(ValueError, match=r"edge \(0, 3\) is outside of 3 images"):
        build().predict(images, [(0, 3)])
    with pytest.raises(ValueError, match="precision must be"):
        build(precision="int4")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="sees no CUDA device"):
            PairEngine(HAMSt3R(SMALL), "cuda:0")
