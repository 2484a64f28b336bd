"""Gaussian knowledge of camera poses, from anywhere: what pairs, calibration and past say.

A node is a camera's pose T_world_cam and the log of a scale, by which the unit of its depths
differs from the metre. Factors say something of nodes with an information matrix (the inverse of
a covariance); :mod:`hamst3r.alignment.fusing` finds the nodes that agree best with all of them.
Steps are applied from the right, T <- T exp(x), x = (translation in metres, rotation vector), in
the camera's axes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hamst3r.geometry import cross_matrices, invert, rotation_matrices, rotation_vectors

F64 = NDArray[np.float64]
DOF = 7
# Of a relative factor's squared error, per degree of freedom: beyond it counts less and less.
ROBUST = 4.0


@dataclass(frozen=True, eq=False)
class Nodes:
    """T (N, 4, 4) rigid T_world_cam, log_scale (N,)."""

    T: F64
    log_scale: F64

    @classmethod
    def at(cls, T: F64) -> Nodes:
        """Nodes whose depths are in metres."""
        return cls(T, np.zeros(len(T)))

    def moved(self, step: F64) -> Nodes:
        """After steps (N, 7)."""
        T = self.T.copy()
        T[:, :3, 3] += (T[:, :3, :3] @ step[:, :3, None])[..., 0]
        T[:, :3, :3] = T[:, :3, :3] @ rotation_matrices(step[:, 3:6])
        return Nodes(T, self.log_scale + step[:, 6])


class Factor(Protocol):
    """Adds its share to the normal equations."""

    def add(self, nodes: Nodes, H: F64, g: F64) -> None:
        """H (N, N, 7, 7) and g (N, 7) of half its squared error at ``nodes``."""

    def touches(self) -> set[int]:
        """The nodes it says something of."""

    def split(self, gone: set[int]) -> tuple[list[Factor], list[Factor]]:
        """What of it touches these nodes, and what does not."""


class _Single:
    """Factors whose rows each speak of one node."""

    node: NDArray[np.intp]

    def touches(self) -> set[int]:
        return set(self.node.tolist())

    def split(self, gone: set[int]) -> tuple[list[Factor], list[Factor]]:
        return _split(self, np.isin(self.node, list(gone)))


@dataclass(frozen=True, eq=False)
class Relative:
    """What pairs of views say: F similarities between nodes.

    Attributes:
        i, j: (F,) nodes. T_i_j: (F, 4, 4) rigid, metres. log_ratio: (F,) log scale of j over i.
        information: (F, 7, 7) of a step of node j.
        robust: Errors beyond what the information says count less.
        metric: ``T_i_j`` is in metres, else in the unit of node i's depths; the scales are free.
    """

    i: NDArray[np.intp]
    j: NDArray[np.intp]
    T_i_j: F64
    log_ratio: F64
    information: F64
    robust: bool = False
    metric: bool = False

    def __len__(self) -> int:
        return len(self.i)

    def residuals(self, nodes: Nodes) -> F64:
        """(F, 7) steps by which the nodes j are off."""
        return self._off(nodes, self._between(nodes))

    def _off(self, nodes: Nodes, between: F64) -> F64:
        E = invert(self.T_i_j) @ between
        turn = rotation_vectors(E[:, :3, :3])
        log = nodes.log_scale[self.j] - nodes.log_scale[self.i] - self.log_ratio
        if self.metric:
            log = np.zeros_like(log)
        return np.concatenate([E[:, :3, 3], turn, log[:, None]], 1)

    def _between(self, nodes: Nodes) -> F64:
        # In the unit of node i's depths, in which the pair has measured it.
        T = invert(nodes.T[self.i]) @ nodes.T[self.j]
        T[:, :3, 3] *= self._per_metre(nodes)[:, None]
        return T

    def _per_metre(self, nodes: Nodes) -> F64:
        return np.ones(len(self)) if self.metric else np.exp(-nodes.log_scale[self.i])

    def errors(self, nodes: Nodes) -> F64:
        """(F,) squared errors by the information: about 7 where that is honest."""
        r = self.residuals(nodes)
        squares: F64 = np.einsum("fa,fab,fb->f", r, self.information, r)
        return squares

    def add(self, nodes: Nodes, H: F64, g: F64) -> None:
        between = self._between(nodes)
        r = self._off(nodes, between)
        information = self.information
        if self.robust:
            square = np.einsum("fa,fab,fb->f", r, information, r) / DOF
            information = information / (1 + square / ROBUST)[:, None, None] ** 2
        J_i, J_j = self._derivatives(nodes, between)
        for a, J_a in ((self.i, J_i), (self.j, J_j)):
            weighted = J_a.transpose(0, 2, 1) @ information
            np.add.at(g, a, (weighted @ r[..., None])[..., 0])
            for c, J_c in ((self.i, J_i), (self.j, J_j)):
                np.add.at(H, (a, c), weighted @ J_c)

    def jacobians(self, nodes: Nodes) -> tuple[F64, F64]:
        """(F, 7, 7) derivatives of the residuals by steps of the nodes i and j."""
        return self._derivatives(nodes, self._between(nodes))

    def _derivatives(self, nodes: Nodes, between: F64) -> tuple[F64, F64]:
        unit = self._per_metre(nodes)[:, None, None]
        J_j = np.tile(np.eye(DOF), (len(self), 1, 1))
        J_j[:, :3, :3] *= unit
        J_i = -adjoint(invert(between))
        J_i[:, :3, :3] *= unit
        # The scale of i stretches what the pair has measured.
        J_i[:, :3, 6] = -(between[:, :3, :3].transpose(0, 2, 1) @ between[:, :3, 3:])[..., 0]
        if self.metric:
            J_i[:, :, 6] = J_j[:, :, 6] = 0
            J_i[:, 6] = J_j[:, 6] = 0
        return J_i, J_j

    def touches(self) -> set[int]:
        return {*self.i.tolist(), *self.j.tolist()}

    def split(self, gone: set[int]) -> tuple[list[Factor], list[Factor]]:
        return _split(self, np.isin(self.i, list(gone)) | np.isin(self.j, list(gone)))

    def scaled(self, factor: float) -> Relative:
        """The same in a world that is ``factor`` times as large."""
        T, information = self.T_i_j.copy(), self.information.copy()
        T[:, :3, 3] *= factor
        information[:, :3] /= factor
        information[:, :, :3] /= factor
        return replace(self, T_i_j=T, information=information)

    def weighted(self, weights: NDArray) -> Relative:
        """As if each had been measured ``weights`` (F,) times."""
        return replace(self, information=self.information * weights[:, None, None])


@dataclass(frozen=True, eq=False)
class Absolute(_Single):
    """F known poses: node (F,), T (F, 4, 4) T_world_cam, information (F, 6, 6) of a step."""

    node: NDArray[np.intp]
    T: F64
    information: F64

    def add(self, nodes: Nodes, H: F64, g: F64) -> None:
        E = invert(self.T) @ nodes.T[self.node]
        r = np.concatenate([E[:, :3, 3], rotation_vectors(E[:, :3, :3])], 1)
        np.add.at(g[:, :6], self.node, (self.information @ r[..., None])[..., 0])
        np.add.at(H[:, :, :6, :6], (self.node, self.node), self.information)


@dataclass(frozen=True, eq=False)
class Metric(_Single):
    """F opinions of the scale: node (F,), log_scale (F,), std (F,)."""

    node: NDArray[np.intp]
    log_scale: F64
    std: F64

    def add(self, nodes: Nodes, H: F64, g: F64) -> None:
        information = self.std**-2.0
        off = nodes.log_scale[self.node] - self.log_scale
        np.add.at(g[:, 6], self.node, information * off)
        np.add.at(H[:, :, 6, 6], (self.node, self.node), information)


@dataclass(frozen=True, eq=False)
class Level(_Single):
    """F cameras that know up: node (F,), up (F, 3) unit vector in the camera, std (F,) radians.

    Up is the world's z.
    """

    node: NDArray[np.intp]
    up: F64
    std: F64

    def add(self, nodes: Nodes, H: F64, g: F64) -> None:
        R = nodes.T[self.node, :3, :3]
        J = -(R @ cross_matrices(self.up))[:, :2] / self.std[:, None, None]
        r = (R @ self.up[..., None])[:, :2] / self.std[:, None, None]
        np.add.at(g[:, 3:6], self.node, (J.transpose(0, 2, 1) @ r)[..., 0])
        np.add.at(H[:, :, 3:6, 3:6], (self.node, self.node), J.transpose(0, 2, 1) @ J)


@dataclass(frozen=True, eq=False)
class Remainder:
    """What is left of nodes that are gone: a Gaussian of those that stay.

    Attributes:
        node: (F,). at: F nodes, where it was linearised. H: (F, F, 7, 7), g: (F, 7) there.
    """

    node: NDArray[np.intp]
    at: Nodes
    H: F64
    g: F64

    def add(self, nodes: Nodes, H: F64, g: F64) -> None:
        E = invert(self.at.T) @ nodes.T[self.node]
        turn = rotation_vectors(E[:, :3, :3])
        log = nodes.log_scale[self.node] - self.at.log_scale
        step = np.concatenate([E[:, :3, 3], turn, log[:, None]], 1)
        g[self.node] += self.g + np.einsum("fkab,kb->fa", self.H, step)
        H[np.ix_(self.node, self.node)] += self.H

    def touches(self) -> set[int]:
        return set(self.node.tolist())

    def split(self, gone: set[int]) -> tuple[list[Factor], list[Factor]]:
        return ([self], []) if self.touches() & gone else ([], [self])


def pose_information(T_world_cam: F64, covariance: F64) -> F64:
    """(6, 6) information of a step, of a pose whose covariance is in the world's axes.

    The covariance is as in ROS's PoseWithCovariance: (translation, rotation about fixed axes).
    """
    R = T_world_cam[:3, :3]
    turn = np.zeros((6, 6))
    turn[:3, :3] = turn[3:, 3:] = R
    # What is stated as exact in one direction is held to a micrometre there.
    information: F64 = turn.T @ np.linalg.inv(covariance + 1e-12 * np.eye(6)) @ turn
    return information


def _split(factor, leaving: NDArray[np.bool_]) -> tuple[list[Factor], list[Factor]]:
    """The rows of a factor that leave, and those that stay."""

    def rows(which: NDArray[np.bool_]) -> list[Factor]:
        arrays = {
            f.name: value[which]
            for f in fields(factor)
            if isinstance(value := getattr(factor, f.name), np.ndarray)
        }
        return [replace(factor, **arrays)] if which.any() else []

    return rows(leaving), rows(~leaving)


def adjoint(T: F64) -> F64:
    """(F, 7, 7) of T exp(x) T^-1 = exp(Ad x), rigid T."""
    result = np.zeros((len(T), DOF, DOF))
    R, t = T[:, :3, :3], T[:, :3, 3]
    result[:, :3, :3] = result[:, 3:6, 3:6] = R
    result[:, :3, 3:6] = cross_matrices(t) @ R
    result[:, 6, 6] = 1
    return result
