"""Cameras as the node sees them: subscriptions, state, intrinsics, known poses, frames."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from hamst3r.alignment.calibration import CameraCalibration
from hamst3r.frames import Frame, FrameSet
from hamst3r_ros import qos
from hamst3r_ros.assembler import MessageSet, Pace
from hamst3r_ros.decoding import ImageError, decode_compressed, decode_image
from hamst3r_ros.diagnostics import Problems
from hamst3r_ros.headers import NANOSECONDS, to_nanoseconds, type_name
from hamst3r_ros.intrinsics import Intrinsics, IntrinsicsError, from_camera_info
from hamst3r_ros.parameter import Values
from hamst3r_ros.tf import FrameBuffer

F64 = NDArray[np.float64]

# Seconds for which a camera's first images wait for its frame on TF: poses that are known from
# the first frame set on spare the world a jump.
TF_PATIENCE = 2.0
# Period in seconds taken for that of a camera of which only one image came: many start slowly.
FIRST_PERIOD = 2.0
RATE_WINDOW, ARRIVALS = 10.0, 1000  # seconds, and images, that a camera's rate is of


@dataclass(frozen=True)
class Source:
    """Where a camera's messages come from.

    Attributes:
        name: Of the camera.
        image, info: Topics.
        compressed: Whether images are CompressedImage.
        offset: Added to the stamps before images are matched with those of other cameras, ns.
    """

    name: str
    image: str
    info: str
    compressed: bool = False
    offset: int = 0


class CameraInput:
    """One camera: its newest intrinsics and how it is doing.

    The executor's thread calls the callbacks, the worker :meth:`frame`.

    Attributes:
        received, rejected: Images that came, and those of them that could not be used.
        incompatible: Whether there are publishers, but none whose quality of service matches.
        known_by: Where intrinsics and pose of the last frame came from: "file", "camera_info" or
            "tf"; "estimated" where nobody knows them, "" before the first frame.
    """

    def __init__(
        self, name: str, problems: Problems, clock: Callable[[], float], offset: int = 0
    ) -> None:
        self.name = name
        self.offset = offset
        self.received = 0
        self.rejected = 0
        self.known_by = ("", "")
        self._pace = Pace()
        self._arrivals: deque[float] = deque(maxlen=ARRIVALS)
        self.first_arrival: float | None = None
        self.last_stamp = 0
        self._problems = problems
        self._clock = clock
        self._info: CameraInfo | None = None
        self._parsed: tuple[CameraInfo, Intrinsics | None] | None = None
        self._rejected_why = ""
        self.incompatible = False

    def arrived(self, stamp: int) -> None:
        """An image came."""
        self.received += 1
        now = self._clock()
        self._pace.add(now)
        self._arrivals.append(now)
        if self.first_arrival is None:
            self.first_arrival = now
        self.last_stamp = stamp
        self.incompatible = False

    def info_arrived(self, message: CameraInfo) -> None:
        """Intrinsics came; they are read when the next image needs them."""
        self._info = message

    def state(self, max_age: float) -> str:
        """active | waiting_image | stale | rejected:<why> | qos_incompatible."""
        age = self.age()
        if age is None:
            return "qos_incompatible" if self.incompatible else "waiting_image"
        period = self._pace.period
        if age > max_age + (FIRST_PERIOD if period is None else period):
            return "stale"
        return f"rejected:{self._rejected_why}" if self._rejected_why else "active"

    def rate(self) -> float:
        """Images per second, lately."""
        times = [at for at in tuple(self._arrivals) if at >= self._clock() - RATE_WINDOW]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0

    def age(self) -> float | None:
        """Seconds since the last image, None before the first."""
        last = self._pace.last
        return None if last is None else self._clock() - last

    def frame(
        self,
        message: Image | CompressedImage,
        known: CameraCalibration | None,
        pose: Callable[[str, int], F64 | None],
    ) -> Frame | None:
        """The frame of a message, None if it cannot be used (and why is told).

        Args:
            known: Of the calibration file; its intrinsics go before those of camera_info.
            pose: (frame id, stamp) -> T_rig_cam, None if unknown.
        """
        try:
            if isinstance(message, CompressedImage):
                image = decode_compressed(message)
            else:
                image = decode_image(message)
        except ImageError as error:
            self.rejected += 1
            self._rejected_why = str(error)
            self._problems.add("cameras", f"{self.name} image", f"{self.name}: rejected: {error}")
            return None
        self._rejected_why = ""
        self._problems.remove("cameras", f"{self.name} image")
        intrinsics = self._intrinsics(known, image.shape[1], image.shape[0])
        stamp = to_nanoseconds(message.header.stamp)
        frame_id = message.header.frame_id
        T_rig_cam = known.T_rig_cam if known is not None else pose(frame_id, stamp)
        by = "file" if known is not None else "tf"
        self.known_by = (
            "estimated" if intrinsics is None else intrinsics.source,
            "estimated" if T_rig_cam is None else by,
        )
        return Frame(
            camera=self.name,
            stamp=stamp,
            image=image,
            K=None if intrinsics is None else intrinsics.K,
            distortion=None if intrinsics is None else intrinsics.distortion,
            T_rig_cam=T_rig_cam,
            frame_id=frame_id,
            K_std=0.0 if intrinsics is None else intrinsics.focal_std,
            T_rig_cam_covariance=None if known is None else known.covariance,
        )

    def _intrinsics(
        self, known: CameraCalibration | None, width: int, height: int
    ) -> Intrinsics | None:
        wrong = ""
        if known is not None:
            own = Intrinsics(
                known.K, known.distortion, known.width, known.height, "file", known.focal_std
            )
            try:
                return self._right(own.scaled(width, height))
            except IntrinsicsError as error:
                wrong = f"{self.name}: calibration file: {error}"
        info = self._info
        try:
            if info is not None:
                if self._parsed is None or self._parsed[0] is not info:
                    self._parsed = (info, from_camera_info(info))
                intrinsics = self._parsed[1]
                if intrinsics is not None:
                    scaled = intrinsics.scaled(width, height)
                    return scaled if wrong else self._right(scaled)
        except IntrinsicsError as error:
            wrong = wrong or f"{self.name}: {error}"
        finally:
            if wrong:
                self._problems.add("cameras", f"{self.name} intrinsics", wrong)
        if not wrong:
            self._problems.remove("cameras", f"{self.name} intrinsics")
        return None

    def _right(self, intrinsics: Intrinsics) -> Intrinsics:
        self._problems.remove("cameras", f"{self.name} intrinsics")
        return intrinsics


@dataclass(frozen=True, eq=False)
class Extrinsics:
    """What is known of the cameras' poses.

    Attributes:
        file: camera -> calibration, of ``world.calibration_file``; empty otherwise.
        frames: The TF tree, None if it is not asked.
        rig_frame: Frame in which TF is asked; "" = it is not.
    """

    file: dict[str, CameraCalibration]
    frames: FrameBuffer | None
    rig_frame: str

    def pose(self, frame_id: str, stamp: int) -> F64 | None:
        """T_rig_cam from TF, None if it is not known there."""
        if self.frames is None or not self.rig_frame:
            return None
        return self.frames.lookup(self.rig_frame, frame_id, stamp)


class Cameras:
    """All cameras of the node, subscribed to while it is active.

    Args:
        deliver: Called in the executor's thread with (camera, stamp in ns, message); the stamp is
            the message's and the camera's offset.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        node: Node,
        sources: Sequence[Source],
        reliability: str,
        problems: Problems,
        deliver: Callable[[str, int, Image | CompressedImage], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.inputs = {s.name: CameraInput(s.name, problems, clock, s.offset) for s in sources}
        self.since = clock()
        self._clock = clock
        self._problems = problems
        self._node = node
        self._deliver = deliver
        self._kinds = {s.name: CompressedImage if s.compressed else Image for s in sources}
        self._requested = qos.image_input(reliability)
        self.topics = {s.name: node.resolve_topic_name(s.image) for s in sources}
        self._subscriptions = []
        for source in sources:
            camera = self.inputs[source.name]
            self._subscriptions.append(
                node.create_subscription(
                    self._kinds[source.name],
                    source.image,
                    partial(self._arrived, camera),
                    self._requested,
                    event_callbacks=qos.SILENT_SUBSCRIPTION,
                )
            )
            self._subscriptions.append(
                node.create_subscription(
                    CameraInfo,
                    source.info,
                    camera.info_arrived,
                    qos.image_input("best_effort"),
                    event_callbacks=qos.SILENT_SUBSCRIPTION,
                )
            )

    def _arrived(self, camera: CameraInput, message: Image | CompressedImage) -> None:
        stamp = to_nanoseconds(message.header.stamp) + camera.offset
        camera.arrived(stamp)
        self._deliver(camera.name, stamp, message)

    def destroy(self) -> None:
        """End all subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def frame_set(self, messages: MessageSet, extrinsics: Extrinsics) -> FrameSet | None:
        """Decode a set; None if no image of it can be used."""
        frames = []
        for name, message in messages.messages.items():
            known = extrinsics.file.get(name)
            frame = self.inputs[name].frame(message, known, extrinsics.pose)
            if frame is not None:
                frames.append(frame)
        return FrameSet(messages.stamp, tuple(frames)) if frames else None

    def placed(self, frames: FrameSet, extrinsics: Extrinsics, source: str) -> bool:
        """Tell which known poses are missing; whether to go on without them."""
        patient = False
        for frame in frames.frames:
            subject = f"{frame.camera} pose"
            if source == "none" or frame.T_rig_cam is not None:
                self._problems.remove("world", subject)
                continue
            first = self.inputs[frame.camera].first_arrival
            if source == "tf" and first is not None and self._clock() - first < TF_PATIENCE:
                patient = True
                continue
            where = (
                f"no transform from '{frame.frame_id}' to '{extrinsics.rig_frame}' on TF"
                if source == "tf"
                else "not in the calibration file"
            )
            self._problems.add(
                "world", subject, f"{frame.camera}: {where}; its pose is estimated instead"
            )
        return not patient

    def watch(self, max_age: float) -> dict[str, str]:
        """State of each camera now; what is wrong is told."""
        for name, camera in self.inputs.items():
            if camera.first_arrival is None:
                camera.incompatible = self._incompatible(name)
        states = {name: camera.state(max_age) for name, camera in self.inputs.items()}
        for name, state in states.items():
            topic = self.topics[name]
            if state == "waiting_image":
                if self._clock() - self.since < max(2.0, max_age):
                    continue  # discovery takes a moment
                text = f"{name}: no image yet on {topic}: {self._why_silent(name)}"
            elif state == "qos_incompatible":
                text = (
                    f"{name}: the publisher of {topic} offers another quality of service; set "
                    "image_reliability to best_effort"
                )
            elif state == "stale":
                text = f"{name}: no image on {topic} any more; going on without it"
            else:
                self._problems.remove("cameras", f"{name} silent")
                continue
            self._problems.add("cameras", f"{name} silent", text)
        return states

    def _incompatible(self, name: str) -> bool:
        offered = [
            info.qos_profile
            for info in self._node.get_publishers_info_by_topic(self.topics[name])
            if info.topic_type == type_name(self._kinds[name])
        ]
        return bool(offered) and all(qos.mismatch(own, self._requested) for own in offered)

    def _why_silent(self, name: str) -> str:
        expected = type_name(self._kinds[name])
        found = {
            info.topic_type for info in self._node.get_publishers_info_by_topic(self.topics[name])
        }
        if not found:
            return "nobody publishes it; check the camera's driver and the parameter 'cameras'"
        if expected not in found:
            return (
                f"it has a publisher of {', '.join(sorted(found))}, expected {expected}; check "
                "the parameters 'transport' and 'image_topics'"
            )
        return "it has a publisher, but it is silent"


def sources(values: Values) -> list[Source]:
    """Where each camera's messages come from."""
    compressed = values["transport"] == "compressed"
    suffix = "image_raw/compressed" if compressed else "image_raw"
    names, offsets = values["cameras"], values["stamp_offsets"]
    images = values["image_topics"] or [f"{name}/{suffix}" for name in names]
    infos = values["info_topics"] or [f"{name}/camera_info" for name in names]
    if not any(offsets):
        offsets = [0.0] * len(names)
    return [
        Source(name, image, info, compressed, round(offset * NANOSECONDS))
        for name, image, info, offset in zip(names, images, infos, offsets, strict=True)
    ]
