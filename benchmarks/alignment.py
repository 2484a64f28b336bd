"""Alignment against 300 iterations of Adam, in one run: ``python benchmarks/alignment.py``.

The peer is our own re-implementation of the published algorithm of DUSt3R's global alignment
(arXiv 2312.14132, section 3.4, and its usual settings): per-view pose, focal and log depth and a
similarity per pair, minimising confidence-weighted distances (log confidence) of all pointmaps in
the world with Adam, learning rate 0.01 with cosine decay, 300 iterations. It starts from our pose
graph's result, so the comparison is of optimisers, and in the peer's favour. Predictions are those
of the tests' synthetic rooms; seconds depend on the machine and its load, the ratio less so.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import roma
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "core"))

from synthetic_pairs import Errors, Room, errors, make_room, predict

from hamst3r.alignment.incremental import Aligner, AlignerConfig
from hamst3r.geometry import split_similarity
from hamst3r.pairs import choose_pairs


def ours(room: Room, predictions: list, config: AlignerConfig | None = None):
    """Cold solve by the library."""
    return Aligner(config).solve(
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

    def optimise(self, iterations: int = 300, rate: float = 0.01) -> None:
        adam = torch.optim.Adam(self.parameters(), lr=rate, betas=(0.9, 0.9))
        for k in range(iterations):
            adam.param_groups[0]["lr"] = rate * 0.5 * (1 + np.cos(np.pi * k / iterations)) + 1e-6
            adam.zero_grad()
            self.loss().backward()
            adam.step()

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13])
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--one-way", action="store_true", help="the default pairs, not all")
    arguments = parser.parse_args()
    edges = choose_pairs(arguments.cameras)
    if not arguments.one_way:
        edges += [(j, i) for i, j in edges]
    head = f"{'seed':>5} {'method':>10} {'ms':>8} {'cam mm':>8} {'rot deg':>8} {'focal %':>8}"
    lines = [f"{head} {'points mm':>10}"]
    ratios = []
    for seed in arguments.seeds:
        room = make_room(arguments.cameras, seed, 112, 84)
        predictions = predict(room, edges, seed)
        graph = ours(room, predictions, AlignerConfig(polish_rounds=0))  # Also warms up.
        begin = time.perf_counter()
        result = ours(room, predictions)
        seconds = time.perf_counter() - begin
        error = errors(room, result.T_world_cam, result.K, result.depth)
        peer = AdamAlignment(room, predictions, graph)
        begin = time.perf_counter()
        peer.optimise()
        peer_seconds = time.perf_counter() - begin
        peer_error = peer.errors(room)
        ratios.append((peer_seconds / seconds, error.camera / peer_error.camera,
                       error.points / peer_error.points))  # fmt: skip
        for method, spent, e in (("ours", seconds, error), ("adam 300", peer_seconds, peer_error)):
            lines.append(
                f"{seed:5d} {method:>10} {1e3 * spent:8.1f} {1e3 * e.camera:8.1f} "
                f"{e.rotation:8.2f} {100 * e.focal:8.2f} {1e3 * e.points:10.1f}"
            )
    speed, camera, points = np.median(ratios, axis=0)
    lines.append(f"median: {speed:.0f} x faster, cameras {camera:.2f} x, points {points:.2f} x")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
