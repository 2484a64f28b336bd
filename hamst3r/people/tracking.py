"""People over time: lasting ids, bodies that start from the last ones, and coasting when hidden."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from hamst3r.people.body import BodyModel, anny24
from hamst3r.people.contact import ContactPoints, flags
from hamst3r.people.densepose import VertexLookup
from hamst3r.people.detections import Detection, DetectionConfig, absorb, detect
from hamst3r.people.facing import Walk
from hamst3r.people.fitting import FitConfig, fit
from hamst3r.people.instances import ViewPeople
from hamst3r.people.judging import FitResult
from hamst3r.people.motion import ConstantVelocity, JointMotion
from hamst3r.people.normal import ShapePrior
from hamst3r.people.outlines import outlines
from hamst3r.people.pixels import depth_factors, label, static_points
from hamst3r.people.scaling import PeopleScale, PeopleScaleConfig, ScaleOpinion, Sized
from hamst3r.people.smoothing import SmoothingConfig, Window
from hamst3r.people.standing import Stance, StandingConfig, StandingFitter
from hamst3r.people.state import BodyState
from hamst3r.people.surroundings import Surroundings, SurroundingsConfig
from hamst3r.people.triangulation import Triangulator
from hamst3r.scene import BodyFit, Contact, Person, ScaleSource, TrackingState

if TYPE_CHECKING:
    from hamst3r.alignment.incremental import Alignment

F64 = NDArray[np.float64]
_LOG = logging.getLogger(__name__)
_LARGEST_ID = int(np.iinfo(np.uint16).max)
_HELD = 1e8  # information of a beta that is held
_NO_JOINTS, _NO_STD = np.empty((0, 3), np.float32), np.empty(0, np.float32)
_GROWTH = 0.002  # of the world, beyond which what stood still does not any more


@dataclass(frozen=True)
class TrackingConfig:
    """How people are followed. Metres and seconds.

    Attributes:
        bodies: Whether bodies are fitted at all; without, people are places and masks.
        timeout: A person unseen for this long is lost.
        new_timeout: The same, for one who was seen only once; at least one frame set is waited for.
        gate, max_gate: How far from the predicted place a person may be found; the former grows
            with the prediction's deviation up to the latter.
        piece_distance: An unmatched mask this near a known person whom its view does not show
            otherwise is a piece of that person.
        max_size_ratio: Largest ratio between the sizes of a person now and before.
        weak: Metres that a sight is farther off for having none of the pixels that a person had;
            or as many as the deviation of the place, where that is larger.
        sights: Somebody whom one view shows, and two others should but do not, is told of after so
            many sights.
        centre_std: Deviation of the centre of the points as a measure of the hips.
        shape_frames, shape_std: After this many believed fits, and once the betas are known to
            that deviation, a person's shape is held.
        floor: Height of the floor in the world where it is known for certain.
        detection, fit, standing, smoothing, surroundings, scale: Of the stages within.
    """

    bodies: bool = True
    timeout: float = 2.0
    new_timeout: float = 0.5
    gate: float = 0.6
    max_gate: float = 1.8
    piece_distance: float = 0.8
    max_size_ratio: float = 3.0
    weak: float = 0.3
    sights: int = 3
    centre_std: float = 0.15
    shape_frames: int = 20
    shape_std: float = 0.5
    floor: float | None = None
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    standing: StandingConfig = field(default_factory=StandingConfig)
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    surroundings: SurroundingsConfig = field(default_factory=SurroundingsConfig)
    scale: PeopleScaleConfig = field(default_factory=PeopleScaleConfig)


class Tracked(NamedTuple):
    """Everybody after one frame set.

    Attributes:
        people: By id, those hidden and those just lost included (``num_points`` counts their
            pixels with depth).
        instances: Per view a (gh, gw) map of their ids.
        depth_factors: Per view a (gh, gw) float32 map of what the depth is to be multiplied with,
            so that a person's points are where views agree the person is; 1 elsewhere.
    """

    people: tuple[Person, ...]
    instances: list[NDArray[np.uint16]]
    depth_factors: list[NDArray[np.float32]]


class _Track:
    """One person followed: mutable, private to the tracker. The id is 0 until it is told of."""

    def __init__(self, detection: Detection, std: float, stamp: int) -> None:
        self.id = 0
        self.new = True
        self.motion = ConstantVelocity(detection.centre, np.eye(3) * std**2)
        self.offset = np.zeros(3)  # from the filtered position to the centre of the points
        self.size, self.pixels = detection.size, float(detection.num_points)
        self.hits = 0
        self.seen = stamp
        self.body: BodyState | None = None
        self.stance: Stance | None = None  # from outlines alone, where there is no body
        self.stood = stamp  # ns, of the stance
        self.shape: ShapePrior | None = None
        self.fits, self.shape_held = 0, False
        self.window: Window | None = None
        self.joints: JointMotion | None = None
        self.fitted = stamp  # when joints were last seen, ns
        self.contacts = Contact.NONE
        self.person: Person | None = None


class PeopleTracker:
    """Follows people through frame sets.

    Args:
        body: The body model to fit.
        config: Settings.
        seed: Of the random draws; equal input then gives equal output.

    Attributes:
        scale: By which factor the world of the last frame set must grow for its people to have the
            size of people and to stand on the ground; None where a calibration tells the scale,
            or nobody's body was seen.
    """

    def __init__(
        self,
        body: BodyModel | None = None,
        config: TrackingConfig | None = None,
        seed: int = 0,
    ) -> None:
        self.body = body or anny24()
        self.config = config or TrackingConfig()
        self._lookup = VertexLookup(self.body)
        self._standing = StandingFitter(self.body, self.config.standing)
        self._triangulator = Triangulator(self.body)
        self._contact_points = ContactPoints(self.body)
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """Forget everybody; ids start at 1 again."""
        self._tracks: list[_Track] = []
        self._sized: list[Sized] = []  # bodies of the last frame set
        self.scale: ScaleOpinion | None = None
        self._scale = PeopleScale(self.body, self._contact_points, self.config.scale)
        self._gain: float | None = None
        self._next_id = 1
        self._stamp: int | None = None
        self._step = 0.0  # seconds from the last frame set but one to the last
        self._surroundings = Surroundings(self.config.surroundings, self.config.floor)
        self._rng = np.random.default_rng(self._seed)
        self._generator = torch.Generator().manual_seed(self._seed)

    def update(
        self,
        stamp: int,
        views: Sequence[ViewPeople],
        alignment: Alignment,
        cameras: Sequence[str],
        grids_to_image: Sequence[NDArray[np.float64]],
    ) -> Tracked:
        """Take in one frame set.

        Args:
            stamp: ns. A stamp before the last one counts as the same time; after a jump of the
                clock call :meth:`reset`.
            views: From ``merge_instances``. alignment: Of the same views.
            cameras: Their names. grids_to_image: (3, 3) ``NetworkImage.T_image_grid`` of each.

        Raises:
            ValueError: Numbers or sizes of the views do not agree.
        """
        if not len(views) == len(cameras) == len(grids_to_image):
            raise ValueError(
                f"{len(views)} views, {len(cameras)} cameras and {len(grids_to_image)} pixel maps "
                "must be as many"
            )
        dt = 0.0 if self._stamp is None else min(max((stamp - self._stamp) / 1e9, 0.0), 10.0)
        self._step = dt
        self._stamp = stamp if self._stamp is None else max(stamp, self._stamp)
        self._keep_up(alignment.gain)
        detections = detect(
            views, alignment, self._lookup, self._triangulator, self._rng, self.config.detection
        )
        if self.config.smoothing.window:
            self._surroundings.add(static_points(views, alignment, self._rng))
        before = [track.motion.position.copy() for track in self._tracks]
        for track in self._tracks:
            track.motion.predict(dt, max((self._stamp - track.seen) / 1e9 - dt, 0.0))
        for track, old in zip(self._tracks, before, strict=True):
            shift = track.motion.position - old
            if track.body is not None:
                moved = track.body.transl + torch.from_numpy(shift).float()
                track.body = replace(track.body, transl=moved)
            if track.stance is not None:
                track.stance = track.stance.moved(shift)
        matches = self._associate(detections)
        for track, detection in matches:
            # Before a doubtful sight becomes a person it must come again.
            if not track.id and (detection.missed < 2 or track.hits + 1 >= self.config.sights):
                track.id = self._new_id()
        self._sized.clear()
        self._fit(matches)
        if self.config.bodies and alignment.scale_source is ScaleSource.CALIBRATION:
            self._stand(matches, views, alignment)
        self.scale = None
        if alignment.scale_source is not ScaleSource.CALIBRATION:
            self.scale = self._scale.heed(self._sized, self._surroundings)
        identified = [(track.id, detection) for track, detection in matches if track.id]
        maps, rois = label(views, cameras, grids_to_image, identified)
        people = [
            self._describe(track, detection, rois.get(track.id, {})) for track, detection in matches
        ]
        people += self._unseen([track for track, _ in matches])
        people = [person for person in people if person.id]
        return Tracked(
            tuple(sorted(people, key=lambda person: person.id)),
            maps,
            [depth_factors(ids, view, identified) for view, ids in enumerate(maps)],
        )

    def _keep_up(self, gain: float) -> None:
        """Let all that is remembered grow as the world has grown since the last frame set."""
        growth = 1.0 if self._gain is None else gain / self._gain
        self._gain = gain
        if growth == 1.0:
            return
        self._surroundings.grow(growth)
        self._scale.grow(growth)
        for track in self._tracks:
            track.motion.state *= growth
            track.offset = track.offset * growth
            track.size *= growth
            if track.body is not None:
                track.body = replace(track.body, transl=track.body.transl * growth)
            if abs(growth - 1) > _GROWTH:
                track.window = track.joints = track.stance = None
                # A shape that was learnt in a smaller world is that of a smaller person.
                track.shape, track.fits, track.shape_held = None, 0, False

    def _associate(self, detections: list[Detection]) -> list[tuple[_Track, Detection]]:
        """Detections with their tracks, newly opened where none fits."""
        cost = np.full((len(self._tracks), len(detections)), np.inf)
        for row, track in enumerate(self._tracks):
            std = float(np.sqrt(np.trace(track.motion.covariance[:3, :3]) / 3))
            gate = min(self.config.gate + 2 * std, self.config.max_gate)
            # The less is known of the place, the more it counts who is whole.
            weak = max(self.config.weak, min(std, self.config.max_gate))
            for column, detection in enumerate(detections):
                expected = track.motion.position + track.offset
                distance = float(np.linalg.norm(detection.centre - expected))
                ratio = max(detection.size / track.size, track.size / detection.size)
                if distance < gate and ratio < self.config.max_size_ratio:
                    share = min(detection.num_points / max(track.pixels, 1.0), 1.0)
                    cost[row, column] = distance + weak * (1 - share)
        # A forbidden match costs more than any number of allowed ones together.
        forbidden = 1e3 * (1 + 2 * self.config.max_gate + self.config.weak)
        rows, columns = linear_sum_assignment(np.where(np.isfinite(cost), cost, forbidden))
        taken = {
            int(column): self._tracks[row]
            for row, column in zip(rows, columns, strict=True)
            if np.isfinite(cost[row, column])
        }
        matches = [(taken[k], found) for k, found in enumerate(detections) if k in taken]
        for k, detection in enumerate(detections):
            if k not in taken:
                home = self._owner(detection, matches)
                if home is None:
                    matches.append((self._open(detection), detection))
                else:
                    track, whole = matches[home]
                    matches[home] = (track, absorb(whole, detection))
        return matches

    def _owner(self, piece: Detection, matches: list[tuple[_Track, Detection]]) -> int | None:
        """Which known person an unmatched detection is a piece of: one seen by other views only,
        who stands where the piece is. Views of one person that could not be joined are likelier
        than a stranger who appears inside somebody."""
        near = [
            (float(np.linalg.norm(piece.centre - track.motion.position - track.offset)), k)
            for k, (track, whole) in enumerate(matches)
            if track.hits and not piece.views & whole.views
        ]
        distance, home = min(near, default=(np.inf, None))
        return home if distance < self.config.piece_distance else None

    def _open(self, detection: Detection) -> _Track:
        assert self._stamp is not None
        track = _Track(detection, self.config.centre_std, self._stamp)
        self._tracks.append(track)
        return track

    def _new_id(self) -> int:
        alive = {track.id for track in self._tracks}
        if self._next_id > _LARGEST_ID:
            _LOG.warning("more than %d people since the last reset: ids repeat", _LARGEST_ID)
            self._next_id = 1
        while self._next_id in alive:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def _fit(self, matches: list[tuple[_Track, Detection]]) -> None:
        """Fit everybody's body: one batch for the known, one for those without a last fit."""
        needed = self.config.fit.judge.min_points if self.config.bodies else math.inf
        for track, detection in matches:
            track.person = None
            track.contacts = Contact.NONE
            if detection.known < needed:
                track.body = None
        able = [m for m in matches if m[1].known >= needed]
        warm = [m for m in able if m[0].body is not None]
        self._fit_batch(warm)
        # Also those whose last body did not lead to a believable one.
        self._fit_batch([m for m in able if m[0].body is None])

    def _fit_batch(self, matches: list[tuple[_Track, Detection]]) -> None:
        if not matches:
            return
        bodies = [track.body for track, _ in matches if track.body is not None]
        start = BodyState.stack(bodies) if bodies else None
        points, ids, weights = _pad([detection for _, detection in matches])
        standard = ShapePrior.standard(1, self.body.shapedirs.shape[-1])
        shapes = [track.shape or standard for track, _ in matches]
        result = fit(
            self.body,
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
            self._take(track, detection, result, row)
            # Too large or small to be believed still tells how far off the scale is.
            agree = float(result.inlier_ratio[row]) >= self.config.fit.judge.min_inlier_ratio
            if track.id and agree:
                state, height = result.state.person(row), float(result.height[row])
                self._sized.append(Sized(track.id, state, detection.camera, height))

    def _take(self, track: _Track, detection: Detection, result: FitResult, row: int) -> None:
        parameters = result.body_fit(self.body, row)
        if parameters is None:
            _LOG.debug("person %d: no body, %s", track.id, result.reasons[row])
            track.body = None
            return
        state = result.state.person(row)
        self._learn_shape(track, state.betas, result.shape_information[row : row + 1])
        if self.config.smoothing.window:
            state = self._smooth(track, state, result, row)
            parameters = result.body_fit(self.body, row, state)
        track.body = state
        joints = self.body.skeleton(state.rotations, state.transl, state.betas)[1][0].numpy()
        hips = joints[1:3].mean(0).astype(np.float64)
        joint_std = result.joint_std[row].numpy().astype(np.float32)
        known = self._move_joints(track, joints.astype(np.float64), joint_std.astype(np.float64))
        track.person = Person(
            id=track.id,
            state=TrackingState.OK,
            confidence=detection.score,
            fit=parameters,
            joints=joints,
            joint_std=joint_std,
            position=hips,
            covariance=np.eye(3) * max(float(joint_std[1:3].mean()), 0.02) ** 2,
            velocity=None,
            num_points=detection.num_points,
            joint_velocities=_NO_JOINTS if known is None else known.velocities.astype(np.float32),
            joint_velocity_std=_NO_STD if known is None else known.velocity_std.astype(np.float32),
        )

    def _stand(
        self,
        matches: list[tuple[_Track, Detection]],
        views: Sequence[ViewPeople],
        alignment: Alignment,
    ) -> None:
        """Who has no body, and had none lately, may have one that fits the outlines."""
        assert self._stamp is not None
        # One at a time is looked for afresh: it takes long.
        waited = {t.id: t.stance.searched for t, _ in matches if t.stance is not None}
        due = max(waited, key=lambda who: waited[who], default=None)
        for track, detection in matches:
            bodiless = (self._stamp - track.fitted) / 1e9 > self.config.timeout
            if track.person is not None or (track.fits and not bodiless):
                track.stance = None
                continue
            own = outlines(views, alignment, detection, self.config.standing.min_pixels)
            moving = track.motion
            walk = Walk(moving.velocity, moving.speed_std) if track.hits > 1 else None
            elapsed = (self._stamp - track.stood) / 1e9
            stance = self._standing.fit(own, track.stance, elapsed, walk, track.id == due)
            track.stance, track.stood = stance, self._stamp
            if stance is not None:
                hips = stance.joints[1:3].mean(0).astype(np.float64)
                track.person = Person(
                    id=track.id,
                    state=TrackingState.OK,
                    confidence=detection.score,
                    fit=stance.body_fit(self.body),
                    joints=stance.joints,
                    joint_std=stance.joint_std,
                    position=hips,
                    covariance=np.eye(3) * float(stance.joint_std[1:3].mean()) ** 2,
                    velocity=None,
                    num_points=detection.num_points,
                )

    def _move_joints(self, track: _Track, joints: F64, std: F64) -> JointMotion | None:
        """The filter of a track's joints; None where they were not seen before."""
        assert self._stamp is not None
        gap = (self._stamp - track.fitted) / 1e9
        track.fitted = self._stamp
        if track.joints is None or gap > self.config.smoothing.max_gap:
            track.joints = JointMotion(joints, std)
            return None
        track.joints.step(gap, joints, std)
        return track.joints

    def _learn_shape(self, track: _Track, betas: torch.Tensor, information: torch.Tensor) -> None:
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

    def _smooth(self, track: _Track, state: BodyState, result: FitResult, row: int) -> BodyState:
        assert self._stamp is not None
        if track.window is None:
            track.window = Window(self.body, self._contact_points, self.config.smoothing)
        smoothed = track.window.push(
            self._stamp,
            state,
            result.pose_information[row].numpy(),
            result.joint_std[row].double().numpy(),
            self._surroundings,
        )
        track.contacts = flags(smoothed.touches)
        return smoothed.state

    def _describe(
        self, track: _Track, detection: Detection, rois: dict[str, tuple[int, int, int, int]]
    ) -> Person:
        """Correct the track by what was seen and describe the person."""
        fitted = track.person
        if fitted is None:
            fitted = Person(
                id=track.id,
                state=TrackingState.OK,
                confidence=detection.score,
                fit=None,
                joints=_NO_JOINTS,
                joint_std=_NO_STD,
                position=detection.centre,
                covariance=np.eye(3) * self.config.centre_std**2,
                velocity=None,
                num_points=detection.num_points,
            )
        expected = True
        if track.hits:
            expected = track.motion.correct(fitted.position, fitted.covariance)
        else:
            track.motion = ConstantVelocity(fitted.position, fitted.covariance)
        assert self._stamp is not None
        track.hits += 1
        track.seen = self._stamp
        track.size = 0.8 * track.size + 0.2 * detection.size if track.hits > 1 else detection.size
        track.pixels += 0.2 * (detection.num_points - track.pixels)
        if expected:
            track.offset = detection.centre - track.motion.position
        track.person = replace(
            fitted,
            id=track.id,
            state=TrackingState.NEW if track.new else TrackingState.OK,
            velocity=track.motion.velocity.copy() if track.hits > 1 else None,
            rois=rois,
            contacts=track.contacts,
        )
        track.new = track.new and not track.id
        return track.person

    def _unseen(self, seen: list[_Track]) -> list[Person]:
        """Coast the hidden, dismiss the lost."""
        assert self._stamp is not None
        people, kept = [], []
        for track in self._tracks:
            if track in seen or track.person is None:
                kept.append(track)
                continue
            hidden = (self._stamp - track.seen) / 1e9
            known = track.id and track.hits > 1
            # Even where frame sets are rare, one miss alone does not end somebody.
            once = min(max(self.config.new_timeout, 1.5 * self._step), self.config.timeout)
            timeout = self.config.timeout if known else once
            lost = hidden > timeout
            person = _coast(track.person, track.motion)
            fade = max(0.0, 1 - hidden / self.config.timeout)
            state = TrackingState.LOST if lost else TrackingState.PREDICTED
            score = 0.0 if lost else person.confidence * fade
            people.append(replace(person, state=state, confidence=score))
            # Remembered with the confidence of the last sight, from which the fading counts.
            track.person = replace(person, state=TrackingState.PREDICTED)
            if not lost:
                kept.append(track)
        self._tracks = kept
        return people


def _coast(person: Person, motion: ConstantVelocity) -> Person:
    """The person as last seen, carried to where the motion says."""
    shift = motion.position - person.position
    extra = float(np.trace(motion.covariance[:3, :3]) / 3)
    speed_std = motion.speed_std
    moved: BodyFit | None = None
    if person.fit is not None:
        moved = replace(person.fit, transl=(person.fit.transl + shift).astype(np.float32))
    return replace(
        person,
        fit=moved,
        joints=(person.joints + shift).astype(np.float32),
        joint_std=np.sqrt(np.maximum(person.joint_std**2, extra)).astype(np.float32),
        position=motion.position.copy(),
        covariance=motion.covariance[:3, :3].copy(),
        velocity=motion.velocity.copy(),
        num_points=0,
        rois={},
        contacts=Contact.NONE,
        # The body is carried as a whole.
        joint_velocities=np.tile(motion.velocity, (len(person.joints), 1)).astype(np.float32),
        joint_velocity_std=np.full(len(person.joints), speed_std, np.float32),
    )


def _pad(detections: list[Detection]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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
