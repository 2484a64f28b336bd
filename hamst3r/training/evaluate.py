"""What a network reaches on held-out synthetic scenes: ``python -m hamst3r.training.evaluate``.

The scenes are rendered from seeds that training never uses (900000 and up), unaugmented.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hamst3r.network.checkpoint import load_checkpoint
from hamst3r.network.hamst3r import HAMSt3R, PairOutput, ViewOutput
from hamst3r.people.body import anny24
from hamst3r.synthetic.generator import SceneGenerator
from hamst3r.training.dataset import PairSampler, SceneStore, render_scenes
from hamst3r.training.losses import PairTarget, ViewTarget, trained

HELD_OUT = 900_000


@torch.inference_mode()
def evaluate(
    network: HAMSt3R, store: SceneStore, batches: int = 24, seed: int = 0
) -> dict[str, float]:
    """Means over pairs of held-out scenes.

    Returns:
        points_i, points_j: median relative distance of the predicted to the true point, both in
            camera i's axes, as predicted (metric); points_scaled: the same for both views after
            one median scale per pair. body_iou: of the body mask. densepose_m: mean error of body
            coordinates on bodies in metres of the template. recall, precision: of people per
            view at mask IoU 0.5; identity: share of people seen in both views whose two masks
            are won by the same query.
    """
    side, patch = network.config.image_size, network.config.patch
    sizes = ((side, side * 3 // 4 // patch * patch),)
    rng = np.random.default_rng(seed)
    sampler = PairSampler(store, sizes, network.config.output_stride, rng, augment=False)
    template = anny24().v_template
    extent = template.amax(0) - template.amin(0)
    values: dict[str, list[float]] = defaultdict(list)
    for _ in tqdm(range(batches), desc="evaluating", unit="batch"):
        batch = sampler.batch(8, pairs_per_scene=4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = network(batch.images_i, batch.images_j)
        for pair in range(len(batch.images_i)):
            _geometry(values, output, batch.target, pair)
            for view, truth in ((output.i, batch.target.i), (output.j, batch.target.j)):
                _body(values, view, truth, pair, extent)
            _instances(values, output, batch.target, pair)
    return {name: float(np.mean(value)) for name, value in values.items()} | {
        "pairs": float(batches * 8)
    }


def _geometry(
    values: dict[str, list[float]], output: PairOutput, target: PairTarget, pair: int
) -> None:
    errors, ratios, parts = {}, [], []
    for name, view, truth in (("i", output.i, target.i), ("j", output.j, target.j)):
        valid = truth.valid[pair]
        if not valid.any():
            return
        points, true = view.points[pair][valid], truth.points[pair][valid]
        norm = true.norm(dim=-1)
        errors[name] = float(((points - true).norm(dim=-1) / norm).median())
        ratios.append(norm / points.norm(dim=-1).clamp_min(1e-6))
        parts.append((points, true, norm))
    scale = torch.cat(ratios).median()
    scaled = [(scale * points - true).norm(dim=-1) / norm for points, true, norm in parts]
    values["points_i"].append(errors["i"])
    values["points_j"].append(errors["j"])
    values["points_scaled"].append(float(torch.cat(scaled).median()))


def _body(
    values: dict[str, list[float]], view: ViewOutput, truth: ViewTarget, pair: int, extent: Tensor
) -> None:
    found, body = trained(view.body_logits)[pair] > 0, truth.body[pair]
    union = (found | body).sum()
    if body.sum() > 30:
        values["body_iou"].append(float((found & body).sum() / union))
        error = (trained(view.densepose)[pair][body] - truth.densepose[pair][body]) * extent
        values["densepose_m"].append(float(error.norm(dim=-1).mean()))


def _instances(
    values: dict[str, list[float]], output: PairOutput, target: PairTarget, pair: int
) -> None:
    instances = output.instances[-1]
    accepted = instances.class_logits[pair].softmax(-1)[:, 1] > 0.5
    winners: list[dict[int, int]] = []
    for logits, body, truth in (
        (
            instances.mask_logits_i[pair],
            trained(output.i.body_logits)[pair],
            target.i.instances[pair],
        ),
        (
            instances.mask_logits_j[pair],
            trained(output.j.body_logits)[pair],
            target.j.instances[pair],
        ),
    ):
        # As in people/instances.py: the body head may object to what a query claims.
        masks = (logits + body.clamp(max=0) > 0) & accepted[:, None, None]
        people = [p for p in truth.unique().tolist() if p and int((truth == p).sum()) > 40]
        won: dict[int, int] = {}
        for person in people:
            mask = truth == person
            iou = (masks & mask).sum((1, 2)) / (masks | mask).sum((1, 2)).clamp_min(1)
            best = int(iou.argmax())
            values["recall"].append(float(iou[best] > 0.5))
            if iou[best] > 0.5:
                won[person] = best
        for query in (masks.sum((1, 2)) > 40).nonzero()[:, 0].tolist():
            values["precision"].append(float(query in won.values()))
        winners.append(won)
    for person in winners[0].keys() & winners[1].keys():
        values["identity"].append(float(winners[0][person] == winners[1][person]))


def main(arguments: list[str] | None = None) -> None:
    """Command line: prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--scenes", type=Path, help="folder to render the held-out scenes into")
    parser.add_argument("--count", type=int, default=48, help="held-out scenes")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        store = SceneStore(options.scenes or Path(temporary))
        seeds = range(HELD_OUT, HELD_OUT + options.count)
        for _ in tqdm(
            render_scenes(store, seeds, SceneGenerator()), desc="rendering", unit="scene"
        ):
            pass
        result = evaluate(load_checkpoint(options.weights).network, store)
    print(json.dumps({name: round(value, 4) for name, value in result.items()}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
