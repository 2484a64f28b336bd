"""What a network reaches on a real recording of one person with reference joints.

A recording is a folder that :mod:`hamst3r.recording` reads, with ``calibration.json`` and
``reference_joints.npz``: ``joints`` (T, J, 3) metres in the calibration's world, row t for the t-th
image of every camera, NaN where unknown; ``names`` (J,) of which those in :data:`SHARED` are used.

Among the people reported, the person of the reference is whose masks hold the most of the joints
(projected into all views), at least a quarter. Errors are those of this person; frame sets without
one have none, but lower the share of matches beside it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.calibration import CameraCalibration
from hamst3r.evaluation import metrics
from hamst3r.evaluation.people import People, people_of
from hamst3r.evaluation.poses import CAMERA_FIGURES, camera_poses, score_cameras
from hamst3r.evaluation.samples import Figure, Samples, mean, median
from hamst3r.frames import Frame, FrameSet
from hamst3r.geometry import invert, project, transform
from hamst3r.people.body import JOINT_NAMES
from hamst3r.reconstructor import Engine, Reconstructor, ReconstructorConfig
from hamst3r.recording import RecordingError, open_recording
from hamst3r.scene import Scene

F64 = NDArray[np.float64]

# Names of joints that both skeletons have, in the reference's (OpenPose's) and the body's order.
# Neck, head and toes are left out: the two mean different places by these names.
SHARED = {
    f"{side[0].upper()}{part.capitalize()}": JOINT_NAMES.index(f"{side}_{part}")
    for part in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
    for side in ("left", "right")
}
_FOUND = 0.5  # intersection over union of a mask and the silhouette
# Half-widths in metres, and the head's reach above the shoulders as a share of the torso. Set on
# true masks of 150 generated people (seeds 950000 to 950059, whole in the image, partly hidden):
# of these 94 % have an intersection over union above 0.5, so that is what perfect masks reach.
_LIMB, _TORSO, _SKULL, _HEAD = 0.06, 0.09, 0.10, 0.45
_LIMBS = [
    (f"{side}{a}", f"{side}{b}")
    for side in "LR"
    for a, b in (("Hip", "Knee"), ("Knee", "Ankle"), ("Shoulder", "Elbow"), ("Elbow", "Wrist"))
]
_TRUNK = ("LShoulder", "RShoulder", "RHip", "LHip")
_MIN_JOINTS = 6  # in an image, for the person to be expected there
_NEAR = 0.2  # metres; with a joint nearer to the camera than this nothing is expected there
_MIN_HELD = 0.25  # share of the joints in a person's masks; less is not the same person


class ReferenceJointsError(ValueError):
    """A reference that cannot be used; the message names the file and what is wrong."""


@dataclass(frozen=True, eq=False)
class Reference:
    """True joints: (T, 12, 3) metres, in the order of :data:`SHARED`; all 12 known, or all NaN."""

    joints: F64

    def at(self, index: int) -> F64 | None:
        """(12, 3) of the index-th images, None where there are none."""
        if index >= len(self.joints) or not np.isfinite(self.joints[index]).all():
            return None
        return self.joints[index]


def load_reference(path: Path) -> Reference:
    """Read ``reference_joints.npz``.

    Raises:
        ReferenceJointsError: The file is missing, not an npz, or lacks an array or a joint.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            joints, names = file["joints"].astype(float), [str(name) for name in file["names"]]
    except (OSError, ValueError, KeyError) as error:
        raise ReferenceJointsError(
            f"{path}: expected an npz with 'joints' (T, J, 3) in metres and 'names' (J,): {error}"
        ) from error
    missing = [name for name in SHARED if name not in names]
    if missing:
        raise ReferenceJointsError(
            f"{path}: joints {', '.join(missing)} are missing, it has {names}"
        )
    if joints.ndim != 3 or joints.shape[1:] != (len(names), 3):
        raise ReferenceJointsError(
            f"{path}: 'joints' needs shape (T, {len(names)}, 3), got {joints.shape}"
        )
    return Reference(joints[:, [names.index(name) for name in SHARED]])


@dataclass(frozen=True, eq=False)
class SetResult:
    """One frame set and what was made of it.

    Attributes:
        index: Of its images in their videos. frames: As delivered, with their calibration.
        reference: (12, 3) true joints, None if unknown.
        calibrated, uncalibrated: Reconstructed with and without the calibration.
        found: Camera -> whether the person was found there, of the cameras that see the person.
        matched: (12, 3) joints of the matched person, None if nobody matches.
        samples: All measurements.
    """

    index: int
    frames: FrameSet
    reference: F64 | None
    calibrated: Scene
    uncalibrated: Scene
    found: dict[str, bool]
    matched: F64 | None
    samples: Samples


@dataclass
class RecordingEvaluation:
    """Evaluates an engine on recordings.

    Attributes:
        engine: Runs the network. config: Of the reconstruction.
        report: Called with a sentence about what turned out unreadable.
        clock: Seconds, monotonic.
    """

    engine: Engine
    config: ReconstructorConfig | None = None
    report: Callable[[str], None] = lambda _: None
    clock: Callable[[], float] = time.perf_counter
    _last_id: int | None = field(default=None, init=False)

    def run(self, folder: Path, frame_sets: int | None = None) -> Iterator[SetResult]:
        """Evaluate a recording, set by set.

        Args:
            frame_sets: Use no more than that many, evenly spread over the recording.

        Raises:
            RecordingError, CalibrationError, ReferenceJointsError: The folder cannot be used.
        """
        recording = open_recording(folder, report=self.report)
        unknown = [name for name, camera in recording.cameras.items() if camera is None]
        if unknown:
            raise RecordingError(
                f"{folder}: cameras {', '.join(unknown)} have no calibration; errors in metres "
                "need a calibration.json"
            )
        cameras = {n: camera for n, camera in recording.cameras.items() if camera is not None}
        reference = load_reference(Path(folder) / "reference_joints.npz")
        count = min(frame_sets or recording.length, recording.length)
        chosen = set(np.linspace(0, recording.length - 1, count).round().astype(int).tolist())
        reconstructors = [Reconstructor(self.engine, self.config) for _ in range(2)]
        self._last_id = None
        try:
            for image_set in recording.play():
                index = round(image_set.time / recording.step)
                if index in chosen and image_set.images.keys() == cameras.keys():
                    frames = _frames(image_set.time, image_set.images, cameras)
                    yield self._score(index, frames, cameras, reference.at(index), *reconstructors)
        finally:
            recording.close()

    def _score(
        self,
        index: int,
        frames: FrameSet,
        cameras: dict[str, CameraCalibration],
        joints: F64 | None,
        with_calibration: Reconstructor,
        without: Reconstructor,
    ) -> SetResult:
        samples = Samples()
        start = self.clock()
        calibrated = with_calibration.push(frames)
        samples.add("seconds", self.clock() - start)
        images = (Frame(f.camera, f.stamp, f.image) for f in frames.frames)
        uncalibrated = without.push(FrameSet(frames.stamp, tuple(images)))
        poses = {name: camera.T_rig_cam for name, camera in cameras.items()}
        score_cameras(samples, uncalibrated, poses)
        people = people_of(calibrated)
        samples.add("people", len(people))
        found: dict[str, bool] = {}
        matched = None
        if joints is not None:
            outlines = _outlines(calibrated, cameras, joints)
            found = {name: line.found(calibrated) for name, line in outlines.items()}
            samples.add("found", *found.values())
            best = _score_person(samples, people, calibrated, outlines, joints, "calibrated")
            if best is not None:
                matched = people.joints[best][list(SHARED.values())]
                identity = int(people.ids[best])
                samples.add("switch", self._last_id is not None and identity != self._last_id)
                self._last_id = identity
            if len(uncalibrated.cameras) >= 2:
                T = metrics.align_by_centres(*camera_poses(uncalibrated, poses))
                moved = people_of(uncalibrated).moved(T)
                _score_person(samples, moved, uncalibrated, outlines, joints, "uncalibrated")
        return SetResult(index, frames, joints, calibrated, uncalibrated, found, matched, samples)


def _frames(
    stamp: int, images: dict[str, NDArray[np.uint8]], cameras: dict[str, CameraCalibration]
) -> FrameSet:
    frames = (
        Frame(
            name,
            stamp,
            images[name],
            camera.K,
            camera.distortion,
            camera.T_rig_cam,
            K_std=camera.focal_std,
            T_rig_cam_covariance=camera.covariance,
        )
        for name, camera in cameras.items()
    )
    return FrameSet(stamp, tuple(frames))


@dataclass(frozen=True, eq=False)
class _Outline:
    """The true person in one view, on its grid.

    Attributes:
        camera: Which. joints: (n, 2) pixels of the joints inside.
        silhouette: (gh, gw) roughly the person's mask, drawn around the joints.
    """

    camera: str
    joints: NDArray[np.int64]
    silhouette: NDArray[np.bool_]

    def held(self, scene: Scene) -> dict[int, int]:
        """Person id -> number of joints in that person's mask, in this view of a scene."""
        columns, rows = self.joints.T
        ids, counts = np.unique(self._instances(scene)[rows, columns], return_counts=True)
        return {int(i): int(n) for i, n in zip(ids, counts, strict=True) if i > 0}

    def found(self, scene: Scene) -> bool:
        """Whether a person's mask and the silhouette have an IoU above 0.5."""
        true = self.silhouette.astype(np.int64)
        _, _, counts = metrics.overlaps(self._instances(scene), true)
        return bool((metrics.intersections_over_unions(counts) > _FOUND).any())

    def _instances(self, scene: Scene) -> NDArray[np.uint16]:
        nobody = np.zeros(self.silhouette.shape, np.uint16)
        return next((v.instances for v in scene.views if v.camera == self.camera), nobody)


def _outlines(
    scene: Scene, cameras: dict[str, CameraCalibration], joints: F64
) -> dict[str, _Outline]:
    """Of the cameras that show at least half of the joints; ``scene`` has the calibrated grids."""
    outlines = {}
    for view in scene.views:
        local = transform(invert(cameras[view.camera].T_rig_cam), joints)
        height, width = view.instances.shape
        pixels = project(local, view.K)
        inside = ((pixels > -0.5) & (pixels < [width - 0.5, height - 0.5])).all(1)
        if inside.sum() < _MIN_JOINTS or local[:, 2].min() < _NEAR:
            continue
        silhouette = draw_silhouette(local, view.K, (height, width))
        outlines[view.camera] = _Outline(
            view.camera, pixels[inside].round().astype(int), silhouette
        )
    return outlines


def draw_silhouette(joints: F64, K: F64, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(h, w) roughly the mask of a person with joints (12, 3) in the camera, all in front of it."""
    mask = np.zeros(shape, np.uint8)
    at = dict(zip(SHARED, joints, strict=True))

    def stroke(start: F64, end: F64, half_width: float) -> None:
        ends = project(np.stack([start, end]), K).round().astype(int).tolist()
        thickness = 2 * half_width * K[0, 0] / ((start[2] + end[2]) / 2)
        cv2.line(mask, ends[0], ends[1], 1, max(1, round(thickness)))

    for a, b in _LIMBS:
        stroke(at[a], at[b], _LIMB)
    corners = np.stack([at[name] for name in _TRUNK])
    cv2.fillConvexPoly(mask, cv2.convexHull(project(corners, K).round().astype(np.int32)), 1)
    for k in range(len(corners)):
        stroke(corners[k], corners[k - 1], _TORSO)
    shoulders, hips = corners[:2].mean(0), corners[2:].mean(0)
    stroke(shoulders, shoulders + _HEAD * (shoulders - hips), _SKULL)
    return mask > 0


def _score_person(
    samples: Samples,
    people: People,
    scene: Scene,
    outlines: dict[str, _Outline],
    joints: F64,
    suffix: str,
) -> int | None:
    """Row of the person of the reference among ``people``, with the errors sampled."""
    held: Counter[int] = Counter()
    for outline in outlines.values():
        held.update(outline.held(scene))
    expected = sum(len(outline.joints) for outline in outlines.values())
    counts = np.array([held[int(identity)] for identity in people.ids])
    matches = len(counts) > 0 and counts.max() >= max(1, _MIN_HELD * expected)
    samples.add(f"matched_{suffix}", matches)
    if not matches:
        return None
    best = int(counts.argmax())
    shared = list(SHARED.values())
    own = people.joints[best, shared][None]
    samples.add(f"w_{suffix}", *metrics.mpjpe(own, joints[None]))
    samples.add(f"pa_{suffix}", *metrics.pa_mpjpe(own, joints[None]))
    samples.add(f"fitted_{suffix}", people.fitted[best])
    if people.fitted[best]:
        within = np.abs(own[0] - joints) < people.joint_std[best, shared, None]
        samples.add(f"within_{suffix}", *within.ravel())
    return best


def _rate(seconds: Sequence[float]) -> float:
    """Sets per second of the median set; the first set warms up and is left out."""
    return 1 / median(seconds[1:] or seconds)


FIGURES = (
    Figure("found_fraction", "found", "view that shows the person"),
    Figure("w_mpjpe_m", "w_calibrated", "frame set with a match"),
    Figure("pa_mpjpe_m", "pa_calibrated", "frame set with a match"),
    Figure("id_switches", "switch", "frame set with a match", lambda s: float(np.sum(s))),
    Figure("frame_sets_per_second", "seconds", "frame set", _rate),
    Figure("matched_fraction", "matched_calibrated", "frame set"),
    Figure("fitted_fraction", "fitted_calibrated", "frame set with a match"),
    Figure("one_sigma_coverage", "within_calibrated", "coordinate of a fitted joint"),
    Figure("people_reported", "people", "frame set", mean),
    Figure("w_mpjpe_uncalibrated_m", "w_uncalibrated", "frame set with a match"),
    Figure("pa_mpjpe_uncalibrated_m", "pa_uncalibrated", "frame set with a match"),
    Figure("matched_uncalibrated", "matched_uncalibrated", "frame set"),
    *CAMERA_FIGURES,
)
