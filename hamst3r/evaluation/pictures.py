"""Predictions beside the truth, as pictures: for the model card, and for finding what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.evaluation.people import people_of
from hamst3r.evaluation.recording import SHARED, SetResult
from hamst3r.evaluation.synthetic import SceneResult
from hamst3r.frames import FrameSet
from hamst3r.geometry import invert, project, transform
from hamst3r.people.body import PARENTS
from hamst3r.scene import Scene, View

Image = NDArray[np.uint8]

TILE = 288  # long side of one image, pixels
TRUE, FITTED, STANDING = (60, 220, 60), (255, 140, 0), (255, 60, 200)  # colours of bodies
_BONES = [(joint, parent) for joint, parent in enumerate(PARENTS) if parent >= 0]
# The twelve shared joints as they hang together, by their names in the body.
_SHARED_BONES = [
    (list(SHARED).index(a), list(SHARED).index(b))
    for a, b in (
        *((f"{s}Hip", f"{s}Knee") for s in "LR"),
        *((f"{s}Knee", f"{s}Ankle") for s in "LR"),
        *((f"{s}Shoulder", f"{s}Elbow") for s in "LR"),
        *((f"{s}Elbow", f"{s}Wrist") for s in "LR"),
        ("LHip", "RHip"),
        ("LShoulder", "RShoulder"),
        ("LHip", "LShoulder"),
        ("RHip", "RShoulder"),
    )
]


class Extremes:
    """Keeps the best and the worst pictures of many and writes them.

    Args:
        folder: Where to; None keeps nothing. count: How many of each.
    """

    def __init__(self, folder: Path | None, count: int = 3) -> None:
        self._folder, self._count = folder, count
        self._kept: list[tuple[float, str, Image]] = []

    def offer(self, score: float, name: str, draw: Callable[[], Image]) -> None:
        """Draw and keep it if it is among the extremes so far; higher scores are better."""
        if self._folder is None:
            return
        scores = sorted([kept[0] for kept in self._kept] + [score])
        if len(scores) > 2 * self._count and scores[self._count - 1] < score < scores[-self._count]:
            return
        ranked = sorted([*self._kept, (score, name, draw())], key=lambda item: item[:2])
        self._kept = ranked[: self._count] + ranked[self._count :][-self._count :]

    def close(self) -> None:
        """Write the pictures as ``worst_1_NAME.png``, ... and ``best_1_NAME.png``, ...

        Raises:
            OSError: The folder or a file cannot be written.
        """
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        half = (len(self._kept) + 1) // 2
        worst, best = self._kept[:half], self._kept[half:][::-1]
        for kind, items in (("worst", worst), ("best", best)):
            for rank, (_, name, picture) in enumerate(items, 1):
                path = self._folder / f"{kind}_{rank}_{name}.png"
                if not cv2.imwrite(str(path), picture[..., ::-1]):
                    raise OSError(f"{path}: cannot be written")


def draw_scene(result: SceneResult) -> Image:
    """A column per view; rows: bodies, then true and predicted ids, DensePose and depth.

    Ids are those of all pairs merged, bodies and depth those of the calibrated pipeline. True
    skeletons are green, fitted ones orange, bodies that stand in for one not fitted pink.
    """
    scene = result.calibrated
    by_name = {view.camera: view for view in scene.views}
    true_joints = [person.joints for person in result.scene.people]
    columns = []
    for view, truth, people in zip(result.scene.views, result.truths, result.merged, strict=True):
        own = by_name.get(view.name)
        lines = [(joints, _BONES, TRUE) for joints in true_joints]
        picture = skeletons(view.rgb, view.K, view.T_world_cam, lines + _predicted(scene))
        far = float(np.percentile(truth.depth[truth.depth > 0], 98))
        depth = own.depth if own is not None else np.zeros_like(truth.depth)
        columns.append(
            [
                tile(picture, "bodies"),
                tile(_ids(view.rgb, truth.instances), "people: true"),
                tile(_ids(view.rgb, people.instances), "people: predicted"),
                tile(_coordinates(truth.densepose), "body: true"),
                tile(_coordinates(people.densepose), "body: predicted"),
                tile(_depth(truth.depth, far), "depth: true"),
                tile(_depth(depth, far), "depth: predicted"),
            ]
        )
    return tiled(columns)


def draw_set(result: SetResult) -> Image:
    """A column per camera; rows: bodies (colours of :func:`draw_scene`), ids, DensePose, depth."""
    scene = result.calibrated
    columns = []
    for view, rgb in _views(scene, result.frames):
        camera = next(c for c in scene.cameras if c.name == view.camera)
        lines = [] if result.reference is None else [(result.reference, _SHARED_BONES, TRUE)]
        picture = skeletons(rgb, camera.K, camera.T_world_cam, lines + _predicted(scene))
        known = view.depth > 0
        far = float(np.percentile(view.depth[known], 98)) if known.any() else 1.0
        found = "found" if result.found.get(view.camera) else "not found"
        columns.append(
            [
                tile(picture, f"{view.camera}: {found}"),
                tile(_ids(rgb, view.instances), "people: predicted"),
                tile(_coordinates(view.densepose), "body: predicted"),
                tile(_depth(view.depth, far), "depth: predicted"),
            ]
        )
    return tiled(columns)


def _views(scene: Scene, frames: FrameSet) -> Iterable[tuple[View, Image]]:
    images = {frame.camera: frame.image for frame in frames.frames}
    return ((view, images[view.camera]) for view in scene.views)


def _predicted(scene: Scene) -> list[tuple]:
    found = stand_ins(scene)
    return [(joints, bones, FITTED if fitted else STANDING) for joints, bones, fitted in found]


def stand_ins(scene: Scene) -> list[tuple[NDArray[np.float64], list[tuple[int, int]], bool]]:
    """Everybody's joints (24, 3), fitted or of a body that stands in, bones, and which it is."""
    people = people_of(scene)
    found = zip(people.joints, people.fitted, strict=True)
    return [(joints, _BONES, bool(fitted)) for joints, fitted in found]


def skeletons(rgb: Image, K: NDArray, T_world_cam: NDArray, lines: Sequence[tuple]) -> Image:
    """Joints (J, 3) in the world with bones and a colour each, drawn into a copy of the image."""
    scale = TILE / max(rgb.shape[:2])
    picture = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for joints, bones, colour in lines:
        local = transform(invert(T_world_cam), np.asarray(joints, float))
        pixels = scale * (project(local, K) + 0.5) - 0.5
        for a, b in bones:
            if local[[a, b], 2].min() > 0.1 and np.abs(pixels[[a, b]]).max() < 1e4:
                start, end = pixels[[a, b]].round().astype(int).tolist()
                cv2.line(picture, start, end, colour, 2, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


def _ids(rgb: Image, ids: NDArray[np.integer]) -> Image:
    """Coloured ids over a dark grey image, on the grid of the ids."""
    height, width = ids.shape
    grey = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA).mean(-1) * 0.5
    hue = (ids.astype(np.int64) * 67 % 180).astype(np.uint8)
    colour = cv2.cvtColor(np.stack([hue, *[np.full_like(hue, 255)] * 2], -1), cv2.COLOR_HSV2RGB)
    shown = np.where(ids[..., None] > 0, 0.6 * colour + grey[..., None], grey[..., None])
    return np.clip(shown, 0, 255).astype(np.uint8)


def _coordinates(densepose: NDArray[np.float32]) -> Image:
    return np.clip(np.nan_to_num(densepose) * 255, 0, 255).astype(np.uint8)


def _depth(depth: NDArray[np.float32], far: float) -> Image:
    grey = np.clip(depth / far * 255, 0, 255).astype(np.uint8)
    colour = np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_TURBO), np.uint8)
    return colour[..., ::-1] * (depth > 0)[..., None].astype(np.uint8)


def tile(image: Image, caption: str) -> Image:
    """An image at a sheet's size, with a caption."""
    scale = TILE / max(image.shape[:2])
    tile = np.ascontiguousarray(
        cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST), np.uint8
    )
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(
            tile, caption, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thickness, cv2.LINE_AA
        )
    return tile


def tiled(columns: list[list[Image]]) -> Image:
    """Tiles of rows aligned at their upper left, on dark ground."""
    heights = [max(tile.shape[0] for tile in row) for row in zip(*columns, strict=True)]
    widths = [max(tile.shape[1] for tile in column) for column in columns]
    gap = 4
    sheet = np.full((sum(heights) + gap * len(heights), sum(widths) + gap * len(widths), 3), 24)
    y = 0
    for row, height in enumerate(heights):
        x = 0
        for column, width in zip(columns, widths, strict=True):
            tile = column[row]
            sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
            x += width + gap
        y += height + gap
    return sheet.astype(np.uint8)
