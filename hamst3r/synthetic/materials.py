"""Colours of surfaces: a pattern of the bank, a palette of three colours, grain and gloss."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.textures import TextureBank, texture_bank

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MaterialTable:
    """One row per material.

    Attributes:
        pattern: (M,) index into the texture bank. tile: (M,) metres one tile of it covers.
        palette: (M, 3, 3) linear RGB at pattern values 0, 0.5 and 1.
        grain: (M,) strength of fine noise. gloss: (M,) strength of highlights.
        glow: (M,) share of the colour that shines by itself (windows, screens, lamps).
        photo: (M,) image of ``photos`` that replaces pattern and palette, -1 = none; the
            palette's middle colour tints it.
        mirror: (M,) share of the light that it reflects as a mirror does; 0 = it is none.
        photos: Colour images, three planes each in a row; None if no material has one.
    """

    pattern: NDArray[np.int32]
    tile: F32
    palette: F32
    grain: F32
    gloss: F32
    glow: F32
    photo: NDArray[np.int32]
    mirror: F32
    photos: TextureBank | None = None

    def albedo(self, row: NDArray[np.int32], uv: F32, footprint: F32) -> F32:
        """Linear RGB (N, 3) of materials ``row`` (N,) at uv (N, 2) metres.

        Args:
            footprint: (N,) metres of surface one pixel covers.
        """
        bank = texture_bank()
        tile = self.tile[row]
        value = bank.sample(self.pattern[row], uv[:, 0] / tile, uv[:, 1] / tile, footprint / tile)
        noise = bank.family["noise"]
        grain_tile = (0.45 + 0.23 * (row % 7)).astype(np.float32)
        fine = bank.sample(
            noise[row % len(noise)],
            uv[:, 0] / grain_tile,
            uv[:, 1] / grain_tile,
            footprint / grain_tile,
        )
        value = value * 2
        low = np.minimum(value, 1)[:, None]
        high = np.maximum(value - 1, 0)[:, None]
        colours = self.palette[row]
        colour = colours[:, 0] + (colours[:, 1] - colours[:, 0]) * low
        colour += (colours[:, 2] - colours[:, 1]) * high
        pictured = np.flatnonzero(self.photo[row] >= 0) if self.photos is not None else ()
        if self.photos is not None and len(pictured):
            here, size = row[pictured], tile[pictured]
            for plane in range(3):
                colour[pictured, plane] = colours[pictured, 1, plane] * self.photos.sample(
                    3 * self.photo[here] + plane,
                    uv[pictured, 0] / size,
                    uv[pictured, 1] / size,
                    footprint[pictured] / size,
                )
        return colour * (1 + (fine - 0.5) * self.grain[row])[:, None]


class MaterialMaker:
    """Draws materials; :meth:`table` returns all drawn so far.

    Args:
        photos: Pictures for :meth:`pictured`, three planes each; upright ones of people in
            ``family["tall"]`` and others in ``family["wide"]``. None: posters are drawn instead.
    """

    def __init__(self, rng: np.random.Generator, photos: TextureBank | None = None) -> None:
        self._rng = rng
        self._rows: list[tuple] = []
        self._photos = photos

    def table(self) -> MaterialTable:
        """All materials drawn so far."""
        columns = [np.array(column) for column in zip(*self._rows, strict=True)]
        numbers = (column.astype(np.float32) for column in columns[1:-1])
        tile, palette, grain, gloss, glow, mirror = numbers
        pattern, photo = (columns[k].astype(np.int32) for k in (0, -1))
        return MaterialTable(
            pattern, tile, palette, grain, gloss, glow, photo, mirror, self._photos
        )

    def draw(
        self,
        families: tuple[str, ...] = (),
        tile: tuple[float, float] = (0.3, 2.5),
        contrast: float = 1.0,
        value: tuple[float, float] = (0.08, 0.8),
        glow: float = 0.0,
    ) -> int:
        """A material of one of ``families`` (default: any); returns its row.

        Args:
            tile: Range of tile sizes in metres. contrast: Scales the spread of the palette.
            value: Range of the brightness (linear) of its middle colour.
            glow: Share of its colour that shines by itself.
        """
        return self._add(families, tile, self.palette(contrast, value), glow)

    def tinted(
        self,
        families: tuple[str, ...],
        colour: NDArray,
        tile: tuple[float, float] = (0.3, 2.5),
        contrast: float = 0.5,
        glow: float = 0.0,
    ) -> int:
        """As :meth:`draw`, in shades of a linear colour (3,)."""
        shades = np.exp(self._rng.normal(0, 0.55 * contrast, (3, 1)))
        return self._add(families, tile, np.clip(np.asarray(colour) * shades, 0.005, 0.95), glow)

    def _add(
        self, families: tuple[str, ...], tile: tuple[float, float], colours: NDArray, glow: float
    ) -> int:
        rng, bank = self._rng, texture_bank()
        name = str(rng.choice(families or tuple(bank.family)))
        pattern = int(rng.choice(bank.family[name]))
        size = float(np.exp(rng.uniform(*np.log(tile))))
        gloss = float(rng.choice([0.0, 0.05, 0.35], p=[0.5, 0.3, 0.2]) * rng.random())
        grain = float(rng.uniform(0, 0.5) ** 1.5)
        self._rows.append((pattern, size, colours, grain, gloss, glow, 0.0, -1))
        return len(self._rows) - 1

    def plain(self, colour: NDArray, glow: float = 0.0, gloss: float = 0.05) -> int:
        """A nearly plain material of the given linear colour; returns its row."""
        pattern = int(self._rng.choice(texture_bank().family["plain"]))
        colours = np.asarray(colour)[None] * np.array([[0.8], [1.0], [1.15]])
        self._rows.append((pattern, 1.5, colours, 0.1, gloss, glow, 0.0, -1))
        return len(self._rows) - 1

    def mirror(self) -> int:
        """Silvered glass; its row."""
        row = self.plain(self._rng.uniform(0.5, 1.0, 3), gloss=0.0)
        self._rows[row] = (*self._rows[row][:-2], self._rng.uniform(0.75, 0.95), -1)
        return row

    def portrait(self, shape: str, glow: float = 0.0) -> int:
        """A picture of people, ``tall`` or ``wide``, for :meth:`MeshBuilder.picture`; its row."""
        if self._photos is None:
            return self.draw(("poster",), (1.0, 1.0), 1.3)
        rng = self._rng
        index = int(rng.choice(self._photos.family[shape]))
        tint = np.exp(rng.normal(0, 0.25, 3)) if rng.random() < 0.4 else np.ones(3)
        tint = np.clip(tint * rng.uniform(0.5, 1), 0, 1.3)
        return self.pictured(index, tint, glow, float(rng.choice([0.0, 0.2])))

    def pictured(self, index: int, tint: NDArray, glow: float = 0.0, gloss: float = 0.05) -> int:
        """Image ``index`` of the photos, once per unit of uv, times ``tint`` (3,); its row."""
        colours = np.tile(np.asarray(tint, float), (3, 1))
        self._rows.append((0, 1.0, colours, 0.0, gloss, glow, 0.0, index))
        return len(self._rows) - 1

    def palette(self, contrast: float, value: tuple[float, float]) -> NDArray:
        """Three linear colours: shades of one hue, related hues, or unrelated ones."""
        rng = self._rng
        middle = random_colour(rng, value)
        kind = rng.random()
        if kind < 0.5:  # shades
            out = middle * np.exp(rng.normal(0, 0.55 * contrast, (3, 1)))
        elif kind < 0.8:  # related
            out = middle * np.exp(rng.normal(0, 0.4 * contrast, (3, 1)))
            out = out * np.exp(rng.normal(0, 0.13 * contrast, (3, 3)))
        else:
            others = np.stack([random_colour(rng, value) for _ in range(3)])
            out = middle + (others - middle) * min(contrast, 1.0)
        return np.clip(out, 0.01, 0.95)


def random_colour(
    rng: np.random.Generator, value: tuple[float, float] = (0.03, 0.8), saturation: float = 1.0
) -> NDArray[np.float64]:
    """Linear RGB (3,), mostly muted as things in rooms are, sometimes vivid."""
    vivid = rng.random() < 0.14
    strength = rng.uniform(0.5, 0.95) if vivid else rng.beta(1.1, 4.5)
    level = rng.uniform(np.sqrt(value[0]), np.sqrt(value[1])) ** 2
    hue = rng.random() if vivid or rng.random() < 0.5 else rng.normal(0.09, 0.04) % 1
    return np.array(colorsys.hsv_to_rgb(hue, strength * saturation, level))
