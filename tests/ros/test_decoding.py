"""Encodings of images: every one is read right, everything else is refused with a reason."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from hamst3r_ros.decoding import ENCODINGS, ImageError, decode_compressed, decode_image
from hamst3r_ros.headers import byte_array
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image

H, W = 32, 48
rows, columns = np.mgrid[:H, :W]
# Smooth, so that subsampled colour and mosaics can be undone.
RGB = np.stack([rows * 5 + 40, columns * 4 + 30, 220 - columns * 2 - rows], -1).astype(np.uint8)


def bayer(pattern: str) -> np.ndarray:
    """The mosaic a sensor with this 2 x 2 pattern sees."""
    channel = np.array(["rgb".index(c) for c in pattern]).reshape(2, 2)
    return np.take_along_axis(RGB, np.tile(channel, (H // 2, W // 2))[..., None], 2)[..., 0]


def yuv422(luma_first: bool) -> np.ndarray:
    yuv = cv2.cvtColor(RGB, cv2.COLOR_RGB2YUV)
    packed = np.empty((H, W, 2), np.uint8)
    packed[..., 0 if luma_first else 1] = limited(yuv[..., 0])
    # OpenCV's V and U of full range, as of BT.601 limited range.
    u, v = chroma()
    packed[:, 0::2, 1 if luma_first else 0] = u[:, ::2]
    packed[:, 1::2, 1 if luma_first else 0] = v[:, ::2]
    return packed


def limited(luma: np.ndarray) -> np.ndarray:
    return np.rint(16 + luma.astype(float) * 219 / 255).astype(np.uint8)


def chroma() -> tuple[np.ndarray, np.ndarray]:
    r, g, b = RGB.astype(float).transpose(2, 0, 1)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    u, v = 128 + 112 * (b - y) / (255 * 0.886), 128 + 112 * (r - y) / (255 * 0.701)
    return np.rint(u).astype(np.uint8), np.rint(v).astype(np.uint8)


def planar(first: int) -> np.ndarray:
    y = limited(cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY))
    uv = chroma()
    below = np.empty((H // 2, W), np.uint8)
    below[:, 0::2], below[:, 1::2] = uv[first][::2, ::2], uv[1 - first][::2, ::2]
    return np.vstack([y, below])


GRAY = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)
ALPHA = np.full((H, W, 1), 9, np.uint8)
CASES = {
    "rgb8": (RGB, 0),
    "bgr8": (RGB[..., ::-1], 0),
    "8UC3": (RGB[..., ::-1], 0),
    "rgba8": (np.concatenate([RGB, ALPHA], 2), 0),
    "bgra8": (np.concatenate([RGB[..., ::-1], ALPHA], 2), 0),
    "8UC4": (np.concatenate([RGB[..., ::-1], ALPHA], 2), 0),
    "mono8": (GRAY, 0),
    "8UC1": (GRAY, 0),
    "mono16": (GRAY.astype(np.uint16) << 8, 0),
    "yuv422": (yuv422(False), 8),
    "uyvy": (yuv422(False), 8),
    "yuv422_yuy2": (yuv422(True), 8),
    "yuyv": (yuv422(True), 8),
    "nv12": (planar(0), 12),
    "nv21": (planar(1), 12),
    **{f"bayer_{p}8": (bayer(p), 12) for p in ("rggb", "bggr", "gbrg", "grbg")},
    **{
        f"bayer_{p}16": (bayer(p).astype(np.uint16) << 8, 12)
        for p in ("rggb", "bggr", "gbrg", "grbg")
    },
}


def message(encoding: str, pixels: np.ndarray, padding: int = 0, big: bool = False) -> Image:
    data = pixels.astype(pixels.dtype.newbyteorder(">")) if big else pixels
    data = np.ascontiguousarray(data).reshape(len(data), -1).view(np.uint8)
    data = np.pad(data, ((0, 0), (0, padding)), constant_values=77)
    made = Image(height=H, width=W, encoding=encoding, step=data.shape[1], is_bigendian=int(big))
    made.data = byte_array(data)
    return made


def test_every_encoding_has_a_case():
    assert set(CASES) == set(ENCODINGS)


@pytest.mark.parametrize("padding", [0, 10])
@pytest.mark.parametrize("encoding", CASES)
def test_encodings(encoding, padding):
    pixels, tolerance = CASES[encoding]
    expected = RGB if not encoding.endswith(("C1",)) and "mono" not in encoding else GRAY[..., None]
    for big in (False, True) if pixels.dtype == np.uint16 else (False,):
        found = decode_image(message(encoding, pixels, padding, big))
        assert found.shape == (H, W, 3) and found.dtype == np.uint8
        inner = (slice(2, -2), slice(2, -2))
        error = np.abs(found[inner].astype(int) - expected[inner].astype(int))
        assert error.max() <= tolerance


def test_nothing_is_copied_without_need():
    original = message("rgb8", RGB)
    assert np.shares_memory(decode_image(original), np.frombuffer(original.data, np.uint8))
    padded = decode_image(message("rgb8", RGB, padding=7))
    assert padded.flags.c_contiguous and np.array_equal(padded, RGB)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoding": "32FC1"}, "encoding '32FC1' is not known, expected one of rgb8"),
        ({"encoding": ""}, "encoding '' is not known"),
        ({"width": 0}, "size 0x32"),
        ({"height": 100_000}, "size 48x100000"),
        ({"step": 10}, "step is 10 bytes, expected at least 144"),
        ({"step": 200}, "expected 6400"),
        ({"height": 33}, "4608 bytes of data, expected 4752"),
        ({"encoding": "nv12", "width": 47}, "even"),
        ({"encoding": "yuyv", "width": 47}, "even"),
    ],
)
def test_images_that_do_not_fit_are_refused(changes, told):
    broken = message("rgb8", RGB)
    for name, value in changes.items():
        setattr(broken, name, value)
    with pytest.raises(ImageError) as caught:
        decode_image(broken)
    assert told in str(caught.value)


def compressed(suffix: str, data: bytes | None = None, form: str = "") -> CompressedImage:
    if data is None:
        data = cv2.imencode(suffix, RGB[..., ::-1])[1].tobytes()
    made = CompressedImage(format=form or suffix)
    made.data = byte_array(np.frombuffer(data, np.uint8))
    return made


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 0), (".jpg", 8)])
def test_compressed(suffix, tolerance):
    found = decode_compressed(compressed(suffix))
    assert np.abs(found.astype(int) - RGB).max() <= tolerance


def test_gray_jpeg_and_padding_after_the_end():
    data = cv2.imencode(".jpg", GRAY)[1].tobytes() + b"\0\0\0"
    assert decode_compressed(compressed(".jpg", data)).shape == (H, W, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
def test_truncated_images_are_refused(suffix, share):
    whole = bytes(compressed(suffix).data)
    with pytest.raises(ImageError, match="truncated"):
        decode_compressed(compressed(suffix, whole[: int(share * len(whole))]))


@pytest.mark.parametrize(
    ("data", "form", "told"),
    [
        (b"", "jpeg", "neither JPEG nor PNG"),
        (b"GIF89a....", "gif", "transport raw"),
        (b"\x89PNG" + b"\0" * 50 + b"IEND", "png", "cannot be decoded"),
        (b"\xff\xd8" + b"\0" * 50 + b"\xff\xd9", "jpeg", "cannot be decoded"),
        (b"\x89PNG", "16UC1; compressedDepth png", "is depth"),
    ],
)
def test_what_is_no_image_is_refused(data, form, told):
    with pytest.raises(ImageError) as caught:
        decode_compressed(compressed(".png", data, form))
    assert told in str(caught.value)


@pytest.mark.parametrize("size", [(30000, 30000), (9000, 9000), (20000, 10)])
def test_what_claims_to_be_huge_is_refused_before_memory_is_taken(size):
    data = bytearray(bytes(compressed(".png").data))
    data[16:24] = struct.pack(">II", *size)  # in the header
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(ImageError, match=f"size {size[0]}x{size[1]}, at most|cannot be decoded"):
        decode_compressed(compressed(".png", bytes(data)))


SIZES = st.one_of(st.integers(0, 60), st.integers(0, 2**32 - 1))


@settings(max_examples=400)
@given(
    SIZES,
    SIZES,
    SIZES,
    st.one_of(st.sampled_from(ENCODINGS), st.text(max_size=8)),
    st.integers(0, 255),
    st.integers(0, 20_000),
)
def test_any_fields_give_an_image_of_that_size_or_a_reason(width, height, step, name, big, count):
    made = Image(width=width, height=height, step=step, encoding=name, is_bigendian=big)
    made.data = byte_array(np.zeros(count, np.uint8))
    try:
        found = decode_image(made)
    except ImageError as error:
        assert str(error)
    else:
        assert found.shape == (height, width, 3) and found.dtype == np.uint8


@settings(max_examples=150)
@given(
    st.sampled_from([".png", ".jpg"]),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=3)), max_size=6),
)
def test_flipped_bytes_give_an_image_or_a_reason(suffix, changes):
    data = bytearray(bytes(compressed(suffix).data))
    for at, value in changes:
        data[at % len(data)] = value[0]
    try:
        found = decode_compressed(compressed(suffix, bytes(data)))
    except ImageError as error:
        assert str(error)
    else:
        assert found.ndim == 3 and found.shape[2] == 3 and found.dtype == np.uint8
