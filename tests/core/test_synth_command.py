"""``hamst3r synth`` as a user calls it, and packs of models."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from hamst3r.cli import main
from hamst3r.synthetic.assets import load_pack
from hamst3r.synthetic.generator import HELD_OUT, GeneratorConfig, SceneGenerator
from hamst3r.training.render import fill, parse_seeds
from hamst3r.training.store import SceneStore

FEW = ["--place", "corridor", "--difficulty", "0.1"]


def test_preview_draws_what_the_generator_makes(tmp_path: Path, capsys) -> None:
    out = tmp_path / "sheet.png"
    arguments = ["--seed", "5", "--views", "2", "--size", "64x48", "--clean", *FEW]
    assert main(["synth", "preview", "--out", str(out), *arguments]) == 0
    told = capsys.readouterr().out
    assert "seed 5: corridor" in told and "seen per view" in told
    sheet = cv2.imread(str(out))[..., ::-1]
    config = GeneratorConfig(sensor=0.0, place="corridor", difficulty=0.1)
    views = SceneGenerator(config).sample(5, (64, 48), 2).views
    assert sheet.shape == (4 * 48, 2 * 64, 3)
    assert (sheet[:48, 64:] == views[1].rgb).all()


def test_write_fills_a_store_once(tmp_path: Path, capsys) -> None:
    store = SceneStore(tmp_path / "scenes")
    call = ["synth", "write", "--out", str(store.folder), *FEW]
    assert main([*call, "--seeds", "4:6"]) == 0
    assert "2 scenes, 0 of them" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in store.paths()}
    assert main([*call, "--seeds", "4:7"]) == 0
    assert "3 scenes, 2 of them" in capsys.readouterr().out
    assert [path.name for path in store.paths()] == [f"scene_{k:08d}.npz" for k in (4, 5, 6)]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    scene = store.read(store.paths()[1])
    config = GeneratorConfig(sensor=0.0, place="corridor", difficulty=0.1)
    view = SceneGenerator(config).sample(5, (224, 168), 4).views[2]
    assert (scene.rgb[2].permute(1, 2, 0).numpy() == view.rgb).all()
    assert main([*call, "--seeds", "3:4", "--side", "64"]) == 0
    assert store.read(store.paths()[0]).rgb.shape == (4, 3, 64, 48)


def test_several_processes_write_the_same(tmp_path: Path) -> None:
    config = GeneratorConfig(sensor=0.0, place="corridor", difficulty=0.0, clutter=0.2)
    alone, together = SceneStore(tmp_path / "a"), SceneStore(tmp_path / "b")
    assert list(fill(alone.folder, range(1, 3), config)) == [1, 2]
    assert sorted(fill(together.folder, range(1, 3), config, jobs=2)) == [1, 2]
    for a, b in zip(alone.paths(), together.paths(), strict=True):
        assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["preview", "--out", "/nowhere/at/all.png"], "no such folder"),
        (["preview", "--out", "a.nonsense", *FEW, "--size", "16x16"], "end in .png"),
        (["preview", "--out", "a.png", "--place", "moon"], "room, corridor, hall, yard"),
        (["preview", "--out", "a.png", "--difficulty", "3"], "within 0 and 1"),
        (["preview", "--out", "a.png", "--assets", "nothing/here"], "no such folder of models"),
        (["write", "--out", "scenes", "--seeds", "12"], "FIRST"),
        (["write", "--out", "scenes", "--seeds", "9:4"], "no seeds"),
        (["write", "--out", "scenes", "--seeds", "a:b"], "FIRST:LAST"),
        (["write", "--out", "scenes", "--seeds", f"5:{HELD_OUT + 1}"], "held out"),
        (["write", "--out", "file", "--seeds", "0:1"], "is a file"),
    ],
)
def test_bad_arguments_get_one_line(arguments, told, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["synth", *arguments]) == 1
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_seeds_may_have_a_step() -> None:
    assert parse_seeds("0:10:4") == range(0, 10, 4)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A red and blue box of 0.6 x 0.4 x 0.9 m (y up), something tiny, and something broken."""
    folder = tmp_path / "pack" / "box"
    folder.mkdir(parents=True)
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4], image[:, 4:] = (0, 0, 255), (255, 0, 0)  # BGR: red on the left
    cv2.imwrite(str(folder / "paint.png"), image)
    (folder / "box.mtl").write_text("newmtl paint\nKd 1 1 1\nmap_Kd paint.png\n")
    corners = [(x, y, z) for x in (0, 0.6) for y in (0, 0.9) for z in (0, 0.4)]
    sides = [(1, 5, 7, 3), (4, 0, 2, 6), (0, 1, 3, 2), (5, 4, 6, 7), (2, 3, 7, 6), (0, 4, 5, 1)]
    lines = ["mtllib box.mtl", "usemtl paint"]
    lines += [f"v {x} {y} {z}" for x, y, z in corners]
    lines += ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"]
    lines += ["f " + " ".join(f"{v + 1}/{k + 1}" for k, v in enumerate(side)) for side in sides]
    (folder / "box.obj").write_text("\n".join(lines) + "\n")
    (folder / "box_collision.obj").write_text("\n".join(lines) + "\n")
    tiny = [f"v {x / 50} {y / 50} {z / 50}" for x, y, z in corners]
    (folder / "tiny.obj").write_text("\n".join([*tiny, "f 1 2 3", "f 4 5 6"]) + "\n")
    (folder / "broken.glb").write_bytes(b"glTF and then nothing")
    return folder.parent


def test_a_pack_furnishes_rooms(pack: Path) -> None:
    models = load_pack(pack).models
    assert [model.name for model in models] == ["box"]
    np.testing.assert_allclose(models[0].size, (0.6, 0.4, 0.9))
    vertices = np.concatenate([piece.vertices for piece in models[0].pieces])
    np.testing.assert_allclose(vertices.min(0), (-0.3, -0.2, 0.0), atol=1e-9)
    empty = {"sensor": 0.0, "empty": 1.0, "place": "room", "lookalikes": 0.0}
    generator = SceneGenerator(GeneratorConfig(**empty, assets=pack))
    views = [view for seed in range(2) for view in generator.sample(seed, (96, 72), 3).views]
    rgb = np.stack([view.rgb for view in views]).astype(int)
    red = (rgb[..., 0] > 80) & (rgb[..., 0] > 3 * rgb[..., 1]) & (rgb[..., 0] > 3 * rgb[..., 2])
    assert red.sum() > 50
    assert not any(view.instances.any() for view in views)


def test_a_model_may_not_name_files_outside_its_pack(pack: Path) -> None:
    secret = pack.parent / "secret.png"
    cv2.imwrite(str(secret), np.full((8, 8, 3), 255, np.uint8))
    (pack / "box" / "box.mtl").write_text("newmtl paint\nKd 0 1 0\nmap_Kd ../../secret.png\n")
    load_pack.cache_clear()
    try:
        models = load_pack(pack).models
    except ValueError:
        return  # refused as a whole
    assert all(piece.image < 0 for model in models for piece in model.pieces)


def test_a_folder_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of 0 files"):
        load_pack(tmp_path)
