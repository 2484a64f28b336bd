"""DTU's scans (Jensen et al., CVPR 2014): how near a reconstruction of known cameras comes.

Layout of its archives, put together: ``Rectified/scanN/rect_VVV_3_r5000.png`` (or
``Cleaned/scanN/clean_VVV_3_r5000.png``), ``Calibration/cal18/pos_VVV.txt``,
``Points/stl/stlNNN_total.ply``, ``ObsMask/ObsMaskN_10.mat`` and ``ObsMask/PlaneN.mat``. Everything
there is in millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import trimesh
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from hamst3r.evaluation.clouds import ScanTruth
from hamst3r.evaluation.datasets.base import (
    Case,
    DatasetError,
    ImageFile,
    ReadOptions,
    Shot,
    evenly,
    existing,
)
from hamst3r.geometry import make_T

LAYOUT = (
    "Rectified/scanN/rect_VVV_3_r5000.png, Calibration/cal18, Points/stl/stlNNN_total.ply, ObsMask"
)
# The 22 scans that MVSNet (Yao et al., ECCV 2018) and all after it test on.
TEST = (1, 4, 9, 10, 11, 12, 13, 15, 23, 24, 29, 32, 33, 34, 48, 49, 62, 75, 77, 110, 114, 118)
VIEWS = 10
MM = 1000.0


def read(root: Path, options: ReadOptions) -> list[Case]:
    """The test scans that are there, each with views evenly spread over its cameras."""
    if options.split:
        raise DatasetError("DTU has no splits here; leave --split out")
    cases = []
    for number in TEST:
        images = sorted((root / "Rectified" / f"scan{number}").glob("rect_*_3_r5000.png"))
        images = images or sorted((root / "Cleaned" / f"scan{number}").glob("clean_*_3_r5000.png"))
        scan = root / "Points" / "stl" / f"stl{number:03d}_total.ply"
        if images and scan.is_file():
            shots = tuple(_shot(root, image) for image in evenly(images, options.views or VIEWS))
            masks = root / "ObsMask"
            truth = ScanFiles(scan, masks / f"ObsMask{number}_10.mat", masks / f"Plane{number}.mat")
            cases.append(Case(f"scan{number}", f"scan{number}", shots, scan=truth))
    return evenly(existing(cases, root, LAYOUT), options.limit)


def _shot(root: Path, image: Path) -> Shot:
    view = image.name.split("_")[1]
    file = root / "Calibration" / "cal18" / f"pos_{view}.txt"
    try:
        P = np.loadtxt(file).reshape(3, 4)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: expected a projection matrix of 3x4 numbers") from error
    K, R, centre, *_ = cv2.decomposeProjectionMatrix(P)
    K = K / K[2, 2]
    T = make_T(R.T, (centre[:3] / centre[3]).ravel() / MM)
    return Shot(view, ImageFile(image), K, T)


@dataclass(frozen=True, eq=False)
class ScanFiles:
    """The scan, the mask and the table of one object."""

    points: Path
    mask: Path
    plane: Path

    def __call__(self) -> ScanTruth:
        """Read them.

        Raises:
            DatasetError: One is missing or not of its format, or trimesh is not installed.
        """
        try:
            mask, plane = loadmat(str(self.mask)), loadmat(str(self.plane))
            corner = np.asarray(mask["BB"], float)[0]
            return ScanTruth(
                _read_ply(self.points),
                np.asarray(mask["ObsMask"], bool),
                corner,
                float(np.ravel(mask["Res"])[0]),
                np.asarray(plane["P"], float).ravel(),
            )
        except DatasetError:
            raise
        except (OSError, ValueError, KeyError, TypeError, MatReadError) as error:
            raise DatasetError(f"{self.mask}: expected DTU's mask and plane: {error}") from error


def _read_ply(path: Path) -> np.ndarray:
    try:
        points = getattr(trimesh.load(path, process=False), "vertices", None)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise DatasetError(f"{path}: expected a PLY with points: {error}") from error
    if points is None or len(points) == 0:
        raise DatasetError(f"{path}: expected a PLY with points, it has none")
    return np.asarray(points, float)
