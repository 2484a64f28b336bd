"""Matches between two views from the descriptors of a pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Matches:
    """M pixels of view i and where view j shows the same; on the output grids.

    Attributes:
        sample: (M,) index into the pixels that were asked for.
        pixels_j: (M, 2) integer (u, v) in view j.
        similarity: (M,) cosine of the descriptors.
    """

    sample: NDArray[np.intp]
    pixels_j: NDArray[np.intp]
    similarity: NDArray[np.float32]


@torch.no_grad()
def reciprocal_matches(
    desc_i: Tensor,
    desc_j: Tensor,
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    tolerance: float = 2.0,
) -> Matches:
    """For some pixels of view i the best pixel of view j, if that one points back to them.

    Args:
        desc_i, desc_j: (gh, gw, D) unit descriptors of one pair, on any device.
        rows, columns: (S,) pixels of view i.
        tolerance: Pixels of view i by which the way back may miss.
    """
    width_i, width_j = desc_i.shape[1], desc_j.shape[1]
    flat_i, flat_j = desc_i.flatten(0, 1), desc_j.flatten(0, 1)
    at = torch.as_tensor(rows * width_i + columns, device=desc_i.device)
    similarity, there = (flat_i[at] @ flat_j.T).max(1)
    back = (flat_j[there] @ flat_i.T).argmax(1).cpu().numpy()
    miss = np.hypot(back // width_i - rows, back % width_i - columns)
    kept = np.flatnonzero(miss <= tolerance)
    pixels = there.cpu().numpy()[kept]
    return Matches(
        sample=kept,
        pixels_j=np.stack([pixels % width_j, pixels // width_j], -1),
        similarity=similarity.float().cpu().numpy()[kept],
    )
