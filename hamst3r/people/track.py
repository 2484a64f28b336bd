"""What is known of one person who is followed, and the settings of all that follow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from hamst3r.people.detections import Detection, DetectionConfig
from hamst3r.people.fitting import FitConfig
from hamst3r.people.looks import Looks, LooksConfig
from hamst3r.people.motion import ConstantVelocity, JointMotion
from hamst3r.people.normal import ShapePrior
from hamst3r.people.scaling import PeopleScaleConfig
from hamst3r.people.smoothing import SmoothingConfig, Window
from hamst3r.people.standing import Stance, StandingConfig
from hamst3r.people.state import BodyState
from hamst3r.people.surroundings import SurroundingsConfig
from hamst3r.scene import BodyFit, Contact, Person, TrackingState

_NO_JOINTS, _NO_STD = np.empty((0, 3), np.float32), np.empty(0, np.float32)


@dataclass(frozen=True)
class TrackingConfig:
    """How people are followed. Metres and seconds.

    Attributes:
        bodies: Whether bodies are fitted at all; without, people are places and masks.
        timeout: A person unseen for this long is lost.
        new_timeout: The same, for one who was seen only once; at least one frame set is waited for.
        remembered: Who was lost is known again by their looks for so long.
        pace: How fast people go out of sight, metres per second.
        same_looks: Log odds by which looks must speak for somebody, against a stranger and against
            whoever else was lost.
        gate, max_gate: How far from the predicted place a person may be found; the former grows
            with the prediction's deviation up to the latter.
        piece_distance: An unmatched mask this near a known person whom its view does not show
            otherwise is a piece of that person.
        max_size_ratio: Largest ratio between the sizes of a person now and before.
        weak: Metres that a sight is farther off for having none of the pixels that a person had;
            or as many as the deviation of the place, where that is larger.
        unlike: By which share of the gate a sight is farther off for each of the log odds that it
            looks like somebody else.
        doubtful_for: For so long doubtful sights alone make somebody last.
        sights: Somebody whom one view shows, and two others should but do not, is told of after so
            many sights.
        centre_std: Deviation of the centre of the points as a measure of the hips.
        shape_frames, shape_std: After this many believed fits, and once the betas are known to
            that deviation, a person's shape is held.
        floor: Height of the floor in the world where it is known for certain.
        looks, detection, fit, standing, smoothing, surroundings, scale: Of the stages within.
    """

    bodies: bool = True
    timeout: float = 2.0
    new_timeout: float = 0.5
    remembered: float = 60.0
    pace: float = 1.5
    same_looks: float = 0.2
    gate: float = 0.6
    max_gate: float = 2.5
    piece_distance: float = 0.8
    max_size_ratio: float = 3.0
    weak: float = 0.3
    unlike: float = 0.15
    doubtful_for: float = 5.0
    sights: int = 3
    centre_std: float = 0.15
    shape_frames: int = 20
    shape_std: float = 0.5
    floor: float | None = None
    looks: LooksConfig = field(default_factory=LooksConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    standing: StandingConfig = field(default_factory=StandingConfig)
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    surroundings: SurroundingsConfig = field(default_factory=SurroundingsConfig)
    scale: PeopleScaleConfig = field(default_factory=PeopleScaleConfig)


class Track:
    """One person followed: mutable, of one tracker. The id is 0 until it is told of."""

    def __init__(self, detection: Detection, std: float, stamp: int) -> None:
        self.id = 0
        self.new = True
        self.looks: Looks = {}
        self.motion = ConstantVelocity(detection.centre, detection.covariance + np.eye(3) * std**2)
        self.offset = np.zeros(3)  # from the filtered position to the centre of the points
        self.size, self.pixels = detection.size, float(detection.num_points)
        self.hits = 0
        self.seen = self.sure = stamp  # ns; the latter: by a sight that nobody doubts
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

    def seen_as(self, detection: Detection, std: float) -> Person:
        """The person as the detection alone says: no body, the place with its covariance and that
        deviation of the hips from it."""
        return Person(
            id=self.id,
            state=TrackingState.OK,
            confidence=detection.score,
            fit=None,
            joints=_NO_JOINTS,
            joint_std=_NO_STD,
            position=detection.centre,
            covariance=detection.covariance + np.eye(3) * std**2,
            velocity=None,
            num_points=detection.num_points,
        )


def coast(person: Person, motion: ConstantVelocity) -> Person:
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
