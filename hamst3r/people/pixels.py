"""Between people and pixels: who is where in the views, and which pixels are nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.geometry import transform
from hamst3r.image import corners
from hamst3r.people.detections import Detection
from hamst3r.people.instances import ViewPeople

if TYPE_CHECKING:
    from hamst3r.alignment.incremental import Alignment

F64 = NDArray[np.float64]
_STATIC_PIXELS = 500  # per view and frame set, for what stands still


def label(
    views: Sequence[ViewPeople],
    cameras: Sequence[str],
    grids_to_image: Sequence[NDArray[np.float64]],
    matches: Sequence[tuple[int, Detection]],
) -> tuple[list[NDArray[np.uint16]], dict[int, dict[str, tuple[int, int, int, int]]]]:
    """Maps of ids per view and each person's box (x, y, width, height) per delivered image."""
    rois: dict[int, dict[str, tuple[int, int, int, int]]] = {
        identity: {} for identity, _ in matches
    }
    maps = []
    for view, camera, grid_to_image in zip(views, cameras, grids_to_image, strict=True):
        ids = np.zeros(view.instances.shape, dtype=np.uint16)
        for identity, detection in matches:
            ids[np.isin(view.claimed, detection.local_ids)] = identity
            own = ids == identity
            if own.any():
                low, high = np.floor(corners(own, grid_to_image) + 0.5)
                x0, y0 = np.maximum(low, 0).astype(int)
                x1, y1 = high.astype(int)
                box = (int(x0), int(y0), max(int(x1 - x0), 1), max(int(y1 - y0), 1))
                rois[identity][camera] = box
        maps.append(ids)
    return maps, rois


def depth_factors(
    ids: NDArray[np.uint16], view: int, matches: Sequence[tuple[int, Detection]]
) -> NDArray[np.float32]:
    """(gh, gw) of one view: what the depth of people is to be multiplied with, 1 elsewhere."""
    factors = np.ones(ids.shape, np.float32)
    for identity, detection in matches:
        factors[ids == identity] = detection.depth_factors.get(view, 1.0)
    return factors


def static_points(
    views: Sequence[ViewPeople], alignment: Alignment, rng: np.random.Generator
) -> F64:
    """Some points (n, 3) in world of what is nobody."""
    found = []
    for index, view in enumerate(views):
        if not alignment.placed[index]:
            continue
        depth, confidence = alignment.depth[index], alignment.confidence[index]
        static = (view.instances == 0) & np.isnan(view.densepose[..., 0])
        static &= (depth > 0) & np.isfinite(depth) & (confidence > 0)
        # Beside a person, pixels are of both.
        person = cv2.dilate((~static).astype(np.uint8), np.ones((3, 3), np.uint8))
        pixels = np.flatnonzero(person == 0)
        if len(pixels) > _STATIC_PIXELS:
            pixels = rng.choice(pixels, _STATIC_PIXELS, replace=False)
        rows, columns = np.unravel_index(pixels, depth.shape)
        rays = np.column_stack([columns, rows, np.ones(len(rows))])
        seen = (rays @ np.linalg.inv(alignment.K[index]).T) * depth[rows, columns, None]
        found.append(transform(alignment.T_world_cam[index], seen))
    return np.concatenate(found) if found else np.empty((0, 3))
