"""The result of a reconstruction: immutable, complete, independent of how it was made.

World is z-up where gravity is known, metric where ``scale_source`` says so. Camera axes are
OpenCV's (x right, y down, z forward). ``T_a_b`` maps coordinates in b to coordinates in a.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

LABEL_SCENE, LABEL_HUMAN = 0, 1


class ScaleSource(enum.IntEnum):
    """Where the metric scale came from; values are those of ``hamst3r_msgs/HumanArray``."""

    UNKNOWN = 0
    NETWORK = 1
    CALIBRATION = 2
    BODIES = 3
    CONTACT = 4


class TrackingState(enum.IntEnum):
    """Life of a track; values are those of ``hamst3r_msgs/Human``."""

    NEW = 0
    OK = 1
    PREDICTED = 2
    LOST = 3


class Contact(enum.IntFlag):
    """Body parts that touch the scene; bits are those of ``hamst3r_msgs/Human``."""

    NONE = 0
    LEFT_FOOT = 1
    RIGHT_FOOT = 2
    LEFT_HAND = 4
    RIGHT_HAND = 8
    SEAT = 16


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera as solved.

    Attributes:
        name, frame_id, stamp: As in the frame it was solved from (stamp in ns).
        width, height: Size of the delivered image in pixels.
        K: (3, 3) pinhole intrinsics of the undistorted image of that size, pixels.
        T_world_cam: (4, 4) maps camera to world, metres.
        confidence: In [0, 1]; 1 for a pose given by exact calibration.
    """

    name: str
    frame_id: str
    stamp: int
    width: int
    height: int
    K: F64
    T_world_cam: F64
    confidence: float


@dataclass(frozen=True, eq=False)
class View:
    """Dense output of one camera on the network's output grid (h, w).

    Attributes:
        camera: Name of the camera.
        K: (3, 3) intrinsics of this grid in its own pixels.
        depth: (h, w) float32 z in metres, 0 where invalid.
        confidence: (h, w) float32 >= 1 (0 where invalid), DUSt3R's convention.
        rgb: (h, w, 3) uint8.
        instances: (h, w) uint16 person id as in :class:`Person`, 0 = background.
        densepose: (h, w, 3) float32 canonical body coordinates in [0, 1]; NaN off the body.
    """

    camera: str
    K: F64
    depth: F32
    confidence: F32
    rgb: NDArray[np.uint8]
    instances: NDArray[np.uint16]
    densepose: F32


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Fused points in the world frame; all arrays share their first dimension N.

    Attributes:
        xyz: (N, 3) float32 metres, finite.
        rgb: (N, 3) uint8.
        confidence: (N,) float32 >= 1.
        label: (N,) uint8, ``LABEL_SCENE`` or ``LABEL_HUMAN``.
        instance: (N,) uint16 person id, 0 = none.
        camera: (N,) uint8 index into ``Scene.cameras``.
        body: (N, 3) float32 canonical body coordinates in [0, 1], NaN where not on a body.
    """

    xyz: F32
    rgb: NDArray[np.uint8]
    confidence: F32
    label: NDArray[np.uint8]
    instance: NDArray[np.uint16]
    camera: NDArray[np.uint8]
    body: F32

    def __len__(self) -> int:
        return len(self.xyz)


@dataclass(frozen=True, eq=False)
class BodyFit:
    """Parameters of a body model in SMPL's conventions (SMPL, Loper et al. 2015).

    Attributes:
        model, model_sha256: Which body model the parameters belong to.
        betas: (10,) shape coefficients.
        global_orient: (3,) axis-angle in radians, model root in the world frame.
        body_pose: (69,) axis-angle in radians, joints 1..23, each relative to its parent.
        transl: (3,) metres; a joint at ``J`` at rest with identity orientation is at J + transl.
        rmse: Root mean square distance of inlier points to their body points, metres.
        inliers: Number of points the robust fit kept.
        facing: Probability that the body faces this way and not the opposite one; below 1 where
            only outlines of the person are known.
    """

    model: str
    model_sha256: str
    betas: F32
    global_orient: F32
    body_pose: F32
    transl: F32
    rmse: float
    inliers: int
    facing: float = 1.0


@dataclass(frozen=True, eq=False)
class Person:
    """One tracked person.

    Attributes:
        id: Persistent, > 0, never reused before a reset; the ``instance`` of points and views.
        state: Life of the track.
        confidence: In [0, 1].
        fit: Body parameters, or None where the evidence did not carry a fit.
        joints: (24, 3) float32 metres in world, or (0, 3) without a fit.
        joint_std: (24,) float32 metres, one standard deviation per axis, or (0,).
        position: (3,) centre of the hips in world; without a fit, where they mostly are.
        covariance: (3, 3) of ``position``, square metres.
        velocity: (3,) metres per second of ``position``, or None before it is known.
        num_points: Points of this person in ``Scene.points``.
        rois: camera name -> (x, y, width, height) in pixels of the delivered image.
        contacts: What touches the scene.
        joint_velocities: (24, 3) float32 metres per second of ``joints`` in world, or (0, 3) before
            they are known. joint_velocity_std: (24,) per axis, or (0,).
    """

    id: int
    state: TrackingState
    confidence: float
    fit: BodyFit | None
    joints: F32
    joint_std: F32
    position: F64
    covariance: F64
    velocity: F64 | None
    num_points: int
    rois: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    contacts: Contact = Contact.NONE
    joint_velocities: F32 = field(default_factory=lambda: np.empty((0, 3), np.float32))
    joint_velocity_std: F32 = field(default_factory=lambda: np.empty(0, np.float32))


@dataclass(frozen=True, eq=False)
class Scene:
    """People and place at one time.

    Attributes:
        stamp: That of the frame set, ns.
        cameras, views: One each per placed camera, in the frame set's order.
        points: The fused cloud.
        people: Tracked people, also those merely predicted, and once those just lost.
        scale_source, scale_std: Where the metric scale came from; relative standard deviation.
        T_map_world: (4, 4) rigid, from the world, in which everything here is and which never
            jumps, to the map, in which past and present fit each other: REP-105's map -> odom.
            The identity unless cameras move.
        keyframe: Whether the alignment keeps this frame set to find others by (moving cameras).
        timings: Seconds per stage (encode, decode, align, people, fuse), for diagnostics.
        notes: What went wrong without being fatal, one short sentence each.
    """

    stamp: int
    cameras: tuple[Camera, ...]
    views: tuple[View, ...]
    points: PointCloud
    people: tuple[Person, ...]
    scale_source: ScaleSource
    scale_std: float
    timings: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    T_map_world: F64 = field(default_factory=lambda: np.eye(4))
    keyframe: bool = False
