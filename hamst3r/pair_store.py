"""Predictions of many pairs on disk: memory stays bounded, and an interrupted run goes on.

Pairs are predicted in chunks; what is kept of a chunk is written to one safetensors file, from
which it is mapped into memory again. A file's name is the hash of all it depends on, so that a
second run finds what the first one made, and never what another input made.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hamst3r.engine import PairPrediction
from hamst3r.image import NetworkImage
from hamst3r.pairs import Edge
from hamst3r.people.closeups import LooksCloser, SeesPeople

CHUNK = 24
GEOMETRY = ("pts_i", "pts_j", "conf_i", "conf_j")
DESCRIPTORS = ("desc_i", "desc_j", "desc_conf_i", "desc_conf_j")
PEOPLE = (
    "mask_logits_i",
    "mask_logits_j",
    "person_prob",
    "densepose_i",
    "densepose_j",
    "body_logits_i",
    "body_logits_j",
)
# Descriptors are many numbers; what they tell of rigs and of who is who, few pairs tell.
MAX_DESCRIBED_PAIRS = 64
# Bytes a pixel and pair: both pointmaps and confidences, mapped and as the solver cleans them.
BYTES_PER_PIXEL = 2 * 2 * 16


class StoredEngine(Protocol):
    """What the store runs; :class:`hamst3r.engine.PairEngine` in practice."""

    patch: int
    stride: int
    image_size: int
    precision: str
    sha256: str

    def predict(
        self, images: Sequence[NetworkImage], edges: Sequence[Edge]
    ) -> list[PairPrediction]: ...

    def describe(self, images: Sequence[NetworkImage]) -> Tensor: ...


class PairStore:
    """An engine for many images: keeps predictions on disk.

    It stands in for the engine in a :class:`hamst3r.reconstructor.Reconstructor`.

    Args:
        engine: Makes the predictions.
        folder: Where they are kept.
        pairs_with_people: Most pairs of a view that are asked for people. People of a view in p
            pairs are compared p^2 times; a few pairs say it all.
        progress: Called with the number of pairs that just became known, and how many there are.
    """

    def __init__(
        self,
        engine: StoredEngine,
        folder: Path,
        pairs_with_people: int = 8,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.engine, self.folder = engine, folder
        self.patch, self.stride = engine.patch, engine.stride
        self.image_size = engine.image_size
        self.pairs_with_people = pairs_with_people
        self.predicted, self.found = 0, 0
        self._progress = progress or (lambda done, total: None)
        if isinstance(engine, SeesPeople):  # close-ups are few, and not kept
            self.people = engine.people
        if isinstance(engine, LooksCloser):
            self.closeup_side, self.look = engine.closeup_side, engine.look

    def predict(
        self, images: Sequence[NetworkImage], edges: Sequence[Edge]
    ) -> list[PairPrediction]:
        """Predictions of these pairs, on the CPU."""
        self.folder.mkdir(parents=True, exist_ok=True)
        hashes = [_digest(image) for image in images]
        with_people = _spread(edges, self.pairs_with_people)
        kept_fields = GEOMETRY + (DESCRIPTORS if len(edges) <= MAX_DESCRIBED_PAIRS else ())
        predictions: list[PairPrediction] = []
        for start in range(0, len(edges), CHUNK):
            chunk = list(edges[start : start + CHUNK])
            keep = [kept_fields + (PEOPLE if edge in with_people else ()) for edge in chunk]
            file = self.folder / f"{self._key(hashes, chunk, keep)}.safetensors"
            tensors = _load(file)
            if tensors is None:
                _write(file, self.engine.predict(images, chunk), keep)
                self.predicted += len(chunk)
                tensors = load_file(file)
            else:
                self.found += len(chunk)
            predictions += _unpack(tensors, chunk)
            self._progress(len(chunk), len(edges))
        return predictions

    def clear(self) -> None:
        """Remove what is kept."""
        for file in self.folder.glob("*.safetensors*"):
            file.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _key(self, hashes: list[str], chunk: list[Edge], keep: list[tuple[str, ...]]) -> str:
        parts = [self.engine.sha256, self.engine.precision, str(self.image_size)]
        for (i, j), names in zip(chunk, keep, strict=True):
            parts += [f"{i},{j}", hashes[i], hashes[j], ",".join(names)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _digest(image: NetworkImage) -> str:
    return hashlib.sha256(image.tensor.contiguous().numpy().tobytes()).hexdigest()


def _spread(edges: Sequence[Edge], most: int) -> set[Edge]:
    """Pairs such that no view is in more than ``most`` of them, the graph's first ones first."""
    used: Counter[int] = Counter()
    chosen = set()
    for i, j in edges:
        if used[i] < most and used[j] < most:
            chosen.add((i, j))
            used.update((i, j))
    return chosen


def _load(file: Path) -> dict[str, Tensor] | None:
    """What a file holds, mapped; None if it is not there, or not whole."""
    try:
        return load_file(file)
    except (SafetensorError, OSError):
        return None


def _write(
    file: Path, predictions: Sequence[PairPrediction], keep: Sequence[tuple[str, ...]]
) -> None:
    tensors = {}
    for k, (prediction, names) in enumerate(zip(predictions, keep, strict=True)):
        for name in names:
            value = getattr(prediction, name)
            if value is not None:
                # Mask logits are the bulk, and only compared with each other.
                half = name.startswith("mask_logits")
                value = value.detach().to("cpu", torch.float16 if half else torch.float32)
                tensors[f"{k}.{name}"] = value.clone(memory_format=torch.contiguous_format)
    partial = file.with_name(f"{file.name}.partial")
    save_file(tensors, partial)
    partial.replace(file)


def _unpack(tensors: dict[str, Tensor], edges: Sequence[Edge]) -> list[PairPrediction]:
    predictions = []
    for k, (i, j) in enumerate(edges):
        values: dict[str, Any] = {
            field.name: tensors[f"{k}.{field.name}"]
            for field in fields(PairPrediction)
            if f"{k}.{field.name}" in tensors
        }
        predictions.append(PairPrediction(i, j, **values))
    return predictions


def memory_needed(pairs: int, image_size: int, stride: int) -> int:
    """Bytes, at most, that the alignment of so many pairs of square images takes."""
    return pairs * (image_size // stride) ** 2 * BYTES_PER_PIXEL
