"""Cameras that stand, and of which some or none are known: one world, frame set after frame set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.calibrated import place_calibrated
from hamst3r.alignment.intrinsics import FocalHold, Lens
from hamst3r.alignment.observations import Observations
from hamst3r.alignment.placement import Placement
from hamst3r.alignment.priors import Knowledge, fuse_priors, uncertain_poses
from hamst3r.alignment.recognition import Recognised, Recognition
from hamst3r.alignment.scale import grown
from hamst3r.alignment.uncalibrated import Problem, Remembered, place_uncalibrated
from hamst3r.alignment.world import World
from hamst3r.frames import FrameSet
from hamst3r.keypoints import Keypoints
from hamst3r.scene import ScaleSource

F64 = NDArray[np.float64]
# Share of a camera's evidence that agrees, below which it says nothing, and what the newest frame
# set counts for in its running mean.
GROUNDLESS, NEWEST = 0.25, 0.2


@dataclass(frozen=True, eq=False)
class Stood:
    """One frame set's cameras in the world.

    Attributes:
        placement: Cameras and looks. lenses: Per view, with what keypoints say of it.
        recognised: Views whose poses keypoints tell.
        scale_std, scale_source: Relative standard deviation of the scale (None: that of the
            network), and where it is from.
    """

    placement: Placement
    lenses: Sequence[Lens]
    recognised: frozenset[int]
    scale_std: float | None
    scale_source: ScaleSource


class Standing:
    """Remembers where cameras stand.

    Args:
        window: Frame sets over which poses and focal lengths are averaged.
        polish_rounds: See :class:`hamst3r.alignment.incremental.AlignerConfig`.
        network_scale_std: Relative, of a scale that only the network tells.
    """

    def __init__(self, window: int, polish_rounds: int, network_scale_std: float) -> None:
        self._window, self._polish_rounds = window, polish_rounds
        self._network_scale_std = network_scale_std
        self._world = World(window=window)
        self._world_is_rig = False
        self._agreement: dict[str, float] = {}
        self._ground: dict[str, float] = {}
        self._recognition = Recognition(window)

    def live_in_rig(self, is_rig: bool) -> None:
        """Begin anew if the rig's frame became known, or was lost: poses mean nothing in it."""
        if is_rig != self._world_is_rig:
            self._world = World(window=self._window)
            self._world_is_rig = is_rig

    def began(self, frames: FrameSet) -> bool:
        """Whether there is a world in which some of the cameras have a place."""
        return any(name in self._world.poses for name in frames.cameras)

    def place(
        self,
        frames: FrameSet,
        observations: Observations,
        lenses: Sequence[Lens],
        known: Mapping[int, F64],
        detect: Callable[[], Sequence[Keypoints]] | None,
    ) -> Stood:
        """Place the cameras: by keypoints, else by the network's pairs; then into the world.

        Args:
            lenses: Per view. known: view -> exact pose.
            detect: Finds each view's keypoints. Asked in some frame sets only; None: in none.
        """
        names, uncertain = frames.cameras, uncertain_poses(frames.frames)
        recognised = Recognised()
        # Poses that are uncertain are weighed against pairs, of which keypoints say nothing.
        if detect is not None and not uncertain:
            keypoints = detect() if self._recognition.due(names) else None
            recognised = self._recognise(frames, keypoints, lenses, observations, known)
        lenses = [
            Lens(recognised.K[v], 0.0) if v in recognised.K else lens
            for v, lens in enumerate(lenses)
        ]
        fixed = {**known, **recognised.poses}
        solved = self._solve(frames, observations, lenses, known, recognised)
        if recognised.fresh and not known and solved.log_scales:
            # Short baselines are often found too long, and depths are the network's: those count.
            solved = grown(solved, float(np.exp(-np.mean(solved.log_scales))))
        solved = replace(solved, agreement=solved.agreement | recognised.agreement)
        self._agreement.update({names[v]: share for v, share in solved.agreement.items()})
        at_home = known if recognised.fresh else fixed
        placement = self._into_world(solved, frames, observations, at_home)
        told = frozenset(recognised.poses)
        if uncertain:
            seen = {v: self._world.counts.get(name, 1) for v, name in enumerate(names)}
            placement, std = fuse_priors(
                observations,
                placement,
                Knowledge(known, uncertain, frames.frames, self._network_scale_std, seen),
            )
            known_scale = std < 0.5 * self._network_scale_std
            source = ScaleSource.CALIBRATION if known_scale else ScaleSource.NETWORK
            return Stood(placement, lenses, told, std, source)
        if any(sum(v in known for v in group) > 1 for group in solved.groups):
            spread = float(np.std(solved.log_scales)) if solved.log_scales else 0.0
            std = max(spread / max(len(solved.log_scales), 1) ** 0.5, 0.02)
            return Stood(placement, lenses, told, std, ScaleSource.CALIBRATION)
        return Stood(placement, lenses, told, None, ScaleSource.NETWORK)

    def _recognise(
        self,
        frames: FrameSet,
        keypoints: Sequence[Keypoints] | None,
        lenses: Sequence[Lens],
        observations: Observations,
        known: Mapping[int, F64],
    ) -> Recognised:
        """What keypoints say. A world of guesses ends when they first say anything."""
        guesses = not self._recognition.cameras
        found = self._recognition.look(
            keypoints,
            lenses,
            observations,
            known,
            self._world.poses,
            lambda: self._solve(frames, observations, lenses, known, Recognised()),
        )
        if guesses and self._recognition.cameras and not known:
            self._world = World(window=self._window)
        return found

    def _solve(
        self,
        frames: FrameSet,
        observations: Observations,
        lenses: Sequence[Lens],
        known: Mapping[int, F64],
        recognised: Recognised,
    ) -> Placement:
        """Everything placed around the views whose poses are known or told, in their axes."""
        fixed = {**known, **recognised.poses}
        K = [lens.K for lens in lenses]
        rays = observations.rays(K)

        def around(observations: Observations, poses: Mapping[int, F64]) -> Placement:
            # Keypoints have their scale from the network, so that they cannot tell it one.
            return place_calibrated(
                observations, poses, K, rays, self._network_scale_std, metric=len(known) > 1
            ).placement

        if len(fixed) == len(lenses):
            return around(observations, fixed)
        # Fresh poses have axes of their own, to which the past means nothing.
        previous = {
            v: Remembered(self._world.poses[name], self._agreement.get(name, 0.0))
            for v, name in enumerate(frames.cameras)
            if name in self._world.poses and not recognised.fresh
        }
        solved = place_uncalibrated(
            Problem(
                observations,
                rays,
                fixed,
                previous,
                FocalHold(tuple(lenses)),
                self._polish_rounds,
                measure=bool(uncertain_poses(frames.frames)),
            )
        )
        if not recognised.poses:
            return solved
        # Where keypoints place others, a camera of which hardly anything agrees stands anywhere.
        others = {name: v for v, name in enumerate(frames.cameras) if v not in fixed}
        for name, v in others.items():
            share = solved.agreement.get(v, 0.0)
            mean = self._ground.get(name, share)
            self._ground[name] = mean + NEWEST * (share - mean)
        groundless = [v for name, v in others.items() if self._ground[name] < GROUNDLESS]
        if groundless and len(fixed) + len(groundless) == len(lenses):
            anywhere = dict.fromkeys(groundless, np.eye(4))
            placed = around(observations.without(groundless), {**fixed, **anywhere})
            solved = replace(placed, agreement=solved.agreement)
        return solved.without(groundless)

    def _pose(self, name: str) -> F64:
        """(4, 4), or nothing (0,) of a camera without a place."""
        return self._world.poses.get(name, np.empty(0))

    def _into_world(
        self,
        solved: Placement,
        frames: FrameSet,
        observations: Observations,
        at_home: Mapping[int, F64],
    ) -> Placement:
        """In the world that earlier frame sets know.

        Args:
            at_home: Views whose poses are the world's already.
        """
        names = frames.cameras
        cameras, looks = dict(solved.T_world_cam), dict(solved.T_world_look)
        notes = list(solved.notes)
        for group in solved.groups:
            if any(view in at_home for view in group):
                for view in group:
                    if not np.array_equal(cameras[view], self._pose(names[view])):
                        self._world.remember(names[view], cameras[view])
                continue
            T, poses, moved = self._world.continue_with(
                {names[view]: cameras[view] for view in group},
                dict(zip(names, frames.frames, strict=True)),
            )
            notes += [f"camera {name} has moved" for name in moved]
            cameras.update({view: poses[names[view]] for view in group})
            for slot in looks:
                if observations.viewer(slot) in group:
                    looks[slot] = T @ looks[slot]
        return replace(solved, T_world_cam=cameras, T_world_look=looks, notes=tuple(notes))
