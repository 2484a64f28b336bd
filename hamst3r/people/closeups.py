"""Close-ups: who is small in an image, or in doubt, is looked at again in the pixels delivered.

The network sees images far smaller than cameras deliver them, and knows people who fill its images
better than small ones. So whatever might be somebody is cut out of the frame as it came, with some
room around it, and shown to a network once more: the one of the pairs, paired with itself, or,
where the weights have it, a smaller one that sees a single person at a time
(:mod:`hamst3r.network.closeup`). What that says is one opinion more of this part of the view, next
to those of the pairs (:func:`hamst3r.people.instances.merge_instances`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hamst3r.engine import PairPrediction
from hamst3r.frames import Frame
from hamst3r.image import (
    NetworkImage,
    corners,
    inside,
    prepare,
    resampling,
    square,
    undistorted,
)
from hamst3r.network.closeup import CloseupOutput
from hamst3r.people.association import Eye
from hamst3r.people.instances import Closeup, Hearing, ViewPeople, merge_instances
from hamst3r.people.votes import InstancesConfig

F64 = NDArray[np.float64]
FILLED = 0.75  # share of the side of an image of a single person that the mask is to fill
LEADING = 1e3  # confidence of places on a body seen closer, where pairs have some tens
_WEIGHT, _PAIRED_WEIGHT = 4.0, 2.0  # of a close-up, where a pair counts 1
_GENEROUS = 2.5  # log odds of pixels: where bodies end the body maps know, which may object
_NOWHERE = -20.0  # logit of what a close-up does not show


@dataclass(frozen=True)
class CloseupsConfig:
    """Who is looked at closer.

    Attributes:
        most: Close-ups of a view, the likeliest people first; 0 = none.
        rounds: Those after the first are of whom it found, or shaped anew.
        min_probability, min_score: As of :class:`hamst3r.people.votes.InstancesConfig`, of whoever
            is worth a close-up.
        filled: Share of the close-up's side that the mask is to fill.
        least: Pixels of the delivered image that its long side has at least.
        widest: A part of the view's side larger than this share is seen well enough by pairs.
        alike: No two parts of a view have more than this intersection over union.
    """

    most: int = 6
    rounds: int = 3
    min_probability: float = 0.1
    min_score: float = 0.05
    filled: float = 0.6
    least: int = 128
    widest: float = 0.8
    alike: float = 0.85


@runtime_checkable
class SeesPeople(Protocol):
    """An engine that can be asked for the people of single images."""

    patch: int
    stride: int
    image_size: int

    def people(self, images: Sequence[NetworkImage]) -> list[PairPrediction]: ...


@runtime_checkable
class LooksCloser(Protocol):
    """An engine with a network for single people's images of ``closeup_side`` pixels (0: none)."""

    closeup_side: int

    def look(self, images: Tensor) -> CloseupOutput: ...


def see_people(
    engine: object,
    frames: Sequence[Frame],
    images: Sequence[NetworkImage],
    predictions: Sequence[PairPrediction],
    instances: InstancesConfig | None = None,
    closeups: CloseupsConfig | None = None,
    eyes: Mapping[int, Eye] | None = None,
) -> list[ViewPeople]:
    """People of each view, looked at again where that is worth it.

    Args:
        engine: Runs the networks; there are close-ups where it :class:`LooksCloser` or
            :class:`SeesPeople`.
        frames: As delivered. images: Prepared from them. predictions: Of their pairs.
        instances: When queries are people. closeups: Who is looked at closer.
        eyes: The cameras that are known, by view.
    """
    instances, closeups = instances or InstancesConfig(), closeups or CloseupsConfig()
    taken: list[Closeup] = []
    way = _way(engine, closeups)
    if way is not None:
        taken = _take_closeups(way, frames, images, predictions, instances, closeups)
    grids = [image.grid for image in images]
    return merge_instances(predictions, grids, instances, eyes, taken)


class _Way(Protocol):
    """How close-ups are taken: (2, 2) boxes of delivered images, of a size (width, height), None
    for what needs none; and what a network says of them."""

    def box(
        self, mask: NDArray[np.bool_], image: NetworkImage, size: tuple[int, int]
    ) -> F64 | None: ...

    def look(self, parts: Sequence[_Part]) -> list[Closeup]: ...


class _Part(NamedTuple):
    """A box of a view, whose image was delivered as ``picture`` and prepared as ``image``."""

    view: int
    box: F64
    picture: NDArray[np.uint8]
    image: NetworkImage


def _way(engine: object, config: CloseupsConfig) -> _Way | None:
    if isinstance(engine, LooksCloser) and engine.closeup_side:
        return _OneByOne(engine, config)
    return _PairedWithThemselves(engine, config) if isinstance(engine, SeesPeople) else None


def _take_closeups(
    way: _Way,
    frames: Sequence[Frame],
    images: Sequence[NetworkImage],
    predictions: Sequence[PairPrediction],
    instances: InstancesConfig,
    config: CloseupsConfig,
) -> list[Closeup]:
    """Those who might be people, looked at again; arguments as of :func:`see_people`."""
    if not config.most or all(p.person_prob is None for p in predictions):
        return []
    wide = replace(
        instances, min_probability=config.min_probability, doubtful_score=config.min_score
    )
    hearing = Hearing([image.grid for image in images], wide)
    # Who is who in other views does not matter here.
    hearing.hear_pairs([replace(p, desc_i=None, desc_j=None) for p in predictions])
    taken: list[Closeup] = []
    boxes: list[list[F64]] = [[] for _ in images]
    pictures: dict[int, NDArray[np.uint8]] = {}
    for _ in range(config.rounds):
        views = hearing.people()
        parts: list[_Part] = []
        for view, k in _likeliest(views):
            if len(boxes[view]) == config.most:
                continue
            if view not in pictures:
                pictures[view] = undistorted(frames[view])
            picture, image = pictures[view], images[view]
            box = way.box(views[view].claimed == k, image, picture.shape[1::-1])
            if box is not None and all(_iou(box, other) <= config.alike for other in boxes[view]):
                boxes[view].append(box)
                parts.append(_Part(view, box, picture, image))
        if not parts:
            break
        new = way.look(parts)
        hearing.hear_closeups(new)
        taken += new
    return taken


def _likeliest(views: Sequence[ViewPeople]) -> list[tuple[int, int]]:
    """(view, id) of all that anybody claims to see, by falling score."""
    scored = [(s, view, k) for view, people in enumerate(views) for k, s in people.scores.items()]
    return [(view, k) for _, view, k in sorted(scored, key=lambda one: -one[0])]


def _iou(a: F64, b: F64) -> float:
    common = np.maximum(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]), 0).prod()
    return float(common / ((a[1] - a[0]).prod() + (b[1] - b[0]).prod() - common))


class _PairedWithThemselves:
    """Parts of the view's aspect, within it, shown to the pair network in both of its views."""

    def __init__(self, engine: SeesPeople, config: CloseupsConfig) -> None:
        self._engine, self._config = engine, config

    def box(
        self, mask: NDArray[np.bool_], image: NetworkImage, size: tuple[int, int]
    ) -> F64 | None:
        """The first pixel, and the one behind the last; None: it is most of the image."""
        config = self._config
        first, last = corners(mask, image.T_image_grid)
        whole = np.array(size, float)
        share = max(((last - first) / whole).max() / config.filled, config.least / whole.max())
        if share > config.widest:
            return None
        span = (share * whole).round()
        corner = np.clip(((first + last - span) / 2 + 0.5).round(), 0, whole - span)
        return np.array([corner, corner + span])

    def look(self, parts: Sequence[_Part]) -> list[Closeup]:
        """Of all of them at once."""
        images = [self._cut(part) for part in parts]
        seen = self._engine.people(images)
        return [self._closeup(*one) for one in zip(parts, images, seen, strict=True)]

    def _cut(self, part: _Part) -> NetworkImage:
        """A part as the network will see it, with its place in the whole image."""
        (left, top), (right, bottom) = part.box.astype(int)
        pixels = np.ascontiguousarray(part.picture[top:bottom, left:right])
        engine, frame = self._engine, Frame(part.image.camera, 0, pixels)
        image = prepare(frame, engine.image_size, engine.patch, engine.stride)
        shift = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]])
        return replace(image, T_image_grid=shift @ image.T_image_grid)

    @torch.inference_mode()
    def _closeup(self, part: _Part, cut: NetworkImage, prediction: PairPrediction) -> Closeup:
        # The part was paired with itself: both sides are of one image.
        masks, body, places, confidence = (
            (getattr(prediction, f"{name}_i") + getattr(prediction, f"{name}_j")) / 2
            for name in ("mask_logits", "body_logits", "densepose", "conf")
        )
        assert prediction.person_prob is not None
        edges = cut.T_image_grid @ np.array(
            [[-0.5, cut.grid[1] - 0.5], [-0.5, cut.grid[0] - 0.5], [1, 1]]
        )
        maps = masks, body, places, confidence
        return _placed(part, edges[:2].T, _PAIRED_WEIGHT, prediction.person_prob, *maps)


class _OneByOne:
    """Square parts with somebody in the middle, shown to a network that expects that."""

    def __init__(self, engine: LooksCloser, config: CloseupsConfig) -> None:
        self._engine, self._config = engine, config

    def box(self, mask: NDArray[np.bool_], image: NetworkImage, size: tuple[int, int]) -> F64:
        """The edges, with pixel centres at integers; it may lie across those of the image."""
        first, last = corners(mask, image.T_image_grid)
        half = max((last - first).max() / FILLED, self._config.least) / 2
        middle = (first + last) / 2
        return np.stack([middle - half, middle + half])

    @torch.inference_mode()
    def look(self, parts: Sequence[_Part]) -> list[Closeup]:
        """Of all of them at once."""
        seen = self._engine.look(torch.stack([self._cut(part) for part in parts]))
        return [self._closeup(*one) for one in zip(parts, zip(*seen, strict=True), strict=True)]

    def _closeup(self, part: _Part, seen: tuple[Tensor, ...]) -> Closeup:
        person_logit, mask, body, densepose, _ = seen
        person, mask = person_logit.sigmoid(), mask + _GENEROUS
        own = person * mask.sigmoid()
        closeup = _placed(
            part,
            part.box,
            _WEIGHT,
            person[None],
            mask[None],
            body,
            densepose.clamp(0, 1),
            # Who sees a body closer knows better than pairs, but only whose body it is.
            LEADING * own,
        )
        # Of others nearby it says nothing, least of all that nobody is there.
        others = closeup.body_logits.sigmoid() * (1 - person * closeup.mask_logits[0].sigmoid())
        return replace(closeup, seen=closeup.seen * (1 - others.cpu().numpy()))

    def _cut(self, part: _Part) -> Tensor:
        """(3, S, S) in [-1, 1], 0 beyond the edge of the image."""
        side = self._engine.closeup_side
        scale = (part.box[1, 0] - part.box[0, 0]) / side
        T_image_part = resampling(scale, scale, *(-0.5 - part.box[0]))
        pixels = torch.from_numpy(square(part.picture, T_image_part, side)).permute(2, 0, 1)
        there = inside(part.picture.shape[1::-1], T_image_part, side)
        return (pixels / 127.5 - 1) * torch.from_numpy(there)


def _placed(
    part: _Part,
    edges: F64,
    weight: float,
    person_prob: Tensor,
    masks: Tensor,
    body: Tensor,
    densepose: Tensor,
    confidence: Tensor,
) -> Closeup:
    """Maps of a part, between its edges (2, 2) in the delivered image, on the grid of the view."""
    cells = _cells(part.image, edges).to(masks.device)
    seen = (cells.abs() <= 1).all(-1)

    def place(maps: Tensor) -> Tensor:
        return F.grid_sample(
            maps[None].float(), cells[None], padding_mode="border", align_corners=False
        )[0]

    return Closeup(
        view=part.view,
        seen=seen.float().cpu().numpy(),
        weight=weight,
        person_prob=person_prob,
        mask_logits=place(masks).masked_fill(~seen, _NOWHERE),
        body_logits=place(body[None])[0].masked_fill(~seen, _NOWHERE),
        densepose=place(densepose.permute(2, 0, 1)).permute(1, 2, 0),
        confidence=place(confidence[None])[0],
    )


def _cells(image: NetworkImage, edges: F64) -> Tensor:
    """(gh, gw, 2) column and row in a part, from -1 to 1, of every cell of the whole view."""
    T = image.T_image_grid
    axes = [
        2 * (T[axis, axis] * np.arange(image.grid[1 - axis]) + T[axis, 2] - low) / (high - low) - 1
        for axis, (low, high) in enumerate(edges.T)
    ]
    return torch.from_numpy(np.stack(np.meshgrid(*axes), -1)).float()
