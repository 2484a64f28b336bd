"""Where a person ends in the images: masks as contours that a body can be fitted to.

Contours know no left and no right, but they are where the body is, in every calibrated view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hamst3r.people.detections import Detection
from hamst3r.people.instances import ViewPeople

if TYPE_CHECKING:
    from hamst3r.alignment.incremental import Alignment

F64 = NDArray[np.float64]

_SMOOTH = 1.0  # pixels, of the mask of which normals are taken
ENOUGH = 100  # points of a contour, of which more are left out
_TURN = 3.0  # pixels that normals at a right angle are farther apart, over the root of two


@dataclass(frozen=True, eq=False)
class Outline:
    """One person in one view.

    Attributes:
        view: Index.
        mask: (gh, gw) bool, the person's pixels on the output grid.
        unknown: (gh, gw) bool, pixels that say nothing: others who may stand before the person.
        coordinates: (gh, gw, 3) float32 canonical body coordinates, NaN where not known.
        K: (3, 3) of the grid. T_world_cam: (4, 4).
    """

    view: int
    mask: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
    coordinates: NDArray[np.float32]
    K: F64
    T_world_cam: F64

    @property
    def centre(self) -> F64:
        """(3,) of the camera, world metres."""
        centre: F64 = self.T_world_cam[:3, 3]
        return centre

    @cached_property
    def middle_ray(self) -> F64:
        """(3,) direction of unit depth through the middle of the mask, world axes."""
        rows, columns = np.nonzero(self.mask)
        middle = np.array([np.median(columns), np.median(rows), 1.0])
        return self.T_world_cam[:3, :3] @ np.linalg.solve(self.K, middle)

    @cached_property
    def contour(self) -> tuple[F64, F64]:
        """Points (n, 2) between pixels of the mask and of the background, and their outward unit
        normals (n, 2), in pixels; not those along the image's border or what is unknown."""
        blurred = cv2.GaussianBlur(self.mask.astype(np.float32), (0, 0), _SMOOTH)
        slope = -np.stack([cv2.Sobel(blurred, cv2.CV_32F, *d) for d in ((1, 0), (0, 1))], -1)
        points, normals = [], []
        for rows, columns in ((0, 1), (1, 0)):
            here = np.s_[: self.mask.shape[0] - rows, : self.mask.shape[1] - columns]
            there = np.s_[rows:, columns:]
            edge = (self.mask[here] != self.mask[there]) & ~(
                self.unknown[here] | self.unknown[there]
            )
            row, column = np.nonzero(edge)
            points.append(np.column_stack([column + columns / 2, row + rows / 2]))
            normals.append((slope[here][edge] + slope[there][edge]).astype(np.float64))
        normal = np.concatenate(normals)
        length = np.linalg.norm(normal, axis=1)
        clear = np.flatnonzero(length > 1e-6)
        clear = clear[:: max(len(clear) // ENOUGH, 1)]
        return np.concatenate(points)[clear], normal[clear] / length[clear, None]

    @cached_property
    def tree(self) -> cKDTree:
        """Of the contour's places and directions."""
        return cKDTree(features(*self.contour))


def features(points: F64, normals: F64) -> F64:
    """(n, 4): near where both places (n, 2) and directions (n, 2) agree."""
    return np.hstack([points, _TURN * normals])


def outlines(
    views: Sequence[ViewPeople], alignment: Alignment, person: Detection, min_pixels: int
) -> list[Outline]:
    """Of a person in the placed views that hold enough of the pixels."""
    found = []
    for index, view in enumerate(views):
        mask = np.isin(view.claimed, person.local_ids)
        if alignment.placed[index] and mask.sum() >= min_pixels:
            found.append(
                Outline(
                    view=index,
                    mask=mask,
                    unknown=(view.instances > 0) & ~mask,
                    coordinates=view.densepose,
                    K=alignment.K[index],
                    T_world_cam=alignment.T_world_cam[index],
                )
            )
    return found
