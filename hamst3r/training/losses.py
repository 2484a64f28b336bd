"""The losses of HAMSt3R: MASt3R's geometry and matching, Mask2Former's instances, DensePose.

    L = L_pointmap + 0.075 L_match + w_instance L_instance + w_densepose L_densepose + w_body L_body

Pointmap: confidence-weighted distance of log-warped metric points (DUSt3R's ConfLoss with MASt3R's
``loss_in_log``; alpha 0.5 instead of 0.2: where errors exceed alpha the confidence is pinned to its
floor of 1, and ours do for long). Match: InfoNCE of descriptors at true correspondences, with
temperature 0.05, weighted by confidence. Instances: queries matched once over both views by the
Hungarian algorithm; classification + mask BCE + dice. DensePose: L2 distance of body coordinates,
in metres on the template; not its square, whose best answer to "left or right?" is the middle for
as long as the network is not certain. Body: cross-entropy of the body mask. The paper reports 0.01,
1 and 1 for the last three weights when fine-tuning a large pretrained network; ours starts from
nothing, so instances weigh more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from hamst3r.network.hamst3r import PairOutput, ViewOutput
from hamst3r.network.heads import InstanceOutput
from hamst3r.people.body import anny24

FEWEST_MATCHES = 8  # of a pair whose descriptors are compared


@dataclass(frozen=True)
class LossWeights:
    """Weights and constants of the total loss."""

    match: float = 0.075
    instance: float = 0.15
    densepose: float = 2.0
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
        matches: (B, M, 2) int64 flat pixels of i and of j that show the same scene point; -1 in
            the rows that a pair does not need.
    """

    i: ViewTarget
    j: ViewTarget
    matches: Tensor


def total_loss(
    output: PairOutput, target: PairTarget, weights: LossWeights, rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """The training loss, and its parts for the log."""
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
    return loss, {name: value.detach() for name, value in parts.items()}


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
    error = (log_warp(view.points) - log_warp(target.points)).norm(dim=-1)
    each = error * view.confidence - weights.confidence_alpha * view.confidence.log()
    return mean_where(each, target.valid)


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Mean of the values where ``where`` holds, 0 if nowhere; no device is waited for."""
    return torch.where(where, values, 0.0).sum() / where.sum().clamp_min(1)


def _match(i: ViewOutput, j: ViewOutput, matches: Tensor, weights: LossWeights) -> Tensor:
    """InfoNCE in both directions, negatives from the same pair."""
    there = matches[..., 0] >= 0
    there &= there.sum(1, keepdim=True) >= FEWEST_MATCHES
    descriptors, confidences = [], []
    for view, pixels in zip((i, j), matches.clamp_min(0).unbind(-1), strict=True):
        vectors = trained(view.descriptors).flatten(1, 2)
        index = pixels[..., None].expand(-1, -1, vectors.shape[-1])
        descriptors.append(vectors.gather(1, index))
        confidences.append(trained(view.descriptor_confidence).flatten(1).gather(1, pixels))
    logits = descriptors[0] @ descriptors[1].mT / weights.match_temperature
    logits = logits.masked_fill(~(there[:, :, None] & there[:, None]), -1e4)
    truth = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    nce = F.cross_entropy(logits, truth, reduction="none")  # columns: j's rows choose in i
    nce = 0.5 * (nce + F.cross_entropy(logits.mT, truth, reduction="none"))
    confidence = 0.5 * (confidences[0] + confidences[1])
    return mean_where(nce * confidence - weights.match_alpha * confidence.log(), there)


def _bodies(output: PairOutput, target: PairTarget) -> tuple[Tensor, Tensor]:
    views, truths = (output.i, output.j), (target.i, target.j)
    extent = template_extent(truths[0].points.device)
    distances, entropy = [], []
    for view, truth in zip(views, truths, strict=True):
        apart = (trained(view.densepose) - truth.densepose) * extent
        distances.append((apart.square().sum(-1) + 1e-8).sqrt())
        logits = trained(view.body_logits)
        entropy.append(F.binary_cross_entropy_with_logits(logits, truth.body.float()))
    bodies = torch.stack([truth.body.flatten() for truth in truths])
    error = mean_where(torch.stack([part.flatten() for part in distances]), bodies)
    return error, torch.stack(entropy).mean()


@cache
def template_extent(device: torch.device) -> Tensor:
    """(3,) metres: body coordinates span the template's bounding box."""
    template = anny24().v_template
    return (template.amax(0) - template.amin(0)).to(device)


def _instances(
    outputs: list[InstanceOutput],
    target: PairTarget,
    weights: LossWeights,
    rng: np.random.Generator,
) -> Tensor:
    """Mean over the layers of the instance loss, all on the same sampled pixels of both views.

    All layers and pairs are matched at once: a GPU is waited for a single time.
    """
    truth = torch.cat([target.i.instances.flatten(1), target.j.instances.flatten(1)], 1)
    most = max(1, int(truth.max()))  # ids count from 1 in every scene
    index = _sample_pixels(truth, weights.mask_points, rng)
    sampled = truth.gather(1, index)
    ids = torch.arange(1, most + 1, device=truth.device)
    masks = (sampled[:, None] == ids[:, None]).float()  # (B, P, K)
    there = (truth[:, None] == ids[:, None]).any(-1)  # (B, P) in at least one view
    layers = []
    for output in outputs:
        both = torch.cat([output.mask_logits_i.flatten(2), output.mask_logits_j.flatten(2)], 2)
        layers.append(both.gather(2, index[:, None].expand(-1, both.shape[1], -1)))
    chosen = _assign(outputs, layers, masks, there, weights)
    losses = [
        _one_layer(output.class_logits, logits, masks, query, weights)
        for output, logits, query in zip(outputs, layers, chosen, strict=True)
    ]
    return torch.stack(losses).mean()


def _sample_pixels(truth: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """(B, count) pixel indices, half of them on people where there are any: people are small."""
    seed = int(rng.integers(1 << 62))
    generator = torch.Generator(device=truth.device).manual_seed(seed)

    def draw(weight: Tensor, pixels: int) -> Tensor:
        return torch.multinomial(weight, pixels, replacement=True, generator=generator)

    on_people = (truth > 0).float()
    anywhere = torch.ones_like(on_people)
    people_or_any = torch.where(on_people.any(1, keepdim=True), on_people, anywhere)
    half = count // 2
    return torch.cat([draw(people_or_any, half), draw(anywhere, count - half)], 1)


def _one_layer(
    class_logits: Tensor, mask_logits: Tensor, masks: Tensor, query: Tensor, weights: LossWeights
) -> Tensor:
    """Loss of one layer with the query of every person (B, P), -1 for those who are not there."""
    there = query >= 0
    at = query.clamp_min(0)
    labels = torch.zeros(class_logits.shape[:2], dtype=torch.long, device=class_logits.device)
    labels = labels.scatter_add(1, at, there.long()).clamp(max=1)
    balance = class_logits.new_tensor([weights.nobody, 1.0])
    entropy = F.cross_entropy(class_logits.flatten(0, 1), labels.flatten(), weight=balance)
    logits = mask_logits.gather(1, at[..., None].expand(-1, -1, mask_logits.shape[2]))
    bce = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(2)
    inside = logits.sigmoid()
    overlap = 2 * (inside * masks).sum(2) + 1
    dice = 1 - overlap / (inside.sum(2) + masks.sum(2) + 1)
    each = (weights.mask_cost * bce + weights.dice_cost * dice) * there
    return weights.class_cost * entropy + each.sum() / there.sum().clamp_min(1)


@torch.no_grad()
def _assign(
    outputs: list[InstanceOutput],
    layers: list[Tensor],
    masks: Tensor,
    there: Tensor,
    weights: LossWeights,
) -> list[Tensor]:
    """For each layer the query of every person (B, P), -1 = not there.

    Hungarian matching with the costs of the loss itself.
    """
    costs = []
    for output, logits in zip(outputs, layers, strict=True):
        outside, truth = 1 - masks, masks.transpose(1, 2)
        positive = F.softplus(-logits) @ truth
        negative = F.softplus(logits) @ outside.transpose(1, 2)
        inside = logits.sigmoid()
        overlap = 2 * (inside @ truth) + 1
        dice = 1 - overlap / (inside.sum(2)[..., None] + masks.sum(2)[:, None] + 1)
        costs.append(
            -weights.class_cost * output.class_logits.softmax(-1)[..., 1:]
            + weights.mask_cost * (positive + negative) / logits.shape[2]
            + weights.dice_cost * dice
        )
    cost = torch.stack(costs).cpu().numpy()  # (layers, B, Q, P)
    # A prediction that is not finite is caught by its gradient, not here.
    cost = np.nan_to_num(cost)
    present = there.cpu().numpy()
    chosen = np.full((*cost.shape[:2], cost.shape[3]), -1)
    for layer, b in np.ndindex(*cost.shape[:2]):
        people = np.flatnonzero(present[b])
        query, person = linear_sum_assignment(cost[layer, b][:, people])
        chosen[layer, b, people[person]] = query
    return list(torch.from_numpy(chosen).to(masks.device).unbind(0))
