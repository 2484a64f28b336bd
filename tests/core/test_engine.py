"""The pair engine: the network's own outputs, for any batch size and order."""

from __future__ import annotations

import functools
import gc
import sys
from collections import defaultdict
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from test_network import DUST3R, FAMILY, MAST3R, SMALL
from torch.utils._python_dispatch import TorchDispatchMode

from hamst3r.combined import CombinedEngine
from hamst3r.engine import Counters, PairEngine
from hamst3r.frames import Frame
from hamst3r.image import prepare, resized
from hamst3r.network.encoder import Encoded
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


def build(
    batch: int | None = None, precision="fp32", config=SMALL, device="cpu", **options
) -> PairEngine:
    torch.manual_seed(0)
    return PairEngine(HAMSt3R(config), device, precision, batch=batch, **options)


def assert_same(a, b, rtol: float, atol: float) -> None:
    for field in fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, torch.Tensor):
            torch.testing.assert_close(left, right, rtol=rtol, atol=atol)
        else:
            assert left == right


def test_predictions_are_the_networks(images):
    engine = build()
    torch.manual_seed(0)
    network = HAMSt3R(SMALL).eval()
    bodies = defaultdict(list)
    predictions = engine.predict(images, EDGES)
    for edge, prediction in zip(EDGES, predictions, strict=True):
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
        for view, part in zip(edge, (output.i, output.j), strict=True):
            bodies[view].append((part.densepose[0], part.body_logits[0]))
    for prediction in predictions:  # An image's bodies are the mean over its pairs.
        densepose, logits = (
            torch.stack(part).mean(0) for part in zip(*bodies[prediction.i], strict=True)
        )
        torch.testing.assert_close(prediction.densepose_i, densepose.clamp(0, 1), rtol=0, atol=1e-4)
        torch.testing.assert_close(prediction.body_logits_i, logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", FAMILY.values(), ids=FAMILY)
def test_batch_size_and_order_do_not_matter(images, config):
    if config.patch == 14:
        images = [resized(image, 56, 14, config.output_stride) for image in images]
    reference = build(batch=16, config=config).predict(images, EDGES)
    reordered = build(batch=1, config=config).predict(images, EDGES[::-1])[::-1]
    for a, b in zip(reference, reordered, strict=True):
        assert_same(a, b, rtol=1e-3, atol=1e-3)


def test_work_is_counted_and_not_done_twice(images):
    engine = build()
    engine.predict(images, [(0, 1), (1, 0), (0, 1)])
    assert engine.counters == Counters(encodes=2, decodes=3, bodies=2)
    engine.predict(images, [(0, 1), (1, 2)])  # of three images two are known
    assert engine.counters == Counters(encodes=3, decodes=5, bodies=5)
    again = [replace(image) for image in images]
    engine.predict(again, [(0, 1)])
    assert engine.counters.encodes == 5
    del again
    gc.collect()
    assert len(engine._encoded) == 3  # what is gone is forgotten


class HostReads(TorchDispatchMode):
    """Counts what would make a GPU wait: values that Python reads, shapes that depend on data."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in self.FORBIDDEN):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("config", FAMILY.values(), ids=FAMILY)
def test_nothing_waits_for_the_device_or_opens_files(images, config):
    if config.patch == 14:
        images = [resized(image, 56, 14, config.output_stride) for image in images]
    engine = build(config=config)
    with HostReads():  # lazy imports read files, once; the counting has its own
        engine.predict(images[:1], [(0, 0)])
    opened = []

    def audit(event, arguments):
        if event == "open" and watching:
            opened.append(arguments[0])

    watching = True
    sys.addaudithook(audit)  # stays for good, and silent
    with HostReads() as reads:
        engine.predict(images, EDGES)
    watching = False
    assert reads.found == []
    assert opened == []


def test_out_of_memory_halves_the_batch(images, caplog):
    reference = build().predict(images, EDGES)
    engine, limit = build(batch=8), 2
    encode, decode = engine._network.encode, engine._decode

    def limited(work):
        def run(first, *rest, **options):
            batch = len(first.tokens) if isinstance(first, Encoded) else len(first)
            if batch > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return work(first, *rest, **options)

        return run

    engine._network.encode, engine._decode = limited(encode), limited(decode)
    edges = [*EDGES, (0, 1), (1, 0), (0, 1), (1, 0)]
    predictions = engine.predict(images, edges)
    assert engine.counters.decodes == len(edges)
    assert engine.batch == 2 and engine.counters.halvings >= 1
    assert "out of memory on cpu: going on in batches of" in caplog.text
    for a, b in zip(reference, predictions[: len(EDGES)], strict=True):
        torch.testing.assert_close(a.pts_i, b.pts_i, rtol=1e-3, atol=1e-3)
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        engine.predict(images, [(0, 1)])


def test_other_errors_are_not_taken_for_memory(images):
    engine = build()
    engine._decode = lambda *a, **k: (_ for _ in ()).throw(RuntimeError("CUDA error: gone"))
    with pytest.raises(RuntimeError, match="gone"):
        engine.predict(images, EDGES)
    assert engine.counters.halvings == 0


def test_compiled_decoder_gives_the_same(images, monkeypatch):
    """Traced in one piece and rewritten into inductor's operations. Inductor's own C++ is left out
    where there is no GPU: its compiler takes minutes, and nobody compiles the decoder for a CPU."""
    if not torch.cuda.is_available():
        rewritten = functools.partial(torch.compile, backend="aot_eager_decomp_partition")
        monkeypatch.setattr(torch, "compile", rewritten)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, compiled = build(device="auto"), build(device="auto", compile=True)
    edges = [(0, 1), (1, 0)]
    for a, b in zip(plain.predict(images, edges), compiled.predict(images, edges), strict=True):
        assert_same(a, b, rtol=1e-3, atol=1e-3)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] >= 1 and not counters["graph_break"]


@pytest.mark.parametrize(("precision", "close"), [("bf16", 0.05), ("fp16", 0.006)])
def test_rounded_precisions_are_close_to_fp32(images, precision, close):
    exact, rounded = (build(precision=p).predict(images, EDGES) for p in ("fp32", precision))
    for a, b in zip(exact, rounded, strict=True):
        assert b.pts_i.dtype == torch.float32
        relative = (a.pts_i - b.pts_i).norm(dim=-1) / a.pts_i.norm(dim=-1)
        assert 0 < relative.median() < close


def test_networks_without_heads_say_nothing_about_them(images):
    prediction = build(config=DUST3R).predict(images, [(0, 1)])[0]
    assert prediction.pts_i is not None
    for name in ("desc_i", "desc_conf_j", "mask_logits_i", "person_prob", "densepose_j"):
        assert getattr(prediction, name) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu_without_waiting(images):
    cpu = build().predict(images, EDGES)
    torch.manual_seed(0)
    engine = PairEngine(HAMSt3R(SMALL), "cuda", "fp32")
    engine.predict(images, EDGES)
    torch.cuda.synchronize()
    fresh = [replace(image) for image in images]
    torch.cuda.set_sync_debug_mode("error")
    try:
        gpu = engine.predict(fresh, EDGES)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(cpu, gpu, strict=True):
        torch.testing.assert_close(a.pts_i, b.pts_i.cpu(), rtol=1e-2, atol=1e-2)


def test_errors_say_what_is_wrong(images):
    with pytest.raises(ValueError, match=r"edge \(0, 3\) is outside of 3 images"):
        build().predict(images, [(0, 3)])
    with pytest.raises(ValueError, match="precision must be"):
        build(precision="int4")
    with pytest.raises(ValueError, match="batch must be at least 1"):
        build(batch=-1)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="sees no CUDA device"):
            PairEngine(HAMSt3R(SMALL), "cuda:0")


def test_people_of_one_network_on_the_places_of_another(images):
    torch.manual_seed(1)
    geometry = PairEngine(HAMSt3R(MAST3R), "cpu", "fp32")
    humans = build()
    engine = CombinedEngine(geometry, humans)
    assert engine.provides == ("pointmaps", "descriptors", "humans")
    images = [resized(image, 96, engine.patch, engine.stride) for image in images]
    alone = geometry.predict(images, EDGES)
    for prediction, places in zip(engine.predict(images, EDGES), alone, strict=True):
        torch.testing.assert_close(prediction.pts_j, places.pts_j)
        for view, suffix in ((prediction.i, "i"), (prediction.j, "j")):
            grid = images[view].grid
            assert getattr(prediction, f"densepose_{suffix}").shape == (*grid, 3)
            assert getattr(prediction, f"body_logits_{suffix}").shape == grid
            masks = getattr(prediction, f"mask_logits_{suffix}")
            # Coarser, but of the same extent: the aspect is that of the grid.
            assert masks.shape[1] / masks.shape[2] == pytest.approx(grid[0] / grid[1], rel=0.1)
    with pytest.raises(ValueError, match="no human heads"):
        CombinedEngine(humans, geometry)


def test_human_outputs_lie_on_the_pixels_of_the_pointmap(images):
    """A network that answers with its input shows where its outputs end up."""
    torch.manual_seed(0)
    humans = build()

    def bodies(features):
        return torch.zeros(1, *small.grid, 3), picture[None]

    image = images[0]
    small = resized(image, humans.image_size, humans.patch, humans.stride)
    picture = torch.from_numpy(small.rgb.astype(np.float32).mean(-1))
    humans._network.bodies = bodies
    engine = CombinedEngine(PairEngine(HAMSt3R(MAST3R), "cpu", "fp32"), humans)
    fine = resized(image, 96, engine.patch, engine.stride)
    shown = engine.predict([fine], [(0, 0)])[0].body_logits_i.numpy()
    truth = fine.rgb.astype(np.float32).mean(-1)
    best = max(
        ((dx, dy) for dx in range(-3, 4) for dy in range(-3, 4)),
        key=lambda d: np.corrcoef(
            np.roll(shown, d, (1, 0))[8:-8, 8:-8].ravel(), truth[8:-8, 8:-8].ravel()
        )[0, 1],
    )
    assert best == (0, 0)
