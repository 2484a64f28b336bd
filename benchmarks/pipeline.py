#!/usr/bin/env python3
"""Where the time of a frame set goes, and what the engine's choices save; ratios in one run.

Four simulated cameras look at two walking people; the shipped network and the whole
reconstruction run on each frame set. Then the network alone, the same six pairs each time:
as the engine does it (bf16 where the machine multiplies it, every image encoded once), in fp32,
and with both images of every pair encoded again, as a plain two-view network does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hamst3r.engine import PairEngine
from hamst3r.frames import Frame, FrameSet
from hamst3r.image import NetworkImage, prepare
from hamst3r.network.checkpoint import load_checkpoint, shipped_weights
from hamst3r.pairs import choose_pairs
from hamst3r.people.closeups import CloseupsConfig
from hamst3r.reconstructor import Reconstructor, ReconstructorConfig
from hamst3r.synthetic.motion import MovingScene


def frame_sets(count: int, width: int, height: int) -> list[FrameSet]:
    """Simulated frame sets, 0.2 s apart, with intrinsics and poses."""
    scene = MovingScene(seed=0, people=2, size=(width, height))
    sets = []
    for step in range(count):
        stamp = step * 200_000_000
        views = scene.render(step * 0.2)
        frames = (
            Frame(camera.name, stamp, view.rgb, K=camera.K, T_rig_cam=camera.T_world_cam)
            for camera, view in zip(scene.cameras, views, strict=True)
        )
        sets.append(FrameSet(stamp, tuple(frames)))
    return sets


def alternating(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each; taken in turns, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):  # the first one warms up
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def encode_every_time(engine: PairEngine, images: list[NetworkImage], edges) -> None:
    """The pairs without sharing: the images of an edge are copies of their own."""
    copies = [images[view] for edge in edges for view in edge]
    engine.predict(copies, [(2 * e, 2 * e + 1) for e in range(len(edges))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=shipped_weights())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sets", type=int, default=12, help="frame sets")
    parser.add_argument("--rounds", type=int, default=10, help="of the network alone")
    options = parser.parse_args()

    sets = frame_sets(options.sets, 640, 480)
    # Close-ups, each as long as a pair, are as many as there might be people.
    without = ReconstructorConfig(closeups=CloseupsConfig(most=0))
    reconstructor = Reconstructor.from_checkpoint(options.weights, options.device, config=without)
    scenes = [reconstructor.push(frames) for frames in sets][2:]
    engine = reconstructor.engine
    lines = [
        f"device {engine.device}, {engine.precision}, {torch.get_num_threads()} threads; "
        f"4 x 640x480, {len(scenes)} frame sets",
        f"{'stage':12}{'ms (median)':>12}",
    ]
    for stage in scenes[0].timings:
        median = statistics.median(scene.timings[stage] for scene in scenes)
        lines.append(f"{stage:12}{1e3 * median:12.1f}")
    total = statistics.median(sum(scene.timings.values()) for scene in scenes)
    lines.append(f"{'all':12}{1e3 * total:12.1f}")

    config = load_checkpoint(options.weights).network.config
    images = [
        prepare(frame, config.image_size, config.patch, config.output_stride)
        for frame in sets[0].frames
    ]
    edges = choose_pairs(len(images))
    plain = PairEngine.from_checkpoint(options.weights, options.device, "fp32")
    times = alternating(
        {
            engine.precision: lambda: engine.predict(images, edges),
            "fp32": lambda: plain.predict(images, edges),
            "unshared": lambda: encode_every_time(engine, images, edges),
        },
        options.rounds,
    )
    base = times[engine.precision]
    if engine.precision != "fp32":
        lines.append(f"fp32 takes {times['fp32'] / base:.1f} x the time of {engine.precision}")
    lines.append(f"encoding both images of every pair takes {times['unshared'] / base:.1f} x")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
