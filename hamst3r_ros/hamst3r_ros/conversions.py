"""A Scene as serialised messages: pure functions, and the only place where what they hold is
written."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import cache, lru_cache
from operator import mul, sub
from typing import Any

import numpy as np
from hamst3r_msgs.msg import CameraArray, Human, HumanArray
from numpy.typing import NDArray
from scipy.special import erf
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from hamst3r.colors import person_colors
from hamst3r.people.body import JOINT_NAMES, PARENTS
from hamst3r.scene import BodyFit, Camera, Person, Scene, TrackingState, View
from hamst3r_ros.bodies import Box
from hamst3r_ros.headers import NANOSECONDS, Link, header_fields, quaternion
from hamst3r_ros.wire import Fields, pack

F32 = NDArray[np.float32]

LEFT_HIP, RIGHT_HIP, NECK = 1, 2, 12
TORSO = (LEFT_HIP, RIGHT_HIP, NECK)
# Variance of an angle of which nothing is known: uniform over the circle, rad^2.
UNKNOWN_ANGLE = math.pi**2 / 3
NEAR = 0.1  # metres


def human_array(scene: Scene, world: str, boxes: dict[int, Box]) -> bytes:
    """~/humans, serialised.

    Args:
        world: The frame of the scene. boxes: Person id -> the box around the body.
    """
    return pack(
        HumanArray,
        {
            "header": header_fields(scene.stamp, world),
            "cameras": [camera.name for camera in scene.cameras],
            "scale_source": int(scene.scale_source),
            "scale_std": float(scene.scale_std),
            "humans": [human(person, boxes.get(person.id)) for person in scene.people],
        },
    )


def human(person: Person, box: Box | None) -> Fields:
    """One person; every field is explained in Human.msg."""
    fit = person.fit
    fields: dict[str, Any] = {
        "id": person.id,
        "body_id": body_id(person.id),
        "tracking_state": int(person.state),
        "confidence": float(person.confidence),
        "pose": pose_numbers(person),
        "gender": Human.NEUTRAL,
        "scale": 1.0,
        "fit_rmse": math.nan,
        "contacts": int(person.contacts),
        "cameras": tuple(person.rois),
        "rois": [
            (int(x), int(y), int(height), int(width), False)  # do_rectify
            for x, y, width, height in person.rois.values()
        ],
        "num_points": int(person.num_points),
    }
    if person.velocity is not None:
        fields["velocity"] = (*person.velocity.tolist(), *_turning(person))
        fields["velocity_valid"] = True
    if fit is not None:
        fields |= {
            "body_model": fit.model,
            "body_model_sha256": fit.model_sha256,
            "gender": _gender(fit.model),
            "betas": fit.betas,
            "global_orient": fit.global_orient,
            "body_pose": fit.body_pose,
            "transl": fit.transl,
            "fit_rmse": float(fit.rmse),
            "fit_inliers": int(fit.inliers),
        }
    if len(person.joints) == len(JOINT_NAMES):
        fields |= {
            "joint_names": JOINT_NAMES,
            "joints": person.joints,
            "joint_std": person.joint_std,
            "joint_confidence": joint_confidence(person.joint_std),
            "joint_velocities": person.joint_velocities,
            "joint_velocity_std": person.joint_velocity_std,
        }
    if box is not None:
        fields["size"] = box.size
    return fields


def _turning(person: Person) -> list[float]:
    """rad/s about the world's axes: the rigid motion that fits the torso's velocities best (least
    squares); 0 before these are known."""
    if len(person.joint_velocities) <= max(TORSO):
        return [0.0, 0.0, 0.0]
    arms, speeds = _about_mean(person.joints), _about_mean(person.joint_velocities)
    momentum = [sum(axis) for axis in zip(*map(_cross, arms, speeds), strict=True)]
    diagonal = sum(x * x for arm in arms for x in arm) + 1e-6
    first, second, third = (
        [(diagonal if i == j else 0.0) - sum(arm[i] * arm[j] for arm in arms) for j in range(3)]
        for i in range(3)
    )  # the inertia's rows
    inverse = _cross(second, third), _cross(third, first), _cross(first, second)
    volume = sum(map(mul, first, inverse[0]))
    return [sum(map(mul, momentum, axis)) / volume for axis in zip(*inverse, strict=True)]


def _about_mean(values: NDArray) -> list[list[float]]:
    """The torso's of values (24, 3), less their mean. In floats: at so few numbers, each of them
    needed at another time, numpy's ways in and out take many times as long as the sums."""
    every = values.tolist()
    torso = [every[joint] for joint in TORSO]
    mean = [sum(axis) / len(torso) for axis in zip(*torso, strict=True)]
    return [list(map(sub, own, mean)) for own in torso]


def _cross(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


def joint_confidence(std: NDArray) -> NDArray:
    """Chance that joints lie within ``NEAR`` of where they are said to be, by their deviation per
    axis: Maxwell's distribution, within 1e-4."""
    return np.interp(std, _DEVIATIONS, _CHANCES)


def _maxwell(reach: NDArray) -> NDArray:
    tail = math.sqrt(2 / math.pi) * reach * np.exp(-(reach**2) / 2)
    chance: NDArray = np.clip(erf(reach / math.sqrt(2)) - tail, 0.0, 1.0)
    return chance


_DEVIATIONS = np.concatenate([np.linspace(0.0, 0.4, 801), np.geomspace(0.402, 40.0, 800)])
_CHANCES = _maxwell(NEAR / np.maximum(_DEVIATIONS, 1e-6))


@cache
def _gender(model: str) -> int:
    """Of whom a model is made, as files of SMPL's family say in their names."""
    words = model.lower().replace("-", "_").split("_")
    if "female" in words or "f" in words:
        return int(Human.FEMALE)
    return int(Human.MALE if "male" in words or "m" in words else Human.NEUTRAL)


def _orientation(fit: BodyFit | None) -> tuple[float, float, float, float]:
    """Quaternion (x, y, z, w), w >= 0, of REP-155's body axes in the world; none without a fit."""
    if fit is None:
        return 0.0, 0.0, 0.0, 1.0
    x, y, z = fit.global_orient.tolist()
    angle = math.hypot(x, y, z)
    sine = math.sin(angle / 2) / angle if angle > 1e-9 else 0.5
    x, y, z, w = sine * x, sine * y, sine * z, math.cos(angle / 2)
    # Times bodies.SMPL_FROM_ROS, which is -1/2 (1, 1, 1) and 1/2.
    half = math.copysign(0.5, x + y + z + w)
    return (
        half * (x - y + z - w),
        half * (x + y - z - w),
        half * (y + z - x - w),
        half * (x + y + z + w),
    )


def body_id(person: int) -> str:
    """REP-155's name for a person's id: it starts with a letter."""
    return f"h{person:05d}"


def present(people: Sequence[Person]) -> list[Person]:
    """Those who are not lost."""
    return [person for person in people if person.state != TrackingState.LOST]


def pose_numbers(person: Person) -> list[float]:
    """PoseWithCovariance: place (3), quaternion (4), covariance (6 x 6)."""
    angle = turned = _angle_variance(person)
    if person.fit is not None and person.fit.facing < 1:  # or it faces the other way
        turned = min(angle + (1 - person.fit.facing) * math.pi**2, UNKNOWN_ANGLE)
    x, y, z = person.covariance.tolist()
    nothing = [0.0, 0.0, 0.0]
    return [
        *person.position.tolist(),
        *_orientation(person.fit),
        *(*x, *nothing, *y, *nothing, *z, *nothing),
        *(*nothing, angle, 0.0, 0.0, *nothing, 0.0, angle, 0.0, *nothing, 0.0, 0.0, turned),
    ]


def _angle_variance(person: Person) -> float:
    """rad^2 about each axis: what the joints' deviations make of the torso's direction."""
    if person.fit is None or len(person.joints) <= NECK:
        return UNKNOWN_ANGLE
    std = person.joint_std.tolist()
    shares = [
        std[joint] / max(math.hypot(*arm), 0.01)
        for joint, arm in zip(TORSO, _about_mean(person.joints), strict=True)
    ]
    return min(sum(share**2 for share in shares) / len(TORSO), UNKNOWN_ANGLE)


def camera_array(scene: Scene, head: Fields) -> bytes:
    """~/cameras: poses in the world, intrinsics at the delivered size. See Camera.msg."""
    cameras = [
        {
            "name": camera.name,
            "frame_id": camera.frame_id,
            "stamp": divmod(camera.stamp, NANOSECONDS),
            "pose": (*camera.T_world_cam[:3, 3].tolist(), *quaternion(camera.T_world_cam[:3, :3])),
            "width": camera.width,
            "height": camera.height,
            "k": camera.K.ravel().tolist(),
            "confidence": float(camera.confidence),
        }
        for camera in scene.cameras
    ]
    return pack(CameraArray, {"header": head, "cameras": cameras})


def links(scene: Scene, world: str, prefix: str) -> list[Link]:
    """world -> <prefix><camera>_optical_frame of every camera."""
    return [
        Link(world, f"{prefix}{camera.name.strip('~/')}_optical_frame", camera.T_world_cam)
        for camera in scene.cameras
    ]


def transforms(links: Sequence[Link], stamp: int) -> bytes:
    """/tf, serialised; the stamp in integer nanoseconds.

    Most cameras stay where they are: then only the stamps are written anew.
    """
    packed = _standing(
        tuple(
            (link.parent, link.child, np.asarray(link.T_parent_child, float).tobytes())
            for link in links
        )
    )
    if packed.count(_SOME_TIME) != len(links):
        return _transforms(links, stamp)  # a number that looks like the stamp
    return packed.replace(_SOME_TIME, _STAMP.pack(*divmod(stamp, NANOSECONDS)))


_STAMP = struct.Struct("<iI")
_SOME_STAMP = -1_234_567_890_123_456_789  # nobody's, and none of its bytes is 0
_SOME_TIME = _STAMP.pack(*divmod(_SOME_STAMP, NANOSECONDS))


@lru_cache(maxsize=4)
def _standing(places: tuple[tuple[str, str, bytes], ...]) -> bytes:
    links = [Link(above, name, np.frombuffer(T).reshape(4, 4)) for above, name, T in places]
    return _transforms(links, _SOME_STAMP)


def _transforms(links: Sequence[Link], stamp: int) -> bytes:
    return pack(TFMessage, {"transforms": [link.fields(stamp) for link in links]})


def camera_header(camera: Camera) -> Fields:
    """Header of what belongs to one camera's image: that image's own."""
    return header_fields(camera.stamp, camera.frame_id)


def depth_image(view: View, head: Fields) -> bytes:
    """~/<camera>/depth: 32FC1 metres along the optical axis, 0 = unknown."""
    return _image(view.depth.astype("<f4", copy=False), "32FC1", head)


def instance_image(view: View, head: Fields) -> bytes:
    """~/<camera>/instances: 16UC1 person id, 0 = nobody."""
    return _image(view.instances.astype("<u2", copy=False), "16UC1", head)


def densepose_image(view: View, head: Fields) -> bytes:
    """~/<camera>/densepose: rgb8 place on the body, 1 .. 255 for 0 .. 1 per axis; black off it."""
    on_body = np.isfinite(view.densepose).all(-1, keepdims=True)
    places = 1 + 254 * np.clip(np.where(on_body, view.densepose, 0), 0, 1)
    return _image(np.where(on_body, np.rint(places), 0).astype(np.uint8), "rgb8", head)


def _image(pixels: NDArray, encoding: str, head: Fields) -> bytes:
    height, width = pixels.shape[:2]
    return pack(
        Image,
        {
            "header": head,
            "height": height,
            "width": width,
            "encoding": encoding,
            "step": pixels.nbytes // height,
            "data": np.ascontiguousarray(pixels).view(np.uint8),
        },
    )


def grid_camera_info(view: View, head: Fields) -> bytes:
    """~/<camera>/camera_info: of depth and instances beside it (undistorted, the output grid)."""
    height, width = view.depth.shape
    return pack(
        CameraInfo,
        {
            "header": head,
            "height": height,
            "width": width,
            "distortion_model": "plumb_bob",
            "d": np.zeros(5),
            "k": view.K.ravel().tolist(),
            "r": np.eye(3).ravel().tolist(),
            "p": np.hstack([view.K, np.zeros((3, 1))]).ravel().tolist(),
        },
    )


def colour(person_id: int, alpha: float = 1.0) -> tuple[float, float, float, float]:
    """Red, green, blue and alpha: the same for the same id, here and in exported scenes."""
    red, green, blue = (person_colors(np.array(person_id)) / 255).tolist()
    return red, green, blue, alpha


def markers(
    scene: Scene,
    head: Fields,
    lifetime: float,
    vertices: dict[int, F32],
    faces: NDArray[np.int64],
    shown: set[int],
) -> bytes:
    """~/humans/markers: skeleton, body, ellipsoid of the place and id per person.

    Namespaces are ``h<id>/<what>``.

    Args:
        lifetime: Seconds until viewers drop a marker that is not renewed.
        vertices, faces: Posed bodies by person id.
        shown: Ids of the last message; those gone are deleted, and the set is brought up to date.
    """
    people = present(scene.people)
    ids = {person.id for person in people}
    duration = divmod(round(lifetime * NANOSECONDS), NANOSECONDS)

    def marker(person: int, what: str, **fields: Any) -> Fields:
        alpha = {"body": 0.6, "uncertainty": 0.3}.get(what, 1.0)
        return {
            "header": head,
            "ns": f"{body_id(person)}/{what}",
            "type": _MARKERS[what],
            "lifetime": duration,
            "color": colour(person, alpha),
            **fields,
        }

    made = [
        marker(gone, what, action=Marker.DELETE)
        for gone in sorted(shown - ids)
        for what in _MARKERS
    ]
    for person in people:
        if len(person.joints) == len(PARENTS):
            bones = person.joints[_BONES]
            made.append(marker(person.id, "skeleton", scale=(0.03, 0.0, 0.0), points=bones))
        if person.id in vertices:
            corners = vertices[person.id][faces.ravel()]
            made.append(marker(person.id, "body", scale=(1.0, 1.0, 1.0), points=corners))
        x, y, z = person.position.tolist()
        variances, axes = np.linalg.eigh(person.covariance)
        made.append(
            marker(
                person.id,
                "uncertainty",  # an ellipsoid of one deviation of the place
                pose=(x, y, z, *quaternion(axes * np.sign(np.linalg.det(axes)))),
                scale=(2 * np.sqrt(np.maximum(variances, 1e-6))).tolist(),
            )
        )
        top = float(person.joints[:, 2].max()) + 0.3 if len(person.joints) else z
        above = (x, y, top, 0.0, 0.0, 0.0, 1.0)
        text = f"{person.id}"
        made.append(marker(person.id, "id", pose=above, scale=(0.0, 0.0, 0.2), text=text))
    shown.clear()
    shown.update(ids)
    return pack(MarkerArray, {"markers": made})


_BONES = [j for child, parent in enumerate(PARENTS) if parent >= 0 for j in (parent, child)]
_MARKERS = {
    "skeleton": Marker.LINE_LIST,
    "body": Marker.TRIANGLE_LIST,
    "uncertainty": Marker.SPHERE,
    "id": Marker.TEXT_VIEW_FACING,
}
