"""~/save_scene: whole files or none, and only below the folder that the operator named."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hamst3r_ros.saving import SaveError, save, target
from test_conversions import fitted, glimpsed, scene

from hamst3r.export import load_scene


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond 400 bytes: what a full disk is like, to this process.

    Nor can the file that pytest's own words may go to: nothing is printed meanwhile.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("form", ["ply", "npz"])
def test_a_full_disk_leaves_what_was_there(form, tmp_path):
    file = tmp_path / f"x.{form}"
    file.write_text("the last one")
    with pytest.raises(OSError, match="File too large"), full_disk():
        save(scene(fitted()), file, form, True)
    assert file.read_text() == "the last one"
    assert os.listdir(tmp_path) == [file.name]


@pytest.mark.parametrize("form", ["ply", "npz"])
def test_a_file_appears_whole(form, tmp_path):
    file, found = target(str(tmp_path), f"a/b.{form}", "")
    assert (file, found) == (tmp_path / "a" / f"b.{form}", form)
    given = scene(fitted(), glimpsed())
    assert save(given, file, form, True) == len(given.points)
    assert save(given, file, form, False) == np.count_nonzero(given.points.label == 0)
    assert os.listdir(file.parent) == [file.name]


def test_a_scene_comes_back_and_people_stay_away(tmp_path):
    given, file = scene(fitted(), glimpsed()), tmp_path / "x.npz"
    save(given, file, "npz", True)
    got = load_scene(file)
    assert [p.id for p in got.people] == [7, 9] and got.stamp == given.stamp
    np.testing.assert_array_equal(got.points.xyz, given.points.xyz)
    np.testing.assert_array_equal(got.views[0].rgb, given.views[0].rgb)
    save(given, file, "npz", False)
    got = load_scene(file)
    assert got.people == () and not got.points.label.any()
    for view, before in zip(got.views, given.views, strict=True):
        there = before.instances > 0
        assert there.any() and not view.instances.any()
        assert not view.rgb[there].any() and not view.depth[there].any()
        np.testing.assert_array_equal(view.depth[~there], before.depth[~there])


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "a").write_text("a file, not a folder")
    with pytest.raises(OSError):
        save(scene(), tmp_path / "a" / "x.ply", "ply", True)


@pytest.mark.parametrize(
    "path", ["../x.ply", "/etc/x.ply", "a/../../x.ply", "", "x\0.ply", "link/x.ply", "x.pcd"]
)
def test_nothing_leads_out_of_the_folder(path, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(SaveError):
        target(str(folder), path, "")


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path):
    folder, secret = tmp_path / "out", tmp_path / "secret.ply"
    folder.mkdir()
    secret.write_text("mine")
    (folder / "x.ply").symlink_to(secret)
    with pytest.raises(SaveError, match="leads out of output_dir"):
        target(str(folder), "x.ply", "")
    assert secret.read_text() == "mine"
    assert Path(folder, "x.ply").is_symlink()
