"""Factors fused: the nodes that agree best with all of them, and what is left of nodes that go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.factors import DOF, Factor, Nodes, Remainder

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fused:
    """Nodes, and the information (7 F, 7 F) of the steps of the F ``free`` ones."""

    nodes: Nodes
    free: NDArray[np.intp]
    information: F64

    def std(self, node: int) -> F64:
        """(7,) of a node's translation, rotation and log scale; zeros for one that was held."""
        where = np.flatnonzero(self.free == node)
        if len(where) == 0:
            return np.zeros(DOF)
        columns = np.zeros((len(self.information), DOF))
        at = slice(DOF * where[0], DOF * where[0] + DOF)
        columns[at] = np.eye(DOF)
        variance = np.asarray(np.linalg.solve(self.information, columns)[at].diagonal())
        return np.sqrt(np.clip(variance, 0, None)).astype(float)

    def scale_std(self, nodes: NDArray[np.intp]) -> float:
        """Relative standard deviation of the mean scale of some nodes."""
        at = DOF * np.flatnonzero(np.isin(self.free, nodes)) + DOF - 1
        if len(at) == 0:
            return 0.0
        mean = np.zeros(len(self.information))
        mean[at] = 1 / len(at)
        return float(np.clip(mean @ np.linalg.solve(self.information, mean), 0, None)) ** 0.5


def fuse(nodes: Nodes, factors: Sequence[Factor], free: NDArray[np.bool_], steps: int = 8) -> Fused:
    """Find the nodes that agree best with the factors.

    Args:
        nodes: Where to start. free: (N,) which may move; what nothing is said of stays.
    """
    variable = np.flatnonzero(free)
    if len(variable) == 0:
        return Fused(nodes, variable, np.zeros((0, 0)))
    for _ in range(steps):
        nodes, largest = stepped(nodes, factors, variable)
        if largest < 1e-6:
            break
    A = _flat(normal_equations(nodes, factors)[0], variable)
    return Fused(nodes, variable, A + _hold(A))


def stepped(
    nodes: Nodes, factors: Sequence[Factor], variable: NDArray[np.intp]
) -> tuple[Nodes, float]:
    """After one step of Gauss-Newton of the ``variable`` nodes, and the step's largest part."""
    H, g = normal_equations(nodes, factors)
    A, b = _flat(H, variable), g[variable].ravel()
    x = np.linalg.solve(A + _hold(A), -b)
    if not np.isfinite(x).all():
        return nodes, 0.0
    # A long step is a bad linearisation: cut it.
    x *= min(1.0, 0.5 / max(float(np.abs(x.reshape(-1, DOF)[:, 3:]).max()), 1e-12))
    step = np.zeros((len(nodes.T), DOF))
    step[variable] = x.reshape(-1, DOF)
    return nodes.moved(step), float(np.abs(x).max())


def normal_equations(nodes: Nodes, factors: Sequence[Factor]) -> tuple[F64, F64]:
    """H (N, N, 7, 7) and g (N, 7) of all factors."""
    count = len(nodes.T)
    H, g = np.zeros((count, count, DOF, DOF)), np.zeros((count, DOF))
    for factor in factors:
        factor.add(nodes, H, g)
    return H, g


def marginalise(
    nodes: Nodes, factors: Sequence[Factor], gone: set[int]
) -> tuple[list[Factor], Remainder | None]:
    """Take nodes out, and keep what was known through them as a Gaussian of their neighbours.

    Returns:
        The factors that do not touch them, and what is left of the others (None: nothing).
    """
    leaving: list[Factor] = []
    staying: list[Factor] = []
    for factor in factors:
        touching, others = factor.split(gone)
        leaving += touching
        staying += others
    near = np.array(sorted(set().union(*(f.touches() for f in leaving)) - gone), int)
    out = np.array(sorted(gone), int)
    if len(near) == 0:
        return staying, None
    H, g = normal_equations(nodes, leaving)
    flat = _flat(H, np.concatenate([near, out]))
    n = DOF * len(near)
    inside, link, rest = flat[:n, :n], flat[:n, n:], flat[n:, n:]
    through = link @ np.linalg.inv(rest + _hold(rest))
    left = inside - through @ link.T
    # Symmetric and not negative, whatever rounding did.
    values, vectors = np.linalg.eigh((left + left.T) / 2)
    left = (vectors * np.maximum(values, 0)) @ vectors.T
    gradient = g[near].ravel() - through @ g[out].ravel()
    shape = (len(near), DOF, len(near), DOF)
    at = Nodes(nodes.T[near].copy(), nodes.log_scale[near].copy())
    remainder = Remainder(
        near, at, left.reshape(shape).transpose(0, 2, 1, 3), gradient.reshape(-1, DOF)
    )
    return staying, remainder


def merged(factors: Sequence[Factor]) -> list[Factor]:
    """The same in as few factors as possible: what is alike is computed at once."""
    kinds: dict[tuple, list] = {}
    for factor in factors:
        flags = [getattr(factor, name, None) for name in ("robust", "metric")]
        alone = id(factor) if isinstance(factor, Remainder) else None
        kinds.setdefault((type(factor), *flags, alone), []).append(factor)
    result: list[Factor] = []
    for alike in kinds.values():
        arrays = {
            f.name: np.concatenate([getattr(factor, f.name) for factor in alike])
            for f in fields(alike[0])
            if len(alike) > 1 and isinstance(getattr(alike[0], f.name), np.ndarray)
        }
        result.append(replace(alike[0], **arrays))
    return result


def _flat(H: F64, which: NDArray[np.intp]) -> F64:
    return H[np.ix_(which, which)].transpose(0, 2, 1, 3).reshape(DOF * len(which), -1)


def _hold(A: F64) -> F64:
    """Next to nothing: holds what no factor speaks of."""
    return np.diag(1e-9 * A.diagonal() + 1e-9)
