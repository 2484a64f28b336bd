"""From rendered scenes to batches of image pairs with their truth, made on the device that trains.

Every pair is cut out of its scene anew: a random crop and zoom, rolled or not, mirrored or not, a
little lens distortion, and what a camera does to a picture (``synthetic/sensor.py``). Labels are
exact whatever the cut: each pixel of the output grid is followed back to the pixel of the source
that it shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hamst3r.geometry import F64
from hamst3r.synthetic.sensor import photograph
from hamst3r.training.losses import PairTarget, ViewTarget
from hamst3r.training.store import SceneBank, StoredScene
from hamst3r.training.window import Size, Window

CROSSWISE = 0.2  # share of the draws that may cut portraits out of landscapes, or the reverse
MATCHES = 192  # most correspondences of a pair
DEPTH_TOLERANCE = 0.03  # of two views' depths at one surface point
CLEAR = 0.015  # share of a view's pixels of whom it shows well enough to look at
PASSED_OVER = 0.9  # share of the scenes without such a person, where one is looked for
HARDLY = 0.002  # share of a view's pixels of whom it shows well enough for a close-up
MISTAKEN = 0.25  # share of the close-ups that show whatever there is


@dataclass(frozen=True)
class PairBatch:
    """Images (B, 3, H, W) in [-1, 1] of both views, and their truth on the output grid."""

    images_i: Tensor
    images_j: Tensor
    target: PairTarget

    def __len__(self) -> int:
        return len(self.images_i)


class Choice(NamedTuple):
    """A pair of views of a scene, and the boxes (2, 2) that they look at, if any."""

    scene: StoredScene
    i: int
    j: int
    box_i: F64 | None = None
    box_j: F64 | None = None


class PairSampler:
    """Draws batches; all of their randomness is the given generator's.

    Args:
        bank: Scenes to draw from. sizes: Network input sizes to choose from, one per batch.
        stride: Input pixels per output pixel.
        augment: Random crops, mirroring, distortion and camera effects.
    """

    def __init__(
        self,
        bank: SceneBank,
        sizes: tuple[Size, ...],
        stride: int,
        rng: np.random.Generator,
        augment: bool = True,
    ) -> None:
        self.bank, self.sizes, self.stride, self.augment = bank, sizes, stride, augment
        self._rng = rng

    def batch(
        self, pairs: int, pairs_per_scene: int = 2, overlap: float = 0.0, people: float = 0.0
    ) -> PairBatch:
        """A batch of ``pairs`` pairs, ``pairs_per_scene`` of them from each drawn scene.

        Args:
            overlap: Share of the scenes whose pairs are those that see most of the same.
            people: Share of the scenes whose pairs look at one person, where there is one.

        Raises:
            FileNotFoundError: There are no scenes.
        """
        size, chosen = self._choose(
            pairs, pairs_per_scene, lambda scene: self._choices(scene, overlap, people)
        )
        mirror = self._mirrored(pairs)
        i = self._cut([(c.scene, c.i, c.box_i) for c in chosen], mirror, size)
        j = self._cut([(c.scene, c.j, c.box_j) for c in chosen], mirror, size)
        target = PairTarget(_truth(i, i), _truth(j, i), _correspondences(i, j, self._rng))
        return PairBatch(self._photograph(i), self._photograph(j), target)

    def closeups(self, pairs: int, pairs_per_scene: int = 2) -> PairBatch:
        """A batch of images of people, or of what may be taken for some, each with itself.

        So they are looked at a second time (:mod:`hamst3r.people.closeups`). Arguments and errors
        as of :meth:`batch`; ``images_j`` is ``images_i``.
        """
        size, chosen = self._choose(pairs, pairs_per_scene, self._closeups)
        cut = self._cut([(c.scene, c.i, c.box_i) for c in chosen], self._mirrored(pairs), size)
        truth, images = _truth(cut, cut), self._photograph(cut)
        target = PairTarget(truth, truth, _correspondences(cut, cut, self._rng))
        return PairBatch(images, images, target)

    def _choose(
        self,
        pairs: int,
        pairs_per_scene: int,
        choices: Callable[[StoredScene], list[Choice]],
    ) -> tuple[Size, list[Choice]]:
        """The size of a batch's images, and what they show: the first of each scene's choices."""
        if not self.bank.paths:
            self.bank.refresh()
        size = self.sizes[int(self._rng.integers(len(self.sizes)))]
        chosen: list[Choice] = []
        while len(chosen) < pairs:
            lacking = -(-(pairs - len(chosen)) // pairs_per_scene)
            for scene in self._draw(lacking, size[0] > size[1]):
                chosen += choices(scene)[: min(pairs_per_scene, pairs - len(chosen))]
        return size, chosen

    def _draw(self, count: int, landscape: bool) -> list[StoredScene]:
        """Scenes, most of them of the wanted orientation.

        Cutting a portrait out of a landscape wastes most of it: that is done rarely.
        """
        rng, bank = self._rng, self.bank
        picks = [bank.paths[k] for k in rng.integers(len(bank.paths), size=count)]
        either = rng.random(count) < CROSSWISE
        wanted = [
            (path, bool(any_will_do))
            for path, any_will_do in zip(picks, either, strict=True)
            if any_will_do or bank.landscape(path) in (None, landscape)
        ]
        scenes = bank.get([path for path, _ in wanted])
        if None in scenes:
            bank.refresh()
        return [
            scene
            for scene, (_, any_will_do) in zip(scenes, wanted, strict=True)
            if scene is not None and (any_will_do or scene.landscape == landscape)
        ]

    def _choices(self, scene: StoredScene, overlap: float, people: float) -> list[Choice]:
        """Pairs of a scene, best first; none if somebody is to be looked at, and nobody is there.

        Of most scenes few pixels are people's, and hardly any tell of a body.
        """
        rng = self._rng
        if people and rng.random() < people:
            clear, others = scene.shown >= CLEAR, ~np.eye(len(scene.K), dtype=bool)
            both = np.argwhere(clear[:, :, None] & clear[:, None] & others)
            if len(both):
                return [
                    Choice(scene, a, b, scene.boxes[row, a], scene.boxes[row, b])
                    for row, a, b in rng.permutation(both).tolist()
                ]
            if rng.random() < PASSED_OVER:
                return []
        return [Choice(scene, *edge) for edge in _edges(scene, rng, overlap)]

    def _closeups(self, scene: StoredScene) -> list[Choice]:
        """People of a scene's views, or whatever there is, as by mistake."""
        rng = self._rng
        shown = rng.permutation(np.argwhere(scene.shown >= HARDLY)).tolist()
        if rng.random() < MISTAKEN or (not shown and rng.random() > PASSED_OVER):
            return [self._anywhere(scene, view) for view in rng.permutation(len(scene.K)).tolist()]
        return [Choice(scene, view, view, scene.boxes[row, view]) for row, view in shown]

    def _anywhere(self, scene: StoredScene, view: int) -> Choice:
        """A close-up of a random part of a view."""
        whole = np.array(scene.depth.shape[:0:-1], float)
        first = whole * self._rng.uniform(0.0, 0.8, 2)
        last = np.minimum(first + whole * self._rng.uniform(0.1, 0.6, 2), whole) - 1
        return Choice(scene, view, view, np.array([first, last]))

    def _mirrored(self, pairs: int) -> NDArray[np.bool_]:
        """Of which pairs both views are mirrored."""
        return np.asarray(self._rng.random(pairs) < (0.5 if self.augment else 0.0))

    def _cut(
        self,
        looks: list[tuple[StoredScene, int, F64 | None]],
        mirror: NDArray[np.bool_],
        size: Size,
    ) -> Cut:
        """One side of the pairs, by scene, view and box."""
        views = [(scene, view) for scene, view, _ in looks]
        rng = self._rng if self.augment else None
        window = Window.draw(views, mirror, size, rng, [box for _, _, box in looks])
        return Cut(views, window, self.stride)

    def _photograph(self, cut: Cut) -> Tensor:
        images = cut.images()
        if self.augment:
            images = photograph(images, self._rng)
        return images * 2 - 1


class Cut:
    """One view of each pair of a batch, as its window shows it.

    Attributes:
        views: Scene and index. window: How images and labels are cut out of them.
        pose: (B, 4, 4) T_world_cam of the sources. grid: Rows and columns of the output grid.
        depth: (B, gh, gw) metres, 0 = none. labels: (B, 5, gh, gw) uint8, as stored.
        points: (B, gh, gw, 3) metres in the source's own camera: neither rolled nor mirrored.
    """

    def __init__(self, views: list[tuple[StoredScene, int]], window: Window, stride: int) -> None:
        self.views, self.window, self.stride = views, window, stride
        self.pose = np.stack([scene.T_world_cam[v] for scene, v in views])
        width, height = window.size
        self.grid = (height // stride, width // stride)
        middle = (stride - 1) / 2  # Output pixel 0 lies between the first ``stride`` input pixels.
        source = window.source(window.pixels(self.grid) * stride + middle)
        at = source.round().long()
        self.depth = self._pick([scene.depth[v] for scene, v in views], at)[:, 0].float()
        self.labels = self._pick([scene.labels[v] for scene, v in views], at)
        self.points = window.rays(source) * self.depth[..., None]

    def cells(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest cells (B, M) of points (B, M, 3) in the source's camera: column and row."""
        pixels = self.window.project(points)
        cells = ((pixels - (self.stride - 1) / 2) / self.stride).round()
        return cells[..., 0], cells[..., 1]

    def images(self) -> Tensor:
        """(B, 3, H, W) in [0, 1]; each pixel is the mean of four samples, which do not alias."""
        window = self.window
        middle = window.source(window.pixels(window.size[::-1]))
        quarter = (0.25 / window.scale)[:, None, None, None]
        sides = torch.tensor([(-1, -1), (-1, 1), (1, -1), (1, 1)], device=middle.device)
        total = self._sample(middle + quarter * sides[0])
        for side in sides[1:]:
            total += self._sample(middle + quarter * side)
        return total / (4 * 255)

    def _sample(self, source: Tensor) -> Tensor:
        """The sources' colours (B, 3, H, W), bilinear, at pixels (B, H, W, 2)."""
        out = torch.empty(len(source), 3, *source.shape[1:3], device=source.device)
        for index, rgb in _by_shape([scene.rgb[v] for scene, v in self.views]):
            size = torch.tensor(rgb.shape[:1:-1], device=source.device)
            place = (source[index] + 0.5) * 2 / size - 1
            out[index] = F.grid_sample(
                rgb.float(), place, padding_mode="border", align_corners=False
            )
        return out

    def _pick(self, maps: list[Tensor], at: Tensor) -> Tensor:
        """(B, C, gh, gw): values of maps (C, H, W) or (H, W) at pixels (B, gh, gw, 2)."""
        channels = maps[0].shape[0] if maps[0].dim() == 3 else 1
        out = torch.empty(len(maps), channels, *self.grid, dtype=maps[0].dtype, device=at.device)
        for index, stacked in _by_shape(maps):
            height, width = stacked.shape[-2:]
            x, y = at[index, ..., 0].clamp(0, width - 1), at[index, ..., 1].clamp(0, height - 1)
            flat = (y * width + x).flatten(1)[:, None].expand(-1, channels, -1)
            picked = stacked.reshape(len(stacked), channels, -1).gather(2, flat)
            out[index] = picked.unflatten(2, self.grid)
        return out


def _by_shape(maps: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Which of the maps are of one shape, and those stacked."""
    shapes: dict[torch.Size, list[int]] = {}
    for k, one in enumerate(maps):
        shapes.setdefault(one.shape, []).append(k)
    return [
        (torch.tensor(index, device=maps[0].device), torch.stack([maps[k] for k in index]))
        for index in shapes.values()
    ]


def _edges(scene: StoredScene, rng: np.random.Generator, overlap: float) -> list[tuple[int, int]]:
    """Ordered pairs of a scene's views, best first.

    The first ones share no view: the same image twice teaches little more.
    """
    order = rng.permutation(len(scene.K)).tolist()
    disjoint = list(zip(order[::2], order[1::2], strict=False))
    others = [(a, b) for a in order for b in order if a != b and (a, b) not in disjoint]
    rng.shuffle(others)
    edges = disjoint + others
    if overlap and rng.random() < overlap:
        edges.sort(key=lambda edge: -scene.overlap[edge])
    return edges


def _between(a: Cut, b: Cut) -> Tensor:
    """(B, 4, 4) T_a_b of the sources' cameras."""
    T_a_b = np.linalg.inv(a.pose) @ b.pose
    return torch.as_tensor(T_a_b.astype(np.float32), device=a.depth.device)


def _truth(view: Cut, first: Cut) -> ViewTarget:
    """Labels of one side, its points in the axes of the first side's (rolled, mirrored) cameras."""
    points = view.points
    if view is not first:
        T = _between(first, view)
        points = (points.flatten(1, 2) @ T[:, :3, :3].mT + T[:, None, :3, 3]).view(points.shape)
    points = first.window.own_axes(points)
    densepose = view.labels[:, 1:4].float() / 255
    # The mirrored person's left is the right: the template is symmetric in x.
    x = torch.where(view.window.mirror[:, None, None], 1 - densepose[:, 0], densepose[:, 0])
    densepose = torch.stack([x, densepose[:, 1], densepose[:, 2]], -1)
    return ViewTarget(
        points=points,
        valid=view.depth > 0,
        instances=view.labels[:, 0].long(),
        densepose=densepose,
        body=view.labels[:, 4] > 0,
    )


def _correspondences(i: Cut, j: Cut, rng: np.random.Generator) -> Tensor:
    """(B, MATCHES, 2) flat pixels of i and j that show the same surface point; -1 where none."""
    device, count = i.depth.device, len(i.depth)
    rows, columns = j.grid
    generator = torch.Generator(device=device).manual_seed(int(rng.integers(1 << 62)))
    # Distinct pixels: those with the largest random numbers.
    chance = torch.rand(count, i.depth[0].numel(), device=device, generator=generator)
    chance = torch.where(i.depth.flatten(1) > 0, chance, -1.0)
    chance, flat = chance.topk(min(3 * MATCHES, chance.shape[1]), dim=1)
    points = i.points.flatten(1, 2).gather(1, flat[..., None].expand(-1, -1, 3))
    T = _between(j, i)
    points = points @ T[:, :3, :3].mT + T[:, None, :3, 3]
    z = points[..., 2]
    u, v = j.cells(points)
    good = (chance >= 0) & (z > 0.05) & (u >= 0) & (u < columns) & (v >= 0) & (v < rows)
    target = torch.where(good, v * columns + u, 0.0).long()
    seen = j.depth.flatten(1).gather(1, target)
    good &= (seen - z).abs() < DEPTH_TOLERANCE * z
    # Two pixels of i in one pixel of j would be each other's negatives: the first one stays.
    rank = torch.arange(flat.shape[1], device=device).expand_as(flat)
    first = torch.full((count, rows * columns), flat.shape[1], device=device)
    first.scatter_reduce_(1, target, torch.where(good, rank, flat.shape[1]), "amin")
    good &= first.gather(1, target) == rank
    order = torch.where(good, rank, rank + flat.shape[1]).argsort(1)[:, :MATCHES]
    pair = torch.stack([flat, target], -1)
    pair = torch.where(good[..., None], pair, -1)
    return pair.gather(1, order[..., None].expand(-1, -1, 2))
