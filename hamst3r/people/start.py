"""A first body from labelled points, in closed form: the torso, then limb by limb down the tree."""

from __future__ import annotations

import torch
from torch import Tensor

from hamst3r.people.body import NUM_JOINTS, PARENT_INDEX, BodyModel
from hamst3r.people.jacobian import BodyState

# Joints by their distance from the root, and their parents' places in the level above.
_LEVELS = (
    (slice(1, 4), torch.tensor((0, 0, 0))),
    (slice(4, 7), torch.tensor((0, 1, 2))),
    (slice(7, 10), torch.tensor((0, 1, 2))),
    (slice(10, 15), torch.tensor((0, 1, 2, 2, 2))),
    (slice(15, 18), torch.tensor((2, 3, 4))),
    (slice(18, 20), torch.tensor((1, 2))),
    (slice(20, 22), torch.tensor((0, 1))),
    (slice(22, 24), torch.tensor((0, 1))),
)
# Parts that hardly move against each other: pelvis, spine, neck, collars.
_TORSO = (0, 3, 6, 9, 12, 13, 14)
_HYPOTHESES = 96
_HYPOTHESIS_POINTS = 4
_SCORED_POINTS = 300
_TORSO_INLIER = 0.15  # metres
_TORSO_SCALES = (0.18, 0.126, 0.088, 0.062)  # metres, of the robust weight, shrinking
_LIMB_SCALES = (0.1, 0.25, 0.15)
# Pull towards the parent's rotation, against the square sum of the part's points (m^2): strong
# where a part is nearly round or stiff, weak where its own points tell more.
_STIFFNESS = {3: 0.6, 6: 0.6, 9: 0.6, 12: 0.3, 13: 0.6, 14: 0.6}
_STIFFNESS |= {10: 0.3, 11: 0.3, 22: 0.3, 23: 0.3, 15: 0.15}
_LIMB_STIFFNESS = 0.06
_SUPPORT, _MIN_SUPPORT = 0.1, 4  # metres, points: what makes another turn of a limb better


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
    stiffness = torch.tensor([_STIFFNESS.get(j, _LIMB_STIFFNESS) for j in range(NUM_JOINTS)])
    torso = torch.isin(part, torch.tensor(_TORSO, device=part.device)) * weights
    few = (torso > 0).sum(1, keepdim=True) < 60
    torso = torch.where(few, weights, torso)
    turn, shift = _torso(source, points, torso, generator)

    rest = body.joint_template
    turns = [turn[:, None]]
    places = [(turn @ rest[0])[:, None] + shift[:, None]]
    for joints, parents in _LEVELS:
        above = turns[-1][:, parents]
        bones = rest[joints] - rest[PARENT_INDEX[joints.start - 1 : joints.stop - 1]]
        place = places[-1][:, parents] + (above @ bones[..., None])[..., 0]
        places.append(place)
        numbers = torch.arange(joints.start, joints.stop)
        turns.append(
            _limbs(
                source[:, None] - rest[joints, None],
                points[:, None] - place[:, :, None],
                (part[:, None] == numbers[:, None]) * weights[:, None],
                above,
                stiffness[joints, None, None],
            )
        )
    turn = torch.cat(turns, 1)
    local = torch.cat([turn[:, :1], turn[:, PARENT_INDEX].mT @ turn[:, 1:]], 1)
    betas = points.new_zeros(len(points), body.shapedirs.shape[-1])
    return BodyState(local, places[0][:, 0] - rest[0], betas)


def reconsider_limbs(
    body: BodyModel, state: BodyState, vertex_ids: Tensor, points: Tensor, weights: Tensor
) -> BodyState:
    """Limbs turned anew, in closed form about the joints of ``state``, where more of their points
    then agree: robust steps do not find the way from a pose that few points support.

    Args:
        vertex_ids, points, weights: As for :func:`analytic_start`.
    """
    turn, places = body.skeleton(state.rotations, state.transl, state.betas)
    rest = body.rest_joints(state.betas)
    numbers = torch.arange(1, NUM_JOINTS)
    shaped = body.v_template[vertex_ids] + torch.einsum(
        "pnck,pk->pnc", body.shapedirs[vertex_ids], state.betas
    )
    arms = shaped[:, None] - rest[:, 1:, None]
    target = points[:, None] - places[:, 1:, None]
    own = (body.part[vertex_ids][:, None] == numbers[:, None]) * weights[:, None]
    stiffness = torch.full((NUM_JOINTS - 1, 1, 1), 1e-3)
    found = _limbs(arms, target, own, turn[:, PARENT_INDEX], stiffness)

    def support(rotation: Tensor) -> Tensor:
        near = (arms @ rotation.mT - target).square().sum(-1) < _SUPPORT**2
        return ((own > 0) & near).sum(-1)

    before, after = support(turn[:, 1:]), support(found)
    better = (after >= _MIN_SUPPORT) & (after > before + 2)
    local = turn[:, PARENT_INDEX].mT @ found
    rotations = state.rotations.clone()
    rotations[:, 1:] = torch.where(better[..., None, None], local, state.rotations[:, 1:])
    return BodyState(rotations, state.transl, state.betas)


def _torso(
    source: Tensor, points: Tensor, weights: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rotation (P, 3, 3) and shift (P, 3) from most consistent draws, then reweighted."""
    count, num = weights.shape
    chance = weights.clamp_min(1e-9)
    draws = _HYPOTHESES * _HYPOTHESIS_POINTS
    chosen = torch.multinomial(chance, draws, replacement=True, generator=generator)
    shape = (count, _HYPOTHESES, _HYPOTHESIS_POINTS, 3)
    drawn = _take(source, chosen).view(shape), _take(points, chosen).view(shape)
    turn, shift = _align(*drawn, torch.ones(shape[:-1]))
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


def _limbs(
    arms: Tensor, target: Tensor, weights: Tensor, above: Tensor, stiffness: Tensor
) -> Tensor:
    """Rotations (P, L, 3, 3) about fixed joints that carry ``arms`` (P, L, N, 3) onto ``target``.

    Weights (P, L, N) are zero for points of other limbs.
    """
    # However a limb is turned, a point keeps its distance from the joint: that tells right points
    # from wrong ones before any rotation is known.
    square = (target.norm(dim=-1) - arms.norm(dim=-1)).square()
    turn = above
    for scale in _LIMB_SCALES:
        robust = weights / (1 + square / scale**2) ** 2
        turn = nearest_rotation((target * robust[..., None]).mT @ arms + stiffness * above)
        square = (arms @ turn.mT - target).square().sum(-1)
    return turn


def _align(source: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation and shift of (..., N, 3) onto another, weights (..., N) (Kabsch 1976)."""
    share = (weights + 1e-9) / (weights + 1e-9).sum(-1, keepdim=True)
    middle = (share[..., None, :] @ source)[..., 0, :]
    goal = (share[..., None, :] @ target)[..., 0, :]
    moment = ((target - goal[..., None, :]) * share[..., None]).mT @ (source - middle[..., None, :])
    turn = nearest_rotation(moment)
    return turn, goal - (turn @ middle[..., None])[..., 0]


def nearest_rotation(moment: Tensor) -> Tensor:
    """The rotation (..., 3, 3) nearest to a matrix; roma's is made for gradients, thus slower."""
    u, _, vh = torch.linalg.svd(moment)
    flip = torch.linalg.det(u @ vh)
    return torch.cat([u[..., :2], u[..., 2:] * flip[..., None, None]], -1) @ vh


def _take(values: Tensor, index: Tensor) -> Tensor:
    return torch.gather(values, 1, index[..., None].expand(-1, -1, 3))
