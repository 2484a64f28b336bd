"""Colours that say something: who, where on the body, how sure, how far."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]

# Okabe and Ito's palette without its greys: told apart with any colour vision.
PALETTE = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    ],
    np.uint8,
)
# What the palette is mixed with, and how much of it there is, each time it begins anew.
TURNS = np.array([0.0, 255.0, 0.0]), np.array([0.0, 0.55, 0.45])
DIMMED = 0.45  # what is nobody, where people are coloured


def person_colors(ids: NDArray) -> U8:
    """(..., 3) colours of ids > 0 (...), the same everywhere; any 21 in a row differ."""
    turn, index = np.divmod(np.asarray(ids, int) - 1, len(PALETTE))
    toward, share = (values[turn % 3, None] for values in TURNS)
    return (PALETTE[index] * (1 - share) + toward * share).round().astype(np.uint8)


def tinted(rgb: U8, instance: NDArray, strength: float = 0.55) -> U8:
    """People with a tint of their colour, the rest as it is."""
    mixed = (1 - strength) * rgb + strength * person_colors(instance)
    return np.where(instance[..., None] > 0, mixed, rgb).astype(np.uint8)


def by_person(rgb: U8, instance: NDArray) -> U8:
    """People in their colours (shaded by their own brightness), the rest grey and dim."""
    grey = rgb.astype(float).mean(-1, keepdims=True)
    people = person_colors(instance) * (0.5 + 0.5 * grey / 255)
    return np.where(instance[..., None] > 0, people, DIMMED * grey).astype(np.uint8)


def by_body(rgb: U8, body: NDArray) -> U8:
    """Body coordinates (..., 3) in [0, 1] as RGB; what is not on a body grey and dim."""
    grey = np.repeat(DIMMED * rgb.astype(float).mean(-1, keepdims=True), 3, -1)
    known = np.isfinite(body).all(-1, keepdims=True)
    return np.where(known, 255 * np.nan_to_num(body).clip(0, 1), grey).astype(np.uint8)


def by_value(values: NDArray, valid: NDArray | None = None) -> U8:
    """(..., 3) from blue (low) to red (high), stretched between the 2nd and 98th percentile.

    Black where not ``valid``.
    """
    values = np.asarray(values, float)
    valid = np.ones(values.shape, bool) if valid is None else valid
    if not valid.any():
        return np.zeros((*values.shape, 3), np.uint8)
    low, high = np.percentile(values[valid], (2, 98))
    level = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    flat = (255 * level).astype(np.uint8).reshape(-1, 1)
    colored = cv2.applyColorMap(flat, cv2.COLORMAP_TURBO)[:, 0, ::-1].reshape(*values.shape, 3)
    return np.where(valid[..., None], colored, 0).astype(np.uint8)


def by_confidence(confidence: NDArray) -> U8:
    """Confidence >= 1 by its logarithm; black where there is none (0)."""
    valid = np.asarray(confidence) > 0
    return by_value(np.log(np.maximum(confidence, 1e-6)), valid)
