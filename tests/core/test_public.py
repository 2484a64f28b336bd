"""Public checkpoint formats, on small files in exactly their layout."""

from __future__ import annotations

import argparse
import json
import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hamst3r import cli
from hamst3r.network.checkpoint import CheckpointError, load_checkpoint
from hamst3r.network.constructor import ConstructorError, parse_constructor
from hamst3r.network.parity import compare, rule

HERE = Path(__file__).parent / "parity"
PUBLIC = Path(__file__).parents[3] / "shared" / "parity"  # where there is one
FIXTURES = sorted([*HERE.glob("*.json"), *PUBLIC.glob("*.json")])


def read(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """Description and tensors of a fixture, as a public file would hold them."""
    content = json.loads((HERE / f"{name}.json").read_text())
    return content["meta"], {key: rule(key, tuple(s)) for key, s in content["keys"].items()}


def write(path: Path, name: str, **changes) -> Path:
    """A public file; ``changes`` replace or (None) remove tensors."""
    meta, state = read(name)
    state = {k: v for k, v in (state | changes).items() if v is not None}
    if "model" in meta:
        torch.save({"args": argparse.Namespace(model=meta["model"], lr=1e-4), "model": state}, path)
    else:
        torch.save({**meta, "model": state}, path)
    return path


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_outputs_are_the_recorded_ones(fixture, capsys):
    assert cli.main(["parity", str(fixture)]) == 0
    assert "too large" not in capsys.readouterr().out


def test_other_outputs_are_noticed(tmp_path, capsys):
    shutil.copy(HERE / "mast3r.json", tmp_path)
    with np.load(HERE / "mast3r.npz") as file:
        arrays = dict(file)
    arrays["view1_conf"] = arrays["view1_conf"] * 1.001
    arrays["view2_desc"] = arrays["view2_desc"].copy()
    arrays["view2_desc"][0, 0, 0] = np.nan
    np.savez(tmp_path / "mast3r.npz", **arrays)
    by_name = {d.output: d for d in compare(tmp_path / "mast3r.json")}
    assert [name for name, d in by_name.items() if not d.within] == ["view1_conf", "view2_desc"]
    assert cli.main(["parity", str(tmp_path / "mast3r.json")]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "not a parity fixture"),
        ('{"meta": {}, "keys": {}}', "model description"),
        ('{"meta": {"model": "Other(x=1)"}, "keys": {}}', "unknown network 'Other'"),
        ('{"meta": {}, "keys": {"a": ["x"]}}', "not a parity fixture"),
    ],
)
def test_bad_fixtures_are_one_line(tmp_path, capsys, text, message):
    (tmp_path / "f.json").write_text(text)
    shutil.copy(HERE / "mast3r.npz", tmp_path / "f.npz")
    assert cli.main(["parity", str(tmp_path / "f.json")]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["dust3r_linear", "dust3r_dpt", "mast3r", "dunemast3r"])
def test_public_files_load(tmp_path, name):
    checkpoint = load_checkpoint(write(tmp_path / "w.pth", name))
    assert checkpoint.format == ("dune-mast3r" if name == "dunemast3r" else "dust3r")
    assert "no human heads: geometry only" in checkpoint.remarks
    assert "humans" not in checkpoint.network.config.provides
    assert ("descriptors" in checkpoint.network.config.provides) == ("mast3r" in name)
    assert all(not p.requires_grad for p in checkpoint.network.parameters())


def test_wrappers_aliases_and_half_precision(tmp_path):
    meta, state = read("dust3r_dpt")
    reference = load_checkpoint(write(tmp_path / "a.pth", "dust3r_dpt")).network
    # As saved by a compiled, distributed, shared-tensor-free run in half precision.
    state = {
        f"module._orig_mod.{key}": value.half()
        for key, value in state.items()
        if ".scratch.layer1_rn" not in key
    }
    torch.save({"args": argparse.Namespace(model=meta["model"]), "model": state}, tmp_path / "b")
    other = load_checkpoint(tmp_path / "b").network
    for a, b in zip(reference.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_one_decoder_serves_both_views(tmp_path):
    _, state = read("dust3r_linear")
    without = {key: None for key in state if key.startswith("dec_blocks2.")}
    checkpoint = load_checkpoint(write(tmp_path / "w.pth", "dust3r_linear", **without))
    assert any("one decoder" in remark for remark in checkpoint.remarks)
    decoder = checkpoint.network.decoder
    for a, b in zip(decoder.blocks.parameters(), decoder.blocks2.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_missing_descriptors_are_reported_not_invented(tmp_path):
    _, state = read("mast3r")
    without = {key: None for key in state if "head_local_features" in key}
    checkpoint = load_checkpoint(write(tmp_path / "w.pth", "mast3r", **without))
    assert checkpoint.network.config.provides == ("pointmaps",)
    assert any("no descriptors" in remark for remark in checkpoint.remarks)


def split_dune(folder: Path) -> tuple[Path, Path]:
    """Decoders and encoder in two files, as NAVER publishes them."""
    meta, state = read("dunemast3r")
    decoders = {k: v for k, v in state.items() if not k.startswith("dune_backbone.")}
    torch.save({**meta, "model": decoders}, folder / "decoders.pth")
    encoder = {
        f"encoder.{k.removeprefix('dune_backbone.')}": v
        for k, v in state.items()
        if k.startswith("dune_backbone.")
    }
    encoder["projectors.mast3r.linear.weight"] = torch.zeros(2, 2)
    encoder["teacher_norms.mast3r.normalizers.patch.mean"] = torch.zeros(2)
    path = folder / "dune_vitsmall14_336.pth"
    torch.save({"model": encoder, "args": argparse.Namespace(image_size=336), "iter": 3}, path)
    return folder / "decoders.pth", path


def test_dunes_encoder_in_a_second_file(tmp_path):
    whole = load_checkpoint(write(tmp_path / "w.pth", "dunemast3r")).network
    decoders, encoder = split_dune(tmp_path)
    elsewhere = tmp_path / "elsewhere.pth"
    shutil.copy(encoder, elsewhere)
    beside = load_checkpoint(decoders).network
    encoder.unlink()
    named = load_checkpoint(decoders, elsewhere).network
    for a, b, c in zip(whole.parameters(), beside.parameters(), named.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        torch.testing.assert_close(a, c, rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"decoders only.*dune_vitsmall14_336\.pth"):
        load_checkpoint(decoders)
    with pytest.raises(CheckpointError, match="no such weights file"):
        load_checkpoint(decoders, tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="encoder alone"):
        load_checkpoint(elsewhere)


def test_the_first_differences_are_named(tmp_path):
    path = write(
        tmp_path / "w.pth",
        "dust3r_linear",
        **{"decoder_embed.weight": torch.zeros(32, 65), "enc_norm.bias": None},
        **{"enc_blocks.2.norm1.weight": torch.zeros(64)},
    )
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    message = str(error.value)
    assert "3 tensors do not fit" in message
    assert "decoder_embed.weight: expected (32, 64), found (32, 65)" in message
    assert "enc_norm.bias: expected (64,), found nothing" in message
    assert "enc_blocks.2.norm1.weight: not expected" in message
    assert "\n" not in message


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.write_text, (self.marker, "x"))


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_a_file_is_run(tmp_path, protocol):
    meta, state = read("dust3r_linear")
    marker, path = tmp_path / "executed", tmp_path / "w.pth"
    content = {"args": argparse.Namespace(model=meta["model"]), "model": state}
    content["extra"] = Hostile(marker)
    torch.save(content, path, pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"refused, it asks for|not a readable"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Hostile(marker), protocol))
    with pytest.raises(CheckpointError, match=r"refused, it asks for|not a readable"):
        load_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        ({"model": {}}, "no tensors under 'model'"),
        ({"model": {"a": 1}}, "'a' is not a tensor"),
        ({"model": {"a": torch.zeros(1)}}, "neither 'args' nor"),
        (
            {"model": {"a": torch.zeros(1)}, "args": argparse.Namespace(model="exit(1)")},
            "expected Name",
        ),
        (
            {"model": {"a": torch.zeros(1)}, "args": argparse.Namespace(model="__import__('os')")},
            "expected Name",
        ),
        ({"model": {"a": torch.zeros(1)}, "args": argparse.Namespace()}, "model description"),
        (
            {
                "model": {"a": torch.zeros(1)},
                "mast3r_model_str": "AsymmetricMASt3R()",
                "dune_backbone_name": "../../etc/passwd",
            },
            "unknown DUNE backbone",
        ),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_unknown_files_are_one_line(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(tmp_path / "w.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 10, 5000, -1])
def test_truncated_files(tmp_path, size):
    path = write(tmp_path / "w.pth", "dust3r_linear")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="not a readable weights file"):
        load_checkpoint(path)


def test_values_that_are_not_numbers(tmp_path):
    bad = {"decoder_embed.weight": torch.full((32, 64), torch.nan)}
    with pytest.raises(CheckpointError, match=r"not finite in decoder\.embed\.weight"):
        load_checkpoint(write(tmp_path / "w.pth", "dust3r_linear", **bad))


def test_constructors_are_parsed():
    name, values = parse_constructor("Net(a='x', b=(1, -inf), c=True, d=-2.5, e=None)")
    assert name == "Net"
    assert values == {"a": "x", "b": (1, -math.inf), "c": True, "d": -2.5, "e": None}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Net",
        "Net(1)",
        "Net(**x)",
        "Net(a=b)",
        "Net(a=open('x'))",
        "Net(a=[x for x in ()])",
        "Net(a=-'x')",
        "a.Net()",
        "Net(); Net()",
        "Net(a=1" + "+1" * 9999 + ")",
        "(" * 3000,
        None,
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ConstructorError):
        parse_constructor(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("RoPE100", "cosine"), "pos_embed"),
        (("head_type='linear'", "head_type='catconv'"), "unknown head_type"),
        (("('exp', 1, inf)", "('sigmoid', 0, 1)"), "conf_mode"),
        (("output_mode='pts3d'", "output_mode='depth'"), "output_mode"),
        (("enc_embed_dim=64, ", ""), "incomplete"),
        (("enc_embed_dim=64", "enc_embed_dim='64'"), "incomplete or wrong"),
        (("enc_depth=2", "enc_depth=99999"), "enc"),
    ],
)
def test_networks_of_another_kind_are_named(tmp_path, change, message):
    meta, state = read("dust3r_linear")
    text = meta["model"].replace(*change)
    assert text != meta["model"]
    torch.save({"args": argparse.Namespace(model=text), "model": state}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "w.pth")
