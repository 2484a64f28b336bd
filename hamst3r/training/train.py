"""Training of the network from a store of rendered scenes.

python -m hamst3r.training.render --out runs/scenes --seeds 1000:4000
python -m hamst3r.training.train --scenes runs/scenes --out runs/compact
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from hamst3r.network.checkpoint import load_checkpoint, save_checkpoint
from hamst3r.network.hamst3r import HAMSt3R
from hamst3r.training.dataset import PairBatch, PairSampler, SceneStore, Size
from hamst3r.training.losses import LossWeights, PairTarget, ViewTarget, total_loss

LOG = logging.getLogger("hamst3r.training")


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        seconds: Wall time to train for; the learning rate follows the share of it that has passed.
        batch: Pairs per step.
        learning_rate, warmup: Peak of the cosine and steps to reach it.
        coarse_share: Share of the time at three quarters of the resolution.
        average: Decay of the exponential moving average of the weights, which is what is saved.
        save_every: Seconds between checkpoints.
    """

    seconds: float = 3600.0
    batch: int = 16
    learning_rate: float = 8e-4
    final_rate: float = 1e-5
    warmup: int = 300
    weight_decay: float = 0.05
    clip: float = 1.0
    coarse_share: float = 0.55
    average: float = 0.998
    save_every: float = 300.0
    seed: int = 0
    coarse_sizes: tuple[Size, ...] = ((160, 128), (160, 112), (112, 160), (128, 160))
    fine_sizes: tuple[Size, ...] = ((224, 160), (224, 176), (160, 224), (224, 128))


class Trainer:
    """Network, its moving average and the optimiser; one checkpoint holds all of it."""

    def __init__(self, network: HAMSt3R, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.network = network.to(device).train().requires_grad_(True)
        self.average = {name: value.clone() for name, value in network.state_dict().items()}
        decay = [p for p in network.parameters() if p.dim() > 1]
        plain = [p for p in network.parameters() if p.dim() <= 1]
        groups = [
            {"params": decay, "weight_decay": config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
        self.step = 0
        self.skipped = 0
        self.weights = LossWeights()
        self.rng = np.random.default_rng(config.seed)

    def train_step(self, batch: PairBatch, progress: float) -> dict[str, float]:
        """One optimiser step at ``progress`` in [0, 1] of the run; returns the loss's parts."""
        config = self.config
        cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        rate = config.final_rate + (config.learning_rate - config.final_rate) * cosine
        rate *= min(1.0, (self.step + 1) / config.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        batch = to_device(batch, self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            output = self.network(batch.images_i, batch.images_j)
        loss, parts = total_loss(output, batch.target, self.weights, self.rng)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        if torch.isfinite(norm):
            self.optimiser.step()
        else:  # One bad batch must not end a run; many of them do show in the log.
            self.skipped += 1
        self.step += 1
        decay = min(config.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        return {"loss": float(loss.detach()), "rate": rate, **parts}

    def averaged(self) -> HAMSt3R:
        """A copy of the network with the averaged weights."""
        network = HAMSt3R(self.network.config)
        network.load_state_dict(self.average)
        return network.eval()

    def save(self, folder: Path, notes: dict[str, str]) -> None:
        """Write the averaged network, and the state that resumes this run."""
        save_checkpoint(self.averaged(), folder / "network.safetensors", notes)
        state: dict[str, Any] = {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
        }
        partial = folder / "state.partial"
        torch.save(state, partial)
        partial.replace(folder / "state.pt")

    def resume(self, folder: Path) -> None:
        """Continue from :meth:`save`'s files."""
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])


def to_device(batch: PairBatch, device: torch.device) -> PairBatch:
    """The same batch on another device."""

    def view(target: ViewTarget) -> ViewTarget:
        return ViewTarget(**{name: getattr(target, name).to(device) for name in vars(target)})

    target = batch.target
    moved = PairTarget(view(target.i), view(target.j), target.matches.to(device))
    return PairBatch(batch.images_i.to(device), batch.images_j.to(device), moved)


def train(
    trainer: Trainer, store: SceneStore, folder: Path, clock=time.monotonic
) -> dict[str, float]:
    """Train for ``config.seconds``; returns the last smoothed losses."""
    config = trainer.config
    stride = trainer.network.config.output_stride
    rng = np.random.default_rng(config.seed + trainer.step)
    coarse = PairSampler(store, config.coarse_sizes, stride, rng)
    fine = PairSampler(store, config.fine_sizes, stride, rng)
    folder.mkdir(parents=True, exist_ok=True)
    start = saved = clock()
    smooth: dict[str, float] = {}
    bar = tqdm(total=round(config.seconds), unit="s", desc="training")
    loader = ThreadPoolExecutor(1)  # the next batch is read while this one trains
    pending = loader.submit(coarse.batch, config.batch)
    while (elapsed := clock() - start) < config.seconds:
        progress = elapsed / config.seconds
        sampler = coarse if progress < config.coarse_share else fine
        batch, pending = pending.result(), loader.submit(sampler.batch, config.batch)
        parts = trainer.train_step(batch, progress)
        for name, value in parts.items():
            smooth[name] = 0.98 * smooth.get(name, value) + 0.02 * value
        bar.update(round(elapsed) - bar.n)
        if trainer.step % 50 == 0:
            line = " ".join(f"{name}={value:.4g}" for name, value in smooth.items())
            LOG.info("step %d %.0fs skipped=%d %s", trainer.step, elapsed, trainer.skipped, line)
        if clock() - saved > config.save_every:
            trainer.save(folder, {"steps": str(trainer.step)})
            saved = clock()
    bar.close()
    loader.shutdown(cancel_futures=True)
    trainer.save(folder, {"steps": str(trainer.step)})
    return smooth


def main(arguments: list[str] | None = None) -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=Path, required=True, help="folder of rendered scenes")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--seconds", type=float, default=TrainConfig.seconds)
    parser.add_argument("--batch", type=int, default=TrainConfig.batch)
    parser.add_argument("--rate", type=float, default=TrainConfig.learning_rate)
    parser.add_argument("--coarse-share", type=float, default=TrainConfig.coarse_share)
    parser.add_argument("--start", type=Path, help="weights to start from (.safetensors)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(options.seed)
    network = load_checkpoint(options.start).network if options.start else HAMSt3R()
    config = TrainConfig(
        seconds=options.seconds,
        batch=options.batch,
        learning_rate=options.rate,
        coarse_share=options.coarse_share,
        seed=options.seed,
    )
    trainer = Trainer(network, config, torch.device(options.device))
    if options.resume:
        trainer.resume(options.out)
    train(trainer, SceneStore(options.scenes), options.out)


if __name__ == "__main__":
    main()
