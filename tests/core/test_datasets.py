"""Readers of public data sets, each on a tiny folder in its layout, and what they measure."""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
from dataclasses import replace
from importlib import resources
from pathlib import Path

import cv2
import dataset_folders as make
import numpy as np
import pytest
import torch
from scipy.sparse import csc_matrix
from scipy.spatial.transform import Rotation
from test_network import SMALL

from hamst3r import cli
from hamst3r.commands import eval as eval_command
from hamst3r.evaluation.datasets.base import (
    Case,
    Clip,
    DatasetError,
    ImageFile,
    Lens,
    ReadOptions,
    around,
    evenly,
)
from hamst3r.evaluation.datasets.pickles import load_npy, load_pickle
from hamst3r.evaluation.datasets.registry import DATASETS
from hamst3r.evaluation.datasets.skeleton import load_skeleton
from hamst3r.evaluation.samples import figures
from hamst3r.evaluation.truth import on_grid, perfect
from hamst3r.evaluation.video import interpolated
from hamst3r.geometry import invert, make_T, project, rotation_angle, transform
from hamst3r.network.checkpoint import save_checkpoint
from hamst3r.network.hamst3r import HAMSt3R
from hamst3r.people.body import anny24
from hamst3r.people.joint_sets import JOINT_SETS, joints
from hamst3r.reconstructor import ReconstructorConfig
from hamst3r.synthetic.motion import MovingScene

BODY = Path(str(resources.files("hamst3r"))) / "data" / "anny24.npz"
WRIST = JOINT_SETS["coco17"].index("left_wrist")
PEOPLE_KEYS = ("betas", "global_orient", "body_pose", "transl")


class Oracle:
    """Knows the truth of every view; views are told apart by the first pixels of their depth."""

    patch, stride, image_size = 16, 2, 224

    def __init__(self, views) -> None:
        self.views = list(views)

    def predict(self, images, edges):
        truths = [on_grid(self._view(image), image) for image in images]
        return [perfect(i, j, truths) for i, j in edges]

    def _view(self, image):
        """By its pixels, which survive compression."""
        size = (32, 24)
        seen = cv2.resize(image.rgb, size, interpolation=cv2.INTER_AREA).astype(float)

        def difference(view) -> float:
            own = cv2.resize(view.rgb, size, interpolation=cv2.INTER_AREA)
            return float(np.abs(own - seen).mean())

        return min(self.views, key=difference)


@pytest.fixture(scope="module")
def room():
    """A room with one person, what its four cameras see, and the person."""
    scene = MovingScene(3, people=1, size=(224, 160))
    return scene.render(0.0), scene.at(0.0)[0]


@pytest.fixture(scope="module")
def video():
    """Eleven images of a camera that moves sideways, and the person."""
    scene = MovingScene(3, people=1, size=(224, 160))
    first = scene.cameras[0]
    way = [
        replace(first, T_world_cam=first.T_world_cam @ make_T(np.eye(3), [0.02 * k, 0, 0]))
        for k in range(11)
    ]
    moving = MovingScene(3, people=1, size=(224, 160), cameras=way)
    return moving.render(0.0), moving.at(0.0)[0]


def parameters(person) -> dict[str, np.ndarray]:
    turns = Rotation.from_matrix(person.rotations).as_rotvec()
    return {
        "betas": person.betas,
        "global_orient": turns[0],
        "body_pose": turns[1:].ravel(),
        "transl": person.transl,
    }


def coco(person) -> np.ndarray:
    """(17, 3) keypoints of a person's surface."""
    body, turns = anny24(), torch.from_numpy(person.rotations).float()[None]
    values = (torch.from_numpy(np.asarray(v)).float()[None] for v in (person.transl, person.betas))
    return joints(body, "coco17", body(turns, *values)[0])[0].numpy().astype(float)


def read(name: str, folder: Path, **options):
    return DATASETS[name].read(folder, ReadOptions(**options))


def measure(name: str, cases, engine) -> dict[str, float | None]:
    (result,) = DATASETS[name].protocol.run(engine, cases)
    return figures(DATASETS[name].protocol.figures, result.samples)[0]


def same_cameras(shots, views, scale: bool = False) -> None:
    """Shots have the views' cameras, by the order of both."""
    for shot, view in zip(shots, views, strict=True):
        np.testing.assert_allclose(shot.T_world_cam, view.T_world_cam, atol=1e-5)
        if shot.K is not None:
            np.testing.assert_allclose(shot.K, view.K, atol=1e-3)
        assert np.abs(shot.image().astype(float) - view.rgb).mean() < 6  # JPEG


# --- people ---------------------------------------------------------------------------------------


def test_egohumans(room, tmp_path):
    views, person = room
    make.egohumans(tmp_path, views, {"aria01": coco(person), "aria02": coco(person) + 1})
    (case,) = read("egohumans", tmp_path)
    assert case.name == "01_tagging/001_tagging/00001" and len(case.shots) == 4
    same_cameras(case.shots, views)
    assert case.people.keys() == {"aria01", "aria02"}
    assert case.joint_set == "coco17"
    np.testing.assert_allclose(case.people["aria02"], coco(person) + 1, atol=1e-6)
    assert len(read("egohumans", tmp_path, views=2)[0].shots) == 2
    assert [s.name for s in read("egohumans", tmp_path, split="small", views=2)[0].shots] == [
        "cam01",
        "cam04",
    ]


def test_egohumans_refuses_what_is_not_there(room, tmp_path):
    views, person = room
    make.egohumans(tmp_path, views, {"aria01": coco(person)})
    with pytest.raises(DatasetError, match=r"found nothing.*exo/camNN"):
        read("egohumans", tmp_path, split="large")
    with pytest.raises(DatasetError, match="no split 'test'; expected all, small or large"):
        read("egohumans", tmp_path, split="test")
    (tmp_path / "01_tagging/001_tagging/colmap/workplace/cameras.txt").write_text("1 CUBE 2 2 1\n")
    with pytest.raises(DatasetError, match=r"cameras\.txt:1: camera model CUBE"):
        read("egohumans", tmp_path)


def test_people_and_cameras_seen_perfectly(room, tmp_path):
    """The papers' figures of a perfect network; what is left is the body fit's."""
    views, person = room
    make.egohumans(tmp_path, views, {"aria01": coco(person)})
    values = measure("egohumans", read("egohumans", tmp_path), Oracle(views))
    assert values["people_recall"] == values["people_precision"] == 1
    assert values["rra10"] == values["cca10"] == values["s_cca10"] == values["cameras_placed"] == 1
    assert values["te_m"] < 0.05 and values["ae_deg"] < 1
    assert values["w_mpjpe_m"] < 0.06 and values["pa_mpjpe_m"] < 0.05


def test_who_is_elsewhere_is_missed(room, tmp_path):
    views, person = room
    beside = coco(person) + 0.9 * np.array([1, 1, 0])
    make.egohumans(tmp_path, views, {"aria01": coco(person), "aria02": beside})
    values = measure("egohumans", read("egohumans", tmp_path), Oracle(views))
    assert values["people_recall"] == 0.5 and values["people_precision"] == 1
    (case,) = read("egohumans", tmp_path)
    values = measure("egohumans", [replace(case, people={"aria02": beside})], Oracle(views))
    assert values["people_recall"] == 0 and values["w_mpjpe_m"] is None


def test_egoexo4d(room, tmp_path):
    views, person = room
    make.egoexo4d(tmp_path, views, coco(person))
    (case,) = read("egoexo4d", tmp_path)
    assert case.name == "cooking_01/1"
    same_cameras(case.shots, views)  # a video's frame 1 is the bright one
    found = case.people["0"]
    assert case.joint_set == "coco17" and np.isnan(found[WRIST]).all()
    known = np.arange(17) != WRIST
    np.testing.assert_allclose(found[known], coco(person)[known], atol=1e-6)
    with pytest.raises(DatasetError, match="found nothing"):
        read("egoexo4d", tmp_path, split="test")


def test_rich(room, tmp_path):
    views, person = room
    make.rich(tmp_path, views, parameters(person), frames=3)
    cases = read("rich-views", tmp_path, body=BODY)
    assert [case.name for case in cases] == [f"Gym_010_lunge1/0000{k}" for k in (1, 2, 3)]
    same_cameras(cases[0].shots, views)
    np.testing.assert_allclose(cases[0].people["010"], person.joints, atol=1e-4)
    (clip,) = read("rich", tmp_path, body=BODY)
    assert clip.name == "Gym_010_lunge1/010" and len(clip.shots) == 3
    np.testing.assert_allclose(clip.joints, np.tile(person.joints, (3, 1, 1)), atol=1e-4)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "SMPLX_FEMALE.npz").write_bytes(BODY.read_bytes())
    with pytest.raises(DatasetError, match=r"gender\.json"):
        read("rich", tmp_path, body=folder)
    make.write_json(tmp_path / "resource" / "gender.json", {"10": "female"})
    np.testing.assert_allclose(
        read("rich", tmp_path, body=folder)[0].joints[0], person.joints, atol=1e-4
    )
    make.write_json(tmp_path / "resource" / "gender.json", {"10": "male"})
    with pytest.raises(DatasetError, match="'male' in its name"):
        read("rich", tmp_path, body=folder)
    with pytest.raises(DatasetError, match=r"RICH gives body parameters.*--body"):
        read("rich", tmp_path)
    calibration = tmp_path / "scan_calibration" / "Gym" / "calibration" / "000.xml"
    calibration.write_text("<a>", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"000\.xml: expected OpenCV's XML"):
        read("rich", tmp_path, body=BODY)


def test_emdb(video, tmp_path):
    views, person = video
    make.emdb(tmp_path, views, parameters(person))
    (clip,) = read("emdb", tmp_path, body=BODY)
    assert len(clip.shots) == 11
    same_cameras(clip.shots, views)
    np.testing.assert_allclose(clip.joints[:-1], np.tile(person.joints, (10, 1, 1)), atol=1e-4)
    assert np.isnan(clip.joints[-1]).all()
    with pytest.raises(DatasetError, match="found nothing"):
        read("emdb", tmp_path, split="1", body=BODY)


def test_sloper4d(video, tmp_path):
    views, person = video
    make.sloper4d(tmp_path, views, parameters(person))
    (clip,) = read("sloper4d", tmp_path, body=BODY)
    assert clip.rate == 20
    seen = [view for index, view in enumerate(views) if index != 1]
    same_cameras(clip.shots, seen)
    np.testing.assert_allclose(clip.joints, np.tile(person.joints, (10, 1, 1)), atol=1e-4)


def test_a_video_seen_perfectly(video, tmp_path):
    views, person = video
    make.emdb(tmp_path, views, parameters(person))
    values = measure("emdb", read("emdb", tmp_path, body=BODY), Oracle(views))
    assert values["person_found"] == values["cameras_placed"] == 1
    assert values["ate_m"] < 0.02
    assert values["wa_mpjpe_mm"] < 150 and values["w_mpjpe_mm"] < 150


def test_chunks_go_on_in_one_world(video, tmp_path, monkeypatch):
    """Three chunks of five frames, every frame a keyframe: the way of the camera is one."""
    from hamst3r.evaluation import video as video_module

    views, person = video
    make.emdb(tmp_path, views, parameters(person))
    (clip,) = read("emdb", tmp_path, body=BODY)
    monkeypatch.setattr(video_module, "STEP", 1)
    monkeypatch.setattr(video_module, "CHUNK", 4)
    poses = video_module.camera_way(Oracle(views), clip, range(11), ReconstructorConfig())
    assert sorted(poses) == list(range(11))
    found = np.stack([poses[k] for k in range(11)])
    true = np.stack([view.T_world_cam for view in views])
    expected = found[0] @ invert(true[0]) @ true
    assert np.abs(found[:, :3, 3] - expected[:, :3, 3]).max() < 0.02
    assert np.degrees(rotation_angle(found, expected)).max() < 0.5


def test_gaps_are_filled_between_what_is_known():
    values = np.array([np.nan, 1, np.nan, 3, np.nan])[:, None] * [1, 10]
    np.testing.assert_allclose(interpolated(values), np.array([1, 1, 2, 3, 3])[:, None] * [1, 10])
    assert np.isnan(interpolated(np.full((3, 2), np.nan))).all()


# --- bodies ---------------------------------------------------------------------------------------


def test_joints_of_parameters_are_the_body_models():
    rng = np.random.default_rng(0)
    betas, turns = rng.normal(size=10), rng.normal(size=(2, 24, 3)) * 0.4
    transl = rng.normal(size=(2, 3))
    skeleton = load_skeleton(BODY, "female", "a test")
    found = skeleton.joints(betas, turns[:, 0], turns[:, 1:].reshape(2, -1), transl)
    rotations = Rotation.from_rotvec(turns.reshape(-1, 3)).as_matrix().reshape(2, 24, 3, 3)
    _, expected = anny24().skeleton(
        torch.from_numpy(rotations).float(),
        torch.from_numpy(transl).float(),
        torch.from_numpy(np.tile(betas, (2, 1))).float(),
    )
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    body_only = skeleton.joints(betas, turns[:, 0], turns[:, 1:22].reshape(2, -1), transl)
    np.testing.assert_allclose(body_only[:, :22], expected.numpy()[:, :22], atol=1e-5)
    assert np.isnan(body_only[:, 22:]).all()


def wrapped_model(path: Path) -> None:
    """A pickle as SMPL's v1.0: arrays in chumpy objects, a sparse regressor."""
    arrays = dict(np.load(BODY))
    chumpy, ch = types.ModuleType("chumpy"), types.ModuleType("chumpy.ch")

    class Ch:
        def __init__(self, x) -> None:
            self.x = x

        __module__, __qualname__ = "chumpy.ch", "Ch"

    ch.Ch = Ch
    sys.modules |= {"chumpy": chumpy, "chumpy.ch": ch}
    try:
        make.write_pickle(
            path,
            {
                "v_template": Ch(arrays["v_template"]),
                "shapedirs": Ch(arrays["shapedirs"]),
                "J_regressor": csc_matrix(arrays["J_regressor"]),
                "kintree_table": arrays["kintree_table"],
            },
        )
    finally:
        del sys.modules["chumpy"], sys.modules["chumpy.ch"]


def test_models_as_they_are_published_are_read(tmp_path):
    wrapped_model(tmp_path / "SMPL_FEMALE.pkl")
    own = load_skeleton(BODY, "neutral", "a test")
    found = load_skeleton(tmp_path, "female", "a test")
    np.testing.assert_allclose(found.template, own.template, atol=1e-6)
    np.testing.assert_allclose(found.shape, own.shape, atol=1e-6)
    with pytest.raises(DatasetError, match="'male' in its name"):
        load_skeleton(tmp_path, "male", "a test")  # FEMALE holds it, but is not it


def test_what_is_no_body_model_is_refused(tmp_path):
    np.savez(tmp_path / "SMPL_NEUTRAL.npz", v_template=np.zeros((4, 3)))
    with pytest.raises(DatasetError, match="shapedirs, J_regressor, kintree_table missing"):
        load_skeleton(tmp_path, "male", "a test")


# --- pickles --------------------------------------------------------------------------------------


class Command:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_values_are_read_from_pickles(protocol, tmp_path):
    content = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": [np.float32(1.5), None, True, "x"],
        "c": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "d": np.array(["x", "yz"]),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    found = load_pickle(tmp_path / "a.pkl")
    assert found["b"] == content["b"]
    for key in "acd":
        np.testing.assert_array_equal(found[key], content[key])


@pytest.mark.parametrize(
    "content", [Command(), {"a": [Command()]}, np.array([Command()], object), print, Path("/")]
)
def test_pickles_that_would_run_anything_are_refused(content, tmp_path):
    make.write_pickle(tmp_path / "a.pkl", content)
    with pytest.raises(DatasetError, match=r"a\.pkl: refused, it asks for"):
        load_pickle(tmp_path / "a.pkl")
    if not callable(content):
        np.save(tmp_path / "a.npy", np.array(content, object), allow_pickle=True)
        with pytest.raises(DatasetError, match=r"a\.npy: refused"):
            load_npy(tmp_path / "a.npy")


def test_broken_pickles_are_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": np.zeros(100)})[:-30])
    (tmp_path / "a.npy").write_bytes(b"no array")
    for reader, name in ((load_pickle, "a.pkl"), (load_npy, "a.npy"), (load_pickle, "none.pkl")):
        with pytest.raises(DatasetError, match=name):
            reader(tmp_path / name)


# --- poses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ndc_isotropic", "ndc_norm_image_bounds"])
def test_co3d(form, room, tmp_path):
    views, _ = room
    make.co3d(tmp_path, views, form)
    (case,) = read("co3d", tmp_path, views=4)
    assert case.name == "apple/110_13051_23361" and case.group == "apple"
    same_cameras(case.shots, views)
    with pytest.raises(DatasetError, match="found nothing"):
        read("co3d", tmp_path)  # ten images are asked for
    with pytest.raises(DatasetError, match=r"set_lists_manyview_test\.json"):
        read("co3d", tmp_path, split="manyview_test")


def test_images_are_drawn_by_the_seed(room, tmp_path):
    make.co3d(tmp_path, room[0])
    drawn = {
        seed: [s.name for s in read("co3d", tmp_path, views=2, seed=seed)[0].shots]
        for seed in range(8)
    }
    assert drawn[3] == [s.name for s in read("co3d", tmp_path, views=2, seed=3)[0].shots]
    assert len({tuple(names) for names in drawn.values()}) > 1


def test_realestate10k(room, tmp_path):
    views, _ = room
    make.realestate10k(tmp_path, views)
    (case,) = read("realestate10k", tmp_path, views=4)
    same_cameras(case.shots, views)
    with pytest.raises(DatasetError, match="found nothing"):
        read("realestate10k", tmp_path, views=5)  # of the fifth row there is no frame
    clip = tmp_path / "test" / "000c3ab189999a83.txt"
    clip.write_text(clip.read_text().replace(" 0.0 0.0 ", " 0.0 "), encoding="utf-8")
    with pytest.raises(DatasetError, match="expected 19 columns"):
        read("realestate10k", tmp_path)


def test_cameras_seen_perfectly(room, tmp_path):
    make.realestate10k(tmp_path, room[0])
    values = measure("realestate10k", read("realestate10k", tmp_path, views=4), Oracle(room[0]))
    assert values["rra15_percent"] == values["rta15_percent"] == 100
    assert values["maa30_percent"] > 90


# --- depth ----------------------------------------------------------------------------------------

DEPTH_SETS = ("scannet", "eth3d", "dtu", "kitti", "tanks")


@pytest.mark.parametrize("name", DEPTH_SETS)
def test_depth_sets(name, room, tmp_path):
    views, _ = room
    getattr(make, name)(tmp_path, views)
    cases = read(name, tmp_path, views=3)
    assert len(cases) == {"kitti": 1, "scannet": 3}.get(name, 4)
    for case in cases:
        key = case.shots[0]
        depth = key.depth()
        assert all(shot.depth is None for shot in case.shots[1:])
        assert len({shot.name for shot in case.shots}) == len(case.shots)
        view = min(views, key=lambda view: float(np.abs(view.depth - depth).mean()))
        np.testing.assert_allclose(depth, view.depth, atol=0.003)
        assert np.abs(key.image().astype(float) - view.rgb).mean() < 6
    limited = read(name, tmp_path, limit=1)
    assert len(limited) == 1
    with pytest.raises(DatasetError, match="has no splits"):
        read(name, tmp_path, split="test")


@pytest.mark.parametrize("name", DEPTH_SETS)
def test_depth_seen_perfectly(name, room, tmp_path):
    """The nearest pixel of a coarser grid is all that is lost."""
    getattr(make, name)(tmp_path, room[0])
    cases = read(name, tmp_path, views=4, limit=1)
    values = measure(name, cases, Oracle(room[0]))
    assert values["rel_percent"] < 3 and values["tau_percent"] > 85
    assert values["cameras_placed"] == 1


def robustmvd_list(path: Path) -> None:
    """Samples as robustmvd pickles them: objects of its classes."""
    modules = {"rmvd": types.ModuleType("rmvd"), "rmvd.data": types.ModuleType("rmvd.data")}
    modules["rmvd.data.dtu"] = module = types.ModuleType("rmvd.data.dtu")
    for name in ("DTUSample", "DTUImage", "DTUDepth"):
        setattr(module, name, type(name, (), {"__module__": "rmvd.data.dtu"}))

    def thing(kind: str, **values):
        result = getattr(module, kind)()
        vars(result).update(values)
        return result

    sample = thing("DTUSample", name="scan1/key000002", base="scan1")
    sample.data = {
        "images": [thing("DTUImage", path=f"images/{n:08d}.png") for n in (1, 2, 3, 0, 2)],
        "depth": thing("DTUDepth", path="gt_depths/00000002.pfm"),
        "poses": [np.eye(4, dtype=np.float32)] * 5,
        "keyview_idx": 1,
        "depth_range": (0.4, 0.9),
    }
    sys.modules |= modules
    try:
        make.write_pickle(path, [sample])
    finally:
        for name in modules:
            del sys.modules[name]


def test_the_papers_own_samples(room, tmp_path):
    make.dtu(tmp_path, room[0])
    robustmvd_list(tmp_path / "dtu.robustmvd.mvd.pickle")
    (case,) = read("dtu", tmp_path, list_file=tmp_path / "dtu.robustmvd.mvd.pickle")
    assert case.name == "scan1/key000002" and case.group == "scan1"
    # The key image first and once; then the others.
    assert [shot.name for shot in case.shots] == ["00000002", "00000001", "00000003", "00000000"]
    np.testing.assert_allclose(case.shots[0].depth(), room[0][2].depth)


@pytest.mark.parametrize(
    ("name", "file", "content", "words"),
    [
        ("scannet", "scene0000_00/depth/0.png", b"no png", "0.png: expected a depth map"),
        ("eth3d", "courtyard/ground_truth_depth/dslr_images/DSC_0000.JPG", b"1234", "224x160"),
        ("dtu", "scan1/gt_depths/00000000.pfm", b"", "expected a depth map, a grey PFM"),
        ("tanks", "Barn/depth/000001.npz", b"PK", "expected an npz"),
    ],
)
def test_broken_depth_is_named(name, file, content, words, room, tmp_path):
    getattr(make, name)(tmp_path, room[0])
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DatasetError, match=words):
        read(name, tmp_path)[0].shots[0].depth()


def test_other_images_are_the_nearest_ones():
    assert around("abcdef", 2, 4) == ["c", "b", "d", "a"]
    assert around("abc", 0, 9) == ["a", "b", "c"]
    assert evenly(range(10), 3) == [0, 4, 9]
    assert evenly("ab", None) == ["a", "b"]


# --- scans ----------------------------------------------------------------------------------------


def test_dtu_scans(room, tmp_path):
    """A room on a table: an eighth of its size."""
    views = [
        replace(
            view,
            depth=view.depth / 8,
            T_world_cam=make_T(view.T_world_cam[:3, :3], view.T_world_cam[:3, 3] / 8),
        )
        for view in room[0]
    ]
    points = np.concatenate(
        [
            transform(view.T_world_cam, p[view.depth > 0])
            for view in views
            for p in [on_grid_points(view)]
        ]
    )
    make.dtu_scans(tmp_path, views, points)
    (case,) = read("dtu-scans", tmp_path)
    assert case.name == "scan1"
    same_cameras(case.shots, views)
    truth = case.scan()
    np.testing.assert_allclose(truth.points, 1000 * points, rtol=1e-4, atol=0.1)
    assert truth.observed(truth.points).all() and truth.above(truth.points).all()
    values = measure("dtu-scans", [case], Oracle(views))
    assert values["accuracy_mm"] < 4 and values["completeness_mm"] < 4
    assert values["overall_mm"] == pytest.approx(
        (values["accuracy_mm"] + values["completeness_mm"]) / 2
    )
    (tmp_path / "Points" / "stl" / "stl001_total.ply").write_bytes(b"ply\n")
    with pytest.raises(DatasetError, match="stl001_total"):
        case.scan()
    (tmp_path / "ObsMask" / "Plane1.mat").write_bytes(b"none")
    with pytest.raises(DatasetError, match="expected DTU's mask and plane"):
        case.scan()


def on_grid_points(view) -> np.ndarray:
    height, width = view.depth.shape
    v, u = np.mgrid[0:height, 0:width]
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(view.K).T
    return rays * view.depth[..., None]


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fisheye", [False, True])
def test_images_are_undistorted_with_the_same_K(fisheye):
    """A point drawn where the lens puts it is found where a pinhole camera sees it."""
    K = np.array([[200.0, 0, 160], [0, 200, 120], [0, 0, 1]])
    distortion = np.array([-0.1, 0.02, 0.0, 0.0])
    point = np.array([[[0.4, -0.25, 1.0]]])
    projector = cv2.fisheye.projectPoints if fisheye else cv2.projectPoints
    (u, v), *_ = projector(point, np.zeros(3), np.zeros(3), K, distortion)[0].reshape(-1, 2)
    image = np.zeros((240, 320, 3), np.uint8)
    cv2.circle(image, (round(u), round(v)), 4, (255, 255, 255), -1)
    flat = Lens(K, distortion, fisheye).undistort(image)[..., 0]
    rows, columns = np.nonzero(flat > 128)
    expected = project(point[0], K)[0]
    assert np.abs([columns.mean(), rows.mean()] - expected).max() < 1
    assert np.abs([u, v] - expected).max() > 1


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(HAMSt3R(replace(SMALL, image_size=96)), path, {})
    return path


def test_every_data_set_is_on_the_command_line():
    assert eval_command.DATASETS.keys() == DATASETS.keys()
    for name, dataset in DATASETS.items():
        assert dataset.columns.keys() <= {figure.name for figure in dataset.protocol.figures}
        for row in dataset.published:
            assert row.values.keys() <= dataset.columns.keys(), name
            assert row.source


def test_the_papers_rows_stand_beside_ours(room, weights, tmp_path, capsys):
    make.egohumans(tmp_path, room[0], {"aria01": coco(room[1])})
    report = tmp_path / "report.json"
    arguments = ["eval", "egohumans", str(tmp_path), "--weights", str(weights), "--views", "2"]
    assert cli.main([*arguments, "--device", "cpu", "--json", str(report)]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    heading = next(line for line in lines if "W-MPJPE m" in line)
    paper = next(line for line in lines if line.startswith("HAMSt3R ["))
    ours = next(line for line in lines if line.startswith("this run, tiny.safetensors"))
    assert len(heading) == len(paper) == len(ours)
    column = heading.index("AE deg") + len("AE deg")
    assert paper[:column].endswith(" 10.24")
    document = json.loads(report.read_text(encoding="utf-8"))
    assert ours[:column].endswith(f" {document['ae_deg']:.2f}")
    assert "[1] HAMSt3R, arXiv 2508.16433" in printed
    assert "images: 4 exo cameras" in printed and "; but with --views 2" in printed
    assert document["images"].endswith("; but with --views 2")
    assert document["settings"]["cases"] == 1 and document["settings"]["views"] == 2
    assert {"method": "HSfM", "source": "HAMSt3R, arXiv 2508.16433"}.items() <= next(
        row for row in document["published"] if row["method"] == "HSfM"
    ).items()


def test_places_of_one_network_and_people_of_another(room, weights, tmp_path, capsys):
    make.egohumans(tmp_path, room[0], {"aria01": coco(room[1])})
    report = tmp_path / "report.json"
    arguments = ["eval", "egohumans", str(tmp_path), "--weights", str(weights), "--views", "2"]
    arguments += ["--human-weights", "compact", "--image-size", "224", "--precision", "fp32"]
    assert cli.main([*arguments, "--device", "cpu", "--json", str(report)]) == 0
    name = "tiny.safetensors + hamst3r_compact.safetensors"
    assert f"this run, {name}" in capsys.readouterr().out
    settings = json.loads(report.read_text(encoding="utf-8"))["settings"]
    assert settings["human_weights"] == "hamst3r_compact.safetensors"
    assert settings["image_size"] == 224 and settings["precision"] == "fp32"


def test_one_broken_image_costs_one_case(room, weights, tmp_path, capsys):
    make.tanks(tmp_path, room[0])
    (tmp_path / "Barn" / "depth" / "000001.npz").write_bytes(b"PK")
    report = tmp_path / "report.json"
    arguments = ["eval", "tanks", str(tmp_path), "--weights", str(weights), "--views", "2"]
    assert cli.main([*arguments, "--device", "cpu", "--json", str(report)]) == 0
    captured = capsys.readouterr()
    assert "left out Barn/00000000" in captured.err and "000001.npz" in captured.err
    document = json.loads(report.read_text(encoding="utf-8"))
    assert document["settings"]["cases"] == 3
    assert len(document["settings"]["unreadable"]) == 1
    assert document["counts"]["cameras_placed"] == 3


def test_an_interruption_costs_nothing_measured(room, weights, tmp_path, monkeypatch, capsys):
    make.tanks(tmp_path, room[0])
    report = tmp_path / "report.json"
    calls = iter(range(9))
    genuine = ImageFile.__call__

    def impatient(self):
        if self.path.stem == "00000002" and next(calls) == 0:
            return genuine(self)
        if self.path.stem == "00000002":
            raise KeyboardInterrupt
        return genuine(self)

    monkeypatch.setattr(ImageFile, "__call__", impatient)
    arguments = ["eval", "tanks", str(tmp_path), "--weights", str(weights), "--views", "2"]
    assert cli.main([*arguments, "--device", "cpu", "--json", str(report)]) == 130
    captured = capsys.readouterr()
    assert "interrupted" in captured.err and "this run" in captured.out
    settings = json.loads(report.read_text(encoding="utf-8"))["settings"]
    assert settings["interrupted"] is True and 0 < settings["cases"] < 4


def test_categories_count_alike(room):
    from hamst3r.evaluation.comparison import measure as sum_up
    from hamst3r.evaluation.samples import Samples

    groups = {}
    for name, errors in (("apple", [1.0, 1, 1]), ("car", [90.0])):
        groups[name] = []
        for error in errors:
            samples = Samples()
            samples.add("rotation", error)
            groups[name].append(samples)
    assert sum_up(DATASETS["co3d"], groups).values["rra15_percent"] == 50
    assert sum_up(DATASETS["realestate10k"], groups).values["rra15_percent"] == 75


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["egohumans", "nowhere"], "nowhere: no such folder"),
        (["emdb", "."], "found nothing to evaluate; expected P<n>"),
        (["co3d", "{empty}"], "expected folders of categories"),
    ],
)
def test_bad_folders_are_one_line(arguments, words, tmp_path, capsys):
    arguments = [a.replace("{empty}", str(tmp_path)) for a in arguments]
    assert cli.main(["eval", *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert words in error and "\n" not in error


def test_cases_and_clips_are_what_the_protocols_take(room, video, tmp_path):
    make.rich(tmp_path, room[0], parameters(room[1]), frames=2)
    assert isinstance(read("rich", tmp_path, body=BODY)[0], Clip)
    assert isinstance(read("rich-views", tmp_path, body=BODY)[0], Case)
    assert invert(room[0][0].T_world_cam).shape == (4, 4)
