"""Clothes in MakeHuman's format, made here: a shirt around the trunk, a hat, and broken ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hamst3r.cli import main
from hamst3r.people.body import anny24
from hamst3r.synthetic.bodies import Figure
from hamst3r.synthetic.clothing import HAT, SUIT, Garment, sample_outfit
from hamst3r.synthetic.generator import GeneratorConfig, SceneGenerator
from hamst3r.synthetic.wardrobe import _base_mesh, load_wardrobe

AWAY = 0.03  # metres between the shirt and the skin


def write_garment(folder: Path, name: str, vertices: np.ndarray, tag: str, **changes: str) -> None:
    """A garment of one triangle per body triangle among ``vertices`` of hm08, off the skin."""
    folder.mkdir(parents=True, exist_ok=True)
    base, index = _base_mesh()
    chosen = np.flatnonzero(np.isin(index, vertices))
    faces = anny24().faces.numpy()
    faces = np.searchsorted(chosen, faces[np.isin(faces, chosen).all(1)])
    out = base[index[chosen]] - base[index[chosen]].mean(0)
    out[:, 1] = 0  # away from the axis of the trunk
    out *= AWAY / np.linalg.norm(out, axis=1, keepdims=True)
    apart = {axis: abs(base[10] - base[11000])[axis] for axis in range(3)}
    settings = {"basemesh": "hm08", "obj_file": f"{name}.obj"} | changes
    lines = [f"# made here\nname {name}\ntag {tag}", *(f"{k} {v}" for k, v in settings.items())]
    # Offsets are given in units of the distance between two vertices.
    lines += [f"{'xyz'[axis]}_scale 10 11000 {2 * length}" for axis, length in apart.items()]
    lines += ["verts 0", f"material {name}.mhmat"]
    for k, (v, off) in enumerate(zip(index[chosen], out, strict=True)):
        if k % 2:
            lines.append(f"{v} {v} {v} 0.25 0.25 0.5 " + " ".join(f"{2 * x:.6f}" for x in off))
        else:
            lines.append(f"{v} 0 1 1 0 0 " + " ".join(f"{2 * x:.6f}" for x in off))
    lines += ["", "delete_verts", f"{vertices.min()} - {vertices.max()}"]
    (folder / f"{name}.mhclo").write_text("\n".join(lines) + "\n")
    corners = [f"v {x} {y} {z}" for x, y, z in base[index[chosen]]]
    corners += ["f " + " ".join(f"{k + 1}/1/1" for k in face) for face in faces]
    (folder / f"{name}.obj").write_text("\n".join(corners) + "\n")


@pytest.fixture
def wardrobe(tmp_path: Path) -> Path:
    load_wardrobe.cache_clear()
    base, index = _base_mesh()
    x, y, _ = base[index].T
    trunk = (abs(x) < 0.13) & (y > 0.1) & (y < 0.45)
    head = y > 0.75
    root = tmp_path / "assets"
    write_garment(root / "clothes" / "shirt01", "shirt01", index[trunk], "Casual")
    write_garment(root / "clothes" / "hat01", "hat01", index[head], "Hats")
    write_garment(root / "eyebrows" / "brow01", "brow01", index[head], "Eyebrows")
    return root


def test_base_mesh_holds_the_body() -> None:
    """The embedded body's vertices are those of hm08: edges have about the same lengths."""
    base, index = _base_mesh()
    assert base.shape == (19158, 3) and len(index) == len(anny24().v_template)
    assert len(np.unique(index)) == len(index)
    skin, template = base[index], anny24().v_template.numpy()
    edges = anny24().faces.numpy()[:, :2]
    here, there = (
        np.linalg.norm(v[edges[:, 0]] - v[edges[:, 1]], axis=1) for v in (skin, template)
    )
    assert np.corrcoef(here, there)[0, 1] > 0.9


def test_a_garment_lies_around_the_body_in_any_pose(wardrobe: Path) -> None:
    clothes = load_wardrobe(wardrobe)
    assert [g.name for g in clothes.suits] == ["shirt01"] and clothes.suits[0].part == SUIT
    assert [g.name for g in clothes.hats] == ["hat01"] and clothes.hats[0].part == HAT
    assert not clothes.shoes and not clothes.hair
    shirt, skin = clothes.suits[0], anny24().v_template.numpy()
    gap = np.linalg.norm(shirt.vertices[:, None] - skin[None, ::7], axis=2).min(1)
    assert 0.5 * AWAY < np.median(gap) < 1.6 * AWAY
    np.testing.assert_allclose(shirt.weights.sum(1), 1)

    bare = figure(())
    dressed = figure((shirt,))
    count = len(skin)
    assert len(dressed.template) == count + len(shirt.vertices)
    # The skin below is not drawn, and what is worn has the label of that skin.
    drawn = np.unique(dressed.faces[dressed.part != SUIT])
    assert len(np.intersect1d(drawn, shirt.hidden)) < 0.2 * len(shirt.hidden)
    assert len(dressed.faces[dressed.part != SUIT]) < len(bare.faces)
    low, high = shirt.vertices.min(0), shirt.vertices.max(0)
    template = anny24().v_template
    span = (template.amax(0) - template.amin(0)).numpy()
    place = dressed.canonical[count:] * span + template.amin(0).numpy()
    assert (abs(place - shirt.vertices) < 2 * AWAY).mean() > 0.95
    assert (place > low - AWAY).all() and (place < high + AWAY).all()

    turned = np.repeat(np.eye(3)[None], 24, 0)
    turned[0] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    _, mesh = dressed.pose(turned, np.array([1.0, 2, 3]), 1, "turned")
    worn = mesh.vertices[count:]
    gap = np.linalg.norm(worn[:, None] - mesh.vertices[None, :count:7], axis=2).min(1)
    assert 0.4 * AWAY < np.median(gap) < 2 * AWAY


def figure(worn: tuple[Garment, ...]) -> Figure:
    outfit = sample_outfit(np.random.default_rng(3))
    plain = replace(outfit, skirt=None, hat=False, bag=False, hair=1, worn=worn)
    return Figure(plain, np.zeros(10))


def test_people_of_a_scene_wear_it(wardrobe: Path) -> None:
    settings = {"sensor": 0.0, "empty": 0.0, "place": "room", "difficulty": 0.0}
    plain = SceneGenerator(GeneratorConfig(**settings))
    dressed = SceneGenerator(GeneratorConfig(**settings, wardrobe=wardrobe))
    parts = [
        part
        for seed in range(4)
        for mesh in dressed.sample(seed, (48, 36), 1).meshes
        for part in np.unique(mesh.figure.part)
    ]
    assert SUIT in parts
    scene = plain.sample(1, (48, 36), 1)
    assert all(SUIT not in mesh.figure.part for mesh in scene.meshes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"basemesh": "alpha_7"}, "made for the mesh alpha_7"),
        ({"obj_file": "../../../secret.obj"}, "outside of the folder"),
        ({"obj_file": "gone.obj"}, "No such file"),
    ],
)
def test_what_does_not_fit_is_not_worn(changes, told, wardrobe: Path, caplog) -> None:
    base, index = _base_mesh()
    (wardrobe.parent / "secret.obj").write_text("v 0 0 0\nf 1 1 1\n")
    write_garment(
        wardrobe / "clothes" / "bad", "bad", index[base[index][:, 1] > 0.7], "Hats", **changes
    )
    with caplog.at_level("INFO"):
        clothes = load_wardrobe(wardrobe)
    assert [g.name for g in clothes.hats] == ["hat01"]
    assert told in caplog.text


def test_folders_without_clothes_are_refused(tmp_path: Path, capsys) -> None:
    sheet = ["synth", "preview", "--out", str(tmp_path / "a.png"), "--wardrobe"]
    assert main([*sheet, str(tmp_path / "nothing")]) == 1
    assert "no such folder of clothes" in capsys.readouterr().err
    assert main([*sheet, str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "no clothes (.mhclo" in error and error.count("\n") == 1
