"""Cameras whose poses nobody knows, by what their images have in common (structure from motion).

Pairs of views are first looked at alone (``two_views.py``), strung together with baselines as long
as the network's depths mean them to be, and then adjusted together (``bundle.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.bundle import Bundle, adjust
from hamst3r.alignment.intrinsics import Lens, scaled_focal
from hamst3r.alignment.observations import Observations
from hamst3r.alignment.two_views import FEWEST, Tracks, TwoViews, gather, line_misses, link, rays
from hamst3r.geometry import closest_approach, invert, make_T
from hamst3r.keypoints import Keypoints, at_once

F64 = NDArray[np.float64]
# Relative error of a depth of the network's, beside those around it; and beside baselines that are
# known.
NETWORK_STD, UNSURE_STD = 0.25, 1.0
# Of log focal lengths that only the network tells: of their mean, and by how much they differ:
# cameras of unknown lenses mostly are of one make.
GUESS_STD, ALIKE_STD = 0.25, 0.15
# None is farther from what is guessed: matches that want it are wrong, or nothing tells them.
FARTHEST_GUESS = 1.25
# The search for them begins so much longer and shorter, too. Of its starts as many are followed,
# those that let most matches fit, and each for so many rounds at most.
LONGER, SEARCHED, ROUNDS = 1.35, 2, 4
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
    believed: Mapping[int, F64] | None = None,
) -> Structure | None:
    """The largest group of views that share keypoints; None where no two do.

    Args:
        keypoints, lenses: Per view.
        observations: Which pairs to look at (those that the network saw), and its depths.
        known: view -> exact T_world_cam. With them, the group is the one around them.
        believed: view -> K that was found before. Without, guessed focal lengths are searched for.
    """
    views = _Views(keypoints, lenses, observations, known)
    starts = [(log_focal, views.links(log_focal)) for log_focal in views.starts(believed or {})]
    starts.sort(key=lambda start: -sum(len(s.matches) for s in start[1]))
    rounds = ROUNDS if len(starts) > 1 else 0
    found = [
        bundle
        for log_focal, links in starts[:SEARCHED]
        if (bundle := views.bundle(log_focal, links, rounds)) is not None
    ]
    if not found:
        return None
    bundle = max(found, key=_observed)
    settled = _settled(bundle)
    if views.are_lenses(settled.log_focal):
        bundle = settled
    bundle = bundle.of(fitting(bundle))
    together = _hanging_together(bundle, known)
    return Structure(bundle, together) if len(together) > max(1, len(known)) else None


@dataclass(frozen=True, eq=False)
class _Views:
    """N views that may hang together; focal lengths as logs (N,), to be added to those of ``K``."""

    keypoints: Sequence[Keypoints]
    lenses: Sequence[Lens]
    observations: Observations
    known: Mapping[int, F64]

    @cached_property
    def guessed(self) -> NDArray[np.bool_]:
        """(N,) focal lengths that only the network tells."""
        return np.isinf([lens.K_std for lens in self.lenses])

    @cached_property
    def K(self) -> list[F64]:
        """Per view; those that are no more than guesses share their mean, over the long side."""
        K = [lens.K for lens in self.lenses]
        guessed = np.flatnonzero(self.guessed).tolist()
        sides = {v: max(self.observations.grids[v].shape) for v in guessed}
        logs = [np.log(K[v][0, 0] / sides[v]) for v in guessed]
        for v, log in zip(guessed, logs, strict=True):
            K[v] = scaled_focal(K[v], float(np.exp(np.mean(logs) - log)))
        return K

    @cached_property
    def depths(self) -> list[F64]:
        """Per view, the network's."""
        return [_depth(self.observations, view) for view in range(len(self.lenses))]

    def starts(self, believed: Mapping[int, F64]) -> list[F64]:
        """Focal lengths from which to begin: what is believed, or several."""
        alike = np.zeros(len(self.lenses))
        if believed:
            seen = np.isin(np.arange(len(alike)), list(believed))
            found = [believed.get(v, K) for v, K in enumerate(self.K)]
            return [self._filled(self._longer(found), seen)]
        if not self.guessed.any():
            return [alike]
        own = self._longer([lens.K for lens in self.lenses])
        longer = np.log(LONGER) * self.guessed
        several = [own] if self.guessed.sum() > 1 else []
        return [alike, *several, longer, -longer]

    def are_lenses(self, log_focal: F64) -> bool:
        """Whether there may be such focal lengths."""
        return bool(abs(log_focal[self.guessed]).max(initial=0) < FARTHEST_GUESS)

    def _longer(self, others: Sequence[F64]) -> F64:
        """By how much other lenses (N of them, K) are longer."""
        return np.array([np.log(x[0, 0] / K[0, 0]) for x, K in zip(others, self.K, strict=True)])

    def _filled(self, log_focal: F64, seen: NDArray[np.bool_]) -> F64:
        """With the mean of those seen for other views whose focal lengths are guessed."""
        told = seen & self.guessed
        mean = float(log_focal[told].mean()) if told.any() else 0.0
        return np.where(self.guessed & ~seen, mean, log_focal)

    def _K_of(self, log_focal: F64) -> list[F64]:
        return [scaled_focal(K, float(np.exp(x))) for K, x in zip(self.K, log_focal, strict=True)]

    def links(self, log_focal: F64) -> list[TwoViews]:
        """What pairs of views say of each other, if these are their focal lengths."""
        K, guessed = self._K_of(log_focal), bool(self.guessed.any())
        pairs = [
            (i, j) for i, j in self.observations.joined if not (i in self.known and j in self.known)
        ]
        found = at_once(lambda pair: link(pair[0], pair[1], self.keypoints, K, guessed), pairs)
        return [s for s in found if s is not None]

    def bundle(self, log_focal: F64, links: Sequence[TwoViews], rounds: int) -> Bundle | None:
        """Of the points that fit: from a start, and as long as better focal lengths let more fit.

        With a wrong focal length many right matches fit no motion, and what fits is turned.
        """
        best = self._adjusted(log_focal, links)
        for _ in range(rounds):
            if best is None:
                break
            seen = np.isin(np.arange(len(log_focal)), best.tracks.view)
            log_focal = self._filled(best.log_focal, seen)
            found = self._adjusted(log_focal, self.links(log_focal))
            if found is None or _observed(found) <= _observed(best):
                break
            best = found
        return best

    def _adjusted(self, log_focal: F64, links: Sequence[TwoViews]) -> Bundle | None:
        K, known, lenses = self._K_of(log_focal), self.known, self.lenses
        start = _strung(links, self.keypoints, K, self.depths, known)
        if len(start) < 2 or len(start) == len(known):
            return None
        tracks = _some(gather([s for s in links if s.i in start and s.j in start], self.keypoints))
        if not tracks.count:
            return None
        T = np.stack([start.get(v, np.eye(4)) for v in range(len(K))])
        free = np.array([v in start and v not in known for v in range(len(K))])
        if not known:
            free[next(iter(start))] = False
        depth = _at(self.depths, tracks.view, tracks.pixels)
        bundle = adjust(
            Bundle(
                tracks=tracks,
                K=self.K,
                pixel=np.array([k.pixel for k in self.keypoints]),
                free=free,
                open_lens=np.array([v in start and x.K_std > 0 for v, x in enumerate(lenses)]),
                focal_information=_focal_information(lenses),
                depth=depth,
                depth_std=NETWORK_STD if len(known) < 2 else UNSURE_STD,
                T_world_cam=T,
                log_focal=log_focal,
                log_depth=first_depths(tracks, K, T, depth),
            )
        )
        fits = fitting(bundle)
        return bundle.of(fits) if fits.any() and self.are_lenses(bundle.log_focal) else None


def _observed(bundle: Bundle) -> int:
    """How often views show its points."""
    return len(bundle.tracks.view)


def _settled(bundle: Bundle) -> Bundle:
    """Adjusted, with baselines that do not take the network's errors for parallax."""
    longer = adjust(bundle)
    if not bundle.free.any():
        return longer
    shorter, seen = adjust(longer, integrated=True), np.unique(bundle.tracks.view)
    spread = [np.linalg.norm(np.std(b.T_world_cam[seen, :3, 3], axis=0)) for b in (shorter, longer)]
    return shorter if spread[0] > COLLAPSED * spread[1] else longer


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


def _hanging_together(bundle: Bundle, known: Mapping[int, F64]) -> tuple[int, ...]:
    """Views that share enough points with what is held, or with one another."""
    tracks, views = bundle.tracks, np.arange(len(bundle.free))
    seen = np.zeros((tracks.count, len(views)))
    seen[tracks.point, tracks.view] = 1
    common = seen.T @ seen >= FEWEST
    reached = np.isin(views, list(known)) if known else ~bundle.free & seen.any(0)
    while (grown := reached | common[reached].any(0)).sum() > reached.sum():
        reached = grown
    return tuple(np.flatnonzero(reached).tolist())
