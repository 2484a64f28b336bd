"""The pose graph: views are similarities, pairs are edges condensed into moments.

Each view k has a *canonical* pointmap p in its own axes and unit, and a node G_k (Sim3) that maps
it to the world. An edge (i, j) shows view j's points as q in camera i. Its residual, in camera j,

    e = D q - p    with    D = G_j^-1 G_i,

is weighted by the information of a point seen by a camera: precise across the ray, vague along it.
Since e is linear in the 3x4 matrix D, the sum over all pixels is a quadratic form in D,

    sum w e^T W e = d^T Q d - 2 b^T d + const,    d = vec(D),

so the pixels are visited once per round to build Q (12x12) and b; Gauss-Newton on the poses then
never touches a pixel, and its cost does not depend on the resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.alignment.resection import weighted_median
from hamst3r.geometry import invert, lengths, make_T, split_similarity, transform, umeyama

F64 = NDArray[np.float64]
# Standard deviations relative to the distance: across the ray and along it.
SIGMA_ACROSS, SIGMA_ALONG = 0.004, 0.02
# Medians of the residual over the distance beyond which an edge says nothing.
MAX_MISFIT = 0.35
# sqrt(median of chi^2, 3 degrees of freedom): scales a median residual to a standard deviation.
MEDIAN_CHI = 1.538

_GENERATORS = np.zeros((7, 4, 4))
for _k in range(3):
    _GENERATORS[_k, _k, 3] = 1
    _GENERATORS[6, _k, _k] = 1
_GENERATORS[3, 1:3, 1:3] = [[0, -1], [1, 0]]
_GENERATORS[4, 0:3:2, 0:3:2] = [[0, 1], [-1, 0]]
_GENERATORS[5, 0:2, 0:2] = [[0, -1], [1, 0]]


@dataclass(frozen=True, eq=False)
class GraphEdge:
    """View j's points as the pair shows them (q, camera i) and as the view has them (p).

    Attributes:
        i, j: Views.
        q, p: (n, 3). w: (n,) >= 0.
        T_i_j: (4, 4) similarity that maps p to q, the pair's own opinion.
        mass: Weight of the points that follow it.
    """

    i: int
    j: int
    q: F64
    p: F64
    w: F64
    T_i_j: F64
    mass: float


def make_edge(i: int, j: int, q: F64, p: F64, w: F64) -> GraphEdge | None:
    """An edge, or None where its points are degenerate or do not fit each other at all."""
    keep = w > 0
    q, p, w = q[keep], p[keep], w[keep]
    if len(w) < 8:
        return None
    distance = lengths(p)
    T, weights = None, w
    for _ in range(4):
        T = umeyama(p, q, weights)
        if T is None:
            return None
        scale = split_similarity(T)[1]
        misfit = lengths(transform(T, p) - q) / (scale * distance)
        weights = w / np.maximum(misfit, 5e-3)  # Least distances, not squares.
    if T is None or not weighted_median(misfit, w) < MAX_MISFIT:
        return None
    return GraphEdge(i, j, q, p, w, T, float(np.sum(w / (1 + (misfit / 0.05) ** 2))))


def information(p: F64) -> F64:
    """(n, 3, 3) information of points seen from the origin."""
    distance = lengths(p)[:, None, None]
    ray = p[:, :, None] / distance
    along = ray @ ray.transpose(0, 2, 1)
    across = np.eye(3) - along
    return (across / SIGMA_ACROSS**2 + along / SIGMA_ALONG**2) / distance**2


def mahalanobis(edge: GraphEdge, G: F64) -> F64:
    """(n,) residuals of an edge in standard deviations, for nodes G (N, 4, 4).

    The square is e^T W e with W of :func:`information`, written out.
    """
    e = transform(invert(G[edge.j]) @ G[edge.i], edge.q) - edge.p
    square = np.einsum("nk,nk->n", edge.p, edge.p)
    along = np.einsum("nk,nk->n", e, edge.p) ** 2 / square
    across = np.maximum(np.einsum("nk,nk->n", e, e) - along, 0)
    return np.sqrt((across / SIGMA_ACROSS**2 + along / SIGMA_ALONG**2) / square)


def components(num_views: int, edges: Sequence[GraphEdge]) -> list[list[int]]:
    """Views that hang together, largest group first; views without an edge are groups of one."""
    group = list(range(num_views))
    for edge in edges:
        a, b = group[edge.i], group[edge.j]
        group = [a if g == b else g for g in group]
    groups = [[v for v in range(num_views) if group[v] == g] for g in sorted(set(group))]
    return sorted(groups, key=len, reverse=True)


def spanning_tree(
    views: Sequence[int], edges: Sequence[GraphEdge], root: int
) -> tuple[F64, list[GraphEdge]] | None:
    """Nodes by chaining the heaviest edges from the root, and those edges.

    None if they do not reach all views.
    """
    used: list[GraphEdge] = []
    G = np.tile(np.eye(4), (max(views) + 1, 1, 1))
    done = {root}
    while len(done) < len(views):
        open_edges = [e for e in edges if (e.i in done) != (e.j in done)]
        if not open_edges:
            return None
        edge = max(open_edges, key=lambda e: e.mass)
        if edge.i in done:
            G[edge.j] = G[edge.i] @ edge.T_i_j
        else:
            G[edge.i] = G[edge.j] @ invert(edge.T_i_j)
        done |= {edge.i, edge.j}
        used.append(edge)
    return G, used


def robust_start(views: Sequence[int], edges: Sequence[GraphEdge], root: int) -> F64:
    """The best of the spanning trees: the heaviest, and those without one of its edges.

    A pair that is wrong but sure of itself enters the heaviest tree. The tree without it explains
    more of the other edges, and wins. ``edges`` connect ``views``.
    """
    # However sure an edge is of itself, it has no more votes than the middle one.
    totals = np.array([edge.w.sum() for edge in edges])
    votes = np.minimum(totals, np.median(totals)) / totals
    heaviest = spanning_tree(views, edges, root)
    if heaviest is None:
        raise ValueError("robust_start needs edges that connect the views")
    best, most = heaviest[0], -1.0
    for left_out in [None, *heaviest[1]]:
        tree = spanning_tree(views, [edge for edge in edges if edge is not left_out], root)
        if tree is None:
            continue
        G = tree[0]
        explained = sum(
            vote * float(np.sum(edge.w / (1 + (mahalanobis(edge, G) / 5) ** 2)))
            for edge, vote in zip(edges, votes, strict=True)
        )
        if explained > most:
            best, most = G, explained
    return best


def solve(
    edges: Sequence[GraphEdge], G: F64, free: NDArray[np.bool_], rounds: int = 3, steps: int = 6
) -> tuple[F64, list[float]]:
    """Refine the nodes: per round robust weights and moments, then Gauss-Newton on the moments.

    Args:
        edges: Of one connected component.
        G: (N, 4, 4) start.
        free: (N, 7) which of translation, rotation and log scale of each node may change; at
            least seven must be held for the gauge (one node, or two known camera poses).

    Returns:
        Nodes (N, 4, 4), and per edge the share of its weight that agrees with them.
    """
    infos = [information(edge.p) for edge in edges]
    agreement: list[float] = []
    for _ in range(rounds):
        moments = []
        for edge, info in zip(edges, infos, strict=True):
            m = mahalanobis(edge, G)
            # A weak network is less precise than assumed; its median sets the scale then.
            sigma = max(1.0, weighted_median(m, edge.w) / MEDIAN_CHI)
            moments.append(_moments(edge, info, edge.w / (1 + (m / (2 * sigma)) ** 2), sigma))
        G = _gauss_newton(edges, moments, G, free, steps)
    for edge in edges:
        m = mahalanobis(edge, G)
        agreement.append(float(np.sum(edge.w / (1 + (m / 5) ** 2)) / np.sum(edge.w)))
    return G, agreement


def _moments(edge: GraphEdge, info: F64, w: F64, sigma: float) -> tuple[F64, F64]:
    """Q (12, 12) and b (12,), index = 4 row + column of D, for unit total weight of the edge."""
    q = np.concatenate([edge.q, np.ones((len(w), 1))], 1)
    # Many pixels share one error, so an edge counts once, by precision and agreeing share.
    total = edge.w.sum() * sigma**2
    weighted = w[:, None, None] * info
    outer = (q[:, :, None] * q[:, None, :]).reshape(-1, 16)
    Q = (
        (outer.T @ weighted.reshape(-1, 9))
        .reshape(4, 4, 3, 3)
        .transpose(2, 0, 3, 1)
        .reshape(12, 12)
    )
    info_p = np.einsum("nab,nb->na", weighted, edge.p)
    return Q / total, (info_p.T @ q).reshape(12) / total


def _gauss_newton(
    edges: Sequence[GraphEdge],
    moments: Sequence[tuple[F64, F64]],
    G: F64,
    free: NDArray[np.bool_],
    steps: int,
) -> F64:
    size = free.size
    variable = np.flatnonzero(free)
    if len(variable) == 0:
        return G
    damping = 1e-9
    for _ in range(steps):
        H, g = np.zeros((size, size)), np.zeros(size)
        for edge, (Q, b) in zip(edges, moments, strict=True):
            D = invert(G[edge.j]) @ G[edge.i]
            # G <- G exp(x): D changes by D X_i - X_j D.
            J_i = (D @ _GENERATORS)[:, :3].reshape(7, 12).T
            J_j = -(_GENERATORS @ D)[:, :3].reshape(7, 12).T
            residual = Q @ D[:3].reshape(12) - b
            J = np.concatenate([J_i, J_j], 1)
            at = np.concatenate([7 * edge.i + np.arange(7), 7 * edge.j + np.arange(7)])
            H[np.ix_(at, at)] += J.T @ Q @ J
            g[at] += J.T @ residual
        H_free = H[np.ix_(variable, variable)]
        x = np.zeros(size)
        try:
            x[variable] = np.linalg.solve(
                H_free + np.diag(damping * H_free.diagonal() + 1e-12), -g[variable]
            )
        except np.linalg.LinAlgError:
            break
        if not np.isfinite(x).all():
            break
        G = G @ _exponential(x.reshape(-1, 7))
        if np.abs(x).max() < 1e-6:
            break
    return G


def _exponential(x: F64) -> F64:
    """(N, 4, 4) similarities of small steps (N, 7): translation, rotation vector, log scale."""
    rotations = Rotation.from_rotvec(x[:, 3:6]).as_matrix()
    scales = np.exp(np.clip(x[:, 6], -1, 1))
    return np.stack([make_T(R, t, s) for R, t, s in zip(rotations, x[:, :3], scales, strict=True)])
