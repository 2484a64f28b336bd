"""Where cameras are known: points that their keypoints fix in space, and depth that follows them.

A network that is unsure of depth bends whole surfaces; points whose rays meet do not. What the
depths lack is taken to be smooth over a surface: a Gaussian process over the image (kriging), whose
observations are the points and whose outliers lose their weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from hamst3r.alignment.bundle import Bundle, adjust
from hamst3r.alignment.structure import first_depths, fitting
from hamst3r.alignment.two_views import TwoViews, confirmed, gather
from hamst3r.geometry import invert, lengths
from hamst3r.keypoints import Keypoints

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
MIN_BASELINE = 1e-3  # metres
MAX_STD = 0.5  # of a point's log depth, were it as deep as the network has it
# What depths lack, in their logs: as a whole, and from place to place, where it is alike as far as
# this share of the image's long side and this difference of log depth. The local part is what the
# points show, and at most this.
WHOLE_STD, LOCAL_STD, REACH, LIKE_DEPTH = 0.4, 0.25, 0.15, 0.3
NOISE, TAIL = 0.05, 2.0  # of the points; standard deviations from which on they count less
FEWEST, MOST = 8, 250  # points of a view
FARTHEST = 4.0  # times nearer or farther than the network has it: beyond, matches are wrong
STEP = 2  # pixels between those at which the field is computed
SPARSE = 17  # of those, one in so many tells how sure it is


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points in one view.

    Attributes:
        pixels: (n, 2) on the grid. inverse: (n,) 1 / depth, 1 / metre. std: (n,) of that: it is
            what errors of pixels add to, while a depth that noise made nearer seems surer, too.
    """

    pixels: F64
    inverse: F64
    std: F64

    def cells(self, shape: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """(n,) nearest columns and rows of a grid (gh, gw)."""
        limits = np.array(shape[::-1]) - 1
        columns, rows = np.clip(self.pixels.round().astype(np.intp), 0, limits).T
        return columns, rows

    def beside(self, depth: NDArray[np.floating]) -> tuple[NDArray[np.intp], F64, F64]:
        """What they say of a map of depths (gh, gw), 0 = none.

        Returns:
            Which of them can be compared with it, how many times nearer they are than the map has
            it, and the standard deviation of that. None where most are too far from the map to be
            anything but wrong matches.
        """
        columns, rows = self.cells(depth.shape)
        shown = depth[rows, columns].astype(float)
        nearer, std = self.inverse * shown, self.std * shown
        there = (shown > 0) & (std < MAX_STD)
        likely = there & (nearer > 1 / FARTHEST - 2 * std) & (nearer < FARTHEST + 2 * std)
        at = np.flatnonzero(likely & (likely.sum() > there.sum() / 2))
        return at, nearer[at], std[at]


def landmarks(
    keypoints: Sequence[Keypoints],
    K: Sequence[F64],
    T_world_cam: Mapping[int, F64],
    pairs: Sequence[tuple[int, int]],
    turn_std: float = 0.0,
) -> list[Landmarks]:
    """Per view, what it shares with others, triangulated.

    Args:
        keypoints, K: Per view. T_world_cam: view -> (4, 4), of those whose poses hold.
        pairs: Of views, that may show the same.
        turn_std: Of the poses, radians against each other: the less of a baseline there is, the
            less they tell.
    """
    links = []
    for i, j in pairs:
        if i not in T_world_cam or j not in T_world_cam:
            continue
        T_i_j = invert(T_world_cam[i]) @ T_world_cam[j]
        if lengths(T_i_j[:3, 3]) > MIN_BASELINE:
            links.append(TwoViews(i, j, confirmed(i, j, keypoints, K, T_i_j), T_i_j))
    tracks = gather(links, keypoints)
    empty = Landmarks(np.empty((0, 2)), np.empty(0), np.empty(0))
    if not tracks.count:
        return [empty] * len(K)
    nothing = np.full(len(tracks.view), np.nan)
    count = len(K)
    poses = np.stack([T_world_cam.get(v, np.eye(4)) for v in range(count)])
    bundle = adjust(
        Bundle(
            tracks=tracks,
            K=K,
            pixel=np.array([k.pixel for k in keypoints]),
            free=np.zeros(count, bool),
            open_lens=np.zeros(count, bool),
            focal_information=np.zeros((count, count)),
            depth=nothing,
            depth_std=1.0,
            T_world_cam=poses,
            log_focal=np.zeros(count),
            log_depth=first_depths(tracks, K, poses, nothing),
        )
    )
    bundle = bundle.of(fitting(bundle, 1.5))
    tracks, z = bundle.tracks, bundle.in_view[:, 2]
    centres = poses[tracks.view, :3, 3]
    base = lengths(centres[tracks.last] - centres[tracks.first])
    std = bundle.depth_deviations()[tracks.point] / z
    std = np.hypot(std, turn_std / np.maximum(base, MIN_BASELINE)[tracks.point])
    each = [tracks.view == v for v in range(count)]
    return [Landmarks(tracks.pixels[at], 1 / z[at], std[at]) for at in each]


def correct(depth: F32, marks: Landmarks) -> tuple[F32, float]:
    """A view's depth (gh, gw), 0 = none, drawn to its landmarks; too few of them change nothing.

    Returns:
        The depth, and its relative deviation at a place (median), NaN where they are too few.
    """
    height, width = depth.shape
    at, m, std = marks.beside(depth)
    if len(at) < FEWEST:
        return depth, float("nan")
    best = np.argsort(std, kind="stable")[:MOST]
    at, m, std = at[best], m[best], std[best]
    # What the logs of depths lack is f: of m = exp(-f) the points tell, with errors of their own.
    f = np.full(len(at), -np.log(np.clip(np.median(m), 0.1, 10)))
    log = np.log(np.where(depth > 0, depth, 1))
    u, v = (part[at] for part in marks.cells((height, width)))
    scale = np.array([REACH * max(depth.shape), REACH * max(depth.shape), LIKE_DEPTH])
    places = np.stack([u, v, log[v, u]], 1) / scale
    # Where depths lack no more than the points' own noise, nothing local is to be mended.
    spread = (1.48 * float(np.median(np.abs(1 - m * np.exp(f))))) ** 2
    local = float(np.clip(spread - np.median((std * np.exp(f)) ** 2 + NOISE**2), 0, LOCAL_STD**2))
    own = _kernel(places, places, local)
    # Outliers first count as what they are far from most others; then, far from the field.
    known = local
    for _ in range(4):
        off = 1 - m * np.exp(f)
        variance = (std * np.exp(f)) ** 2 + NOISE**2
        noise = variance * (1 + off**2 / (variance + known) / TAIL**2)
        factor = cho_factor(own + np.diag(noise))
        weights = cho_solve(factor, f + off)
        f, known = np.clip(own @ weights, -2, 2), 0.0
    rows, columns = np.mgrid[0:height:STEP, 0:width:STEP]
    cells = np.stack([columns, rows, log[::STEP, ::STEP]], -1).reshape(-1, 3) / scale
    field = (_kernel(cells, places, local) @ weights).reshape(rows.shape)
    field = cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR)
    drawn = np.asarray(depth * np.exp(np.clip(field, -2, 2)), np.float32)
    some = _kernel(cells[::SPARSE], places, local)
    told = (some * cho_solve(factor, some.T).T).sum(1)
    return drawn, float(np.sqrt(np.median(np.maximum(WHOLE_STD**2 + local - told, NOISE**2))))


def _kernel(a: F64, b: F64, local: float) -> F64:
    square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return WHOLE_STD**2 + local * np.exp(-0.5 * np.maximum(square, 0))
