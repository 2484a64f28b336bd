"""Fill a folder with rendered training scenes, for ``hamst3r synth write`` and the trainer."""

from __future__ import annotations

import argparse
import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from hamst3r.synthetic.generator import HELD_OUT, GeneratorConfig, SceneGenerator
from hamst3r.training.store import SIDE, SceneStore, render_scenes

# Camera effects are drawn anew at every reading, so the stored images are clean.
CLEAN = GeneratorConfig(sensor=0.0)


def parse_seeds(text: str) -> range:
    """``first:last`` or ``first:last:step`` as a range of seeds that may be trained on.

    Raises:
        ValueError: It is something else, is empty, or reaches into the held-out seeds.
    """
    try:
        seeds = range(*(int(part) for part in text.split(":")))
    except (ValueError, TypeError):
        raise ValueError(
            f"seeds are given as FIRST:LAST or FIRST:LAST:STEP, such as 0:1000; got {text!r}"
        ) from None
    if len(seeds) == 0 or min(seeds) < 0 or ":" not in text:
        raise ValueError(f"no seeds in {text!r}: FIRST:LAST needs 0 <= FIRST < LAST")
    if max(seeds) >= HELD_OUT:
        raise ValueError(
            f"seeds from {HELD_OUT} on are held out for 'hamst3r eval synthetic'; got {text!r}"
        )
    return seeds


def fill(
    folder: Path,
    seeds: range,
    config: GeneratorConfig = CLEAN,
    jobs: int = 1,
    side: int = SIDE,
) -> Iterator[int]:
    """Render into a store the seeds that it lacks, with ``jobs`` processes; yields each one done.

    What is there stays, so that a call that was interrupted can be repeated. ``side`` is the long
    one of the images.
    """
    store = SceneStore(folder)
    if jobs <= 1:
        yield from render_scenes(store, seeds, SceneGenerator(config), side)
        return
    context = multiprocessing.get_context("spawn")  # threads and fork do not go together
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        missing = [seed for seed in seeds if not store.has(seed)]
        waiting = {pool.submit(_render, folder, seed, config, side) for seed in missing}
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _render(folder: Path, seed: int, config: GeneratorConfig, side: int) -> int:
    list(render_scenes(SceneStore(folder), range(seed, seed + 1), _generator(config), side))
    return seed


@lru_cache(maxsize=1)
def _generator(config: GeneratorConfig) -> SceneGenerator:
    return SceneGenerator(config)


def main(arguments: list[str] | None = None) -> None:
    """Command line; several processes may fill one folder with different seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the scenes")
    parser.add_argument("--seeds", default="0:1000", help="range of seeds, first:last[:step]")
    parser.add_argument("--keep", type=int, default=0, help="delete all but this many; 0 = none")
    options = parser.parse_args(arguments)
    try:
        seeds = parse_seeds(options.seeds)
    except ValueError as error:
        parser.error(str(error))
    store, own = SceneStore(options.out), deque[int]()
    for seed in tqdm(fill(options.out, seeds), total=len(seeds), unit="scene"):
        own.append(seed)
        if options.keep and len(own) > options.keep:
            store.delete(own.popleft())


if __name__ == "__main__":
    main()
