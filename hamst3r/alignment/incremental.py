"""Alignment of one frame set after the other: priors in, cameras and depth in one world out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.calibrated import place_calibrated
from hamst3r.alignment.fusion import DepthOpinion, clean, fuse_depth
from hamst3r.alignment.intrinsics import (
    FocalAverage,
    pinhole,
    plausible_focal,
    weiszfeld_focal,
)
from hamst3r.alignment.observations import Observations, observe
from hamst3r.alignment.placement import PairScore, Placement
from hamst3r.alignment.resection import resect
from hamst3r.alignment.uncalibrated import Problem, Remembered, place_uncalibrated
from hamst3r.alignment.world import World
from hamst3r.frames import FrameSet
from hamst3r.geometry import invert
from hamst3r.image import NetworkImage
from hamst3r.scene import ScaleSource

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class AlignerConfig:
    """Settings of the alignment.

    Attributes:
        samples: Pixels per view that the solver sees; the depth fusion sees all.
        polish_rounds: Closed-form rounds after the pose graph; the next frame set needs fewer.
        window: Frame sets over which focal lengths, and poses of a static rig, are averaged.
        default_focal: Focal length over image width while nothing better is known.
        network_scale_std: Relative standard deviation of a scale that only the network tells; the
            shipped weights are off by about 0.2 on rooms of their own kind.
        clean: Take the confidence from points that float before another view's surface.
    """

    samples: int = 300
    polish_rounds: int = 6
    window: int = 30
    default_focal: float = 0.9
    network_scale_std: float = 0.3
    clean: bool = True


@dataclass(frozen=True, eq=False)
class Alignment:
    """Cameras and depth of one frame set, in one world.

    Attributes:
        placed: (N,) bool, which views have a pose; the others carry no confidence.
        T_world_cam: (N, 4, 4) rigid, identity where not placed.
        K: N x (3, 3) on the output grid.
        camera_confidence: (N,) in [0, 1]; 1 for poses given by calibration.
        depth: N x (gh, gw) float32 metres, 0 invalid.
        confidence: N x (gh, gw) float32 >= 1, 0 invalid.
        scale_source, scale_std: Where the scale is from; its relative standard deviation.
        notes: What went wrong, one short sentence each.
        scores: Per pair of two views, how far it agrees with the result, and whether it was used.
    """

    placed: NDArray[np.bool_]
    T_world_cam: F64
    K: list[F64]
    camera_confidence: F64
    depth: list[F32]
    confidence: list[F32]
    scale_source: ScaleSource
    scale_std: float
    notes: tuple[str, ...]
    scores: tuple[PairScore, ...] = ()


class Aligner:
    """Solves frame sets; remembers focal lengths and, of unknown cameras, the poses.

    Poses that come with the frames (``Frame.T_rig_cam``) are taken as exact, and the world is then
    the rig's frame. Without any, the world is that of the first camera placed, assumed level, and
    later frame sets continue it (see :class:`hamst3r.alignment.world.World`).
    """

    def __init__(self, config: AlignerConfig | None = None) -> None:
        self.config = config or AlignerConfig()
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._focals: dict[str, FocalAverage] = {}
        self._world = World(window=self.config.window)
        self._world_is_rig = False
        self._agreement: dict[str, float] = {}

    def solve(
        self,
        frames: FrameSet,
        images: Sequence[NetworkImage],
        predictions: Sequence,
        movers: Sequence[NDArray],
    ) -> Alignment:
        """Place the cameras and fuse their depth.

        Args:
            frames: The frame set; ``images`` and ``movers`` are in its order.
            images: As the network saw them.
            predictions: :class:`hamst3r.engine.PairPrediction` of pairs of these views.
            movers: Per view (gh, gw) who moves by itself: numbers > 0 are the same in all views,
                -1 is somebody; or bool, where something does. Kept out of what must be rigid;
                its depth is fused all the same.

        Raises:
            ValueError: Lengths that do not belong together. Bad predictions never raise.
        """
        if not len(frames.frames) == len(images) == len(movers):
            raise ValueError(
                f"{len(frames.frames)} frames, {len(images)} images and {len(movers)} mover "
                "masks do not belong together: one of each per view is expected"
            )
        observations = observe(
            frames.cameras,
            [image.grid for image in images],
            predictions,
            movers,
            self.config.samples,
        )
        known = {v: f.T_rig_cam for v, f in enumerate(frames.frames) if f.T_rig_cam is not None}
        if bool(known) != self._world_is_rig:
            # The rig's frame became known, or was lost: earlier poses mean nothing in it.
            self._world = World(window=self.config.window)
            self._world_is_rig = bool(known)
        K = [self._intrinsics(observations, v, image) for v, image in enumerate(images)]
        rays = [grid.rays(k) for grid, k in zip(observations.grids, K, strict=True)]
        if len(known) == len(images):
            poses = [known[v] for v in range(len(images))]
            placement, std = place_calibrated(
                observations, poses, K, rays, self.config.network_scale_std
            )
            source = ScaleSource.NETWORK if std is None else ScaleSource.CALIBRATION
        else:
            hold = np.array(
                [
                    self._focal_hold(name, image)
                    for name, image in zip(frames.cameras, images, strict=True)
                ]
            )
            placement, std, source = self._place(observations, rays, known, hold, frames.cameras)
            for view, factor in placement.focal_factor.items():
                if not plausible_focal(K[view][0, 0] * factor, images[view].grid[1]):
                    continue
                K[view] = K[view] @ np.diag([factor, factor, 1])
                if np.isfinite(hold[view]):
                    self._focals[frames.cameras[view]].correct(factor)
        return self._result(observations, K, known, placement, std, source)

    def _intrinsics(self, observations: Observations, view: int, image: NetworkImage) -> F64:
        """Known, else the running mean of what the pointmaps say, else a common lens."""
        if image.K is not None:
            return image.K
        grid = observations.grids[view]
        width = grid.shape[1]
        average = self._focals.setdefault(grid.name, FocalAverage(self.config.window))
        focal = self._focal(observations, view)
        if focal is not None and plausible_focal(focal, width):
            average.add(focal / width)
        relative = average.value or self.config.default_focal
        return pinhole(relative * width, grid.centre)

    def _focal_hold(self, name: str, image: NetworkImage) -> float:
        """What earlier frame sets say of the focal length, in units of this one."""
        return np.inf if image.K is not None else max(0, self._focals[name].count - 1)

    def _focal(self, observations: Observations, view: int) -> float | None:
        grid = observations.grids[view]
        own = observations.own_looks(view)
        if own:
            return weiszfeld_focal(
                np.concatenate([look.X for look in own]),
                np.tile(grid.pixels - grid.centre, (len(own), 1)),
                np.concatenate([look.w for look in own]),
            )
        guess = self.config.default_focal * grid.shape[1]
        rays = grid.rays(pinhole(guess, grid.centre))
        found = [
            r
            for look in observations.looks_at[view]
            if look.usable and (r := resect(look.X, rays, look.w, free_focal=True)) is not None
        ]
        return guess * min(found, key=lambda r: r.error).focal_factor if found else None

    def _place(
        self,
        observations: Observations,
        rays: Sequence[F64],
        known: dict[int, F64],
        focal_hold: F64,
        names: Sequence[str],
    ) -> tuple[Placement, float | None, ScaleSource]:
        """Pose graph, then into the world that earlier frame sets know."""
        previous = {
            v: Remembered(self._world.poses[name], self._agreement.get(name, 0.0))
            for v, name in enumerate(names)
            if name in self._world.poses
        }
        solved = place_uncalibrated(
            Problem(observations, rays, known, previous, focal_hold, self.config.polish_rounds)
        )
        self._agreement.update({names[v]: share for v, share in solved.agreement.items()})
        cameras, looks = dict(solved.T_world_cam), dict(solved.T_world_look)
        notes = list(solved.notes)
        for group in solved.groups:
            if any(view in known for view in group):
                for view in group:
                    self._world.remember(names[view], cameras[view])
                continue
            T, poses, moved = self._world.continue_with(
                {names[view]: cameras[view] for view in group}
            )
            notes += [f"camera {name} has moved" for name in moved]
            cameras.update({view: poses[names[view]] for view in group})
            for index, pair in enumerate(observations.pairs):
                for slot, look in enumerate(pair.looks):
                    if look.view in group and (index, slot) in looks:
                        looks[index, slot] = T @ looks[index, slot]
        metric = any(sum(v in known for v in group) > 1 for group in solved.groups)
        spread = float(np.std(solved.log_scales)) if solved.log_scales else 0.0
        std = spread / max(len(solved.log_scales), 1) ** 0.5
        placement = replace(solved, T_world_cam=cameras, T_world_look=looks, notes=tuple(notes))
        if metric:
            return placement, max(std, 0.02), ScaleSource.CALIBRATION
        return placement, None, ScaleSource.NETWORK

    def _result(
        self,
        observations: Observations,
        K: list[F64],
        known: dict[int, F64],
        placement: Placement,
        std: float | None,
        source: ScaleSource,
    ) -> Alignment:
        count = len(K)
        placed = np.array([v in placement.T_world_cam for v in range(count)])
        T_world_cam = np.stack([placement.T_world_cam.get(v, np.eye(4)) for v in range(count)])
        notes = [*observations.notes, *placement.notes]
        notes += [
            f"camera {grid.name} could not be placed"
            for grid, is_placed in zip(observations.grids, placed, strict=True)
            if not is_placed
        ]
        depth, confidence = [], []
        for view, grid in enumerate(observations.grids):
            T_cam_world = invert(T_world_cam[view])
            opinions = [
                DepthOpinion(look.points, look.weight, T_cam_world @ T_world_look)
                for look in observations.looks_at[view]
                if placed[view]
                and (T_world_look := placement.T_world_look.get((look.edge, look.slot))) is not None
            ]
            fused, trust = fuse_depth(grid.shape, opinions)
            depth.append(fused)
            confidence.append(trust)
        if self.config.clean:
            views = [v for v in range(count) if placed[v]]
            confidence = clean(depth, confidence, K, T_world_cam, views)
        agreement = [placement.agreement.get(v, 0.0) for v in range(count)]
        return Alignment(
            placed=placed,
            T_world_cam=T_world_cam,
            K=K,
            camera_confidence=np.clip(agreement, 0, 1),
            depth=depth,
            confidence=confidence,
            scale_source=source,
            scale_std=self.config.network_scale_std if std is None else std,
            notes=tuple(notes),
            scores=placement.scores,
        )
