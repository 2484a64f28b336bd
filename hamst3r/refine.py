"""What a user asks of a finished scene: which points to keep, without reconstructing it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.fusion import clean
from hamst3r.reconstructor import ReconstructorConfig, fuse_points
from hamst3r.scene import Camera, Scene, View

# Sky is bright and smooth (a blurred image's step per pixel), blue or grey, and touches the top.
SKY_BRIGHTNESS, SKY_STEP, SKY_SHARE = 110, 12.0, 0.02


@dataclass(frozen=True)
class RefineOptions:
    """Which points stay.

    Attributes:
        cloud: What is confident enough, and the cloud's size.
        clean_depth: Take their confidence from points that float before what others see.
        sky_mask: Leave out what looks like sky.
    """

    cloud: ReconstructorConfig = field(default_factory=ReconstructorConfig)
    clean_depth: bool = True
    sky_mask: bool = False


def refine(
    scene: Scene,
    edges: Sequence[tuple[str, str]],
    options: RefineOptions,
) -> Scene:
    """The scene with its views' confidences and its cloud as the options say.

    Args:
        edges: Cameras that were paired: they see the same, and judge each other's depth. Linear
            in their number.
    """
    views = list(scene.views)
    if options.clean_depth:
        views = _clean(views, scene.cameras, edges)
    if options.sky_mask:
        views = [
            replace(view, confidence=np.where(sky(view.rgb), 0, view.confidence).astype(np.float32))
            for view in views
        ]
    points = fuse_points(views, scene.cameras, options.cloud)
    counts = np.bincount(
        points.instance, minlength=1 + max((p.id for p in scene.people), default=0)
    )
    people = tuple(replace(p, num_points=int(counts[p.id])) for p in scene.people)
    return replace(scene, views=tuple(views), points=points, people=people)


def _clean(
    views: Sequence[View], cameras: Sequence[Camera], edges: Sequence[tuple[str, str]]
) -> list[View]:
    index = {view.camera: k for k, view in enumerate(views)}
    confidences = [view.confidence.copy() for view in views]
    for name_a, name_b in edges:
        if name_a == name_b or name_a not in index or name_b not in index:
            continue
        pair = index[name_a], index[name_b]
        judged = clean(
            [views[k].depth for k in pair],
            [views[k].confidence for k in pair],
            [views[k].K for k in pair],
            np.stack([cameras[k].T_world_cam for k in pair]),
            (0, 1),
        )
        for k, confidence in zip(pair, judged, strict=True):
            np.minimum(confidences[k], confidence, out=confidences[k])
    return [replace(v, confidence=c) for v, c in zip(views, confidences, strict=True)]


def sky(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(h, w) what looks like sky: bright, smooth, blue or grey, from the image's upper edge down.

    A rule of thumb without a network: white ceilings look like it, too.
    """
    image = cv2.GaussianBlur(rgb, (0, 0), 1.0).astype(np.int16)
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    bright = image.max(-1) > SKY_BRIGHTNESS
    cold = (blue + 8 >= red) & (blue + 8 >= green)
    grey = image.mean(-1)
    step = np.hypot(np.gradient(grey, axis=0), np.gradient(grey, axis=1))
    candidate = (bright & cold & (step < SKY_STEP)).astype(np.uint8)
    _, labels = cv2.connectedComponents(candidate, connectivity=4)
    top, counts = np.unique(labels[0][candidate[0] > 0], return_counts=True)
    wide = top[counts >= max(3, SKY_SHARE * rgb.shape[1])]
    found: NDArray[np.bool_] = np.isin(labels, wide) & (candidate > 0)
    return found
