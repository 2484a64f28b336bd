"""Our network against recorded outputs of a public one, with weights that follow a rule.

A fixture is a pair of files: ``NAME.json`` holds the public network's description and the names
and shapes of its tensors, ``NAME.npz`` two images and what the public network makes of them. The
weights are not recorded: each is drawn from a generator seeded by its name (:func:`rule`).
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamst3r.network.hamst3r import HAMSt3R, PairOutput
from hamst3r.network.public import convert, describe

MEDIAN_LIMIT, WORST_LIMIT = 1e-4, 1e-2
# Name of an output in a fixture -> field of ViewOutput, and whether values are vectors.
OUTPUTS = {
    "pts3d": ("points", True),
    "pts3d_in_other_view": ("points", True),
    "conf": ("confidence", False),
    "desc": ("descriptors", True),
    "desc_conf": ("descriptor_confidence", False),
}
SMALL = 1e-6


@dataclass(frozen=True)
class Difference:
    """Of one output: |ours - theirs| / |theirs| per pixel, norms for vectors."""

    output: str
    median: float
    worst: float

    @property
    def within(self) -> bool:
        """Within the limits; what is not finite is not."""
        return self.median < MEDIAN_LIMIT and self.worst < WORST_LIMIT


def rule(key: str, shape: tuple[int, ...]) -> Tensor:
    """The weight called ``key``."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    noise = rng.standard_normal(shape, dtype=np.float32)
    last = key.rpartition(".")[2]
    if last == "gamma":
        value = 0.5 + 0.1 * noise
    elif len(shape) == 1:
        value = 1 + 0.1 * noise if last == "weight" else 0.02 * noise
    elif last in ("pos_embed", "cls_token", "register_tokens", "mask_token"):
        value = 0.02 * noise
    else:
        gain = 0.7 if "downstream_head" in key else 1.0
        value = gain * noise / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(np.asarray(value, np.float32))


def compare(fixture: Path) -> list[Difference]:
    """Run our network, in float32 on the CPU, on the images of ``NAME.json``.

    Raises:
        ValueError: A fixture that cannot be read, or of a network that this family does not have.
    """
    meta, shapes, step = _read_description(fixture)
    images, recorded = _read_arrays(fixture.with_suffix(".npz"))
    converted = convert(describe(meta), {key: rule(key, shape) for key, shape in shapes.items()})
    with torch.device("meta"):
        network = HAMSt3R(converted.config)
    network.load_state_dict(converted.tensors, assign=True)
    network.eval()
    with torch.inference_mode():
        output = network(*images)
    return [_difference(name, output, theirs, step) for name, theirs in recorded.items()]


def _difference(
    name: str, output: PairOutput, theirs: NDArray[np.float32], step: int
) -> Difference:
    view, _, kind = name.partition("_")
    if view not in ("view1", "view2") or kind not in OUTPUTS:
        raise ValueError(f"fixture has an unknown output '{name}'")
    field, vector = OUTPUTS[kind]
    value = getattr(output.i if view == "view1" else output.j, field)
    if value is None:
        return Difference(name, math.inf, math.inf)
    ours = value[0, ::step, ::step].numpy()
    if ours.shape != theirs.shape:
        raise ValueError(f"{name}: fixture has {theirs.shape}, our network gives {ours.shape}")
    error, size = np.abs(ours - theirs), np.abs(theirs)
    if vector:
        error, size = (np.linalg.norm(part, axis=-1) for part in (error, size))
    relative = error / np.maximum(size, SMALL)
    return Difference(name, float(np.median(relative)), float(relative.max()))


def _read_description(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]], int]:
    try:
        content = json.loads(path.read_text())
        meta = dict(content["meta"])
        shapes = {str(key): tuple(int(n) for n in shape) for key, shape in content["keys"].items()}
        step = int(content.get("subsample", 1))
    except (UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a parity fixture (meta, keys, subsample): {error!r}"
        ) from error
    if step < 1:
        raise ValueError(f"{path}: subsample must be at least 1, got {step}")
    return meta, shapes, step


def _read_arrays(path: Path) -> tuple[list[Tensor], dict[str, NDArray[np.float32]]]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    images = []
    for name in ("image1", "image2"):
        image = arrays.pop(name, None)
        if image is None or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"{path}: '{name}' must be uint8 (H, W, 3)")
        images.append(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 * 2 - 1)
    if not arrays:
        raise ValueError(f"{path}: no recorded outputs")
    return images, arrays
