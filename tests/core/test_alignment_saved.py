"""Saved pair predictions, and the command that aligns them."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from synthetic_pairs import errors, make_room, misplaced, predict

from hamst3r.alignment.saved import load_pairs, residuals, save_pairs
from hamst3r.cli import main
from hamst3r.pairs import choose_pairs

PAIRS = choose_pairs(4)


@pytest.fixture
def room():
    return make_room(4, 3)


def test_what_was_saved_is_loaded(room, tmp_path):
    predictions = predict(room, PAIRS, 3)
    save_pairs(tmp_path / "pairs.npz", room.images(True), room.frames(True), predictions)
    saved = load_pairs(tmp_path / "pairs.npz")
    assert saved.cameras == room.frames().cameras
    for found, true in zip(saved.predictions, predictions, strict=True):
        assert (found.i, found.j) == (true.i, true.j)
        np.testing.assert_array_equal(found.pts_j, true.pts_j)
        np.testing.assert_array_equal(found.conf_i, true.conf_i)
    np.testing.assert_array_equal(saved.K[2], room.K[2])
    np.testing.assert_array_equal(saved.T_rig_cam[1], room.T_world_cam[1])
    np.testing.assert_array_equal(saved.align().T_world_cam, room.T_world_cam)


def test_residuals_show_the_wrong_pair(room, tmp_path):
    predictions = predict(room, PAIRS, 3)
    predictions[1] = misplaced(predictions[1], 0)
    save_pairs(tmp_path / "pairs.npz", room.images(), room.frames(), predictions)
    saved = load_pairs(tmp_path / "pairs.npz")
    alignment = saved.align()
    error = errors(room, alignment.T_world_cam, alignment.K, alignment.depth)
    assert error.camera < 0.1
    medians = [max(np.nanmedian(r) for r in residuals(alignment, p)) for p in saved.predictions]
    assert medians[1] > 0.3 and max(m for k, m in enumerate(medians) if k != 1) < 0.06


def test_the_command_reports_and_draws(room, tmp_path, capsys):
    predictions = predict(room, PAIRS, 3)
    predictions[1] = misplaced(predictions[1], 0)
    pairs, plot, figures = (str(tmp_path / n) for n in ("pairs.npz", "residuals.png", "a.json"))
    save_pairs(pairs, room.images(), room.frames(), predictions)
    assert main(["align", "solve", pairs, "--plot", plot, "--json", figures]) == 0
    output = capsys.readouterr().out
    wrong = f"cam{predictions[1].i}-cam{predictions[1].j}"
    assert f"note: pair {wrong} rejected: it contradicts the other pairs" in output
    document = json.loads((tmp_path / "a.json").read_text())
    assert all(camera["placed"] for camera in document["cameras"].values())
    scores = [pair["score"] for pair in document["pairs"]]
    assert scores[1] == min(scores) < 0.1
    picture = cv2.imread(plot)
    assert picture.std() > 20 and min(picture.shape[:2]) > 400


def test_images_become_pairs(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for k in range(2):
        cv2.imwrite(str(tmp_path / f"{k}.png"), rng.integers(0, 255, (120, 160, 3), np.uint8))
    images = [str(tmp_path / f"{k}.png") for k in range(2)]
    pairs = str(tmp_path / "pairs.npz")
    assert main(["align", "save", pairs, *images, "--device", "cpu"]) == 0
    assert main(["align", "solve", pairs]) == 0
    assert "scale: network" in capsys.readouterr().out
    assert main(["align", "save", pairs, str(tmp_path / "none.png")]) == 1
    assert "not an image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": None}, "'edges' is missing"),
        ({"edges": np.array([[0, 7]])}, "views beyond"),
        ({"edges": np.zeros(3)}, "must be \\(E, 2\\)"),
        ({"points_i_0": np.zeros((3, 4))}, "pair 0 needs points"),
    ],
)
def test_files_that_contradict_themselves_are_refused(room, tmp_path, change, message):
    path = tmp_path / "pairs.npz"
    save_pairs(path, room.images(), room.frames(), predict(room, PAIRS, 3))
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays |= change
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(ValueError, match=message):
        load_pairs(path)


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "pairs.npz"
    path.write_text("nothing")
    with pytest.raises(ValueError, match="not an archive"):
        load_pairs(path)
