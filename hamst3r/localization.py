"""Where an image was taken in a known scene: descriptor matches with its views, then PnP.

The poses come from OpenCV's robust perspective-n-point solver (SQPnP, Terzakis and Lourakis, ECCV
2020, in RANSAC; then Levenberg-Marquardt on the inliers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.intrinsics import pinhole, plausible_focal, weiszfeld_focal
from hamst3r.frames import Frame
from hamst3r.geometry import invert, make_T, project, transform
from hamst3r.image import NetworkImage, prepare
from hamst3r.matching import reciprocal_matches
from hamst3r.pair_store import StoredEngine
from hamst3r.scene import Camera, Scene, View

F64 = NDArray[np.float64]
# Focal lengths tried around the network's guess of an unknown one.
FOCAL_FACTORS = (1.0, 0.8, 0.9, 1.1, 1.25)


@dataclass(frozen=True)
class LocalizationConfig:
    """Settings.

    Attributes:
        references: Views of the scene that are matched, the most similar ones.
        samples: Pixels per view that look for a partner.
        max_error: Reprojection error of an inlier, in pixels of the network's output grid.
        min_inliers, min_share: Fewer, in number or as a share of the matches, are chance.
        iterations: Of RANSAC.
    """

    references: int = 6
    samples: int = 1200
    max_error: float = 2.0
    min_inliers: int = 20
    min_share: float = 0.08
    iterations: int = 3000


@dataclass(frozen=True, eq=False)
class Localization:
    """The outcome.

    Attributes:
        found: Whether enough matches agree on the pose.
        T_world_cam: (4, 4) maps the camera (OpenCV axes) to the scene's world, metres. Of the
            best guess where it was not found; the identity without any.
        K: (3, 3) of the undistorted image at its delivered size; known_K: given, not found.
        matches, inliers: How many pixels found a partner, and how many agree on the pose.
        needed: Inliers that would have been, or were, enough.
        error: Median reprojection error of the inliers in pixels of the delivered image; NaN
            without.
        references: Views that were matched, and how many inliers each has.
    """

    found: bool
    T_world_cam: F64
    K: F64
    known_K: bool
    matches: int
    inliers: int
    needed: int
    error: float
    references: Mapping[str, int]


def localize(
    scene: Scene,
    images: Mapping[str, NDArray[np.uint8]],
    frame: Frame,
    engine: StoredEngine,
    config: LocalizationConfig | None = None,
) -> Localization:
    """Find where a frame was taken.

    Args:
        scene: With views. images: camera -> its undistorted image, of the camera's size.
        frame: Its K is used if known; its pose is not.
        engine: Must have descriptors.

    Raises:
        ValueError: A scene without views or images, or a network without descriptors.
    """
    config = config or LocalizationConfig()
    usable = [
        (view, camera)
        for view, camera in zip(scene.views, scene.cameras, strict=True)
        if camera.name in images and (view.depth > 0).any()
    ]
    if not usable:
        raise ValueError("the scene has no view with depth and an image to compare with")
    query = _prepared(replace(frame, camera="\0query", T_rig_cam=None), engine)
    stored = [
        _prepared(Frame(camera.name, 0, images[camera.name], camera.K), engine)
        for _, camera in usable
    ]
    chosen = _most_similar(engine, query, stored, config.references)
    matched = [
        _match(query, stored[k], *usable[k], prediction, config)
        for k, prediction in zip(chosen, _predict(engine, query, stored, chosen), strict=True)
    ]
    points, pixels = (np.concatenate([m[part] for m in matched]) for part in (0, 1))
    owner = np.repeat(np.arange(len(matched)), [len(m[0]) for m in matched])
    grid_pixel = float(np.sqrt(abs(np.linalg.det(query.T_image_grid[:2, :2]))))
    candidates = [query.K_image] if query.K_image is not None else _guesses(query, engine, stored,
                                                                            chosen)  # fmt: skip
    solved = [
        s for K in candidates if (s := _solve(points, pixels, K, grid_pixel, config)) is not None
    ]
    needed = max(config.min_inliers, int(np.ceil(config.min_share * len(points))))
    names = [usable[k][1].name for k in chosen]
    if not solved:
        nothing = dict.fromkeys(names, 0)
        return Localization(
            False, np.eye(4), candidates[0], query.K_image is not None, len(points), 0, needed,
            float("nan"), nothing,
        )  # fmt: skip
    T_cam_world, K, inliers = max(solved, key=lambda s: len(s[2]))
    seen = project(transform(T_cam_world, points[inliers]), K)
    errors = np.linalg.norm(seen - pixels[inliers], axis=1)
    counts = np.bincount(owner[inliers], minlength=len(names)).tolist()
    return Localization(
        found=len(inliers) >= needed,
        T_world_cam=invert(T_cam_world),
        K=K,
        known_K=query.K_image is not None,
        matches=len(points),
        inliers=len(inliers),
        needed=needed,
        error=float(np.median(errors)),
        references=dict(zip(names, counts, strict=True)),
    )


def _prepared(frame: Frame, engine: StoredEngine) -> NetworkImage:
    return prepare(frame, engine.image_size, engine.patch, engine.stride)


def _most_similar(
    engine: StoredEngine, query: NetworkImage, stored: Sequence[NetworkImage], count: int
) -> list[int]:
    if len(stored) <= count:
        return list(range(len(stored)))
    features = engine.describe([*stored, query]).numpy().astype(float)
    features -= features[:-1].mean(0)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return np.argsort(-(features[:-1] @ features[-1]), kind="stable")[:count].tolist()


def _predict(
    engine: StoredEngine, query: NetworkImage, stored: Sequence[NetworkImage], chosen: Sequence[int]
) -> list:
    views = [stored[k] for k in chosen]
    predictions = engine.predict([*views, query], [(k, len(views)) for k in range(len(views))])
    if any(p.desc_i is None or p.desc_j is None for p in predictions):
        raise ValueError("these weights give no descriptors to match by; use others")
    return predictions


def _match(
    query: NetworkImage,
    image: NetworkImage,
    view: View,
    camera: Camera,
    prediction,
    config: LocalizationConfig,
) -> tuple[F64, F64]:
    """Points (n, 3) of the world and where the query shows them (n, 2), delivered pixels."""
    height, width = image.grid
    step = max(1, round(float(np.sqrt(height * width / config.samples))))
    rows, columns = (
        part.ravel() for part in np.mgrid[step // 2 : height : step, step // 2 : width : step]
    )
    assert image.K is not None  # the cameras of a scene are known
    grid = np.stack([columns, rows, np.ones_like(rows)], -1)
    rays = grid @ np.linalg.inv(image.K).T
    # The stored depth may be of another grid: of other weights, or another size.
    at = np.rint(rays @ view.K.T)[:, :2].astype(int)
    inside = (at >= 0).all(1) & (at[:, 0] < view.depth.shape[1]) & (at[:, 1] < view.depth.shape[0])
    at = np.where(inside[:, None], at, 0)
    depth = view.depth[at[:, 1], at[:, 0]]
    # People will have moved.
    still = inside & (depth > 0) & (view.instances[at[:, 1], at[:, 0]] == 0)
    still &= view.confidence[at[:, 1], at[:, 0]] > 1
    rows, columns, rays, depth = rows[still], columns[still], rays[still], depth[still]
    if not len(rows):
        return np.zeros((0, 3)), np.zeros((0, 2))
    matches = reciprocal_matches(prediction.desc_i, prediction.desc_j, rows, columns)
    points = rays[matches.sample] * depth[matches.sample, None]
    seen = np.column_stack([matches.pixels_j, np.ones(len(matches.pixels_j))])
    return transform(camera.T_world_cam, points), (seen @ query.T_image_grid.T)[:, :2]


def _guesses(
    query: NetworkImage,
    engine: StoredEngine,
    stored: Sequence[NetworkImage],
    chosen: Sequence[int],
) -> list[F64]:
    """K of the delivered image as the network's own pointmap has it, and others around."""
    height, width = query.grid
    centre = np.array([width - 1, height - 1]) / 2
    (own,) = engine.predict([query, stored[chosen[0]]], [(0, 1)])
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2) - centre
    weight = np.maximum(own.conf_i.cpu().numpy().ravel() - 1, 0)
    points = own.pts_i.cpu().numpy().reshape(-1, 3)
    focal = weiszfeld_focal(points.astype(float), pixels, weight.astype(float))
    if focal is None or not plausible_focal(focal, width):
        focal = 0.9 * width
    return [query.T_image_grid @ pinhole(factor * focal, centre) for factor in FOCAL_FACTORS]


def _solve(
    points: F64, pixels: F64, K: F64, grid_pixel: float, config: LocalizationConfig
) -> tuple[F64, F64, NDArray[np.intp]] | None:
    """T_cam_world, K and the inliers' indices; None without a pose."""
    if len(points) < 6:
        return None
    try:
        ok, turn, shift, inliers = cv2.solvePnPRansac(
            np.ascontiguousarray(points),
            np.ascontiguousarray(pixels),
            K,
            None,
            iterationsCount=config.iterations,
            reprojectionError=config.max_error * grid_pixel,
            confidence=0.9999,
            flags=cv2.SOLVEPNP_SQPNP,
        )
        if not ok or inliers is None or len(inliers) < 6:
            return None
        chosen = inliers.ravel()
        turn, shift = cv2.solvePnPRefineLM(points[chosen], pixels[chosen], K, None, turn, shift)
    except cv2.error:
        return None
    T = make_T(cv2.Rodrigues(turn)[0], shift.ravel())
    if not np.isfinite(T).all():
        return None
    seen = project(transform(T, points), K)
    errors = np.linalg.norm(seen - pixels, axis=1)  # NaN behind the camera
    return T, K, np.flatnonzero(errors <= config.max_error * grid_pixel)
