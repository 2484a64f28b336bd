#!/usr/bin/env python3
"""What the pair engine saves on a full-size network, and how far it is from what arithmetic takes.

One process, one set of random weights, the same images. The baseline is the algorithm of the
public code, written here as a plain loop: both images of every ordered pair are encoded again, one
pair at a time, in float32, with torch's own linear layers and an attention that writes its scores
to memory. The engine is measured in turns with it, so that a busy machine slows all alike, and
every figure is checked against the baseline's outputs in the same run.

    python benchmarks/inference.py --json benchmarks/results/inference_cpu.json

Rows with fewer pairs do less work than the baseline; they are named as such.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hamst3r.engine import PairEngine, PairPrediction
from hamst3r.frames import Frame
from hamst3r.image import NetworkImage, prepare
from hamst3r.network import blocks
from hamst3r.network.config import PRESETS
from hamst3r.network.hamst3r import HAMSt3R, PairOutput
from hamst3r.pairs import Edge, choose_pairs

Work = Callable[[], object]
FP32_LIMIT, BF16_LIMIT = 1e-3, 2e-2


@dataclass
class Times:
    """Seconds of one piece of work, in the order in which they were taken."""

    values: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        return min(self.values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def pictures(count: int, width: int, height: int, network: HAMSt3R) -> list[NetworkImage]:
    """Smooth random images: noise that a camera could have delivered."""
    rng = np.random.default_rng(0)
    config = network.config
    images = []
    for k in range(count):
        coarse = rng.integers(0, 256, (height // 28, width // 28, 3), dtype=np.uint8)
        image = np.kron(coarse, np.ones((28, 28, 1), np.uint8))[:height, :width]
        frame = Frame(f"camera{k}", 0, np.ascontiguousarray(image))
        images.append(prepare(frame, max(width, height), config.patch, config.output_stride))
    return images


# ------------------------------------------------------------------------------- the baseline


def naive_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention with all of its scores in memory."""
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ v


@contextmanager
def as_published() -> Iterator[None]:
    """The network's modules as the public code computes them."""
    with (
        mock.patch.object(blocks, "attend", naive_attention),
        mock.patch.object(blocks.Linear, "forward", nn.Linear.forward),
    ):
        yield


@torch.inference_mode()
def baseline(
    network: HAMSt3R, images: Sequence[NetworkImage], edges: Sequence[Edge]
) -> list[PairOutput]:
    """Every ordered pair by itself, its outputs fetched from the device."""
    device = next(network.parameters()).device
    outputs = []
    with as_published():
        for i, j in edges:
            output = network(images[i].tensor[None].to(device), images[j].tensor[None].to(device))
            outputs.append(_to_host(output))
    return outputs


def _to_host(output):
    if isinstance(output, Tensor):
        return output.cpu()
    if isinstance(output, list):
        return [_to_host(part) for part in output]
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(_to_host(part) for part in output))
    return output


# -------------------------------------------------------------------------------- measurement


def alternate(works: dict[str, Work], repeats: int, device: torch.device) -> dict[str, Times]:
    """Each in turn, ``repeats`` times, after a round that warms up."""
    times = {name: Times() for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            seconds = _seconds(work, device)
            if turn:
                times[name].values.append(seconds)
    return times


def _seconds(work: Work, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def fresh(engine: PairEngine, images: Sequence[NetworkImage], edges: Sequence[Edge]) -> Work:
    """The engine's work on images that it has not seen."""
    return lambda: engine.predict([replace(image) for image in images], edges)


def relative_error(predictions: list[PairPrediction], outputs: list[PairOutput]) -> float:
    """Median over the pixels of both views' points of |ours - theirs| / |theirs|."""
    errors = []
    for ours, theirs in zip(predictions, outputs, strict=True):
        for a, b in ((ours.pts_i, theirs.i.points[0]), (ours.pts_j, theirs.j.points[0])):
            errors.append(((a.cpu() - b).norm(dim=-1) / b.norm(dim=-1)).flatten())
    return float(torch.cat(errors).median())


def gemm_rate(device: torch.device, dtype: torch.dtype, rows: int, width: int) -> float:
    """Operations per second of the network's own largest product, measured now."""
    layer = blocks.Linear(width, 4 * width, device=device, dtype=dtype)
    x = torch.randn(rows, width, device=device, dtype=dtype)
    with torch.inference_mode():
        best = min(_seconds(lambda: layer(x), device) for _ in range(12))
    return 2 * rows * width * 4 * width / best


def operations(engine: PairEngine, images: Sequence[NetworkImage], edges: Sequence[Edge]) -> int:
    """Floating-point operations of the engine's work, counted."""
    with FlopCounterMode(display=False) as counter:
        fresh(engine, images, edges)()
    return counter.get_total_flops()


# --------------------------------------------------------------------------------- the report


def on_cpu(options: argparse.Namespace) -> dict[str, float]:
    """Four views against the baseline."""
    device = torch.device("cpu")
    network = _network(options.network)
    images = pictures(4, *options.size, network)
    every = [(i, j) for i in range(4) for j in range(4) if i != j]
    default = choose_pairs(4)
    engines = {p: PairEngine(copy.deepcopy(network), "cpu", p) for p in ("fp32", "bf16")}
    theirs = baseline(network, images, every)
    errors = {p: relative_error(e.predict(images, every), theirs) for p, e in engines.items()}
    _check(errors)
    times = alternate(
        {
            "baseline": lambda: baseline(network, images, every),
            "fp32, 12 pairs": fresh(engines["fp32"], images, every),
            "bf16, 12 pairs": fresh(engines["bf16"], images, every),
            "bf16, 6 pairs (less work)": fresh(engines["bf16"], images, default),
        },
        options.repeats,
        device,
    )
    show(times)
    floor = operations(engines["bf16"], images, every) / gemm_rate(
        device, torch.bfloat16, 1024, network.config.decoder_dim
    )
    base = times["baseline"].best
    return {
        "speedup_fp32_equal_pairs": base / times["fp32, 12 pairs"].best,
        "speedup_bf16_equal_pairs": base / times["bf16, 12 pairs"].best,
        "speedup_bf16_default_graph": base / times["bf16, 6 pairs (less work)"].best,
        "fp32_relative_error": errors["fp32"],
        "bf16_relative_error": errors["bf16"],
        "floor_multiple_cpu": times["bf16, 12 pairs"].best / floor,
    }


def on_gpu(options: argparse.Namespace) -> dict[str, float]:
    """The goals of a GPU: 518x392, default pairs, all pairs, one reference; bf16."""
    device = torch.device("cuda")
    network = _network(options.network)
    images = pictures(8, 518, 392, network)
    four = images[:4]
    engine = PairEngine(copy.deepcopy(network), "cuda", "bf16", compile=options.compile)
    plain = network.to(device)
    every = [(i, j) for i in range(4) for j in range(4) if i != j]
    exact = PairEngine(copy.deepcopy(network), "cuda", "fp32")
    theirs = baseline(plain, four, every)
    errors = {
        "fp32": relative_error(exact.predict(four, every), theirs),
        "bf16": relative_error(engine.predict(four, every), theirs),
    }
    _check(errors)
    del theirs, exact
    works = {
        "N=4, 6 pairs": fresh(engine, four, choose_pairs(4)),
        "N=4, 12 pairs": fresh(engine, four, every),
        "N=8, 7 pairs": fresh(engine, images, choose_pairs(8, "oneref")),
    }
    for work in works.values():
        for _ in range(20):
            work()
    times = alternate(works | {"baseline": lambda: baseline(plain, four, every)}, 20, device)
    show(times)
    rate = gemm_rate(device, torch.bfloat16, 8192, network.config.decoder_dim)
    floor = operations(engine, four, choose_pairs(4)) / rate
    return {
        "gpu_speedup_bf16_equal_pairs": times["baseline"].best / times["N=4, 12 pairs"].best,
        "gpu_bf16_relative_error": errors["bf16"],
        "gpu_n4_onedir_ms": 1e3 * times["N=4, 6 pairs"].median,
        "gpu_n4_all_ms": 1e3 * times["N=4, 12 pairs"].median,
        "gpu_n8_oneref_ms": 1e3 * times["N=8, 7 pairs"].median,
        "gpu_floor_multiple_n4": times["N=4, 6 pairs"].median / floor,
        "gpu_peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def _network(name: str) -> HAMSt3R:
    torch.manual_seed(0)
    return HAMSt3R(PRESETS[name]).eval().requires_grad_(False)


def _check(errors: dict[str, float]) -> None:
    for precision, limit in (("fp32", FP32_LIMIT), ("bf16", BF16_LIMIT)):
        if not errors[precision] < limit:
            sys.exit(
                f"{precision} differs from the baseline by {errors[precision]:.2g}: no figures"
            )


def show(times: dict[str, Times]) -> None:
    """A table: seconds, and how many times faster than the baseline."""
    base = times["baseline"]
    print(f"{'':28}{'min s':>10}{'median s':>10}{'x baseline':>12}")
    for name, taken in times.items():
        ratio = base.best / taken.best
        print(f"{name:28}{taken.best:10.4f}{taken.median:10.4f}{ratio:12.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="hamst3r_vitbase", choices=PRESETS)
    parser.add_argument("--size", type=int, nargs=2, default=(224, 224), metavar=("W", "H"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of the CPU; all of them")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile on the GPU")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    figures = on_gpu(options) if options.device == "cuda" else on_cpu(options)
    for name, value in figures.items():
        print(f"{name:32}{value:10.4g}")
    if options.json:
        about = {
            "machine": torch.cuda.get_device_name() if options.device == "cuda" else _processor(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "network": options.network,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures | about, indent=1) + "\n")


def _processor() -> str:
    capabilities = torch.cpu.get_capabilities()
    units = [name for name in ("amx_bf16", "avx512_bf16", "avx512_f") if capabilities.get(name)]
    return f"{capabilities.get('cpu_name', platform.processor())} ({', '.join(units)})"


if __name__ == "__main__":
    main()
