"""People who do something together, in a frame of their own that is put into a place later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hamst3r.synthetic.acting import Actor, perform, placed
from hamst3r.synthetic.bodies import Figure
from hamst3r.synthetic.meshes import yaw_matrix
from hamst3r.synthetic.props import HELD, Prop, bench, platform, seat_height, table
from hamst3r.synthetic.skeleton import forward, reach

F64 = NDArray[np.float64]
GAP = 0.04  # metres between tested points of two people; true surfaces are 1 cm nearer at most
NewFigure = Callable[[], Figure]


@dataclass(frozen=True, eq=False)
class Member:
    """An actor's place in a group: at (x, y), turned by ``yaw`` from facing -y."""

    actor: Actor
    x: float
    y: float
    yaw: float

    def points(self, all: bool = False) -> F64:
        """(N, 3) of the surface in the group's frame; some of it, or all vertices."""
        own = self.actor.mesh.vertices if all else self.actor.points
        return moved(own, self.x, self.y, self.yaw)

    def props(self, held: bool = True) -> tuple[Prop, ...]:
        """What belongs to the actor, in the group's frame."""
        own = self.actor.props + (self.actor.holding if held else ())
        return tuple(prop.moved(self.x, self.y, self.yaw) for prop in own)


@dataclass(frozen=True, eq=False)
class Group:
    """Members and what they share, in the group's frame."""

    kind: str
    members: tuple[Member, ...]
    shared: tuple[Prop, ...] = field(default=())


def moved(points: NDArray, x: float, y: float, yaw: float) -> F64:
    """Points (N, 3) turned about the z axis, then shifted."""
    out: F64 = points @ yaw_matrix(yaw).T + np.array([x, y, 0.0])
    return out


def apart(a: NDArray, b: NDArray, gap: float = GAP) -> bool:
    """Whether all of points a (N, 3) keep ``gap`` metres from all of b (M, 3)."""
    low = np.maximum(a.min(0), b.min(0)) - gap
    high = np.minimum(a.max(0), b.max(0)) + gap
    if (low > high).any():
        return True
    a = a[((a >= low) & (a <= high)).all(1)]
    b = b[((b >= low) & (b <= high)).all(1)]
    if len(a) == 0 or len(b) == 0:
        return True
    return not bool(np.isfinite(cKDTree(b).query(a, distance_upper_bound=gap)[0]).any())


def compatible(a: Member, b: Member, gap: float = GAP) -> bool:
    """Whether two members and their things do not meet."""
    pa, pb = a.points(), b.points()
    if not apart(pa, pb, gap):
        return False
    if not all(prop.clear_of(pb) for prop in a.props()):
        return False
    if not all(prop.clear_of(pa) for prop in b.props()):
        return False
    return not any(
        s.overlaps(t) for p in a.props() for q in b.props() for s in p.solids for t in q.solids
    )


def _facing(direction: Sequence[float] | NDArray) -> float:
    """The yaw of somebody who looks along (x, y)."""
    return float(np.arctan2(direction[1], direction[0]) + np.pi / 2)


def _spread(kind: str, members: list[Member]) -> Group:
    """Move members away from the middle until nobody touches anybody; who still does, leaves."""
    kept: list[Member] = []
    for member in members:
        for step in range(7):
            grow = 1.0 + 0.12 * step
            trial = Member(member.actor, member.x * grow, member.y * grow, member.yaw)
            if all(compatible(trial, other) for other in kept):
                kept.append(trial)
                break
    return Group(kind, tuple(kept))


def alone(rng: np.random.Generator, new: NewFigure, count: int) -> Group:
    """One person."""
    return Group("alone", (Member(perform(rng, new()), 0.0, 0.0, 0.0),))


def talk(rng: np.random.Generator, new: NewFigure, count: int) -> Group:
    """Standing or sitting around nothing, looking at each other."""
    members, start = [], rng.uniform(0, 2 * np.pi)
    radius = rng.uniform(0.32, 0.8) * (1.0 if count < 3 else count / 2.4)
    for k in range(count):
        angle = start + 2 * np.pi * (k + rng.normal(0, 0.08)) / count
        way = np.array([np.cos(angle), np.sin(angle)])
        kind = "sit" if rng.random() < 0.12 else "stand"
        yaw = _facing(-way) + rng.normal(0, 0.25)
        x, y = radius * way
        members.append(Member(perform(rng, new(), kind), x, y, yaw))
    return _spread("talk", members)


def line(rng: np.random.Generator, new: NewFigure, count: int) -> Group:
    """One behind the other: they hide each other from many sides."""
    step = rng.uniform(0.45, 0.9)
    members = []
    for k in range(count):
        actor = perform(rng, new(), str(rng.choice(["stand", "stand", "walk", "carry"])))
        y = step * (k - (count - 1) / 2)
        members.append(Member(actor, rng.normal(0, 0.08), y, rng.normal(0, 0.2)))
    return _spread("line", members)


def stroll(rng: np.random.Generator, new: NewFigure, count: int) -> Group:
    """Side by side the same way."""
    step = rng.uniform(0.5, 0.85)
    members = []
    for k in range(count):
        actor = perform(rng, new(), "walk")
        x = step * (k - (count - 1) / 2)
        members.append(Member(actor, x, rng.normal(0, 0.15), rng.normal(0, 0.12)))
    return _spread("stroll", members)


def crowd(rng: np.random.Generator, new: NewFigure, count: int) -> Group:
    """Close together, each with something of their own to do."""
    width = 0.35 * np.sqrt(count)
    members = []
    for _ in range(count):
        kind = str(rng.choice(["stand", "walk", "reach", "carry", "squat", "bend"]))
        actor = perform(rng, new(), kind)
        x, y = rng.normal(0, width, 2)
        members.append(Member(actor, x, y, rng.uniform(0, 6.3)))
    return _spread("crowd", members)


def row(rng: np.random.Generator, new: NewFigure, count: int) -> Group:
    """Side by side on a bench or couch that suits the tallest; children's feet may hang."""
    members: list[Member] = []
    for k in range(count):
        actor = perform(rng, new(), "sit")
        if actor.state.kind != "sit" or not actor.props:
            continue
        x = rng.uniform(0.5, 0.75) * k
        trial = Member(Actor(actor.state, actor.mesh), x, 0.0, rng.normal(0, 0.04))
        while members and not apart(trial.points(), members[-1].points()):
            trial = Member(trial.actor, trial.x + 0.06, 0.0, trial.yaw)
        members.append(trial)
    if not members:
        return Group("row", ())
    heights = [seat_height(m.actor.mesh.vertices, m.actor.state.joints[0]) for m in members]
    top = min(max(heights), min(heights) + 0.25)
    kept: list[Member] = []
    for member, height in zip(members, heights, strict=True):
        state, mesh = member.actor.state, member.actor.mesh
        lift = max(top - height, 0.0)
        if height - top > 0.005:
            continue
        if lift:
            state, mesh = placed(state, mesh, np.array([0.0, 0.0, lift]), 0.0, state.id)
        there = Member(Actor(state, mesh), member.x, member.y, member.yaw)
        if all(apart(there.points(), other.points()) for other in kept):
            kept.append(there)
    seats = [
        (
            m.points(all=True),
            moved(m.actor.state.joints[:1], m.x, m.y, m.yaw)[0],
        )
        for m in kept
    ]
    shared = bench(rng, seats, top) if kept else None
    return Group("row", tuple(kept), (shared,)) if shared else Group("row", ())


def dine(rng: np.random.Generator, new: NewFigure, count: int) -> Group:
    """At a table: one sits at it, others on the far side."""
    first = perform(rng, new(), "sit", str(rng.choice(["lap", "explain", "chin"])))
    if first.state.kind != "sit" or not first.props:
        return Group("dine", (Member(first, 0.0, 0.0, 0.0),))
    points, joints = first.points, first.state.joints
    torso = abs(points[:, 0]) < 0.2
    high = torso & (points[:, 2] > joints[0, 2] + 0.1) & (points[:, 2] < joints[12, 2])
    front = float(np.percentile(points[high, 1], 2)) if high.any() else joints[0, 1] - 0.12
    thighs = float(max(joints[[1, 2, 4, 5], 2])) + 0.09
    members = [Member(first, 0.0, 0.0, 0.0)]
    board = table(rng, points, front, thighs, 0.0)
    if board is None:
        return Group("dine", tuple(members))
    top = board.parts[0].solid
    for k in range(count - 1):
        actor = perform(rng, new(), str(rng.choice(["sit", "sit", "stand"])))
        x = rng.uniform(-0.3, 0.3) * top.size[0] if count == 2 else (k - 0.5) * 0.75
        for away in (0.25, 0.35, 0.45, 0.6, 0.75):
            edge = top.centre[1] - top.size[1] / 2
            trial = Member(actor, x, edge - away, np.pi + rng.normal(0, 0.1))
            free = board.clear_of(trial.points()) and not any(
                s.overlaps(t) for p in trial.props() for s in p.solids for t in board.solids
            )
            if free and all(compatible(trial, other) for other in members):
                members.append(trial)
                break
    return Group("dine", tuple(members), (board,))


def hug(rng: np.random.Generator, new: NewFigure, count: int) -> Group:
    """Two in each other's arms, or with their hands on each other's shoulders."""
    figures = [new(), new()]
    bases = [perform(rng, figure, "stand", "hang") for figure in figures]
    for style in ("arms", "shoulders"):
        for distance in np.arange(0.3, 0.62, 0.06):
            actors = []
            for own, other in ((0, 1), (1, 0)):
                chest, neck = bases[other].state.joints[9, 2], bases[other].state.joints[12, 2]
                rotations = bases[own].state.rotations
                height = forward(figures[own].rest_joints, rotations)[1][0, 2]
                lift = bases[own].state.joints[0, 2] - height
                for side in (1, -1):
                    if style == "arms":
                        high = chest + 0.1 * side * (1 if own else -1)
                        at = np.array([0.13 * side, -distance - 0.12, high - lift])
                    else:
                        at = np.array([0.2 * side, -distance + 0.06, neck - 0.02 - lift])
                    at[:2] += figures[own].rest_joints[0, :2]
                    rotations = reach(figures[own].rest_joints, rotations, side, at, 2.0)
                actors.append(_plain(figures[own], rotations))
            a = Member(actors[0], 0.0, distance / 2, 0.0)
            b = Member(actors[1], 0.0, -distance / 2, np.pi)
            if apart(a.points(), b.points(), 0.025):
                return Group("hug", (a, b))
    pair = [Member(bases[0], 0.0, 0.3, 0.0), Member(bases[1], 0.0, -0.3, np.pi)]
    return _spread("hug", pair)


def shake(rng: np.random.Generator, new: NewFigure, count: int) -> Group:
    """Two who shake hands or hand something over; at times one is a child."""
    figures = [new(), new()]
    bases = [perform(rng, figure, "stand", "hang") for figure in figures]
    shoulders = [float(base.state.joints[16, 2]) for base in bases]
    distance, high = rng.uniform(0.75, 1.0), 0.72 * min(shoulders)
    members = []
    for k, (figure, base) in enumerate(zip(figures, bases, strict=True)):
        rest, rotations = figure.rest_joints, base.state.rotations
        lift = base.state.joints[0, 2] - rest[0, 2]
        at = rest[0] * [1, 1, 0] + np.array([-0.03, 0.17 - distance / 2, high - lift])
        rotations = reach(rest, rotations, -1, at, 0.5)
        members.append(Member(_plain(figure, rotations), 0.0, (0.5 - k) * distance, k * np.pi))
    return _spread("shake", members)


def hand_in_hand(rng: np.random.Generator, new: NewFigure, count: int) -> Group:
    """Two side by side, hand in hand."""
    figures = [new(), new()]
    kinds = ["walk" if rng.random() < 0.6 else "stand"] * 2
    bases = [perform(rng, f, kind, "hang") for f, kind in zip(figures, kinds, strict=True)]
    wide = rng.uniform(0.5, 0.7)
    high = min(float(base.state.joints[20:22, 2].min()) for base in bases) + 0.05
    members = []
    for figure, base, side in zip(figures, bases, (-1, 1), strict=True):
        rest, rotations = figure.rest_joints, base.state.rotations
        lift = base.state.joints[0, 2] - rest[0, 2]
        at = rest[0] * [1, 1, 0] + np.array([side * (wide / 2 - 0.06), -0.05, high - lift])
        rotations = reach(rest, rotations, side, at, 0.3)
        members.append(Member(_plain(figure, rotations, kinds[0]), -side * wide / 2, 0.0, 0.0))
    return _spread("hand in hand", members)


def help_(rng: np.random.Generator, new: NewFigure, count: int) -> Group:
    """One bends or squats beside another who lies or sits on something."""
    patient = perform(rng, new(), str(rng.choice(["lie", "sit"])))
    members = [Member(patient, 0.0, 0.0, 0.0)]
    for k in range(count - 1):
        helper = perform(rng, new(), str(rng.choice(["bend", "squat", "stand"])))
        side = np.array([1.0 if k % 2 else -1.0, rng.uniform(-0.5, 0.3)])
        for away in np.arange(0.45, 1.3, 0.1):
            x, y = away * side
            trial = Member(helper, x, y, _facing(-side))
            if all(compatible(trial, other) for other in members):
                members.append(trial)
                break
    return Group("help", tuple(members))


def _plain(figure: Figure, rotations: F64, kind: str = "stand") -> Actor:
    """An actor with nothing in the hands."""
    return Actor(*figure.stand_on_floor(rotations, np.zeros(2), 1, kind))


# What so many people do together: (function, fewest, most, how often).
ACTIVITIES: tuple[tuple[Callable[..., Group], int, int, float], ...] = (
    (alone, 1, 1, 2.6),
    (talk, 2, 4, 1.4),
    (line, 2, 4, 0.7),
    (stroll, 2, 3, 0.7),
    (crowd, 2, 6, 1.2),
    (row, 2, 4, 0.8),
    (dine, 1, 3, 0.8),
    (hug, 2, 2, 0.5),
    (shake, 2, 2, 0.4),
    (hand_in_hand, 2, 2, 0.5),
    (help_, 2, 3, 0.4),
)


_RAISABLE = ("alone", "talk", "line", "stroll", "crowd", "hug", "shake", "hand in hand")


def raised(rng: np.random.Generator, group: Group) -> Group:
    """The group on a stage, treadmill, mat or step, if nothing of theirs stands on the floor."""
    things = [prop.kind for member in group.members for prop in member.props()]
    if group.kind not in _RAISABLE or "stick" in things or set(things) - set(HELD):
        return group
    top = float(rng.choice([rng.uniform(0.02, 0.1), rng.uniform(0.1, 0.5)]))
    members = []
    for m in group.members:
        up = np.array([0.0, 0.0, top])
        state, mesh = placed(m.actor.state, m.actor.mesh, up, 0.0, m.actor.state.id)
        holding = tuple(prop.raised(top) for prop in m.actor.holding)
        members.append(Member(Actor(state, mesh, (), holding), m.x, m.y, m.yaw))
    stage = platform(rng, np.concatenate([m.points() for m in members]), top)
    return Group(group.kind, tuple(members), (stage,))


def sample_group(rng: np.random.Generator, new: NewFigure, most: int) -> Group:
    """A group of at most ``most`` people."""
    fitting = [entry for entry in ACTIVITIES if entry[1] <= most]
    chances = np.array([entry[3] for entry in fitting])
    activity, low, high, _ = fitting[int(rng.choice(len(fitting), p=chances / chances.sum()))]
    group = activity(rng, new, int(rng.integers(low, min(high, most) + 1)))
    return raised(rng, group) if rng.random() < 0.15 else group
