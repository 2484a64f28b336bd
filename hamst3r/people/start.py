"""A first body from labelled points, in closed form: the torso, then limb by limb down the tree."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from hamst3r.people.body import NUM_JOINTS
from hamst3r.people.kinematics import ABOVE, F32, I64, Pose, Surface, nearest_rotations, skeleton

# First joint of each level of the tree, by distance from the root, and the number of joints.
_LEVELS = (1, 4, 7, 10, 15, 18, 20, 22, NUM_JOINTS)
# Parts that hardly move against each other: pelvis, spine, neck, collars.
_TORSO = np.isin(np.arange(NUM_JOINTS), (0, 3, 6, 9, 12, 13, 14))
_TORSO_POINTS = 60  # with fewer, all points are taken for the torso's
_HYPOTHESES = 96
_HYPOTHESIS_POINTS = 4
_SCORED_POINTS = 300
_TORSO_INLIER = 0.15  # metres
_TORSO_SCALES = (0.18, 0.126, 0.088, 0.062)  # metres, of the robust weight, shrinking
_LIMB_SCALES = (0.1, 0.25, 0.15)
# Pull towards the parent's rotation, against the square sum of the part's points (m^2): strong
# where a part is nearly round or stiff, weak where its own points tell more.
_STIFFNESS = np.full(NUM_JOINTS, 0.06, dtype=np.float32)
_STIFFNESS[[3, 6, 9, 13, 14]] = 0.6
_STIFFNESS[[10, 11, 12, 22, 23]] = 0.3
_STIFFNESS[15] = 0.15
_LOOSE = 1e-3  # the same where a limb is looked for anew
_SUPPORT, _MIN_SUPPORT = 0.1, 4  # metres, points: what makes another turn of a limb better


def analytic_start(surface: Surface, points: F32, weights: F32, generator: torch.Generator) -> Pose:
    """Mean-shape bodies near the points.

    Args:
        surface: Of the points' vertices, valid everywhere. points: (P, 3, N) world metres, finite.
        weights: (P, N) >= 0, zero for points to ignore.
        generator: Draws the hypotheses.
    """
    rig, count = surface.rig, len(points)
    source, points = rig.template[surface.vertices], points.swapaxes(1, 2)
    part = rig.part[surface.vertices]
    torso = _TORSO[part] * weights
    few = (torso > 0).sum(1, keepdims=True) < _TORSO_POINTS
    torso = np.where(few, weights, torso)
    turn, shift = _torso(source, points, torso, generator)

    limbs = _Limbs.of(part, source, points, weights)
    turns = np.empty((NUM_JOINTS, count, 3, 3), dtype=np.float32)
    places = np.empty((NUM_JOINTS, count, 3), dtype=np.float32)
    turns[0], places[0] = turn, turn @ rig.joints[0] + shift
    for first, last in pairwise(_LEVELS):
        parents = ABOVE[first - 1 : last - 1]
        bones = rig.joints[first:last] - rig.joints[parents]
        above = turns[parents]
        places[first:last] = places[parents] + (above @ bones[:, None, :, None])[..., 0]
        own = limbs.take(first, last)
        found = own.turn(
            rig.joints[first:last].repeat(count, 0),
            places[first:last].reshape(len(bones) * count, 3),
            above.reshape(len(bones) * count, 3, 3),
            _STIFFNESS[first:last].repeat(count),
        )
        turns[first:last] = found.reshape(len(bones), count, 3, 3)
    turn = turns.transpose(1, 0, 2, 3)
    betas = np.zeros((count, rig.num_betas), dtype=np.float32)
    return Pose(_local(turn), places[0] - rig.joints[0], betas)


def reconsider_limbs(pose: Pose, surface: Surface, points: F32, weights: F32) -> Pose:
    """Limbs turned anew, in closed form about the joints of ``pose``, where more of their points
    then agree: robust steps do not find the way from a pose that few points support.

    Args:
        surface, points, weights: As for :func:`analytic_start`.
    """
    rig, count = surface.rig, len(pose)
    turn, places = skeleton(rig, pose)
    rest = rig.rest_joints(pose.betas)[:, 1:].transpose(1, 0, 2).reshape(-1, 3)
    joints = places[:, 1:].transpose(1, 0, 2).reshape(-1, 3)
    now = turn[:, 1:].transpose(1, 0, 2, 3).reshape(-1, 3, 3)
    above = turn[:, ABOVE].transpose(1, 0, 2, 3).reshape(-1, 3, 3)
    part = rig.part[surface.vertices]
    shaped, points = surface.shaped(pose).swapaxes(1, 2), points.swapaxes(1, 2)
    limbs = _Limbs.of(part, shaped, points, weights).take(1, NUM_JOINTS)
    found = limbs.turn(rest, joints, above, np.full(len(rest), _LOOSE, dtype=np.float32))
    before, after = limbs.support(rest, joints, now), limbs.support(rest, joints, found)
    better = (after >= _MIN_SUPPORT) & (after > before + 2)
    if not better.any():
        return pose
    local = (above.transpose(0, 2, 1) @ found).reshape(-1, count, 3, 3).transpose(1, 0, 2, 3)
    better = better.reshape(-1, count).T
    rotations = pose.rotations.copy()
    rotations[:, 1:][better] = local[better]
    return Pose(rotations, pose.transl, pose.betas)


@dataclass(frozen=True, eq=False)
class _Limbs:
    """Usable points in the order of their limbs.

    Attributes:
        limb: (M,) ascending: joint (from the first one taken) times P, plus person.
        people: P. arms, target: (M, 3) at rest and in the world, metres. weights: (M,).
    """

    limb: I64
    people: int
    arms: F32
    target: F32
    weights: F32

    @staticmethod
    def of(part: I64, arms: F32, target: F32, weights: F32) -> _Limbs:
        """Of all joints; part (P, N), arms and target (P, N, 3), weights (P, N)."""
        people = len(part)
        person, point = np.nonzero(weights)
        limb = part[person, point] * people + person
        order = np.argsort(limb, kind="stable")
        own = person[order], point[order]
        return _Limbs(limb[order], people, arms[own], target[own], weights[own])

    def take(self, first: int, last: int) -> _Limbs:
        """Of joints ``first`` to ``last`` - 1, which are numbered from 0 then."""
        begin, end = np.searchsorted(self.limb, (first * self.people, last * self.people))
        own = slice(begin, end)
        limb = self.limb[own] - first * self.people
        return _Limbs(limb, self.people, self.arms[own], self.target[own], self.weights[own])

    def turn(self, rest: F32, joints: F32, above: F32, stiffness: F32) -> F32:
        """Rotations (L, 3, 3) of L limbs about their joints (at ``rest`` (L, 3), now at ``joints``
        (L, 3)) that carry the arms onto the target; they are pulled to ``above`` (L, 3, 3) as
        strongly as ``stiffness`` (L,) says."""
        arms, target = self.arms - rest[self.limb], self.target - joints[self.limb]
        pull = stiffness[:, None, None] * above
        begins = np.flatnonzero(np.diff(self.limb, prepend=-1))
        held = self.limb[begins]
        # However a limb is turned, a point keeps its distance from the joint: that tells right
        # points from wrong ones before any rotation is known.
        square = (_norm(target) - _norm(arms)) ** 2
        turn = above
        for scale in _LIMB_SCALES:
            robust = self.weights / (1 + square / np.float32(scale**2)) ** 2
            moment = pull.copy()
            if len(held):
                outer = target[:, :, None] * (robust[:, None] * arms)[:, None]
                moment[held] += np.add.reduceat(outer, begins)
            turn = nearest_rotations(moment)
            off = _turned(turn[self.limb], arms) - target
            square = (off * off).sum(-1)
        return turn

    def support(self, rest: F32, joints: F32, turn: F32) -> I64:
        """(L,) number of points near their place where the limbs are turned so."""
        arms, target = self.arms - rest[self.limb], self.target - joints[self.limb]
        near = _norm(_turned(turn[self.limb], arms) - target) < _SUPPORT
        return np.bincount(self.limb[near], minlength=len(rest))


def _torso(source: F32, points: F32, weights: F32, generator: torch.Generator) -> tuple[F32, F32]:
    """Rotation (P, 3, 3) and shift (P, 3) from most consistent draws, then reweighted."""
    count, num = weights.shape
    chosen = _draw(weights, _HYPOTHESES * _HYPOTHESIS_POINTS, generator)
    shape = (count, _HYPOTHESES, _HYPOTHESIS_POINTS, 3)
    rows = np.arange(count)
    few, there = (values[rows[:, None], chosen].reshape(shape) for values in (source, points))
    turn, shift = _align(few, there, np.ones(shape[:-1], dtype=np.float32))
    scored = _draw(weights, min(num, _SCORED_POINTS), generator)
    target, arms = points[rows[:, None], scored], source[rows[:, None], scored]
    # All hypotheses in one product: (P, n, 3) @ (P, 3, 3 H).
    stacked = turn.transpose(0, 3, 1, 2).reshape(count, 3, -1)
    off = (arms @ stacked).reshape(count, -1, _HYPOTHESES, 3)
    off += shift[:, None]
    off -= target[:, :, None]
    off *= off
    best = (off.sum(-1) < _TORSO_INLIER**2).sum(1).argmax(1)
    turn, shift = turn[rows, best], shift[rows, best]
    for scale in _TORSO_SCALES:
        off = source @ turn.transpose(0, 2, 1) + shift[:, None] - points
        square = (off * off).sum(-1)
        robust = weights / (1 + square / np.float32(scale**2)) ** 2
        turn, shift = _align(source, points, robust)
    return turn, shift


def _draw(weights: F32, number: int, generator: torch.Generator) -> I64:
    """(P, number) columns of weights (P, N), drawn with their chances."""
    chance = np.maximum(weights, 1e-9).astype(np.float64).cumsum(1)
    level = torch.rand(len(weights), number, generator=generator, dtype=torch.float64).numpy()
    drawn = [
        np.searchsorted(row, draws * row[-1], side="right")
        for row, draws in zip(chance, level, strict=True)
    ]
    return np.minimum(np.reshape(drawn, level.shape), weights.shape[1] - 1).astype(np.int64)


def _align(source: F32, target: F32, weights: F32) -> tuple[F32, F32]:
    """Rotation and shift of (..., N, 3) onto another, weights (..., N) (Kabsch 1976)."""
    share = weights + np.float32(1e-9)
    share /= share.sum(-1, keepdims=True)
    middle = (share[..., None, :] @ source)[..., 0, :]
    goal = (share[..., None, :] @ target)[..., 0, :]
    lever = (target - goal[..., None, :]) * share[..., None]
    turn = nearest_rotations(np.swapaxes(lever, -1, -2) @ (source - middle[..., None, :]))
    return turn, goal - (turn @ middle[..., None])[..., 0]


def _local(turn: F32) -> F32:
    """Rotations relative to the parents, of global ones (P, 24, 3, 3)."""
    local = np.empty(turn.shape, dtype=np.float32)
    local[:, 0] = turn[:, 0]
    local[:, 1:] = turn[:, ABOVE].transpose(0, 1, 3, 2) @ turn[:, 1:]
    return local


def _turned(turn: F32, vectors: F32) -> F32:
    return np.einsum("nij,nj->ni", turn, vectors)


def _norm(vectors: F32) -> NDArray[np.float32]:
    return np.sqrt(np.einsum("...i,...i->...", vectors, vectors))
