"""Everybody in a place: groups put where they fit, all apart from each other and the walls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.acting import placed
from hamst3r.synthetic.bodies import Figure, PersonMesh, PersonState
from hamst3r.synthetic.groups import Group, Member, apart, moved, sample_group
from hamst3r.synthetic.props import Prop
from hamst3r.synthetic.solids import Solid

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Crowd:
    """People of one moment.

    Attributes:
        states, meshes: Of everybody. props: What they sit on, lie on, and hold.
        activities: What each group does. points: (N, 3) some of all surfaces, world.
    """

    states: tuple[PersonState, ...]
    meshes: tuple[PersonMesh, ...]
    props: tuple[Prop, ...]
    activities: tuple[str, ...]
    points: F64

    @property
    def solids(self) -> tuple[Solid, ...]:
        """What their things fill."""
        return tuple(solid for prop in self.props for solid in prop.solids)


def sample_crowd(
    rng: np.random.Generator,
    half: F64,
    height: float,
    count: int,
    new: Callable[[], Figure],
    gather: float = 1.0,
) -> Crowd:
    """At most ``count`` people; fewer where there is no room for all.

    Args:
        half: (2,) half extents of the place. height: Of its ceiling. new: Makes a dressed body.
        gather: Share of the place in which they are, 0 to 1.
    """
    states: list[PersonState] = []
    meshes: list[PersonMesh] = []
    props: list[Prop] = []
    activities: list[str] = []
    clouds: list[F64] = []
    for _ in range(2 * count):
        left = count - len(states)
        if left == 0:
            break
        group = sample_group(rng, new, left)
        spot = _spot(rng, group, half, height, gather, clouds, props)
        if spot is None:
            continue
        x, y, yaw = spot
        activities.append(group.kind)
        for member in group.members:
            at = moved(np.array([[member.x, member.y, 0.0]]), x, y, yaw)[0]
            state, mesh = placed(
                member.actor.state, member.actor.mesh, at, member.yaw + yaw, len(states) + 1
            )
            states.append(state)
            meshes.append(mesh)
            clouds.append(moved(member.points(), x, y, yaw))
        props += _things(group, x, y, yaw)
    points = np.concatenate(clouds) if clouds else np.zeros((0, 3))
    return Crowd(tuple(states), tuple(meshes), tuple(props), tuple(activities), points)


def _things(group: Group, x: float, y: float, yaw: float) -> list[Prop]:
    own = [prop for member in group.members for prop in member.props()]
    return [prop.moved(x, y, yaw) for prop in (*own, *group.shared)]


def _spot(
    rng: np.random.Generator,
    group: Group,
    half: F64,
    height: float,
    gather: float,
    clouds: list[F64],
    props: list[Prop],
) -> tuple[float, float, float] | None:
    """Where the group fits: x, y, yaw."""
    if not group.members:
        return None
    own = [member.points() for member in group.members]
    whole = [member.points(all=True) for member in group.members]
    outline = np.concatenate([*whole, *_corners(group.members, group.shared)])
    if outline[:, 2].max() > height - 0.05:
        return None
    for _ in range(30):
        yaw = rng.uniform(0, 2 * np.pi)
        flat = moved(outline, 0.0, 0.0, yaw)[:, :2]
        low, high = -half + 0.04 - flat.min(0), half - 0.04 - flat.max(0)
        if (low > high).any():
            continue
        x, y = np.clip(rng.uniform(-half, half) * gather, low, high)
        things = _things(group, x, y, yaw)
        here = [moved(points, x, y, yaw) for points in own]
        if all(apart(a, b) for a in here for b in clouds) and _free(things, here, clouds, props):
            return float(x), float(y), yaw
    return None


def _corners(members: tuple[Member, ...], shared: tuple[Prop, ...]) -> list[F64]:
    """(4, 3) corners of all solids, in the group's frame."""
    props = [prop for member in members for prop in member.props()] + list(shared)
    return [
        np.column_stack([solid.corners(), np.full(4, solid.top)])
        for prop in props
        for solid in prop.solids
    ]


def _free(things: list[Prop], here: list[F64], clouds: list[F64], props: list[Prop]) -> bool:
    """Whether the things of a group and those of others keep clear of people and each other."""
    if not all(prop.clear_of(cloud) for prop in things for cloud in clouds):
        return False
    if not all(prop.clear_of(cloud) for prop in props for cloud in here):
        return False
    return not any(s.overlaps(t) for a in things for b in props for s in a.solids for t in b.solids)
