"""Keypoints that several views show, and what two views alone say of each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.geometry import cross_matrices, invert, lengths, make_T
from hamst3r.keypoints import Keypoints, match

F64 = NDArray[np.float64]
# Pixels of the image by which a point may miss its epipolar line: where lenses are known, and where
# they are guessed.
MAX_MISS, MAX_GUESSED_MISS = 1.0, 1.5
# Points of a pair: of those of generated views with so many, 19 of 20 were turned right, to 15
# degrees. Where the motion is known, fewer will do.
FEWEST, FEWEST_ON_LINES = 16, 8
# Of the matches, the share that must fit one motion: chance alone makes a few fit.
MIN_SHARE = 0.25
ITERATIONS, CERTAINTY = 2000, 0.999


@dataclass(frozen=True, eq=False)
class TwoViews:
    """Two views that show the same points.

    Attributes:
        i, j: Views. matches: (M, 2) keypoints of i and of j.
        T_i_j: (4, 4) rigid; only the direction of its translation means anything.
    """

    i: int
    j: int
    matches: NDArray[np.intp]
    T_i_j: F64


@dataclass(frozen=True, eq=False)
class Tracks:
    """Points that at least two views show, P of them in M observations.

    Attributes:
        point: (M,) which, ascending. view: (M,) where. pixels: (M, 2) on that view's grid.
    """

    point: NDArray[np.intp]
    view: NDArray[np.intp]
    pixels: F64

    @cached_property
    def first(self) -> NDArray[np.intp]:
        """(P,) the points' first observations."""
        return np.searchsorted(self.point, np.arange(self.count))

    @property
    def last(self) -> NDArray[np.intp]:
        """(P,) the points' last observations."""
        return np.append(self.first[1:], len(self.point)) - 1

    @property
    def count(self) -> int:
        """Number of points."""
        return int(self.point[-1]) + 1 if len(self.point) else 0

    def of(self, points: NDArray[np.bool_]) -> Tracks:
        """Some of the points (P,), numbered anew."""
        kept = points[self.point]
        number = np.cumsum(points) - 1
        return Tracks(number[self.point[kept]], self.view[kept], self.pixels[kept])


def link(
    i: int, j: int, keypoints: Sequence[Keypoints], K: Sequence[F64], guessed: bool = False
) -> TwoViews | None:
    """The motion between two views (five points, MAGSAC++, as OpenCV has them); None without one.

    Args:
        keypoints: Per view. K: Per view (3, 3), of the output grid.
        guessed: K are. A focal length that is a quarter off turns the result by a few degrees.
    """
    pairs = match(keypoints[i], keypoints[j])
    if len(pairs) < FEWEST:
        return None
    plane = [on_plane(keypoints[v].pixels[pairs[:, k]], K[v]) for k, v in enumerate((i, j))]
    miss = MAX_GUESSED_MISS if guessed else MAX_MISS
    miss *= max(keypoints[v].pixel / K[v][0, 0] for v in (i, j))
    E, fits = cv2.findEssentialMat(
        plane[0], plane[1], np.eye(3), cv2.USAC_ACCURATE, CERTAINTY, float(miss), ITERATIONS
    )
    if E is None or E.shape != (3, 3) or fits.sum() < max(FEWEST, MIN_SHARE * len(pairs)):
        return None
    good = fits.ravel() != 0
    # Points count however far they are: to choose between the four motions, no more.
    _, rotation, translation, _, _ = cv2.recoverPose(
        E, plane[0][good], plane[1][good], np.eye(3), distanceThresh=1e6
    )
    return TwoViews(i, j, pairs[good], invert(make_T(rotation, translation[:, 0])))


def confirmed(
    i: int, j: int, keypoints: Sequence[Keypoints], K: Sequence[F64], T_i_j: F64
) -> NDArray[np.intp]:
    """(M, 2) keypoints that are alike and agree with the known motion of two views.

    None where most do not: by chance some always do, although the views show different things.
    (Looking for more along the epipolar lines finds twice as many, a third of them wrong.)
    """
    pairs = match(keypoints[i], keypoints[j])
    pixels = [keypoints[v].pixels[pairs[:, k]] for k, v in enumerate((i, j))]
    miss = line_misses(pixels[0], pixels[1], K[i], K[j], T_i_j)
    good = miss < MAX_GUESSED_MISS * keypoints[i].pixel
    enough = good.sum() >= max(FEWEST_ON_LINES, MIN_SHARE * len(pairs))
    return pairs[good & enough]


def line_misses(pixels_i: F64, pixels_j: F64, K_i: F64, K_j: F64, T_i_j: F64) -> F64:
    """(n,) pixels by which pixels (n, 2) of two views miss each other's epipolar lines."""
    T_j_i = invert(T_i_j)
    E = cross_matrices(T_j_i[None, :3, 3])[0] @ T_j_i[:3, :3]
    x, y = rays(pixels_i, K_i), rays(pixels_j, K_j)
    gap = np.abs(np.einsum("na,ab,nb->n", y, E, x))
    steep = [lengths(line[:, :2]) / K[0, 0] for line, K in ((x @ E.T, K_j), (y @ E, K_i))]
    return gap / np.maximum(np.minimum(*steep), 1e-12)


def rays(pixels: F64, K: F64) -> F64:
    """(n, 3) with z = 1 through pixels (n, 2); K (3, 3), or one for each of them."""
    return np.insert(on_plane(pixels, K), 2, 1.0, axis=1)


def on_plane(pixels: F64, K: F64) -> F64:
    """(n, 2) where rays through pixels (n, 2) meet z = 1; K (3, 3), or one for each of them."""
    return (pixels - K[..., :2, 2]) / K[..., [0, 1], [0, 1]]


def gather(links: Sequence[TwoViews], keypoints: Sequence[Keypoints]) -> Tracks:
    """Points through all views; what would be in two places of one view is left out."""
    parent: dict[tuple[int, int], tuple[int, int]] = {}

    def root(node: tuple[int, int]) -> tuple[int, int]:
        while (above := parent.setdefault(node, node)) != node:
            parent[node] = node = parent[above]
        return node

    for s in links:
        for a, b in s.matches.tolist():
            parent[root((s.i, a))] = root((s.j, b))
    members = defaultdict(list)
    for node in sorted(parent):
        members[root(node)].append(node)
    tracks = [own for own in members.values() if len({view for view, _ in own}) == len(own)]
    point = np.repeat(np.arange(len(tracks)), [len(own) for own in tracks])
    nodes = np.array([node for own in tracks for node in own], np.intp).reshape(-1, 2)
    pixels = np.array([keypoints[v].pixels[k] for v, k in nodes]).reshape(-1, 2)
    return Tracks(point, nodes[:, 0], pixels)
