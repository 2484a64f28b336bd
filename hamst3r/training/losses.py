"""The losses of HAMSt3R: MASt3R's geometry and matching, Mask2Former's instances, DensePose.

    L = L_pointmap + 0.075 L_match + w_instance L_instance + w_densepose L_densepose + w_body L_body

Pointmap: confidence-weighted distance of log-warped metric points (DUSt3R's ConfLoss with MASt3R's
``loss_in_log``; alpha 0.5 instead of 0.2: where errors exceed alpha the confidence is pinned to its
floor of 1, and ours do for long). Match: InfoNCE of descriptors at true correspondences, with
temperature 0.05, weighted by confidence. Instances: queries matched once over both views by the
Hungarian algorithm; classification + mask BCE + dice. DensePose: L2 of body coordinates on bodies.
Body: cross-entropy of the body mask. The paper reports 0.01, 1 and 1 for the last three weights
when fine-tuning a large pretrained network; ours starts from nothing, so instances weigh more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from hamst3r.network.hamst3r import PairOutput, ViewOutput
from hamst3r.network.heads import InstanceOutput


@dataclass(frozen=True)
class LossWeights:
    """Weights and constants of the total loss."""

    match: float = 0.075
    instance: float = 0.15
    densepose: float = 4.0
    body: float = 1.0
    confidence_alpha: float = 0.5
    match_temperature: float = 0.05
    match_alpha: float = 10.0
    class_cost: float = 2.0
    mask_cost: float = 5.0
    dice_cost: float = 5.0
    nobody: float = 0.2
    mask_points: int = 2048


@dataclass(frozen=True)
class ViewTarget:
    """Truth for one view of a batch of pairs, on the output grid.

    Attributes:
        points: (B, gh, gw, 3) metres in the first view's camera axes. valid: (B, gh, gw) bool.
        instances: (B, gh, gw) int64, the same id for a person in both views, 0 = background.
        densepose: (B, gh, gw, 3) in [0, 1]. body: (B, gh, gw) bool, where ``densepose`` holds.
    """

    points: Tensor
    valid: Tensor
    instances: Tensor
    densepose: Tensor
    body: Tensor


@dataclass(frozen=True)
class PairTarget:
    """Truth for a batch of pairs.

    Attributes:
        i, j: The views.
        matches: (M, 3) int64 rows (pair, flat pixel of i, flat pixel of j): the same scene point.
    """

    i: ViewTarget
    j: ViewTarget
    matches: Tensor


def total_loss(
    output: PairOutput, target: PairTarget, weights: LossWeights, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The training loss, and its parts (plus a few errors in plain units) for the log."""
    parts: dict[str, Tensor] = {
        "points": _points(output.i, target.i, weights) + _points(output.j, target.j, weights),
        "match": _match(output.i, output.j, target.matches, weights),
        "instance": _instances(output.instances, target, weights, rng),
    }
    parts["densepose"], parts["body"] = _bodies(output, target)
    loss = (
        parts["points"]
        + weights.match * parts["match"]
        + weights.instance * parts["instance"]
        + weights.densepose * parts["densepose"]
        + weights.body * parts["body"]
    )
    return loss, {name: float(value.detach()) for name, value in parts.items()}


def trained(value: Tensor | None) -> Tensor:
    """An output that training needs; ValueError from a network that lacks its head."""
    if value is None:
        raise ValueError("only networks with descriptors and human heads can be trained")
    return value


def log_warp(points: Tensor) -> Tensor:
    """Points moved along their rays to the logarithm of their distance: p / |p| * log1p |p|."""
    norm = (points.square().sum(-1, keepdim=True) + 1e-12).sqrt()
    return points / norm * torch.log1p(norm)


def _points(view: ViewOutput, target: ViewTarget, weights: LossWeights) -> Tensor:
    valid = target.valid
    if not valid.any():
        return view.points.sum() * 0
    error = (log_warp(view.points[valid]) - log_warp(target.points[valid])).norm(dim=-1)
    confidence = view.confidence[valid]
    return (error * confidence - weights.confidence_alpha * confidence.log()).mean()


def _match(i: ViewOutput, j: ViewOutput, matches: Tensor, weights: LossWeights) -> Tensor:
    """InfoNCE in both directions, negatives from the same pair."""
    pairs = matches[:, 0].unique()
    # Indexing a pair at a time would fill a gradient of the whole batch for every pair.
    descriptors = [trained(view.descriptors).flatten(1, 2).unbind(0) for view in (i, j)]
    confidences = [trained(view.descriptor_confidence).flatten(1).unbind(0) for view in (i, j)]
    losses = []
    for pair in pairs.tolist():
        rows = matches[matches[:, 0] == pair]
        if len(rows) < 8:
            continue
        a, b = (part[pair][rows[:, side + 1]] for side, part in enumerate(descriptors))
        logits = a @ b.T / weights.match_temperature
        truth = torch.arange(len(rows), device=logits.device)
        nce = F.cross_entropy(logits, truth, reduction="none")
        nce = 0.5 * (nce + F.cross_entropy(logits.T, truth, reduction="none"))
        confidence = 0.5 * sum(
            part[pair][rows[:, side + 1]] for side, part in enumerate(confidences)
        )
        losses.append((nce * confidence - weights.match_alpha * confidence.log()).mean())
    return torch.stack(losses).mean() if losses else i.points.sum() * 0


def _bodies(output: PairOutput, target: PairTarget) -> tuple[Tensor, Tensor]:
    squared, entropy = [], []
    for view, truth in ((output.i, target.i), (output.j, target.j)):
        body, densepose = truth.body, trained(view.densepose)
        if body.any():
            squared.append((densepose[body] - truth.densepose[body]).square().sum(-1))
        logits = trained(view.body_logits)
        entropy.append(F.binary_cross_entropy_with_logits(logits, body.float()))
    error = torch.cat(squared).mean() if squared else output.i.points.sum() * 0
    return error, torch.stack(entropy).mean()


def _instances(
    outputs: list[InstanceOutput],
    target: PairTarget,
    weights: LossWeights,
    rng: np.random.Generator,
) -> Tensor:
    """Sum over the layers of the instance loss, all on the same sampled pixels of both views."""
    batch = len(target.i.instances)
    truth = torch.cat([target.i.instances.flatten(1), target.j.instances.flatten(1)], 1)
    index = _sample_pixels(truth, weights.mask_points, rng)
    sampled = truth.gather(1, index)
    people = [row[row > 0].unique() for row in truth]
    masks = [
        (sampled[b][None] == people[b][:, None]).float() if len(people[b]) else None
        for b in range(batch)
    ]
    total = truth.new_zeros((), dtype=torch.float32)
    for output in outputs:
        logits = torch.cat([output.mask_logits_i.flatten(2), output.mask_logits_j.flatten(2)], 2)
        logits = logits.gather(2, index[:, None].expand(-1, logits.shape[1], -1))
        total = total + _one_layer(output.class_logits, logits, masks, weights)
    return total / len(outputs)


def _sample_pixels(truth: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """(B, count) pixel indices, half of them on people where there are any: people are small."""
    rows = []
    for ids in truth:
        anywhere = torch.from_numpy(rng.integers(0, len(ids), count))
        on_people = (ids > 0).nonzero()[:, 0].cpu()
        if len(on_people):
            half = torch.from_numpy(rng.integers(0, len(on_people), count // 2))
            anywhere[: count // 2] = on_people[half]
        rows.append(anywhere)
    return torch.stack(rows).to(truth.device)


def _one_layer(
    class_logits: Tensor, mask_logits: Tensor, masks: list[Tensor | None], weights: LossWeights
) -> Tensor:
    labels = torch.zeros(class_logits.shape[:2], dtype=torch.long, device=class_logits.device)
    bce, dice, found = class_logits.new_zeros(()), class_logits.new_zeros(()), 0
    for b, (mask, logits) in enumerate(zip(masks, mask_logits.unbind(0), strict=True)):
        if mask is None:
            continue
        query, person = _assign(class_logits[b], logits, mask, weights)
        labels[b, query] = 1
        chosen, truth = logits[query], mask[person]
        bce = (
            bce + F.binary_cross_entropy_with_logits(chosen, truth, reduction="none").mean(1).sum()
        )
        inside = chosen.sigmoid()
        overlap = 2 * (inside * truth).sum(1) + 1
        dice = dice + (1 - overlap / (inside.sum(1) + truth.sum(1) + 1)).sum()
        found += len(query)
    balance = class_logits.new_tensor([weights.nobody, 1.0])
    entropy = F.cross_entropy(class_logits.flatten(0, 1), labels.flatten(), weight=balance)
    people = max(found, 1)
    return (
        weights.class_cost * entropy + (weights.mask_cost * bce + weights.dice_cost * dice) / people
    )


@torch.no_grad()
def _assign(
    class_logits: Tensor, logits: Tensor, masks: Tensor, weights: LossWeights
) -> tuple[Tensor, Tensor]:
    """Hungarian matching of queries to people with the costs of the loss itself."""
    pixels = logits.shape[1]
    positive = F.softplus(-logits) @ masks.T
    negative = F.softplus(logits) @ (1 - masks).T
    inside = logits.sigmoid()
    overlap = 2 * (inside @ masks.T) + 1
    dice = 1 - overlap / (inside.sum(1)[:, None] + masks.sum(1)[None] + 1)
    cost = (
        -weights.class_cost * class_logits.softmax(-1)[:, 1:]
        + weights.mask_cost * (positive + negative) / pixels
        + weights.dice_cost * dice
    )
    # A prediction that is not finite is caught by its gradient, not here.
    query, person = linear_sum_assignment(np.nan_to_num(cost.cpu().numpy()))
    device = logits.device
    return torch.from_numpy(query).to(device), torch.from_numpy(person).to(device)
