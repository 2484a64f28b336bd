"""What papers report on the data sets, in the units of our figures, with the source of each row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One row of a paper's table.

    Attributes:
        method: As the paper calls it. source: Paper and table.
        values: Figure's name -> value.
    """

    method: str
    source: str
    values: dict[str, float]


_HAMST3R = "HAMSt3R, arXiv 2508.16433"
_DUST3R = "DUSt3R, arXiv 2312.14132, table 3"
_MAST3R = "MASt3R, arXiv 2406.09756, table 3"
_CHROMM = "CHROMM, arXiv 2603.12789"
_JOSH = "JOSH, ICLR 2026"
_MEAN = f"{_HAMST3R}; mean over KITTI, ScanNet, ETH3D, DTU and Tanks and Temples"


def _people(method: str, source: str, *values: float | None) -> Published:
    """W-, GA-, PA-MPJPE, then TE, s-TE, AE, RRA@10, CCA@10, s-CCA@10."""
    people, cameras = ("w_mpjpe_m", "ga_mpjpe_m", "pa_mpjpe_m"), ("te_m", "s_te_m", "ae_deg")
    names = (*people, *cameras, "rra10", "cca10", "s_cca10")
    pairs = zip(names, values, strict=False)
    return Published(method, source, {name: v for name, v in pairs if v is not None})


def _depth(method: str, source: str, rel: float, tau: float) -> Published:
    return Published(method, source, {"rel_percent": rel, "tau_percent": tau})


def _video(method: str, source: str, wa: float, w: float | None, rte: float | None) -> Published:
    values = {"wa_mpjpe_mm": wa, "w_mpjpe_mm": w, "rte_percent": rte}
    return Published(method, source, {k: v for k, v in values.items() if v is not None})


def _poses(method: str, source: str, *values: float) -> Published:
    names = ("rra15_percent", "rta15_percent", "maa30_percent")
    return Published(method, source, dict(zip(names, values, strict=True)))


# The mean over the five sets is all that HAMSt3R gives; it stands beside each of them.
_DEPTH_MEANS = (
    _depth("MASt3R (mean of 5 sets)", _MEAN, 3.13, 73.69),
    _depth("DUNE (mean of 5 sets)", _MEAN, 3.38, 68.65),
    _depth("HAMSt3R (mean of 5 sets)", _MEAN, 4.26, 61.00),
)

PUBLISHED: dict[str, tuple[Published, ...]] = {
    "egohumans": (
        _people("Multi-HMR", _HAMST3R, 7.66, 0.99, 0.12),
        _people("UnCaliPose", _HAMST3R, 3.51, 0.67, 0.13),
        _people("HSfM", _HAMST3R, 1.04, 0.21, 0.05),
        _people("DUNE", _HAMST3R, None, None, None, 1.43, 0.17, 3.51, 0.96, 0.27, 0.97),
        _people("HAMSt3R", _HAMST3R, 3.80, 0.42, 0.14, 2.33, 0.40, 10.24, 0.77, 0.06, 0.75),
        _people("HAMSt3R, small", _HAMST3R, None, None, None, 1.31, 0.12, 2.32, 1.00, 0.14, 1.00),
        _people("HAMSt3R, large", _HAMST3R, None, None, None, 3.30, 0.66, 16.3, 0.58),
        _people("CHROMM", _CHROMM, 0.51, 0.15, 0.05),
    ),
    "egoexo4d": (
        _people("Multi-HMR", _HAMST3R, 2.88, None, 0.07),
        _people("UnCaliPose", _HAMST3R, 2.90, None, 0.13),
        _people("HSfM", _HAMST3R, 0.56, None, 0.06),
        _people("DUNE", _HAMST3R, None, None, None, 1.03, 0.26, 6.45, 0.94, 0.25, 0.85),
        _people("HAMSt3R", _HAMST3R, 0.51, None, 0.09, 0.60, 0.15, 2.85, 0.99, 0.42, 0.87),
    ),
    "emdb": (
        _video("TRAM", "TRAM, ECCV 2024", 76.4, 222.4, None),
        _video("JOSH", _JOSH, 68.9, 174.7, 1.3),
        _video("JOSH3R", _JOSH, 220.0, 661.7, 13.1),
        _video("Human3R", "Human3R, arXiv 2510.06219", 112.2, 267.9, None),
        _video("CHROMM", _CHROMM, 102.6, 255.0, None),
    ),
    "rich": (
        _video("JOSH", _JOSH, 89.0, 132.5, None),
        _video("Human3R", "Human3R, arXiv 2510.06219", 110.0, 184.9, None),
        _video("UniSH", "UniSH, arXiv 2601.01222", 118.1, 183.2, None),
        _video("CHROMM (several views)", _CHROMM, 53.1, 79.0, None),
    ),
    "sloper4d": (_video("JOSH", _JOSH, 120.0, None, None),),
    "co3d": (
        _poses("DUSt3R", _MAST3R, 94.3, 88.4, 77.2),
        _poses("MASt3R", _MAST3R, 94.6, 91.9, 81.8),
    ),
    "realestate10k": (
        Published("DUSt3R", _MAST3R, {"maa30_percent": 61.2}),
        Published("MASt3R", _MAST3R, {"maa30_percent": 76.4}),
    ),
    "kitti": (_depth("DUSt3R 512", _DUST3R, 9.11, 39.49), *_DEPTH_MEANS),
    "scannet": (_depth("DUSt3R 512", _DUST3R, 4.93, 60.20), *_DEPTH_MEANS),
    "eth3d": (_depth("DUSt3R 512", _DUST3R, 2.91, 76.91), *_DEPTH_MEANS),
    "dtu": (_depth("DUSt3R 512", _DUST3R, 3.52, 69.33), *_DEPTH_MEANS),
    "tanks": (_depth("DUSt3R 512", _DUST3R, 3.17, 76.68), *_DEPTH_MEANS),
    "dtu-scans": tuple(
        Published(
            method,
            _MAST3R,
            dict(zip(("accuracy_mm", "completeness_mm", "overall_mm"), row, strict=True)),
        )
        for method, row in (("DUSt3R", (2.677, 0.805, 1.741)), ("MASt3R", (0.403, 0.344, 0.374)))
    ),
}
