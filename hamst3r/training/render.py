"""Fill a folder with rendered training scenes: ``python -m hamst3r.training.render``."""

from __future__ import annotations

import argparse
from collections import deque
from pathlib import Path

from tqdm import tqdm

from hamst3r.synthetic.generator import GeneratorConfig, SceneGenerator
from hamst3r.training.store import SceneStore, render_scenes


def main(arguments: list[str] | None = None) -> None:
    """Command line; several processes may fill one folder with different seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the scenes")
    parser.add_argument("--seeds", default="0:1000", help="range of seeds, first:last[:step]")
    parser.add_argument("--keep", type=int, default=0, help="delete all but this many; 0 = none")
    options = parser.parse_args(arguments)
    seeds = range(*(int(part) for part in options.seeds.split(":")))
    # Camera effects are drawn anew at every reading, so the stored images are clean.
    generator = SceneGenerator(GeneratorConfig(sensor=0.0))
    store, own = SceneStore(options.out), deque[int]()
    for seed in tqdm(render_scenes(store, seeds, generator), total=len(seeds), unit="scene"):
        own.append(seed)
        if options.keep and len(own) > options.keep:
            store.delete(own.popleft())


if __name__ == "__main__":
    main()
