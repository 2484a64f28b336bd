"""What a scene's views hold as PNG files, exact ones and ones to look at."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.colors import by_value, tinted
from hamst3r.scene import Scene, View

MILLIMETRES = 1000


def write_maps(scene: Scene, folder: Path, names: dict[str, str]) -> None:
    """``depth/NAME.png`` (16 bit, millimetres, 0 unknown) and ``instances/NAME.png`` (16 bit ids).

    Args:
        names: camera -> name of its files, without suffix.

    Raises:
        OSError: They cannot be written.
    """
    for part in ("depth", "instances"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for view in scene.views:
        depth = np.clip(np.rint(view.depth * MILLIMETRES), 0, 65535).astype(np.uint16)
        write_png(folder / "depth" / f"{names[view.camera]}.png", depth)
        write_png(folder / "instances" / f"{names[view.camera]}.png", view.instances)


def write_png(file: Path, image: NDArray) -> None:
    """8 bit RGB, or 8 or 16 bit of one channel; raises OSError."""
    _write(file, image, ".png", [])


def write_jpg(file: Path, image: NDArray[np.uint8], quality: int = 95) -> None:
    """RGB; raises OSError."""
    _write(file, image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def encoded(image: NDArray, suffix: str, parameters: list[int]) -> bytes:
    """The bytes of an image file."""
    bgr = image[..., ::-1] if image.ndim == 3 else image
    ok, data = cv2.imencode(suffix, np.ascontiguousarray(bgr), parameters)
    if not ok:
        raise ValueError(f"an image {image.shape} {image.dtype} cannot be written as {suffix}")
    return data.tobytes()


def _write(file: Path, image: NDArray, suffix: str, parameters: list[int]) -> None:
    # Not cv2.imwrite, which answers a full disk with False and no reason.
    file.write_bytes(encoded(image, suffix, parameters))


def depth_picture(view: View) -> NDArray[np.uint8]:
    """(h, w, 3): near is red, far blue, unknown black."""
    valid = view.depth > 0
    return by_value(-np.log(np.maximum(view.depth, 1e-6)), valid)


def confidence_picture(view: View) -> NDArray[np.uint8]:
    """(h, w, 3): sure is red, unsure blue, unknown black."""
    return by_value(np.log(np.maximum(view.confidence, 1e-6)), view.confidence > 0)


def people_picture(view: View, image: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """People in their colours over the image (or the view's own), outlined."""
    image = view.rgb if image is None else image
    size = image.shape[1], image.shape[0]
    ids = cv2.resize(view.instances, size, interpolation=cv2.INTER_NEAREST)
    shown = tinted(image, ids)
    edge = cv2.morphologyEx(ids, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    shown[edge] = 255
    return shown
