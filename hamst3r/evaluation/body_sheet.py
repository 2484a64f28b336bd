"""A sheet of pictures: fitted bodies before what every camera of a recording saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.evaluation.pictures import STANDING, TILE, Image, skeletons, stand_ins, tile, tiled
from hamst3r.evaluation.recording import SetResult
from hamst3r.export.geometry import pose_bodies
from hamst3r.geometry import invert, project, transform
from hamst3r.people.body import BodyModel, anny24
from hamst3r.scene import Camera, Person

_SETS = 12  # of a sheet
_SKIN, _FRONT = np.array([255.0, 150.0, 40.0]), (40, 90, 255)
_OPACITY = 0.65
_NEAREST = 0.1  # metres before a camera
_AHEAD = 0.4  # metres, length of the line to where a body faces
_WIDE = 1.6  # width of a sheet over its height, about


class BodySheet:
    """Gathers evenly spread frame sets of many and draws them.

    Args:
        file: The picture; None gathers nothing. body: The model that was fitted.
    """

    def __init__(self, file: Path | None, body: BodyModel | None = None) -> None:
        self._file, self._body = file, body or anny24()
        self._rows: list[Image] = []
        self._step, self._seen = 1, 0

    def add(self, result: SetResult) -> None:
        """Take in the next frame set."""
        if self._file is None:
            return
        if self._seen % self._step == 0:
            self._rows.append(draw_bodies(result, self._body))
        self._seen += 1
        if len(self._rows) > 4 * _SETS:  # of a long recording fewer will do
            self._rows, self._step = self._rows[::2], 2 * self._step

    def close(self) -> None:
        """Write the sheet.

        Raises:
            OSError: It cannot be written.
        """
        if self._file is None or not self._rows:
            return
        chosen = np.linspace(0, len(self._rows) - 1, min(_SETS, len(self._rows))).round()
        rows = [self._rows[int(k)] for k in chosen]
        height, width = np.max([row.shape[:2] for row in rows], axis=0)
        blocks = int(np.clip(round(np.sqrt(_WIDE * len(rows) * height / width)), 1, len(rows)))
        each = -(-len(rows) // blocks)
        blank = np.zeros((1, 1, 3), np.uint8)
        rows += [blank] * (blocks * each - len(rows))
        sheet = tiled([rows[k : k + each] for k in range(0, len(rows), each)])
        if not cv2.imwrite(str(self._file), sheet[..., ::-1]):
            raise OSError(f"{self._file}: cannot be written")


def draw_bodies(result: SetResult, body: BodyModel) -> Image:
    """One frame set, camera beside camera: bodies, and lines to where they face; who has none is
    drawn as a pink body that stands in."""
    scene = result.calibrated
    meshes = pose_bodies(scene.people, body)
    images = {frame.camera: frame.image for frame in result.frames.frames}
    lines = [(joints, bones, STANDING) for joints, bones, fitted in stand_ins(scene) if not fitted]
    tiles = []
    for camera in scene.cameras:
        picture = images[camera.name]
        for vertices in meshes.values():
            picture = _mesh(picture, camera, vertices, body.faces.numpy())
        for person in scene.people:
            if person.id in meshes:
                _front(picture, camera, person)
        picture = skeletons(picture, camera.K, camera.T_world_cam, lines)
        tiles.append(tile(picture, f"{result.index} {camera.name}"))
    note = _note([person for person in scene.people if person.id in meshes])
    if tiles and note:
        low = (6, tiles[0].shape[0] - 8)
        cv2.putText(tiles[0], note, low, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1)
    return tiled([[own] for own in tiles])


def _mesh(image: Image, camera: Camera, vertices: NDArray, faces: NDArray) -> Image:
    """An image with a shaded body over it, at a tile's size."""
    seen = transform(invert(camera.T_world_cam), vertices.astype(float))
    corners = seen[faces]
    sides = corners[:, 1:] - corners[:, :1]
    normals = np.cross(sides[:, 0], sides[:, 1])
    light = np.abs(normals[:, 2]) / np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
    towards = np.einsum("fc,fc->f", normals, corners[:, 0]) < 0
    shown = np.flatnonzero(towards & (corners[..., 2].min(1) > _NEAREST))
    shown = shown[np.argsort(-corners[shown, :, 2].max(1))]  # the nearest is drawn last
    pixels = project(seen, camera.K).round()
    body = image.copy()
    for face in shown:
        triangle = np.clip(pixels[faces[face]], -1e4, 1e4).astype(np.int32)
        cv2.fillConvexPoly(body, triangle, (_SKIN * (0.35 + 0.65 * light[face])).tolist())
    return np.asarray(cv2.addWeighted(body, _OPACITY, image, 1 - _OPACITY, 0), np.uint8)


def _front(image: Image, camera: Camera, person: Person) -> None:
    """Draw a line from the hips to where they face."""
    assert person.fit is not None
    turn = cv2.Rodrigues(person.fit.global_orient.astype(float))[0]
    ends = person.position + np.outer([0.0, _AHEAD], turn[:, 2])
    seen = transform(invert(camera.T_world_cam), ends)
    if seen[:, 2].min() > _NEAREST:
        start, end = np.clip(project(seen, camera.K).round(), -1e4, 1e4).astype(int).tolist()
        thickness = max(2, round(3 * max(image.shape[:2]) / TILE))
        cv2.line(image, start, end, _FRONT, thickness, cv2.LINE_AA)


def _note(people: Sequence[Person]) -> str:
    """How sure the way of facing is, where it is not."""
    doubted = [p.fit.facing for p in people if p.fit is not None and p.fit.facing < 1]
    return ", ".join(f"faces so: {chance:.0%}" for chance in doubted)
