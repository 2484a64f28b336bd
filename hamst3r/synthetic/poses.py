"""Poses of people: joint rotations in SMPL's axes (x left, y up, z front) from simple limits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.people.body import NUM_JOINTS
from hamst3r.synthetic.skeleton import aim

F64 = NDArray[np.float64]
# Kinds of poses, and how often they are drawn.
KINDS = {
    "stand": 0.24,
    "walk": 0.18,
    "sit": 0.15,
    "bend": 0.08,
    "reach": 0.09,
    "squat": 0.05,
    "lie": 0.05,
    "any": 0.06,
    "balance": 0.04,
    "lunge": 0.02,
    "kneel": 0.02,
    "crawl": 0.02,
}
# y up (SMPL) to z up (world); a person then faces -y.
UPRIGHT = Rotation.from_euler("x", np.pi / 2)


def arm(side: float, direction: F64, twist: float, elbow: float) -> tuple[Rotation, Rotation]:
    """Rotations of shoulder and elbow: upper arm along ``direction`` (chest axes).

    Args:
        side: +1 left, -1 right. twist: About the upper arm, radians.
        elbow: Flexion in radians, >= 0.
    """
    rest = np.array([side, 0.0, 0.0])
    shoulder = aim(rest, direction) * Rotation.from_rotvec(rest * twist)
    return shoulder, Rotation.from_euler("y", -side * elbow)


def gait(phase: float, stride: float = 1.0) -> F64:
    """(24, 3, 3) local rotations of a walk cycle without the root (identity).

    Args:
        phase: Radians; the left foot is in front at pi / 2. stride: 1 = an ordinary step.
    """
    turns = [Rotation.identity()] * NUM_JOINTS
    for side, hip, knee, ankle, shoulder, elbow in (
        (1.0, 1, 4, 7, 16, 18),
        (-1.0, 2, 5, 8, 17, 19),
    ):
        own = phase if side > 0 else phase + np.pi
        # Nearly a triangle wave: a planted foot moves back as steadily as the body goes on.
        swing = 0.31 * stride * np.arcsin(0.96 * np.sin(own))
        lift = max(0.0, np.cos(own + 0.3))  # the leg bends while it moves forward
        turns[hip] = Rotation.from_euler("zx", [side * 0.03, -swing - 0.25 * stride * lift])
        turns[knee] = Rotation.from_euler("x", 0.1 + 0.95 * stride * lift)
        turns[ankle] = Rotation.from_euler("x", -0.05 + 0.25 * stride * min(0.0, np.sin(own)) * -1)
        back = -0.45 * stride * np.sin(own)
        turns[shoulder] = Rotation.from_euler("x", -back) * Rotation.from_euler("z", -side * 1.42)
        turns[elbow] = Rotation.from_euler("y", -side * (0.3 + 0.2 * np.sin(own + np.pi)))
    turns[3] = Rotation.from_euler("xy", [0.04, 0.06 * stride * np.sin(phase)])
    turns[9] = Rotation.from_euler("y", -0.10 * stride * np.sin(phase))
    return np.stack([turn.as_matrix() for turn in turns])


def _arm_direction(rng: np.random.Generator, side: float, kind: str) -> tuple[F64, float]:
    out = np.array([side, 0.0, 0.0])
    up, front = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    mode = rng.choice(5, p=[0.5, 0.22, 0.1, 0.1, 0.08])
    if kind in ("reach", "balance"):
        mode = rng.choice([1, 2, 3])
    if kind == "crawl":
        return front + out * rng.uniform(-0.1, 0.2) + up * rng.normal(0.1, 0.15), 0.1
    if mode == 0:
        return -up + out * rng.uniform(0.08, 0.4) + front * rng.normal(0.05, 0.15), 1.9 * (
            rng.random() ** 2
        )
    if mode == 1:
        return front + out * rng.uniform(-0.2, 0.5) + up * rng.uniform(-1.0, 0.4), rng.uniform(
            0, 1.9
        )
    if mode == 2:
        return out + up * rng.uniform(-0.8, 0.4) + front * rng.normal(0, 0.3), rng.uniform(0, 1.8)
    if mode == 3:
        return up + out * rng.uniform(0.1, 0.8) + front * rng.uniform(-0.1, 0.6), rng.uniform(
            0, 1.8
        )
    free = rng.normal(size=3)
    return free / np.linalg.norm(free) + out * 0.7 + front * 0.4, rng.uniform(0, 2.0)


# Ranges of the flexion of both hips, radians; for lying people, above 0.5 the knees are drawn up.
_HIPS = {
    "sit": (1.25, 1.65),
    "squat": (1.2, 2.0),
    "bend": (0.2, 0.9),
    "any": (-0.4, 1.4),
    "lie": (0.0, 1.1),
    "crawl": (1.15, 1.5),
}


def _leg(
    rng: np.random.Generator, kind: str, both: float, ahead: bool
) -> tuple[float, float, float]:
    """Flexion and spread of a hip and flexion of the knee; ``ahead``: the leg that does more."""
    u, flex = rng.uniform, both + rng.normal(0, 0.06)
    if kind == "sit":
        return flex, u(0.0, 0.3), flex + rng.normal(0, 0.15) - 0.05
    if kind == "squat":
        return flex, u(0.1, 0.45), flex * u(1.0, 1.15)
    if kind == "any":
        return u(-0.4, 1.4), u(0.0, 0.4), u(0.0, 1.7)
    if kind == "lie":
        flex = u(0.0, 0.15) if both < 0.5 else both + rng.normal(0, 0.15)
        return flex, u(0.0, 0.16), flex * u(1.4, 2.0)
    if kind == "balance":
        return (u(-0.6, 1.5), u(0.0, 0.8), u(0.1, 1.7)) if ahead else (flex, 0.02, u(0.0, 0.3))
    if kind == "lunge":
        front = u(0.7, 1.3)
        return (front, u(0.0, 0.2), front) if ahead else (-u(0.3, 0.6), u(0.0, 0.2), u(0.1, 0.6))
    if kind == "kneel":
        front = u(1.35, 1.65)
        return (front, u(0.0, 0.3), front) if ahead else (u(-0.1, 0.2), 0.05, u(1.5, 1.8))
    if kind == "crawl":
        return flex, u(0.0, 0.2), both + u(0.1, 0.3)
    return flex, u(0.0, 0.16), u(0.0, 0.15)


def sample_pose(
    rng: np.random.Generator, kind: str | None = None, heading: float | None = None
) -> tuple[F64, str]:
    """Rotations (24, 3, 3), the root's global in a z-up world, and the kind.

    Args:
        heading: Radians about z from facing -y; default any.

    Raises:
        ValueError: ``kind`` is not one of ``KINDS``.
    """
    if kind is None:
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    if kind not in KINDS:
        raise ValueError(f"a pose is one of {', '.join(KINDS)}, got {kind!r}")
    euler = Rotation.from_euler
    turns = [Rotation.identity()] * NUM_JOINTS
    bend = rng.normal(0.06, 0.1) + (rng.uniform(0.3, 0.9) if kind == "bend" else 0.0)
    bend *= 0.4 if kind == "lie" else 1.0
    twist, lean = rng.normal(0, 0.1), rng.normal(0, 0.05)
    for joint in (3, 6, 9):
        turns[joint] = euler("xyz", [bend / 3 * 1.3, twist, lean])
    turns[12] = euler("xyz", rng.normal(0, [0.12, 0.2, 0.08]))
    turns[15] = euler("xyz", rng.normal(0, [0.18, 0.3, 0.1]))
    step = gait(rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.3)) if kind == "walk" else None
    both, ahead = rng.uniform(*_HIPS.get(kind, (-0.05, 0.1))), rng.choice([-1.0, 1.0])
    # On the back more often than on the belly, at times on a side.
    rolled = rng.choice([0.0, np.pi / 2, np.pi, -np.pi / 2], p=[0.6, 0.1, 0.2, 0.1])
    if kind == "lie" and rolled:
        both *= 0.3
    for side, hip, knee, ankle, collar, shoulder, elbow, wrist in (
        (1.0, 1, 4, 7, 13, 16, 18, 20),
        (-1.0, 2, 5, 8, 14, 17, 19, 21),
    ):
        direction, flexion = _arm_direction(rng, side, kind)
        turns[shoulder], turns[elbow] = arm(side, direction, rng.normal(0, 0.4), flexion)
        raised = float(np.clip(direction[1] / np.linalg.norm(direction), -0.2, 1.0))
        turns[collar] = euler("z", side * 0.22 * raised)
        turns[wrist] = euler("xyz", rng.normal(0, [0.25, 0.2, 0.25]))
        flex, spread, bow = _leg(rng, kind, both, side == ahead)
        turns[hip] = euler("xz", [-flex, side * spread]) * euler("y", rng.normal(0.05 * side, 0.12))
        turns[knee] = euler("x", bow)
        tilt = (flex - bow) * (0.9 if kind == "squat" else 0.1)
        turns[ankle] = euler("x", float(np.clip(tilt + rng.normal(0, 0.08), -0.5, 0.5)))
    root = euler("z", rng.uniform(0, 2 * np.pi) if heading is None else heading) * UPRIGHT
    if kind == "lie":
        root = root * euler("x", -np.pi / 2) * euler("y", rolled + rng.normal(0, 0.2))
    elif kind == "bend":
        root = root * euler("x", 0.5 * both)
    elif kind == "squat":
        root = root * euler("x", rng.uniform(0.15, 0.4))
    elif kind == "crawl":
        root = root * euler("x", rng.uniform(1.2, 1.45))
    elif kind == "balance":
        root = root * euler("xz", rng.normal(0, 0.25, 2))
    rotations = np.stack([turn.as_matrix() for turn in turns])
    if step is not None:
        legs_and_arms = [1, 2, 4, 5, 7, 8, 16, 17, 18, 19]
        rotations[legs_and_arms] = step[legs_and_arms]
    rotations[0] = root.as_matrix()
    return rotations, kind
