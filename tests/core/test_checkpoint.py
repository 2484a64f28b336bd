"""Weights files: round trip, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_network import SMALL

from hamst3r.network.checkpoint import FORMAT, CheckpointError, load_checkpoint, save_checkpoint
from hamst3r.network.hamst3r import HAMSt3R


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    save_checkpoint(HAMSt3R(SMALL), path, {"steps": "7"})
    return path


def test_round_trip_is_exact_to_bfloat16(saved, tmp_path):
    first = load_checkpoint(saved)
    again = tmp_path / "again.safetensors"
    save_checkpoint(first.network, again, first.notes)
    second = load_checkpoint(again)
    assert first.notes == {"steps": "7"} == second.notes
    assert first.network.config == SMALL
    assert len(first.sha256) == 64
    for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        assert not a.requires_grad


def test_nothing_that_starts_imports_the_compiler(saved):
    """It takes two seconds; where a library needs it, only what uses that library may wait."""
    lines = (
        "import sys, hamst3r.reconstructor",
        "from hamst3r.engine import PairEngine",
        "PairEngine.from_checkpoint(sys.argv[1], 'cpu', 'fp32')",
        "sys.exit('torch._dynamo' in sys.modules)",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines), str(saved)], check=True)


def test_missing_file_says_where_the_weights_are(tmp_path):
    with pytest.raises(CheckpointError, match=r"no such weights file.*hamst3r_compact"):
        load_checkpoint(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("content", [b"hello\n", b"h\x00", b"", b"\x80\x02]q\x00"])
def test_what_is_no_weights_file_at_all(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.pth: not a readable weights file"):
        load_checkpoint(tmp_path / "weights.pth")


def test_truncated_file(saved):
    saved.write_bytes(saved.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_checkpoint(saved)


def test_pickle_is_not_executed(tmp_path):
    marker = tmp_path / "executed"

    class Hostile:
        def __reduce__(self):
            return (marker.write_text, ("x",))

    path = tmp_path / "hostile.safetensors"
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_checkpoint(path)
    assert not marker.exists()


def test_tensors_that_do_not_fit_are_named(saved):
    tensors = load_file(saved)
    tensors["decoder.embed.bias"] = torch.zeros(3)
    metadata = {"format": FORMAT, "network": json.dumps(SMALL.to_dict()), "notes": "{}"}
    save_file(tensors, saved, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"decoder\.embed\.bias: expected \(64,\)"):
        load_checkpoint(saved)


def test_values_that_are_not_finite_are_refused(saved):
    tensors = load_file(saved)
    tensors["decoder.embed.bias"] = torch.full((64,), float("nan"))
    metadata = {"format": FORMAT, "network": json.dumps(SMALL.to_dict()), "notes": "{}"}
    save_file(tensors, saved, metadata=metadata)
    with pytest.raises(CheckpointError, match="not finite"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "format is None"),
        ({"format": FORMAT, "network": "{", "notes": "{}"}, "configuration is not usable"),
        ({"format": FORMAT, "network": '{"patch": 0}', "notes": "{}"}, "not usable"),
        ({"format": FORMAT, "network": '{"x": 1}', "notes": "{}"}, "unknown network settings"),
        ({"format": FORMAT, "notes": "{}"}, "configuration is not usable"),
    ],
)
def test_wrong_metadata(saved, metadata, message):
    save_file(load_file(saved), saved, metadata=metadata)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)
