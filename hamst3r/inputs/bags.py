"""ROS bags (rosbag2 in sqlite3 or mcap, and rosbag1), read by ``rosbags``: no ROS is needed.

What is taken from a bag: images (``sensor_msgs/Image`` and ``CompressedImage``), the
``camera_info`` beside each image topic, and, where ``/tf_static`` connects all the cameras, their
places on the rig.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.alignment.calibration import CameraCalibration
from hamst3r.frames import Frame, FrameSet
from hamst3r.geometry import make_T
from hamst3r.inputs.photos import VIDEO_STEP, assumed_intrinsics
from hamst3r.inputs.source import (
    NANOSECONDS,
    InputError,
    InputOptions,
    Original,
    Report,
    check_size,
    reduced_frame,
    thinned,
)

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
INFO_TYPE, TF_TYPE = "sensor_msgs/msg/CameraInfo", "tf2_msgs/msg/TFMessage"
# Distortion models that OpenCV's pinhole camera has.
PINHOLE_MODELS = ("plumb_bob", "rational_polynomial", "")
# Images of one set are at most so far apart, or half a period where that is more.
LEAST_SLOP = 20_000_000

F64 = NDArray[np.float64]


def is_bag(path: Path) -> bool:
    """Whether this looks like a bag: a file of that kind, or a folder with ``metadata.yaml``."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(path.glob("*.mcap"))
    return path.suffix.lower() in (".mcap", ".db3", ".bag")


class Bag:
    """The images of a bag.

    One image topic is taken as a moving camera, whose images make one frame set (like a video);
    several are the cameras of a rig, with a frame set per image of the first.
    """

    def __init__(self, path: Path, options: InputOptions, report: Report) -> None:
        # The database of a bag may be named instead of its folder.
        inside = path.suffix.lower() == ".db3" and (path.parent / "metadata.yaml").is_file()
        self._path = path.parent if inside else path
        self._options, self._report = options, report
        self.title = str(path)
        self.originals: dict[str, Original] = {}
        with _open(self._path) as reader:
            topics = [c.topic for c in reader.connections if c.msgtype in IMAGE_TYPES]
            self._names = _camera_names(self._chosen(topics))
            self._known = self._calibration(reader)
            times: dict[str, list[int]] = {topic: [] for topic in self._names}
            wanted = [c for c in reader.connections if c.topic in self._names]
            for connection, time, _ in reader.messages(connections=wanted):
                times[connection.topic].append(time)
        empty = [topic for topic, stamps in times.items() if not stamps]
        if len(empty) == len(times):
            raise InputError(f"{path}: its image topics ({', '.join(times)}) hold no image")
        for topic in empty:
            report(f"{path}: topic {topic} holds no image")
            del times[topic], self._names[topic]
        self.ordered = len(times) == 1
        self._plan = self._moving(times) if self.ordered else self._rig(times)
        self.sets = 1 if self.ordered else len(self._plan)

    def frame_sets(self) -> Iterator[FrameSet]:
        """One set of all images of a moving camera; of a rig one per time."""
        if not self.ordered:
            yield from self._read()
            return
        frames = [replaced for part in self._read() for replaced in part.frames]
        yield FrameSet(0, tuple(frames))

    def _chosen(self, topics: list[str]) -> list[str]:
        topics = list(dict.fromkeys(topics))
        if not topics:
            raise InputError(
                f"{self._path}: the bag has no image topic ({' or '.join(IMAGE_TYPES)})"
            )
        unknown = sorted(set(self._options.topics) - set(topics))
        if unknown:
            raise InputError(
                f"{self._path}: no image topic {', '.join(unknown)}; it has {', '.join(topics)}"
            )
        if self._options.topics:
            return list(self._options.topics)
        # Of an image and the same compressed the former is enough.
        return [t for t in topics if t.removesuffix("/compressed") not in topics or
                not t.endswith("/compressed")]  # fmt: skip

    def _moving(self, times: dict[str, list[int]]) -> list[dict[str, int]]:
        """Topic -> time of the images to read, in order."""
        ((topic, stamps),) = times.items()
        step, due, kept = self._options.step or VIDEO_STEP, stamps[0], []
        for stamp in stamps:
            if stamp >= due:
                kept.append(stamp)
                due = max(due + step, stamp)
        chosen = thinned(len(kept), self._options.max_images)
        return [{topic: kept[k]} for k in chosen]

    def _rig(self, times: dict[str, list[int]]) -> list[dict[str, int]]:
        first, *others = times
        reference = np.array(times[first])
        period = int(np.median(np.diff(reference))) if len(reference) > 1 else NANOSECONDS
        slop = max(LEAST_SLOP, period // 2)
        sets: list[dict[str, int]] = []
        due = int(reference[0])
        for time in reference.tolist():
            if time < due:
                continue
            due = max(due + (self._options.step or 0), time)
            one = {first: time}
            for topic in others:
                stamps = np.array(times[topic])
                nearest = int(stamps[np.abs(stamps - time).argmin()])
                if abs(nearest - time) <= slop:
                    one[topic] = nearest
            sets.append(one)
            if self._options.sets and len(sets) == self._options.sets:
                break
        return sets

    def _read(self) -> Iterator[FrameSet]:
        """The planned sets, in the order in which they are complete."""
        waiting: dict[tuple[str, int], list[int]] = {}
        for index, one in enumerate(self._plan):
            for key in one.items():
                waiting.setdefault(key, []).append(index)
        parts: list[dict[str, Frame]] = [{} for _ in self._plan]
        missing = [len(one) for one in self._plan]
        with _open(self._path) as reader:
            wanted = [c for c in reader.connections if c.topic in self._names]
            for connection, time, raw in reader.messages(connections=wanted):
                indices = waiting.pop((connection.topic, time), [])
                frame = self._frame(reader, connection, raw, time) if indices else None
                for index in indices:
                    missing[index] -= 1
                    if frame is not None:
                        parts[index][connection.topic] = frame
                    if not missing[index] and parts[index]:
                        order = [parts[index][t] for t in self._plan[index] if t in parts[index]]
                        yield FrameSet(order[0].stamp, tuple(order))
                        parts[index] = {}
                if not waiting:
                    return

    def _frame(self, reader: Any, connection: Any, raw: Any, time: int) -> Frame | None:
        from rosbags.image import message_to_cvimage

        where = f"{self._path}: topic {connection.topic}"
        try:
            message = reader.deserialize(raw, connection.msgtype)
            rgb = np.array(message_to_cvimage(message, "rgb8"), np.uint8)
        except Exception as error:  # rosbags asserts, and cv2 has errors of its own
            why = str(error).split("\n")[0] or "it is broken"
            self._report(f"{where}: an image cannot be decoded ({why}); left out")
            return None
        height, width = rgb.shape[:2]
        check_size(where, width, height)
        header = message.header.stamp
        stamp = header.sec * NANOSECONDS + header.nanosec or time
        name = self._names[connection.topic]
        if self.ordered:
            name = f"{name}_{stamp // 1_000_000}"
        self.originals[name] = Original(f"{self._path}: {connection.topic}", width, height)
        known = self._known.get(connection.topic)
        if known is not None and known.width and (known.width, known.height) != (width, height):
            self._report(f"{where}: camera_info is for another size of image; it is not used")
            known = None
        K = assumed_intrinsics(width, height, self._options)
        frame = reduced_frame(name, stamp, rgb, self._options.side, K, known)
        if known is not None and not self._placed:
            return Frame(name, stamp, frame.image, frame.K, frame.distortion)
        return frame

    def _calibration(self, reader: Any) -> dict[str, CameraCalibration]:
        """Topic -> what ``camera_info`` and ``/tf_static`` say of its camera."""
        infos: dict[str, Any] = {}
        transforms: dict[str, tuple[str, F64]] = {}
        wanted = [
            c
            for c in reader.connections
            if c.msgtype == INFO_TYPE or (c.msgtype == TF_TYPE and c.topic.endswith("tf_static"))
        ]
        for connection, _, raw in reader.messages(connections=wanted) if wanted else ():
            if connection.msgtype == INFO_TYPE:
                if connection.topic not in infos:
                    infos[connection.topic] = reader.deserialize(raw, INFO_TYPE)
                continue
            for t in reader.deserialize(raw, TF_TYPE).transforms:
                q, p = t.transform.rotation, t.transform.translation
                turn = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
                transforms[t.child_frame_id] = t.header.frame_id, make_T(turn, [p.x, p.y, p.z])
        found, frames = {}, {}
        for topic in self._names:
            info = infos.get(_info_topic(topic))
            if info is not None:
                frames[topic] = info.header.frame_id
                calibration = self._intrinsics(topic, info)
                if calibration is not None:
                    found[topic] = calibration
        poses = _rig_poses(frames, transforms) if len(frames) == len(self._names) > 1 else None
        self._placed = poses is not None and len(found) == len(self._names)
        if not self._placed or poses is None:
            return found
        return {
            topic: CameraCalibration(c.K, c.distortion, poses[topic], c.width, c.height)
            for topic, c in found.items()
        }

    def _intrinsics(self, topic: str, info: Any) -> CameraCalibration | None:
        K = np.array(info.k, float).reshape(3, 3)
        distortion = np.array(info.d, float)
        if "rect" in PurePosixPath(topic.removesuffix("/compressed")).name:
            K, distortion = np.array(info.p, float).reshape(3, 4)[:, :3], np.zeros(0)
        if not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0):
            return None  # the ROS way to say "not calibrated"
        if info.distortion_model not in PINHOLE_MODELS or len(distortion) not in (0, 4, 5, 8):
            self._report(
                f"{self._path}: topic {topic}: distortion model '{info.distortion_model}' is not "
                "supported; its camera_info is not used"
            )
            return None
        return CameraCalibration(K, distortion, np.eye(4), info.width, info.height)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.image import message_to_cvimage  # noqa: F401
        from rosbags.rosbag2 import ReaderError
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        raise InputError(
            f"{path}: bags need rosbags and rosbags-image; install them: "
            "pip install 'hamst3r[bags]'"
        ) from None
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
            yield reader
    except InputError:
        raise
    except (AnyReaderError, ReaderError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as a bag: {error}") from error


def _camera_names(topics: list[str]) -> dict[str, str]:
    """Topic -> the part of it that tells the cameras apart."""
    parts = {t: [p for p in t.removesuffix("/compressed").split("/") if p] for t in topics}
    short = {t: "_".join(p[:-1] or p) for t, p in parts.items()}
    if len(set(short.values())) == len(topics):
        return short
    return {t: "_".join(p) for t, p in parts.items()}


def _info_topic(topic: str) -> str:
    return str(PurePosixPath(topic.removesuffix("/compressed")).parent / "camera_info")


def _rig_poses(
    frames: dict[str, str], transforms: dict[str, tuple[str, F64]]
) -> dict[str, F64] | None:
    """T_rig_cam by topic in the nearest common ancestor of all; None if they do not connect."""
    chains = {}
    for topic, frame in frames.items():
        chain, T = {frame: np.eye(4)}, np.eye(4)
        while frame in transforms and transforms[frame][0] not in chain:
            frame, T_parent = transforms[frame]
            T = T_parent @ T
            chain[frame] = T
        chains[topic] = chain
    first, *others = chains.values()
    common = next((f for f in first if all(f in chain for chain in others)), None)
    if common is None:
        return None
    poses = {topic: chain[common] for topic, chain in chains.items()}
    centres = np.array([T[:3, 3] for T in poses.values()])
    # A rig of optical frames all at one place was never measured.
    return poses if np.ptp(centres, axis=0).max() > 0 else None
