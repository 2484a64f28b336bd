"""Bundle adjustment: poses, focal lengths and points, from keypoints and the network's depths.

A point lies on the ray of its first observation, where its log depth is all there is to find: it
then leaves the normal equations as one number (Schur complement; "Bundle adjustment, a modern
synthesis", Triggs et al. 1999; depth along a ray as in DSO, arXiv 1607.02565). The network's depths
are weak observations of it: they give the scale, and hold what hardly any parallax tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hamst3r.alignment.looks import rigid_steps
from hamst3r.alignment.two_views import Tracks, on_plane
from hamst3r.geometry import cross_matrices

F64 = NDArray[np.float64]
DOF = 7  # of a view: translation and rotation in its own axes, log of its focal length
POINT_STD = 0.7  # pixels of the image: what a keypoint is off
TAIL = 2.0  # standard deviations from which on residuals count less (Cauchy)
STEPS, ENOUGH = 25, 1e-4  # at most; relative gain of the cost that is worth another
BEHIND = 1e-3  # metres: nothing that is nearer than this is in front of a camera
LOST = 1e4  # square of the residual, in units of the tail, of what is behind one
TINY = 1e-9


@dataclass(frozen=True, eq=False)
class Bundle:
    """What is adjusted, and against what; N views, P points in M observations.

    Attributes:
        tracks: The points.
        K: N x (3, 3), of the grids, before ``log_focal``.
        pixel: (N,) size of the images' pixels on the grids.
        free: (N,) bool: poses that may move.
        open_lens: (N,) bool: focal lengths that may change. focal_information: (N, N) of
            ``log_focal``, which is expected to be 0.
        depth: (M,) the network's, metres; NaN = it says nothing. depth_std: Relative.
        T_world_cam: (N, 4, 4). log_focal: (N,) what is to be added. log_depth: (P,) of the points
            in the view of their first observation.
    """

    tracks: Tracks
    K: Sequence[F64]
    pixel: F64
    free: NDArray[np.bool_]
    open_lens: NDArray[np.bool_]
    focal_information: F64
    depth: F64
    depth_std: float
    T_world_cam: F64
    log_focal: F64
    log_depth: F64

    @property
    def anchor(self) -> NDArray[np.intp]:
        """(P,) view of the points' first observations."""
        return self.tracks.view[self.tracks.first]

    @cached_property
    def adjusted_K(self) -> list[F64]:
        """K with the adjusted focal lengths."""
        factors = np.exp(self.log_focal)
        return [K * [[f, f, 1], [f, f, 1], [1, 1, 1]] for K, f in zip(self.K, factors, strict=True)]

    @cached_property
    def in_anchor(self) -> F64:
        """(P, 3) the points in the cameras of their first observations."""
        tracks, K = self.tracks, np.stack(self.adjusted_K)
        plane = on_plane(tracks.pixels[tracks.first], K[self.anchor])
        return np.insert(plane, 2, 1.0, axis=1) * np.exp(self.log_depth)[:, None]

    @cached_property
    def in_view(self) -> F64:
        """(M, 3) the points in the cameras of all their observations."""
        T, tracks = self.T_world_cam, self.tracks
        Y, a = self.in_anchor, self.anchor
        world = np.einsum("pab,pb->pa", T[a, :3, :3], Y) + T[a, :3, 3]
        away = world[tracks.point] - T[tracks.view, :3, 3]
        return np.einsum("mba,mb->ma", T[tracks.view, :3, :3], away)

    def misses(self) -> F64:
        """(M,) by which points miss their pixels, in pixels of the image; infinite behind."""
        X = self.in_view
        z = np.where(X[:, 2] > BEHIND, X[:, 2], np.nan)
        K = np.stack(self.adjusted_K)[self.tracks.view]
        apart = X[:, :2] / z[:, None] - on_plane(self.tracks.pixels, K)
        off = np.linalg.norm(apart * K[..., [0, 1], [0, 1]], axis=1) / self.pixel[self.tracks.view]
        return np.nan_to_num(off, nan=np.inf)

    def depth_deviations(self) -> F64:
        """(P,) standard deviations of the log depths if all else is right, the network unheard."""
        unheard = replace(self, depth=np.full(len(self.depth), np.nan))
        point = np.repeat(self.tracks.point, 3)
        known = np.bincount(point, _Equations(unheard).by_points() ** 2, self.tracks.count)
        return 1 / np.sqrt(np.maximum(known, TINY))

    def of(self, points: NDArray[np.bool_]) -> Bundle:
        """With some of the points (P,) only."""
        kept = points[self.tracks.point]
        return replace(
            self,
            tracks=self.tracks.of(points),
            depth=self.depth[kept],
            log_depth=self.log_depth[points],
        )


def adjust(bundle: Bundle, integrated: bool = False) -> Bundle:
    """The poses, focal lengths and depths that fit best (Levenberg-Marquardt, Cauchy's loss).

    Args:
        integrated: Look for the poses that are likeliest whatever the depths are (Laplace's
            approximation), not for the likeliest of poses and depths together. Those make much of
            little parallax: a network that was taught by regression shows less relief than there
            is, and a longer baseline, turned a little, shows as little.
    """
    damping, equations = 1e-3, _Equations(bundle, integrated)
    for _ in range(STEPS):
        candidate = equations.stepped(damping)
        new = _Equations(candidate, integrated)
        if not new.cost <= equations.cost:  # so that it is not followed where it is no number
            damping *= 10
            if damping > 1e6:
                break
            continue
        gain = 1 - new.cost / max(equations.cost, 1e-300)
        equations, damping = new, max(damping / 5, 1e-6)
        if gain < ENOUGH:
            break
    return equations.bundle


class _Equations:
    """Residuals at a state of the bundle, and the step that they ask for.

    Three rows for each observation: where it is seen, and how deep, in standard deviations.
    """

    def __init__(self, bundle: Bundle, integrated: bool = False) -> None:
        self.bundle, self._integrated = bundle, integrated
        tracks, K = bundle.tracks, np.stack(bundle.adjusted_K)[bundle.tracks.view]
        self._X = X = bundle.in_view
        ahead, told = X[:, 2] > BEHIND, np.isfinite(bundle.depth)
        self._z = z = np.where(ahead, X[:, 2], 1.0)
        self._focal = K[..., [0, 1], [0, 1]] / (POINT_STD * bundle.pixel[tracks.view])[:, None]
        self._plane = X[:, :2] / z[:, None]
        off = (self._plane - on_plane(tracks.pixels, K)) * self._focal
        deep = np.where(told, np.log(z / np.where(told, bundle.depth, z)) / bundle.depth_std, 0)
        squares = np.stack([(off**2).sum(1), deep**2], 1) / TAIL**2
        squares[~ahead] = LOST
        held = bundle.log_focal @ bundle.focal_information @ bundle.log_focal
        self.cost = float(TAIL**2 * np.log1p(squares).sum() + held)
        self._weight = np.sqrt(ahead[:, None] / (1 + squares))[:, [0, 0, 1]]
        self._weight[:, 2] *= told
        self._r = np.concatenate([off, deep[:, None]], 1) * self._weight
        if integrated:
            self.cost += float(np.log(self._precision).sum())

    def stepped(self, damping: float) -> Bundle:
        """The bundle after the step, with a share added to the diagonal of the equations."""
        bundle, tracks, r = self.bundle, self.bundle.tracks, self._r.ravel()
        point = np.repeat(tracks.point, 3)
        by_point = self.by_points()
        # Of itself each point knows one number, and leaves.
        own = (1 + damping) * np.bincount(point, by_point**2, tracks.count) + TINY
        g_point = np.asarray(np.bincount(point, by_point * r, tracks.count), float)
        full = np.zeros((len(bundle.free), DOF))
        moves = np.repeat(bundle.free[:, None], DOF, axis=1)
        moves[:, 6] = bundle.open_lens
        if moves.any():
            J, moving = self.by_views(), np.flatnonzero(moves)
            J_point = sparse.csr_array((by_point, (np.arange(len(point)), point)))
            H, g = (J.T @ J).toarray(), J.T @ r
            if self._integrated:
                slopes = self._precision_slopes(J)
                g, g_point = g + slopes[0], g_point + slopes[1]
            H[6::DOF, 6::DOF] += bundle.focal_information
            g[6::DOF] += bundle.focal_information @ bundle.log_focal
            across = (J.T @ J_point).toarray()
            H, g, across = H[np.ix_(moving, moving)], g[moving], across[moving]
            H[np.diag_indices_from(H)] += damping * H.diagonal() + TINY
            step = -np.linalg.solve(H - across / own @ across.T, g - across @ (g_point / own))
            full[moves] = step
            g_point += across.T @ step
        return replace(
            bundle,
            T_world_cam=bundle.T_world_cam @ rigid_steps(full),
            log_focal=bundle.log_focal + full[:, 6],
            log_depth=bundle.log_depth - np.clip(g_point / own, -1, 1),
        )

    def by_points(self) -> F64:
        """(3 M,) derivatives of the residuals, weighted, by the log depth of their points."""
        Y = self.bundle.in_anchor[self.bundle.tracks.point]
        return np.asarray(np.einsum("mrk,mk->mr", self._by_Y, Y).ravel())

    def by_views(self) -> sparse.csr_array:
        """(3 M, 7 N) derivatives of the residuals, weighted, by the views' unknowns."""
        bundle, tracks = self.bundle, self.bundle.tracks
        a, b = bundle.anchor[tracks.point], tracks.view
        by_X, by_Y, Y = self._by_X, self._by_Y, bundle.in_anchor[tracks.point]
        blocks = np.zeros((2, *by_X.shape[:2], DOF))
        blocks[0, :, :, :3], blocks[1, :, :, :3] = by_Y, -by_X
        blocks[0, :, :, 3:6] = -by_Y @ cross_matrices(Y)
        blocks[1, :, :, 3:6] = by_X @ cross_matrices(self._X)
        # A longer lens narrows the rays of the first observation, and widens the other's image.
        blocks[0, :, :, 6] = -np.einsum("mrk,mk->mr", by_Y[:, :, :2], Y[:, :2])
        blocks[1, :, :2, 6] = self._plane * self._focal * self._weight[:, :2]
        rows = np.arange(by_X[:, :, 0].size).reshape(1, -1, 3, 1)
        columns = DOF * np.stack([a, b])[:, :, None, None] + np.arange(DOF)
        at = [np.broadcast_to(x, blocks.shape).ravel() for x in (rows, columns)]
        return sparse.csr_array((blocks.ravel(), at), (rows.size, DOF * len(bundle.free)))

    def _precision_slopes(self, J: sparse.csr_array) -> tuple[F64, F64]:
        """(7 N,) and (P,) half of the derivatives of what :attr:`_precision` adds to the cost, by
        the cameras' places and the log depths, which are what it depends on most."""
        tracks, parallax = self.bundle.tracks, self._parallax
        share = parallax / self._precision[tracks.point, None]
        unweighted = np.insert(share / self._clear, 2, 0.0, axis=1)
        by_views = -(J.T @ unweighted.ravel()).reshape(-1, DOF)
        by_views[:, 3:] = 0
        by_points = -np.bincount(tracks.point, (share * parallax).sum(1), tracks.count)
        return by_views.ravel(), by_points.astype(float)

    @cached_property
    def _precision(self) -> F64:
        """(P,) of the log depths, as far as no observation is an outlier."""
        count, point = self.bundle.tracks.count, self.bundle.tracks.point
        shown = np.bincount(point, (self._parallax**2).sum(1), count)
        return np.asarray(shown + self.bundle.depth_std**-2.0, float)

    @cached_property
    def _parallax(self) -> F64:
        """(M, 2) derivatives of where points are seen, without weights, by their log depths."""
        return self.by_points().reshape(-1, 3)[:, :2] / self._clear

    @property
    def _clear(self) -> F64:
        """(M, 2) the weights of where points are seen, kept from 0."""
        return np.maximum(self._weight[:, :2], TINY)

    @cached_property
    def _by_X(self) -> F64:
        """(M, 3, 3) derivatives of the residuals, weighted, by the points in the views."""
        by_X = np.zeros((len(self._X), 3, 3))
        by_X[:, [0, 1], [0, 1]] = self._focal / self._z[:, None]
        by_X[:, :2, 2] = -self._focal * self._plane / self._z[:, None]
        by_X[:, 2, 2] = 1 / (self._z * self.bundle.depth_std)
        return by_X * self._weight[:, :, None]

    @cached_property
    def _by_Y(self) -> F64:
        """(M, 3, 3) derivatives by the points in the views of their first observations."""
        bundle, tracks = self.bundle, self.bundle.tracks
        R = bundle.T_world_cam[:, :3, :3]
        a = bundle.anchor[tracks.point]
        return np.asarray(self._by_X @ R[tracks.view].transpose(0, 2, 1) @ R[a])
