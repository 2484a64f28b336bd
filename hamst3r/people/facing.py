"""Which of two opposite ways somebody faces, where outlines tell no more than the line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hamst3r.people.body import JOINT_NAMES, BodyModel
from hamst3r.people.contours import Sight
from hamst3r.people.kinematics import F32, I64, Pose, rotation_vectors, rotations

F64 = NDArray[np.float64]

_OTHER_SIDE = [  # the joint there, of each
    JOINT_NAMES.index(name.replace("left", "?").replace("right", "left").replace("?", "right"))
    for name in JOINT_NAMES
]
_TURNED = np.array([-1, 1, -1], np.float32)  # half a turn about y
_SOME_PIXELS, _FEW_PIXELS = 300, 20  # per view, whose places on the body are compared
_SURE_SIDE = 0.95


def ahead(pose: Pose) -> F32:
    """(2,) the horizontal part of where one person faces."""
    way: F32 = pose.rotations[0, 0, :2, 2]
    return way


def facing_about(pose: Pose) -> Pose:
    """Who fills nearly the same outlines facing the other way, left limbs where right ones were."""
    turns = rotation_vectors(pose.rotations)[:, _OTHER_SIDE] * _TURNED
    turned = rotations(turns)
    turned[:, 0] = pose.rotations[:, 0] * _TURNED  # half a turn about its own axis
    return Pose(turned, pose.transl, pose.betas)


@dataclass(frozen=True)
class Walk:
    """velocity: (3,) metres per second in world. std: One deviation per axis."""

    velocity: F64
    std: float

    def odds(self, pose: Pose, speed: float, std: float) -> float:
        """Log odds of facing as ``pose`` does against the opposite, for people who go forward at a
        speed with a deviation, m/s: a Gaussian against its mirror image."""
        way = ahead(pose).astype(np.float64)
        forward = float(self.velocity[:2] @ way) / max(float(np.linalg.norm(way)), 1e-6)
        return 2 * speed * forward / (std**2 + self.std**2)


class SaidPlaces:
    """What pixels are said to show of a body, against what they show of a posed one.

    Args:
        vertices: (n,) of the body, those that sights are of.
    """

    def __init__(self, body: BodyModel, vertices: I64) -> None:
        self._canonical = body.canonical.numpy()[vertices]
        self._size = np.ptp(body.v_template.numpy(), axis=0)

    def odds(self, one: Sight, other: Sight) -> float:
        """Log odds of ``one`` by a view's places, right to left and front to back.

        Who cannot tell two opposite places apart, and is trained to be off by little, says their
        mean, weighted with the chances of both: how far coordinates go from the middle towards
        those of ``one`` is what the network believes.
        """
        rows, columns = _labelled(one)
        if len(rows) < _FEW_PIXELS:
            return 0.0
        own, others = (self._shown(s, rows, columns)[:, [0, 2]] for s in (one, other))
        size = self._size[[0, 2]]
        said = one.outline.coordinates[rows, columns][:, [0, 2]]
        middle, half = size * (own + others) / 2, size * (own - others) / 2
        square = float((half * half).sum())
        share = float((half * (size * said - middle)).sum()) / max(square, 1e-9)
        share = float(np.clip(share, -_SURE_SIDE, _SURE_SIDE))
        return float(np.log((1 + share) / (1 - share)))

    def order(self, sights: Sequence[Sight]) -> float:
        """Correlation of the heights on the body that pixels are said to show with the body's."""
        said, shown = [], []
        for sight in sights:
            rows, columns = _labelled(sight)
            said.append(sight.outline.coordinates[rows, columns, 1])
            shown.append(self._shown(sight, rows, columns)[:, 1])
        heights = np.stack([np.concatenate(said), np.concatenate(shown)])
        if heights.shape[1] < _FEW_PIXELS or not (heights.std(1) > 0).all():
            return 0.0
        return float(np.corrcoef(heights)[0, 1])

    def _shown(
        self, sight: Sight, rows: NDArray[np.intp], columns: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """(n, 3) canonical coordinates of what pixels show of the body."""
        facing = np.flatnonzero(sight.facing)
        if not len(facing):
            return np.full((len(rows), 3), 0.5, np.float32)
        nearest = cKDTree(sight.pixels[facing]).query(np.column_stack([columns, rows]))[1]
        shown: NDArray[np.float32] = self._canonical[facing[nearest]]
        return shown


def _labelled(sight: Sight) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of some pixels of mask and body whose place on the body is known."""
    outline = sight.outline
    known = outline.mask & sight.covered & np.isfinite(outline.coordinates[..., 0])
    rows, columns = np.nonzero(known)
    some = slice(None, None, -(-len(rows) // _SOME_PIXELS) or 1)
    return rows[some], columns[some]
