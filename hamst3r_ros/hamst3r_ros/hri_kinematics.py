"""Angles of REP-155's kinematic model of a human, and OpenPose's points, from a body's joints.

The model is that of the package human_description: arms and legs hang along -z at zero; shoulders
turn about z, x, z, hips about z, x, y, the head about x, z, y; elbows, knees and the waist about y.
Where a limb is straight or hangs down two angles say the same thing: one of them is then zero.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.people.body import JOINT_NAMES, PARENTS
from hamst3r_ros.bodies import SMPL_FROM_ROS

F64 = NDArray[np.float64]
_AT = {name: index for index, name in enumerate(JOINT_NAMES)}
_HANGING = 0.1  # sine of an angle below which a limb's twist cannot be told
HEAD = "head"
# Of SMPL's joints, in the order of hri_msgs/Skeleton2D; "" = points of the face, not among them.
OPENPOSE = (
    "",
    "neck",
    *(f"right_{name}" for name in ("shoulder", "elbow", "wrist")),
    *(f"left_{name}" for name in ("shoulder", "elbow", "wrist")),
    *(f"right_{name}" for name in ("hip", "knee", "ankle")),
    *(f"left_{name}" for name in ("hip", "knee", "ankle")),
    *("",) * 4,
)


def joint_angles(joints: F64, axes: F64, turns: F64) -> dict[str, float]:
    """Angles in radians by the names of REP-155, without the suffix of a body.

    Args:
        joints: (24, 3) metres, in any frame. axes: (3, 3) REP-155's axes of the body in it: x to
            the front, z to the head.
        turns: (24, 3) axis-angle of each joint relative to its parent (the first one's unused).
    """
    local = (joints - joints[[_AT["left_hip"], _AT["right_hip"]]].mean(0)) @ axes
    place = {name: local[index] for name, index in _AT.items()}
    spine = place["neck"]
    waist = math.atan2(spine[0], spine[2])
    torso = _about_y(waist)
    found = {"waist": waist, **_head(torso, turns)}
    for side, sign in (("l", 1.0), ("r", -1.0)):
        long = "left" if side == "l" else "right"
        upper, lower = (
            _direction(place[f"{long}_{a}"], place[f"{long}_{b}"]) @ torso
            for a, b in (("shoulder", "elbow"), ("elbow", "wrist"))
        )
        names = (f"{side}_y_shoulder", f"{side}_p_shoulder", f"{side}_r_shoulder", f"{side}_elbow")
        found |= dict(zip(names, _arm(upper, lower, sign), strict=True))
        upper, lower = (
            _direction(place[f"{long}_{a}"], place[f"{long}_{b}"])
            for a, b in (("hip", "knee"), ("knee", "ankle"))
        )
        names = (f"{side}_y_hip", f"{side}_p_hip", f"{side}_r_hip", f"{side}_knee")
        found |= dict(zip(names, _leg(upper, lower, sign), strict=True))
    return found


def _arm(upper: F64, lower: F64, sign: float) -> tuple[float, float, float, float]:
    """y, p, r of the shoulder and the elbow, of directions in the torso's axes."""
    pitch = math.acos(_clip(-upper[2]))
    yaw = math.atan2(upper[0], sign * upper[1]) if math.sin(pitch) > _HANGING else 0.0
    if math.sin(pitch) <= _HANGING:  # the little that it does hang aside goes to one axis
        pitch = math.atan2(sign * upper[1], -upper[2])
    own = _about_z(-sign * yaw) @ _about_x(sign * pitch)
    bent = lower @ own
    elbow = math.acos(_clip(-bent[2]))
    roll = sign * math.atan2(bent[1], bent[0]) if math.sin(elbow) > _HANGING else 0.0
    return yaw, pitch, roll, elbow


def _leg(upper: F64, lower: F64, sign: float) -> tuple[float, float, float, float]:
    """y, p, r of the hip and the knee, of directions in the body's axes."""
    knee = -math.acos(_clip(float(upper @ lower)))
    across = np.cross(upper, lower)
    size = float(np.linalg.norm(across))
    if size <= _HANGING:
        yaw, pitch, roll = 0.0, sign * math.atan2(upper[1], -upper[2]), math.asin(_clip(upper[0]))
        return yaw, pitch, roll, knee
    y = across / size
    turn = np.stack([np.cross(y, -upper), y, -upper], 1)
    yaw = -math.atan2(-turn[0, 1], turn[1, 1])
    pitch = sign * math.asin(_clip(turn[2, 1]))
    roll = -math.atan2(-turn[2, 0], turn[2, 2])
    return yaw, pitch, roll, knee


def _head(torso: F64, turns: F64) -> dict[str, float]:
    joint, turn = _AT[HEAD], np.eye(3)
    while joint:  # up to the root, whose turn the body's axes have
        turn = cv2.Rodrigues(np.asarray(turns[joint], dtype=float))[0] @ turn
        joint = PARENTS[joint]
    own = torso.T @ SMPL_FROM_ROS.T @ turn @ SMPL_FROM_ROS
    return {
        "r_head": math.atan2(own[2, 1], own[1, 1]),
        "y_head": -math.asin(_clip(own[0, 1])),
        "p_head": -math.atan2(own[0, 2], own[0, 0]),
    }


def image_points(joints: F64, T_world_cam: F64, K: F64, size: tuple[int, int]) -> F64:
    """(18, 2) of OpenPose's points, both axes in [0, 1] of an undistorted image; NaN where a point
    is not in it or is one of the face.

    Args:
        joints: (24, 3) metres, world. size: Width and height of the image, pixels.
    """
    seen = (joints - T_world_cam[:3, 3]) @ T_world_cam[:3, :3]
    points = np.full((len(OPENPOSE), 2), np.nan)
    for row, name in enumerate(OPENPOSE):
        if name and seen[_AT[name], 2] > 1e-3:
            pixel = K @ seen[_AT[name]]
            # Pixel centres are whole numbers, the image begins half a pixel before the first.
            place = (pixel[:2] / pixel[2] + 0.5) / size
            if (place >= 0).all() and (place <= 1).all():
                points[row] = place
    return points


def _direction(start: F64, end: F64) -> F64:
    way = end - start
    return way / max(float(np.linalg.norm(way)), 1e-9)


def _clip(value: float) -> float:
    return min(max(float(value), -1.0), 1.0)


def _about_x(angle: float) -> F64:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1.0, 0, 0], [0, c, -s], [0, s, c]])


def _about_y(angle: float) -> F64:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0, s], [0, 1.0, 0], [-s, 0, c]])


def _about_z(angle: float) -> F64:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
