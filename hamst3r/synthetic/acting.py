"""What one person does: a pose that suits the body, made by inverse kinematics where hands matter.

Everything is in the person's own frame: the pelvis above the origin, facing -y, z up, metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from hamst3r.synthetic.bodies import Figure, PersonMesh, PersonState
from hamst3r.synthetic.poses import KINDS, sample_pose
from hamst3r.synthetic.props import Prop, bed, held, parcel, seat
from hamst3r.synthetic.skeleton import aim, balanced, flat_feet, forward, reach

F64 = NDArray[np.float64]
STRIDE = 3  # every how many vertices collisions are tested: 2 cm apart at most
SOLO = (*KINDS, "carry")
_SOLO_SHARES = np.array([*KINDS.values(), 0.08]) / 1.08


@dataclass(frozen=True, eq=False)
class Actor:
    """A posed person with what belongs to it, in its own frame.

    Attributes:
        state, mesh: Of the person. props: What carries it. holding: What it has in its hands.
        points: (N, 3) some of the surface, for collisions.
    """

    state: PersonState
    mesh: PersonMesh
    props: tuple[Prop, ...] = ()
    holding: tuple[Prop, ...] = ()

    @property
    def points(self) -> NDArray[np.float32]:
        return self.mesh.vertices[::STRIDE]


def perform(
    rng: np.random.Generator, figure: Figure, kind: str | None = None, gesture: str | None = None
) -> Actor:
    """A person who does something alone: one of ``SOLO``, with one of ``GESTURES`` at times."""
    kind = kind or str(rng.choice(SOLO, p=_SOLO_SHARES))
    rest = figure.rest_joints
    rotations, _ = sample_pose(rng, "stand" if kind == "carry" else kind, heading=0.0)
    if kind == "sit":
        rotations = _seated(rng, rest, rotations)
    elif kind == "balance":
        ankles = forward(rest, rotations)[1][[7, 8], 2]
        rotations = balanced(rest, rotations, (1 if ankles[0] < ankles[1] else -1,))
    elif kind in ("stand", "reach", "bend", "carry", "lunge"):
        rotations = balanced(rest, rotations)
    if kind == "carry":
        rotations = _carrying(rng, rest, rotations)
    elif kind in ("stand", "sit", "walk", "bend", "squat", "lie", "lunge", "kneel"):
        rotations = _gesticulating(rng, rest, rotations, kind, gesture)
    return finish(rng, figure, rotations, kind)


def finish(rng: np.random.Generator, figure: Figure, rotations: F64, kind: str) -> Actor:
    """The actor in a pose, on the floor, with a seat or a bed where the pose needs one."""
    state, mesh = figure.stand_on_floor(rotations, np.zeros(2), 1, kind)
    points = mesh.vertices[::STRIDE]
    if kind in ("lie", "crawl", "kneel"):
        tilt = 0.8 if kind == "lie" else 0.3
        rotations[0] = _rest_on(points, tilt).as_matrix() @ rotations[0]
        state, mesh = figure.stand_on_floor(rotations, np.zeros(2), 1, kind)
        points = mesh.vertices[::STRIDE]
    if kind == "sit":
        chair = seat(rng, mesh.vertices, state.joints[0])
        if chair is None:
            return perform(rng, figure, "stand")
        return Actor(state, mesh, (chair,))
    if kind == "lie" and rng.random() < 0.55:
        height = float(rng.uniform(0.25, 0.75))
        state, mesh = lifted(state, mesh, height)
        return Actor(state, mesh, (bed(rng, points, height),))
    if kind == "carry":
        box = parcel(rng, state.joints[[20, 21]], points)
        return Actor(state, mesh, (), (box,) if box else ())
    if kind in ("stand", "walk") and rng.random() < 0.3:
        thing = _in_hand(rng, state, points)
        return Actor(state, mesh, (), (thing,) if thing else ())
    return Actor(state, mesh)


def _rest_on(points: NDArray, tilt: float) -> Rotation:
    """How a rigid body (N, 3) tips until it lies on the face of its hull nearest to its centre.

    Args:
        tilt: By how much it may tip, radians; it stays as it is where no such face is found.
    """
    points = points.astype(float)
    hull = ConvexHull(points)
    centre = points.mean(0)
    normals, offsets = hull.equations[:, :3], hull.equations[:, 3]
    height = -(normals @ centre + offsets)  # of the centre over each face
    height[normals[:, 2] > -np.cos(tilt)] = np.inf
    face = int(height.argmin())
    return (
        aim(normals[face], np.array([0.0, 0.0, -1.0]))
        if height[face] < np.inf
        else Rotation.identity()
    )


def lifted(state: PersonState, mesh: PersonMesh, by: float) -> tuple[PersonState, PersonMesh]:
    """The same, ``by`` metres higher."""
    return placed(state, mesh, np.array([0.0, 0.0, by]), 0.0, state.id)


def placed(
    state: PersonState, mesh: PersonMesh, by: F64, yaw: float, id: int
) -> tuple[PersonState, PersonMesh]:
    """A person turned about the z axis (radians), then shifted by (3,) metres, under a new id."""
    turn = Rotation.from_euler("z", yaw).as_matrix()
    pelvis = state.joints[0] - state.transl
    rotations = state.rotations.copy()
    rotations[0] = turn @ rotations[0]
    joints = state.joints @ turn.T + by
    state = PersonState(id, state.betas, rotations, joints[0] - pelvis, joints, state.kind)
    turn32, by32 = turn.astype(np.float32), by.astype(np.float32)
    return state, PersonMesh(
        id, mesh.figure, mesh.vertices @ turn32.T + by32, mesh.normals @ turn32.T
    )


def _seated(rng: np.random.Generator, rest: F64, rotations: F64) -> F64:
    """Thighs about level, back upright or leaned, soles level."""
    out = rotations.copy()
    lean = float(np.clip(rng.normal(0.08, 0.15), -0.4, 0.4))  # > 0: backwards
    out[0] = out[0] @ Rotation.from_euler("x", -lean).as_matrix()
    level, forth = np.pi / 2 - lean + rng.normal(0, 0.07), rng.normal(0, 0.2)
    spread = rng.uniform(0.02, 0.3)
    for side, hip, knee in ((1, 1, 4), (-1, 2, 5)):
        turn = Rotation.from_euler("xz", [-level + rng.normal(0, 0.04), side * spread])
        out[hip] = turn.as_matrix()
        bow = np.clip(np.pi / 2 - 0.05 + forth + rng.normal(0, 0.1), 0.6, 1.9)
        out[knee] = Rotation.from_euler("x", bow).as_matrix()
    return flat_feet(rest, out)


def _targets(joints: F64, turn: F64, side: int, rng: np.random.Generator) -> dict[str, F64]:
    """Where a wrist goes for each gesture, in units of the arm's length around the body."""
    shoulder, elbow, wrist, hip, knee = (16, 18, 20, 1, 4) if side > 0 else (17, 19, 21, 2, 5)
    arm = float(
        np.linalg.norm(joints[elbow] - joints[shoulder])
        + np.linalg.norm(joints[wrist] - joints[elbow])
    )
    out, up, front = (turn[9] * arm).T * np.array([[side], [1], [1]])
    thigh = 0.45 * joints[hip] + 0.55 * joints[knee]
    u = rng.uniform
    return {
        "phone": joints[15] + 0.26 * out - 0.12 * up + 0.14 * front,
        "hips": joints[hip] + 0.30 * out + 0.28 * up - 0.03 * front,
        "fold": joints[9] - 0.2 * out - (0.36 + 0.06 * side) * up + 0.44 * front,
        "text": joints[9] + 0.14 * out - 0.45 * up + 0.55 * front,
        "chin": joints[15] + 0.06 * out - 0.34 * up + 0.33 * front,
        "wave": joints[shoulder] + 0.5 * out + u(0.3, 0.8) * up + 0.2 * front,
        "point": joints[shoulder] + u(-0.3, 0.7) * out + u(-0.4, 0.5) * up + 0.85 * front,
        "explain": joints[shoulder] + u(-0.1, 0.4) * out - u(0.2, 0.8) * up + u(0.35, 0.7) * front,
        "behind": joints[0] - 0.02 * out + 0.2 * up - 0.45 * front,
        "pocket": joints[hip] + 0.3 * out - 0.1 * up + 0.12 * front,
        "head": joints[15] + 0.28 * out + 0.25 * up,
        "raise": joints[shoulder] + 0.25 * out + 0.9 * up + 0.15 * front,
        "lap": thigh + np.array([0.0, 0.0, 0.3 * arm]),
        "side": joints[shoulder] + u(0.5, 0.9) * out - u(0.0, 0.5) * up + u(-0.1, 0.3) * front,
    }


# Gestures, how often, and whether both hands make them.
GESTURES = {
    "hang": (5.0, True),
    "phone": (1.0, False),
    "hips": (0.9, True),
    "fold": (0.9, True),
    "text": (1.0, True),
    "chin": (0.7, False),
    "wave": (0.7, False),
    "point": (1.2, False),
    "explain": (1.8, False),
    "behind": (0.4, True),
    "pocket": (1.0, True),
    "head": (0.3, True),
    "raise": (0.4, True),
    "side": (0.4, True),
    "lap": (0.0, True),
}


def _gesticulating(
    rng: np.random.Generator, rest: F64, rotations: F64, kind: str, gesture: str | None
) -> F64:
    """Rotations with the arms in a gesture that keeps out of the trunk, if one is found."""
    names = list(GESTURES)
    chances = np.array([GESTURES[name][0] for name in names])
    if kind == "walk":
        chances[names.index("hang")] = 25.0
    if kind == "lie":
        chances[[names.index("behind"), names.index("hang")]] = 0.0, 15.0
    if kind == "sit":
        chances[names.index("lap")] = 6.0
        chances[[names.index(name) for name in ("pocket", "behind", "hips")]] = 0.0
    for _ in range(4):
        name = gesture or str(rng.choice(names, p=chances / chances.sum()))
        out = rotations
        if name != "hang":
            both = GESTURES[name][1] and (name in ("fold", "text", "behind") or rng.random() < 0.6)
            sides = (1, -1) if both else (int(rng.choice([1, -1])),)
            for side in sides:
                turn, joints = forward(rest, out)
                target = _targets(joints, turn, side, rng)[name]
                out = reach(rest, out, side, target, 1.2 if name in ("hips", "fold") else 0.35)
        if arms_clear(rest, out):
            return out
        gesture = None
    return rotations


def arms_clear(rest: F64, rotations: F64) -> bool:
    """Whether elbows, forearms and hands stay out of the trunk (an elliptic tube)."""
    turn, joints = forward(rest, rotations)
    width = float(np.linalg.norm(rest[16] - rest[17])) / 2
    for side in (0, 1):
        elbow, wrist, hand = joints[18 + side], joints[20 + side], joints[22 + side]
        points = np.stack([elbow, (elbow + wrist) / 2, wrist, hand, 2 * hand - wrist])
        for joint in (3, 9):
            local = (points - joints[joint]) @ turn[joint]
            local[:, 2] -= 0.15 * width  # the chest is before the spine
            tube = (local[:, 0] / (0.88 * width)) ** 2 + (local[:, 2] / (0.82 * width)) ** 2 < 1
            if (tube & (abs(local[:, 1]) < 1.1 * width)).any():
                return False
    return True


def _carrying(rng: np.random.Generator, rest: F64, rotations: F64) -> F64:
    """Both hands at the sides of a box before the chest or the belly."""
    joints = forward(rest, rotations)[1]
    arm = float(np.linalg.norm(rest[20] - rest[16]))
    width, drop = rng.uniform(0.55, 0.95) * arm, rng.uniform(0.2, 0.85) * arm
    ahead = rng.uniform(0.55, 0.75) * arm
    middle = (joints[16] + joints[17]) / 2 + np.array([0.0, -ahead, -drop])
    out = rotations
    for side in (1, -1):
        out = reach(rest, out, side, middle + np.array([side * width / 2, 0.0, 0.0]), 0.1)
    for side, wrist in ((1, 20), (-1, 21)):  # straight hands, palms to each other
        out[wrist] = Rotation.from_euler("z", side * 0.1).as_matrix()
    return out


def _in_hand(rng: np.random.Generator, state: PersonState, points: NDArray) -> Prop | None:
    """What the lower hand carries, if the body is not in its way."""
    hands = state.joints[[22, 23]]
    hand = hands[int(rng.integers(2))]
    hangs = hand[2] < state.joints[0, 2] + 0.05
    kinds = ("bag", "bag", "stick", "cup") if hangs else ("phone", "cup", "tray", "stick")
    kind = str(rng.choice(kinds))
    size = float(np.clip(state.joints[15, 2] / 1.6, 0.5, 1.1))
    prop = held(rng, kind, hand, size)
    away = np.linalg.norm(points - hand, axis=1) > 0.16  # but for the hand itself
    return prop if prop.clear_of(points[away]) else None
