"""hamst3r reconstruct with the shipped weights, and what makes it fit for many images."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from synthetic_pairs import make_room
from test_reconstructor import ExactEngine

from hamst3r import pair_store
from hamst3r.alignment.fusion import clean
from hamst3r.cli import main
from hamst3r.engine import PairEngine
from hamst3r.export import load_scene
from hamst3r.frames import Frame
from hamst3r.image import prepare
from hamst3r.inputs import InputOptions, open_inputs
from hamst3r.network.checkpoint import shipped_weights
from hamst3r.offline import OfflineOptions, reconstruct
from hamst3r.pair_graphs import PairGraph, similar, swin
from hamst3r.pair_store import PairStore
from hamst3r.pairs import choose_pairs
from hamst3r.reconstructor import Reconstructor, ReconstructorConfig
from hamst3r.recording import open_recording
from hamst3r.refine import RefineOptions, refine, sky
from hamst3r.synthetic.generator import SceneGenerator


def connected(edges, views):
    group = {0}
    while True:
        more = {v for edge in edges if group & set(edge) for v in edge}
        if more <= group:
            return len(group) == views
        group |= more


def undirected(edges):
    assert len({frozenset(edge) for edge in edges}) == len(edges), "no pair twice"
    return {tuple(sorted(edge)) for edge in edges}


def test_graphs_are_what_their_names_say():
    def edges(name, views, ordered=False):
        return PairGraph.parse(name).edges(views, lambda: pytest.fail("not needed"), ordered)

    assert undirected(edges("complete", 4)) == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    assert undirected(edges("swin-1", 4)) == {(0, 1), (1, 2), (2, 3), (0, 3)}
    assert undirected(edges("swin-2-noncyclic", 4)) == {(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)}
    assert undirected(edges("swin-9", 4)) == undirected(edges("complete", 4))
    assert edges("oneref-2", 4) == [(2, 0), (2, 1), (2, 3)]
    assert undirected(edges("auto", 6)) == undirected(edges("complete", 6))
    for name in ("complete", "swin-3", "oneref-0", "auto"):
        assert edges(name, 1) == [(0, 0)]
    assert len(swin(100, 3, True)) == 300
    with pytest.raises(ValueError, match="there are only 4 views"):
        edges("oneref-4", 4)


@pytest.mark.parametrize("name", ["", "swin", "swin-0", "swin-x", "oneref", "oneref-1-noncyclic"])
def test_other_graphs_are_refused(name):
    with pytest.raises(ValueError, match="swin-K"):
        PairGraph.parse(name)


def test_auto_finds_what_is_alike_and_keeps_all_together():
    rng = np.random.default_rng(0)
    places = rng.normal(size=(5, 16))
    which = np.repeat(np.arange(5), 8)
    features = (10 + places[which] + 0.1 * rng.normal(size=(40, 16))).astype(np.float32)
    edges = similar(features, 5, ordered=False)
    same = sum(which[i] == which[j] for i, j in edges)
    assert connected(edges, 40) and len(edges) - same == 4, "a tree between the places"
    assert len(edges) <= PairGraph.parse("auto").count(40)
    assert len(undirected(edges)) == len(edges)
    firsts = {i for i, _ in edges}
    assert len(firsts) >= 36, "nearly every view is first in a pair"
    assert {(k, k + 1) for k in range(39)} <= undirected(similar(features, 2, ordered=True))


class Counting(ExactEngine):
    """Exact predictions, counted; can be interrupted."""

    precision, sha256 = "fp32", "exact"

    def __init__(self, room, stop_after=10**9):
        super().__init__(room)
        self.pairs, self.stop_after = 0, stop_after

    def predict(self, images, edges):
        if self.pairs >= self.stop_after:
            raise KeyboardInterrupt
        self.pairs += len(edges)
        # One by one: the noise of an edge must not depend on its place in a batch.
        return [_single(super(Counting, self).predict(images, [edge])[0]) for edge in edges]

    def describe(self, images):
        return torch.stack([image.tensor.mean((1, 2)) for image in images])


def _single(prediction):
    """In single precision, as networks predict."""
    tensors = {k: v.float() for k, v in vars(prediction).items() if torch.is_tensor(v)}
    return replace(prediction, **tensors)


@pytest.fixture(scope="module")
def room():
    return make_room(4, 1)


def test_a_store_changes_nothing_and_remembers_everything(room, tmp_path, monkeypatch):
    monkeypatch.setattr(pair_store, "CHUNK", 2)
    frames = room.frames(poses=False)
    direct = Reconstructor(Counting(room)).push(frames)
    seen = []
    engine = Counting(room)
    store = PairStore(engine, tmp_path / "pairs", progress=lambda *n: seen.append(n))
    stored = Reconstructor(store).push(frames)
    np.testing.assert_allclose(stored.points.xyz, direct.points.xyz, atol=1e-6)
    np.testing.assert_array_equal(stored.points.instance, direct.points.instance)
    assert engine.pairs == 6 and seen == [(2, 6)] * 3
    again = PairStore(engine, tmp_path / "pairs")
    np.testing.assert_array_equal(Reconstructor(again).push(frames).points.xyz, stored.points.xyz)
    assert engine.pairs == 6 and (again.found, again.predicted) == (6, 0)
    # Another image, or a damaged file, is predicted anew.
    victim = sorted((tmp_path / "pairs").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:100])
    changed = [replace(f, image=f.image // 2 + k) for k, f in enumerate(frames.frames)]
    Reconstructor(again).push(replace(frames, frames=tuple(changed)))
    assert engine.pairs == 12
    Reconstructor(again).push(frames)
    assert engine.pairs == 14
    again.clear()
    assert not (tmp_path / "pairs").exists()


def test_pairs_are_the_callers_choice(room):
    engine = Counting(room)
    seen = []

    def chain(images):
        seen.extend(image.camera for image in images)
        return [(0, 1), (1, 2), (2, 3)]

    scene = Reconstructor(engine).push(room.frames(), chain)
    assert engine.pairs == 3 and seen == list(room.frames().cameras) and len(scene.cameras) == 4
    with pytest.raises(ValueError, match=r"pair \(0, 4\) was chosen of 4 images; expected two ind"):
        Reconstructor(engine).push(room.frames(), lambda images: [(0, 4)])


def test_people_are_asked_of_a_few_pairs_of_each_view(room, tmp_path):
    store = PairStore(Counting(room), tmp_path, pairs_with_people=1)
    Reconstructor(store).push(room.frames(poses=False))
    predictions = store.predict(_network_images(room), choose_pairs(4))
    with_people = [p for p in predictions if p.person_prob is not None]
    assert len(predictions) == 6 and len(with_people) == 2
    assert sorted(view for p in with_people for view in (p.i, p.j)) == [0, 1, 2, 3]


def _network_images(room):
    return [prepare(f, 160, 2, 2) for f in room.frames(poses=False).frames]


class RoomSource:
    title, ordered, sets = "a room", False, 1

    def __init__(self, room):
        self.room, self.originals = room, {}

    def frame_sets(self):
        yield self.room.frames(poses=False)


def test_an_interrupted_run_goes_on(room, tmp_path, monkeypatch):
    monkeypatch.setattr(pair_store, "CHUNK", 2)
    engine = Counting(room, stop_after=4)
    options = OfflineOptions(pairs="complete")
    with pytest.raises(KeyboardInterrupt):
        list(reconstruct(RoomSource(room), engine, tmp_path, options))
    engine.stop_after = 10**9
    (result,) = reconstruct(RoomSource(room), engine, tmp_path, options)
    assert engine.pairs == 6, "nothing was predicted twice"
    direct = Reconstructor(Counting(room)).push(room.frames(poses=False))
    np.testing.assert_allclose(result.scene.points.xyz, direct.points.xyz, atol=1e-6)
    assert len(result.edges) == 6 and set(result.images) == set(room.frames().cameras)


def test_more_pairs_than_memory_are_refused_in_advance(room, tmp_path):
    options = OfflineOptions(pairs="complete", memory=1 << 20)
    with pytest.raises(ValueError, match=r"complete of 4 images is 6 pairs.*--pairs swin-3"):
        list(reconstruct(RoomSource(room), Counting(room), tmp_path, options))


def test_cleaning_along_pairs_is_cleaning(room):
    """Floating points lose their confidence as in the alignment, which judges all by all."""
    frames = room.frames(poses=True)
    scene = Reconstructor(ExactEngine(room)).push(frames)
    view = scene.views[0]
    depth = view.depth.copy()
    depth[10:50, 20:60] *= 0.5
    broken = replace(scene, views=(replace(view, depth=depth), *scene.views[1:]))
    names = frames.cameras
    edges = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
    keep_all = ReconstructorConfig(relative_confidence=0)
    kept = refine(broken, edges, RefineOptions(keep_all))
    raw = refine(broken, edges, RefineOptions(keep_all, clean_depth=False))
    assert len(raw.points) > len(kept.points)
    columns = [
        [getattr(view, name) for view in broken.views] for name in ("depth", "confidence", "K")
    ]
    poses = np.stack([camera.T_world_cam for camera in broken.cameras])
    expected = clean(*columns, poses, range(len(names)))
    changed = 0
    for refined, before, confidence in zip(kept.views, raw.views, expected, strict=True):
        np.testing.assert_array_equal(refined.confidence, confidence)
        changed += int((confidence != before.confidence).sum())
    assert changed > 10
    alone = refine(broken, [], RefineOptions(keep_all))
    assert len(alone.points) == len(raw.points), "who is in no pair is not judged"


def test_minimum_confidence_and_numbers_of_people(room):
    scene = Reconstructor(ExactEngine(room)).push(room.frames(poses=True))
    middle = float(np.median(scene.points.confidence))
    config = ReconstructorConfig(point_confidence=middle, relative_confidence=0)
    refined = refine(scene, [], RefineOptions(config, clean_depth=False))
    assert 0 < len(refined.points) < len(scene.points)
    assert refined.points.confidence.min() > middle
    for person in refined.people:
        assert person.num_points == int((refined.points.instance == person.id).sum())


def test_sky_is_bright_smooth_and_above():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 120, (80, 100, 3)).astype(np.uint8)
    image[:40] = (150, 180, 230)
    image[30:40, :20] = (40, 60, 30)  # a tree
    image[60:70, 40:60] = (150, 180, 230)  # a puddle
    found = sky(image)
    assert found[:27].mean() > 0.99 and not found[32:40, 3:17].any() and not found[43:].any()
    indoors = np.full((80, 100, 3), (180, 150, 120), np.uint8)
    assert not sky(indoors).any()


def write_photos(folder, count, size=(160, 120)):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    panorama = cv2.resize(rng.integers(0, 255, (12, 60, 3), np.uint8), (size[0] * 3, size[1]))
    for k in range(count):
        shift = k * size[0] // max(count, 1)
        Image.fromarray(panorama[:, shift : shift + size[0]]).save(folder / f"p{k:03d}.png")
    return folder


def test_photos_become_a_scene_in_all_formats(tmp_path, capsys):
    photos = write_photos(tmp_path / "photos", 3)
    out = tmp_path / "out"
    assert main(["reconstruct", str(photos), "--out", str(out), "--pairs", "swin-1"]) == 0
    written = {path.name for path in out.iterdir()}
    assert written >= {"scene.npz", "scene.json", "report.html", "points.ply", "scene.glb",
                       "colmap", "depth", "instances", "images", "people.npz"}  # fmt: skip
    assert not written & {"state.json", ".pairs"}, "nothing temporary stays"
    scene = load_scene(out / "scene.npz")
    document = json.loads((out / "scene.json").read_text())
    assert len(document["pairs"]) == 3
    assert document["originals"]["p000"]["width"] == 160
    assert [c.name for c in scene.cameras] == [view.camera for view in scene.views]
    assert f"{len(scene.cameras)} of 3 cameras placed" in capsys.readouterr().out


def test_one_image_is_enough_and_a_mesh_can_be_had(tmp_path):
    photos = write_photos(tmp_path / "photos", 1)
    arguments = ["--as", "mesh", "--formats", "glb", "--camera-size", "0", "--min-confidence", "1"]
    assert main(["reconstruct", str(photos), "--out", str(tmp_path / "o"), *arguments]) == 0
    names = set(trimesh.load(tmp_path / "o" / "scene.glb").geometry)
    assert names == {"surface/p000"}


def test_a_recording_becomes_a_sequence_whose_cameras_are_the_calibrated(tmp_path):
    data = Path(__file__).parents[3] / "shared/data/balancing"
    if not data.is_dir():
        pytest.skip("the recording is not beside the repository")
    out = tmp_path / "out"
    arguments = ["--sets", "2", "--every", "0.2", "--formats", "smpl", "--quiet"]
    assert main(["reconstruct", str(data), "--out", str(out), *arguments]) == 0
    sequence = json.loads((out / "sequence.json").read_text())
    assert [entry["stamp"] for entry in sequence["sets"]] == [0, 200_000_000]
    known = open_recording(data, report=print).cameras
    for entry in sequence["sets"]:
        scene = load_scene(out / entry["folder"] / "scene.npz")
        assert len(scene.cameras) == 4
        for camera in scene.cameras:
            np.testing.assert_array_equal(camera.T_world_cam, known[camera.name].T_rig_cam)
            assert max(camera.width, camera.height) == InputOptions.side
            assert camera.K[0, 0] / camera.height == pytest.approx(
                known[camera.name].K[0, 0] / known[camera.name].height, rel=1e-3
            )
        assert scene.people and scene.people[0].num_points > 100
    with np.load(out / "people.npz") as people:
        assert set(people["seen_stamp"]) == {0, 200_000_000}
    text = (out / "report.html").read_text()
    assert "person 1" in text and all(f"cam0{k}" in text for k in range(1, 5))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--pairs", "swin"], "pairs must be complete, swin-K"),
        (["--memory", "0"], "--memory must be a positive number"),
        (["--formats", "ply,stl"], "unknown formats stl"),
        (["--camera-size", "-1"], "cameras' size"),
        (["--max-images", "0"], "at least one image"),
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--device", "toaster"], "device must be auto, cpu, cuda"),
        (["--topic", "/a/image_raw"], "is no bag; topics can be chosen only of one"),
        (["--calibration", "nowhere.json"], "nowhere.json: cannot read the calibration"),
        (["--memory", "1e-6"], "GB, and 1e-06 GB are allowed (--memory)"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, capsys, arguments, expected):
    photos = write_photos(tmp_path / "photos", 1)
    assert main(["reconstruct", str(photos), "--out", str(tmp_path / "o"), *arguments]) == 1
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys):
    (tmp_path / "x.jpg").write_text("no image")
    assert main(["reconstruct", str(tmp_path / "x.jpg"), "--out", str(tmp_path / "o")]) == 1
    error = capsys.readouterr().err
    assert error == f"hamst3r reconstruct: {tmp_path / 'x.jpg'}: not an image that can be read\n"
    assert not (tmp_path / "o" / "scene.npz").exists()
    shutil.rmtree(tmp_path / "o", ignore_errors=True)


def test_wrong_values_are_told_with_the_usage(tmp_path, capsys):
    for arguments in (["--image-size", "0"], ["--min-confidence", "0.5"], ["--pairs"]):
        with pytest.raises(SystemExit) as ended:
            main(["reconstruct", str(tmp_path), "--out", str(tmp_path / "o"), *arguments])
        assert ended.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_what_the_system_and_imports_say_is_one_line_too(tmp_path, capsys):
    assert main(["batch", "--list", str(tmp_path / "none"), "--out", str(tmp_path / "o")]) == 1
    expected = f"hamst3r batch: {tmp_path / 'none'}: no such file or directory\n"
    assert capsys.readouterr().err == expected
    without = "import sys; sys.modules['embreex'] = None; from hamst3r.cli import main; "
    words = ["synth", "preview", "--out", str(tmp_path / "sheet.png")]
    command = [sys.executable, "-c", f"{without}sys.exit(main({words}))"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "pip install 'hamst3r[synthetic]'" in done.stderr


def test_open_inputs_wants_some():
    with pytest.raises(ValueError, match="no input"):
        open_inputs([], InputOptions(), print)


def test_a_terminal_shows_a_bar_with_the_time_left(tmp_path):
    photos = write_photos(tmp_path / "photos", 8)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "hamst3r.cli", "reconstruct", str(photos), "--pairs"]
    command += ["complete", "--out", str(tmp_path / "out"), "--formats", "ply"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how a terminal says that nobody writes any more
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(60) == 0
    text = shown.decode()
    assert re.search(r"86%.* 24/28 \[\d\d:\d\d<\d\d:\d\d, ", text)
    assert "28/28" in text and "aligning" in text and "writing" in text


def test_a_broken_video_is_one_line(tmp_path):
    """Of the process: FFmpeg must not add lines of its own."""
    video = tmp_path / "cut.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"mp4v"), 10, (96, 64))
    for k in range(30):
        writer.write(np.full((64, 96, 3), 8 * k, np.uint8))
    writer.release()
    whole = video.read_bytes()
    assert len(whole) > 1000
    video.write_bytes(whole[: len(whole) // 2])
    command = [sys.executable, "-m", "hamst3r.cli", "reconstruct", str(video)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=120
    )
    expected = f"{video}: cannot be read as a video; is it complete?"
    assert done.returncode == 1 and done.stderr == f"hamst3r reconstruct: {expected}\n"


def test_the_encoder_finds_images_of_the_same_place():
    """With the shipped weights: 12 images of 4 generated scenes; chance is two in eleven."""
    engine = PairEngine.from_checkpoint(shipped_weights(), "cpu", "fp32")
    images, place = [], []
    for seed in range(4):
        for view in SceneGenerator().sample(900_700 + seed).views[:3]:
            images.append(prepare(Frame(f"{len(images)}", 0, view.rgb), 224, 16, 2))
            place.append(seed)
    features = engine.describe(images).numpy()
    assert features.shape == (12, 192)
    edges = similar(features, 2, ordered=False)
    assert connected(edges, 12)
    same = np.mean([place[i] == place[j] for i, j in edges])
    assert same > 2 * 2 / 11
    assert engine.counters.encodes == 12 and engine.counters.decodes == 0
