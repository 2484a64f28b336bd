"""Outfits: colours by place on the template body, garments that stand off it, hair, hats, bags.

A place is given in the template's metres (T-pose, x to the body's left, y up, z front), so one
function colours every pose and shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hamst3r.people.body import BodyModel
from hamst3r.synthetic.materials import MaterialMaker, MaterialTable, random_colour
from hamst3r.synthetic.trims import Trim, sample_trims

F32 = NDArray[np.float32]
BODY, SKIRT, HAIR, HAT, BAG, SUIT, SHOES = range(7)
SKIN_ROW, TOP_ROW, BOTTOM_ROW, SHOE_ROW, HAIR_ROW, HAT_ROW, BAG_ROW, TRIM_ROW = range(8)
# From very fair to very dark, linear RGB.
SKIN = np.array([[0.78, 0.53, 0.42], [0.60, 0.36, 0.24], [0.36, 0.19, 0.11], [0.10, 0.05, 0.03]])
HAIR_COLOURS = np.array(
    [[0.01, 0.01, 0.01], [0.06, 0.03, 0.015], [0.2, 0.1, 0.04], [0.5, 0.36, 0.16], [0.4, 0.4, 0.4]]
)


def smooth(x: NDArray, low: float, high: float) -> NDArray:
    """Smooth step from 0 at ``low`` to 1 at ``high``."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@dataclass(frozen=True, eq=False)
class Garment:
    """Something worn that has a shape of its own.

    Attributes:
        part: What it is coloured as. vertices: (V, 3) template metres. faces: (F, 3).
        weights: (V, 24) of the joints. hidden: Vertices of the body that it covers.
    """

    name: str
    part: int
    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    weights: NDArray[np.float64]
    hidden: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Outfit:
    """What one person wears and looks like; lengths are template metres.

    Attributes:
        materials: Rows SKIN_ROW .. TRIM_ROW, and one more of trims.
        sleeve: |x| where sleeves end. neckline: y of the neck opening. hem: y where the top ends.
        leg: y where trousers end. shoe: y where shoes end. gloves: Whether hands wear the top.
        hairline: y of the hair above the forehead. hair: Its length class 0 bald, 1 short, 2 long.
        skirt, hat, bag: Whether worn. open_front: A stripe of another colour down the chest.
        puff: Offsets of top, trousers and hair from the skin, metres.
        trims: Buttons, prints, pockets. beard, glasses: Whether worn.
        bare: Whether the trunk is. worn: Garments of others (:mod:`hamst3r.synthetic.wardrobe`).
    """

    materials: MaterialTable
    sleeve: float
    neckline: float
    hem: float
    leg: float
    shoe: float
    gloves: bool
    hairline: float
    hair: int
    skirt: float | None
    coat: bool
    hat: bool
    bag: bool
    open_front: float
    puff: tuple[float, float, float]
    bare: bool = False
    trims: tuple[Trim, ...] = ()
    beard: bool = False
    glasses: bool = False
    worn: tuple[Garment, ...] = ()

    def regions(self, place: F32) -> NDArray[np.int32]:
        """Material rows (N,) of places (N, 3) on the template's skin."""
        x, y, z = abs(place[:, 0]), place[:, 1], place[:, 2]
        row = np.full(len(place), SKIN_ROW, np.int32)
        arm = (x > 0.155) & (y > 0.3)
        torso = (
            ~arm & (y > self.hem) & (y < self.neckline + 0.35 * np.maximum(x - 0.05, 0) - 0.1 * z)
        )
        if not self.bare:
            row[torso | (arm & (x < self.sleeve))] = TOP_ROW
            row[torso & (x < self.open_front) & (z > 0)] = BOTTOM_ROW
        row[~arm & (y <= self.hem) & (y > self.leg)] = BOTTOM_ROW
        row[~arm & (y < self.shoe)] = SHOE_ROW
        if self.gloves:
            row[arm & (x > 0.66)] = SHOE_ROW
        row[self._hair_mask(place)] = HAIR_ROW
        return row

    def _hair_mask(self, place: F32) -> NDArray[np.bool_]:
        if self.hair == 0:
            return np.zeros(len(place), bool)
        x, y, z = abs(place[:, 0]), place[:, 1], place[:, 2]
        back = 0.545 if self.hair == 1 else 0.49
        front = z < 0.035 + 0.5 * (y - self.hairline + 0.03)
        return (x < 0.12) & (y > back) & ((y > self.hairline + 0.1 * x) | (front & (y > 0.53)))

    def offsets(self, place: F32) -> F32:
        """Offset from the skin (N,) in metres, along the normal, for template places (N, 3)."""
        row = self.regions(place)
        top, bottom, hair = self.puff
        amount = np.select(
            [row == TOP_ROW, row == BOTTOM_ROW, row == SHOE_ROW, row == HAIR_ROW],
            [top, bottom, 0.004, hair],
            0.0,
        )
        folds = np.sin(place @ np.array([31.0, 47.0, 23.0])) * np.sin(
            place @ np.array([-41, 29, 37])
        )
        return (amount * (1 + 0.35 * folds)).astype(np.float32)

    def colour(self, part: NDArray, place: F32, footprint: F32) -> F32:
        """Linear RGB (N, 3) of points of ``part`` (N,) at template places (N, 3)."""
        row = self.regions(place)
        for kind, material in ((SKIRT, self._skirt_row), (HAIR, HAIR_ROW), (HAT, HAT_ROW)):
            row[part == kind] = material
        row[part == BAG] = BAG_ROW
        row[part == SHOES] = SHOE_ROW
        suit = part == SUIT
        row[suit] = np.where(place[suit, 1] > self.hem, TOP_ROW, BOTTOM_ROW)
        for trim in self.trims:
            cloth = (part == BODY) | suit
            row[(row == trim.on) & cloth & trim.covers(place)] = trim.row
        if self.bag:  # its straps over the shoulders
            strap = (abs(abs(place[:, 0]) - 0.085) < 0.018) & (place[:, 2] > -0.02)
            strap &= (place[:, 1] > 0.14) & (part == BODY) & (row != SKIN_ROW) & (row != HAIR_ROW)
            row[strap] = BAG_ROW
        x, y, z = place.T
        side = np.where(z < 0, 5.3, 0.0)
        uv = np.stack([x + 0.7 * z + side, y + 0.35 * abs(z) + 0.1 * side], 1)
        out = self.materials.albedo(row, uv, footprint)
        face = (part == BODY) & (row == SKIN_ROW) & (z > 0.09) & (y > 0.53) & (abs(x) < 0.09)
        if face.any():
            out[face] = self._paint_face(out[face], place[face])
        return out

    def _paint_face(self, colour: F32, place: F32) -> F32:
        """Eyes, brows, lips, nostrils; at times a beard or glasses."""
        x, y = abs(place[:, 0]), place[:, 1]
        hair = self.materials.palette[HAIR_ROW, 1]
        if self.beard:
            low = (y < 0.6 + 0.35 * np.maximum(x - 0.03, 0)) & (place[:, 2] < 0.19)
            colour = np.where(low[:, None], 0.5 * colour + 0.5 * hair, colour)
        lips = (x < 0.024) & (abs(y - 0.572) < 0.009)
        colour = np.where(lips[:, None], colour * np.array([0.85, 0.5, 0.5]), colour)
        nostril = (abs(x - 0.008) < 0.004) & (abs(y - 0.597) < 0.004)
        colour = np.where(nostril[:, None], colour * 0.45, colour)
        eye = ((x - 0.031) / 0.015) ** 2 + ((y - 0.635) / 0.008) ** 2
        colour = np.where((eye < 1)[:, None], 0.7, colour)
        colour = np.where((eye < 0.3)[:, None], 0.02, colour)
        if self.glasses:
            rim = ((x - 0.033) / 0.026) ** 2 + ((y - 0.634) / 0.02) ** 2
            worn = ((rim > 0.75) & (rim < 1.25)) | ((abs(y - 0.638) < 0.003) & (rim > 1))
            colour = np.where(worn[:, None], 0.02, colour)
        brows = (abs(x - 0.033) < 0.018) & (abs(y - 0.655) < 0.005)
        return np.where(brows[:, None], hair * 0.8, colour).astype(np.float32)

    @property
    def _skirt_row(self) -> int:
        return TOP_ROW if self.coat else BOTTOM_ROW


def sample_outfit(rng: np.random.Generator) -> Outfit:
    """An outfit: from shorts and bare arms to coat, gloves and hat; any skin and hair."""
    maker = MaterialMaker(rng)
    tone = rng.uniform(0, len(SKIN) - 1)
    k = min(int(tone), len(SKIN) - 2)
    maker.plain(SKIN[k] + (SKIN[k + 1] - SKIN[k]) * (tone - k), gloss=0.08)
    patterned = ("stripes", "plaid", "checker", "dots", "blotches", "text", "poster", "cobbles")
    quiet = ("plain", "weave", "noise", "streaks")
    for chance in (0.5, 0.2):
        families = patterned if rng.random() < chance else quiet
        maker.draw(families, (0.12, 0.7), contrast=0.8, value=(0.02, 0.75))
    maker.draw(quiet, (0.1, 0.4), contrast=0.6, value=(0.01, 0.6))
    colour = HAIR_COLOURS[rng.integers(len(HAIR_COLOURS))] * rng.uniform(0.6, 1.3)
    maker.plain(random_colour(rng) if rng.random() < 0.04 else colour, gloss=0.15)
    maker.draw(quiet + patterned, (0.1, 0.4))
    maker.draw(quiet, (0.1, 0.4))
    for _ in range(2):
        maker.draw(quiet + patterned, (0.05, 0.3), value=(0.01, 0.9))
    coat = bool(rng.random() < 0.15)
    skirt = float(rng.uniform(-0.75, -0.2)) if rng.random() < 0.18 else None
    if coat:
        skirt = float(rng.uniform(-0.45, -0.15))
    sleeve = rng.choice([0.17, rng.uniform(0.24, 0.4), rng.uniform(0.58, 0.66)], p=[0.1, 0.4, 0.5])
    leg = rng.choice([rng.uniform(-0.45, -0.12), rng.uniform(-0.84, -0.72)], p=[0.25, 0.75])
    top = rng.choice([rng.uniform(0.002, 0.012), rng.uniform(0.012, 0.03)], p=[0.7, 0.3])
    hat = bool(rng.random() < 0.15)
    hair = int(rng.choice(3, p=[0.12, 0.53, 0.35]))
    return Outfit(
        materials=maker.table(),
        sleeve=0.64 if coat else float(sleeve),
        neckline=float(rng.uniform(0.43, 0.53)),
        hem=float(rng.uniform(-0.1, 0.06)),
        leg=float(-0.1 if skirt is not None and not coat else leg),
        shoe=float(rng.choice([-0.9, -0.8, -0.76, -0.6], p=[0.08, 0.42, 0.4, 0.1])),
        gloves=bool(rng.random() < 0.08),
        hairline=float(rng.uniform(0.69, 0.72)),
        hair=hair,
        skirt=skirt,
        coat=coat,
        bag=bool(rng.random() < 0.12),
        open_front=float(rng.choice([0.0, 0.03, 0.07], p=[0.75, 0.1, 0.15])),
        hat=hat,
        puff=(
            max(float(top), 0.02 * coat),
            float(rng.uniform(0.002, 0.014)),
            0.003 if hat else float(rng.uniform(0.004, 0.025)),
        ),
        bare=bool(not coat and skirt is None and rng.random() < 0.06),
        trims=sample_trims(rng, TOP_ROW, BOTTOM_ROW, (TRIM_ROW, TRIM_ROW + 1)),
        beard=bool(hair < 2 and rng.random() < 0.2),
        glasses=bool(rng.random() < 0.2),
    )


def _tube(ys: NDArray, rx: NDArray, rz: NDArray, zc: float, start: float, end: float) -> tuple:
    """Rings of an elliptic tube from angle ``start`` to ``end`` (0 = front): points and faces."""
    n = 33
    angle = np.linspace(start, end, n)
    closed = end - start > 2 * np.pi - 1e-6
    if closed:  # the last column is the first: two of the same place could part
        angle = angle[:-1]
    x = np.sin(angle)[None] * rx[:, None]
    z = zc + np.cos(angle)[None] * rz[:, None]
    y = np.broadcast_to(ys[:, None], x.shape)
    i, j = (a.ravel() for a in np.meshgrid(np.arange(len(ys) - 1), np.arange(n - 1), indexing="ij"))
    columns = len(angle)
    a, b = i * columns + j, (i + 1) * columns + j
    right = (j + 1) % columns - j
    faces = np.concatenate([np.stack([a, b, b + right], 1), np.stack([a, b + right, a + right], 1)])
    return np.stack([x, y, z], -1).reshape(-1, 3), faces


def attachments(model: BodyModel, outfit: Outfit) -> list[tuple[int, NDArray, NDArray, NDArray]]:
    """Things worn that are not the skin: (part, template vertices, faces, weights (V, 24))."""
    out = []
    if outfit.skirt is not None:
        t = np.linspace(0, 1, 9)
        drop = 0.1 - outfit.skirt
        hips = np.minimum(t * drop / 0.12, 1.0) ** 0.7  # follows the waist, then hangs
        grow = (0.12 if outfit.coat else 0.2) * drop * t + outfit.puff[0] * hips
        rx, rz = 0.11 + 0.06 * hips + grow, 0.085 + 0.045 * hips + grow
        v, f = _tube(0.1 - drop * t, rx, rz, 0.01, -np.pi, np.pi)
        weights = np.zeros((len(v), 24))
        thigh = smooth(0.02 - v[:, 1], 0.0, 0.35)
        left = smooth(v[:, 0], -0.12, 0.12)
        knee = smooth(-0.36 - v[:, 1], 0.0, 0.14)  # below, a skirt hangs as the shins do
        thigh, shin = thigh * (1 - knee), thigh * knee
        weights[:, 0] = 1 - thigh - shin
        for column, share in ((1, thigh * left), (2, thigh * (1 - left)), (4, shin * left)):
            weights[:, column] = share
        weights[:, 5] = shin * (1 - left)
        out.append((SKIRT, v, f, weights))
    if outfit.hair == 2:
        t = np.linspace(0, 1, 7)
        low = 0.36 + 0.15 * (outfit.neckline - 0.43) / 0.1
        v, f = _tube(
            0.7 - (0.7 - low) * t,
            0.083 + 0.03 * t,
            0.1 + 0.02 * t,
            0.035,
            0.55 * np.pi,
            1.45 * np.pi,
        )
        weights = np.zeros((len(v), 24))
        weights[:, 15] = smooth(v[:, 1], 0.42, 0.56)
        weights[:, 9] = 1 - weights[:, 15]
        out.append((HAIR, v, f, weights))
    if outfit.hat:
        t = np.linspace(0, np.pi / 2, 7)
        brim = 0.045 * float(outfit.hem < 0)
        rx = np.concatenate([[0.093 + brim], 0.093 * np.cos(t)])
        rz = np.concatenate([[0.113 + brim], 0.113 * np.cos(t)])
        ys = np.concatenate([[0.685], 0.688 + 0.085 * np.sin(t)])
        v, f = _tube(ys, rx, rz, 0.042, -np.pi, np.pi)
        out.append((HAT, v, f, _rigid(15, len(v))))
    if outfit.bag:
        t = np.linspace(0, np.pi, 9)
        round_ = np.sin(t) ** 0.4
        v, f = _tube(
            0.27 - 0.2 * np.cos(np.pi - t), 0.14 * round_, 0.09 * round_, -0.15, -np.pi, np.pi
        )
        out.append((BAG, v, f, _rigid(9, len(v))))
    out += [(piece.part, piece.vertices, piece.faces, piece.weights) for piece in outfit.worn]
    return out


def _rigid(joint: int, count: int) -> NDArray:
    weights = np.zeros((count, 24))
    weights[:, joint] = 1.0
    return weights


def nearest_vertices(model: BodyModel, places: NDArray) -> NDArray[np.int64]:
    """Index of the template vertex nearest to each place (N, 3)."""
    return _template_tree(model).query(places)[1]


@lru_cache(maxsize=2)
def _template_tree(model: BodyModel) -> cKDTree:
    return cKDTree(model.v_template.numpy())
