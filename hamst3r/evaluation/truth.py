"""The truth of a synthetic scene, as maps of a view and as what a perfect network would say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from hamst3r.engine import PairPrediction
from hamst3r.geometry import invert, pixel_rays, transform, unproject
from hamst3r.image import NetworkImage
from hamst3r.synthetic.render import SyntheticView

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# What can be replaced by the truth, and the fields of a prediction that it consists of.
PARTS: dict[str, tuple[str, ...]] = {
    "points": ("pts_i", "pts_j", "conf_i", "conf_j"),
    "instances": ("mask_logits_i", "mask_logits_j", "person_prob"),
    "body": ("body_logits_i", "body_logits_j"),
    "densepose": ("densepose_i", "densepose_j"),
}
_SURE = 12.0  # logit
_CONFIDENT = 10.0
_SKY = 100.0  # metres


@dataclass(frozen=True, eq=False)
class ViewTruth:
    """One view's labels on the network's output grid.

    Attributes:
        depth: (gh, gw) float32 z in metres, 0 = none. instances: (gh, gw) int32, 0 = none.
        densepose: (gh, gw, 3) float32, NaN off people.
        K: (3, 3) of the grid. T_world_cam: (4, 4).
    """

    depth: F32
    instances: NDArray[np.int32]
    densepose: F32
    K: F64
    T_world_cam: F64

    @property
    def body(self) -> NDArray[np.bool_]:
        """(gh, gw) whether the pixel is on a person."""
        return np.isfinite(self.densepose[..., 0])

    def points(self) -> F64:
        """(gh, gw, 3) in the camera; the origin where there is no depth."""
        return unproject(self.depth, self.K)


def on_grid(view: SyntheticView, image: NetworkImage) -> ViewTruth:
    """The labels of a view's nearest pixels to those of its network image's grid."""
    height, width = view.depth.shape
    gh, gw = image.grid
    corner, step = image.T_image_grid[:2, 2], np.diag(image.T_image_grid)[:2]
    columns, rows = (
        _nearest(np.arange(n) * s + c) for n, s, c in zip((gw, gh), step, corner, strict=True)
    )
    index = np.ix_(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))
    return ViewTruth(
        depth=view.depth[index].astype(np.float32),
        instances=view.instances[index].astype(np.int32),
        densepose=view.densepose[index].astype(np.float32),
        K=np.linalg.inv(image.T_image_grid) @ view.K,
        T_world_cam=view.T_world_cam,
    )


def _nearest(places: F64) -> NDArray[np.int64]:
    """Integers nearest to places (n,); of those between two, on either side in turn, so that all
    together are not off to one side."""
    alternating = np.where(np.arange(len(places)) % 2, 1e-6, -1e-6)
    return np.floor(places + 0.5 + alternating).astype(np.int64)


def perfect(i: int, j: int, truths: Sequence[ViewTruth]) -> PairPrediction:
    """What a perfect network says of a pair of views."""
    people = sorted({int(p) for v in (i, j) for p in np.unique(truths[v].instances) if p})
    return PairPrediction(
        i=i,
        j=j,
        person_prob=torch.ones(len(people)) if people else torch.zeros(1),
        **_view(truths[i], truths[i], people, "i"),
        **_view(truths[j], truths[i], people, "j"),
    )


def _view(view: ViewTruth, first: ViewTruth, people: list[int], suffix: str) -> dict:
    known = view.depth > 0
    rays = pixel_rays(view.K, *view.depth.shape)
    points = rays * np.where(known, view.depth, _SKY)[..., None]
    points = transform(invert(first.T_world_cam) @ view.T_world_cam, points)
    masks = np.stack([view.instances == person for person in people or [-1]])
    maps = {
        "pts": points,
        "conf": np.where(known, _CONFIDENT, 1.0),
        "mask_logits": np.where(masks, _SURE, -_SURE),
        "densepose": np.nan_to_num(view.densepose, nan=0.5),
        "body_logits": np.where(view.body, _SURE, -_SURE),
    }
    return {f"{name}_{suffix}": torch.from_numpy(m).float() for name, m in maps.items()}


def substitute(
    predictions: Sequence[PairPrediction], truths: Sequence[ViewTruth], parts: Collection[str]
) -> list[PairPrediction]:
    """Predictions with some parts replaced by the truth: what are the other parts worth?

    Raises:
        ValueError: A part that is not one of ``PARTS``.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ValueError(
            f"no part {', '.join(unknown)} of predictions; there are {', '.join(PARTS)}"
        )
    fields = [field for part in parts for field in PARTS[part]]
    result = []
    for prediction in predictions:
        true = perfect(prediction.i, prediction.j, truths)
        result.append(replace(prediction, **{name: getattr(true, name) for name in fields}))
    return result
