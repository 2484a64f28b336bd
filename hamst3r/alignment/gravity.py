"""Which way is down, where no IMU tells it: by the floor, or by people who stand.

Each view is asked alone, from its own pointmaps, so that neither poses nor the scale are needed.
Images are taken to be upright: turned about the optical axis by no more than :data:`MAX_ROLL`. A
wall is then never taken for a floor, unless the camera looks straight down or far up.

What is found is as good as the network's depth, and deviations take that to be right to a few
percent: pointmaps that are bent as a whole do not show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.observations import Look, Observations
from hamst3r.frames import Frame
from hamst3r.geometry import lengths

F64 = NDArray[np.float64]
# How cameras may be held: turned about the optical axis; looking up or down.
MAX_ROLL, MAX_UP, MAX_DOWN = np.deg2rad([25, 20, 70])
# Points this near to a plane, over their distance, are of it.
FLATNESS = 0.02
PLANES = 200  # tried
# Shares of a view's weight that a floor must have, and may have below it; and share of the distance
# that it must reach across, in its narrow direction (a standard deviation).
LEAST_SHARE, MOST_BELOW, LEAST_REACH = 0.1, 0.05, 0.05
# Neighbouring pixels err alike: a plane is known as by so many independent points.
INDEPENDENT = 12
# Floors slope and pointmaps are bent: no floor is more level than this, no person more upright.
FLOOR_STD, PERSON_STD, PEOPLE_STD = np.deg2rad([1.5, 8, 3])
# A person is looked at in slices from top to bottom, must have so many pixels in each, and be so
# many times as long as wide: who sits is not.
SLICES, SLICE_PIXELS, SLENDER = 8, 6, 2.2
# Beyond this, nothing is known; floor and people that differ by more deviations contradict.
MAX_STD, MAX_DEVIATIONS = np.deg2rad(10), 3.0


@dataclass(frozen=True, eq=False)
class Gravity:
    """Where things fall: unit direction (3,) in the camera's axes, and its deviation (radians)."""

    down: F64
    std: float


def with_gravity(frames: Sequence[Frame], observations: Observations) -> tuple[Frame, ...]:
    """The frames, those without gravity with what their images show of it, where they do."""
    result = []
    for view, frame in enumerate(frames):
        found = seen_gravity(observations, view) if frame.gravity is None else None
        if found is not None:
            frame = replace(frame, gravity=found.down, gravity_std=found.std)
        result.append(frame)
    return tuple(result)


def seen_gravity(observations: Observations, view: int) -> Gravity | None:
    """By the floor and by who stands in a view; None where there is neither, or they disagree."""
    own = observations.own_looks(view)
    if not own:
        return None
    heaviest = max(own, key=lambda look: float(look.w.sum()))
    by_floor = _agreed([floor_gravity(look.X, look.w.astype(float)) for look in own])
    by_people = people_gravity(heaviest, observations.grids[view].people)
    if by_floor is None or by_people is None:
        return by_floor or by_people
    apart = float(np.arccos(np.clip(by_floor.down @ by_people.down, -1, 1)))
    if apart > MAX_DEVIATIONS * np.hypot(by_floor.std, by_people.std):
        return None
    weights = np.array([by_floor.std, by_people.std]) ** -2.0
    mean = weights @ np.stack([by_floor.down, by_people.down])
    return Gravity(mean / np.linalg.norm(mean), float(weights.sum() ** -0.5))


def floor_gravity(points: F64, weights: F64) -> Gravity | None:
    """By the largest plane that can be a floor, below everything else.

    Args:
        points: (n, 3) in the camera. weights: (n,) >= 0, 0 on what moves.
    """
    use = weights > 0
    points, weights = points[use], weights[use]
    if len(points) < INDEPENDENT:
        return None
    distance = lengths(points)
    # (The same pointmap has the same floor.)
    corners = points[np.random.default_rng(0).integers(len(points), size=(PLANES, 3))]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    size = lengths(normal)
    normal = normal[size > 0] / size[size > 0, None]
    offset = np.einsum("hk,hk->h", normal, corners[size > 0, 0])
    # Towards the camera, so that what is below it has its normal up.
    normal, offset = normal * -np.sign(offset)[:, None], -np.abs(offset)
    held = _held_upright(normal)
    normal, offset = normal[held], offset[held]
    if len(normal) == 0:
        return None
    above = (normal @ points.T - offset[:, None]) / distance
    near = np.abs(above) < FLATNESS
    # Nothing is below a floor.
    chosen = (near @ weights - (above < -2 * FLATNESS) @ weights).argmax()
    up, best = normal[chosen], near[chosen]
    for _ in range(5):
        if weights[best].sum() < LEAST_SHARE * weights.sum():
            return None
        w = weights * best / distance**2
        centre = w @ points / w.sum()
        off = points - centre
        values, axes = np.linalg.eigh((w[:, None] * off).T @ off / w.sum())
        up = axes[:, 0] * (-np.sign(axes[:, 0] @ centre) or 1.0)
        above = off @ up / distance
        best = np.abs(above) < FLATNESS
    if weights[above < -2 * FLATNESS].sum() > MOST_BELOW * weights.sum():
        return None
    values = np.maximum(values, 0)
    reach = values[1] ** 0.5
    if reach < LEAST_REACH * np.median(distance[best]) or not _held_upright(up[None])[0]:
        return None
    std = float(np.hypot(FLOOR_STD, (values[0] / INDEPENDENT) ** 0.5 / reach))
    return Gravity(-up, std) if std < MAX_STD else None


def _agreed(found: Sequence[Gravity | None]) -> Gravity | None:
    """What at least half of several looks at the same say, and how far these differ."""
    told = [gravity for gravity in found if gravity is not None]
    if 2 * len(told) < len(found) or not told:
        return None
    down, scatter = _mean([gravity.down for gravity in told])
    usual = np.mean([gravity.std**2 for gravity in told])
    std = float(np.sqrt(usual + (scatter**2).mean()))
    return Gravity(down, std) if std < MAX_STD else None


def _mean(directions: Sequence[F64]) -> tuple[F64, F64]:
    """(3,) the mean of unit directions, and the angles (n,) by which each is off it."""
    each = np.stack(directions)
    mean = each.mean(0) / np.linalg.norm(each.mean(0))
    return mean, np.arccos(np.clip(each @ mean, -1, 1))


def people_gravity(look: Look, people: NDArray[np.int32]) -> Gravity | None:
    """By the people (gh, gw) that a look shows standing: numbers from 1 on."""
    axes = [
        axis
        for person in np.unique(people[people > 0]).tolist()
        if (axis := _long_axis(look.points, (people == person) & (look.weight > 0))) is not None
    ]
    if not axes:
        return None
    down, scatter = _mean(axes)
    one = (PERSON_STD**2 + (scatter**2).sum()) ** 0.5 / len(axes) ** 0.5
    std = float(np.hypot(PEOPLE_STD, max(one, PERSON_STD) / len(axes) ** 0.5))
    return Gravity(down, std) if std < MAX_STD else None


def _long_axis(points: NDArray, mask: NDArray[np.bool_]) -> F64 | None:
    """(3,) unit axis, from head to feet, of somebody who is slender enough to stand."""
    rows, columns = np.nonzero(mask)
    if len(rows) < SLICES * SLICE_PIXELS:
        return None
    slices = (rows - rows.min()) * SLICES // (np.ptp(rows) + 1)
    if np.bincount(slices, minlength=SLICES).min() < SLICE_PIXELS:
        return None
    places = np.split(
        points[rows, columns].astype(float), np.searchsorted(slices, range(1, SLICES))
    )
    middles = np.stack([np.median(place, axis=0) for place in places])
    # Of points spread evenly, half are within a quarter of the width about the middle.
    half = [np.median(np.abs(p[:, 0] - m[0])) for p, m in zip(places, middles, strict=True)]
    width = 4 * float(np.median(half))
    centre = middles.mean(0)
    axis = np.linalg.svd(middles - centre)[2][0]
    axis *= np.sign(axis[1]) or 1.0
    slender = np.ptp((middles - centre) @ axis) > SLENDER * width
    return axis if slender and _held_upright(-axis[None])[0] else None


def _held_upright(up: F64) -> NDArray[np.bool_]:
    """(n,) whether a camera may be held so that these unit vectors (n, 3) point up."""
    x, y, z = up.T
    down = np.arcsin(np.clip(-z, -1, 1))  # by which the camera looks down
    roll = np.abs(np.arctan2(x, -y))
    result: NDArray[np.bool_] = (roll < MAX_ROLL) & (down > -MAX_UP) & (down < MAX_DOWN)
    return result
