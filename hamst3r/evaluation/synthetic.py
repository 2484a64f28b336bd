"""What a network reaches on generated scenes: its pair predictions, and the whole pipeline.

The scenes are those of seeds that training never uses (``HELD_OUT`` and up). The network's
figures are of single pairs, with close-ups and through
:func:`hamst3r.people.instances.merge_instances` as the pipeline uses them; "merged" ones are of all
pairs of a scene together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from hamst3r.engine import PairPrediction
from hamst3r.evaluation import metrics
from hamst3r.evaluation.poses import (
    CAMERA_FIGURES,
    PoseTruth,
    people_figures,
    score_cameras,
    score_people,
)
from hamst3r.evaluation.replay import Replay
from hamst3r.evaluation.samples import Figure, Samples, mean
from hamst3r.evaluation.truth import ViewTruth, on_grid, substitute
from hamst3r.frames import Frame, FrameSet
from hamst3r.image import NetworkImage, prepare
from hamst3r.pairs import choose_pairs
from hamst3r.people.body import anny24
from hamst3r.people.closeups import see_people
from hamst3r.people.instances import ViewPeople
from hamst3r.reconstructor import Engine, Reconstructor, ReconstructorConfig
from hamst3r.scene import Scene
from hamst3r.synthetic.generator import SceneGenerator, SyntheticScene

MIN_PIXELS = 40  # of the output grid; people smaller than that in a view need not be found there
DELIVERED = 640  # pixels: what cameras deliver that are not made for anything special
_FOUND = 0.5  # intersection over union
_PEOPLE_PARTS = {"instances", "body", "densepose"}

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SceneResult:
    """One scene, what was made of it, and how good that is.

    Attributes:
        scene: As generated. truths: Its labels on the output grid, per view.
        calibrated, uncalibrated: Reconstructed with and without known ``K`` and ``T_rig_cam``.
        merged: People of each view as all pairs together say. samples: All measurements.
    """

    scene: SyntheticScene
    truths: tuple[ViewTruth, ...]
    calibrated: Scene
    uncalibrated: Scene
    merged: tuple[ViewPeople, ...]
    samples: Samples


class SyntheticEvaluation:
    """Evaluates an engine on scenes.

    Args:
        engine: Runs the network.
        config: Of the reconstruction.
        true_parts: Parts of the predictions (:data:`hamst3r.evaluation.truth.PARTS`) to replace by
            the truth, in order to see how much is lost by them.
        generator: Makes the scenes.
    """

    def __init__(
        self,
        engine: Engine,
        config: ReconstructorConfig | None = None,
        true_parts: Collection[str] = (),
        generator: SceneGenerator | None = None,
    ) -> None:
        self._engine = engine
        self._true_parts = true_parts
        self._generator = generator or SceneGenerator()
        # Where the truth tells who is where, close-ups would object.
        self._replay = Replay(engine, closeups=not _PEOPLE_PARTS & set(true_parts))
        self._reconstructor = Reconstructor(self._replay, config)

    def run(
        self, seeds: Sequence[int], views: int = 4, delivered: int = DELIVERED
    ) -> Iterator[SceneResult]:
        """Generate and evaluate one scene per seed, every third of them in portrait format.

        Args:
            delivered: Long side of the cameras' images, pixels; the network sees them as small as
                it was trained for.

        Raises:
            ValueError: Fewer than 2 views.
        """
        if views < 2:
            raise ValueError(f"pairs need at least 2 views, got {views}")
        short = delivered * 3 // 4
        for seed in seeds:
            size = (short, delivered) if seed % 3 == 0 else (delivered, short)
            yield self.score(self._generator.sample(seed, size, views))

    def score(self, scene: SyntheticScene) -> SceneResult:
        """Evaluate one scene."""
        engine, config = self._engine, self._reconstructor.config
        frames = _frames(scene)
        size = config.image_size or engine.image_size
        images = [prepare(f, size, engine.patch, engine.stride) for f in frames.frames]
        truths = tuple(on_grid(v, image) for v, image in zip(scene.views, images, strict=True))
        edges = choose_pairs(len(images), config.pairing)
        predictions = engine.predict(images, edges)
        predictions = substitute(predictions, truths, self._true_parts)
        samples = Samples()
        self._replay.start(predictions)
        for prediction in predictions:
            _score_points(samples, prediction, truths)
            both = prediction.i, prediction.j
            _score_pair(
                samples,
                self._people(
                    [frames.frames[v] for v in both],
                    [images[v] for v in both],
                    [replace(prediction, i=0, j=1)],
                ),
                [truths[v] for v in both],
            )
        merged = tuple(self._people(frames.frames, images, predictions))
        maps = [people.instances for people in merged]
        score_instances(samples, maps, [t.instances for t in truths], "merged_")
        calibrated = self._reconstruct(frames)
        unknown = tuple(replace(f, K=None, T_rig_cam=None) for f in frames.frames)
        uncalibrated = self._reconstruct(FrameSet(0, unknown))
        shown = {view.camera: view.instances for view in calibrated.views}
        known = [shown[frame.camera] for frame in frames.frames]
        score_instances(samples, known, [t.instances for t in truths], "calibrated_")
        truth = _pose_truth(scene, truths)
        for name, result in (("calibrated", calibrated), ("uncalibrated", uncalibrated)):
            _score_depth(samples, result, scene, truths, name)
        score_people(samples, calibrated, truth, "calibrated", calibrated=True)
        score_people(samples, uncalibrated, truth, "uncalibrated", calibrated=False)
        score_cameras(samples, uncalibrated, truth.cameras)
        return SceneResult(scene, truths, calibrated, uncalibrated, merged, samples)

    def _people(
        self,
        frames: Sequence[Frame],
        images: Sequence[NetworkImage],
        predictions: Sequence[PairPrediction],
    ) -> list[ViewPeople]:
        """As the pipeline sees them in the images of unknown cameras."""
        config = self._reconstructor.config
        return see_people(
            self._replay, frames, images, predictions, config.instances, config.closeups
        )

    def _reconstruct(self, frames: FrameSet) -> Scene:
        self._reconstructor.reset()
        return self._reconstructor.push(frames)


def _score_depth(
    samples: Samples,
    result: Scene,
    scene: SyntheticScene,
    truths: Sequence[ViewTruth],
    suffix: str,
) -> None:
    """Depth as it leaves the pipeline, fused over the pairs: per view, median relative error."""
    by_name = {view.name: truth for view, truth in zip(scene.views, truths, strict=True)}
    for view in result.views:
        true = by_name[view.camera].depth
        for name, where in (("", True), ("_people", by_name[view.camera].instances > 0)):
            both = (view.depth > 0) & (true > 0) & where
            if both.sum() >= MIN_PIXELS:
                error = np.median(abs(view.depth[both] / true[both] - 1))
                samples.add(f"depth{name}_{suffix}", float(error))


def _frames(scene: SyntheticScene) -> FrameSet:
    return FrameSet(
        0,
        tuple(
            Frame(
                view.name, 0, view.rgb, view.K.astype(float), None, view.T_world_cam.astype(float)
            )
            for view in scene.views
        ),
    )


def _pose_truth(scene: SyntheticScene, truths: Sequence[ViewTruth]) -> PoseTruth:
    largest = {
        person.id: max(int((truth.instances == person.id).sum()) for truth in truths)
        for person in scene.people
    }
    return PoseTruth(
        cameras={view.name: view.T_world_cam.astype(float) for view in scene.views},
        instances={v.name: t.instances for v, t in zip(scene.views, truths, strict=True)},
        ids=np.array([p.id for p in scene.people], np.int64),
        joints=np.array([p.joints for p in scene.people], float).reshape(-1, 24, 3),
        visible=np.array([largest[p.id] >= MIN_PIXELS for p in scene.people], bool),
    )


# --- single pairs -------------------------------------------------------------------------------


def _score_points(
    samples: Samples, prediction: PairPrediction, truths: Sequence[ViewTruth]
) -> None:
    """Pointmaps in the axes of camera i, and the depth of view i."""
    first = truths[prediction.i]
    scaled = []
    for view, maps, name in (
        (prediction.i, prediction.pts_i, "own"),
        (prediction.j, prediction.pts_j, "other"),
    ):
        truth = truths[view]
        valid = truth.depth > 0
        if not valid.any():
            return
        T_i_view = metrics.invert(first.T_world_cam) @ truth.T_world_cam
        true = metrics.transform(T_i_view, truth.points()[valid])
        points = _numpy(maps)[valid]
        error = float(np.median(metrics.relative_distances(points, true)))
        samples.add(f"points_{name}", error)
        samples.add("points", error)
        scaled.append((points, true))
        if name == "own":
            relative, inliers = metrics.depth_errors(np.maximum(points[:, 2], 1e-6), true[:, 2])
            samples.add("depth_rel", relative)
            samples.add("depth_tau", inliers)
    points, true = (np.concatenate(part) for part in zip(*scaled, strict=True))
    factor = metrics.median_scale(points, true)
    samples.add(
        "points_scaled", float(np.median(metrics.relative_distances(factor * points, true)))
    )
    samples.add("log_scale", float(np.log(factor)))


def _score_pair(
    samples: Samples, people: Sequence[ViewPeople], truths: Sequence[ViewTruth]
) -> None:
    """People of both views as the pipeline would see them if there were this pair only."""
    score_instances(samples, [p.instances for p in people], [t.instances for t in truths])
    for found, truth in zip(people, truths, strict=True):
        _score_body(samples, found.densepose, truth)


def score_instances(
    samples: Samples,
    predicted: Sequence[NDArray[np.integer]],
    true: Sequence[NDArray[np.integer]],
    prefix: str = "",
) -> None:
    """Maps of ids of several views, whose ids mean the same person in all of them.

    Samples (names after ``prefix``): iou, per true person and view that of the best mask, 0 if
    there is none; recall, whether that is over 0.5; precision, per mask, whether a true person has
    that much in common with it; same_id, per pair of views and person found in both of them,
    whether the masks have one id. People of less than ``MIN_PIXELS`` in a view are not asked for
    there, and a mask that is mostly on such people is nobody's fault.
    """
    winners: list[dict[int, int]] = []
    for found, truth in zip(predicted, true, strict=True):
        ids, people, counts = metrics.overlaps(found, truth)
        iou = metrics.intersections_over_unions(counts)
        won: dict[int, int] = {}
        small = counts.sum(0)[:-1] < MIN_PIXELS
        for column, person in enumerate(people):
            if small[column]:
                continue
            best = int(iou[:, column].argmax()) if len(ids) else -1
            score = float(iou[best, column]) if len(ids) else 0.0
            samples.add(f"{prefix}iou", score)
            samples.add(f"{prefix}recall", score > _FOUND)
            if score > _FOUND:
                won[int(person)] = int(ids[best])
        for row, identity in enumerate(ids):
            on_small = counts[row, :-1][small].sum() > 0.5 * counts[row].sum()
            if not on_small:
                samples.add(f"{prefix}precision", int(identity) in won.values())
        winners.append(won)
    for a, b in combinations(winners, 2):
        samples.add(f"{prefix}same_id", *[a[person] == b[person] for person in a.keys() & b.keys()])


def _score_body(samples: Samples, densepose: NDArray[np.float32], truth: ViewTruth) -> None:
    """Body mask and body coordinates; distances are on the template, in metres."""
    found, body = np.isfinite(densepose[..., 0]), truth.body
    both = found & body
    if body.sum() < MIN_PIXELS:
        return
    samples.add("body_iou", both.sum() / (found | body).sum())
    samples.add("body_recall", both.sum() / body.sum())
    if both.any():
        template = anny24().v_template.numpy()
        size = np.ptp(template, axis=0)
        predicted, true = (coordinates[both] * size for coordinates in (densepose, truth.densepose))
        errors = metrics.lengths(predicted - true)
        samples.add("densepose", float(np.median(errors)))
        mirrored = np.array([size[0], 0, 0]) + predicted * [-1, 1, 1]
        samples.add("flipped", float((metrics.lengths(mirrored - true) < errors).mean()))


def _numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()


NETWORK_FIGURES = (
    Figure("person_recall", "recall", "true person per view and pair"),
    Figure("person_precision", "precision", "mask per view and pair"),
    Figure("instance_iou", "iou", "true person per view and pair"),
    Figure("id_consistency", "same_id", "person found in both views of a pair"),
    Figure("densepose_median_cm", "densepose", "view with people per pair", factor=100.0),
    Figure("densepose_flipped", "flipped", "view with people per pair"),
    Figure("body_iou", "body_iou", "view with people per pair"),
    Figure("body_recall", "body_recall", "view with people per pair"),
    Figure("pointmap_relative_median", "points", "view per pair"),
    Figure("pointmap_own_median", "points_own", "pair"),
    Figure("pointmap_other_median", "points_other", "pair"),
    Figure("pointmap_scaled_median", "points_scaled", "pair"),
    Figure("scale_log_std", "log_scale", "pair", lambda values: float(np.std(values))),
    Figure("depth_rel", "depth_rel", "pair"),
    Figure("depth_tau103", "depth_tau", "pair"),
    Figure("merged_person_recall", "merged_recall", "true person per view"),
    Figure("merged_person_precision", "merged_precision", "mask per view"),
    Figure("merged_instance_iou", "merged_iou", "true person per view"),
    Figure("merged_id_consistency", "merged_same_id", "person found in two views"),
)

# By the names of the project's targets: bodies and cameras of unknown cameras have no ending.
FIGURES = (
    *NETWORK_FIGURES,
    *(
        Figure(f"fused_depth{of}_{suffix}", f"depth{of}_{suffix}", "view")
        for suffix in ("calibrated", "uncalibrated")
        for of in ("", "_people")
    ),
    *CAMERA_FIGURES,
    *(
        replace(figure, name=figure.name.replace("_uncalibrated", ""))
        if figure.name.startswith(("ga_", "pa_"))
        else figure
        for figure in people_figures("uncalibrated", "_uncalibrated")
    ),
    Figure("w_mpjpe_by_poses_m", "w_by_poses_uncalibrated", "matched person", mean),
    *people_figures("calibrated", "_calibrated"),
    Figure("id_consistency_calibrated", "calibrated_same_id", "person found in two views"),
)
