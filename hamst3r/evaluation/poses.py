"""A reconstructed scene's cameras and people against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.evaluation import metrics
from hamst3r.evaluation.people import People, match, people_of
from hamst3r.evaluation.samples import Figure, Samples, median, share_below
from hamst3r.scene import Scene

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PoseTruth:
    """True cameras and people of one moment, in one world.

    Attributes:
        cameras: Name -> (4, 4) T_world_cam.
        instances: Camera -> (gh, gw) ids on the network's output grid, 0 = nobody.
        ids: (P,) of the people. joints: (P, J, 3) metres, NaN where unknown.
        visible: (P,) who should be found; the others may be.
    """

    cameras: dict[str, F64]
    instances: dict[str, NDArray[np.int32]]
    ids: NDArray[np.int64]
    joints: F64
    visible: NDArray[np.bool_]


def camera_poses(scene: Scene, true: dict[str, F64]) -> tuple[F64, F64]:
    """(C, 4, 4) predicted and true poses of the scene's cameras, in its order."""
    found = [camera.T_world_cam for camera in scene.cameras]
    truth = [true[camera.name] for camera in scene.cameras]
    return np.array(found, float).reshape(-1, 4, 4), np.array(truth, float).reshape(-1, 4, 4)


def score_cameras(samples: Samples, scene: Scene, true: dict[str, F64]) -> None:
    """Errors of the cameras of one scene without known poses.

    A camera without a place counts as wrong in CCA and in all of its pairs; it has no TE.
    """
    predicted, truth = camera_poses(scene, true)
    missing = len(true) - len(scene.cameras)
    samples.add("placed", *[True] * len(scene.cameras), *[False] * missing)
    pairs = len(true) * (len(true) - 1) // 2
    rotation, translation = [
        np.concatenate([found, np.full(pairs - len(found), failure)])
        for found, failure in (
            (metrics.pair_rotation_errors(predicted, truth), metrics.NO_ROTATION),
            (metrics.pair_translation_errors(predicted, truth), metrics.NO_TRANSLATION),
        )
    ]
    samples.add("rotation", *rotation)
    samples.add("translation", *translation)
    samples.add("worst", *np.fmax(rotation, translation))
    poses = np.stack(list(true.values()))
    samples.add("turn", *metrics.pair_rotation_errors(np.tile(np.eye(4), (len(true), 1, 1)), poses))
    if len(scene.cameras) < 2:
        return
    limit = 0.1 * metrics.extent(poses)
    for name, scale in (("te", False), ("s_te", True)):
        errors = metrics.centre_errors(predicted, truth, scale)
        samples.add(name, *errors)
        samples.add(f"{name}_near", *(errors < limit), *[False] * missing)


def score_people(
    samples: Samples, scene: Scene, truth: PoseTruth, suffix: str, calibrated: bool
) -> None:
    """Errors of the people of one scene, as samples whose names end in ``_<suffix>``.

    Who is who is decided in the images, by the masks of all views together
    (:func:`~hamst3r.evaluation.people.match`): no error in space is then too large to be counted.
    Worlds are brought together by the cameras
    (:func:`~hamst3r.evaluation.metrics.align_by_centres`); calibrated ones are one already. Errors
    are those of matched people, over all joints of the truth's set; somebody whom nobody matches
    has no error but lowers the recall beside it. A body not fitted is stood in for
    (:class:`~hamst3r.evaluation.people.People`).
    """
    people = people_of(scene)
    score_matched(
        samples, scene, people, match(_ious(scene, people.ids, truth)), truth, suffix, calibrated
    )


def score_matched(
    samples: Samples,
    scene: Scene,
    people: People,
    every: Sequence[tuple[int, int]],
    truth: PoseTruth,
    suffix: str,
    calibrated: bool,
) -> None:
    """As :func:`score_people` where it is known who is who: pairs (row of people, of truth)."""
    pairs = [(row, column) for row, column in every if truth.visible[column]]
    rows, columns = np.array(pairs, np.intp).reshape(-1, 2).T
    samples.add(f"recall_{suffix}", *[True] * len(pairs))
    samples.add(f"recall_{suffix}", *[False] * (int(truth.visible.sum()) - len(pairs)))
    samples.add(f"precision_{suffix}", *[True] * len(pairs))
    samples.add(f"precision_{suffix}", *[False] * (len(people) - len(every)))
    samples.add(f"fitted_{suffix}", *people.fitted[rows])
    if not pairs:
        return
    found, joints = people.joints[rows], truth.joints[columns]
    samples.add(f"ga_{suffix}", *metrics.ga_mpjpe(found, joints))
    samples.add(f"pa_{suffix}", *metrics.pa_mpjpe(found, joints))
    if calibrated:
        samples.add(f"w_{suffix}", *metrics.mpjpe(found, joints))
    elif len(scene.cameras) >= 2:
        poses = camera_poses(scene, truth.cameras)
        for name, align in (
            ("w", metrics.align_by_centres),
            ("w_by_poses", metrics.align_by_poses),
        ):
            moved = metrics.transform(align(*poses), found)
            samples.add(f"{name}_{suffix}", *metrics.mpjpe(moved, joints))


def _ious(scene: Scene, ids: NDArray[np.int64], truth: PoseTruth) -> F64:
    """(P, Q) of the masks of predicted ``ids`` and true people, over all placed views together."""
    table = np.zeros((len(ids), len(truth.ids)))
    if not scene.views:
        return table
    predicted = np.concatenate([view.instances.ravel() for view in scene.views])
    true = np.concatenate([truth.instances[view.camera].ravel() for view in scene.views])
    rows, columns, counts = metrics.overlaps(predicted, true)
    ious = metrics.intersections_over_unions(counts)
    for row, identity in enumerate(rows):
        for column, person in enumerate(columns):
            table[ids == identity, truth.ids == person] = ious[row, column]
    return table


CAMERA_FIGURES = (
    Figure("rotation_median_deg", "rotation", "pair of cameras", median),
    # What guessing that no camera is turned against another would give.
    Figure("rotation_by_guess_deg", "turn", "pair of cameras", median),
    Figure("ae_deg", "rotation", "pair of cameras"),
    Figure("rra15", "rotation", "pair of cameras", share_below(15)),
    Figure("rta15", "translation", "pair of cameras", share_below(15)),
    Figure("maa30", "worst", "pair of cameras", metrics.mean_average_accuracy),
    Figure("te_m", "te", "camera"),
    Figure("s_te_m", "s_te", "camera"),
    Figure("cca10", "te_near", "camera"),
    Figure("s_cca10", "s_te_near", "camera"),
    Figure("cameras_placed", "placed", "camera"),
)


def people_figures(suffix: str, ending: str = "") -> tuple[Figure, ...]:
    """Figures of what :func:`score_people` measured, by names with an ending ("_calibrated")."""
    return (
        Figure(f"w_mpjpe{ending}_m", f"w_{suffix}", "matched person"),
        Figure(f"ga_mpjpe{ending}_m", f"ga_{suffix}", "matched person"),
        Figure(f"pa_mpjpe{ending}_m", f"pa_{suffix}", "matched person"),
        Figure(f"people_recall{ending}", f"recall_{suffix}", "true person"),
        Figure(f"people_precision{ending}", f"precision_{suffix}", "reported person"),
        Figure(f"people_fitted{ending}", f"fitted_{suffix}", "matched person"),
    )
