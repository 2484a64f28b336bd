"""Bodies for the people who are followed: fitted to places on the body, else to outlines."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from hamst3r.people.body import BodyModel
from hamst3r.people.contact import ContactPoints, flags
from hamst3r.people.detections import Detection
from hamst3r.people.facing import Walk
from hamst3r.people.fitting import fit
from hamst3r.people.instances import ViewPeople
from hamst3r.people.judging import FitResult
from hamst3r.people.motion import JointMotion
from hamst3r.people.normal import ShapePrior
from hamst3r.people.outlines import outlines
from hamst3r.people.scaling import Sized
from hamst3r.people.smoothing import Window
from hamst3r.people.standing import StandingFitter
from hamst3r.people.state import BodyState
from hamst3r.people.surroundings import Surroundings
from hamst3r.people.track import Track, TrackingConfig
from hamst3r.scene import Contact, ScaleSource

if TYPE_CHECKING:
    from hamst3r.alignment.incremental import Alignment

F64 = NDArray[np.float64]
Match = tuple[Track, Detection]
_LOG = logging.getLogger(__name__)
_HELD = 1e8  # information of a beta that is held


class Embodiment:
    """Finds the bodies of one frame set after another.

    Args:
        body: The body model to fit.
        config: Settings; may be replaced between frame sets.

    Attributes:
        contact_points: Of the body.
        sized: Bodies of the last frame set as far as they tell of the scale.
    """

    def __init__(self, body: BodyModel, config: TrackingConfig) -> None:
        self.config = config
        self.contact_points = ContactPoints(body)
        self._body = body
        self._standing = StandingFitter(body, config.standing)

    def reset(self, surroundings: Surroundings, seed: int) -> None:
        """Begin anew, in surroundings that somebody else keeps up to date."""
        self.sized: list[Sized] = []
        self._surroundings = surroundings
        self._generator = torch.Generator().manual_seed(seed)

    def embody(
        self,
        matches: Sequence[Match],
        stamp: int,
        views: Sequence[ViewPeople],
        alignment: Alignment,
    ) -> None:
        """Give the tracks ``person`` where a body is believed, and None to others."""
        self.sized.clear()
        needed = self.config.fit.judge.min_points if self.config.bodies else math.inf
        for track, detection in matches:
            track.person = None
            track.contacts = Contact.NONE
            if detection.known < needed:
                track.body = None
        able = [match for match in matches if match[1].known >= needed]
        warm = [match for match in able if match[0].body is not None]
        self._fit(warm, stamp)
        # Also those whose last body did not lead to a believable one.
        self._fit([match for match in able if match[0].body is None], stamp)
        if self.config.bodies and alignment.scale_source is not ScaleSource.NETWORK:
            self._stand(matches, stamp, views, alignment)

    def _fit(self, matches: Sequence[Match], stamp: int) -> None:
        """Fit people's bodies as one batch."""
        if not matches:
            return
        bodies = [track.body for track, _ in matches if track.body is not None]
        start = BodyState.stack(bodies) if bodies else None
        points, ids, weights = _pad([detection for _, detection in matches])
        standard = ShapePrior.standard(1, self._body.shapedirs.shape[-1])
        shapes = [track.shape or standard for track, _ in matches]
        result = fit(
            self._body,
            points,
            ids,
            weights,
            start,
            ShapePrior(
                torch.cat([shape.mean for shape in shapes]),
                torch.cat([shape.information for shape in shapes]),
            ),
            self.config.fit,
            self._generator,
        )
        for row, (track, detection) in enumerate(matches):
            self._take(track, detection, result, row, stamp)
            # Too large or small to be believed still tells how far off the scale is.
            agree = float(result.inlier_ratio[row]) >= self.config.fit.judge.min_inlier_ratio
            if track.id and agree:
                state, height = result.state.person(row), float(result.height[row])
                self.sized.append(Sized(track.id, state, detection.camera, height))

    def _take(
        self, track: Track, detection: Detection, result: FitResult, row: int, stamp: int
    ) -> None:
        parameters = result.body_fit(self._body, row)
        if parameters is None:
            _LOG.debug("person %d: no body, %s", track.id, result.reasons[row])
            track.body = None
            return
        state = result.state.person(row)
        self._learn_shape(track, state.betas, result.shape_information[row : row + 1])
        if self.config.smoothing.window:
            state = self._smooth(track, state, result, row, stamp)
            parameters = result.body_fit(self._body, row, state)
        track.body = state
        joints = self._body.skeleton(state.rotations, state.transl, state.betas)[1][0].numpy()
        joint_std = result.joint_std[row].numpy().astype(np.float32)
        hip_std = max(float(joint_std[1:3].mean()), 0.02)
        track.person = replace(
            track.seen_as(detection, hip_std),
            covariance=np.eye(3) * hip_std**2,
            fit=parameters,
            joints=joints,
            joint_std=joint_std,
            position=joints[1:3].mean(0).astype(np.float64),
        )
        known = self._move_joints(
            track, joints.astype(np.float64), joint_std.astype(np.float64), stamp
        )
        if known is not None:
            track.person = replace(
                track.person,
                joint_velocities=known.velocities.astype(np.float32),
                joint_velocity_std=known.velocity_std.astype(np.float32),
            )

    def _stand(
        self,
        matches: Sequence[Match],
        stamp: int,
        views: Sequence[ViewPeople],
        alignment: Alignment,
    ) -> None:
        """Who has no body, and had none lately, may have one that fits the outlines.

        In a world whose size nobody tells, none of people's sizes would.
        """
        # One at a time is looked for afresh: it takes long.
        waited = {t.id: t.stance.searched for t, _ in matches if t.stance is not None}
        due = max(waited, key=lambda who: waited[who], default=None)
        for track, detection in matches:
            bodiless = (stamp - track.fitted) / 1e9 > self.config.timeout
            if track.person is not None or (track.fits and not bodiless):
                track.stance = None
                continue
            own = outlines(views, alignment, detection, self.config.standing.min_pixels)
            moving = track.motion
            walk = Walk(moving.velocity, moving.speed_std) if track.hits > 1 else None
            elapsed = (stamp - track.stood) / 1e9
            stance = self._standing.fit(own, track.stance, elapsed, walk, track.id == due)
            track.stance, track.stood = stance, stamp
            if stance is not None:
                track.person = replace(
                    track.seen_as(detection, float(stance.joint_std[1:3].mean())),
                    fit=stance.body_fit(self._body),
                    joints=stance.joints,
                    joint_std=stance.joint_std,
                    position=stance.joints[1:3].mean(0).astype(np.float64),
                )

    def _move_joints(self, track: Track, joints: F64, std: F64, stamp: int) -> JointMotion | None:
        """The filter of a track's joints; None where they were not seen before."""
        gap = (stamp - track.fitted) / 1e9
        track.fitted = stamp
        if track.joints is None or gap > self.config.smoothing.max_gap:
            track.joints = JointMotion(joints, std)
            return None
        track.joints.step(gap, joints, std)
        return track.joints

    def _learn_shape(self, track: Track, betas: torch.Tensor, information: torch.Tensor) -> None:
        """Accumulate what frames say of the betas, and hold them once enough have spoken.

        ``information`` includes what was known before: that is the prior of the fit.
        """
        track.fits += 1
        certain = torch.linalg.inv(information[0]).diagonal().max() < self.config.shape_std**2
        if track.fits < self.config.shape_frames or not certain:
            # Errors of one person's frames are alike: each counts for a few of its kind only.
            eye = torch.eye(information.shape[-1], dtype=information.dtype)
            keep = 1 - 1 / self.config.shape_frames
            information = keep * information + (1 - keep) * eye
            track.shape = ShapePrior(betas, information)
        elif not track.shape_held:
            track.shape = ShapePrior(betas, _HELD * torch.eye(len(betas[0])).double()[None])
            track.shape_held = True

    def _smooth(
        self, track: Track, state: BodyState, result: FitResult, row: int, stamp: int
    ) -> BodyState:
        if track.window is None:
            track.window = Window(self._body, self.contact_points, self.config.smoothing)
        smoothed = track.window.push(
            stamp,
            state,
            result.pose_information[row].numpy(),
            result.joint_std[row].double().numpy(),
            self._surroundings,
        )
        track.contacts = flags(smoothed.touches)
        return smoothed.state


def _pad(detections: Sequence[Detection]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points, vertices and weights of several people as one batch; padding has no weight."""
    number = max(len(detection.points) for detection in detections)
    points = torch.zeros(len(detections), number, 3)
    ids = torch.full((len(detections), number), -1, dtype=torch.int64)
    weights = torch.zeros(len(detections), number)
    for row, detection in enumerate(detections):
        held = len(detection.points)
        points[row, :held] = torch.from_numpy(detection.points)
        ids[row, :held] = torch.from_numpy(detection.vertex_ids)
        weights[row, :held] = torch.from_numpy(detection.weights)
    return points, ids, weights
