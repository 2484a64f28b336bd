"""Image and CompressedImage messages to RGB; what cannot be read is refused, never guessed."""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

Pixels = NDArray[np.uint8]

MAX_SIDE = 16384
# A few kilobytes can claim to be gigabytes of pixels.
MAX_PIXELS = 1 << 26
# JPEG ends with EOI, sometimes followed by a few bytes of padding of the camera.
JPEG_START, JPEG_END, JPEG_TAIL = b"\xff\xd8", b"\xff\xd9", 64
PNG_START, PNG_END = b"\x89PNG", b"IEND"


class ImageError(ValueError):
    """An image that cannot be used; the message says why, and what would do."""


def _cvt(code: int) -> Callable[[NDArray], Pixels]:
    return lambda raw: np.asarray(cv2.cvtColor(raw, code), dtype=np.uint8)


def _high_byte(raw: NDArray) -> Pixels:
    return (raw >> 8).astype(np.uint8)


def _cvt_high(code: int) -> Callable[[NDArray], Pixels]:
    return lambda raw: _cvt(code)(_high_byte(raw))


_GRAY = _cvt(cv2.COLOR_GRAY2RGB)
_BAYER = {
    "rggb": cv2.COLOR_BayerRGGB2RGB,
    "bggr": cv2.COLOR_BayerBGGR2RGB,
    "gbrg": cv2.COLOR_BayerGBRG2RGB,
    "grbg": cv2.COLOR_BayerGRBG2RGB,
}

# encoding -> (channels, bytes per channel, array of that layout -> RGB)
_PACKED: dict[str, tuple[int, int, Callable[[NDArray], Pixels]]] = {
    "rgb8": (3, 1, np.ascontiguousarray),  # the message's own memory, unless it has padding
    "bgr8": (3, 1, _cvt(cv2.COLOR_BGR2RGB)),
    "8UC3": (3, 1, _cvt(cv2.COLOR_BGR2RGB)),  # OpenCV's order, as cv_bridge reads it
    "rgba8": (4, 1, _cvt(cv2.COLOR_RGBA2RGB)),
    "bgra8": (4, 1, _cvt(cv2.COLOR_BGRA2RGB)),
    "8UC4": (4, 1, _cvt(cv2.COLOR_BGRA2RGB)),
    "mono8": (1, 1, _GRAY),
    "8UC1": (1, 1, _GRAY),
    "mono16": (1, 2, _cvt_high(cv2.COLOR_GRAY2RGB)),
    "yuv422": (2, 1, _cvt(cv2.COLOR_YUV2RGB_UYVY)),
    "uyvy": (2, 1, _cvt(cv2.COLOR_YUV2RGB_UYVY)),
    "yuv422_yuy2": (2, 1, _cvt(cv2.COLOR_YUV2RGB_YUY2)),
    "yuyv": (2, 1, _cvt(cv2.COLOR_YUV2RGB_YUY2)),
}
for _name, _code in _BAYER.items():
    _PACKED[f"bayer_{_name}8"] = (1, 1, _cvt(_code))
    _PACKED[f"bayer_{_name}16"] = (1, 2, _cvt_high(_code))

# Half-size colour rows below the brightness: 3 / 2 times as many rows as the image has.
_PLANAR = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
ENCODINGS = (*_PACKED, *_PLANAR)


def decode_image(message: Image) -> Pixels:
    """(H, W, 3) uint8 RGB of a raw image; of rgb8 without padding the message's own memory.

    Raises:
        ImageError: Unknown encoding, or sizes that do not fit each other.
    """
    width, height, step = message.width, message.height, message.step
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ImageError(f"size {width}x{height}, expected 1 to {MAX_SIDE} pixels each")
    encoding = message.encoding
    if encoding in _PLANAR:
        if width % 2 or height % 2:
            raise ImageError(f"size {width}x{height}, {encoding} needs even numbers")
        rows = _rows(message, height * 3 // 2, width)
        return np.asarray(cv2.cvtColor(rows, _PLANAR[encoding]), dtype=np.uint8)
    if encoding not in _PACKED:
        raise ImageError(
            f"encoding '{encoding}' is not known, expected one of {', '.join(ENCODINGS)}"
        )
    channels, size, convert = _PACKED[encoding]
    if channels == 2 and width % 2:
        raise ImageError(f"width {width}, {encoding} needs an even number")
    if "bayer" in encoding and min(width, height) < 4:
        raise ImageError(f"size {width}x{height} is too small for {encoding}")
    rows = _rows(message, height, width * channels * size)
    if size == 2:
        rows = np.ascontiguousarray(rows).view(">u2" if message.is_bigendian else "<u2")
        rows = rows.astype(np.uint16)
    shape = (height, width) if channels == 1 else (height, width, channels)
    if step == rows.shape[1] * rows.itemsize:
        raw = rows.reshape(shape)
    else:
        raw = np.ascontiguousarray(rows).reshape(shape)
    return convert(raw)


def _rows(message: Image, rows: int, used: int) -> Pixels:
    """(rows, used) bytes of the image, the padding of each row cut off."""
    if message.step < used:
        raise ImageError(
            f"step is {message.step} bytes, expected at least {used} for {message.width} pixels "
            f"of {message.encoding}"
        )
    needed = message.step * rows
    if len(message.data) < needed:
        raise ImageError(
            f"{len(message.data)} bytes of data, expected {needed} ({rows} rows of {message.step})"
        )
    data = np.frombuffer(message.data, np.uint8, needed)
    return data.reshape(rows, message.step)[:, :used]


def decode_compressed(message: CompressedImage) -> Pixels:
    """(H, W, 3) uint8 RGB of a JPEG or PNG.

    Raises:
        ImageError: Another format, truncated, or broken.
    """
    data = np.frombuffer(message.data, np.uint8)
    start, end = data[:4].tobytes(), data[-JPEG_TAIL:].tobytes()
    if "compressedDepth" in message.format:
        raise ImageError(f"format '{message.format}' is depth, expected a colour JPEG or PNG")
    if start.startswith(JPEG_START):
        complete = JPEG_END in end
    elif start == PNG_START:
        complete = PNG_END in end
    else:
        raise ImageError(
            f"{len(data)} bytes of format '{message.format}' are neither JPEG nor PNG; publish "
            "those, or use transport raw"
        )
    if not complete:
        raise ImageError(f"truncated: {len(data)} bytes, the end of the image is missing")
    _check_claim(data)
    # Calibration is of the sensor's axes: turning by EXIF tags would contradict it.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error as error:
        raise ImageError(f"{len(data)} bytes cannot be decoded: {error.err}") from error
    if image is None:
        raise ImageError(f"{len(data)} bytes cannot be decoded; the image is broken")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _check_claim(data: Pixels) -> None:
    """Refuse by what the head of the file says, before memory is taken for the pixels."""
    try:
        with PIL.Image.open(io.BytesIO(data.tobytes())) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ImageError(f"{len(data)} bytes cannot be decoded: {error}") from error
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageError(
            f"size {width}x{height}, at most {MAX_SIDE} a side and {MAX_PIXELS} pixels fit"
        )
