"""``hamst3r synth``: look at generated scenes, or write many of them for training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hamst3r.commands.arguments import count

if TYPE_CHECKING:
    from hamst3r.synthetic.generator import GeneratorConfig


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    preview = actions.add_parser(
        "preview", help="draw contact sheets: images, depth, instances and body coordinates"
    )
    preview.add_argument("--seed", type=count(0), default=0, help="first scene (default 0)")
    preview.add_argument("--scenes", type=count(1), default=1, metavar="N", help="how many")
    preview.add_argument("--views", type=count(1), default=4, metavar="V", help="cameras each")
    preview.add_argument(
        "--size", type=_size, default=(224, 168), metavar="WxH", help="pixels (default 224x168)"
    )
    preview.add_argument("--clean", action="store_true", help="without the cameras' effects")
    preview.add_argument("--out", type=Path, required=True, metavar="PNG", help="file to write")
    write = actions.add_parser("write", help="fill a folder that 'hamst3r train' reads")
    write.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of scenes")
    write.add_argument(
        "--seeds", required=True, metavar="A:B", help="from A to before B; A:B:STEP takes some"
    )
    write.add_argument("--jobs", type=count(1), default=1, metavar="N", help="processes")
    write.add_argument(
        "--side",
        type=count(32),
        default=224,
        metavar="PIXELS",
        help="long side of the images; close-ups of people want 448 (default 224)",
    )
    for action in (preview, write):
        action.add_argument("--place", help="room, corridor, hall or yard only")
        action.add_argument(
            "--difficulty",
            type=float,
            metavar="0..1",
            help="from few people nearby to many, far and hidden (default: any)",
        )
        action.add_argument(
            "--assets",
            type=Path,
            metavar="DIR",
            help="a checkout of models to furnish with, such as aws-robomaker-small-house-world",
        )
        action.add_argument(
            "--wardrobe",
            type=Path,
            metavar="DIR",
            help="a checkout of makehuman-assets, whose clothes, shoes, hats and hair people wear",
        )


def run(options: argparse.Namespace) -> int:
    """Do what was asked for.

    Raises:
        ValueError: An argument makes no sense.
        ModuleNotFoundError: The ray tracer is missing.
        OSError: Something cannot be written.
    """
    if options.action == "preview":
        _preview(options, _config(options, 0.0 if options.clean else 1.0))
    else:
        _write(options, _config(options, 0.0))
    return 0


def _config(options: argparse.Namespace, sensor: float) -> GeneratorConfig:
    from hamst3r.synthetic.generator import GeneratorConfig

    return GeneratorConfig(
        sensor=sensor,
        place=options.place,
        difficulty=options.difficulty,
        assets=options.assets,
        wardrobe=options.wardrobe,
    )


def _preview(options: argparse.Namespace, config: GeneratorConfig) -> None:
    import numpy as np

    from hamst3r.synthetic.generator import SceneGenerator
    from hamst3r.synthetic.preview import contact_sheet, describe, write_picture

    if not options.out.absolute().parent.is_dir():
        raise OSError(f"{options.out.parent}: no such folder; make it or name another --out")
    generator, sheets = SceneGenerator(config), []
    for seed in range(options.seed, options.seed + options.scenes):
        scene = generator.sample(seed, options.size, options.views)
        sheets.append(contact_sheet(scene.views))
        print(describe(scene))
    write_picture(options.out, np.concatenate(sheets))


def _write(options: argparse.Namespace, config: GeneratorConfig) -> None:
    from tqdm import tqdm

    from hamst3r.training.render import fill, parse_seeds
    from hamst3r.training.store import SceneStore

    seeds = parse_seeds(options.seeds)
    if options.out.exists() and not options.out.is_dir():
        raise OSError(f"{options.out} is a file; --out names a folder for the scenes")
    store = SceneStore(options.out)
    there = sum(store.has(seed) for seed in seeds)
    written = fill(options.out, seeds, config, options.jobs, options.side)
    with tqdm(total=len(seeds), initial=there, unit="scene", desc="rendering", disable=None) as bar:
        for _ in written:
            bar.update()
    print(f"{options.out}: {len(seeds)} scenes, {there} of them were there before")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and min(int(width), int(height)) >= 16):
        raise argparse.ArgumentTypeError(
            f"give WIDTHxHEIGHT, at least 16 each, such as 224x168; got {text!r}"
        )
    return int(width), int(height)
