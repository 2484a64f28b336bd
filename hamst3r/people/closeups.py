"""Close-ups: who is small in an image, or in doubt, is looked at again in the pixels delivered.

The network sees images far smaller than cameras deliver them, and knows people who fill its images
better than small ones. So whatever might be somebody is cut out of the frame as it came, with some
room around it, and shown to the network once more. What it says there is one opinion more of this
part of the view, next to those of the pairs (:func:`hamst3r.people.instances.merge_instances`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hamst3r.engine import PairPrediction
from hamst3r.frames import Frame
from hamst3r.image import NetworkImage, corners, prepare, undistorted
from hamst3r.people.association import Eye
from hamst3r.people.instances import Closeup, Hearing, ViewPeople, merge_instances
from hamst3r.people.votes import InstancesConfig

F64 = NDArray[np.float64]
_NOWHERE = -20.0  # logit of what a close-up does not show


@dataclass(frozen=True)
class CloseupsConfig:
    """Who is looked at closer.

    Attributes:
        most: Close-ups of a view, the likeliest people first; 0 = none.
        rounds: The second one is of those whom the first one found, or shaped anew.
        min_probability, min_score: As of :class:`hamst3r.people.votes.InstancesConfig`, of whoever
            is worth a close-up.
        filled: Share of the close-up's side that the mask is to fill.
        least: Pixels of the delivered image that its long side has at least.
        widest: A part of the view's side larger than this share is seen well enough.
        alike: No two parts of a view have more than this intersection over union.
    """

    most: int = 3
    rounds: int = 2
    min_probability: float = 0.2
    min_score: float = 0.1
    filled: float = 0.6
    least: int = 128
    widest: float = 0.8
    alike: float = 0.75


@runtime_checkable
class SeesPeople(Protocol):
    """An engine that can be asked for the people of single images."""

    patch: int
    stride: int
    image_size: int

    def people(self, images: Sequence[NetworkImage]) -> list[PairPrediction]: ...


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
        engine: Runs the network; without :class:`SeesPeople` there are no close-ups.
        frames: As delivered. images: Prepared from them. predictions: Of their pairs.
        instances: When queries are people. closeups: Who is looked at closer.
        eyes: The cameras that are known, by view.
    """
    instances, closeups = instances or InstancesConfig(), closeups or CloseupsConfig()
    taken: list[Closeup] = []
    if isinstance(engine, SeesPeople):
        taken = _take_closeups(engine, frames, images, predictions, instances, closeups)
    grids = [image.grid for image in images]
    return merge_instances(predictions, grids, instances, eyes, taken)


def _take_closeups(
    engine: SeesPeople,
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
        parts: list[tuple[int, NetworkImage]] = []
        for view, k in _likeliest(views):
            if len(boxes[view]) == config.most:
                continue
            if view not in pictures:
                pictures[view] = undistorted(frames[view])
            picture = pictures[view]
            box = _box(views[view].claimed == k, images[view], picture.shape[1::-1], config)
            if box is not None and all(_iou(box, other) <= config.alike for other in boxes[view]):
                boxes[view].append(box)
                parts.append((view, _cut(picture, box, images[view].camera, engine)))
        if not parts:
            break
        seen = engine.people([part for _, part in parts])
        new = [
            _closeup(view, images[view], part, prediction)
            for (view, part), prediction in zip(parts, seen, strict=True)
        ]
        hearing.hear_closeups(new)
        taken += new
    return taken


def _likeliest(views: Sequence[ViewPeople]) -> list[tuple[int, int]]:
    """(view, id) of all that anybody claims to see, by falling score."""
    scored = [(s, view, k) for view, people in enumerate(views) for k, s in people.scores.items()]
    return [(view, k) for _, view, k in sorted(scored, key=lambda one: -one[0])]


def _box(
    mask: NDArray[np.bool_], image: NetworkImage, size: tuple[int, int], config: CloseupsConfig
) -> F64 | None:
    """(2, 2) first pixel, and the one behind the last, of the part of a delivered image of a size
    (width, height) to look at, in its aspect; None: it is most of the image."""
    first, last = corners(mask, image.T_image_grid)
    whole = np.array(size, float)
    share = max(((last - first) / whole).max() / config.filled, config.least / whole.max())
    if share > config.widest:
        return None
    span = (share * whole).round()
    corner = np.clip(((first + last - span) / 2 + 0.5).round(), 0, whole - span)
    return np.array([corner, corner + span])


def _iou(a: F64, b: F64) -> float:
    common = np.maximum(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]), 0).prod()
    return float(common / ((a[1] - a[0]).prod() + (b[1] - b[0]).prod() - common))


def _cut(picture: NDArray[np.uint8], box: F64, camera: str, engine: SeesPeople) -> NetworkImage:
    """A part of a delivered image as the network will see it, with its place in the whole one."""
    (left, top), (right, bottom) = box.astype(int)
    part = Frame(camera, 0, np.ascontiguousarray(picture[top:bottom, left:right]))
    image = prepare(part, engine.image_size, engine.patch, engine.stride)
    shift = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]])
    return replace(image, T_image_grid=shift @ image.T_image_grid)


@torch.inference_mode()
def _closeup(
    view: int, image: NetworkImage, part: NetworkImage, prediction: PairPrediction
) -> Closeup:
    """What the network says of a part, on the grid of the whole view."""
    # The part was paired with itself: both sides are of one image.
    masks, body, places, confidence = (
        (getattr(prediction, f"{name}_i") + getattr(prediction, f"{name}_j")) / 2
        for name in ("mask_logits", "body_logits", "densepose", "conf")
    )
    cells = _cells(image, part).to(masks.device)
    seen = (cells.abs() <= 1).all(-1)

    def place(maps: Tensor) -> Tensor:
        return F.grid_sample(
            maps[None].float(), cells[None], padding_mode="border", align_corners=False
        )[0]

    assert prediction.person_prob is not None
    return Closeup(
        view=view,
        seen=seen.cpu().numpy(),
        person_prob=prediction.person_prob,
        mask_logits=place(masks).masked_fill(~seen, _NOWHERE),
        body_logits=place(body[None])[0].masked_fill(~seen, _NOWHERE),
        densepose=place(places.permute(2, 0, 1)).permute(1, 2, 0),
        confidence=place(confidence[None])[0],
    )


def _cells(image: NetworkImage, part: NetworkImage) -> Tensor:
    """(gh, gw, 2) column and row in a part, from -1 to 1, of every cell of the whole view."""
    T_part_view = np.linalg.inv(part.T_image_grid) @ image.T_image_grid
    axes = [
        (2 * (T_part_view[axis, axis] * np.arange(image.grid[1 - axis]) + T_part_view[axis, 2]) + 1)
        / part.grid[1 - axis]
        - 1
        for axis in range(2)
    ]
    return torch.from_numpy(np.stack(np.meshgrid(*axes), -1)).float()
