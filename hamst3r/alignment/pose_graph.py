"""The pose graph: views are similarities, pairs are edges condensed into moments.

Each view k has a *canonical* pointmap p in its own axes and unit, and a node G_k (Sim3) that maps
it to the world. An edge (i, j) shows view j's points as q in camera i. Its residual, in camera j,

    e = D q - p    with    D = G_j^-1 G_i,

is weighted by the information of a point seen by a camera: precise across the ray, vague along it.
Since e is linear in the 3x4 matrix D, the sum over all pixels is a quadratic form in D,

    sum w e^T W e = d^T Q d - 2 b^T d + const,    d = vec(D),

so the pixels are visited once per round to build Q (12x12) and b; Gauss-Newton on the poses then
never touches a pixel, and its cost does not depend on the resolution. All edges are worked on at
once, as stacks of planar points (see :mod:`hamst3r.alignment.similarity`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.similarity import apply, medians, norms, similarities
from hamst3r.geometry import invert, rotation_matrices, split_similarity

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
# Standard deviations relative to the distance: across the ray and along it.
SIGMA_ACROSS, SIGMA_ALONG = 0.004, 0.02
# Medians of the residual over the distance beyond which an edge says nothing.
MAX_MISFIT = 0.35
MIN_POINTS = 8
# sqrt(median of chi^2, 3 degrees of freedom): scales a median residual to a standard deviation.
MEDIAN_CHI = 1.538
# Medians and votes need no more than every so manieth sample.
SPARSE = 3
TINY = 1e-9
# Edges that agree with a start less than this share of the best one do not belong to it.
CONSISTENT = 0.1
# The error of a tree's edges adds up: what is so many standard deviations off counts half.
TREE_TOLERANCE = 15.0
RANDOM_TREES = 30

_GENERATORS = np.zeros((7, 4, 4))
for _k in range(3):
    _GENERATORS[_k, _k, 3] = 1
    _GENERATORS[6, _k, _k] = 1
_GENERATORS[3, 1:3, 1:3] = [[0, -1], [1, 0]]
_GENERATORS[4, 0:3:2, 0:3:2] = [[0, 1], [-1, 0]]
_GENERATORS[5, 0:2, 0:2] = [[0, -1], [1, 0]]


@dataclass(frozen=True, eq=False)
class Edges:
    """E edges: view j's points as the pair shows them (q, camera i) and as the view has them (p).

    Attributes:
        pair: (E,) index of the pair. i, j: (E,) views.
        q, p: (E, 3, S) float32. w: (E, S) >= 0.
        T_i_j: (E, 4, 4) similarity that maps p to q, the pair's own opinion.
        mass: (E,) weight of the points that follow it.
    """

    pair: NDArray[np.intp]
    i: NDArray[np.intp]
    j: NDArray[np.intp]
    q: F32
    p: F32
    w: F32
    T_i_j: F64
    mass: F64

    def __len__(self) -> int:
        return len(self.pair)

    def select(self, which: NDArray) -> Edges:
        """Some of the edges, by mask or index."""
        if which.dtype == bool and which.all():
            return self
        return Edges(*(getattr(self, f.name)[which] for f in fields(self)))

    def every(self, step: int) -> Edges:
        """The same edges with every ``step``-th sample."""
        q, p, w = self.q[..., ::step], self.p[..., ::step], self.w[..., ::step]
        return Edges(self.pair, self.i, self.j, q, p, w, self.T_i_j, self.mass)


def make_edges(
    pair: NDArray[np.intp], i: NDArray[np.intp], j: NDArray[np.intp], q: F32, p: F32, w: F32
) -> tuple[Edges, NDArray[np.bool_]]:
    """Edges, and (E,) which of them are any good.

    The others' points are degenerate, or do not fit each other at all.
    """
    distance = np.maximum(norms(p), TINY)
    weights = w
    good = np.count_nonzero(w, axis=1) >= MIN_POINTS
    T = np.tile(np.eye(4), (len(pair), 1, 1))
    misfit = np.zeros_like(w)
    for _ in range(4):
        T, found = similarities(p, q, weights)
        good &= found
        scale = split_similarity(T)[1].astype(np.float32)
        misfit = norms(apply(T, p) - q) / (scale[:, None] * distance)
        weights = w / np.maximum(misfit, 5e-3)  # Least distances, not squares.
    good &= medians(misfit[:, ::SPARSE], w[:, ::SPARSE]) < MAX_MISFIT
    mass = np.sum(w / (1 + (misfit / 0.05) ** 2), axis=1, dtype=float)
    return Edges(pair, i, j, q, p, w, T, mass), good


def mahalanobis(edges: Edges, G: F64) -> F32:
    """(E, S) residuals in standard deviations, for nodes G (N, 4, 4).

    The square is e^T W e with W the information of a point seen from the origin, written out.
    """
    p = edges.p
    e = apply(invert(G[edges.j]) @ G[edges.i], edges.q) - p
    square = np.maximum(p[:, 0] ** 2 + p[:, 1] ** 2 + p[:, 2] ** 2, TINY)
    along = (e[:, 0] * p[:, 0] + e[:, 1] * p[:, 1] + e[:, 2] * p[:, 2]) ** 2 / square
    across = np.maximum(e[:, 0] ** 2 + e[:, 1] ** 2 + e[:, 2] ** 2 - along, 0)
    return np.sqrt((across / SIGMA_ACROSS**2 + along / SIGMA_ALONG**2) / square)


def components(views: Sequence[int], edges: Edges) -> list[list[int]]:
    """Views that hang together, largest group first; views without an edge are groups of one."""
    group = {v: v for v in views}
    for i, j in zip(edges.i.tolist(), edges.j.tolist(), strict=True):
        a, b = group[i], group[j]
        group = {v: a if g == b else g for v, g in group.items()}
    groups = [[v for v in views if group[v] == g] for g in sorted(set(group.values()))]
    return sorted(groups, key=len, reverse=True)


def spanning_tree(
    views: Sequence[int], edges: Edges, root: int, weight: F64 | None = None
) -> F64 | None:
    """Nodes by chaining edges from the root, the heaviest first; edges of no weight are not used.

    ``weight``: (E,), None = the edges' mass. Returns None if the edges do not reach all views.
    """
    weight = edges.mass if weight is None else weight
    G = np.tile(np.eye(4), (max(views) + 1, 1, 1))
    done = {root}
    heaviest_first = [k for k in np.argsort(-weight).tolist() if weight[k] > 0]
    ends = list(zip(edges.i.tolist(), edges.j.tolist(), strict=True))
    while len(done) < len(views):
        k = next((k for k in heaviest_first if (ends[k][0] in done) != (ends[k][1] in done)), None)
        if k is None:
            return None
        i, j = ends[k]
        if i in done:
            G[j] = G[i] @ edges.T_i_j[k]
        else:
            G[i] = G[j] @ invert(edges.T_i_j[k])
        done |= {i, j}
    return G


def robust_start(views: Sequence[int], edges: Edges, root: int) -> F64:
    """The heaviest spanning tree, where its edges and the others agree; else the best of many.

    Pairs that are wrong but sure of themselves (the same chair twice) enter the heaviest tree. Then
    trees of random edges are tried. The one that explains most of all pairs tells right from wrong,
    and the heaviest tree of right ones is the start. ``edges`` connect ``views``.
    """
    heaviest = spanning_tree(views, edges, root)
    if heaviest is None:
        raise ValueError("robust_start needs edges that connect the views")
    sparse = edges.every(SPARSE)
    shares = agreement(sparse, heaviest, TREE_TOLERANCE)
    if len(edges) < len(views) or shares.min() > CONSISTENT * shares.max():
        return heaviest
    # However sure an edge is of itself, it has no more votes than the middle one; nor much fewer.
    middle = np.median(edges.mass)
    votes = np.clip(edges.mass, middle / 2, middle)
    best, most = shares, votes @ shares
    random = np.random.default_rng(0)  # The same pairs have the same solution.
    for _ in range(RANDOM_TREES):
        tree = spanning_tree(views, edges, root, random.random(len(edges)) + TINY)
        if tree is not None:
            shares = agreement(sparse, tree, TREE_TOLERANCE)
            if votes @ shares > most:
                best, most = shares, votes @ shares
    right = np.where(best > CONSISTENT * best.max(), edges.mass, 0)
    start = spanning_tree(views, edges, root, right)
    return heaviest if start is None else start


def solve(
    edges: Edges, G: F64, free: NDArray[np.bool_], rounds: int = 2, steps: int = 6
) -> tuple[F64, F64]:
    """Refine the nodes: per round robust weights and moments, then Gauss-Newton on the moments.

    Args:
        edges: Of one connected component.
        G: (N, 4, 4) start.
        free: (N, 7) which of translation, rotation and log scale of each node may change; at
            least seven must be held for the gauge (one node, or two known camera poses).

    Returns:
        Nodes (N, 4, 4), and per edge (E,) the share of its weight that agrees with them.
    """
    basis = _basis(edges)
    for _ in range(rounds):
        sigma, w = _robust(edges, G)
        moments = _moments(edges, basis, w, sigma)
        G = _gauss_newton(edges, moments, G, free, steps)
    return G, agreement(edges, G)


def information(edges: Edges, G: F64) -> F64:
    """(E, 7, 7) what each edge knows of a step of its node j (in j's unit): an edge counts once."""
    sigma, w = _robust(edges, G)
    Q, _ = _moments(edges, _basis(edges), w, sigma)
    J = _second_node(invert(G[edges.j]) @ G[edges.i])
    result: F64 = J @ Q @ J.transpose(0, 2, 1)
    return result


def agreement(edges: Edges, G: F64, tolerance: float = 5.0) -> F64:
    """(E,) shares in [0, 1] of the edges' weight that agrees with the nodes.

    What is ``tolerance`` standard deviations off counts half.
    """
    agreeing = edges.w / (1 + (mahalanobis(edges, G) / tolerance) ** 2)
    return agreeing.sum(1, dtype=float) / np.maximum(edges.w.sum(1, dtype=float), TINY)


def _robust(edges: Edges, G: F64) -> tuple[F64, F64]:
    """(E, 1) by how much the edges are less precise than assumed, (E, S) robust weights."""
    m = mahalanobis(edges, G)
    # A weak network is less precise than assumed; its median sets the scale then.
    sigma = medians(m[:, ::SPARSE], edges.w[:, ::SPARSE]) / MEDIAN_CHI
    sigma = np.fmax(1.0, sigma)[:, None]
    return sigma, edges.w / (1 + (m / (2 * sigma)) ** 2)


def _second_node(D: F64) -> F64:
    """(E, 7, 12) derivatives of D = G_j^-1 G_i by a step of node j."""
    return -(_GENERATORS @ D[:, None])[:, :, :3].reshape(-1, 7, 12)


def _basis(edges: Edges) -> tuple[F64, F64, F64]:
    """(E, 4, S) homogeneous q, (E, 12, S) products of p and q, (E, S) squared distances."""
    q = np.concatenate([edges.q, np.ones_like(edges.q[:, :1])], 1, dtype=float)
    p = edges.p.astype(float)
    products = (p[:, :, None] * q[:, None]).reshape(len(p), 12, -1)
    return q, products, np.maximum((p * p).sum(1), TINY)


def _moments(
    edges: Edges, basis: tuple[F64, F64, F64], w: NDArray, sigma: NDArray
) -> tuple[F64, F64]:
    """Q (E, 12, 12) and b (E, 12), index = 4 row + column of D, for unit total weight of an edge.

    The information of a point is W = (1 / across^2 - (1 / across^2 - 1 / along^2) r r^T) / d^2
    with r = p / d, so that Q is a sum of a block diagonal matrix and one of products p q^T.
    """
    q, products, square = basis
    # Many pixels share one error, so an edge counts once, by precision and agreeing share.
    share = w / np.maximum(edges.w.sum(1, dtype=float)[:, None] * sigma**2, TINY)
    isotropic = share / (SIGMA_ACROSS**2 * square)
    radial = share * (1 / SIGMA_ACROSS**2 - 1 / SIGMA_ALONG**2) / square**2
    Q = -((products * radial[:, None]) @ products.transpose(0, 2, 1))
    block = (q * isotropic[:, None]) @ q.transpose(0, 2, 1)
    for k in range(0, 12, 4):
        Q[:, k : k + 4, k : k + 4] += block
    return Q, (products @ (share / (SIGMA_ALONG**2 * square))[..., None])[..., 0]


def _gauss_newton(
    edges: Edges, moments: tuple[F64, F64], G: F64, free: NDArray[np.bool_], steps: int
) -> F64:
    Q, b = moments
    i, j, count = edges.i, edges.j, len(G)
    variable = np.flatnonzero(free)
    if len(variable) == 0:
        return G
    damping = 1e-9
    for _ in range(steps):
        D = (invert(G[j]) @ G[i])[:, None]
        # G <- G exp(x): D changes by D X_i - X_j D.
        J_i = (D @ _GENERATORS)[:, :, :3].reshape(-1, 7, 12)
        J_j = _second_node(D[:, 0])
        J = np.concatenate([J_i, J_j], 1)
        residual = (Q @ D[:, 0, :3].reshape(-1, 12, 1)) - b[..., None]
        h, gradient = J @ Q @ J.transpose(0, 2, 1), (J @ residual)[..., 0]
        H, g = np.zeros((count, count, 7, 7)), np.zeros((count, 7))
        for a, a_at in ((i, slice(0, 7)), (j, slice(7, 14))):
            np.add.at(g, a, gradient[:, a_at])
            for c, c_at in ((i, slice(0, 7)), (j, slice(7, 14))):
                np.add.at(H, (a, c), h[:, a_at, c_at])
        H_free = H.transpose(0, 2, 1, 3).reshape(7 * count, -1)[np.ix_(variable, variable)]
        x = np.zeros(7 * count)
        try:
            x[variable] = np.linalg.solve(
                H_free + np.diag(damping * H_free.diagonal() + 1e-12), -g.ravel()[variable]
            )
        except np.linalg.LinAlgError:
            break
        if not np.isfinite(x).all():
            break
        G = G @ _exponential(x.reshape(-1, 7))
        if np.abs(x).max() < 1e-4:  # The next round changes the weights by more.
            break
    return G


def _exponential(x: F64) -> F64:
    """(N, 4, 4) similarities of small steps (N, 7): translation, rotation vector, log scale."""
    T = np.tile(np.eye(4), (len(x), 1, 1))
    T[:, :3, :3] = rotation_matrices(x[:, 3:6])
    T[:, :3, :3] *= np.exp(np.clip(x[:, 6], -1, 1))[:, None, None]
    T[:, :3, 3] = x[:, :3]
    return T
