"""Tying the world to a frame that the robot knows, by where one camera is in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hamst3r_msgs.srv import SetAnchor
from numpy.typing import NDArray

from hamst3r.geometry import invert
from hamst3r.scene import Camera, Scene
from hamst3r_ros.headers import Link, from_pose
from hamst3r_ros.parameter import Values

F64 = NDArray[np.float64]
# (target frame, source frame, stamp) -> T_target_source, None if it is not known.
Lookup = Callable[[str, str, int], F64 | None]


class AnchorError(ValueError):
    """An anchor that cannot be used; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Anchor:
    """Where one camera is in a frame outside of the reconstruction.

    Attributes:
        camera: Its name.
        frame: The frame outside, which becomes the parent of the world's.
        T_frame_cam: Its pose there (optical axes), of a camera that stays; None: TF knows it.
    """

    camera: str
    frame: str
    T_frame_cam: F64 | None = None


@dataclass(frozen=True, eq=False)
class Anchored:
    """What an anchor makes of a scene.

    Attributes:
        transform: Outside frame -> world, at the scene's stamp; None where it is not known.
        residual: Metres between the other cameras' places and what TF says of them, on average;
            None where TF knows no other camera.
        problem: Why there is no transform; "" if there is one.
    """

    transform: Link | None
    residual: float | None = None
    problem: str = ""


def apply(anchor: Anchor, scene: Scene, world: str, lookup: Lookup) -> Anchored:
    """The world's pose in the outside frame, so that the anchor's camera is where it is known.

    Args:
        world: The world's frame id.
        lookup: Of TF.
    """
    solved = {camera.name: camera for camera in scene.cameras}
    camera = solved.pop(anchor.camera, None)
    if camera is None:
        return Anchored(None, problem=f"the anchor camera '{anchor.camera}' was not placed")
    T_frame_cam = anchor.T_frame_cam
    if T_frame_cam is None:
        T_frame_cam = _known(camera, anchor.frame, lookup)
    if T_frame_cam is None:
        return Anchored(
            None,
            problem=f"no transform from '{camera.frame_id}' (camera '{camera.name}') to "
            f"'{anchor.frame}' on TF; the world is not anchored until it comes",
        )
    T_frame_world = T_frame_cam @ invert(camera.T_world_cam)
    off = [
        float(np.linalg.norm((T_frame_world @ other.T_world_cam - known)[:3, 3]))
        for other in solved.values()
        if (known := _known(other, anchor.frame, lookup)) is not None
    ]
    return Anchored(
        Link(anchor.frame, world, T_frame_world),
        float(np.mean(off)) if off else None,
    )


def in_map(scene: Scene, values: Values) -> Link | None:
    """The world's pose in the map of cameras that move (REP-105's map -> odom); None for others."""
    if values["pairs"] != "rig" or not values["world.map_frame"]:
        return None
    parent, child = values["world.map_frame"], values["world.frame"]
    return Link(parent, child, scene.T_map_world)


def _known(camera: Camera, frame: str, lookup: Lookup) -> F64 | None:
    return lookup(frame, camera.frame_id, camera.stamp)


def requested(request: SetAnchor.Request, values: Values) -> tuple[Anchor, str]:
    """The anchor that a request asks for, and one sentence that says what it is.

    Raises:
        AnchorError: No such camera, no frame, or not a rigid pose.
    """
    if request.camera not in values["cameras"]:
        raise AnchorError(
            f"there is no camera '{request.camera}', only {', '.join(values['cameras'])}"
        )
    if request.use_tf:
        anchor = Anchor(request.camera, values["world.anchor_frame"])
    else:
        T_frame_cam = from_pose(request.pose.pose)
        if T_frame_cam is None:
            raise AnchorError("pose is not rigid: give finite numbers and a unit quaternion")
        anchor = Anchor(request.camera, request.pose.header.frame_id.lstrip("/"), T_frame_cam)
    if anchor.frame in ("", values["world.frame"]):
        raise AnchorError(
            f"pose.header.frame_id is '{anchor.frame}'; name the frame that the pose is in, other "
            "than the world's own"
        )
    where = "where TF has it" if anchor.T_frame_cam is None else "at the given pose"
    return anchor, f"camera '{anchor.camera}' is {where} in '{anchor.frame}'"
