"""``hamst3r train``: train the compact network on generated scenes, or go on with a run."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import torch

from hamst3r.network.checkpoint import load_checkpoint
from hamst3r.network.closeup import CLOSEUP_SIDE
from hamst3r.network.hamst3r import HAMSt3R
from hamst3r.training.loader import Stage, rendering
from hamst3r.training.store import SceneStore
from hamst3r.training.train import (
    NETWORK,
    OPTIMISERS,
    PARTS,
    PEOPLE_STAGES,
    REFINING_STAGES,
    STATE,
    TrainConfig,
    Trainer,
    train,
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--scenes", type=Path, required=True, help="folder of rendered scenes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=0, help="length of the run in steps")
    parser.add_argument("--seconds", type=float, default=0, help="length of the run in seconds")
    parser.add_argument("--batch", type=int, default=TrainConfig.batch, help="pairs per step")
    parser.add_argument("--rate", type=float, default=TrainConfig.learning_rate)
    parser.add_argument("--optimiser", choices=OPTIMISERS, default=TrainConfig.optimiser)
    parser.add_argument(
        "--part",
        choices=PARTS,
        default=TrainConfig.part,
        help="what learns: the network of pairs, of that who finds people only, or the network of "
        "close-ups (default: pairs)",
    )
    parser.add_argument(
        "--refine", action="store_true", help="only whole images and close-ups, at their size"
    )
    parser.add_argument("--repeats", type=int, default=1, help="steps per batch of people only")
    parser.add_argument("--start", type=Path, help="weights to start from")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--stop-after", type=float, default=math.inf, help="seconds of this call")
    parser.add_argument("--memory", type=float, default=2, help="GiB of scenes kept on the device")
    parser.add_argument("--render", type=int, default=0, help="processes that render more scenes")
    parser.add_argument("--render-from", type=int, default=1000, help="their first seed")
    parser.add_argument("--keep", type=int, default=20_000, help="most rendered scenes to keep")
    parser.add_argument("--wait-for", type=int, default=1, help="scenes before training starts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> int:
    """Train; the result is ``--out``/network.safetensors."""
    end = time.monotonic() + options.stop_after
    config = TrainConfig(
        steps=options.steps,
        seconds=options.seconds,
        batch=options.batch,
        learning_rate=options.rate,
        optimiser=options.optimiser,
        part=options.part,
        repeats=options.repeats,
        stages=_stages(options),
        memory=int(options.memory * 2**30),
        seed=options.seed,
    )
    device = torch.device(options.device)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    torch.manual_seed(options.seed)
    network = _network(options)
    trainer = Trainer(network, config, device)
    if options.resume:
        if not (options.out / STATE).is_file():
            raise ValueError(f"{options.out}: no run to resume ({STATE} is not there)")
        trainer.resume(options.out)
    store = SceneStore(options.scenes)
    with contextlib.ExitStack() as stack:
        first = int(os.environ.get("RANK", "0")) == 0
        if options.render and first:
            stack.enter_context(
                rendering(options.scenes, options.render_from, options.render, options.keep)
            )
            store.wait(options.wait_for)
        losses = train(trainer, store, options.out, _notes(options), end - time.monotonic())
    if first:
        print(" ".join(f"{name}={value:.4g}" for name, value in losses.items()))
        print(f"{options.out / NETWORK}: {trainer.step} steps, {trainer.pairs} pairs")
    return 0


def _network(options: argparse.Namespace) -> HAMSt3R:
    """What to start from; with a part for close-ups where that is to learn."""
    network = load_checkpoint(options.start).network if options.start else HAMSt3R()
    if options.part != "closeups" or network.closeup is not None:
        return network
    wider = HAMSt3R(replace(network.config, closeup_side=CLOSEUP_SIDE))
    wider.load_state_dict(network.state_dict(), strict=False)
    return wider


def _stages(options: argparse.Namespace) -> tuple[Stage, ...]:
    if options.refine:
        return REFINING_STAGES
    return PEOPLE_STAGES if options.part == "people" else TrainConfig.stages


def _notes(options: argparse.Namespace) -> dict[str, str]:
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    notes: dict[str, str] = {}
    if options.start:
        start = load_checkpoint(options.start)
        notes["started_from"] = start.sha256
        if options.part == "closeups":  # what the pair network has seen stays known
            notes = start.notes | notes
    return notes | {
        "licence": "Apache-2.0",
        "data": "synthetic scenes of hamst3r.synthetic, made from nothing",
        "revision": git.stdout.strip() if git.returncode == 0 else "unknown",
    }
