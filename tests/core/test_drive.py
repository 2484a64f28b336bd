"""The benchmark's drive, shortened: what it measures holds from the beginning."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from simulated_drive import trajectory_error

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import drive
from evo.core.trajectory import PosePath3D


def test_a_short_drive_among_walking_people(tmp_path, monkeypatch):
    file = tmp_path / "drive.json"
    monkeypatch.setattr(sys, "argv", ["drive.py", "--sets", "100", "--json", str(file)])
    drive.main()
    figures = json.loads(file.read_text())
    assert figures["frame_sets"] == 100 and figures["incomplete_sets"] == 0
    assert figures["path_m"] > 4
    assert figures["ate_scaled_m"] < 0.01 * figures["path_m"]
    assert figures["ate_m"] < 0.04 * figures["path_m"]
    assert figures["jump_m"] < 0.15
    assert figures["map_points"] > 5000
    # The window of keyframes lasts longer than any pixel of a person stays in the map.
    assert figures["ghost_sets"] < figures["window_sets"]


def test_evo_measures_what_we_do():
    rng = np.random.default_rng(0)
    poses = [np.eye(4) for _ in range(20)]
    noisy = []
    for k, T in enumerate(poses):
        T[:3, 3] = k, 0.1 * k**2, np.sin(k)
        off = T.copy()
        off[:3, 3] = 1.3 * T[:3, 3] + 0.05 * rng.normal(size=3) + 4
        noisy.append(off)
    found, true = (np.stack(x)[:, :3, 3] for x in (noisy, poses))
    error, scale = drive.ate(noisy, poses, True)
    assert error == pytest.approx(trajectory_error(found, true, True), rel=0.02)
    assert scale == pytest.approx(1 / 1.3, rel=0.02)
    assert drive.ate(noisy, poses, False)[0] > 3 * error
    assert PosePath3D(poses_se3=poses).num_poses == 20


def test_what_only_people_fill_is_counted_until_it_goes():
    world = drive.Drive(0, 1, 1, width=16, height=12)
    ghosts = drive.Ghosts(world)
    static = drive.StaticMap()
    ghosts._since = {5: 0, 7: 3}
    ghosts.count(4, static)
    assert ghosts.longest == 0 and not ghosts._since, "cubes that the map has forgotten"
