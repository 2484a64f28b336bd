"""Point clouds as binary PLY, with everything that is known of a point."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hamst3r.scene import PointCloud

_DTYPE = np.dtype(
    [
        *((axis, "<f4") for axis in "xyz"),
        *((name, "u1") for name in ("red", "green", "blue", "label")),
        ("instance", "<u2"),
        ("camera", "u1"),
        ("confidence", "<f4"),
        *((axis, "<f4") for axis in "uvw"),
    ]
)
_TYPES = {"<f4": "float", "|u1": "uchar", "<u2": "ushort"}


def write_ply(points: PointCloud, file: Path) -> None:
    """Metres, world; ``u v w`` are body coordinates, NaN off a body. Raises OSError."""
    records = np.empty(len(points), _DTYPE)
    for index, axis in enumerate("xyz"):
        records[axis] = points.xyz[:, index]
    for index, channel in enumerate(("red", "green", "blue")):
        records[channel] = points.rgb[:, index]
    for index, axis in enumerate("uvw"):
        records[axis] = points.body[:, index]
    for name in ("label", "instance", "camera", "confidence"):
        records[name] = getattr(points, name)
    properties = [f"property {_TYPES[_DTYPE[name].str]} {name}" for name in _DTYPE.names or ()]
    head = ["ply", "format binary_little_endian 1.0", "comment metres, z up, hamst3r"]
    head += [f"element vertex {len(records)}", *properties, "end_header\n"]
    with file.open("wb") as stream:
        stream.write("\n".join(head).encode())
        stream.write(records.tobytes())
