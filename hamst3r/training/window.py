"""Where the pixels of an augmented image come from: crop, zoom, roll, mirror and lens distortion.

Everything that needs to know goes through :class:`Window`, in one direction or the other, so that
labels, rays and correspondences follow the image exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamst3r.geometry import F64
from hamst3r.training.store import StoredScene

Size = tuple[int, int]  # width, height
ZOOM = 1.35  # at most, beyond what fills the image
LEAST = 64  # source pixels along the longer side of a window on a person
PERSON_FILLS = (0.35, 0.95)  # of the window's side, where it looks at one
ROLLED, MOST_ROLLED = 0.35, np.radians(40)  # share of the views with roll, and most of it
BENT, MOST_BENT = 0.4, 0.06  # share of the views with distortion, and most of it in a corner


@dataclass(frozen=True, eq=False)
class Window:
    """How B images of one size are cut out of their sources.

    A pixel shows the source's pixel that :meth:`source` gives: mirrored, scaled, rolled, shifted,
    then freed of the distortion x = x_d (1 + k |x_d|^2) that the pretended lens has.

    Attributes:
        size: Of the images.
        mirror: (B,) bool. scale: (B,) image over source pixels.
        turn: (B, 2, 2) from image to source axes: the camera's roll, after the mirror if any.
        middle: (B, 2) of the windows, source pixels.
        bend: (B,) k. focal, centre: (B, 2) of the sources, pixels.
    """

    size: Size
    mirror: Tensor
    scale: Tensor
    turn: Tensor
    middle: Tensor
    bend: Tensor
    focal: Tensor
    centre: Tensor

    @staticmethod
    def draw(
        views: Sequence[tuple[StoredScene, int]],
        mirror: NDArray[np.bool_],
        size: Size,
        rng: np.random.Generator | None,
        boxes: Sequence[F64 | None] = (),
    ) -> Window:
        """Random windows on views, or the largest ones in the middle without ``rng``.

        Args:
            boxes: (2, 2) first and last pixel of what each view's window is to look at; None, or
                no boxes at all: at whatever there is.
        """
        count = len(views)
        sources = np.array([scene.depth.shape[:0:-1] for scene, _ in views], float)
        K = np.stack([scene.K[v] for scene, v in views])
        focal, centre = K[:, [0, 1], [0, 1]], K[:, :2, 2]
        place, zoom = np.full((count, 2), 0.5), np.ones(count)
        roll, most = np.zeros(count), np.zeros(count)
        if rng is not None:
            place, zoom = rng.random((count, 2)), rng.uniform(1.0, ZOOM, count)
            roll = rng.uniform(-MOST_ROLLED, MOST_ROLLED, count) * (rng.random(count) < ROLLED)
            most = rng.uniform(-MOST_BENT, MOST_BENT, count) * (rng.random(count) < BENT)
        bend = most / ((sources / 2 / focal) ** 2).sum(1)
        inner = sources / (1 + np.maximum(most, 0))[:, None]  # Beyond, there is no source.
        turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        turn = np.moveaxis(turn, 2, 0)
        turn[:, :, 0] *= np.where(mirror, -1, 1)[:, None]
        bounds = abs(turn) @ np.array(size, float)  # of a rolled window, in image pixels
        fill = (bounds / inner).max(1)
        for k, box in enumerate(boxes):
            if rng is not None and box is not None:
                widest = np.array(size) / fill[k], bounds[k] / fill[k]
                zoom[k], place[k] = _look_at(box, widest, sources[k], inner[k], rng)
        scale = fill * zoom
        span = bounds / scale[:, None]
        middle = (sources - inner + span) / 2 + (inner - span) * place
        device = views[0][0].rgb.device
        columns = (
            torch.as_tensor(np.asarray(values, np.float32), device=device)
            for values in (scale, turn, middle, bend, focal, centre)
        )
        return Window(size, torch.as_tensor(mirror, device=device), *columns)

    def pixels(self, shape: tuple[int, int]) -> Tensor:
        """(B, rows, columns, 2) column and row of every cell of a grid."""
        axes = [torch.arange(n, device=self.scale.device, dtype=torch.float32) for n in shape]
        rows, columns = torch.meshgrid(*axes, indexing="ij")
        return torch.stack([columns, rows], -1).expand(len(self.scale), -1, -1, -1)

    def source(self, pixels: Tensor) -> Tensor:
        """Source pixels (B, ..., 2) of pixels (B, ..., 2)."""
        shape = (len(pixels), *[1] * (pixels.dim() - 2))
        focal, centre = self.focal.view(*shape, 2), self.centre.view(*shape, 2)
        away = (pixels - self._image_middle) / self.scale.view(*shape, 1)
        away = (self.turn.view(*shape, 2, 2) @ away[..., None])[..., 0]
        x_d = (away + self.middle.view(*shape, 2) - 0.5 - centre) / focal
        bend = self.bend.view(*shape, 1) * x_d.square().sum(-1, keepdim=True)
        return x_d * (1 + bend) * focal + centre

    def rays(self, source: Tensor) -> Tensor:
        """(B, gh, gw, 3) with z = 1 of source pixels (B, gh, gw, 2)."""
        x = (source - self.centre[:, None, None]) / self.focal[:, None, None]
        return torch.cat([x, torch.ones_like(x[..., :1])], -1)

    def project(self, points: Tensor) -> Tensor:
        """Pixels (B, M, 2) that show points (B, M, 3) in the source's camera, in front of it."""
        x = points[..., :2] / points[..., 2:].clamp_min(1e-6)
        x_d = x
        for _ in range(4):
            x_d = x / (1 + self.bend[:, None, None] * x_d.square().sum(-1, keepdim=True))
        away = x_d * self.focal[:, None] + self.centre[:, None] + 0.5 - self.middle[:, None]
        away = away @ self.turn * self.scale[:, None, None]
        return away + self._image_middle

    def own_axes(self, points: Tensor) -> Tensor:
        """Points (B, gh, gw, 3) in the sources' cameras, in the axes of the images' cameras."""
        xy = points[..., :2] @ self.turn[:, None]
        return torch.cat([xy, points[..., 2:]], -1)

    @property
    def _image_middle(self) -> Tensor:
        return (torch.tensor(self.size, device=self.scale.device) - 1) / 2


def _look_at(
    box: F64, widest: tuple[F64, F64], source: F64, inner: F64, rng: np.random.Generator
) -> tuple[float, F64]:
    """Zoom and place of a window that looks at a box.

    Args:
        box: (2, 2) first and last pixel.
        widest: (2,) pixels that a window without zoom spans, and those around it as it is rolled.
        source: (2,) size of the image. inner: (2,) size of the part, in its middle, to stay in.
    """
    filled = ((box[1] - box[0] + 1) / widest[0]).max()
    most = max(widest[0].max() / LEAST, 1.0)
    zoom = float(np.clip(rng.uniform(*PERSON_FILLS) / filled, 1.0, most))
    span = widest[1] / zoom
    middle = box.mean(0) + widest[0] / zoom * rng.uniform(-0.15, 0.15, 2)
    first = (source - inner + span) / 2
    return zoom, np.clip((middle - first) / np.maximum(inner - span, 1e-6), 0, 1)
