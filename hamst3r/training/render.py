"""Fill a folder with rendered training scenes: ``python -m hamst3r.training.render``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from hamst3r.synthetic.generator import GeneratorConfig, SceneGenerator
from hamst3r.training.dataset import SceneStore, render_scenes


def main(arguments: list[str] | None = None) -> None:
    """Command line; several processes may fill one folder with different seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the scenes")
    parser.add_argument("--seeds", default="0:1000", help="range of seeds, first:last[:step]")
    options = parser.parse_args(arguments)
    seeds = range(*(int(part) for part in options.seeds.split(":")))
    # Camera effects are drawn anew at every reading, so the stored images are clean.
    generator = SceneGenerator(GeneratorConfig(sensor=0.0))
    scenes = render_scenes(SceneStore(options.out), seeds, generator)
    for _ in tqdm(scenes, total=len(seeds), unit="scene"):
        pass


if __name__ == "__main__":
    main()
