"""Cameras whose poses nobody knows, by what their images have in common (structure from motion).

Pairs of views are first looked at alone (``two_views.py``), strung together with baselines as long
as the network's depths mean them to be, and then adjusted together (``bundle.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.bundle import Bundle, adjust
from hamst3r.alignment.intrinsics import Lens, scaled_focal
from hamst3r.alignment.observations import Observations
from hamst3r.alignment.two_views import FEWEST, Tracks, TwoViews, gather, line_misses, link, rays
from hamst3r.geometry import closest_approach, invert, make_T
from hamst3r.keypoints import Keypoints

F64 = NDArray[np.float64]
# Relative error of a depth of the network's, beside those around it; and beside baselines that are
# known.
NETWORK_STD, UNSURE_STD = 0.25, 1.0
# Of log focal lengths that only the network tells: of their mean, and by how much they differ:
# cameras of unknown lenses mostly are of one make.
GUESS_STD, ALIKE_STD = 0.15, 0.07
# Rays at less than this angle (radians) say little of a depth; where all do, the baseline is taken
# to be this share of the depth.
PARALLAX, NO_BASELINE = np.deg2rad(0.7), 0.02
MAX_MISS = 3.0  # pixels of the image
MOST_POINTS = 4000
COLLAPSED = 0.25  # of the baselines of the likeliest bundle: below, all parallax is denied


@dataclass(frozen=True, eq=False)
class Structure:
    """Views that hang together by keypoints.

    Attributes:
        bundle: As adjusted, of all views; only what is said of ``views`` means anything. In the
            axes of one of them and as large as the network means it, or in those of known ones.
        views: Which.
    """

    bundle: Bundle
    views: tuple[int, ...]

    def points_of(self, view: int) -> int:
        """Number of points that a view shares with others."""
        return int((self.bundle.tracks.view == view).sum())

    def explained(self, T_world_cam: Mapping[int, F64], K: Mapping[int, F64]) -> float:
        """Share of a view's points that other poses explain, of the view where it is least."""
        tracks, pixel = self.bundle.tracks, self.bundle.pixel
        later = np.setdiff1d(np.arange(len(tracks.view)), tracks.first)
        first = tracks.first[tracks.point[later]]
        ends = tracks.view[np.stack([first, later], 1)]
        all_of, good_of = np.zeros(len(pixel)), np.zeros(len(pixel))
        for i, j in np.unique(ends, axis=0).tolist():
            if i in T_world_cam and j in T_world_cam:
                at = (ends == (i, j)).all(1)
                T_i_j = invert(T_world_cam[i]) @ T_world_cam[j]
                a, b = tracks.pixels[first[at]], tracks.pixels[later[at]]
                good = line_misses(a, b, K[i], K[j], T_i_j) < MAX_MISS * pixel[i]
                all_of[[i, j]] += len(good)
                good_of[[i, j]] += good.sum()
        enough = all_of >= FEWEST
        return float((good_of[enough] / all_of[enough]).min(initial=1.0)) if enough.any() else 0.0


def build(
    keypoints: Sequence[Keypoints],
    lenses: Sequence[Lens],
    observations: Observations,
    known: Mapping[int, F64],
) -> Structure | None:
    """The largest group of views that share keypoints; None where no two do.

    Args:
        keypoints, lenses: Per view.
        observations: Which pairs to look at (those that the network saw), and its depths.
        known: view -> exact T_world_cam. With them, the group is the one around them.
    """
    K = _alike(lenses, observations)
    guessed = any(np.isinf(lens.K_std) for lens in lenses)
    links = [
        found
        for i, j in observations.joined
        if not (i in known and j in known)
        and (found := link(i, j, keypoints, K, guessed)) is not None
    ]
    depths = [_depth(observations, view) for view in range(len(K))]
    start = _strung(links, keypoints, K, depths, known)
    if len(start) < 2 or len(start) == len(known):
        return None
    inside = [s for s in links if s.i in start and s.j in start]
    tracks = _some(gather(inside, keypoints))
    if not tracks.count:
        return None
    T = np.stack([start.get(v, np.eye(4)) for v in range(len(K))])
    free = np.array([v in start and v not in known for v in range(len(K))])
    if not known:
        free[next(iter(start))] = False
    depth = _at(depths, tracks.view, tracks.pixels)
    bundle = Bundle(
        tracks=tracks,
        K=K,
        pixel=np.array([k.pixel for k in keypoints]),
        free=free,
        open_lens=np.array([v in start and lens.K_std > 0 for v, lens in enumerate(lenses)]),
        focal_information=_focal_information(lenses),
        depth=depth,
        depth_std=NETWORK_STD if len(known) < 2 else UNSURE_STD,
        T_world_cam=T,
        log_focal=np.zeros(len(K)),
        log_depth=first_depths(tracks, K, T, depth),
    )
    bundle = adjust(bundle)
    fits = fitting(bundle)
    if not fits.any():
        return None
    bundle = _settled(bundle.of(fits))
    bundle = bundle.of(fitting(bundle))
    views = _hanging_together(bundle.tracks, len(K), list(known) or [next(iter(start))])
    return Structure(bundle, views) if len(views) > max(1, len(known)) else None


def _settled(bundle: Bundle) -> Bundle:
    """Adjusted, with baselines that do not take the network's errors for parallax."""
    longer = adjust(bundle)
    if not bundle.free.any():
        return longer
    shorter, seen = adjust(longer, integrated=True), np.unique(bundle.tracks.view)
    spread = [np.linalg.norm(np.std(b.T_world_cam[seen, :3, 3], axis=0)) for b in (shorter, longer)]
    return shorter if spread[0] > COLLAPSED * spread[1] else longer


def _alike(lenses: Sequence[Lens], observations: Observations) -> list[F64]:
    """K per view; those that are no more than guesses share their mean, over the long side."""
    guessed = [v for v, lens in enumerate(lenses) if np.isinf(lens.K_std)]
    sides = {v: max(observations.grids[v].shape) for v in guessed}
    logs = [np.log(lenses[v].K[0, 0] / sides[v]) for v in guessed]
    K = [lens.K for lens in lenses]
    for v, log in zip(guessed, logs, strict=True):
        K[v] = scaled_focal(K[v], float(np.exp(np.mean(logs) - log)))
    return K


def _focal_information(lenses: Sequence[Lens]) -> F64:
    """(N, N) of log focal lengths: each by its calibration, or the guessed ones together."""
    std = np.array([lens.K_std for lens in lenses])
    guessed = np.isinf(std)
    information = np.diag(np.where(guessed | (std == 0), 0, std) ** 2.0)
    information[information > 0] **= -1
    n = max(1, int(guessed.sum()))
    mean = np.outer(guessed, guessed) / n
    return information + (np.diag(guessed) - mean) / ALIKE_STD**2 + mean / n / GUESS_STD**2


def _depth(observations: Observations, view: int) -> F64:
    """(gh, gw) of a view, as the pairs in its own axes have it; NaN where none has."""
    own = observations.own_looks(view)
    shape = observations.grids[view].shape
    if not own:
        return np.full(shape, np.nan)
    z = np.stack([np.where(look.weight > 0, look.points[..., 2], np.nan) for look in own])
    return np.asarray(z[0] if len(z) == 1 else np.median(z, axis=0), float)


def _at(maps: Sequence[F64], view: NDArray[np.intp], pixels: F64) -> F64:
    """(n,) values of maps (one per view) at pixels (n, 2)."""
    values = np.full(len(view), np.nan)
    for v, own in enumerate(maps):
        at = view == v
        u, r = np.clip(pixels[at].round().astype(int), 0, np.array(own.shape[::-1]) - 1).T
        values[at] = own[r, u]
    return values


def _strung(
    links: Sequence[TwoViews],
    keypoints: Sequence[Keypoints],
    K: Sequence[F64],
    depths: Sequence[F64],
    known: Mapping[int, F64],
) -> dict[int, F64]:
    """view -> T_world_cam of the known views, else of the best one's group, surest pairs first."""
    edges = {(s.i, s.j): (len(s.matches), _with_baseline(s, keypoints, K, depths)) for s in links}
    if not edges:
        return {}
    most = max(edges, key=lambda edge: edges[edge][0])
    placed = dict(known) or {most[0]: np.eye(4)}
    while open_ends := [e for e in edges if (e[0] in placed) != (e[1] in placed)]:
        i, j = max(open_ends, key=lambda edge: edges[edge][0])
        T_i_j = edges[i, j][1]
        if i in placed:
            placed[j] = placed[i] @ T_i_j
        else:
            placed[i] = placed[j] @ invert(T_i_j)
    return placed


def _with_baseline(
    s: TwoViews, keypoints: Sequence[Keypoints], K: Sequence[F64], depths: Sequence[F64]
) -> F64:
    """T_i_j with the length that makes triangulated depths the network's."""
    views = np.array([s.i, s.j])
    pixels = [keypoints[v].pixels[s.matches[:, k]] for k, v in enumerate(views)]
    ray_i, ray_j = (rays(x, K[v]) for x, v in zip(pixels, views, strict=True))
    z_i, z_j, _, cosine = closest_approach(ray_i, ray_j @ s.T_i_j[:3, :3].T, s.T_i_j[:3, 3])
    told = [_at(depths, np.full(len(x), v), x) for x, v in zip(pixels, views, strict=True)]
    z = np.stack([z_i, z_j])
    ratio = np.stack(told) / np.where(z > 0, z, np.nan)
    good = np.isfinite(ratio) & (cosine < np.cos(PARALLAX))
    if good.sum() >= FEWEST // 2:
        length = float(np.exp(np.median(np.log(ratio[good]))))
    else:
        depth = np.concatenate(told)
        depth = depth[np.isfinite(depth)]
        length = NO_BASELINE * (float(np.median(depth)) if len(depth) else 1.0)
    return make_T(s.T_i_j[:3, :3], length * s.T_i_j[:3, 3])


def first_depths(tracks: Tracks, K: Sequence[F64], T: F64, depth: F64) -> F64:
    """(P,) log depths in the first views: by the last observation's ray, else by the network."""
    first, last = tracks.first, tracks.last
    own = rays(tracks.pixels, np.stack(K)[tracks.view])
    turned = np.einsum("mab,mb->ma", T[tracks.view, :3, :3], own)
    centres = T[tracks.view, :3, 3]
    base = centres[last] - centres[first]
    z, other, _, cosine = closest_approach(turned[first], turned[last], base)
    usual = np.nanmedian(depth) if np.isfinite(depth).any() else float(np.median(np.abs(z)))
    guess = np.where(np.isfinite(depth[first]), depth[first], usual)
    crossed = (z > 0) & (other > 0) & (cosine < np.cos(PARALLAX))
    return np.log(np.where(crossed, np.clip(z, 0.1 * guess, 10 * guess), guess))


def _some(tracks: Tracks) -> Tracks:
    """Those that most views show, if they are too many."""
    shown = np.bincount(tracks.point, minlength=tracks.count)
    best = np.zeros(tracks.count, bool)
    best[np.argsort(-shown, kind="stable")[:MOST_POINTS]] = True
    return tracks.of(best)


def fitting(bundle: Bundle, most: float = MAX_MISS) -> NDArray[np.bool_]:
    """(P,) points that no view misses by ``most`` pixels of the image."""
    if not bundle.tracks.count:
        return np.zeros(0, bool)
    worst = np.maximum.reduceat(bundle.misses(), bundle.tracks.first)
    return np.asarray(worst < most)


def _hanging_together(tracks: Tracks, count: int, roots: Sequence[int]) -> tuple[int, ...]:
    """Views that share enough points with the roots or with one another."""
    seen = np.zeros((tracks.count, count))
    seen[tracks.point, tracks.view] = 1
    common = seen.T @ seen >= FEWEST
    reached = np.isin(np.arange(count), roots)
    while (grown := reached | common[reached].any(0)).sum() > reached.sum():
        reached = grown
    return tuple(np.flatnonzero(reached).tolist())
