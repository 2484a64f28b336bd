"""Geometry from one network and people from another, on the same pixels.

Public networks know places, but no people; the compact network knows people, but its places are
rough. Together they are what neither is alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from hamst3r.engine import PairEngine, PairPrediction
from hamst3r.image import NetworkImage, resized
from hamst3r.network.closeup import CloseupOutput
from hamst3r.pairs import Edge


class CombinedEngine:
    """A :class:`PairEngine` whose human outputs come from a second one.

    Both see exactly the same field of view, each at its own size; human outputs are resampled to
    the pixels of the first one's pointmaps (masks stay coarse, as :class:`PairPrediction` allows).

    Args:
        geometry: Gives pointmaps, confidence and descriptors, and the output grid.
        humans: Gives DensePose, body masks and instances.

    Raises:
        ValueError: ``humans`` has no human heads.
    """

    def __init__(self, geometry: PairEngine, humans: PairEngine) -> None:
        if "humans" not in humans.provides:
            raise ValueError("the weights for people have no human heads")
        self.geometry, self.humans = geometry, humans
        self.device, self.precision = geometry.device, geometry.precision
        self.patch, self.stride = geometry.patch, geometry.stride
        self.image_size = geometry.image_size
        self.closeup_side = humans.closeup_side
        self.sha256 = geometry.sha256
        self.provides = tuple(dict.fromkeys((*geometry.provides, "humans")))
        self._resized: WeakKeyDictionary[NetworkImage, NetworkImage] = WeakKeyDictionary()

    def predict(
        self, images: Sequence[NetworkImage], edges: Sequence[Edge]
    ) -> list[PairPrediction]:
        """As :meth:`PairEngine.predict`, of both networks."""
        geometry = self.geometry.predict(images, edges)
        humans = self.humans.predict([self._small(image) for image in images], edges)
        maps: dict[int, tuple[Tensor, Tensor]] = {}  # one image's, shared by its pairs
        for prediction in humans:
            for view, densepose, logits in (
                (prediction.i, prediction.densepose_i, prediction.body_logits_i),
                (prediction.j, prediction.densepose_j, prediction.body_logits_j),
            ):
                if view not in maps and densepose is not None and logits is not None:
                    grid = images[view].grid
                    maps[view] = _to_grid(densepose.to(self.device), logits.to(self.device), grid)
        return [
            replace(
                places,
                mask_logits_i=people.mask_logits_i,
                mask_logits_j=people.mask_logits_j,
                person_prob=people.person_prob,
                densepose_i=maps[people.i][0],
                densepose_j=maps[people.j][0],
                body_logits_i=maps[people.i][1],
                body_logits_j=maps[people.j][1],
            )
            for places, people in zip(geometry, humans, strict=True)
        ]

    def people(self, images: Sequence[NetworkImage]) -> list[PairPrediction]:
        """As :meth:`PairEngine.people`, on the output grid of the network for people."""
        return self.humans.people([self._small(image) for image in images])

    def look(self, images: Tensor) -> CloseupOutput:
        """As :meth:`PairEngine.look`, of the network for people."""
        return self.humans.look(images)

    def describe(self, images: Sequence[NetworkImage]) -> Tensor:
        """As :meth:`PairEngine.describe`, of the network for geometry."""
        return self.geometry.describe(images)

    def _small(self, image: NetworkImage) -> NetworkImage:
        if image not in self._resized:
            engine = self.humans
            self._resized[image] = resized(image, engine.image_size, engine.patch, engine.stride)
        return self._resized[image]


@torch.inference_mode()
def _to_grid(densepose: Tensor, logits: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(h, w, 3) and (h, w) at another resolution of the same extent."""
    # Body coordinates jump at the edges of limbs: a mean of two limbs is neither.
    places = F.interpolate(densepose.permute(2, 0, 1)[None], size=grid, mode="nearest-exact")
    smooth = F.interpolate(logits[None, None], size=grid, mode="bilinear")
    return places[0].permute(1, 2, 0), smooth[0, 0]
