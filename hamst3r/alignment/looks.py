"""What some pairs say of their views' samples, stacked: sums over pixels for the closed forms.

All pairs are worked on at once, as stacks of planar points (see
:mod:`hamst3r.alignment.similarity`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.intrinsics import FocalHold
from hamst3r.alignment.observations import Observations
from hamst3r.alignment.similarity import apply, norms, similarities
from hamst3r.geometry import rotation_matrices

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
# Relative errors below this count by their square: it is how far neighbouring pixels err alike.
FLOOR = np.float32(0.06)
NEAREST = np.float32(1e-3)


class Looks:
    """The looks of some pairs, stacked: L = 2 pairs, those of one view side by side.

    Attributes:
        view, pair: (L,) view, and position among the pairs.
        X, w: (L, 3, S) points as the pair has them, (L, S) weights.
        rays: (N, 3, S) of the samples of each view.
    """

    def __init__(
        self, observations: Observations, members: Sequence[int], rays: Sequence[F64]
    ) -> None:
        view = np.array([look.view for e in members for look in observations.pairs[e].looks])
        own = np.array([look.own for e in members for look in observations.pairs[e].looks])
        order = np.argsort(view, kind="stable")
        at = (2 * np.array(members)[:, None] + [0, 1]).ravel()[order]
        self.view, self.pair = view[order], order // 2
        # Confidence tells outliers from the rest better than the good from the very good.
        self.X, self.w = observations.X[at], np.log1p(observations.w[at])
        self.rays = np.stack([r.T for r in rays]).astype(np.float32)
        self.own = own[order]
        # Where each pair's first and second look are: (2, P).
        self.ends = np.argsort(order).reshape(-1, 2).T
        self._own_share = np.where(self.own, 1, 0.25).astype(np.float32)[:, None]
        self._J = np.zeros((len(at), 8, 2, self.w.shape[1]), np.float32)
        self._seen, self._first = np.unique(self.view, return_index=True)

    def per_view(self, values: NDArray) -> NDArray:
        """(N, ...) sums of (L, ...) over the looks of each view."""
        result = np.zeros((len(self.rays), *values.shape[1:]), values.dtype)
        result[self._seen] = np.add.reduceat(values, self._first, axis=0)
        return result

    def depths(self, z: F32, previous: F32 | None) -> F32:
        """(N, S) depths of the samples, 0 where nothing was seen, of z (L, S) from each look."""
        w = self.w * (z > 0)
        depth = self._average(z, w * self._own_share) if previous is None else previous
        for _ in range(3 if previous is None else 1):
            off = np.abs(z / np.maximum(depth, np.float32(1e-6))[self.view] - 1)
            depth = self._average(z, w / np.maximum(off, FLOOR))
        return depth

    def _average(self, z: F32, w: F32) -> NDArray:
        total = self.per_view(w)
        return self.per_view(w * z) / np.where(total > 0, total, np.float32(1))

    def fit_pairs(self, pairs: F64, cameras: F64, depth: F32, x: F32) -> F64:
        """The similarities that take both of each pair's pointmaps to the current points.

        Args:
            pairs, cameras: As they are. depth: (N, S). x: (L, 3, S) the pairs' points in the
                cameras, as they are.
        """
        points = self.rays * depth[:, None]
        z = depth[self.view]
        per_depth = 1 / np.maximum(z, NEAREST)
        distance = norms(x - points[self.view]) * per_depth
        w = self.w * (z > 0) * per_depth**2 / np.maximum(distance, FLOOR)
        T, found = similarities(self.X, apply(cameras, points)[self.view], w, self.pair)
        return np.where(found[:, None, None], T, pairs)

    def camera_steps(
        self,
        x: F32,
        depth: F32,
        free: NDArray[np.bool_],
        focal_hold: FocalHold,
        log_focal: F64,
    ) -> tuple[F64, F64]:
        """One Gauss-Newton step of the reprojection of all points x (L, 3, S), of all looks.

        Returns:
            (N, 4, 4) rigid steps, applied from the left, and (N,) factors of the focal lengths.
        """
        H, g, *_ = self.normal(x, depth)
        H, g = self.per_view(H), self.per_view(g)
        weight, held = focal_hold.besides()
        hold = weight * H[:, 6, 6]
        g[:, 6] += hold * (log_focal - held)
        H[:, 6, 6] += hold
        variable = np.repeat(np.stack([free, focal_hold.free], 1), [6, 1], axis=1)
        H *= variable[:, :, None] & variable[:, None]
        diagonal = np.einsum("naa->na", H)
        diagonal[:] = np.where(variable, diagonal * (1 + 1e-6) + 1e-12, 1)
        step = np.linalg.solve(H, -(g * variable)[..., None])[..., 0].astype(float)
        step[~np.isfinite(step).all(1) | (np.abs(step[:, 3:]).max(1) > 0.5)] = 0
        return rigid_steps(step), np.exp(step[:, 6])

    def normal(self, x: F32, depth: F32, focal: F64 | None = None) -> tuple[F64, F64, F64, F64]:
        """Gauss-Newton's equations of the reprojection of points x (L, 3, S), per look.

        Pixels count by how far their points are off in space, towards depth (N, S) too.

        Returns:
            (L, 7, 7) and (L, 7), by a rigid step from the left and the log focal length; (L,) the
            squared residuals, weighted alike, and (L,) the weights.
        """
        front = x[:, 2] > NEAREST
        inverse = 1 / np.where(front, x[:, 2], np.float32(1))
        a, b = x[:, 0] * inverse, x[:, 1] * inverse
        plane = self.rays[self.view][:, :2]
        if focal is not None:
            plane = plane / focal[:, None, None].astype(np.float32)
        across, down = a - plane[:, 0], b - plane[:, 1]
        z = np.maximum(depth[self.view], np.float32(1e-6))
        beyond = x[:, 2] / z - 1
        distance = np.sqrt(across * across + down * down + beyond * beyond)
        root = np.sqrt(self.w * front / np.maximum(distance, FLOOR))
        # Derivatives by translation, rotation and log focal, then the residuals, times the weights'
        # roots; across and down side by side. What is not written here stays zero.
        J = self._J
        np.multiply(inverse, root, out=J[:, 0, 0])
        J[:, 1, 1] = J[:, 0, 0]
        np.multiply(a, root, out=J[:, 5, 1])
        np.multiply(b, root, out=J[:, 6, 1])
        J[:, 6, 0] = J[:, 5, 1]
        np.negative(J[:, 6, 1], out=J[:, 5, 0])
        np.multiply(a, J[:, 6, 1], out=J[:, 4, 1])
        np.negative(J[:, 4, 1], out=J[:, 3, 0])
        np.multiply(J[:, 5, 1], -inverse, out=J[:, 2, 0])
        np.multiply(J[:, 6, 1], -inverse, out=J[:, 2, 1])
        np.add(root, a * J[:, 5, 1], out=J[:, 4, 0])
        np.add(root, b * J[:, 6, 1], out=J[:, 3, 1])
        np.negative(J[:, 3, 1], out=J[:, 3, 1])
        np.multiply(across, root, out=J[:, 7, 0])
        np.multiply(down, root, out=J[:, 7, 1])
        # (Not of a matrix with itself, for which numpy calls what is slow for small ones.)
        flat = J.reshape(len(x), 8, -1)
        products = (flat[:, :7] @ flat.transpose(0, 2, 1)).astype(float)
        square = np.einsum("ls,ls->l", flat[:, 7], flat[:, 7]).astype(float)
        total = np.einsum("ls,ls->l", root, root).astype(float)
        return products[:, :, :7], products[:, :, 7], square, total


def rigid_steps(step: F64) -> F64:
    """(K, 4, 4) for small steps (K, 6 or more): translation, rotation vector."""
    T = np.tile(np.eye(4), (len(step), 1, 1))
    T[:, :3, :3] = rotation_matrices(step[:, 3:6])
    T[:, :3, 3] = step[:, :3]
    return T
