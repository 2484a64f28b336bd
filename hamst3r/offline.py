"""Reconstruct what is on disk: one place from many images, or a rig's recording set by set."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.incremental import AlignerConfig
from hamst3r.frames import FrameSet
from hamst3r.image import NetworkImage, undistorted
from hamst3r.inputs import Source
from hamst3r.pair_graphs import FEW_VIEWS, PairGraph
from hamst3r.pair_store import PairStore, StoredEngine, memory_needed
from hamst3r.pairs import Edge
from hamst3r.reconstructor import Reconstructor
from hamst3r.refine import RefineOptions, refine
from hamst3r.scene import Scene

GIGABYTE = 1 << 30


@dataclass(frozen=True)
class OfflineOptions:
    """How a reconstruction is made.

    Attributes:
        pairs: Name of a pair graph, see :mod:`hamst3r.pair_graphs`.
        image_size: Long side that the network sees; None: what it was trained for.
        refine: Which points stay.
        memory: Bytes that the pairs may take.
    """

    pairs: str = "auto"
    image_size: int | None = None
    refine: RefineOptions = field(default_factory=RefineOptions)
    memory: int = 4 * GIGABYTE


@dataclass(frozen=True, eq=False)
class Result:
    """One frame set, reconstructed.

    Attributes:
        index: Its number. scene: The outcome.
        images: camera -> (H, W, 3) undistorted image, of all cameras, placed or not.
        edges: Names of the paired cameras.
    """

    index: int
    scene: Scene
    images: dict[str, NDArray[np.uint8]]
    edges: tuple[tuple[str, str], ...]


def reconstruct(
    source: Source,
    engine: StoredEngine,
    folder: Path,
    options: OfflineOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Result]:
    """Reconstruct all frame sets of a source, one after the other.

    Predictions are kept in ``folder`` until all is done, so that after an interruption the same
    call goes on where it was.

    Args:
        progress: Called with the number of pairs that just became known, and how many a frame set
            has.

    Raises:
        ValueError: Input that cannot be used, or more pairs than ``options.memory`` holds.
        torch.OutOfMemoryError: A single pair does not fit into the device's memory.
    """
    graph = PairGraph.parse(options.pairs)

    chosen: list[Edge] = []

    def choose(images: Sequence[NetworkImage]) -> list[Edge]:
        _check_memory(graph.count(len(images)), len(images), engine, options)
        chosen[:] = graph.edges(
            len(images), lambda: engine.describe(images).numpy(), source.ordered
        )
        return chosen

    store = PairStore(engine, folder, progress=progress)
    reconstructor: Reconstructor | None = None
    for index, frames in enumerate(source.frame_sets()):
        # Judging all views by all others is quadratic: of many, only those that were paired do.
        few = len(frames.frames) <= FEW_VIEWS
        if reconstructor is None:
            aligner = AlignerConfig(clean=few and options.refine.clean_depth)
            config = replace(options.refine.cloud, image_size=options.image_size, alignment=aligner)
            reconstructor = Reconstructor(store, config)
        scene = reconstructor.push(frames, choose)
        names = frames.cameras
        edges = tuple((names[i], names[j]) for i, j in chosen)
        wanted = replace(options.refine, clean_depth=options.refine.clean_depth and not few)
        scene = refine(scene, edges, wanted)
        yield Result(index, scene, _images(frames), edges)
    store.clear()


def _check_memory(pairs: int, views: int, engine: StoredEngine, options: OfflineOptions) -> None:
    needed = memory_needed(pairs, options.image_size or engine.image_size, engine.stride)
    if needed > options.memory:
        raise ValueError(
            f"{options.pairs} of {views} images is {pairs} pairs, which take "
            f"{needed / GIGABYTE:.2g} GB, and {options.memory / GIGABYTE:.2g} GB are allowed "
            "(--memory); allow more, or take fewer pairs (--pairs swin-3) or fewer images"
        )


def _images(frames: FrameSet) -> dict[str, NDArray[np.uint8]]:
    return {frame.camera: undistorted(frame) for frame in frames.frames}


def peak_memory() -> int:
    """Most bytes of memory that this process ever held."""
    try:
        # Where there is one: what getrusage tells includes the parent's memory before the start.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
