"""Batches made by worker processes, in an order that depends on the seed alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset

from hamst3r.training.dataset import PairBatch, PairSampler, SceneStore, Size

REFRESH = 100  # batches after which a worker looks for new scenes


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum.

    Attributes:
        until: Share of the run at which it ends. sizes: Network input sizes, one per batch.
        overlap: Share of the scenes whose pairs are those that see most of the same.
    """

    until: float
    sizes: tuple[Size, ...]
    overlap: float


class Batches(Dataset[PairBatch]):
    """The batch of every step: item ``step`` is always the same for the same store and seed."""

    def __init__(self, store: SceneStore, stage: Stage, pairs: int, stride: int, seed: int) -> None:
        self.store, self.stage, self.pairs, self.stride = store, stage, pairs, stride
        self.seed = seed
        self._paths: list[Path] = []
        self._made = 0

    def __getitem__(self, step: int) -> PairBatch:
        if self._made % REFRESH == 0:
            self._paths = self.store.paths()
        self._made += 1
        rng = np.random.default_rng([self.seed, step])
        sampler = PairSampler(self.store, self.stage.sizes, self.stride, rng, paths=self._paths)
        return sampler.batch(self.pairs, overlap=self.stage.overlap)


def batches(data: Batches, start: int, workers: int) -> Iterator[PairBatch]:
    """From step ``start`` on, without end; ``workers`` processes make them, 0 = none."""
    loader = DataLoader(
        data,
        batch_size=None,
        sampler=range(start, 1 << 40),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    return iter(loader)


@contextmanager
def rendering(folder: Path, first_seed: int, processes: int, keep: int) -> Iterator[None]:
    """Meanwhile, ``processes`` processes render scenes into a folder, the last ``keep`` in all."""
    command = [sys.executable, "-m", "hamst3r.training.render", "--out", str(folder)]
    command += ["--keep", str(max(1, keep // processes))]
    last = 900_000  # from here on seeds are held out
    started = [
        subprocess.Popen(
            [*command, "--seeds", f"{first_seed + k}:{last}:{processes}"],
            stderr=subprocess.DEVNULL,  # their progress bars
        )
        for k in range(processes)
    ]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()
