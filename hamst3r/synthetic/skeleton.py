"""Forward and inverse kinematics of the 24 joints, in numpy, one person at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.people.body import NUM_JOINTS, PARENTS

F64 = NDArray[np.float64]
# Share of the body's mass near each joint, in per cent; what is left out weighs little.
_MASS = np.zeros(NUM_JOINTS)
_MASS[[0, 3, 6, 9, 15]] = 20, 12, 12, 14, 7
_MASS[[1, 2, 4, 5, 7, 8]] = 7, 7, 5, 5, 2.5, 2.5
_MASS[[18, 19, 20, 21]] = 2, 2, 1, 1
_MASS /= _MASS.sum()


def aim(rest: F64, target: F64) -> Rotation:
    """The shortest rotation that turns direction ``rest`` (3,) to ``target`` (3,)."""
    rest = rest / np.linalg.norm(rest)
    target = target / np.linalg.norm(target)
    axis = np.cross(rest, target)
    sine, cosine = float(np.linalg.norm(axis)), float(rest @ target)
    if sine < 1e-8:
        return Rotation.identity() if cosine > 0 else Rotation.from_rotvec([0, np.pi, 0])
    return Rotation.from_rotvec(axis / sine * np.arctan2(sine, cosine))


def forward(rest: F64, rotations: F64) -> tuple[F64, F64]:
    """Global rotations (24, 3, 3) and joints (24, 3), the pelvis where it is at rest.

    Args:
        rest: (24, 3) joints at rest, metres. rotations: (24, 3, 3) local, the root's global.
    """
    turn, place = np.empty((NUM_JOINTS, 3, 3)), np.empty((NUM_JOINTS, 3))
    turn[0], place[0] = rotations[0], rest[0]
    for joint in range(1, NUM_JOINTS):
        parent = PARENTS[joint]
        turn[joint] = turn[parent] @ rotations[joint]
        place[joint] = place[parent] + turn[parent] @ (rest[joint] - rest[parent])
    return turn, place


def reach(rest: F64, rotations: F64, side: int, target: F64, outward: float = 0.3) -> F64:
    """Rotations with shoulder and elbow of one arm set so that the wrist gets to ``target``.

    Args:
        rest, rotations: As in :func:`forward`. side: +1 the left arm, -1 the right one.
        target: (3,) in the frame of :func:`forward`'s joints; if too far, the arm points to it.
        outward: How far the elbow keeps from the body (0: straight below shoulder and hand).
    """
    collar, shoulder, elbow, wrist = (13, 16, 18, 20) if side > 0 else (14, 17, 19, 21)
    turn, place = forward(rest, rotations)
    base = turn[collar]
    way = base.T @ (np.asarray(target, float) - place[shoulder])
    upper, lower = rest[elbow] - rest[shoulder], rest[wrist] - rest[elbow]
    a, b = np.linalg.norm(upper), np.linalg.norm(lower)
    distance = float(np.clip(np.linalg.norm(way), abs(a - b) + 0.02, a + b - 1e-3))
    # The length of upper + R_y(angle) lower is the distance: m cos + n sin of the angle = k.
    m = upper[0] * lower[0] + upper[2] * lower[2]
    n = upper[0] * lower[2] - upper[2] * lower[0]
    k = (distance**2 - a * a - b * b) / 2 - upper[1] * lower[1]
    half = np.arccos(np.clip(k / np.hypot(m, n), -1, 1))
    flexion = half - side * np.arctan2(n, m)
    bent = Rotation.from_euler("y", -side * float(np.clip(flexion, 0.0, 2.6)))
    straight = aim(upper + bent.apply(lower), way)
    axis = way / np.linalg.norm(way)
    # Of all elbows on the circle about shoulder and hand: low, and a little outward.
    swivels = Rotation.from_rotvec(axis[None] * np.linspace(-np.pi, np.pi, 25)[:, None])
    elbows = swivels.apply(straight.apply(upper)) @ base.T
    side_axis = turn[9] @ np.array([float(side), 0.0, 0.0])
    cost = elbows[:, 2] - outward * (elbows @ side_axis)
    out = rotations.copy()
    out[shoulder] = (swivels[int(cost.argmin())] * straight).as_matrix()
    out[elbow] = bent.as_matrix()
    return out


def flat_feet(rest: F64, rotations: F64, sides: tuple[int, ...] = (1, -1)) -> F64:
    """Rotations with the ankles turned, as far as ankles go, so that the soles are level."""
    out = rotations.copy()
    turn, _ = forward(rest, rotations)
    for side in sides:
        knee, ankle = (4, 7) if side > 0 else (5, 8)
        front = turn[knee] @ rotations[ankle] @ np.array([0.0, 0.0, 1.0])
        yaw = np.arctan2(front[0], -front[1])
        level = Rotation.from_euler("z", yaw) * Rotation.from_euler("x", np.pi / 2)
        wanted = (Rotation.from_matrix(turn[knee]).inv() * level).as_rotvec()
        angle = float(np.linalg.norm(wanted))
        wanted *= min(1.0, 0.65 / max(angle, 1e-9))
        out[ankle] = Rotation.from_rotvec(wanted).as_matrix()
    return out


def balanced(rest: F64, rotations: F64, sides: tuple[int, ...] = (1, -1)) -> F64:
    """Rotations leaned as a whole until the weight is over the feet of ``sides``, soles level."""
    out = rotations.copy()
    feet = [j for side in sides for j in ((7, 10) if side > 0 else (8, 11))]
    for _ in range(3):
        _, place = forward(rest, out)
        offset = (_MASS @ place)[:2] - place[feet, :2].mean(0)
        height = float((_MASS @ place)[2] - place[feet, 2].min())
        angle = np.clip(offset / max(height, 0.3), -0.25, 0.25)
        # Towards +x the body falls about +y, towards +y about -x.
        lean = Rotation.from_rotvec([angle[1], -angle[0], 0.0])
        out[0] = (lean * Rotation.from_matrix(out[0])).as_matrix()
        out = flat_feet(rest, out, sides)
    return out
