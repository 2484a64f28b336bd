"""From a delivered frame to the network's input: undistorted, resized, cropped, with exact K."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hamst3r.frames import Frame

# Coefficients below this move no pixel of any image visibly: undistortion is skipped.
NEGLIGIBLE_DISTORTION = 1e-6
MAX_SIDE = 16384
DETAIL_SIDE = 640  # pixels
MOST_SAMPLES = 8  # along the side of a pixel, of those that it covers in a finer image


@dataclass(frozen=True, eq=False)
class NetworkImage:
    """One image as the network sees it.

    Attributes:
        camera: Name of the camera.
        tensor: (3, H, W) float32 in [-1, 1], H and W multiples of the network's patch.
        rgb: (gh, gw, 3) uint8 on the output grid, gh = H / stride.
        K: (3, 3) float64 on the output grid, undistorted; None if unknown.
        K_image: (3, 3) of the undistorted image at its delivered size; None if unknown.
        T_image_grid: (3, 3) homogeneous pixel map, output grid -> delivered (undistorted) image.
    """

    camera: str
    tensor: torch.Tensor
    rgb: NDArray[np.uint8]
    K: NDArray[np.float64] | None
    K_image: NDArray[np.float64] | None
    T_image_grid: NDArray[np.float64]

    @property
    def grid(self) -> tuple[int, int]:
        """(gh, gw) of the output grid."""
        return self.rgb.shape[0], self.rgb.shape[1]


def prepare(frame: Frame, size: int, patch: int, stride: int) -> NetworkImage:
    """Undistort, resize and crop a frame.

    The long side becomes ``size`` rounded to a multiple of ``patch``; the short side follows the
    aspect, rounded likewise, and what sticks out after a resize that keeps the aspect is cropped
    evenly (never padded). ``stride`` is input pixels per output pixel and divides ``patch``.

    Raises:
        ValueError: Sizes that do not fit each other, or distortion OpenCV does not know.
    """
    if not (0 < stride <= patch and patch % stride == 0):
        raise ValueError(f"stride must divide patch, got stride {stride} and patch {patch}")
    if not patch <= size <= MAX_SIDE:
        raise ValueError(f"size must be between patch ({patch}) and {MAX_SIDE}, got {size}")
    image = undistorted(frame)
    delivered_h, delivered_w = image.shape[:2]
    width, height = _network_size(delivered_w, delivered_h, size, patch)
    scaled_w, scaled_h = _cover(delivered_w, delivered_h, width, height)
    shrinks = scaled_w < delivered_w
    scaled = cv2.resize(
        image,
        (scaled_w, scaled_h),
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    left, top = (scaled_w - width) // 2, (scaled_h - height) // 2
    cropped = np.ascontiguousarray(scaled[top : top + height, left : left + width])
    grid = cv2.resize(cropped, (width // stride, height // stride), interpolation=cv2.INTER_AREA)

    T_input_image = resampling(scaled_w / delivered_w, scaled_h / delivered_h, left, top)
    T_grid_image = resampling(1 / stride, 1 / stride) @ T_input_image
    tensor = torch.from_numpy(cropped).permute(2, 0, 1).float().div_(127.5).sub_(1)
    return NetworkImage(
        camera=frame.camera,
        tensor=tensor,
        rgb=np.asarray(grid, dtype=np.uint8),
        K=None if frame.K is None else T_grid_image @ frame.K,
        K_image=None if frame.K is None else frame.K.astype(float),
        T_image_grid=np.linalg.inv(T_grid_image).astype(np.float64),
    )


def resized(image: NetworkImage, size: int, patch: int, stride: int) -> NetworkImage:
    """The same field of view, to the pixel's edge, at the size of another network.

    The aspect changes by what rounding to multiples of ``patch`` takes; ``K`` and the pixel maps
    are those of the new output grid.
    """
    height, width = image.tensor.shape[1:]
    to_width, to_height = _network_size(width, height, size, patch)
    tensor = F.interpolate(
        image.tensor[None], size=(to_height, to_width), mode="bilinear", antialias=True
    )[0]
    grid = (to_width // stride, to_height // stride)
    rgb = cv2.resize(image.rgb, grid, interpolation=cv2.INTER_AREA)
    T_new_old = resampling(grid[0] / image.grid[1], grid[1] / image.grid[0])
    return replace(
        image,
        tensor=tensor.contiguous(),
        rgb=np.asarray(rgb, dtype=np.uint8),
        K=None if image.K is None else T_new_old @ image.K,
        T_image_grid=image.T_image_grid @ np.linalg.inv(T_new_old),
    )


def detail(
    frame: Frame, image: NetworkImage, side: int = DETAIL_SIDE
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """What the network sees of a frame in grey, finer where that was delivered finer.

    Args:
        frame: Delivered. image: Prepared from it. side: Longest side, pixels.

    Returns:
        (h, w) uint8, and the (3, 3) homogeneous pixel map from there to the output grid.
    """
    rows, columns = image.grid
    edges = np.array([[-0.5, columns - 0.5], [-0.5, rows - 0.5], [1, 1]])
    corners = (image.T_image_grid @ edges)[:2]
    (left, right), (top, bottom) = (corners + 0.5).round().astype(int).tolist()
    part = cv2.cvtColor(undistorted(frame)[top:bottom, left:right], cv2.COLOR_RGB2GRAY)
    height, width = part.shape
    scale = min(1.0, side / max(width, height))
    to = max(1, round(width * scale)), max(1, round(height * scale))
    x, y = to[0] / width, to[1] / height
    small = cv2.resize(part, to, interpolation=cv2.INTER_AREA)
    T_detail_grid = resampling(x, y, x * left, y * top) @ image.T_image_grid
    return np.asarray(small, dtype=np.uint8), np.linalg.inv(T_detail_grid).astype(np.float64)


def corners(mask: NDArray[np.bool_], T_image_grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 2) outer corners, the lowest pixel and the highest, of a delivered image's part that
    shows the cells of a mask (gh, gw), of which there must be some."""
    rows, columns = np.nonzero(mask)
    low = np.array([columns.min() - 0.5, rows.min() - 0.5, 1.0])
    high = np.array([columns.max() + 0.5, rows.max() + 0.5, 1.0])
    ends = T_image_grid @ np.stack([low, high], 1)
    return np.asarray((ends[:2] / ends[2]).T)


def square(image: NDArray[np.uint8], T_image_square: NDArray[np.float64], side: int) -> NDArray:
    """(side, side, C) uint8 pixels of a square part of an image (H, W, C), which may lie across its
    edge and be turned or mirrored; each is a mean of the pixels that it covers, 0 beyond the edge.

    Args:
        T_image_square: (3, 3) pixel map from there to the image, of one scale.
    """
    finer = min(max(1, math.ceil(np.linalg.norm(T_image_square[:2, 0]))), MOST_SAMPLES)
    T_image_finer = T_image_square @ np.linalg.inv(resampling(finer, finer))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    sampled = cv2.warpAffine(image, T_image_finer[:2], (side * finer, side * finer), flags=flags)
    if finer > 1:
        sampled = cv2.resize(sampled, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(sampled)


def inside(
    size: tuple[int, int], T_image_square: NDArray[np.float64], side: int
) -> NDArray[np.bool_]:
    """(side, side) which pixels of a square part lie on the image, of a size (width, height)."""
    at = np.arange(side)
    x, y = (
        T_image_square[axis, 0] * at
        + (T_image_square[axis, 1] * at + T_image_square[axis, 2])[:, None]
        for axis in range(2)
    )
    on_image: NDArray[np.bool_] = (
        (x > -0.5) & (x < size[0] - 0.5) & (y > -0.5) & (y < size[1] - 0.5)
    )
    return on_image


def _network_size(width: int, height: int, size: int, patch: int) -> tuple[int, int]:
    """(width, height) in multiples of the patch, as near to the aspect as those allow."""
    scale = size / max(width, height)

    def nearest(side: int) -> int:
        return max(patch, round(side * scale / patch) * patch)

    return nearest(width), nearest(height)


def _cover(width: int, height: int, to_width: int, to_height: int) -> tuple[int, int]:
    """The smallest size of the same aspect that covers the target."""
    scale = max(to_width / width, to_height / height)
    return max(to_width, round(width * scale)), max(to_height, round(height * scale))


def resampling(
    scale_x: float, scale_y: float, left: float = 0, top: float = 0
) -> NDArray[np.float64]:
    """(3, 3) pixel map of a resize and a crop, with pixel centres at integers."""
    return np.array(
        [
            [scale_x, 0, 0.5 * scale_x - 0.5 - left],
            [0, scale_y, 0.5 * scale_y - 0.5 - top],
            [0, 0, 1],
        ]
    )


def undistorted(frame: Frame) -> NDArray[np.uint8]:
    """The image as the pinhole camera ``frame.K`` would have delivered it."""
    distortion = frame.distortion
    if frame.K is None or distortion is None or distortion.size == 0:
        return frame.image
    if distortion.size not in (4, 5, 8, 12, 14) or not np.isfinite(distortion).all():
        raise ValueError(
            f"{frame.camera}: distortion needs 4, 5, 8, 12 or 14 finite OpenCV coefficients, "
            f"got {distortion.size}"
        )
    if np.abs(distortion).max() < NEGLIGIBLE_DISTORTION:
        return frame.image
    height, width = frame.image.shape[:2]
    key = tuple(np.ravel(frame.K).tolist()), tuple(np.ravel(distortion).tolist())
    map_x, map_y = _undistortion_maps(*key, width, height)
    undistorted = cv2.remap(frame.image, map_x, map_y, cv2.INTER_LINEAR)
    return np.asarray(undistorted, dtype=np.uint8)


@lru_cache(maxsize=32)
def _undistortion_maps(
    K: tuple[float, ...], distortion: tuple[float, ...], width: int, height: int
) -> tuple[NDArray, NDArray]:
    # Computing the maps costs far more than applying them; a rig has few calibrations.
    matrix = np.reshape(K, (3, 3))
    return cv2.initUndistortRectifyMap(
        matrix, np.array(distortion), np.eye(3), matrix, (width, height), cv2.CV_16SC2
    )
