"""The demo's picture: cloud, bodies and cameras from two viewpoints, and what the cameras saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial.transform import Rotation

from hamst3r_ros.splat import Splats, look_at, render, segments

WIDTH, VIEW_HEIGHT, STRIP_HEIGHT = 1920, 760, 330
MARGIN, TITLE_HEIGHT = 12, 64
BACKGROUND = (18, 20, 26)
INK, FAINT = (236, 238, 242), (150, 156, 168)
BODY_SAMPLES = 60_000
FRUSTUM_DEPTH = 0.45  # metres from a camera to the image drawn in front of it

# Okabe and Ito's palette without its greys: told apart with any colour vision.
PERSON_COLORS = ((230, 120, 0), (86, 180, 233), (0, 190, 130), (240, 228, 66), (213, 74, 100),
                 (150, 120, 240))  # fmt: skip
CAMERA_COLORS = ((255, 99, 110), (255, 200, 87), (110, 220, 170), (120, 170, 255))


@dataclass(frozen=True, eq=False)
class CameraShot:
    """A camera and what it saw.

    Attributes:
        name: Of the camera.
        image: (H, W, 3) uint8 RGB as delivered, None if none arrived.
        instances: (h, w) person ids on the output grid, None if none arrived.
        K_grid, K_image: (3, 3) intrinsics of the grid and of the delivered image.
        T_world_cam: (4, 4), None for a camera without a pose.
    """

    name: str
    image: NDArray[np.uint8] | None
    instances: NDArray[np.integer] | None
    K_grid: NDArray[np.float64] | None
    K_image: NDArray[np.float64] | None
    T_world_cam: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class Body:
    """A person: id, (24, 3) joints in the world (or none) and SMPL parameters (or None)."""

    id: int
    joints: NDArray[np.float32]
    betas: NDArray[np.float32] | None
    global_orient: NDArray[np.float32] | None
    body_pose: NDArray[np.float32] | None
    transl: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything the picture shows; all of it was received over the wire.

    Attributes:
        xyz, rgb, instance, camera: The cloud, (N, 3), (N, 3), (N,), (N,); ``camera`` indexes
            ``cameras`` as the node listed them.
        cameras, bodies: See the classes.
        title, subtitle: Text above the picture.
    """

    xyz: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    instance: NDArray[np.integer]
    camera: NDArray[np.integer]
    cameras: tuple[CameraShot, ...]
    bodies: tuple[Body, ...]
    title: str
    subtitle: str


def person_color(person: int) -> tuple[int, int, int]:
    """RGB of a person, the same everywhere in the picture."""
    return PERSON_COLORS[(person - 1) % len(PERSON_COLORS)]


def draw(shot: Snapshot) -> NDArray[np.uint8]:
    """The picture, (H, 1920, 3) uint8 RGB."""
    width = (WIDTH - 3 * MARGIN) // 2
    center, distance = _stage(shot)
    views = []
    for azimuth, elevation, reach in _directions(shot, center):
        direction = np.array([
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ])  # fmt: skip
        eye = center + direction * distance * reach
        view = look_at(eye, center, width, VIEW_HEIGHT, np.radians(55))
        views.append(render(view, _layers(shot, eye, distance), _body_layers(shot, distance)))
    height = TITLE_HEIGHT + VIEW_HEIGHT + STRIP_HEIGHT + 3 * MARGIN
    page = np.full((height, WIDTH, 3), BACKGROUND, dtype=np.uint8)
    top = TITLE_HEIGHT + MARGIN
    for index, image in enumerate(views):
        left = MARGIN + index * (width + MARGIN)
        page[top : top + VIEW_HEIGHT, left : left + width] = image
    top += VIEW_HEIGHT + MARGIN
    labels = _strip(page, shot, top)
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
    reach = [np.linalg.norm(place - middle) for place in places]
    if len(shot.xyz):
        reach.append(np.percentile(np.linalg.norm(shot.xyz - middle, axis=1), 50))
    return middle.astype(float), 1.35 * max([*reach, 1.0])


def _directions(shot: Snapshot, center: NDArray) -> list[tuple[float, float, float]]:
    """(azimuth, elevation, distance factor) of the two viewpoints.

    The first looks over the first camera's shoulder; the second is a steep view from the side.
    """
    azimuth = 0.6
    for camera in shot.cameras:
        if camera.T_world_cam is not None:
            x, y = (camera.T_world_cam[:3, 3] - center)[:2]
            azimuth = float(np.arctan2(y, x))
            break
    return [
        (azimuth + np.radians(22), np.radians(24), 1.15),
        (azimuth + np.radians(130), np.radians(48), 1.25),
    ]


# --- layers -----------------------------------------------------------------------------------


def _layers(shot: Snapshot, eye: NDArray, distance: float) -> list[Splats]:
    """Cloud and cameras.

    A surface is shown only from the side it was seen from: walls between the viewer and the
    room, seen by cameras inside, are left out.
    """
    layers = []
    if len(shot.xyz):
        seen_from = np.stack([
            np.zeros(3) if c.T_world_cam is None else c.T_world_cam[:3, 3] for c in shot.cameras
        ])  # fmt: skip
        to_camera = seen_from[np.minimum(shot.camera, len(seen_from) - 1)] - shot.xyz
        to_eye = eye - shot.xyz
        cosine = np.einsum("nk,nk->n", to_camera, to_eye) / (
            np.linalg.norm(to_camera, axis=1) * np.linalg.norm(to_eye, axis=1) + 1e-9
        )
        person = shot.instance > 0
        keep = (cosine > -0.25) | person
        colors = shot.rgb.copy()
        for identity in np.unique(shot.instance[person]):
            own = shot.instance == identity
            paint = np.array(person_color(int(identity)), dtype=np.float32)
            luminance = shot.rgb[own].mean(axis=1, keepdims=True) / 255
            colors[own] = paint * (0.55 + 0.45 * luminance)
        spacing = 1.1 * _spacing(shot)
        layers.append(Splats(shot.xyz[keep], colors[keep], spacing, 0.8))
    for index, camera in enumerate(shot.cameras):
        if camera.T_world_cam is not None and camera.K_image is not None:
            layers += _frustum(camera, CAMERA_COLORS[index % len(CAMERA_COLORS)], distance)
    return layers


def _spacing(shot: Snapshot) -> float:
    """Typical distance of a point to its neighbour, metres: one grid pixel at its depth."""
    focal = [c.K_grid[0, 0] for c in shot.cameras if c.K_grid is not None]
    places = [c.T_world_cam[:3, 3] for c in shot.cameras if c.T_world_cam is not None]
    if not focal or not places:
        return 0.01
    depth = np.median([np.linalg.norm(shot.xyz[::50] - place, axis=1) for place in places])
    return float(depth / np.median(focal))


def _frustum(camera: CameraShot, color: tuple[int, int, int], distance: float) -> list[Splats]:
    """A camera's pyramid, its image as the base."""
    height, width = (480, 640) if camera.image is None else camera.image.shape[:2]
    depth = FRUSTUM_DEPTH * distance / 5
    inverse = np.linalg.inv(camera.K_image)

    def to_world(u: NDArray, v: NDArray) -> NDArray:
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ inverse.T * depth
        return rays @ camera.T_world_cam[:3, :3].T + camera.T_world_cam[:3, 3]

    corners = to_world(np.array([0.0, width, width, 0.0]), np.array([0.0, 0.0, height, height]))
    apex = np.repeat(camera.T_world_cam[None, :3, 3], 4, axis=0)
    lines = np.concatenate(
        [segments(apex, corners, 0.004), segments(corners, np.roll(corners, 1, axis=0), 0.004)]
    )
    paint = np.tile(np.uint8(color), (len(lines), 1))
    layers = [Splats(lines, paint, 0.006, 1.6)]
    if camera.image is not None:
        columns = 160
        rows = max(1, round(columns * height / width))
        u, v = np.meshgrid(
            (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows
        )
        small = cv2.resize(camera.image, (columns, rows), interpolation=cv2.INTER_AREA)
        size = depth * width / camera.K_image[0, 0] / columns
        points = to_world(u, v).reshape(-1, 3).astype(np.float32)
        layers.append(Splats(points, small.reshape(-1, 3), 0.9 * size, 0.8))
    return layers


def _body_layers(shot: Snapshot, distance: float) -> list[Splats]:
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

Label = tuple[int, int, str, tuple[int, int, int]]


def _strip(page: NDArray[np.uint8], shot: Snapshot, top: int) -> list[Label]:
    """Paint the cameras' images with the instance masks in a row; returns where names go."""
    labels: list[Label] = []
    tiles = [(index, _tile(camera)) for index, camera in enumerate(shot.cameras)]
    shapes = [tile.shape[1] / tile.shape[0] for _, tile in tiles]
    room = WIDTH - MARGIN * (len(tiles) + 1)
    height = min(STRIP_HEIGHT, int(room / max(sum(shapes), 1e-6)))
    widths = [int(height * shape) for shape in shapes]
    gap = (WIDTH - sum(widths)) // (len(tiles) + 1) if tiles else 0
    left = gap
    for (index, tile), width in zip(tiles, widths, strict=True):
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
        pen.rectangle((x - 6, y - 3, x + width + 6, y + 27), fill=BACKGROUND)
        pen.text((x, y), text, font=small, fill=color)
    right = WIDTH - 2 * MARGIN
    for body in reversed(shot.bodies):
        text = f"person {body.id}"
        right -= pen.textlength(text, font=small)
        pen.text((right, MARGIN + 15), text, font=small, fill=INK)
        pen.ellipse((right - 28, MARGIN + 18, right - 8, MARGIN + 38), fill=person_color(body.id))
        right -= 52
    return np.asarray(image)
