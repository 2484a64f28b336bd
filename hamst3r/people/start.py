"""A first body from labelled points, in closed form: the torso, then limb by limb down the tree."""

from __future__ import annotations

import roma
import torch
from torch import Tensor

from hamst3r.people.body import NUM_JOINTS, PARENTS, BodyModel
from hamst3r.people.jacobian import BodyState

# Parts that hardly move against each other: pelvis, spine, neck, collars.
_TORSO = (0, 3, 6, 9, 12, 13, 14)
_HYPOTHESES = 96
_HYPOTHESIS_POINTS = 4
_SCORED_POINTS = 300
_TORSO_INLIER = 0.15  # metres
_TORSO_SCALES = (0.18, 0.126, 0.088, 0.062)  # metres, of the robust weight, shrinking
_LIMB_SCALES = (0.35, 0.2, 0.12, 0.1)
# Pull towards the parent's rotation, against the square sum of the part's points (m^2): strong
# where a part is nearly round or stiff, weak where its own points tell more.
_STIFFNESS = {3: 0.6, 6: 0.6, 9: 0.6, 12: 0.3, 13: 0.6, 14: 0.6}
_STIFFNESS |= {10: 0.3, 11: 0.3, 22: 0.3, 23: 0.3, 15: 0.15}
_LIMB_STIFFNESS = 0.06


def analytic_start(
    body: BodyModel,
    vertex_ids: Tensor,
    points: Tensor,
    weights: Tensor,
    generator: torch.Generator,
) -> BodyState:
    """Mean-shape bodies near the points.

    Args:
        vertex_ids: (P, N) int64, valid everywhere. points: (P, N, 3) world metres, finite.
        weights: (P, N) >= 0, zero for points to ignore.
        generator: Draws the hypotheses.
    """
    source = body.v_template[vertex_ids]
    part = body.part[vertex_ids]
    torso = torch.isin(part, torch.tensor(_TORSO, device=part.device)) * weights
    few = (torso > 0).sum(1, keepdim=True) < 60
    torso = torch.where(few, weights, torso)
    turn, shift = _torso(source, points, torso, generator)

    rest = body.joint_template
    turns, places = [turn], [(turn @ rest[0]) + shift]
    for joint in range(1, NUM_JOINTS):
        parent = PARENTS[joint]
        above = turns[parent]
        place = places[parent] + above @ (rest[joint] - rest[parent])
        places.append(place)
        turns.append(
            _limb(
                source - rest[joint],
                points - place[:, None],
                (part == joint) * weights,
                above,
                _STIFFNESS.get(joint, _LIMB_STIFFNESS),
            )
        )
    local = [turns[0]] + [
        turns[PARENTS[joint]].transpose(-1, -2) @ turns[joint] for joint in range(1, NUM_JOINTS)
    ]
    betas = points.new_zeros(len(points), body.shapedirs.shape[-1])
    return BodyState(torch.stack(local, 1), places[0] - rest[0], betas)


def _torso(
    source: Tensor, points: Tensor, weights: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rotation (P, 3, 3) and shift (P, 3) from most consistent draws, then reweighted."""
    count, num = weights.shape
    chance = weights.clamp_min(1e-9)
    draws = _HYPOTHESES * _HYPOTHESIS_POINTS
    chosen = torch.multinomial(chance, draws, replacement=True, generator=generator)
    shape = (count, _HYPOTHESES, _HYPOTHESIS_POINTS, 3)
    turn, shift = _align(_take(source, chosen).view(shape), _take(points, chosen).view(shape), None)
    scored = torch.multinomial(
        chance, min(num, _SCORED_POINTS), replacement=True, generator=generator
    )
    target = _take(points, scored)[:, None]
    moved = _take(source, scored)[:, None] @ turn.transpose(-1, -2) + shift[:, :, None]
    best = ((moved - target).norm(dim=-1) < _TORSO_INLIER).sum(-1).argmax(1)
    rows = torch.arange(count, device=best.device)
    turn, shift = turn[rows, best], shift[rows, best]
    for scale in _TORSO_SCALES:
        square = (source @ turn.transpose(-1, -2) + shift[:, None] - points).square().sum(-1)
        turn, shift = _align(source, points, weights / (1 + square / scale**2) ** 2)
    return turn, shift


def _limb(arms: Tensor, target: Tensor, weights: Tensor, above: Tensor, stiffness: float) -> Tensor:
    """Rotation (P, 3, 3) about a fixed joint that carries ``arms`` onto ``target``."""
    turn = above
    for scale in _LIMB_SCALES:
        square = (arms @ turn.transpose(-1, -2) - target).square().sum(-1)
        robust = weights / (1 + square / scale**2) ** 2
        moment = (target * robust[..., None]).transpose(-1, -2) @ arms
        turn = roma.special_procrustes(moment + stiffness * above)
    return turn


def _align(source: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    if weights is not None:
        # Weights that vanish altogether would leave the mean undefined.
        weights = weights + 1e-9
    turn, shift = roma.rigid_points_registration(source, target, weights)[:2]
    return turn, shift


def _take(values: Tensor, index: Tensor) -> Tensor:
    return torch.gather(values, 1, index[..., None].expand(-1, -1, 3))
