"""Alignment against 300 iterations of Adam, in one run: ``python benchmarks/alignment.py``.

The peer is our own re-implementation of the published algorithm of DUSt3R's global alignment
(arXiv 2312.14132, section 3.4, and its usual settings): per-view pose, focal and log depth and a
similarity per pair, minimising confidence-weighted distances (log confidence) of all pointmaps in
the world with Adam, learning rate 0.01 with cosine decay, 300 iterations, all ordered pairs. It
starts from our pose graph's result, for free, so the comparison is of optimisers, and in the peer's
favour. Predictions are those of the tests' synthetic rooms; constants were chosen on other seeds
than the default ones.

Both run on one thread, and times are that thread's CPU seconds, so that other processes disturb
little; ours are the median of runs before, between and after the peer's iterations. "Warm" is the
next frame set of a stream. Speedups are medians over the scenes, ``points_ratio`` is of the mean
errors, ``cameras_ratio`` of the median ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import roma
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "core"))

from synthetic_pairs import Errors, Room, errors, make_room, predict

from hamst3r.alignment.incremental import Aligner, AlignerConfig
from hamst3r.geometry import split_similarity
from hamst3r.pairs import choose_pairs

ITERATIONS, CHUNKS, RATE = 300, 3, 0.01


def ours(room: Room, predictions: list, aligner: Aligner | None = None):
    """Solve by the library; cold without an aligner that knows the room."""
    return (aligner or Aligner()).solve(
        room.frames(), room.images(), predictions, [np.zeros_like(p) for p in room.people]
    )


class AdamAlignment(torch.nn.Module):
    """The peer's variables and loss; all views share one grid size."""

    def __init__(self, room: Room, predictions: list, start) -> None:
        super().__init__()
        height, width = room.depth[0].shape
        self.i = torch.tensor([p.i for p in predictions])
        self.j = torch.tensor([p.j for p in predictions])
        self.points_i = torch.stack([p.pts_i for p in predictions]).flatten(1, 2)
        self.points_j = torch.stack([p.pts_j for p in predictions]).flatten(1, 2)
        self.weight_i = torch.stack([p.conf_i for p in predictions]).flatten(1).log()
        self.weight_j = torch.stack([p.conf_j for p in predictions]).flatten(1).log()
        v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centred = torch.stack([u - (width - 1) / 2, v - (height - 1) / 2], -1)
        self.pixels = centred.flatten(0, 1).float()

        def parameter(values) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.as_tensor(np.asarray(values), dtype=torch.float32))

        cameras = torch.tensor(start.T_world_cam, dtype=torch.float32)
        pairs = cameras[self.i]
        self.turn = parameter(roma.rotmat_to_unitquat(cameras[:, :3, :3]))
        self.place = parameter(cameras[:, :3, 3])
        self.log_focal = parameter([np.log(K[0, 0]) for K in start.K])
        depth = np.stack([np.where(d > 0, d, np.median(d)) for d in start.depth])
        self.log_depth = parameter(np.log(depth.reshape(len(depth), -1)))
        self.pair_turn = parameter(roma.rotmat_to_unitquat(pairs[:, :3, :3]))
        self.pair_place = parameter(pairs[:, :3, 3])
        self.pair_log_scale = parameter(np.zeros(len(predictions)))
        self.adam = torch.optim.Adam(self.parameters(), lr=RATE, betas=(0.9, 0.9))

    def world(self) -> torch.Tensor:
        """(N, P, 3) points of all views."""
        focal, z = self.log_focal.exp()[:, None, None], self.log_depth.exp()[..., None]
        points = torch.cat([self.pixels / focal * z, z], -1)
        return _turned(points, self.turn) + self.place[:, None]

    def loss(self) -> torch.Tensor:
        # The mean log scale is held at zero, else everything shrinks to a point.
        scale = (self.pair_log_scale - self.pair_log_scale.mean()).exp()[:, None, None]
        world, shift = self.world(), self.pair_place[:, None]
        loss = torch.zeros(())
        for view, points, weight in (
            (self.i, self.points_i, self.weight_i),
            (self.j, self.points_j, self.weight_j),
        ):
            placed = scale * _turned(points, self.pair_turn) + shift
            loss = loss + (weight * (world[view] - placed).norm(dim=-1)).mean()
        return loss

    def optimise(self, begin: int, end: int) -> None:
        """Iterations ``begin`` to ``end`` of the schedule."""
        for k in range(begin, end):
            cosine = 0.5 * (1 + np.cos(np.pi * k / ITERATIONS))
            self.adam.param_groups[0]["lr"] = RATE * cosine + 1e-6
            self.adam.zero_grad()
            self.loss().backward()
            self.adam.step()

    @torch.no_grad()
    def errors(self, room: Room) -> Errors:
        T = np.tile(np.eye(4), (len(room), 1, 1))
        quaternion = torch.nn.functional.normalize(self.turn, dim=-1)
        T[:, :3, :3] = roma.unitquat_to_rotmat(quaternion).numpy()
        T[:, :3, 3] = self.place.numpy()
        T = split_similarity(T)[0]
        K = [k.copy() for k in room.K]
        for matrix, focal in zip(K, self.log_focal.exp().tolist(), strict=True):
            matrix[0, 0] = matrix[1, 1] = focal
        shape = room.depth[0].shape
        depth = [d.reshape(shape).astype(float) for d in self.log_depth.exp().numpy()]
        return errors(room, T, K, depth)


def _turned(points: torch.Tensor, quaternion: torch.Tensor) -> torch.Tensor:
    matrix = roma.unitquat_to_rotmat(torch.nn.functional.normalize(quaternion, dim=-1))
    return points @ matrix.mT


@dataclass(frozen=True)
class Scene:
    """One scene's CPU seconds and errors."""

    seed: int
    seconds: dict[str, float]
    errors: dict[str, Errors]


def measure(cameras: int, seed: int) -> Scene:
    """All methods on one scene, interleaved."""
    edges = choose_pairs(cameras)
    edges += [(j, i) for i, j in edges]
    room = make_room(cameras, seed, 112, 84)
    predictions, following = (predict(room, edges, s) for s in (seed, seed + 10_000))
    peer = AdamAlignment(
        room, predictions, ours(room, predictions, Aligner(AlignerConfig(polish_rounds=0)))
    )
    seconds: dict[str, list[float]] = {"cold": [], "warm": [], "adam": []}

    def timed(name: str, call: Callable):
        begin = time.process_time()
        result = call()
        seconds[name].append(time.process_time() - begin)
        return result

    def both():
        for _ in range(3):
            cold = timed("cold", lambda: ours(room, predictions))
            aligner = Aligner()
            ours(room, predictions, aligner)
            warm = timed("warm", lambda aligner=aligner: ours(room, following, aligner))
        return {
            name: errors(room, r.T_world_cam, r.K, r.depth)
            for name, r in (("cold", cold), ("warm", warm))
        }

    found = both()
    for k in range(CHUNKS):
        share = [ITERATIONS * n // CHUNKS for n in (k, k + 1)]
        timed("adam", lambda share=share: peer.optimise(*share))
        both()
    found["adam"] = peer.errors(room)
    medians = {name: float(np.median(seconds[name])) for name in ("cold", "warm")}
    return Scene(seed, {**medians, "adam": sum(seconds["adam"])}, found)


def figures(cameras: int, scenes: list[Scene]) -> dict[str, float]:
    """The named figures of scenes with this many cameras."""

    def error(method: str, field: str) -> list[float]:
        return [getattr(scene.errors[method], field) for scene in scenes]

    def speedup(method: str) -> float:
        return float(np.median([s.seconds["adam"] / s.seconds[method] for s in scenes]))

    n = f"n{cameras}"
    return {
        f"speedup_{n}": speedup("cold"),
        f"speedup_{n}_warm": speedup("warm"),
        f"points_ratio_{n}": float(
            np.mean(error("cold", "points")) / np.mean(error("adam", "points"))
        ),
        f"cameras_ratio_{n}": float(
            np.median(error("cold", "camera")) / np.median(error("adam", "camera"))
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(30, 38), *range(100, 108)])
    parser.add_argument("--cameras", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    write = sys.stdout.write
    write(f"{'seed':>5} {'n':>2} {'method':>6} {'ms':>8} {'speedup':>8} {'cam mm':>8}")
    write(f" {'rot deg':>8} {'focal %':>8} {'points mm':>10}\n")
    result: dict[str, float] = {"scenes": len(arguments.seeds)}
    for cameras in arguments.cameras:
        scenes = []
        for seed in arguments.seeds:
            scene = measure(cameras, seed)
            scenes.append(scene)
            for method, e in scene.errors.items():
                spent = scene.seconds[method]
                write(
                    f"{seed:5d} {cameras:2d} {method:>6} {1e3 * spent:8.1f} "
                    f"{scene.seconds['adam'] / spent:8.1f} {1e3 * e.camera:8.1f} "
                    f"{e.rotation:8.2f} {100 * e.focal:8.2f} {1e3 * e.points:10.1f}\n"
                )
            sys.stdout.flush()
        result |= figures(cameras, scenes)
    for name, value in result.items():
        write(f"{name:18} {value:8.3f}\n")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
