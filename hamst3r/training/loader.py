"""Batches made while the last one is learned, in an order that depends on the seed alone."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hamst3r.synthetic.generator import HELD_OUT
from hamst3r.training.closeups import Claims, CloseupBatch, CloseupSampler
from hamst3r.training.dataset import PairBatch, PairSampler
from hamst3r.training.store import SceneBank, StoredScene
from hamst3r.training.window import Size

REFRESH = 50  # steps after which new scenes are looked for


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum.

    Attributes:
        until: Share of the run at which it ends. sizes: Network input sizes, one per batch.
        overlap: Share of the scenes whose pairs are those that see most of the same.
        people: Share of the scenes whose pairs look at one person.
        closeups: Share of the batches that are close-ups, each image with itself.
    """

    until: float
    sizes: tuple[Size, ...]
    overlap: float
    people: float = 0.0
    closeups: float = 0.0


class PairBatches:
    """The batch of every step: number ``step`` is always the same for the same scenes and seed."""

    def __init__(self, bank: SceneBank, stage: Stage, pairs: int, stride: int, seed: int) -> None:
        self.bank, self.stage, self.pairs, self.stride = bank, stage, pairs, stride
        self.seed = seed

    def __getitem__(self, step: int) -> PairBatch:
        rng, stage = _of_step(self.bank, self.seed, step), self.stage
        sampler = PairSampler(self.bank, stage.sizes, self.stride, rng)
        if stage.closeups and rng.random() < stage.closeups:
            return sampler.closeups(self.pairs)
        return sampler.batch(self.pairs, overlap=stage.overlap, people=stage.people)


class CloseupBatches:
    """The same of ``count`` close-ups of ``side`` pixels, some of them of ``claims``."""

    def __init__(
        self,
        bank: SceneBank,
        count: int,
        side: int,
        seed: int,
        claims: Callable[[StoredScene], Claims],
    ) -> None:
        self.bank, self.count, self.side, self.seed = bank, count, side, seed
        self.claims = claims

    def __getitem__(self, step: int) -> CloseupBatch:
        rng = _of_step(self.bank, self.seed, step)
        return CloseupSampler(self.bank, self.side, rng, self.claims).batch(self.count)


def _of_step(bank: SceneBank, seed: int, step: int) -> np.random.Generator:
    if step % REFRESH == 0:
        bank.refresh()
    return np.random.default_rng([seed, step])


def batches(
    data: PairBatches | CloseupBatches, start: int, ahead: int = 2
) -> Generator[PairBatch | CloseupBatch]:
    """From step ``start`` on, without end; a thread makes ``ahead`` of them while one is used."""
    make: Callable[[int], PairBatch | CloseupBatch] = data.__getitem__
    with ThreadPoolExecutor(1) as maker:
        pending = deque(maker.submit(make, start + k) for k in range(ahead))
        try:
            for step in itertools.count(start + ahead):
                yield pending.popleft().result()
                pending.append(maker.submit(make, step))
        finally:
            for batch in pending:
                batch.cancel()


@contextmanager
def rendering(folder: Path, first_seed: int, processes: int, keep: int) -> Iterator[None]:
    """Meanwhile, ``processes`` processes render scenes into a folder, the last ``keep`` in all."""
    command = [sys.executable, "-m", "hamst3r.training.render", "--out", str(folder)]
    command += ["--keep", str(max(1, keep // processes))]
    started = [
        subprocess.Popen(
            [*command, "--seeds", f"{first_seed + k}:{HELD_OUT}:{processes}"],
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
