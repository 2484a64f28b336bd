"""Clouds as serialised PointCloud2: the only place where their layout is written."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField

from hamst3r.geometry import unproject
from hamst3r.scene import LABEL_HUMAN, LABEL_SCENE, PointCloud, View
from hamst3r.static_map import cube_keys
from hamst3r_ros.wire import Fields, pack

POINT = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("rgb", "<u4"),  # 0x00RRGGBB; declared FLOAT32, which is what viewers and PCL expect
        ("label", "<u4"),
        ("instance", "<u2"),
        ("camera", "u1"),
        ("confidence", "u1"),
    ]
)
MAP_POINT = np.dtype(POINT.descr[:4])
POINT_ON_BODY = np.dtype([*POINT.descr, ("u", "<f4"), ("v", "<f4"), ("w", "<f4")])
BLOCK = 8192  # points; as much as stays in the processor's cache while field after field is written
_FIELD_TYPES = {
    "<f4": PointField.FLOAT32,
    "<u4": PointField.UINT32,
    "<u2": PointField.UINT16,
    "|u1": PointField.UINT8,
}


def point_cloud(points: PointCloud, head: Fields, body_coordinates: bool) -> bytes:
    """~/points: unorganised, no NaN among x y z. ``u v w`` are NaN off the body.

    The byte ``confidence`` is 255 (1 - 1 / c) of the network's c >= 1: 0 unsure, 255 certain.
    """
    records = np.empty((1, len(points)), POINT_ON_BODY if body_coordinates else POINT)
    for block in _blocks(len(points)):
        part = records[0, block]
        _fill(part, points.xyz[block], points.rgb[block], points.confidence[block])
        for name in ("label", "instance", "camera"):
            part[name] = getattr(points, name)[block]
        if body_coordinates:
            for axis, name in enumerate("uvw"):
                part[name] = points.body[block, axis]
    return _message(records, head, dense=True)


def obstacle_cloud(points: PointCloud, head: Fields, voxel: float) -> bytes:
    """~/obstacles: the points of people only, as :func:`point_cloud` has them.

    Args:
        voxel: Metres; one point of each cube of this side is kept, 0 keeps all.
    """
    chosen = np.flatnonzero(points.label == LABEL_HUMAN)
    if voxel > 0 and len(chosen):
        keys = cube_keys(points.xyz[chosen], voxel)
        chosen = chosen[np.sort(np.unique(keys, return_index=True)[1])]
    people = PointCloud(**{name: column[chosen] for name, column in vars(points).items()})
    return point_cloud(people, head, body_coordinates=False)


def view_cloud(view: View, index: int, head: Fields) -> bytes:
    """~/<camera>/points: organised like the depth image, in the camera's own optical frame.

    Pixels without depth are NaN. ``index`` is the camera's, as in ~/points.
    """
    valid = view.depth > 0
    records = np.empty(view.depth.shape, POINT)
    xyz = np.where(valid[..., None], unproject(view.depth, view.K), np.nan)
    _fill(records, xyz, view.rgb, view.confidence)
    records["label"] = np.where(view.instances > 0, LABEL_HUMAN, LABEL_SCENE)
    records["instance"] = view.instances
    records["camera"] = index
    return _message(records, head, dense=bool(valid.all()))


def map_cloud(xyz: NDArray, rgb: NDArray, head: Fields) -> bytes:
    """~/map: (N, 3) places of things and their (N, 3) uint8 colours."""
    records = np.empty((1, len(xyz)), MAP_POINT)
    for block in _blocks(len(xyz)):
        _place(records[0, block], xyz[block], rgb[block])
    return _message(records, head, dense=True)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


def _fill(records: NDArray, xyz: NDArray, rgb: NDArray, confidence: NDArray) -> None:
    _place(records, xyz, rgb)
    share = 1 / np.maximum(confidence, np.float32(1))
    records["confidence"] = (255.5 - 255 * share).astype(np.uint8)  # rounded


def _place(records: NDArray, xyz: NDArray, rgb: NDArray) -> None:
    for axis, name in enumerate("xyz"):
        records[name] = xyz[..., axis]
    packed = cv2.cvtColor(rgb.reshape(1, -1, 3), cv2.COLOR_RGB2BGRA)  # 0xAARRGGBB
    records["rgb"] = (packed.view("<u4") & 0xFFFFFF).reshape(rgb.shape[:-1])


def _message(records: NDArray, head: Fields, dense: bool) -> bytes:
    """A cloud of (H, W) records."""
    height, width = records.shape
    layout = records.dtype
    fields = [
        {
            "name": name,
            "offset": layout.fields[name][1],  # type: ignore[index]
            "datatype": PointField.FLOAT32 if name == "rgb" else _FIELD_TYPES[layout[name].str],
            "count": 1,
        }
        for name in layout.names or ()
    ]
    return pack(
        PointCloud2,
        {
            "header": head,
            "height": height,
            "width": width,
            "fields": fields,
            "point_step": layout.itemsize,
            "row_step": layout.itemsize * width,
            "data": records.view(np.uint8),
            "is_dense": dense,
        },
    )
