"""How a reconstruction is measured on the cases of public data sets.

=========  ========================================================================================
people     All images of a moment, nothing known of the cameras: people and cameras.
poses      All images of a place, nothing known of the cameras: rotations and directions.
depth      The first image with every other, nothing known of the cameras: its depth, scaled.
scan       All images with their cameras: points against a scan.
video      Every fifth frame of 100 at a time, focal lengths known: a person's and the camera's way.
=========  ========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hamst3r.evaluation import metrics
from hamst3r.evaluation.clouds import dtu_errors
from hamst3r.evaluation.datasets.base import Case, Clip, Shot
from hamst3r.evaluation.people import People, match, people_of
from hamst3r.evaluation.poses import (
    CAMERA_FIGURES,
    PoseTruth,
    people_figures,
    score_cameras,
    score_matched,
)
from hamst3r.evaluation.samples import Figure, Samples, share_below
from hamst3r.evaluation.video import score_clip
from hamst3r.frames import Frame, FrameSet
from hamst3r.geometry import invert, project, transform
from hamst3r.pairs import Pairing
from hamst3r.people.body import JOINT_NAMES
from hamst3r.people.joint_sets import JOINT_SETS
from hamst3r.reconstructor import Engine, Reconstructor, ReconstructorConfig
from hamst3r.scene import Camera, Scene

F64 = NDArray[np.float64]

_MM = 1000.0


@dataclass(frozen=True, eq=False)
class CaseResult:
    """What was measured on one case."""

    name: str
    group: str
    samples: Samples


@dataclass(frozen=True)
class Protocol:
    """A way of measuring.

    Attributes:
        name: As in the module's table. about: What is given and what is asked, one sentence.
        score: Measures one case. figures: What sums it up.
    """

    name: str
    about: str
    score: Callable[[Engine, Case | Clip, ReconstructorConfig], Samples]
    figures: tuple[Figure, ...]

    def run(
        self,
        engine: Engine,
        cases: Sequence[Case | Clip],
        config: ReconstructorConfig | None = None,
    ) -> Iterator[CaseResult]:
        """Measure case by case.

        Raises:
            DatasetError: An image or a label cannot be read; the message names the file.
        """
        for case in cases:
            samples = self.score(engine, case, config or ReconstructorConfig())
            yield CaseResult(case.name, case.group, samples)


def frame_set(shots: Sequence[Shot], K: bool = False, pose: bool = False) -> FrameSet:
    """The images of shots as if taken at one time, with what the protocol gives away."""
    frames = (
        Frame(
            shot.name,
            0,
            shot.image(),
            K=shot.K if K else None,
            T_rig_cam=shot.T_world_cam if pose else None,
        )
        for shot in shots
    )
    return FrameSet(0, tuple(frames))


def _of_cameras(*names: str) -> list[Figure]:
    by_name = {figure.name: figure for figure in CAMERA_FIGURES}
    return [by_name[name] for name in names]


# --- people -------------------------------------------------------------------------------------


def score_people_case(engine: Engine, case: Case | Clip, config: ReconstructorConfig) -> Samples:
    """People and cameras of one moment."""
    assert isinstance(case, Case)
    samples = Samples()
    scene = Reconstructor(engine, config).push(frame_set(case.shots))
    cameras = {s.name: s.T_world_cam for s in case.shots if s.T_world_cam is not None}
    score_cameras(samples, scene, cameras)
    names = sorted(case.people)
    number = len(JOINT_SETS[case.joint_set] if case.joint_set else JOINT_NAMES)
    joints = np.array([case.people[name] for name in names], float).reshape(-1, number, 3)
    shots = scene_shots(scene, case.shots)
    seen = [_inside(joints, s, c) for s, c in zip(shots, scene.cameras, strict=True)]
    known = np.isfinite(joints).all(-1).sum(1)
    most = np.max([view.sum(1) for view in seen], axis=0) if seen else np.zeros(len(names))
    truth = PoseTruth(
        cameras, {}, np.arange(1, 1 + len(names)), joints, (known > 0) & (2 * most >= known)
    )
    people = people_of(scene, case.joint_set)
    held = joints_in_masks(scene, people, case.shots, joints)
    score_matched(samples, scene, people, match(held), truth, "free", calibrated=False)
    return samples


def scene_shots(scene: Scene, shots: Sequence[Shot]) -> list[Shot]:
    """The shots of the scene's views, in its order."""
    by_name = {shot.name: shot for shot in shots}
    return [by_name[view.camera] for view in scene.views]


def _pixels(joints: F64, shot: Shot) -> F64:
    """(..., 2) where joints are in the delivered image; NaN behind the camera or unknown."""
    assert shot.K is not None and shot.T_world_cam is not None
    return project(transform(invert(shot.T_world_cam), joints), shot.K)


def _inside(joints: F64, shot: Shot, camera: Camera) -> NDArray[np.bool_]:
    """(P, J) which joints are within the image; not those behind the camera (NaN)."""
    pixels = _pixels(joints, shot)
    last = np.array([camera.width, camera.height]) - 0.5
    return np.all((pixels > -0.5) & (pixels < last), axis=-1)


def joints_in_masks(scene: Scene, people: People, shots: Sequence[Shot], joints: F64) -> F64:
    """(P, Q) share of the joints (Q, J, 3) seen by any view that lie in a person's masks."""
    held = np.zeros((len(people), len(joints)))
    seen = np.zeros(len(joints))
    for view, camera, shot in zip(
        scene.views, scene.cameras, scene_shots(scene, shots), strict=True
    ):
        # The true intrinsics say where a joint is in the image, the view where that is on its grid.
        T_grid_image = view.K @ np.linalg.inv(camera.K)
        pixels = _pixels(joints, shot) @ T_grid_image[:2, :2].T + T_grid_image[:2, 2]
        height, width = view.instances.shape
        for column, person in enumerate(pixels):
            places = person[np.isfinite(person).all(1)].round().astype(int)
            inside = ((places >= 0) & (places < [width, height])).all(1)
            u, v = places[inside].T
            seen[column] += len(u)
            held[:, column] += (view.instances[v, u] == people.ids[:, None]).sum(1)
    return held / np.maximum(seen, 1)


PEOPLE_FIGURES = (
    *people_figures("free"),
    *_of_cameras("te_m", "s_te_m", "ae_deg"),
    Figure("rra10", "rotation", "pair of cameras", share_below(10)),
    *_of_cameras("cca10", "s_cca10", "cameras_placed"),
)


# --- poses --------------------------------------------------------------------------------------


def score_pose_case(engine: Engine, case: Case | Clip, config: ReconstructorConfig) -> Samples:
    """Cameras of one place."""
    assert isinstance(case, Case)
    samples = Samples()
    scene = Reconstructor(engine, config).push(frame_set(case.shots))
    poses = {s.name: s.T_world_cam for s in case.shots if s.T_world_cam is not None}
    score_cameras(samples, scene, poses)
    return samples


POSE_FIGURES = tuple(
    replace(figure, name=f"{figure.name}_percent", factor=100.0)
    for figure in _of_cameras("rra15", "rta15", "maa30", "cameras_placed")
)


# --- depth --------------------------------------------------------------------------------------


def score_depth_case(engine: Engine, case: Case | Clip, config: ReconstructorConfig) -> Samples:
    """Depth of the first image."""
    assert isinstance(case, Case) and case.shots[0].depth is not None
    samples = Samples()
    scene = Reconstructor(engine, replace(config, pairing=Pairing.ONEREF)).push(
        frame_set(case.shots)
    )
    key = case.shots[0]
    index = next((k for k, view in enumerate(scene.views) if view.camera == key.name), None)
    samples.add("placed", index is not None)
    truth = key.depth() if key.depth is not None else None
    if index is not None and truth is not None:
        predicted, inside = depth_at(scene, index, truth.shape)
        asked = inside & (truth > 0)
        rel, tau = metrics.depth_errors(predicted[asked], truth[asked])
        samples.add("rel", rel)
        samples.add("tau", tau)
    return samples


def depth_at(
    scene: Scene, index: int, shape: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A view's depth (h, w) at the pixels of a map of the same image, and which pixels it covers.

    The nearest pixel of the view's grid; what the network's crop cut off is not covered.
    """
    view, camera = scene.views[index], scene.cameras[index]
    T_grid_image = view.K @ np.linalg.inv(camera.K)
    height, width = shape
    u = (np.arange(width) + 0.5) * camera.width / width - 0.5
    v = (np.arange(height) + 0.5) * camera.height / height - 0.5
    columns = np.round(u * T_grid_image[0, 0] + T_grid_image[0, 2]).astype(int)
    rows = np.round(v * T_grid_image[1, 1] + T_grid_image[1, 2]).astype(int)
    gh, gw = view.depth.shape
    inside = ((rows >= 0) & (rows < gh))[:, None] & ((columns >= 0) & (columns < gw))[None]
    return view.depth[np.ix_(rows.clip(0, gh - 1), columns.clip(0, gw - 1))], inside


DEPTH_FIGURES = (
    Figure("rel_percent", "rel", "image", factor=100.0),
    Figure("tau_percent", "tau", "image", factor=100.0),
    Figure("cameras_placed", "placed", "image"),
)


# --- scan ---------------------------------------------------------------------------------------


def score_scan_case(engine: Engine, case: Case | Clip, config: ReconstructorConfig) -> Samples:
    """Points of known cameras against a scan."""
    assert isinstance(case, Case) and case.scan is not None
    samples = Samples()
    truth = case.scan()
    scene = Reconstructor(engine, replace(config, max_points=5_000_000)).push(
        frame_set(case.shots, K=True, pose=True)
    )
    accuracy, completeness = dtu_errors(scene.points.xyz * _MM, truth)
    samples.add("accuracy", accuracy)
    samples.add("completeness", completeness)
    samples.add("overall", (accuracy + completeness) / 2)
    return samples


SCAN_FIGURES = (
    Figure("accuracy_mm", "accuracy", "scan"),
    Figure("completeness_mm", "completeness", "scan"),
    Figure("overall_mm", "overall", "scan"),
)

VIDEO_FIGURES = (
    Figure("wa_mpjpe_mm", "wa", "frame", factor=_MM),
    Figure("w_mpjpe_mm", "w", "frame", factor=_MM),
    Figure("rte_percent", "rte", "sequence", factor=100.0),
    Figure("ate_m", "ate", "sequence"),
    Figure("person_found", "found", "keyframe"),
    Figure("cameras_placed", "placed", "keyframe"),
)

PEOPLE = Protocol(
    "people",
    "images of one moment; no pose and no focal length is given; errors of people after a rigid "
    "motion that brings the cameras together",
    score_people_case,
    PEOPLE_FIGURES,
)
POSES = Protocol(
    "poses",
    "images of one place; no pose and no focal length is given; every pair of cameras is asked",
    score_pose_case,
    POSE_FIGURES,
)
DEPTH = Protocol(
    "depth",
    "one key image among others; no pose and no focal length is given; its depth after scaling "
    "by the ratio of medians",
    score_depth_case,
    DEPTH_FIGURES,
)
SCAN = Protocol(
    "scan",
    "images with their poses and focal lengths; points within DTU's masks, thinned to 0.2 mm, "
    "outliers beyond 20 mm left out",
    score_scan_case,
    SCAN_FIGURES,
)
VIDEO = Protocol(
    "video",
    "every fifth frame of 100 at a time, with focal lengths; frames between are interpolated; "
    "errors of joints after a similarity per 100 frames",
    score_clip,
    VIDEO_FIGURES,
)
