"""Contact sheets: rgb, depth, instances and densepose of every view, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

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
    instances = colour * (view.instances > 0)[..., None]
    body = (np.nan_to_num(view.densepose) * 255).astype(np.uint8)
    return np.concatenate([view.rgb, depth, instances, body], 0)


def write_sheet(path: str, views: Sequence[SyntheticView]) -> None:
    """Write a contact sheet as PNG (or whatever ``path`` ends in).

    Raises:
        OSError: The file cannot be written.
    """
    if not cv2.imwrite(path, contact_sheet(views)[..., ::-1]):
        raise OSError(f"{path}: cannot write the contact sheet; does the folder exist?")
