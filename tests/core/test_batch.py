"""hamst3r batch with real processes: what fails, dies or hangs harms no other job."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hamst3r import batch
from hamst3r.batch import Job, Processes, jobs_of, run_here, run_job, run_on_ray, summary
from hamst3r.cli import main


def photos(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((96, 72)).save(folder / "a.png")
    return folder


def test_good_ones_are_done_bad_ones_are_listed_and_done_ones_stay(tmp_path, capsys):
    good = photos(tmp_path / "in" / "good", 0)
    bad = tmp_path / "in" / "bad"
    bad.mkdir()
    (bad / "x.jpg").write_text("no image")
    out = tmp_path / "out"
    listed = tmp_path / "list.txt"
    listed.write_text("# recordings\nin/bad\n\n")
    arguments = ["batch", str(good), "--list", str(listed), "--out", str(out), "--jobs", "2"]
    assert main([*arguments, "--options=--formats ply --pairs complete"]) == 1
    told = capsys.readouterr().out
    assert "good: done" in told and "bad: failed after 2 attempts" in told
    assert "1 of 2 reconstructed" in told
    document = json.loads((out / "batch.json").read_text())
    assert document["counts"] == {"done": 1, "there": 0, "failed": 1}
    failed, done = document["jobs"]
    assert failed["error"] == "none of the images can be used" and failed["attempts"] == 2
    assert done["attempts"] == 1 and (out / "good" / "points.ply").is_file()
    assert not (out / "good" / "scene.glb").exists()
    assert "not an image" in (out / "bad" / "log.txt").read_text()
    before = (out / "good" / "scene.npz").stat().st_mtime_ns
    assert main([*arguments, "--retries", "0"]) == 1
    assert "good: there" in capsys.readouterr().out
    assert (out / "good" / "scene.npz").stat().st_mtime_ns == before


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Replaces the interpreter of jobs by a script; $OUT is the job's folder."""

    def install(script: str) -> None:
        file = tmp_path / "child.sh"
        file.write_text(f'#!/bin/bash\nOUT="$6"\n{script}\n')
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(batch.sys, "executable", str(file))

    yield install
    monkeypatch.undo()
    assert sys.executable.endswith("python") or "python" in sys.executable


def job(tmp_path, **changes) -> Job:
    return Job(**({"name": "x", "input": "in", "out": str(tmp_path / "x")} | changes))


def test_a_failure_that_passes_is_retried(tmp_path, child):
    child('[ -e "$OUT/tried" ] && touch "$OUT/run.json" || { touch "$OUT/tried"; exit 3; }')
    outcome = run_job(job(tmp_path))
    assert (outcome.status, outcome.attempts, outcome.error) == ("done", 2, "")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo too bad; kill -9 $$", "ended by signal 9; last said: too bad"),
        ("exit 0", "ended without run.json"),
        ("exit 7", "said nothing"),
        ("sleep 60", "took longer than 0.5 s"),
    ],
)
def test_every_way_to_fail_is_told(tmp_path, child, script, expected):
    child(script)
    started = time.monotonic()
    outcome = run_job(job(tmp_path, timeout=0.5 if "sleep" in script else None, attempts=1))
    assert (outcome.status, outcome.error) == ("failed", expected)
    assert time.monotonic() - started < 30


def test_devices_are_dealt_out_and_jobs_run_side_by_side(tmp_path, child):
    # Each waits until the other has begun: one after the other they would never end.
    child(
        'echo "${@: -1}" > "$OUT/device"; touch "$OUT/../$(basename $OUT).on"\n'
        'until [ "$(ls $OUT/../*.on | wc -l)" = 2 ]; do sleep 0.05; done; touch "$OUT/run.json"'
    )
    jobs = jobs_of([tmp_path / "a", tmp_path / "b"], tmp_path / "out", timeout=30.0)
    outcomes = list(run_here(jobs, 2, ["cuda:0", "cuda:1"]))
    assert {outcome.status for outcome in outcomes} == {"done"}
    devices = {(tmp_path / "out" / name / "device").read_text().strip() for name in "ab"}
    assert devices == {"cuda:0", "cuda:1"}


def test_an_interrupted_batch_leaves_no_process(tmp_path, child):
    child('echo $$ > "$OUT/pid"; exec sleep 60')
    processes = Processes()
    runner = threading.Thread(target=lambda: run_job(job(tmp_path, attempts=5), processes))
    runner.start()
    file = tmp_path / "x" / "pid"
    end = time.monotonic() + 30
    while not (file.is_file() and file.read_text().strip()):
        assert time.monotonic() < end
        time.sleep(0.05)
    processes.end()
    runner.join(30)
    assert not runner.is_alive(), "no attempt is begun after the end"
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def test_names_stay_apart_and_numbers_are_checked(tmp_path):
    jobs = jobs_of([tmp_path / "a/x.mcap", tmp_path / "b/x.mcap", tmp_path / "y"], tmp_path)
    assert len({job.out for job in jobs}) == 3 and jobs[2].name == "y"
    for wrong in ({"inputs": []}, {"retries": -1}, {"timeout": 0.0}):
        with pytest.raises(ValueError):
            jobs_of(**({"inputs": ["x"], "out": tmp_path} | wrong))
    with pytest.raises(ValueError, match="at least one job"):
        list(run_here(jobs, 0))


def test_wrong_options_of_reconstruct_are_found_before_any_job(tmp_path, capsys):
    arguments = ["batch", "x", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([*arguments, "--options=--no-such-option"])
    assert "--no-such-option" in capsys.readouterr().err
    assert main([*arguments, "--options=--out elsewhere"]) == 1
    assert "must not hold --out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ray_runs_the_same_jobs(tmp_path):
    pytest.importorskip("ray")
    good = photos(tmp_path / "good", 0)
    jobs = jobs_of([good, tmp_path / "missing"], tmp_path / "out", ["--formats", "ply"], retries=0)
    outcomes = {outcome.name: outcome for outcome in run_on_ray(jobs, "local", 1, 0)}
    assert outcomes["good"].status == "done"
    assert outcomes["missing"].status == "failed"
    assert "no such file or folder" in outcomes["missing"].error
    assert (tmp_path / "out" / "good" / "points.ply").is_file()
    assert summary(list(outcomes.values()))["counts"]["failed"] == 1
