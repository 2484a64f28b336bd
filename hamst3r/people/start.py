"""A first body from labelled points, in closed form: the torso, then limb by limb down the tree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hamst3r.people.body import NUM_JOINTS, PARENTS
from hamst3r.people.kinematics import F32, I64, Pose, Surface, hats, nearest_rotations, skeleton

# Parts that hardly move against each other (pelvis, spine, neck, collars), then what hangs on
# them, level by level.
_TORSO = (0, 3, 6, 9, 12, 13, 14)
_LEVELS = ((1, 2, 15, 16, 17), (4, 5, 18, 19), (7, 8, 20, 21), (10, 11, 22, 23))
_ORDER = np.array([joint for level in (_TORSO, *_LEVELS) for joint in level])
_RANK = np.argsort(_ORDER)  # of each joint
_ENDS = np.cumsum([len(_TORSO), *map(len, _LEVELS)]).tolist()
_ABOVE = _RANK[np.array(PARENTS)[_ORDER]]  # ranks of the parents; the root has none
_TORSO_POINTS = 60  # with fewer, all points are taken for the torso's
_HYPOTHESES = 96
_SCORED_POINTS = 200
_TORSO_INLIER = 0.15  # metres
_TORSO_SCALES = (0.18, 0.126, 0.088, 0.062)  # metres, of the robust weight, shrinking
_LIMB_SCALES = (0.1, 0.25, 0.15)
# Pull towards the parent's rotation, against the square sum of the part's points (m^2): strong
# where a part is nearly round or stiff, weak where its own points tell more.
_STIFFNESS = np.full(NUM_JOINTS, 0.06, dtype=np.float32)
_STIFFNESS[_RANK[[10, 11, 22, 23]]] = 0.3
_STIFFNESS[_RANK[15]] = 0.15
_LOOSE = 1e-3  # the same where a limb is looked for anew
_LEVI_CIVITA = hats(np.eye(3, dtype=np.float32)).transpose(1, 0, 2)
_SUPPORT, _MIN_SUPPORT = 0.1, 4  # metres, points: what makes another turn of a limb better


def analytic_start(surface: Surface, points: F32, weights: F32, generator: torch.Generator) -> Pose:
    """Mean-shape bodies near the points.

    Args:
        surface: Of the points' vertices, valid everywhere. points: (P, 3, N) world metres, finite.
        weights: (P, N) >= 0, zero for points to ignore.
        generator: Draws the hypotheses.
    """
    rig, count, first = surface.rig, len(points), _ENDS[0]
    rest = rig.joints[_ORDER]
    turns = np.empty((NUM_JOINTS, count, 3, 3), dtype=np.float32)
    places = np.empty((NUM_JOINTS, count, 3), dtype=np.float32)
    turn, shift = _torso(surface, points, weights, generator)
    turns[:first], places[:first] = turn, (turn @ rest[:first, None, :, None])[..., 0] + shift
    points_of = _Limbs.of(surface, surface.template, points, weights)
    for last in _ENDS[1:]:
        parents = _ABOVE[first:last]
        above = turns[parents]
        bones = rest[first:last] - rest[parents]
        places[first:last] = places[parents] + (above @ bones[:, None, :, None])[..., 0]
        own = np.broadcast_to(rest[first:last, None], above.shape[:3])
        limbs = points_of.about(first, own, places[first:last])
        turns[first:last] = limbs.turn(above, _STIFFNESS[first:last])
        first = last
    local = turns[_ABOVE].swapaxes(2, 3) @ turns
    local[0] = turn
    betas = np.zeros((count, rig.num_betas), dtype=np.float32)
    return Pose(_by_person(local), places[0] - rest[0], betas)


def reconsider_limbs(pose: Pose, surface: Surface, points: F32, weights: F32) -> Pose:
    """Limbs turned anew, in closed form about the joints of ``pose``, where more of their points
    then agree: robust steps do not find the way from a pose that few points support.

    Args:
        surface, points, weights: As for :func:`analytic_start`.
    """
    turn, places = skeleton(surface.rig, pose)
    turn, places = _by_rank(turn), _by_rank(places)
    first, rest = _ENDS[0], _by_rank(surface.rig.rest_joints(pose.betas))
    limbs = _Limbs.of(surface, surface.shaped(pose), points, weights)
    limbs = limbs.about(first, rest[first:], places[first:])
    above, now = turn[_ABOVE[first:]], turn[first:]
    found = limbs.turn(above, np.full(len(now), _LOOSE, dtype=np.float32))
    before, after = limbs.support(now), limbs.support(found)
    better = (after >= _MIN_SUPPORT) & (after > before + 2)
    if not better.any():
        return pose
    local = _by_rank(pose.rotations)
    local[first:][better] = (above.swapaxes(2, 3) @ found)[better]
    return Pose(_by_person(local), pose.transl, pose.betas)


@dataclass(frozen=True, eq=False)
class _Limbs:
    """Usable points of P people in the order of the limbs they are on.

    Attributes:
        people: P.
        limb: (M,) ascending: rank of the limb, from the first one meant, times P, plus person.
        arms, target: (M, 3) at rest and in the world, metres, seen from ``about``.
        weights: (M,).
    """

    people: int
    limb: I64
    arms: F32
    target: F32
    weights: F32

    @staticmethod
    def of(surface: Surface, shaped: F32, points: F32, weights: F32) -> _Limbs:
        """All points; ``shaped`` (P, 3, N) metres are their places at rest."""
        person, point = np.nonzero(weights)
        limb = _RANK[surface.rig.part[surface.vertices[person, point]]] * len(weights) + person
        order = np.argsort(limb, kind="stable")
        own = person[order], slice(None), point[order]
        return _Limbs(len(weights), limb[order], shaped[own], points[own], weights[own[::2]])

    def about(self, first: int, rest: F32, joints: F32) -> _Limbs:
        """Those of the limbs from rank ``first`` on, as many as there are ``joints`` (L, P, 3) from
        which they are seen in the world; at rest (L, P, 3)."""
        bounds = self.people * np.array([first, first + len(joints)])
        own = slice(*np.searchsorted(self.limb, bounds))
        limb = self.limb[own] - bounds[0]
        rank, person = np.divmod(limb, self.people)
        arms = self.arms[own] - rest[rank, person]
        target = self.target[own] - joints[rank, person]
        return _Limbs(self.people, limb, arms, target, self.weights[own])

    def turn(self, above: F32, stiffness: F32) -> F32:
        """Rotations (L, P, 3, 3) of the limbs that carry the arms onto the targets; they are pulled
        to ``above`` (L, P, 3, 3) as strongly as ``stiffness`` (L,) says."""
        if not len(self.limb):
            return above
        begins = np.flatnonzero(np.append(True, self.limb[1:] != self.limb[:-1]))
        held = self.limb[begins]
        pull = (stiffness[:, None, None, None] * above).reshape(-1, 3, 3)
        # However a limb is turned, a point keeps its distance from the joint: that tells right
        # points from wrong ones before any rotation is known.
        square = (np.sqrt(_square(self.target)) - np.sqrt(_square(self.arms))) ** 2
        turn = above
        for scale in _LIMB_SCALES:
            robust = self.weights / (1 + square / np.float32(scale**2)) ** 2
            outer = (robust[:, None] * self.target)[:, :, None] * self.arms[:, None]
            moment = pull.copy()
            moment[held] += np.add.reduceat(outer, begins)
            turn = nearest_rotations(moment).reshape(above.shape)
            square = self._off(turn)
        return turn

    def support(self, turn: F32) -> I64:
        """(L, P) number of points near their targets with limbs turned so (L, P, 3, 3)."""
        near = self.limb[self._off(turn) < _SUPPORT**2]
        return np.bincount(near, minlength=len(turn) * self.people).reshape(turn.shape[:2])

    def _off(self, turn: F32) -> F32:
        turn = turn.reshape(-1, 3, 3)[self.limb]
        return _square(np.einsum("nij,nj->ni", turn, self.arms) - self.target)


def _torso(
    surface: Surface, points: F32, weights: F32, generator: torch.Generator
) -> tuple[F32, F32]:
    """Rotation (P, 3, 3) and shift (P, 3) from most consistent draws, then reweighted."""
    count, number = weights.shape
    torso = (_RANK[surface.rig.part[surface.vertices]] < len(_TORSO)) * weights
    few = (torso > 0).sum(1, keepdims=True) < _TORSO_POINTS
    torso = np.where(few, weights, torso)
    scored = min(number, _SCORED_POINTS)
    drawn = _draw(torso, 3 * _HYPOTHESES + scored, generator)
    rows = np.arange(count)[:, None]
    source, target = surface.template[rows, :, drawn], points[rows, :, drawn]  # (P, draws, 3)
    corners = (count, _HYPOTHESES, 3, 3)
    a, b = (values[:, scored:].reshape(corners) for values in (source, target))
    turn = _frames(b) @ _frames(a).swapaxes(2, 3)
    shift = b.mean(2) - (turn @ a.mean(2)[..., None])[..., 0]
    arms, there = source[:, :scored].swapaxes(1, 2), target[:, :scored].swapaxes(1, 2)
    off = turn @ arms[:, None]
    off += shift[..., None]
    off -= there[:, None]
    best = (np.einsum("phcn,phcn->phn", off, off) < _TORSO_INLIER**2).sum(-1).argmax(1)
    turn, shift = turn[rows[:, 0], best], shift[rows[:, 0], best]
    for scale in _TORSO_SCALES:
        off = turn @ surface.template + shift[..., None] - points
        square = np.einsum("pcn,pcn->pn", off, off)
        robust = torso / (1 + square / np.float32(scale**2)) ** 2
        turn, shift = _align(surface.template, points, robust)
    return turn, shift


def _draw(weights: F32, number: int, generator: torch.Generator) -> I64:
    """(P, number) columns of weights (P, N), drawn with their chances."""
    chance = np.maximum(weights, 1e-9).astype(np.float64).cumsum(1)
    level = torch.rand(len(weights), number, generator=generator).numpy() * chance[:, -1:]
    pairs = zip(chance, level, strict=True)
    drawn = np.array([np.searchsorted(row, draws, side="right") for row, draws in pairs])
    return np.minimum(drawn.reshape(level.shape), weights.shape[1] - 1)


def _frames(corners: F32) -> F32:
    """(..., 3, 3) axes along a triangle's first side and its normal, corners (..., 3, 3)."""
    side = corners[..., 1, :] - corners[..., 0, :]
    normal = _cross(side, corners[..., 2, :] - corners[..., 0, :])
    tiny = np.float32(1e-12)  # of a degenerate triangle, which nothing will agree with
    side /= np.sqrt(np.maximum(_square(side), tiny))[..., None]
    normal /= np.sqrt(np.maximum(_square(normal), tiny))[..., None]
    return np.stack([side, normal, _cross(side, normal)], -1)


def _cross(a: F32, b: F32) -> F32:
    return np.einsum("...i,...j,ijk->...k", a, b, _LEVI_CIVITA)


def _align(source: F32, target: F32, weights: F32) -> tuple[F32, F32]:
    """Rotation and shift of (P, 3, N) onto another, weights (P, N) (Kabsch 1976)."""
    share = weights + np.float32(1e-9)
    share /= share.sum(1, keepdims=True)
    middle, goal = source @ share[..., None], target @ share[..., None]
    turn = nearest_rotations(((target - goal) * share[:, None]) @ (source - middle).swapaxes(1, 2))
    return turn, (goal - turn @ middle)[..., 0]


def _by_rank(values: F32) -> F32:
    """(24, P, ...) in the order of the ranks, of (P, 24, ...)."""
    return values.swapaxes(0, 1)[_ORDER]


def _by_person(values: F32) -> F32:
    """(P, 24, ...) in the order of the joints, of (24, P, ...)."""
    return np.ascontiguousarray(values[_RANK].swapaxes(0, 1))


def _square(vectors: F32) -> F32:
    return np.einsum("...i,...i->...", vectors, vectors)
