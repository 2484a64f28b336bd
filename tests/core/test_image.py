"""What reaches the network: sizes, exact intrinsics, undistortion."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hamst3r.frames import Frame
from hamst3r.geometry import pixel_rays, project
from hamst3r.image import detail, inside, prepare, resampling, square

K = np.array([[300.0, 0, 155.3], [0, 310.0, 121.9], [0, 0, 1]])


def frame_of(height, width, K=None, distortion=None, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Frame("cam", 0, image, K, distortion)


sides = st.integers(20, 400)


@given(sides, sides, st.sampled_from([(112, 14, 2), (112, 16, 1), (98, 14, 7)]))
@settings(max_examples=60)
def test_K_and_pixel_map_follow_resize_and_crop(height, width, sizes):
    size, patch, stride = sizes
    K_image = np.array([[1.1 * width, 0, 0.48 * width], [0, 1.2 * width, 0.53 * height], [0, 0, 1]])
    image = prepare(frame_of(height, width, K_image), size, patch, stride)
    H, W = image.tensor.shape[1:]
    assert H % patch == 0 and W % patch == 0 and max(H, W) == size
    assert image.grid == (H // stride, W // stride)
    # A ray of any grid pixel, projected into the delivered image, is where T_image_grid says.
    rays = pixel_rays(image.K, *image.grid)
    v, u = np.mgrid[0 : image.grid[0], 0 : image.grid[1]]
    pixels = np.stack([u, v, np.ones_like(u)], -1) @ image.T_image_grid[:2].T
    np.testing.assert_allclose(project(rays, K_image), pixels, atol=1e-8)
    # No grid pixel is made up: each one's whole area lies within the delivered image.
    half = np.diag(image.T_image_grid)[:2] / 2
    tolerance = 1e-6
    assert (pixels.reshape(-1, 2).min(0) - half >= -0.5 - tolerance).all()
    border = np.array([width, height]) - 0.5 + tolerance
    assert (pixels.reshape(-1, 2).max(0) + half <= border).all()
    # And the crop is the larger part: one of the two sides is complete.
    extent = np.array([W, H]) / stride * 2 * half
    assert np.isclose(extent, [width, height]).any()


@given(st.integers(60, 200), st.integers(60, 200), st.floats(0.15, 0.85), st.floats(0.15, 0.85))
@settings(max_examples=40)
def test_content_lands_where_the_map_says(height, width, across, down):
    """A smooth blob painted into the image is found at the mapped place on the grid."""
    u, v = across * (width - 1), down * (height - 1)
    y, x = np.mgrid[0:height, 0:width]
    sigma = 0.03 * max(width, height)
    blob = 255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * sigma**2))
    frame = Frame("cam", 0, np.repeat(blob[..., None], 3, 2).astype(np.uint8))
    image = prepare(frame, 112, 14, 2)
    expected = np.linalg.inv(image.T_image_grid) @ [u, v, 1]
    margin = 4 * sigma / image.T_image_grid[0, 0]
    inside = (expected[:2] > margin) & (expected[:2] < np.array(image.grid[::-1]) - 1 - margin)
    assume(inside.all())
    weight = image.rgb[..., 0].astype(float)
    rows, columns = np.mgrid[0 : image.grid[0], 0 : image.grid[1]]
    found = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
    np.testing.assert_allclose(found, expected[:2], atol=0.1)


@given(st.integers(60, 400), st.integers(60, 400), st.sampled_from([40, 150, 1000]))
@settings(max_examples=40)
def test_detail_shows_the_same_and_is_no_finer_than_asked_for_or_delivered(height, width, side):
    """A ramp across the image has the same value in the detail and where that lies in the image."""
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    for ramp, axis in ((u / width, 0), (v / height, 1)):
        picture = np.repeat((250 * ramp)[..., None], 3, 2).round().astype(np.uint8)
        frame = Frame("cam", 0, picture)
        image = prepare(frame, 112, 14, 2)
        grey, T_grid_detail = detail(frame, image, side)
        h, w = grey.shape
        T_image_detail = image.T_image_grid @ T_grid_detail
        assert T_image_detail[0, 0] >= 1 - 1e-9 and max(h, w) <= side
        assert max(h, w) == side or T_image_detail[0, 0] == pytest.approx(1)
        corners = T_image_detail[:2] @ np.array([[0, w - 1], [0, h - 1], [1, 1]])
        expected = 250 * corners[axis] / (width, height)[axis]
        found = grey.astype(float).mean(axis)[[0, -1]]
        np.testing.assert_allclose(found, expected, atol=1.5 * T_image_detail[axis, axis])
        # What the network sees, to the pixel of the delivered image.
        first = T_grid_detail @ [-0.5, -0.5, 1]
        last = T_grid_detail @ [w - 0.5, h - 0.5, 1]
        tolerance = 1 / np.diag(image.T_image_grid)[:2]
        assert (abs(first[:2] + 0.5) < tolerance).all()
        assert (abs(last[:2] + 0.5 - image.grid[::-1]) < tolerance).all()


@pytest.mark.parametrize(
    ("delivered", "expected"),
    [
        ((480, 640), (168, 224)),
        ((640, 480), (224, 168)),
        ((1080, 1920), (126, 224)),
        ((9, 400), (14, 224)),
    ],
    ids=["landscape", "portrait", "16:9", "a slit"],
)
def test_sizes(delivered, expected):
    image = prepare(frame_of(*delivered), 224, 14, 2)
    assert tuple(image.tensor.shape) == (3, *expected)
    assert image.rgb.shape == (expected[0] // 2, expected[1] // 2, 3)
    assert image.K is None and image.K_image is None


def test_tensor_is_rgb_in_unit_range():
    picture = np.zeros((28, 28, 3), np.uint8)
    picture[..., 0], picture[..., 1] = 255, 51
    image = prepare(Frame("cam", 0, picture), 28, 14, 2)
    assert image.tensor.dtype.is_floating_point
    np.testing.assert_allclose(image.tensor.numpy()[:, 3, 5], [1, -0.6, -1], atol=1e-6)


def test_undistortion_straightens_what_the_lens_bent():
    """A point projected through the lens lands, in the prepared image, where the pinhole has it."""
    distortion = np.array([-0.3, 0.12, 0.002, -0.001, 0.03])
    points = np.array([[x, y, 1.0] for x in (-0.3, 0.0, 0.25) for y in (-0.2, 0.1)])
    bent = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, distortion)[0][:, 0]
    y, x = np.mgrid[0:240, 0:320]
    for ray, (u, v) in zip(points, bent, strict=True):
        blob = 255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 4**2))
        frame = Frame("cam", 0, np.repeat(blob[..., None], 3, 2).astype(np.uint8), K, distortion)
        image = prepare(frame, 224, 14, 2)
        weight = image.rgb[..., 0].astype(float)
        rows, columns = np.mgrid[0 : image.grid[0], 0 : image.grid[1]]
        found = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
        np.testing.assert_allclose(found, project(ray, image.K), atol=0.15)


def test_negligible_distortion_leaves_the_image_alone():
    plain = prepare(frame_of(56, 84, K), 84, 14, 2)
    zeros = prepare(frame_of(56, 84, K, np.full(5, 1e-9)), 84, 14, 2)
    assert (plain.tensor == zeros.tensor).all()


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match="stride must divide patch, got stride 3 and patch 14"):
        prepare(frame_of(20, 20), 224, 14, 3)
    with pytest.raises(ValueError, match="size must be between patch"):
        prepare(frame_of(20, 20), 7, 14, 2)
    with pytest.raises(ValueError, match="distortion needs 4, 5, 8, 12 or 14 finite"):
        prepare(frame_of(20, 20, K, np.ones(3)), 224, 14, 2)


def test_squares_of_an_image_are_what_they_cover():
    """Finer, coarser, turned, mirrored, and across the edge."""
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:40, 30:50] = 200
    whole = square(image, resampling(1, 1, -30, -20), 20)
    assert (whole == 200).all()
    assert (square(image, resampling(5, 5, -30, -20), 4) == 200).all()
    around = square(image, resampling(4, 4, -20, -10), 10)  # its rim lies 10 pixels outside
    assert around.mean() == pytest.approx(200 / 4, rel=0.02)
    finer = square(image, resampling(0.25, 0.25, -30, -20), 80)
    assert finer[2:-2, 2:-2].min() == 200
    image[:, 40:] = 0  # the left half stays
    mirrored = np.array([[-1, 0, 49], [0, 1, 20], [0, 0, 1]], float)
    assert not square(image, mirrored, 20)[:, :10].any()
    assert (square(image, mirrored, 20)[:, 10:] == 200).all()
    turned = np.array([[0, -1, 49], [1, 0, 20], [0, 0, 1]], float)  # its rows go left
    assert (
        not square(image, turned, 20)[:10].any() and (square(image, turned, 20)[10:] == 200).all()
    )


def test_squares_know_what_lies_on_the_image():
    T = resampling(2, 2, 20, 10)  # begins 20 pixels left of the image, and 10 above it
    there = inside((80, 60), T, 60)
    assert there.sum() == 40 * 30 and there[5:35, 10:50].all()
    lit = square(np.full((60, 80, 3), 255, np.uint8), T, 60)
    assert (lit[there] > 100).all() and not lit[~there].any()
