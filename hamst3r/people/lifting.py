"""From masks to points in space that know their place on a body."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.people.densepose import VertexLookup
from hamst3r.people.instances import ViewPeople

if TYPE_CHECKING:
    from hamst3r.alignment.incremental import Alignment

F64 = NDArray[np.float64]
# Metres, horizontally, from what a view sees of a person to the hips: of generated people, half of
# whom are within 0.035 of that.
INTO_BODY = 0.125
# Metres: nobody as wide as high is higher, and somebody n times as high as wide, n up to UPRIGHT,
# not by more than that to the power of SLENDER. Masks of one person in thirty are.
TALLEST, SLENDER, UPRIGHT = 1.52, 0.345, 4.0
# Deviation of the middle of a mask from the person's across the line of sight, as a share of the
# mask's extent, and of the depth along it, as a share of the depth, where nothing says how good it
# is.
MIDDLE_STD, DEPTH_STD = 0.08, 0.3
# For a stature: pixels, how much of a body they span, and how far they are in order.
FEWEST_HEIGHTS, SPAN, IN_ORDER = 40, 0.15, 0.7


@dataclass(frozen=True)
class LiftingConfig:
    """Which pixels of a person to believe.

    Attributes:
        max_pixels: Pixels drawn per person and view, by confidence.
        edge: Largest relative depth range among a pixel's neighbours in the mask; beyond it lies
            an edge, where pointmaps interpolate between front and back. Where a whole person is
            noisier than that, three times the person's median range takes its place.
        reach: Pixels this far in depth from the person's median belong to something else, metres.
    """

    max_pixels: int = 700
    edge: float = 0.06
    reach: float = 1.2


@dataclass(frozen=True, eq=False)
class Glimpse:
    """Sampled pixels of one local id in one view.

    Attributes:
        view: Index. count: Number of pixels with depth before sampling.
        pixels: (n, 2) x, y on the output grid. depth: (n,) metres.
        vertex_ids: (n,) int64, -1 = unknown. heights: (n,) metres from the soles of the body model
            to the place on it, NaN = unknown. weights: (n,) > 0.
        K: (3, 3) of the grid. T_world_cam: (4, 4).
        depth_std: Relative deviation of the depth as a whole.
    """

    view: int
    count: int
    pixels: F64
    depth: F64
    vertex_ids: NDArray[np.int64]
    heights: F64
    weights: F64
    K: F64
    T_world_cam: F64
    depth_std: float

    @cached_property
    def directions(self) -> F64:
        """(n, 3) rays in world axes with unit depth."""
        homogeneous = np.column_stack([self.pixels, np.ones(len(self.pixels))])
        return homogeneous @ np.linalg.inv(self.K).T @ self.T_world_cam[:3, :3].T

    @property
    def points(self) -> F64:
        """(n, 3) metres in world."""
        return self.T_world_cam[:3, 3] + self.directions * self.depth[:, None]

    @property
    def inner(self) -> F64:
        """(n, 3) metres in world: behind the points, as deep in the body as the hips mostly are."""
        into = self.directions / np.linalg.norm(self.directions, axis=1, keepdims=True)
        into[:, 2] = 0  # seen from above, too, a body goes on behind what is seen, not below
        return self.points + INTO_BODY * into

    @cached_property
    def ray(self) -> F64:
        """(3,) through the middle of the mask, in world axes with unit depth."""
        return np.asarray(np.median(self.directions, axis=0), dtype=np.float64)

    def information(self, depth: float) -> tuple[F64, F64]:
        """What one view knows of where the middle of somebody at that depth is.

        Returns:
            (3, 3) across the line of sight, which the mask tells, and along it, which depth does.
        """
        along = np.outer(self.ray, self.ray) / (self.ray @ self.ray)
        across = (np.eye(3) - along) / (MIDDLE_STD * self.extent * depth) ** 2
        return across, along / (self.depth_std * depth) ** 2

    @cached_property
    def extent(self) -> float:
        """Of the mask's pixels, along the longer axis of the image, at unit depth."""
        low, high = np.percentile(self.pixels, (2, 98), axis=0)
        return float(((high - low + 1) / self.K[[0, 1], [0, 1]]).max())

    @property
    def stature(self) -> float:
        """How many times as large as the body model somebody looks from here, NaN = unknown.

        By how far apart places on the body are across the line of sight that are apart in height:
        0.9 for whoever stands with arms that hang, less for whoever sits or bends.
        """
        known = np.isfinite(self.heights)
        heights = self.heights[known]
        if len(heights) < FEWEST_HEIGHTS or heights.std() < SPAN:
            return float("nan")
        heights = heights - heights.mean()
        plane = self.pixels[known] / self.K[[0, 1], [0, 1]]
        plane = plane - plane.mean(0)
        upward = heights @ plane
        along = plane @ (upward / max(float(np.linalg.norm(upward)), 1e-9))
        if np.corrcoef(along, heights)[0, 1] < IN_ORDER:
            return float("nan")
        return float(np.median(self.depth) * along.std() / heights.std())

    def no_giant(self) -> Glimpse:
        """The same pixels, near enough not to show anybody larger than people are."""
        rays = self.directions
        middle = rays.mean(0)
        across = np.array([-middle[1], middle[0], 0]) / max(float(np.hypot(*middle[:2])), 1e-9)
        low, high = np.percentile(rays @ np.stack([across, [0, 0, 1]], 1), (1, 99), axis=0)
        width, height = np.maximum((high - low) * float(np.median(self.depth)), 1e-9)
        tallest = TALLEST * np.clip(height / width, 1, UPRIGHT) ** SLENDER
        return self if height <= tallest else self.scaled(float(tallest / height))

    def scaled(self, factor: float) -> Glimpse:
        """The same pixels at another depth."""
        return replace(self, depth=self.depth * factor)


def lift(
    views: Sequence[ViewPeople],
    alignment: Alignment,
    lookup: VertexLookup,
    rng: np.random.Generator,
    config: LiftingConfig | None = None,
) -> dict[int, list[Glimpse]]:
    """Local id -> its glimpses, in views that have a pose.

    Raises:
        ValueError: Views and alignment differ in number or in grid.
    """
    config = config or LiftingConfig()
    if len(views) != len(alignment.depth):
        raise ValueError(f"{len(views)} views of people, but {len(alignment.depth)} depth maps")
    found: dict[int, list[Glimpse]] = defaultdict(list)
    depth_std = alignment.depth_std or [math.nan] * len(views)
    for index, view in enumerate(views):
        depth, confidence = alignment.depth[index], alignment.confidence[index]
        if depth.shape != view.instances.shape:
            raise ValueError(
                f"view {index}: instances {view.instances.shape} and depth {depth.shape} "
                "must be on the same output grid"
            )
        if not alignment.placed[index]:
            continue
        for local in view.scores:
            held = (view.claimed == local) & (depth > 0) & np.isfinite(depth) & (confidence > 0)
            kept = _trim(held, depth, config)
            if not kept.any():
                continue
            weights = _weights(view, confidence, kept)
            rows, columns = np.nonzero(kept)
            chosen = _draw(weights, config.max_pixels, rng)
            rows, columns = rows[chosen], columns[chosen]
            found[local].append(
                Glimpse(
                    view=index,
                    count=int(kept.sum()),
                    pixels=np.column_stack([columns, rows]).astype(np.float64),
                    depth=depth[rows, columns].astype(np.float64),
                    vertex_ids=lookup(view.densepose[rows, columns]),
                    heights=lookup.heights(view.densepose[rows, columns]),
                    weights=weights[chosen],
                    K=alignment.K[index],
                    T_world_cam=alignment.T_world_cam[index],
                    depth_std=DEPTH_STD if math.isnan(depth_std[index]) else depth_std[index],
                )
            )
    return dict(found)


def _trim(
    held: NDArray[np.bool_], depth: NDArray[np.float32], config: LiftingConfig
) -> NDArray[np.bool_]:
    if not held.any():
        return held
    # Range among the neighbours within the mask: the background behind a silhouette is no flaw.
    kernel = np.ones((3, 3), dtype=np.uint8)
    farthest = cv2.dilate(np.where(held, depth, -np.inf).astype(np.float32), kernel)
    nearest = cv2.erode(np.where(held, depth, np.inf).astype(np.float32), kernel)
    spread = farthest[held] - nearest[held]
    own = depth[held]
    limit = np.maximum(config.edge * own, 3 * np.median(spread))
    kept = held.copy()
    kept[held] = (spread <= limit) & (np.abs(own - np.median(own)) < config.reach)
    return kept


def _weights(view: ViewPeople, confidence: NDArray[np.float32], kept: NDArray[np.bool_]) -> F64:
    """DensePose confidence x pointmap confidence, the latter relative within the person."""
    own = confidence[kept].astype(np.float64)
    relative = np.clip(own / np.median(own), 0.1, 1.5)
    return np.maximum(view.confidence[kept], 0.02) * relative


def _draw(weights: F64, number: int, rng: np.random.Generator) -> NDArray[np.int64]:
    if len(weights) <= number:
        return np.arange(len(weights))
    return rng.choice(len(weights), number, replace=False, p=weights / weights.sum())
