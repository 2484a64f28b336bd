"""The demo's picture: cloud, bodies and cameras from two viewpoints, and what the cameras saw."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from hamst3r.colors import person_colors
from hamst3r_ros.demo_snapshot import Body, CameraShot, Snapshot
from hamst3r_ros.splat import Splats, Viewpoint, look_at, project, render, segments

WIDTH, VIEW_HEIGHT = 1920, 760
STRIP_HEIGHT, TALL_STRIP_HEIGHT = 330, 480  # of landscape and of portrait images
FIELD_OF_VIEW = np.radians(50)
VIEWS: tuple[tuple[tuple[int, ...], int], ...] = (
    ((22, -22, 40, -40), 24),
    ((130, 105, 155, 180, 205), 48),
)  # turns, tilt; degrees
REACHES = (0.9, 1.0, 1.15, 1.3, 1.45, 1.6, 1.8)  # of a viewer, times the stage's size
FILL = 0.85  # times the spacing of points: discs overlap a little, so that surfaces close
MARGIN, TITLE_HEIGHT = 12, 64
BACKGROUND = (18, 20, 26)
INK, FAINT = (236, 238, 242), (150, 156, 168)
NEIGHBOURS = 12  # points that tell the direction of a surface
BODY_SAMPLES = 60_000
FRUSTUM_DEPTH = 0.45  # metres from a camera to the image drawn in front of it

Label = tuple[int, int, str, tuple[int, int, int]]  # x, y, text, colour
CAMERA_COLORS = ((255, 99, 110), (255, 200, 87), (110, 220, 170), (120, 170, 255))


def person_color(person: int) -> tuple[int, int, int]:
    """RGB of a person, the same everywhere in the picture."""
    red, green, blue = person_colors(np.array(person)).tolist()
    return red, green, blue


def draw(shot: Snapshot) -> NDArray[np.uint8]:
    """The picture, (H, 1920, 3) uint8 RGB."""
    width = (WIDTH - 3 * MARGIN) // 2
    size = FRUSTUM_DEPTH * _stage(shot)[1] / 5
    tiles = [_tile(camera) for camera in shot.cameras]
    strip_height = _strip_height(tiles)
    height = TITLE_HEIGHT + VIEW_HEIGHT + strip_height + 3 * MARGIN
    page = np.full((height, WIDTH, 3), BACKGROUND, dtype=np.uint8)
    top = TITLE_HEIGHT + MARGIN
    labels: list[Label] = []
    bodies, normals = _body_layers(shot), _normals(shot)
    for index, view in enumerate(_viewpoints(shot, width)):
        left = MARGIN + index * (width + MARGIN)
        image = render(view, _layers(shot, normals, view.T_world_cam[:3, 3], size), bodies)
        page[top : top + VIEW_HEIGHT, left : left + width] = image
        for x, y, text, color in _view_labels(shot, view, size):
            labels.append((x + left, y + top, text, color))
    top += VIEW_HEIGHT + MARGIN
    labels += _strip(page, shot, tiles, strip_height, top)
    return _write_text(page, shot, labels)


# --- viewpoints -------------------------------------------------------------------------------


def _stage(shot: Snapshot) -> tuple[NDArray[np.float64], float]:
    """What to look at, and from how far: the people if there are any, and the cameras."""
    places = [c.T_world_cam[:3, 3] for c in shot.cameras if c.T_world_cam is not None]
    middle = np.median(shot.xyz, axis=0) if len(shot.xyz) else np.zeros(3)
    people = shot.xyz[shot.instance > 0]
    if len(people):
        middle = np.median(people, axis=0)
    if places:
        middle = 0.65 * middle + 0.35 * np.mean(places, axis=0)
    reach = [float(np.linalg.norm(place - middle)) for place in places]
    if len(shot.xyz):
        reach.append(float(np.median(np.linalg.norm(shot.xyz - middle, axis=1))))
    return middle.astype(float), 1.2 * max([*reach, 1.0])


def _viewpoints(shot: Snapshot, width: int) -> Iterator[Viewpoint]:
    """Over the first camera's shoulder, and steeply from another side.

    Of a few directions that which shows all cameras from nearest, if any does.
    """
    center, distance = _stage(shot)
    places = [c.T_world_cam[:3, 3] for c in shot.cameras if c.T_world_cam is not None]
    x, y = (places[0] - center)[:2] if places else (1.0, 0.7)
    azimuth, edge = float(np.arctan2(y, x)), 0.05 * width
    for turns, tilt in VIEWS:
        for reach, turn in itertools.product(REACHES, turns):
            around, up = azimuth + np.radians(turn), np.radians(tilt)
            level = np.cos(up)
            towards = np.array([level * np.cos(around), level * np.sin(around), np.sin(up)])
            eye = center + towards * distance * reach
            view = look_at(eye, center, width, VIEW_HEIGHT, FIELD_OF_VIEW)
            u, v, z = project(view, np.reshape(places, (-1, 3)))
            inside = (u > edge) & (u < width - edge) & (v > edge) & (v < VIEW_HEIGHT - edge)
            if (inside & (z > 0.3 * distance)).all():
                break
        yield view


def _view_labels(shot: Snapshot, view: Viewpoint, size: float) -> list[Label]:
    """Names of cameras and people at their places in a view, its own pixels."""
    named = []
    for index, camera in enumerate(shot.cameras):
        placed = _placed(camera)
        if placed is not None:
            apex, corners = _pyramid(placed, size)
            _, v, _ = project(view, np.vstack([apex, corners]))
            highest = np.vstack([apex, corners])[np.argmin(v)]
            named.append((highest, camera.name, CAMERA_COLORS[index % len(CAMERA_COLORS)]))
    for body in shot.bodies:
        points = body.joints if len(body.joints) else shot.xyz[shot.instance == body.id]
        if len(points):
            x, y = np.median(points[:, :2], axis=0)
            top = np.percentile(points[:, 2], 98) + 0.22
            named.append((np.array([x, y, top]), f"person {body.id}", person_color(body.id)))
    labels: list[Label] = []
    for place, text, color in named:
        column, row, z = (float(value[0]) for value in project(view, place[None]))
        if z > 0 and 40 < column < view.width - 80 and 40 < row < view.height:
            x, y = round(column) - 28, round(row) - 36
            while any(abs(x - other[0]) < 110 and abs(y - other[1]) < 32 for other in labels):
                y -= 8  # names do not cover each other
            labels.append((x, y, text, color))
    return labels


# --- layers -----------------------------------------------------------------------------------


def _layers(shot: Snapshot, normals: NDArray, eye: NDArray, size: float) -> list[Splats]:
    """Cloud and cameras.

    A surface is shown only from the side it was seen from: walls between the viewer and the
    room, seen by cameras inside, are left out.
    """
    layers = []
    if len(shot.xyz):
        person = shot.instance > 0
        keep = (np.einsum("nk,nk->n", normals, eye - shot.xyz) > 0) | person
        colors = shot.rgb.copy()
        for identity in np.unique(shot.instance[person]):
            own = shot.instance == identity
            paint = np.array(person_color(int(identity)), dtype=np.float32)
            luminance = shot.rgb[own].mean(axis=1, keepdims=True) / 255
            colors[own] = paint * (0.55 + 0.45 * luminance)
        radius = _radii(shot)
        layers.append(Splats(shot.xyz[keep], colors[keep], radius[keep], 0.8))
    for index, camera in enumerate(shot.cameras):
        placed = _placed(camera)
        if placed is not None:
            layers += _frustum(placed, CAMERA_COLORS[index % len(CAMERA_COLORS)], size)
    return layers


def _normals(shot: Snapshot) -> NDArray[np.float64]:
    """(N, 3) directions of the surface at the points, towards the camera that saw them."""
    if len(shot.xyz) < NEIGHBOURS:
        return np.zeros((len(shot.xyz), 3))
    _, near = cKDTree(shot.xyz).query(shot.xyz, NEIGHBOURS)
    offsets = shot.xyz[near] - shot.xyz[near].mean(axis=1, keepdims=True)
    _, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", offsets, offsets))
    normals = axes[:, :, 0].astype(float)
    for index, camera in enumerate(shot.cameras):
        if camera.T_world_cam is not None:
            own = shot.camera == index
            towards = camera.T_world_cam[:3, 3] - shot.xyz[own]
            normals[own] *= np.sign(np.einsum("nk,nk->n", normals[own], towards))[:, None]
    return normals[near].mean(axis=1)  # a single wrong one would be left standing in the air


def _radii(shot: Snapshot) -> NDArray[np.float32]:
    """(N,) metres that let neighbours touch: one grid pixel at each point's depth."""
    radii = np.full(len(shot.xyz), 0.01, dtype=np.float32)
    for index, camera in enumerate(shot.cameras):
        if camera.T_world_cam is not None and camera.K_grid is not None:
            own = shot.camera == index
            depth = np.linalg.norm(shot.xyz[own] - camera.T_world_cam[:3, 3], axis=1)
            radii[own] = FILL * depth / camera.K_grid[0, 0]
    return radii


class _Placed(NamedTuple):
    """A camera of which pose and intrinsics are known."""

    K: NDArray[np.float64]
    T_world_cam: NDArray[np.float64]
    image: NDArray[np.uint8] | None


def _placed(camera: CameraShot) -> _Placed | None:
    if camera.K_image is None or camera.T_world_cam is None:
        return None
    return _Placed(camera.K_image, camera.T_world_cam, camera.image)


def _to_world(camera: _Placed, u: NDArray, v: NDArray, depth: float) -> NDArray[np.float64]:
    """Points (..., 3) at pixels of the delivered image and a depth in metres."""
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(camera.K).T * depth
    return rays @ camera.T_world_cam[:3, :3].T + camera.T_world_cam[:3, 3]


def _pyramid(camera: _Placed, depth: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Apex (3,) and corners (4, 3) of what a camera sees up to a depth, metres."""
    height, width = (480, 640) if camera.image is None else camera.image.shape[:2]
    u, v = np.array([0.0, width, width, 0.0]), np.array([0.0, 0.0, height, height])
    return camera.T_world_cam[:3, 3], _to_world(camera, u, v, depth)


def _frustum(camera: _Placed, color: tuple[int, int, int], depth: float) -> list[Splats]:
    """A camera's pyramid, its image as the base."""
    apex, corners = _pyramid(camera, depth)
    apex = np.repeat(apex[None], 4, axis=0)
    lines = np.concatenate(
        [segments(apex, corners, 0.004), segments(corners, np.roll(corners, 1, axis=0), 0.004)]
    )
    paint = np.tile(np.array(color, np.uint8), (len(lines), 1))
    layers = [Splats(lines, paint, 0.006, 1.6)]
    if camera.image is not None:
        height, width = camera.image.shape[:2]
        columns = 160
        rows = max(1, round(columns * height / width))
        u, v = np.meshgrid(
            (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows
        )
        small = cv2.resize(camera.image, (columns, rows), interpolation=cv2.INTER_AREA)
        size = depth * width / camera.K[0, 0] / columns
        points = _to_world(camera, u, v, depth).reshape(-1, 3).astype(np.float32)
        colors = small.reshape(-1, 3).astype(np.uint8)
        layers.append(Splats(points, colors, 0.9 * size, 0.8))
    return layers


def _body_layers(shot: Snapshot) -> list[Splats]:
    layers = []
    for body in shot.bodies:
        color = np.array(person_color(body.id), dtype=np.float32)
        if body.betas is not None:
            points, normals = _body_surface(body)
            light = np.array([0.35, 0.25, 0.9])
            shade = 0.62 + 0.38 * np.clip(normals @ (light / np.linalg.norm(light)), -0.6, 1)
            pale = 0.55 * color + 0.45 * 255
            paint = np.clip(pale * shade[:, None], 0, 255).astype(np.uint8)
            layers.append(Splats(points, paint, 0.012, 1.0))
    return layers


def _body_surface(body: Body) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Points (M, 3) on the posed body in the world, metres, and their unit normals."""
    import torch  # only a picture with bodies needs it

    from hamst3r.people.body import anny24

    model = anny24()
    vectors = np.concatenate([body.global_orient, body.body_pose]).reshape(-1, 3)
    rotations = torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix()).float()
    vertices, _ = model(
        rotations[None],
        torch.from_numpy(np.asarray(body.transl, dtype=np.float32))[None],
        torch.from_numpy(np.asarray(body.betas, dtype=np.float32))[None],
    )
    corners = vertices[0].numpy()[model.faces.numpy()]  # (F, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normals, axis=1)
    rng = np.random.default_rng(0)
    faces = rng.choice(len(area), BODY_SAMPLES, p=area / area.sum())
    weights = rng.dirichlet((1.0, 1.0, 1.0), BODY_SAMPLES)
    points = np.einsum("nk,nkd->nd", weights, corners[faces])
    unit = normals[faces] / area[faces, None]
    return points.astype(np.float32), unit.astype(np.float32)


# --- the strip of images and the text ---------------------------------------------------------


def _strip_height(tiles: Sequence[NDArray[np.uint8]]) -> int:
    shapes = [tile.shape[1] / tile.shape[0] for tile in tiles]
    room = WIDTH - MARGIN * (len(tiles) + 1)
    tallest = TALL_STRIP_HEIGHT if shapes and np.mean(shapes) < 1 else STRIP_HEIGHT
    return min(tallest, int(room / sum(shapes))) if shapes else 0


def _strip(
    page: NDArray[np.uint8],
    shot: Snapshot,
    tiles: Sequence[NDArray[np.uint8]],
    height: int,
    top: int,
) -> list[Label]:
    """Paint the cameras' images with the instance masks in a row; returns where names go."""
    labels: list[Label] = []
    widths = [int(height * tile.shape[1] / tile.shape[0]) for tile in tiles]
    gap = (WIDTH - sum(widths)) // (len(tiles) + 1)
    left = gap
    for index, (tile, width) in enumerate(zip(tiles, widths, strict=True)):
        page[top : top + height, left : left + width] = cv2.resize(
            tile, (width, height), interpolation=cv2.INTER_AREA
        )
        color = CAMERA_COLORS[index % len(CAMERA_COLORS)]
        cv2.rectangle(page, (left, top), (left + width - 1, top + height - 1), color, 2)
        labels.append((left + 10, top + 8, shot.cameras[index].name, color))
        left += width + gap
    return labels


def _tile(camera: CameraShot) -> NDArray[np.uint8]:
    if camera.image is None:
        return np.full((480, 640, 3), 40, dtype=np.uint8)
    tile = camera.image.copy()
    ids = _instances_on_image(camera)
    if ids is None:
        return tile
    thickness = max(1, round(max(tile.shape) / 320))
    for identity in np.unique(ids[ids > 0]):
        mask = ids == identity
        color = np.array(person_color(int(identity)), dtype=np.float32)
        tile[mask] = (0.45 * tile[mask] + 0.55 * color).astype(np.uint8)
        outline, _ = cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(tile, outline, -1, tuple(int(c) for c in color), thickness)
    return tile


def _instances_on_image(camera: CameraShot) -> NDArray[np.int32] | None:
    """The instance map at the image's size: grid pixels go through both intrinsics."""
    if camera.instances is None or camera.image is None:
        return None
    height, width = camera.image.shape[:2]
    if camera.K_grid is None or camera.K_image is None:
        return None
    grid_to_image = camera.K_image @ np.linalg.inv(camera.K_grid)
    ids = cv2.warpAffine(
        camera.instances.astype(np.float32),
        grid_to_image[:2],
        (width, height),
        flags=cv2.INTER_NEAREST,
    )
    return np.rint(ids).astype(np.int32)


def _write_text(
    page: NDArray[np.uint8], shot: Snapshot, labels: Sequence[Label]
) -> NDArray[np.uint8]:
    image = Image.fromarray(page)
    pen = ImageDraw.Draw(image)
    large, small = ImageFont.load_default(size=34), ImageFont.load_default(size=22)
    pen.text((2 * MARGIN, MARGIN + 4), shot.title, font=large, fill=INK)
    end = 2 * MARGIN + pen.textlength(shot.title, font=large)
    pen.text((end + 28, MARGIN + 15), shot.subtitle, font=small, fill=FAINT)
    for x, y, text, color in labels:
        width = pen.textlength(text, font=small)
        pen.rounded_rectangle((x - 6, y - 3, x + width + 6, y + 27), radius=5, fill=BACKGROUND)
        pen.text((x, y), text, font=small, fill=color)
    right = WIDTH - 2.0 * MARGIN
    for body in reversed(shot.bodies):
        text = f"person {body.id}"
        right -= pen.textlength(text, font=small)
        pen.text((right, MARGIN + 15), text, font=small, fill=INK)
        pen.ellipse((right - 28, MARGIN + 18, right - 8, MARGIN + 38), fill=person_color(body.id))
        right -= 52
    return np.asarray(image)
