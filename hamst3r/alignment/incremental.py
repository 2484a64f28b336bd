"""Alignment of one frame set after the other: priors in, cameras and depth in one world out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.calibrated import place_calibrated
from hamst3r.alignment.fusion import DepthOpinion, KeptDepth, clean, clean_by_past, fuse_depth
from hamst3r.alignment.gravity import with_gravity
from hamst3r.alignment.intrinsics import FocalHold, Lens
from hamst3r.alignment.keyframes import KeyView
from hamst3r.alignment.landmarks import Landmarks, correct, landmarks
from hamst3r.alignment.lenses import Lenses
from hamst3r.alignment.observations import Observations, observe
from hamst3r.alignment.placement import PairScore, Placement
from hamst3r.alignment.priors import exact_poses, uncertain_poses
from hamst3r.alignment.scale import MetricScale, grown, grown_poses
from hamst3r.alignment.standing import Standing
from hamst3r.alignment.stream import Recalled, Stream, StreamConfig
from hamst3r.alignment.tracked import kept_depths
from hamst3r.frames import FrameSet
from hamst3r.geometry import invert
from hamst3r.image import DETAIL_SIDE, NetworkImage
from hamst3r.keypoints import KeypointUse, at_once, detect, detect_detailed
from hamst3r.scene import ScaleSource

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
RECOGNISED_STD = 0.01  # radians, of poses that keypoints tell, against each other


@dataclass(frozen=True)
class AlignerConfig:
    """Settings of the alignment.

    Attributes:
        samples: Pixels per view that the solver sees; the depth fusion sees all.
        polish_rounds: Closed-form rounds after the pose graph, before pairs are averaged; the next
            frame set needs fewer. 0 = neither.
        window: Frame sets over which focal lengths, and poses of a static rig, are averaged.
        default_focal: Focal length over image width while nothing better is known.
        network_scale_std: Relative standard deviation of a scale that only the network tells; the
            shipped weights are off by about 0.2 on rooms of their own kind.
        clean: Take the confidence from points that float before another view's surface, or before
            a kept view's between two surfaces.
        find_gravity: Frames that do not say which way is down get it from the floor, and from who
            stands, where their images show them; images must be upright (see
            :mod:`hamst3r.alignment.gravity`). Else the first camera is taken to be level.
        keypoints: What keypoints are asked for where the network does not know: where unknown
            cameras stand (:mod:`hamst3r.alignment.structure`), and depth
            (:mod:`hamst3r.alignment.landmarks`).
        keypoint_size: Long side, pixels, of the images in which keypoints of unknown cameras are
            found, where they were delivered no smaller.
        stream: What is remembered of cameras that move.
    """

    samples: int = 300
    polish_rounds: int = 2
    window: int = 30
    default_focal: float = 0.9
    network_scale_std: float = 0.3
    clean: bool = True
    find_gravity: bool = False
    keypoints: KeypointUse = KeypointUse.DEPTH
    keypoint_size: int = DETAIL_SIDE
    stream: StreamConfig = field(default_factory=StreamConfig)


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
        T_map_world: (4, 4) rigid, from the world, which is continuous, to the map, where past and
            present fit each other (REP-105's map and odom). The identity for cameras that stand.
        keyframe: Whether this frame set is one of those that are kept.
        gain: How much larger the world is than the network, or the past, says (:meth:`heed_scale
            <Aligner.heed_scale>`): what remembers places in the world must grow as it does.
        scale_is_free: Whether no pose and no map says how large the world is.
        depth_std: Per view, relative deviation of the depth at a place beside that of the scale,
            NaN = unknown. Empty: of no view is it known.
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
    T_map_world: F64 = field(default_factory=lambda: np.eye(4))
    keyframe: bool = False
    gain: float = 1.0
    scale_is_free: bool = False
    depth_std: Sequence[float] = ()


class Aligner:
    """Solves frame sets; remembers focal lengths and, of unknown cameras, the poses.

    Poses that come with the frames (``Frame.T_rig_cam``) are taken as exact, and the world is then
    the rig's frame. Without any, the world is that of the first camera placed, assumed level, and
    later frame sets continue it (see :class:`hamst3r.alignment.world.World`).

    Cameras that move need pairs with the past: call :meth:`recall` before the network runs, and
    hand what it returns to :meth:`solve` (see :mod:`hamst3r.alignment.stream`). Known poses then
    are those on the rig, and the world begins as the rig's frame.
    """

    def __init__(self, config: AlignerConfig | None = None) -> None:
        self.config = config or AlignerConfig()
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._lenses = Lenses(self.config.window, self.config.default_focal)
        self._standing = Standing(
            self.config.window, self.config.polish_rounds, self.config.network_scale_std
        )
        self._scale = MetricScale(self.config.network_scale_std)
        self._stream = Stream(self.config.stream, self.config.network_scale_std)

    def recall(self, frames: FrameSet) -> Recalled:
        """Views of the past that the network should look at together with this frame set."""
        return self._stream.recall(frames)

    def solve(
        self,
        frames: FrameSet,
        images: Sequence[NetworkImage],
        predictions: Sequence,
        movers: Sequence[NDArray],
        recalled: Recalled | None = None,
    ) -> Alignment:
        """Place the cameras and fuse their depth.

        Args:
            frames: The frame set; ``images`` and ``movers`` are in its order.
            images: As the network saw them.
            predictions: :class:`hamst3r.engine.PairPrediction` of pairs of these views.
            movers: Per view (gh, gw) who moves by itself: numbers > 0 are the same in all views,
                -1 is somebody; or bool, where something does. Kept out of what must be rigid;
                its depth is fused all the same.
            recalled: The cameras may move: what :meth:`recall` returned, whose edges are among
                the pairs.

        Raises:
            ValueError: Lengths that do not belong together. Bad predictions never raise.
        """
        if not len(frames.frames) == len(images) == len(movers):
            raise ValueError(
                f"{len(frames.frames)} frames, {len(images)} images and {len(movers)} mover "
                "masks do not belong together: one of each per view is expected"
            )
        if recalled is not None:
            return self._follow(frames, images, predictions, movers, recalled)
        observations = observe(
            frames.cameras,
            [image.grid for image in images],
            predictions,
            movers,
            self.config.samples,
        )
        if self.config.find_gravity and self._asks_for_gravity(frames):
            frames = replace(frames, frames=with_gravity(frames.frames, observations))
        known = exact_poses(frames.frames)
        self._standing.live_in_rig(bool(known))
        lenses = [
            self._lenses.lens(observations, v, frame, image)
            for v, (frame, image) in enumerate(zip(frames.frames, images, strict=True))
        ]
        use = self.config.keypoints if observations.joined else KeypointUse.OFF
        keypoints = cache(lambda: at_once(detect, images))
        marks: Sequence[Landmarks] = ()
        gain, scale_is_free = 1.0, False
        if len(known) == len(images):
            K = [lens.K for lens in lenses]
            look = partial(landmarks, K=K, T_world_cam=known, pairs=observations.joined)
            calibrated = place_calibrated(
                observations,
                known,
                K,
                observations.rays(K),
                self.config.network_scale_std,
                (lambda: look(keypoints())) if use is KeypointUse.DEPTH else None,
            )
            placement, std, marks = calibrated.placement, calibrated.scale_std, calibrated.marks
            source = ScaleSource.NETWORK if std is None else ScaleSource.CALIBRATION
        else:
            in_detail = partial(detect_detailed, side=self.config.keypoint_size)
            looked = partial(at_once, in_detail, frames.frames, images)
            detailed = None if use is KeypointUse.OFF else looked
            stood = self._standing.place(frames, observations, lenses, known, detailed)
            placement, std, source = stood.placement, stood.scale_std, stood.scale_source
            K = self._lenses.corrected(stood.lenses, placement, observations)
            scale_is_free = all(frame.T_rig_cam is None for frame in frames.frames)
            if scale_is_free:
                gain = self._scale.step()
                placement = grown(placement, gain)
                std, source = self._scale.std, self._scale.source
            if use is KeypointUse.DEPTH and stood.recognised:
                sure = stood.recognised | known.keys()
                poses = {v: T for v, T in placement.T_world_cam.items() if v in sure}
                marks = landmarks(keypoints(), K, poses, observations.joined, RECOGNISED_STD)
        result = self._result(observations, K, placement, std, source, marks=marks)
        return replace(result, gain=gain, scale_is_free=scale_is_free)

    def _asks_for_gravity(self, frames: FrameSet) -> bool:
        """Whether it changes anything: a world begins, or poses are still uncertain."""
        return not self._standing.began(frames) or bool(uncertain_poses(frames.frames))

    def heed_scale(self, factor: float, std: float, source: ScaleSource) -> None:
        """People (or what they touch) say how much larger the world of the last result should be.

        Where a calibration tells the scale this changes nothing. The world follows by one percent
        per frame set at most.

        Args:
            factor: What lengths should be multiplied by. std: Relative standard deviation of it.
            source: ``BODIES`` or ``CONTACT``.

        Raises:
            ValueError: Not a positive factor with a positive standard deviation.
        """
        self._scale.heed(factor, std, source)

    def settle(self, alignment: Alignment) -> Alignment:
        """The first result of a world in the scale that was heeded since.

        Nobody was told of that world yet: it need not follow slowly.
        """
        if not alignment.scale_is_free:
            return alignment
        growth = self._scale.settle() / alignment.gain
        return replace(
            alignment,
            T_world_cam=grown_poses(alignment.T_world_cam, growth),
            T_map_world=grown_poses(alignment.T_map_world, growth),
            depth=[depth * np.float32(growth) for depth in alignment.depth],
            scale_source=self._scale.source,
            scale_std=self._scale.std,
            gain=self._scale.gain,
        )

    def _follow(
        self,
        frames: FrameSet,
        images: Sequence[NetworkImage],
        predictions: Sequence,
        movers: Sequence[NDArray],
        recalled: Recalled,
    ) -> Alignment:
        """Cameras that move: placed among keyframes."""
        stream = self._stream
        seen = stream.look(frames, images, predictions, movers, recalled, self.config.samples)
        if self.config.find_gravity:
            frames = replace(frames, frames=with_gravity(frames.frames, seen.observations))
        lenses = [
            self._lenses.lens(seen.observations, v, frame, image)
            for v, (frame, image) in enumerate(zip(frames.frames, images, strict=True))
        ]
        K = [lens.K for lens in lenses]
        rays = [
            grid.rays(k)
            for grid, k in zip(
                seen.observations.grids, [*K, *(v.K for v in recalled.views)], strict=True
            )
        ]
        hold = FocalHold((*lenses, *(Lens(v.K, 0.0) for v in recalled.views)))
        graph = stream.graph
        tracked = stream.track(frames, recalled, seen, rays, hold, self.config.polish_rounds)
        K = self._lenses.corrected(lenses, tracked.placement, seen.observations)
        gain, std, source = 1.0, tracked.scale_std, ScaleSource.CALIBRATION
        if not tracked.metric:
            gain, std, source = self._scale.step(), self._scale.std, self._scale.source
        # (A map that was given up tells nothing.)
        known = recalled if stream.graph is graph else Recalled()
        past = kept_depths(graph, known, len(K), invert(stream.T_map_world), gain)
        placement = grown(tracked.placement, gain)
        result = self._result(seen.observations, K, placement, std, source, past)
        views = {
            v: KeyView(
                name,
                images[v],
                K[v],
                result.depth[v] / np.float32(gain),
                result.confidence[v],
                np.asarray(movers[v]) != 0,
            )
            for v, name in enumerate(frames.cameras)
            if v in tracked.placed
        }
        keyframe = stream.remember(frames, recalled, tracked, views)
        return replace(
            result,
            T_map_world=grown_poses(stream.T_map_world, gain),
            keyframe=keyframe is not None,
            gain=gain,
            scale_is_free=not tracked.metric,
        )

    def _result(
        self,
        observations: Observations,
        K: list[F64],
        placement: Placement,
        std: float | None,
        source: ScaleSource,
        past: Sequence[KeptDepth] = (),
        marks: Sequence[Landmarks] = (),
    ) -> Alignment:
        count = len(K)
        placed = np.array([v in placement.T_world_cam for v in range(count)])
        T_world_cam = np.stack([placement.T_world_cam.get(v, np.eye(4)) for v in range(count)])
        notes = [*observations.notes, *placement.notes]
        notes += [
            f"camera {grid.name} could not be placed"
            for grid, is_placed in zip(observations.grids[:count], placed, strict=True)
            if not is_placed
        ]
        depth, confidence, depth_std = [], [], []
        T_cam_world = invert(T_world_cam)
        for view, grid in enumerate(observations.grids[:count]):
            opinions = [
                DepthOpinion(look.points, look.weight, T_cam_world[view] @ T_world_look)
                for look in observations.looks_at[view]
                if placed[view]
                and (T_world_look := placement.T_world_look.get((look.edge, look.slot))) is not None
            ]
            fused, trust = fuse_depth(grid.shape, opinions)
            fused, std_here = correct(fused, marks[view]) if marks else (fused, float("nan"))
            depth.append(fused)
            depth_std.append(std_here)
            confidence.append(trust)
        if self.config.clean:
            views = [v for v in range(count) if placed[v]]
            confidence = clean(depth, confidence, K, T_world_cam, views)
            confidence = clean_by_past(depth, confidence, K, T_world_cam, views, past)
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
            depth_std=depth_std,
        )
