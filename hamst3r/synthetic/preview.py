"""Contact sheets: rgb, depth, instances and densepose of every view, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.generator import SyntheticScene
from hamst3r.synthetic.render import SyntheticView


def contact_sheet(views: Sequence[SyntheticView]) -> NDArray[np.uint8]:
    """(4 H, V W, 3) uint8 RGB: one column per view; rows rgb, depth, instances, densepose."""
    return np.concatenate([_column(view) for view in views], 1)


def _column(view: SyntheticView) -> NDArray[np.uint8]:
    scale = np.percentile(view.depth[view.depth > 0], 98) if (view.depth > 0).any() else 1.0
    grey = (np.clip(view.depth / scale, 0, 1) * 255).astype(np.uint8)
    depth = cv2.applyColorMap(grey, cv2.COLORMAP_TURBO)[..., ::-1] * (view.depth > 0)[..., None]
    hue = (view.instances.astype(np.int64) * 47 % 180).astype(np.uint8)
    full = np.full_like(hue, 255)
    colour = cv2.cvtColor(np.stack([hue, full, full], -1), cv2.COLOR_HSV2RGB)
    person = (view.instances > 0)[..., None]
    dim = view.rgb // 4
    instances = np.where(person, colour, dim)
    body = np.where(person, (np.nan_to_num(view.densepose) * 255).astype(np.uint8), dim)
    return np.concatenate([view.rgb, depth, instances, body], 0).astype(np.uint8)


def describe(scene: SyntheticScene) -> str:
    """One line: what kind of scene it is and how its people are seen."""
    facts = scene.metadata
    half = np.asarray(facts["half"])
    activities = ", ".join(facts["activities"])  # type: ignore[arg-type]
    seen = [len(np.unique(view.instances[view.instances > 0])) for view in scene.views]
    return (
        f"seed {scene.seed}: {facts['place']} of {2 * half[0]:.1f} x {2 * half[1]:.1f} m, "
        f"{len(scene.people)} people{f' ({activities})' if activities else ''}, "
        f"seen per view {seen}, cameras: {facts['style']}, difficulty {facts['difficulty']:.2f}"
    )


def write_picture(path: str | Path, picture: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 RGB as PNG (or whatever ``path`` ends in).

    Raises:
        OSError: The file cannot be written.
    """
    try:
        done = cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1]))
    except cv2.error:  # no such format
        done = False
    if not done:
        raise OSError(f"{path}: cannot write the picture; does it end in .png or .jpg?")
