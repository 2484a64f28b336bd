"""The training loop: ``hamst3r train``.

The learning rate and the curriculum follow the share of the run that is done, in steps or in
seconds. A run in steps is deterministic from its seed for a given store of scenes, wherever it is
stopped and resumed; one in seconds is not, because clocks are not. Under ``torchrun`` every process
trains on batches of its own, and gradients are averaged (DistributedDataParallel).
"""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from hamst3r.engine import PairEngine, multiplies_bf16
from hamst3r.network.checkpoint import save_checkpoint
from hamst3r.network.hamst3r import HAMSt3R
from hamst3r.training.closeups import Claimant, CloseupBatch, CloseupWeights, closeup_loss
from hamst3r.training.dataset import PairBatch
from hamst3r.training.loader import CloseupBatches, PairBatches, Stage, batches
from hamst3r.training.losses import LossWeights, total_loss
from hamst3r.training.muon import Muon, hidden_matrices
from hamst3r.training.state import pack, unpack
from hamst3r.training.store import SceneBank, SceneStore

LOG = logging.getLogger("hamst3r.training")
SMALL = ((96, 96), (112, 112), (112, 96), (96, 112))
COARSE = ((160, 128), (160, 112), (112, 160), (128, 160))
FINE = ((224, 160), (224, 176), (160, 224), (224, 128))
WARM = 0.02  # share of a run after which a slow machine has warmed up, too
# Where the trunk is done, the images are those that it will be asked about, most of the time.
REFINING_STAGES = (Stage(1.0, FINE, 0.25, 0.3, closeups=0.6),)
CLOSEUP_STAGES = (Stage(1.0, (), 0.0),)  # no curriculum, and one size
PEOPLE_STAGES = (Stage(0.2, COARSE, 0.4, 0.5), Stage(1.0, FINE, 0.25, 0.3))
OPTIMISERS = ("adamw", "muon")
PARTS = ("pairs", "people", "closeups")
STATE, NETWORK, TABLE = "state.pt", "network.safetensors", "log.csv"


class TrainingError(RuntimeError):
    """A run that cannot go on."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        steps, seconds: Length of the run; what is reached first ends it. 0 = no such limit.
        batch: Pairs per step and process.
        learning_rate: Peak of the cosine, reached after ``warmup`` steps or 2 % of the run.
        optimiser: "adamw", or "muon" for the hidden matrices and AdamW for the rest.
        part: What learns; all else stays as it was, to the last bit. "pairs": the network of pairs.
            "people": its instance head and masks, which takes less than half of the time.
            "closeups": the network of close-ups, in batches of ``batch`` images.
        repeats: Steps on each batch of "people", in one process: most of the time goes into what
            does not change.
        stages: The curriculum: small windows on people first, pairs that overlap first, then ever
            more of the whole image, at its size.
        average: Decay of the exponential moving average of the weights, which is what is published.
        save_every: Seconds between checkpoints.
        memory: Bytes of scenes to keep where the network is; the rest is read when it is needed.
        patience: Steps in a row without a finite gradient after which the run gives up.
    """

    steps: int = 0
    seconds: float = 3600.0
    batch: int = 16
    learning_rate: float = 8e-4
    optimiser: str = "adamw"
    final_rate: float = 1e-5
    warmup: int = 300
    weight_decay: float = 0.05
    clip: float = 1.0
    average: float = 0.998
    save_every: float = 300.0
    memory: int = 2 << 30
    patience: int = 50
    seed: int = 0
    part: str = "pairs"
    repeats: int = 1
    stages: tuple[Stage, ...] = (
        Stage(0.15, SMALL, 0.8, 0.7),
        Stage(0.35, SMALL, 0.4, 0.7),
        Stage(0.5, COARSE, 0.4, 0.5),
        Stage(1.0, FINE, 0.25, 0.3),
    )

    def __post_init__(self) -> None:
        if self.steps <= 0 and self.seconds <= 0:
            raise ValueError("a run needs a length: steps or seconds")
        if self.optimiser not in OPTIMISERS:
            raise ValueError(f"optimiser must be one of {OPTIMISERS}, got {self.optimiser!r}")
        if self.part not in PARTS:
            raise ValueError(f"part must be one of {PARTS}, got {self.part!r}")
        if self.repeats < 1 or (self.repeats > 1 and self.part != "people"):
            raise ValueError("batches are repeated, at least once, where only people are learned")


class Trainer:
    """Network, its moving average and the optimiser; one file holds all of it.

    Attributes:
        world: Processes that train together; each has a Trainer.
        step: Steps taken. pairs: Pairs, or close-ups, seen by all of them. spent: Seconds trained,
            over all calls.
        notes: As last saved.
    """

    def __init__(self, network: HAMSt3R, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.network = network.to(device).train().requires_grad_(False)
        for part in _learning(network, config.part):
            part.requires_grad_(True)
        # What is called: the network of pairs or that of close-ups, or its DDP.
        self.model: nn.Module = network
        if config.part == "closeups":
            (self.model,) = _learning(network, config.part)
        self.average = {name: value.clone() for name, value in network.state_dict().items()}
        self.optimiser = _optimiser(network, config)
        self.step = self.pairs = self.skipped = self._broken = 0
        self.world = 1
        self.spent = 0.0
        self.notes: dict[str, str] = {}
        self.weights, self.closeup_weights = LossWeights(), CloseupWeights()
        self._bf16 = multiplies_bf16(device)

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        steps, seconds = self.config.steps, self.config.seconds
        return max(
            self.step / steps if steps > 0 else 0.0, self.spent / seconds if seconds > 0 else 0.0
        )

    def train_step(self, batch: PairBatch | CloseupBatch, progress: float) -> dict[str, Tensor]:
        """Learn a batch at ``progress`` in [0, 1] of the run; returns the loss's parts.

        They stay on the device: reading them would wait for it.

        Raises:
            TrainingError: Too many steps in a row without a finite gradient.
        """
        config = self.config
        cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        rate = config.final_rate + (config.learning_rate - config.final_rate) * cosine
        rate *= min(1.0, max((self.step + 1) / config.warmup, progress / WARM))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        if isinstance(batch, CloseupBatch):
            loss, parts = self._learn_closeups(batch)
        else:
            loss, parts = self._learn_pairs(batch)
        self.step += 1
        self.pairs += len(batch) * self.world
        decay = min(config.average, (1 + self.step) / (10 + self.step))
        now = self.network.state_dict()
        torch._foreach_lerp_(list(self.average.values()), [now[n] for n in self.average], 1 - decay)
        return {"loss": loss.detach(), "rate": torch.tensor(rate), **parts}

    def _learn_pairs(self, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        rng = np.random.default_rng([self.config.seed, self.step, 1])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            output = self.model(batch.images_i, batch.images_j)
        for repeat in range(self.config.repeats):
            if repeat:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
                    output = self.network.people(output)
            loss, parts = total_loss(output, batch.target, self.weights, rng)
            self._descend(loss)
        return loss, parts

    def _learn_closeups(self, batch: CloseupBatch) -> tuple[Tensor, dict[str, Tensor]]:
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            output = self.model(batch.images.contiguous(memory_format=torch.channels_last))
        loss, parts = closeup_loss(output, batch, self.closeup_weights)
        self._descend(loss)
        return loss, parts

    def _descend(self, loss: Tensor) -> None:
        config = self.config
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        if torch.isfinite(norm):
            self.optimiser.step()
            self._broken = 0
        else:  # One bad batch must not end a run; many of them are the run's fault.
            self.skipped += 1
            self._broken += 1
            if self._broken >= config.patience:
                raise TrainingError(
                    f"{self._broken} steps in a row without a finite gradient, at step "
                    f"{self.step}; lower the learning rate and resume the last checkpoint"
                )

    def batches(self, bank: SceneBank, stage: Stage, seed: int) -> PairBatches | CloseupBatches:
        """What there is to learn from a bank's scenes."""
        config, network = self.config, self.network
        if config.part != "closeups":
            return PairBatches(bank, stage, config.batch, network.config.output_stride, seed)
        # The pair network itself stays as it is; its engine may round and pack it.
        pairs = HAMSt3R(replace(network.config, closeup_side=0))
        pairs.load_state_dict(network.state_dict(), strict=False)
        claims = Claimant(PairEngine(pairs, str(self.device)))
        return CloseupBatches(bank, config.batch, network.config.closeup_side, seed, claims)

    def averaged(self) -> HAMSt3R:
        """A copy of the network with the averaged weights."""
        network = HAMSt3R(self.network.config)
        network.load_state_dict(self.average)
        return network.eval()

    def save(self, folder: Path | None, notes: dict[str, str]) -> None:
        """Write the averaged network, and the state that resumes this run and goes on from it.

        Args:
            folder: None: write nothing, but go on from rounded values as the process that writes.
        """
        counted = {"steps": self.step, "pairs_seen": self.pairs, "seconds": round(self.spent)}
        if self.config.part == "closeups":  # what the pairs' network has seen is noted beside it
            counted = {
                "closeup_steps": self.step,
                "closeups_seen": self.pairs,
                "closeup_seconds": round(self.spent),
            }
        self.notes = notes | {name: str(number) for name, number in counted.items()}
        state = pack(self.network.state_dict(), self.average, self.optimiser)
        if folder is not None:
            save_checkpoint(self.averaged(), folder / NETWORK, self.notes)
            counters = {"step": self.step, "pairs": self.pairs, "spent": self.spent}
            partial = folder / "state.partial"
            torch.save({**state, **counters, "notes": self.notes}, partial)
            partial.replace(folder / STATE)
        unpack(state, self.network, self.average, self.optimiser)

    def resume(self, folder: Path) -> None:
        """Continue from :meth:`save`'s files."""
        state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        unpack(state, self.network, self.average, self.optimiser)
        self.step, self.pairs = int(state["step"]), int(state["pairs"])
        self.spent = float(state["spent"])
        self.notes = {str(key): str(value) for key, value in state["notes"].items()}


def _learning(network: HAMSt3R, part: str) -> list[nn.Module]:
    """The modules that learn; ValueError where the network lacks them."""
    if part == "people":
        return [network.instance_head, network.mask_head]
    if part == "pairs":
        return [child for child in network.children() if child is not network.closeup]
    if network.closeup is None:
        raise ValueError("this network has no part for close-ups (closeup_side is 0)")
    return [network.closeup]


def _optimiser(network: HAMSt3R, config: TrainConfig) -> torch.optim.AdamW:
    hidden = hidden_matrices(network) if config.optimiser == "muon" else []
    hidden = [p for p in hidden if p.requires_grad]
    known = {id(p) for p in hidden}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in known]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
    ]
    options: dict[str, Any] = {"lr": config.learning_rate, "betas": (0.9, 0.98), "fused": True}
    if not hidden:
        return torch.optim.AdamW(groups, **options)
    groups.append({"params": hidden, "weight_decay": config.weight_decay, "muon": True})
    return Muon(groups, **options)


def export(folder: Path) -> Path:
    """Write the averaged network of a run whose state alone came back; its file."""
    trainer = Trainer(HAMSt3R(), TrainConfig(), torch.device("cpu"))
    trainer.resume(folder)
    save_checkpoint(trainer.averaged(), folder / NETWORK, trainer.notes)
    return folder / NETWORK


class Table:
    """Smoothed losses as a table (CSV), and on TensorBoard where that is installed.

    Attributes:
        latest: The last row.
    """

    def __init__(self, folder: Path, every: int = 50) -> None:
        self.every = every
        self.latest: dict[str, float] = {}
        self._smooth: dict[str, Tensor] = {}
        self._path = folder / TABLE
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._board = None
        else:
            self._board = SummaryWriter(str(folder / "tensorboard"))

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        """Take one step's values; every now and then a row is written."""
        for name, value in values.items():
            self._smooth[name] = torch.lerp(self._smooth.get(name, value), value, 0.02)
        if step % self.every:
            return
        row = self.read()
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, ["step", *row])
            if new:
                writer.writeheader()
            writer.writerow({"step": step} | {k: f"{v:.5g}" for k, v in row.items()})
        if self._board is not None:
            for name, number in row.items():
                self._board.add_scalar(name, number, step)

    def read(self) -> dict[str, float]:
        """The smoothed values now; waits for the device."""
        self.latest = {name: float(value) for name, value in self._smooth.items()}
        return self.latest


@contextlib.contextmanager
def _flushing() -> Iterator[None]:
    """Take numbers for zero that are too small to matter.

    Gradients are full of them, and a CPU takes twice as long with them.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@_flushing()
def train(
    trainer: Trainer,
    store: SceneStore,
    folder: Path,
    notes: dict[str, str] | None = None,
    stop_after: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, float]:
    """Train to the end of the run, or for ``stop_after`` seconds; returns the smoothed losses.

    Checkpoints go into ``folder``; the run can be resumed from there.
    """
    config, notes = trainer.config, notes or {}
    rank = _join(trainer)
    folder.mkdir(parents=True, exist_ok=True)
    table = Table(folder)
    target = folder if rank == 0 else None
    start = saved = _agreed(clock(), trainer)
    stop_after = _agreed(stop_after, trainer)
    before, stop = trainer.spent, False
    bar = tqdm(total=100, unit="%", desc="training", disable=rank > 0)
    bar.update(int(100 * trainer.progress))
    # Close-ups are cut on the CPU.
    on = trainer.device if config.part != "closeups" else torch.device("cpu")
    bank = SceneBank(store, on, config.memory)
    for stage in config.stages if config.part != "closeups" else CLOSEUP_STAGES:
        if trainer.progress >= stage.until or stop:
            continue
        seed = config.seed * trainer.world + rank
        data = trainer.batches(bank, stage, seed)
        with contextlib.closing(batches(data, trainer.step)) as stream:
            for batch in stream:
                values = trainer.train_step(batch, trainer.progress)
                now = _agreed(clock(), trainer)
                trainer.spent = before + now - start
                if rank == 0:
                    table.add(trainer.step, values)
                    bar.set_postfix(step=trainer.step, loss=f"{table.latest.get('loss', 0):.3f}")
                    bar.update(min(100, int(100 * trainer.progress)) - bar.n)
                stop = now - start > stop_after
                if trainer.progress >= stage.until or stop:
                    break
                if now - saved > config.save_every:
                    trainer.save(target, notes)
                    saved = now
    bar.close()
    trainer.save(target, notes)
    return table.read()


def _agreed(seconds: float, trainer: Trainer) -> float:
    """The first process's value: all of them have to stop and save after the same step."""
    if trainer.world == 1:
        return seconds
    of_first = torch.tensor(seconds, dtype=torch.float64, device=trainer.device)
    torch.distributed.broadcast(of_first, 0)
    return float(of_first)


def _join(trainer: Trainer) -> int:
    """Rank of this process; joins the others that ``torchrun`` started."""
    trainer.world = int(os.environ.get("WORLD_SIZE", "1"))
    if trainer.world == 1:
        return 0
    if trainer.config.repeats > 1:
        raise ValueError("batches are repeated in one process only")
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if trainer.device.type == "cuda" else "gloo")
    trainer.model = nn.parallel.DistributedDataParallel(trainer.model)
    return torch.distributed.get_rank()
