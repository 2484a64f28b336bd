"""``hamst3r weights``: which checkpoints there are, what is in a file, and getting one."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from hamst3r.network.checkpoint import Checkpoint, load_checkpoint, sha256_of
from hamst3r.weights import KNOWN, KnownWeights, fetch, known, location


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="known checkpoints, their licences and what they provide")
    info = actions.add_parser("info", help="what a file holds")
    verify = actions.add_parser("verify", help="check that a file is whole and loads")
    for action in (info, verify):
        action.add_argument("file", type=Path, help="a file, or the name of known weights")
        action.add_argument("--encoder", type=Path, help="second file, with DUNE's encoder")
    download = actions.add_parser("fetch", help="download known weights, and what they need")
    download.add_argument("name", choices=[n for n, k in KNOWN.items() if k.url], metavar="NAME")
    download.add_argument("--to", type=Path, help="folder (default: the user's cache)")


def run(options: argparse.Namespace) -> int:
    """Do what was asked for."""
    actions = {"list": _list, "info": _info, "verify": _verify, "fetch": _fetch}
    actions[options.action](options)
    return 0


def _list(options: argparse.Namespace) -> None:
    for weights in KNOWN.values():
        there = "here" if location(weights).is_file() else "not fetched"
        print(f"{weights.name:20} {weights.megabytes:5} MB  {there}")
        print(f"    provides {', '.join(weights.provides)}{_needs(weights)}")
        print(f"    licence  {weights.licence}")


def _needs(weights: KnownWeights) -> str:
    return f"; needs {', '.join(weights.needs)}" if weights.needs else ""


def _info(options: argparse.Namespace) -> None:
    checkpoint = _load(options)
    config = checkpoint.network.config
    parameters = sum(p.numel() for p in checkpoint.network.parameters())
    licence = next((k.licence for k in KNOWN.values() if k.file == checkpoint.path.name), "unknown")
    print(f"file       {checkpoint.path}")
    print(f"format     {checkpoint.format}")
    print(f"sha256     {checkpoint.sha256}")
    print(f"licence    {licence}")
    print(f"provides   {', '.join(config.provides)}")
    print(f"parameters {parameters / 1e6:.1f} million")
    print(f"images     {config.image_size} pixels, multiples of {config.patch}")
    for name, value in config.to_dict().items():
        print(f"    {name} = {value}")
    for name, value in checkpoint.notes.items():
        print(f"note       {name}: {value}")
    for remark in checkpoint.remarks:
        print(f"remark     {remark}")


def _verify(options: argparse.Namespace) -> None:
    checkpoint = _load(options)
    published = next((k for k in KNOWN.values() if k.file == checkpoint.path.name), None)
    if published is not None and published.sha256 not in ("", checkpoint.sha256):
        raise ValueError(
            f"{checkpoint.path}: sha256 is {checkpoint.sha256}, published is {published.sha256}"
        )
    for remark in checkpoint.remarks:
        print(f"remark: {remark}")
    print(f"{checkpoint.path}: whole, loads as {checkpoint.format}; sha256 {checkpoint.sha256}")


def _load(options: argparse.Namespace) -> Checkpoint:
    name = str(options.file)
    path = location(known(name)) if name in KNOWN and not options.file.exists() else options.file
    return load_checkpoint(path, options.encoder)


def _fetch(options: argparse.Namespace) -> None:
    weights = known(options.name)
    for part in (*(known(name) for name in weights.needs), weights):
        print(f"{part.file}: licence: {part.licence}")
        path = location(part, options.to)
        if path.is_file():
            print(f"{path}: is there")
            continue
        print(f"from {part.url}, about {part.megabytes} MB")
        with tqdm(unit="B", unit_scale=True, desc=part.name) as bar:

            def show(done: int, total: int | None, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            fetch(part, options.to, show)
        print(f"{path}: sha256 {sha256_of(path)}")
    if "pointmaps" in weights.provides:
        load_checkpoint(location(weights, options.to))
        print(f"loads; parameter model.weights: {location(weights, options.to)}")
