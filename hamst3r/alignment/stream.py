"""Cameras that move: every frame set is placed among keyframes of the past.

Frames, as in REP-105: the *map* is the frame in which the keyframes are optimised; what is
corrected there may jump. The *world*, in which everything is published, is continuous like odom: a
frame set is where it is relative to the newest keyframes, and a correction of those changes only
the transform between the two, ``T_map_world``. Only the world's tilt is brought back to that of
the map, slowly, because z is up in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.alignment.factors import Absolute, Factor, Metric, Nodes
from hamst3r.alignment.fusing import fuse
from hamst3r.alignment.intrinsics import FocalHold
from hamst3r.alignment.keyframes import Keyframe, KeyframeGraph, KeyView
from hamst3r.alignment.loops import closing, loop_candidate, measure_loop
from hamst3r.alignment.observations import Observations, observe
from hamst3r.alignment.placement import Placement
from hamst3r.alignment.priors import gravity_factors
from hamst3r.alignment.rig import LearnedRig, rig_factors
from hamst3r.alignment.stillness import Stillness
from hamst3r.alignment.tracked import (
    Recalled,
    Seen,
    Tracked,
    beginning,
    corrected,
    follow_links,
    only,
    own_looks,
    transformed,
)
from hamst3r.alignment.uncalibrated import Problem, Remembered, place_uncalibrated
from hamst3r.engine import PairPrediction
from hamst3r.frames import FrameSet
from hamst3r.geometry import invert, make_T, rotation_angle, unproject
from hamst3r.image import NetworkImage

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
# Share of the usual sureness about second views from which on two images may show one place.
MIN_SURENESS = 0.25
SUREST = 0.9
# Radians per frame set by which the world is turned back upright.
MAX_LEVELLING = np.deg2rad(0.05)


@dataclass(frozen=True)
class StreamConfig:
    """Settings of what is remembered while cameras move (pairing "rig").

    Attributes:
        window: Newest keyframes, which are always kept. keyframes: Kept in all: for loops, and to
            find the way back.
        parallax, turn: Shift over the usual depth, and rotation in radians, since the newest
            keyframe that make a new one.
        period: Seconds after which a smaller motion (a third) does.
        loop_every: A pair with an older keyframe nearby is tried every so many frame sets, while
            the newest keyframe is already half as far away as would make a new one.
        lost_pairs: Kept keyframes that are tried per frame set to find the way back.
        gap: Seconds without images after which the cameras may be anywhere.
        give_up: Frame sets after which a place that is not found again is a new one.
        alone: Frame sets of which no pair fits, after which a map begins with a single camera (and
            those that the rig ties to it).
    """

    window: int = 4
    keyframes: int = 16
    parallax: float = 0.2
    turn: float = np.deg2rad(20)
    period: float = 5.0
    loop_every: int = 5
    lost_pairs: int = 3
    gap: float = 2.0
    give_up: int = 60
    alone: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.window < self.keyframes:
            raise ValueError(
                f"window must be at least 1 and less than keyframes, got {self.window} and "
                f"{self.keyframes}"
            )


class Stream:
    """Keeps keyframes, and finds each frame set's place among them."""

    def __init__(self, config: StreamConfig, network_std: float) -> None:
        self.config = config
        self._network_std = network_std
        self.graph = KeyframeGraph(config.window, config.keyframes)
        self.T_map_world = np.eye(4)
        self._rig = LearnedRig()
        self._still = Stillness()
        self._last: dict[str, F64] = {}  # T_map_cam of the last frame set
        self._agreement: dict[str, float] = {}
        self._stamp: int | None = None
        self._lost = 0
        self._waiting = 0  # frame sets that could not begin a map
        self._turn = 0  # counts frame sets; whose turn it is to be tried
        self._due = False  # nearly a keyframe again: a loop makes it one, without making many
        self._sureness: float | None = None

    # -------------------------------------------------------------- before the network

    def recall(self, frames: FrameSet) -> Recalled:
        """What of the past the network should look at with this frame set."""
        gap = self._stamp is not None and abs(frames.stamp - self._stamp) > 1e9 * self.config.gap
        if gap and self.graph.keyframes:
            self._lost = max(self._lost, 1)
            self._last = {}
        self._stamp = frames.stamp
        self._turn += 1
        if not self.graph.keyframes:
            return Recalled()
        views: list[KeyView] = []
        edges: list[tuple[int, int]] = []
        count = len(frames.frames)
        for v, name in enumerate(frames.cameras):
            for view in self._candidates(name):
                edges.append((v, count + len(views)))
                views.append(view)
        probe = None
        if not self._lost and self._due and self._turn % self.config.loop_every == 0:
            loop = loop_candidate(self.graph, self._last, frames.cameras, self._turn)
            if loop is not None:
                probe = len(edges)
                edges.append((loop[0], count + len(views)))
                views.append(loop[1])
        return Recalled(tuple(views), tuple(edges), probe)

    def _candidates(self, camera: str) -> list[KeyView]:
        """The camera's newest view; while the way is lost, some of the others in turn as well."""
        mine = [k.views[camera] for k in reversed(self.graph.keyframes) if camera in k.views]
        if not self._lost or len(mine) < 2:
            return mine[:1]
        tries = min(self.config.lost_pairs, len(mine))
        return [mine[(self._turn * tries + k) % len(mine)] for k in range(tries)]

    def look(
        self,
        frames: FrameSet,
        images: Sequence[NetworkImage],
        predictions: Sequence,
        movers: Sequence[NDArray],
        recalled: Recalled,
        samples: int,
    ) -> Seen:
        """What the pairs, the probe's apart, and the kept depths say."""
        count, past = len(images), _past_predictions(self.graph, recalled, len(images))
        names = [*frames.cameras, *(f"{view.camera} (kept)" for view in recalled.views)]
        shapes = [*(image.grid for image in images), *(v.depth.shape for v in recalled.views)]
        moving = [*movers, *(view.movers for view in recalled.views)]
        probed = None if recalled.probe is None else recalled.edges[recalled.probe]
        pairs = [p for p in predictions if (p.i, p.j) != probed]
        observations = observe(names, shapes, [*pairs, *past], moving, samples)
        if probed is None:
            return Seen(observations, None)
        pairs = [p for p in predictions if (p.i, p.j) == probed] + [past[probed[1] - count]]
        return Seen(observations, observe(names, shapes, pairs, moving, samples))

    # -------------------------------------------------------------- after the network

    def track(
        self,
        frames: FrameSet,
        recalled: Recalled,
        seen: Seen,
        rays: Sequence[F64],
        focal_hold: FocalHold,
        rounds: int,
    ) -> Tracked:
        """Find the frame set's place.

        Args:
            rays: Per view, past ones too. focal_hold, rounds: See
                :func:`hamst3r.alignment.polish.polish`.
        """
        count, observations = len(frames.frames), seen.observations
        loops = {recalled.edges[recalled.probe][1]} if recalled.probe is not None else set()
        past = {count + k: self.graph.pose(view) for k, view in enumerate(recalled.views)}
        anchors = {v: T for v, T in past.items() if v not in loops}
        problem = Problem(
            observations,
            rays,
            anchors,
            self._previous(frames.cameras),
            focal_hold,
            rounds,
            frozenset(anchors),
            measure=True,
            alone=self._waiting >= self.config.alone,
        )
        solved = place_uncalibrated(problem)
        solved, notes = self._checked(solved, observations, anchors, frames, count)
        by_pairs = [v for v in solved.T_world_cam if v < count]
        self._agreement |= {frames.cameras[v]: solved.agreement.get(v, 0.0) for v in by_pairs}
        moved = self._rig.learn({frames.cameras[v]: solved.T_world_cam[v] for v in by_pairs})
        notes += [f"camera {name} has moved on the rig" for name in moved]
        tracked = self._fused(frames, solved, anchors, observations, notes)
        if seen.probe is not None and self.graph.keyframes and self._sure(seen.probe.w[1]):
            tracked.nodes[list(loops)] = np.stack([past[v] for v in loops])
            tracked.loop = measure_loop(
                recalled, problem, seen.probe, tracked, self.graph.keyframes[-1].reach
            )
        return tracked

    def _previous(self, cameras: Sequence[str]) -> dict[int, Remembered]:
        return {
            v: Remembered(self._last[name], self._agreement.get(name, 0.0))
            for v, name in enumerate(cameras)
            if name in self._last
        }

    def _checked(
        self,
        solved: Placement,
        observations: Observations,
        anchors: Mapping[int, F64],
        frames: FrameSet,
        count: int,
    ) -> tuple[Placement, list[str]]:
        """Only what hangs together with the past; at the very beginning, with the first camera."""
        notes = list(solved.notes)
        if not self.graph.keyframes:
            group = max(solved.groups, key=len, default=())
            self._waiting = 0 if group else self._waiting + 1
            start = beginning(solved, group, frames.frames)
            return only(solved, set(group), observations, start), notes
        sure = self._sure_pairs(observations, count)
        kept: set[int] = set()
        for group in solved.groups:
            members = set(group)
            seen = any(i in members and j in members for i, j in sure)
            if members & set(anchors) and members - set(anchors) and seen:
                kept |= members
        current = [v for v in kept if v < count]
        if current:
            self._lost = 0
        else:
            self._lost += 1
            notes.append("lost: nothing of what was seen before is recognised")
            if self._lost > self.config.give_up:
                notes.append("the way back was not found; the map begins anew")
                self._begin_anew()
        return only(solved, kept, observations, np.eye(4)), notes

    def _sure_pairs(self, observations: Observations, count: int) -> list[tuple[int, int]]:
        """Pairs with the past whose second view the network recognises as it usually does."""
        found = []
        for index, pair in enumerate(observations.pairs):
            if pair.i < count <= pair.j:
                found.append((pair, float(np.quantile(observations.w[2 * index + 1], SUREST))))
        usual = self._sureness
        sure = [(pair, s) for pair, s in found if usual is None or s > MIN_SURENESS * usual]
        for _, value in sure:
            old = value if self._sureness is None else self._sureness
            self._sureness = 0.98 * old + 0.02 * value
        return [(pair.i, pair.j) for pair, _ in sure]

    def _sure(self, weights: NDArray) -> bool:
        """Whether the network recognises a second view (S,) nearly as it usually does."""
        usual = self._sureness
        return usual is not None and float(np.quantile(weights, SUREST)) > 0.5 * usual

    def _begin_anew(self) -> None:
        """Forget the map, but not where the world is."""
        self.graph = KeyframeGraph(self.config.window, self.config.keyframes)
        self._last, self._lost, self._sureness = {}, 0, None

    def _fused(
        self,
        frames: FrameSet,
        solved: Placement,
        anchors: Mapping[int, F64],
        observations: Observations,
        notes: list[str],
    ) -> Tracked:
        """Pairs, rig and gravity together, then into the world."""
        count, rig = len(frames.frames), len(observations.grids)
        by_pairs = sorted(v for v in solved.T_world_cam if v < count)
        pairs_scale = float(np.mean(solved.log_scales)) if solved.log_scales else 0.0
        links = rig_factors(frames.frames, self._rig, rig) if by_pairs else []
        poses = {v: solved.T_world_cam[v] for v in by_pairs}
        if (
            not self.graph.keyframes
            and by_pairs
            and any(frame.T_rig_cam is not None for frame in frames.frames)
        ):
            poses[rig] = np.eye(4)  # The world begins as the rig's frame.
        placed = follow_links(poses, links)
        T = np.tile(np.eye(4), (rig + 1, 1, 1))
        for v, pose in [*placed.items(), *anchors.items()]:
            T[v] = pose
        current = sorted(v for v in placed if v < count)
        factors: list[Factor] = [*solved.measured, *links]
        factors += [*gravity_factors(frames.frames, current)]
        if not self.graph.keyframes and by_pairs:
            root = rig if rig in placed else by_pairs[0]
            factors.append(Absolute(np.array([root]), T[[root]], 1e10 * np.eye(6)[None]))
            factors.append(self._network_scale(by_pairs, pairs_scale))
        fused = fuse(Nodes.at(T), factors, np.isin(np.arange(rig + 1), list(placed)))
        after = fused.nodes.T.copy()
        names = {frames.cameras[v] if v < count else "": v for v in placed}
        calm = self._still.calm(
            {name: after[v] for name, v in names.items()},
            {name: fused.std(v)[:6] for name, v in names.items()},
        )
        for name, v in names.items():
            after[v] = calm[name]
        for v in current:
            on_rig = frames.frames[v].T_rig_cam
            if on_rig is not None and frames.frames[v].pose_is_exact:
                after[v] = after[rig] @ on_rig  # To the last digit.
        self._last = {frames.cameras[v]: after[v] for v in current}
        if current:
            self._level(after[current, :3, 3].mean(0))
        own = own_looks(solved, observations, after, set(current) - set(by_pairs), pairs_scale)
        final = corrected(own, observations, T, fused.nodes.log_scale, after, current)
        told = sum(frame.T_rig_cam is not None for frame in frames.frames) > 1
        spread = fused.scale_std(np.array(by_pairs, int)) if by_pairs else self._network_std
        if self.graph.keyframes:
            spread = float(np.hypot(spread, self.graph.scale_std))
        metric = told and spread < 0.5 * self._network_std
        return Tracked(
            placement=transformed(final, invert(self.T_map_world), tuple(notes)),
            nodes=after,
            placed=tuple(current),
            by_pairs=tuple(by_pairs),
            measured=solved.measured,
            # What a network errs in common for all pairs no number of keyframes takes away.
            scale_std=spread if metric else self._network_std,
            metric=metric,
            pairs_scale=pairs_scale,
        )

    def _network_scale(self, nodes: Sequence[int], pairs_scale: float) -> Metric:
        """The network means the mean of its pairs to be metric: one opinion, of all the nodes."""
        std = np.full(len(nodes), self._network_std * len(nodes) ** 0.5)
        return Metric(np.array(nodes), np.full(len(nodes), -pairs_scale), std)

    def _level(self, around: F64) -> None:
        """Turn the world's z towards the map's by a little, about a place in the map."""
        up = self.T_map_world[:3, 2]
        axis = np.cross(up, [0, 0, 1.0])
        angle = float(np.arctan2(np.linalg.norm(axis), up[2]))
        if angle > 1e-9:
            turn = axis / np.linalg.norm(axis) * min(angle, MAX_LEVELLING)
            R = Rotation.from_rotvec(turn).as_matrix()
            self.T_map_world = make_T(R, around - R @ around) @ self.T_map_world

    # -------------------------------------------------------------- after the depth is known

    def remember(
        self,
        frames: FrameSet,
        recalled: Recalled,
        tracked: Tracked,
        views: Mapping[int, KeyView],
    ) -> Keyframe | None:
        """Make the frame set a keyframe if it shows something new.

        Args:
            views: Of the placed views that have depths.

        Returns:
            The new keyframe, or None.
        """
        views = {v: view for v, view in views.items() if (view.depth > 0).any()}
        if not views or not tracked.by_pairs or not self._is_new(frames, tracked):
            return None
        graph, count = self.graph, len(frames.frames)
        node = np.full(len(tracked.nodes), -1)
        for v, view in views.items():
            node[v] = view.node = graph.node(tracked.nodes[v])
        node[-1] = graph.node(tracked.nodes[-1])
        for k, view in enumerate(recalled.views):
            node[count + k] = view.node
        factors: list[Factor] = []
        for measured in tracked.measured:
            factors += graph.named(measured, node)
        if tracked.loop is not None and tracked.loop.view in views:
            factors += closing(graph, tracked.loop, views[tracked.loop.view], node)
        for link in rig_factors(frames.frames, self._rig, len(tracked.nodes) - 1):
            factors += graph.named(link, node)
        for level in gravity_factors(frames.frames, sorted(views)):
            factors += graph.named(level, node)
        sized = [int(node[v]) for v in views]
        factors.append(self._network_scale(sized, tracked.pairs_scale))
        keyframe = graph.add(frames.stamp, {v.camera: v for v in views.values()}, node[-1], factors)
        before = graph.nodes.T[node[min(views)]].copy()
        graph.optimise(steps=4 if tracked.loop is not None else 2)
        self._carry(graph.nodes.T[node[min(views)]] @ invert(before))
        return keyframe

    def _is_new(self, frames: FrameSet, tracked: Tracked) -> bool:
        self._due = False
        if not self.graph.keyframes or tracked.loop is not None:
            return True
        newest = self.graph.keyframes[-1]
        names = [frames.cameras[v] for v in tracked.placed]
        if any(name not in newest.views for name in names):
            return True  # A camera that has joined.
        T = np.stack([self.graph.pose(newest.views[name]) for name in names])
        now = tracked.nodes[list(tracked.placed)]
        shift = float(np.linalg.norm(now[:, :3, 3] - T[:, :3, 3], axis=1).max())
        turn = float(rotation_angle(now, T).max())
        moved = max(shift / (self.config.parallax * newest.reach), turn / self.config.turn)
        self._due = moved > 0.5
        old = abs(frames.stamp - newest.stamp) > 1e9 * self.config.period
        return moved > 1 or (old and moved > 1 / 3)

    def _carry(self, T: F64) -> None:
        """The keyframes have been corrected, the newest one by T; the world stays."""
        self.T_map_world = T @ self.T_map_world
        self._last = {name: T @ pose for name, pose in self._last.items()}
        self._still.carry(T)


def _past_predictions(graph: KeyframeGraph, recalled: Recalled, count: int) -> list[PairPrediction]:
    """The kept views' depths, as if the network had said them of each view alone."""
    result = []
    for at, view in enumerate(recalled.views, count):
        points = unproject(graph.depth(view), view.K).astype(np.float32, copy=False)
        maps = torch.from_numpy(points), torch.from_numpy(view.confidence)
        result.append(PairPrediction(at, at, maps[0], maps[0], maps[1], maps[1]))
    return result
