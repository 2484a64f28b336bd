"""Evaluation: perfect predictions score perfectly, and faults cost what they should."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_network import SMALL

from hamst3r import cli
from hamst3r.alignment.incremental import AlignerConfig
from hamst3r.engine import PairPrediction
from hamst3r.evaluation import recording, synthetic
from hamst3r.evaluation.body_sheet import BodySheet, draw_bodies
from hamst3r.evaluation.people import match, people_of, standing
from hamst3r.evaluation.pictures import TILE, Extremes
from hamst3r.evaluation.poses import PoseTruth, score_cameras, score_people
from hamst3r.evaluation.recording import SHARED, RecordingEvaluation, load_reference
from hamst3r.evaluation.report import document, table
from hamst3r.evaluation.samples import Figure, Samples, figures
from hamst3r.evaluation.synthetic import SyntheticEvaluation, score_instances
from hamst3r.evaluation.truth import PARTS, on_grid, perfect
from hamst3r.geometry import invert, make_T, transform
from hamst3r.network.checkpoint import save_checkpoint
from hamst3r.network.hamst3r import HAMSt3R
from hamst3r.people.body import JOINT_NAMES, anny24
from hamst3r.reconstructor import ReconstructorConfig
from hamst3r.scene import (
    BodyFit,
    Camera,
    Person,
    PointCloud,
    ScaleSource,
    Scene,
    TrackingState,
    View,
)
from hamst3r.synthetic.generator import GeneratorConfig, SceneGenerator
from hamst3r.synthetic.motion import MovingScene

# --- perfect predictions --------------------------------------------------------------------------


class Blank:
    """An engine that knows nothing; all it says is to be replaced by the truth."""

    patch, stride, image_size = 16, 2, 224

    def predict(self, images, edges):
        return [self._pair(i, j, images[i].grid, images[j].grid) for i, j in edges]

    def _pair(self, i, j, grid_i, grid_j) -> PairPrediction:
        return PairPrediction(
            i,
            j,
            torch.ones(*grid_i, 3),
            torch.ones(*grid_j, 3),
            torch.ones(grid_i),
            torch.ones(grid_j),
        )


@pytest.fixture(scope="module")
def oracle():
    """Results, figures and counts of scenes whose predictions are the truth."""
    # In rooms, few people hide: what is left is the code's, not what cannot be seen.
    easy = SceneGenerator(GeneratorConfig(place="room", difficulty=0.2, empty=0.1))
    # Nor do people, who differ, tell of a scale that is exact.
    sure = ReconstructorConfig(alignment=AlignerConfig(network_scale_std=0.01))
    evaluation = SyntheticEvaluation(Blank(), sure, tuple(PARTS), easy)
    results = list(evaluation.run(range(900_000, 900_006), views=3, delivered=224))
    samples = Samples()
    for result in results:
        samples.extend(result.samples)
    return results, samples, *figures(synthetic.FIGURES, samples)


def test_perfect_predictions_score_perfectly(oracle):
    _, _, values, counts = oracle
    for name in (
        "person_recall",
        "person_precision",
        "instance_iou",
        "id_consistency",
        "body_iou",
        "body_recall",
        "depth_tau103",
        "merged_person_recall",
        "merged_person_precision",
        "merged_instance_iou",
        "merged_id_consistency",
        "cameras_placed",
        "people_precision_calibrated",
    ):
        assert values[name] == 1.0, name
        assert counts[name] > 0, name
    for name in (
        "densepose_median_cm",
        "pointmap_relative_median",
        "pointmap_scaled_median",
        "scale_log_std",
        "depth_rel",
    ):
        assert values[name] == pytest.approx(0, abs=1e-5), name
        assert counts[name] > 0, name


def test_the_pipeline_is_nearly_perfect_on_perfect_predictions(oracle):
    """What is left is the fit's: clothes, limbs out of sight, people of whom little is seen."""
    _, samples, values, _ = oracle
    assert values["rotation_median_deg"] < 0.5
    assert values["maa30"] > 0.9
    assert values["te_m"] < 0.05
    assert values["cca10"] > 0.9
    assert values["people_recall_calibrated"] > 0.9
    assert values["id_consistency_calibrated"] > 0.95
    assert values["people_fitted_calibrated"] > 0.5
    assert np.median(samples["w_calibrated"]) < 0.1
    assert np.median(samples["w_uncalibrated"]) < 0.1
    assert np.median(samples["pa_calibrated"]) < 0.06


def test_truth_on_the_grid_projects_to_where_it_is(oracle):
    """Points of one view, seen in another one with the same person there, lie on that person."""
    result = oracle[0][0]
    first, second = result.truths[:2]
    points = transform(invert(second.T_world_cam) @ first.T_world_cam, first.points())
    front = (first.depth > 0) & (points[..., 2] > 0.1)
    pixels = (points[front] / points[front][:, 2:]) @ second.K[:2].T
    height, width = second.depth.shape
    inside = ((pixels >= 0) & (pixels <= [width - 1, height - 1])).all(1)
    columns, rows = pixels[inside].round().astype(int).T
    same = np.abs(second.depth[rows, columns] - points[front][inside][:, 2]) < 0.02
    assert same.sum() > 100
    ids = first.instances[front][inside][same], second.instances[rows, columns][same]
    assert (ids[0] == ids[1]).mean() > 0.98


def test_unknown_part_is_refused():
    evaluation = SyntheticEvaluation(Blank(), true_parts=["cameras"])
    with pytest.raises(ValueError, match=r"cameras.*points, instances, body, densepose"):
        next(evaluation.run([900_000], views=2))


def test_one_view_is_refused():
    with pytest.raises(ValueError, match="at least 2 views, got 1"):
        next(SyntheticEvaluation(Blank()).run([900_000], views=1))


# --- masks ----------------------------------------------------------------------------------------


def stripes(*ids: int) -> np.ndarray:
    """A map of vertical stripes of 60 pixels each."""
    return np.repeat(np.array(ids), 6)[None].repeat(10, 0)


def scored(predicted, true) -> dict[str, list[float]]:
    samples = Samples()
    score_instances(samples, predicted, true)
    return {name: samples[name] for name in ("iou", "recall", "precision", "same_id")}


def test_masks_are_counted_by_hand():
    """Two views: person 1 found in both, under two ids; person 2 missed; one mask on nobody."""
    true = [stripes(1, 1, 2, 0, 0), stripes(0, 1, 1, 0, 2)]
    found = [stripes(4, 4, 0, 0, 9), stripes(0, 5, 0, 0, 0)]
    assert scored(found, true) == {
        "iou": [1, 0, 0.5, 0],
        "recall": [1, 0, 0, 0],  # half of a person is not over one half
        "precision": [1, 0, 0],
        "same_id": [],
    }
    found[1] = stripes(0, 5, 5, 0, 0)
    assert scored(found, true)["same_id"] == [0]
    found[1] = stripes(0, 4, 4, 0, 0)
    assert scored(found, true)["same_id"] == [1]


def test_people_too_small_to_ask_for_are_neither_missed_nor_false():
    true = np.zeros((20, 20), int)
    true[:5, :5] = 3  # 25 pixels
    assert scored([true], [true]) == {"iou": [], "recall": [], "precision": [], "same_id": []}


# --- scenes ---------------------------------------------------------------------------------------

NOTHING = PointCloud(
    *(np.zeros(shape, np.float32) for shape in ((0, 3), (0, 3), 0, 0, 0, 0, (0, 3)))
)
FIT = BodyFit("anny24", "", *(np.zeros(n, np.float32) for n in (10, 3, 69, 3)), 0.0, 100)
RIG = [make_T(np.eye(3), centre) for centre in ([0, 0, 0], [3, 0, 0], [0, 2.0, 0], [1, 1, 1.0])]


def joints(x: float) -> np.ndarray:
    return standing(np.array([x, 0.0, 5.0]), np.array([x, -9, 0]))


def person(identity: int, where: np.ndarray, fitted: bool = True) -> Person:
    return Person(
        identity,
        TrackingState.NEW,
        1.0,
        FIT if fitted else None,
        where.astype(np.float32) if fitted else np.zeros((0, 3), np.float32),
        np.zeros(24 if fitted else 0, np.float32),
        where[1:3].mean(0),
        np.eye(3),
        None,
        10,
    )


def scene_of(people, maps, T=None, rig=RIG) -> Scene:
    """A reconstructed scene; T moves its world."""
    T = np.eye(4) if T is None else T
    cameras = [
        Camera(f"cam{k}", "", 0, 12, 10, np.eye(3), T @ pose, 1.0) for k, pose in enumerate(rig)
    ]
    blank = np.zeros((10, 30), np.float32)
    views = [
        View(c.name, np.eye(3), blank, blank, blank, maps.astype(np.uint16), blank) for c in cameras
    ]
    moved = [
        replace(p, joints=transform(T, p.joints), position=transform(T, p.position)) for p in people
    ]
    return Scene(0, tuple(cameras), tuple(views), NOTHING, tuple(moved), ScaleSource.NETWORK, 0.1)


TRUE_MAPS = stripes(1, 1, 0, 2, 0)
TRUTH = PoseTruth(
    cameras={f"cam{k}": pose for k, pose in enumerate(RIG)},
    instances={f"cam{k}": TRUE_MAPS for k in range(4)},
    ids=np.array([1, 2]),
    joints=np.stack([joints(-1), joints(1)]),
    visible=np.array([True, True]),
)


def people_scores(
    scene: Scene, calibrated: bool, truth: PoseTruth = TRUTH
) -> dict[str, list[float]]:
    samples = Samples()
    score_people(samples, scene, truth, "x", calibrated)
    names = ("w", "ga", "pa", "recall", "precision", "fitted", "w_by_poses")
    return {name: samples[f"{name}_x"] for name in names}


def test_the_true_scene_has_no_error():
    people = [person(7, joints(-1)), person(8, joints(1))]
    scores = people_scores(scene_of(people, stripes(7, 7, 0, 8, 0)), calibrated=True)
    assert scores["w"] == pytest.approx([0, 0], abs=1e-6)
    assert scores["ga"] == pytest.approx([0, 0], abs=1e-6)
    assert scores["pa"] == pytest.approx([0, 0], abs=1e-6)
    assert scores["recall"] == scores["precision"] == scores["fitted"] == [1, 1]


def test_another_world_costs_nothing_without_calibration_and_all_with_it():
    T = make_T(np.diag([-1.0, -1, 1]), [4, 0, 1])
    scene = scene_of([person(7, joints(-1)), person(8, joints(1))], stripes(7, 7, 0, 8, 0), T)
    free = people_scores(scene, calibrated=False)
    assert free["w"] == pytest.approx([0, 0], abs=1e-5)
    assert free["w_by_poses"] == pytest.approx([0, 0], abs=1e-5)
    assert min(people_scores(scene, calibrated=True)["w"]) > 1


def test_errors_are_those_of_who_the_masks_say():
    """Somebody far from the truth is still compared with the one whose pixels are the same."""
    shift = np.array([0, 0, 3.0])
    people = [person(7, joints(-1) + shift), person(8, joints(1))]
    scores = people_scores(scene_of(people, stripes(7, 7, 0, 8, 0)), calibrated=True)
    assert scores["w"] == pytest.approx([3, 0], abs=1e-5)
    assert scores["pa"] == pytest.approx([0, 0], abs=1e-5)


def test_the_missed_and_the_false_are_counted_beside_the_errors():
    people = [person(7, joints(-1)), person(9, joints(2))]
    scores = people_scores(scene_of(people, stripes(7, 7, 9, 0, 0)), calibrated=True)
    assert len(scores["w"]) == 1
    assert sorted(scores["recall"]) == [0, 1]
    assert sorted(scores["precision"]) == [0, 1]


def test_who_is_hardly_seen_is_neither_missed_nor_false():
    truth = replace(TRUTH, visible=np.array([True, False]))
    people = [person(7, joints(-1)), person(8, joints(1))]
    scores = people_scores(scene_of(people, stripes(7, 7, 0, 8, 0)), True, truth)
    assert scores["recall"] == scores["precision"] == [1]
    alone = people_scores(scene_of(people[:1], stripes(7, 7, 0, 0, 0)), True, truth)
    assert alone["recall"] == alone["precision"] == [1]


def test_a_body_not_fitted_has_the_error_of_a_standing_one():
    people = [person(7, joints(-1), fitted=False), person(8, joints(1))]
    scores = people_scores(scene_of(people, stripes(7, 7, 0, 8, 0)), calibrated=True)
    assert scores["fitted"] == [0, 1]
    assert 0.02 < scores["w"][0] < 3
    assert scores["w"][1] == pytest.approx(0, abs=1e-6)


def test_the_one_who_stands_in_is_upright_and_looks_at_the_cameras():
    where, camera = np.array([1.0, 2, 1]), np.array([4.0, 2, 2])
    body = dict(zip(JOINT_NAMES, standing(where, camera), strict=True))
    assert body["head"][2] - body["left_foot"][2] > 1.2
    assert body["left_hip"][1] > body["right_hip"][1]  # looking along x, left is +y
    assert body["left_foot"][0] > body["left_ankle"][0]  # toes to the camera
    assert abs(body["pelvis"] - where).max() < 0.3


def test_people_remembered_are_not_people_seen():
    hidden = replace(person(7, joints(0)), state=TrackingState.PREDICTED)
    assert len(people_of(scene_of([hidden], stripes(0)))) == 0


def test_matching_prefers_the_larger_sum_and_refuses_little_overlaps():
    assert match(np.array([[0.6, 0.5], [0.5, 0.0]])) == [(0, 1), (1, 0)]
    assert match(np.array([[0.6, 0.2], [0.2, 0.0]])) == [(0, 0)]
    assert match(np.zeros((0, 3))) == []


def test_cameras_by_hand():
    """Of four cameras one has no place, the others are right."""
    samples = Samples()
    scene = scene_of([], stripes(0), rig=RIG[:3])
    score_cameras(samples, scene, TRUTH.cameras)
    assert sorted(samples["rotation"]) == pytest.approx([0, 0, 0, 180, 180, 180], abs=1e-5)
    assert sorted(samples["translation"]) == pytest.approx([0, 0, 0, 90, 90, 90], abs=1e-4)
    assert samples["turn"] == pytest.approx([0] * 6, abs=1e-5)
    assert samples["te"] == pytest.approx([0, 0, 0], abs=1e-9)
    assert samples["te_near"] == samples["placed"] == [1, 1, 1, 0]


# --- recordings -----------------------------------------------------------------------------------


class Filmed:
    """Knows the truth of every set of a moving scene; asked twice per set."""

    patch, stride, image_size = 16, 2, 224

    def __init__(self, sets) -> None:
        self.sets, self.calls = sets, 0

    def predict(self, images, edges):
        views = self.sets[self.calls // 2]
        self.calls += 1
        truths = [on_grid(view, image) for view, image in zip(views, images, strict=True)]
        return [perfect(i, j, truths) for i, j in edges]


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """A recording of three sets with its reference, and what each camera truly saw."""
    folder = tmp_path_factory.mktemp("filmed")
    scene = MovingScene(3, people=1, size=(224, 160))
    scene.cameras = scene.cameras[:3]
    cameras, sets, reference = {}, [], []
    for camera in scene.cameras:
        (folder / camera.name).mkdir()
        T_cam_world = invert(camera.T_world_cam)
        cameras[camera.name] = {
            "K": camera.K.tolist(),
            "R": T_cam_world[:3, :3].tolist(),
            "t": T_cam_world[:3, 3].tolist(),
        }
    names = [*SHARED, "Nose"]
    for index in range(3):
        sets.append(scene.render(0.1 * index))
        for view in sets[-1]:
            cv2.imwrite(str(folder / view.name / f"{index}.png"), view.rgb[..., ::-1])
        body = scene.at(0.1 * index)[0].joints
        reference.append(np.concatenate([body[list(SHARED.values())], np.zeros((1, 3))]))
    (folder / "calibration.json").write_text(json.dumps({"cameras": cameras}), encoding="utf-8")
    np.savez(folder / "reference_joints.npz", joints=np.array(reference, np.float32), names=names)
    return folder, sets


def test_a_recording_seen_perfectly(filmed):
    folder, sets = filmed
    ticks = iter(range(100))
    evaluation = RecordingEvaluation(
        Filmed(sets), report=pytest.fail, clock=lambda: next(ticks) / 4
    )
    samples = Samples()
    results = list(evaluation.run(folder))
    for result in results:
        samples.extend(result.samples)
    assert [result.index for result in results] == [0, 1, 2]
    values, counts = figures(recording.FIGURES, samples)
    # Furniture hides the legs from one of the cameras, and the silhouette knows no furniture.
    assert values["found_fraction"] >= 0.6
    assert counts["found_fraction"] == 9
    assert values["matched_fraction"] == values["fitted_fraction"] == 1
    assert values["w_mpjpe_m"] < 0.03
    assert values["pa_mpjpe_m"] < 0.03
    assert values["id_switches"] == 0
    assert values["people_reported"] == 1
    assert 0.3 < values["one_sigma_coverage"] <= 1
    assert values["frame_sets_per_second"] == pytest.approx(4)
    assert values["rotation_median_deg"] < 1
    assert values["w_mpjpe_uncalibrated_m"] < 0.2


def test_the_silhouette_is_nearly_the_mask():
    """Of generated people who are whole in the image; this is what found_fraction rests on."""
    ious = []
    for seed in range(960_000, 960_012):
        scene = SceneGenerator().sample(seed, (112, 84), views=2)
        for view, somebody in itertools.product(scene.views, scene.people):
            mask = view.instances == somebody.id
            edge = mask[[0, -1]].any() or mask[:, [0, -1]].any()
            local = transform(invert(view.T_world_cam), somebody.joints[list(SHARED.values())])
            if mask.sum() >= 150 and not edge and local[:, 2].min() > 0.2:
                drawn = recording.draw_silhouette(local, view.K, mask.shape)
                ious.append((drawn & mask).sum() / (drawn | mask).sum())
    assert len(ious) >= 5
    assert np.median(ious) > 0.55


def test_the_sheet_shows_bodies_where_they_are(filmed, tmp_path):
    folder, sets = filmed
    sheet = BodySheet(tmp_path / "bodies.png")
    results = list(RecordingEvaluation(Filmed(sets)).run(folder))
    for result in results:
        sheet.add(result)
    sheet.close()
    picture = cv2.imread(str(tmp_path / "bodies.png"))
    assert picture.shape[0] >= 3 * 160 and picture.shape[1] >= 3 * 224
    drawn = draw_bodies(results[1], anny24()).astype(int)
    width = 0
    for camera, view in zip(results[1].calibrated.cameras, sets[1], strict=True):
        scale = TILE / max(camera.width, camera.height)
        size = (round(camera.width * scale), round(camera.height * scale))
        mask = cv2.resize((view.instances > 0).astype(np.uint8), size) > 0
        own = drawn[: size[1], width : width + size[0]]
        before = cv2.resize(view.rgb, size).astype(int)
        redder = (own - before)[..., 0] - (own - before)[..., 2]
        if mask.mean() > 0.02:
            assert redder[mask].mean() > redder[~mask].mean() + 25
        width += size[0] + 4


def test_a_long_recording_keeps_few_pictures(filmed, tmp_path):
    folder, sets = filmed
    (result,) = RecordingEvaluation(Filmed(sets[:1])).run(folder, frame_sets=1)
    empty = replace(result, calibrated=replace(result.calibrated, people=[]))  # drawn fast
    sheet = BodySheet(tmp_path / "bodies.png")
    for _ in range(130):
        sheet.add(empty)
    assert len(sheet._rows) <= 48
    sheet.close()
    assert (tmp_path / "bodies.png").stat().st_size > 1000


class Everywhere(Filmed):
    """Sees the person on every pixel."""

    def predict(self, images, edges):
        whole = {"mask_logits_i": 12.0, "mask_logits_j": 12.0}
        whole |= {"body_logits_i": 12.0, "body_logits_j": 12.0}
        return [
            replace(p, **{name: torch.full_like(getattr(p, name), v) for name, v in whole.items()})
            for p in super().predict(images, edges)
        ]


def test_who_is_everywhere_is_not_found(filmed):
    folder, sets = filmed
    (result,) = RecordingEvaluation(Everywhere(sets)).run(folder, frame_sets=1)
    assert len(result.found) == 3 and not any(result.found.values())


def test_frame_sets_are_spread_over_the_recording(filmed):
    folder, sets = filmed
    chosen = RecordingEvaluation(Filmed([sets[0], sets[2]])).run(folder, frame_sets=2)
    assert [result.index for result in chosen] == [0, 2]


def test_somebody_else_is_an_id_switch(filmed):
    """The tracks are forgotten between sets, and a person of another id comes first."""
    folder, sets = filmed
    evaluation = RecordingEvaluation(Filmed(sets))
    samples = Samples()
    for result in evaluation.run(folder):
        samples.extend(result.samples)
        evaluation._last_id = 99
    assert samples["switch"] == [0, 1, 1]


def _no_file(folder: Path) -> None:
    (folder / "reference_joints.npz").unlink(missing_ok=True)


def _no_names(folder: Path) -> None:
    np.savez(folder / "reference_joints.npz", joints=np.zeros((1, 12, 3)))


def _few_names(folder: Path) -> None:
    np.savez(folder / "reference_joints.npz", joints=np.zeros((1, 2, 3)), names=["LHip", "RHip"])


def _bad_shape(folder: Path) -> None:
    np.savez(folder / "reference_joints.npz", joints=np.zeros((1, 12)), names=list(SHARED))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_no_file, ["reference_joints.npz", "'joints'", "No such file"]),
        (_no_names, ["names"]),
        (_few_names, ["LKnee", "missing"]),
        (_bad_shape, ["(T, 12, 3)", "(1, 12)"]),
    ],
)
def test_references_that_cannot_be_used(make, words, tmp_path):
    make(tmp_path)
    with pytest.raises(ValueError) as error:
        load_reference(tmp_path / "reference_joints.npz")
    assert all(word in str(error.value) for word in words), error.value


def test_an_uncalibrated_recording_is_refused(tmp_path):
    (tmp_path / "left").mkdir()
    cv2.imwrite(str(tmp_path / "left" / "0.png"), np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"left.*calibration\.json"):
        next(RecordingEvaluation(Blank()).run(tmp_path))


# --- reports --------------------------------------------------------------------------------------

# The names by which the project's targets are given.
SYNTHETIC_NAMES = {
    "person_recall",
    "person_precision",
    "instance_iou",
    "id_consistency",
    "densepose_median_cm",
    "pointmap_relative_median",
    "rotation_median_deg",
    "maa30",
    "rra15",
    "rta15",
    "w_mpjpe_calibrated_m",
    "w_mpjpe_uncalibrated_m",
    "ga_mpjpe_m",
    "pa_mpjpe_m",
    "te_m",
    "ae_deg",
    "cca10",
    "pairs_seen",
}
RECORDING_NAMES = {
    "found_fraction",
    "w_mpjpe_m",
    "pa_mpjpe_m",
    "id_switches",
    "frame_sets_per_second",
}


def test_every_name_is_one_figure():
    for table_ in (synthetic.FIGURES, recording.FIGURES):
        names = [figure.name for figure in table_]
        assert len(set(names)) == len(names)


def test_what_was_not_measured_is_said_so():
    samples = Samples()
    samples.add("a", 1.0, 3.0, float("nan"))
    both = (Figure("some", "a", "thing", factor=10), Figure("none", "b", "thing"))
    report = document(both, samples, {"seed": 1})
    assert report == {
        "some": 20.0,
        "none": None,
        "counts": {"some": 2, "none": 0},
        "settings": {"seed": 1},
    }
    first, second = table(both, samples).splitlines()
    assert "20.000" in first and "2 x thing" in first
    assert " - " in second


def test_extremes_are_kept(tmp_path):
    drawn = []

    def draw(value: int):
        drawn.append(value)
        return np.full((4, 4, 3), value, np.uint8)

    extremes = Extremes(tmp_path / "new", count=2)
    for value in (5, 1, 9, 4, 6, 8, 2, 5):
        extremes.offer(value, f"n{value}", lambda value=value: draw(value))
    extremes.close()
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["best_1_n9.png", "best_2_n8.png", "worst_1_n1.png", "worst_2_n2.png"]
    assert cv2.imread(str(tmp_path / "new" / "best_2_n8.png"))[0, 0, 0] == 8
    assert drawn.count(5) == 1  # the second one was no extreme and not drawn


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(HAMSt3R(replace(SMALL, image_size=96)), path, {"pairs_seen": "64"})
    return path


def test_eval_synthetic(weights, tmp_path, capsys):
    """An untrained network is measured like any other."""
    arguments = [
        "eval",
        "synthetic",
        "--seed",
        "5",
        "--scenes",
        "2",
        "--views",
        "2",
        "--weights",
        str(weights),
    ]
    arguments += ["--device", "cpu", "--json", str(tmp_path / "a.json")]
    assert cli.main([*arguments, "--pictures", str(tmp_path / "pictures")]) == 0
    report = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert report.keys() >= SYNTHETIC_NAMES
    assert report["pairs_seen"] == 64
    assert report["counts"]["pointmap_relative_median"] == 4
    assert report["settings"]["seeds"] == [900_005, 900_007]
    printed = capsys.readouterr().out
    assert "person_recall" in printed and "rotation_median_deg" in printed
    pictures = list((tmp_path / "pictures").glob("*.png"))
    assert pictures and all(cv2.imread(str(p)) is not None for p in pictures)


def test_eval_recording(filmed, weights, tmp_path, capsys):
    arguments = [
        "eval",
        "recording",
        str(filmed[0]),
        "--frame-sets",
        "2",
        "--weights",
        str(weights),
    ]
    arguments += ["--device", "cpu", "--json", str(tmp_path / "b.json")]
    arguments += ["--bodies", str(tmp_path / "bodies.jpg")]
    assert cli.main([*arguments, "--pictures", str(tmp_path / "pictures")]) == 0
    assert cv2.imread(str(tmp_path / "bodies.jpg")).shape[0] > 2 * 160
    report = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert report.keys() >= RECORDING_NAMES
    assert report["settings"]["frame_sets"] == 2
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
    assert "found_fraction" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recording", "nowhere"], "nowhere: no such folder"),
        (["synthetic", "--json", "no/such/a.json"], "no/such: no such folder"),
        (["recording", ".", "--bodies", "no/such/a.png"], "no/such: no such folder"),
        (["recording", ".", "--bodies", "a.gif"], "a.gif: expected a name that ends in .png"),
        (["synthetic", "--weights", "none.safetensors"], "none.safetensors"),
    ],
)
def test_bad_input_is_one_line(arguments, words, capsys):
    assert cli.main(["eval", *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert words in error and "\n" not in error


@pytest.mark.parametrize("arguments", [["--scenes", "0"], ["--views", "1"], ["--seed", "-1"]])
def test_numbers_that_make_no_sense_are_refused(arguments):
    with pytest.raises(SystemExit):
        cli.main(["eval", "synthetic", *arguments])
