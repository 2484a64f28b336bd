"""A bank of tileable grey patterns with mip-maps; a material colours one through a palette.

Patterns times palettes times sizes is what makes surfaces diverse, and it is much cheaper to keep
than images of every surface.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
SIZE = 256
_Y, _X = (axis.astype(np.float32) / SIZE for axis in np.mgrid[0:SIZE, 0:SIZE])


def fractal_noise(rng: np.random.Generator, beta: float, stretch: float = 1.0) -> F32:
    """Tileable (SIZE, SIZE) noise in [0, 1] with spectrum ``frequency ** -beta``."""
    fy = np.fft.fftfreq(SIZE)[:, None]
    fx = np.fft.rfftfreq(SIZE)[None]
    radius = np.hypot(fx * stretch, fy)
    radius[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((SIZE, SIZE))) * radius**-beta
    spectrum[0, 0] = 0.0
    noise = np.fft.irfft2(spectrum, (SIZE, SIZE))
    return np.clip(noise / noise.std() * 0.25 + 0.5, 0, 1).astype(np.float32)


def _cells(rng: np.random.Generator) -> int:
    return int(2 ** rng.integers(1, 5))


def _noise(rng: np.random.Generator) -> F32:
    return fractal_noise(rng, rng.uniform(0.6, 2.4))


def _streaks(rng: np.random.Generator) -> F32:
    return fractal_noise(rng, rng.uniform(1.0, 2.0), rng.uniform(3, 18))


def _checker(rng: np.random.Generator) -> F32:
    n = _cells(rng)
    return (np.floor(_X * n) + np.floor(_Y * n)) % 2


def _stripes(rng: np.random.Generator) -> F32:
    n = _cells(rng)
    wobble = (fractal_noise(rng, 2.0) - 0.5) * rng.choice([0.0, 0.4])
    return ((_X * n + wobble) % 1 < rng.uniform(0.15, 0.85)).astype(np.float32)


def _plaid(rng: np.random.Generator) -> F32:
    out = np.zeros((SIZE, SIZE), np.float32)
    for axis in (_X, _Y):
        for _ in range(3):
            n, width, phase = _cells(rng) / 2, rng.uniform(0.05, 0.45), rng.random()
            out += ((axis * n + phase) % 1 < width) * rng.uniform(0.1, 0.35)
    return np.clip(out, 0, 1)


def _planks(rng: np.random.Generator) -> F32:
    n = int(rng.integers(3, 12))
    row = np.floor(_Y * n)
    tone = rng.random(n)[row.astype(int)]
    offset = rng.random(n)[row.astype(int)]
    along = (_X + offset) % 1
    out = 0.25 + 0.45 * tone + 0.6 * (_streaks(rng).T.T - 0.5)
    out[((_Y * n) % 1 < 0.05) | (along < 0.008)] = 0.0
    return np.clip(out, 0, 1).astype(np.float32)


def _bricks(rng: np.random.Generator) -> F32:
    n = int(rng.integers(2, 7))
    row = np.floor(_Y * 2 * n).astype(int)
    u = _X * n + 0.5 * (row % 2)
    tone = rng.random((2 * n, n))[row, np.floor(u).astype(int) % n]
    out = 0.3 + 0.45 * tone + 0.3 * (_noise(rng) - 0.5)
    gap = rng.uniform(0.02, 0.06)
    out[(u % 1 < gap) | ((_Y * 2 * n) % 1 < 2 * gap)] = rng.choice([0.0, 1.0])
    return np.clip(out, 0, 1).astype(np.float32)


def _blotches(rng: np.random.Generator) -> F32:
    noise = fractal_noise(rng, rng.uniform(1.4, 2.4))
    return ((noise > 0.42) * 0.5 + (noise > 0.58) * 0.5).astype(np.float32)


def _cobbles(rng: np.random.Generator) -> F32:
    seeds = rng.random((int(rng.integers(20, 160)), 2)).astype(np.float32)
    best = np.full((SIZE, SIZE), 9.0, np.float32)
    second, index = best.copy(), np.zeros((SIZE, SIZE), int)
    for k, (x, y) in enumerate(seeds):
        dx, dy = _X - x, _Y - y
        distance = np.hypot(dx - np.round(dx), dy - np.round(dy))
        second = np.minimum(second, np.maximum(best, distance))
        index[distance < best] = k
        best = np.minimum(best, distance)
    tone = rng.random(len(seeds)).astype(np.float32)[index] * 0.7
    return np.where(second - best < 0.012, 1.0, tone).astype(np.float32)


def _dots(rng: np.random.Generator) -> F32:
    n = _cells(rng)
    radius = ((_X * n) % 1 - 0.5) ** 2 + ((_Y * n) % 1 - 0.5) ** 2
    return (radius < rng.uniform(0.03, 0.16)).astype(np.float32)


def _tiles(rng: np.random.Generator) -> F32:
    n = _cells(rng)
    tone = rng.random((n, n))[np.floor(_Y * n).astype(int), np.floor(_X * n).astype(int)]
    out = 0.35 + rng.uniform(0, 0.5) * tone + 0.3 * (_noise(rng) - 0.5)
    gap = rng.uniform(0.02, 0.07)
    out[((_X * n) % 1 < gap) | ((_Y * n) % 1 < gap)] = 0.0
    return np.clip(out, 0, 1).astype(np.float32)


def _plain(rng: np.random.Generator) -> F32:
    return 0.5 + 0.25 * (_noise(rng) - 0.5)


def _weave(rng: np.random.Generator) -> F32:
    n = int(rng.integers(10, 40))
    wave = np.sin(2 * math.pi * n * _X) * np.sin(2 * math.pi * n * _Y)
    return np.clip(0.5 + 0.3 * wave + 0.5 * (_noise(rng) - 0.5), 0, 1).astype(np.float32)


def _text(rng: np.random.Generator) -> F32:
    """Lines of letters: a printed page, a sign, a label."""
    page = np.full((SIZE, SIZE), rng.choice([0, 255]), np.uint8)
    ink = 255 - int(page[0, 0])
    letters = np.array(list("ABCDEFGHKLMNPRSTUVXYZabdeghknrstu0123456789  "))
    y = 10
    while y < SIZE - 4:
        scale = rng.uniform(0.35, 1.8)
        y += int(24 * scale)
        line = "".join(rng.choice(letters, int(rng.integers(3, 30))))
        origin = (int(rng.integers(4, 40)), y)
        thick = int(rng.integers(1, 4))
        cv2.putText(page, line, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thick, cv2.LINE_AA)
    return (page / 255).astype(np.float32)


def _poster(rng: np.random.Generator) -> F32:
    """Shapes on a ground; half of them with painted figures, which are not people."""
    page = (fractal_noise(rng, 2.2) * 0.5 + 0.2).astype(np.float32)
    for _ in range(int(rng.integers(3, 14))):
        x, y = (int(v) for v in rng.integers(0, SIZE, 2))
        w, h = (int(v) for v in rng.integers(8, 110, 2))
        tone = float(rng.random())
        if rng.random() < 0.5:
            cv2.rectangle(page, (x, y), (x + w, y + h), tone, -1)
        else:
            cv2.ellipse(
                page, (x, y), (w // 2, h // 2), float(rng.uniform(0, 180)), 0, 360, tone, -1
            )
    for _ in range(int(rng.integers(0, 3))):
        x, s = int(rng.integers(50, SIZE - 50)), rng.uniform(0.5, 1.3)
        head, body = float(rng.random()), float(rng.random())

        def at(dx: float, dy: float, x: int = x, s: float = s) -> tuple[int, int]:
            return int(x + dx * s), int(SIZE * 0.4 + dy * s)

        for side in (-1, 1):
            elbow = at(side * rng.uniform(20, 45), rng.uniform(-20, 30))
            cv2.line(page, at(side * 14, -20), elbow, body, int(9 * s) + 1)
            cv2.line(page, at(side * 7, 40), at(side * 14, 110), 1 - body, int(12 * s) + 1)
        cv2.ellipse(page, at(0, 8), (int(18 * s), int(38 * s)), 0, 0, 360, body, -1)
        cv2.circle(page, at(0, -48), int(15 * s), head, -1)
    return np.clip(page, 0, 1)


def _facade(rng: np.random.Generator) -> F32:
    """Rows of windows."""
    n, m = int(rng.integers(2, 5)), int(rng.integers(2, 5))
    u, v = (_X * n) % 1, (_Y * m) % 1
    left, top = rng.uniform(0.15, 0.3), rng.uniform(0.15, 0.3)
    tone = rng.random((m, n))[np.floor(_Y * m).astype(int), np.floor(_X * n).astype(int)]
    window = (u > left) & (u < 1 - left) & (v > top) & (v < 1 - top)
    bar = (abs(u - 0.5) < 0.015) | (abs(v - 0.5) < 0.015)
    return np.where(window & ~bar, 0.3 * tone, 0.7 + 0.4 * (_noise(rng) - 0.5)).astype(np.float32)


def _blinds(rng: np.random.Generator) -> F32:
    """Slats with light between them, and the cords."""
    n = int(rng.integers(12, 36))
    slat = (_Y * n) % 1
    tone = 0.55 + 0.3 * slat * rng.random() + 0.2 * (_noise(rng) - 0.5)
    out = np.where(slat < rng.uniform(0.1, 0.5), 1.0, tone)
    out[(abs(_X - 0.2) < 0.006) | (abs(_X - 0.8) < 0.006)] *= 0.6
    return np.clip(out, 0, 1).astype(np.float32)


def _drapes(rng: np.random.Generator) -> F32:
    """Cloth that hangs in folds."""
    wobble = 0.15 * (fractal_noise(rng, 2.2, 8.0) - 0.5)
    n = int(rng.integers(5, 16))
    return np.clip(0.5 + 0.45 * np.sin(2 * math.pi * n * (_X + wobble)), 0, 1).astype(np.float32)


def _outside(rng: np.random.Generator) -> F32:
    """What is behind a window: sky over trees and houses, out of focus."""
    skyline = 0.35 + 0.4 * fractal_noise(rng, 1.6)[0]
    low = skyline[None] < _Y
    out = np.where(low, 0.5 * fractal_noise(rng, 1.3), 0.8 + 0.2 * _noise(rng))
    return np.clip(cv2.GaussianBlur(out.astype(np.float32), (0, 0), 2.0), 0, 1)


def _gratings(rng: np.random.Generator) -> F32:
    """Perforated metal, mesh, louvres: dark holes in a light sheet."""
    n, m = int(rng.integers(8, 28)), int(rng.integers(8, 28))
    hole = rng.uniform(0.35, 0.8)
    dark = ((_X * n) % 1 < hole) & ((_Y * m) % 1 < rng.uniform(0.4, 0.9))
    return np.where(dark, 0.1, 0.7 + 0.3 * (_noise(rng) - 0.5)).astype(np.float32)


FAMILIES: dict[str, Callable[[np.random.Generator], F32]] = {
    "noise": _noise,
    "streaks": _streaks,
    "checker": _checker,
    "stripes": _stripes,
    "plaid": _plaid,
    "planks": _planks,
    "bricks": _bricks,
    "blotches": _blotches,
    "cobbles": _cobbles,
    "dots": _dots,
    "tiles": _tiles,
    "plain": _plain,
    "weave": _weave,
    "text": _text,
    "poster": _poster,
    "facade": _facade,
    "blinds": _blinds,
    "drapes": _drapes,
    "outside": _outside,
    "gratings": _gratings,
}


class TextureBank:
    """Square images with a chain of mip-maps; all repeat endlessly.

    Args:
        images: (N, S, S) float32 in [0, 1]; S is a power of two.
        family: name -> indices of its images.
    """

    def __init__(self, images: F32, family: dict[str, NDArray[np.int64]] | None = None) -> None:
        self.family = family or {}
        self.size = images.shape[1]
        level: F32 = np.asarray(images, np.float32)
        levels = [level]
        while level.shape[1] > 2:
            count, size = level.shape[:2]
            blocks = level.reshape(count, size // 2, 2, size // 2, 2)
            level = blocks.mean((2, 4), dtype=np.float32)
            levels.append(level)
        self._max_level = len(levels) - 1
        sizes = [0, *(part.size for part in levels[:-1])]
        self._start = np.cumsum(sizes).astype(np.int32)
        self._flat = np.concatenate([part.ravel() for part in levels])

    def sample(self, pattern: NDArray, u: F32, v: F32, footprint: F32) -> F32:
        """Values (N,) in [0, 1] of image ``pattern`` (N,) at tile coordinates u, v (N,).

        Args:
            footprint: (N,) tiles per image pixel; picks the mip-map, so that distance blurs.
        """
        level = np.log2(np.maximum(footprint * self.size, 1.0)) + 0.3
        level = np.minimum(level.astype(np.int32), self._max_level)
        size = np.int32(self.size) >> level
        base = self._start[level] + pattern.astype(np.int32) * size * size
        x, y = u * size - 0.5, v * size - 0.5
        x0, y0 = np.floor(x), np.floor(y)
        fx, fy = (x - x0).astype(np.float32), (y - y0).astype(np.float32)
        wrap = size - 1  # sizes are powers of two
        left, top = x0.astype(np.int32), y0.astype(np.int32)
        right, bottom = (left + 1) & wrap, base + ((top + 1) & wrap) * size
        left, top = left & wrap, base + (top & wrap) * size
        flat = self._flat
        upper = flat[top + left] * (1 - fx) + flat[top + right] * fx
        lower = flat[bottom + left] * (1 - fx) + flat[bottom + right] * fx
        return upper * (1 - fy) + lower * fy


@lru_cache(maxsize=1)
def texture_bank(copies: int = 5, seed: int = 0) -> TextureBank:
    """The patterns all scenes share, ``copies`` of each family (a second's work per process)."""
    rng = np.random.default_rng(seed)
    family: dict[str, NDArray[np.int64]] = {}
    images: list[F32] = []
    for name, make in FAMILIES.items():
        count = 3 * copies if name == "poster" else copies
        family[name] = np.arange(len(images), len(images) + count)
        images += [np.asarray(make(rng), np.float32) for _ in range(count)]
    return TextureBank(np.stack(images), family)
