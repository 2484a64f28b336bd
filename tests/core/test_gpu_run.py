"""The run book for a lent GPU, rehearsed on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from hamst3r.network.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]


def gpu_run(*arguments: str, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "gpu_run"), *arguments],
        env=os.environ | {"OUT": str(out), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )


def test_two_slices_come_back_as_one_run(tmp_path):
    there, out, back = tmp_path / "there", tmp_path / "out", tmp_path / "back"
    common = ("--rehearse", "--run", str(there), "--scenes", str(tmp_path / "scenes"))
    first = gpu_run("slice", *common, out=out)
    assert first.returncode == 0, first.stderr
    steps = int(load_checkpoint(there / "network.safetensors").notes["steps"])
    second = gpu_run("slice", *common, "--finish", out=out)
    assert second.returncode == 0, second.stderr
    parts = list(out.iterdir())
    assert len(parts) <= 8 and all(part.stat().st_size < 16 * 2**20 for part in parts)
    assert "person_recall" in json.loads((out / "eval.json").read_text())
    collected = gpu_run("collect", str(out), "--run", str(back), out=out)
    assert collected.returncode == 0, collected.stderr
    checkpoint = load_checkpoint(back / "network.safetensors")
    assert int(checkpoint.notes["steps"]) > steps > 0
    whole = load_checkpoint(there / "network.safetensors")
    assert checkpoint.notes == whole.notes
    for a, b in zip(checkpoint.network.parameters(), whole.network.parameters(), strict=True):
        assert (a == b).all()
    nothing = gpu_run("collect", str(tmp_path), out=out)
    assert nothing.returncode == 1 and "no state.pt.0" in nothing.stderr
