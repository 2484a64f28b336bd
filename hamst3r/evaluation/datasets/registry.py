"""The data sets by name: where their reader is, how they are measured, what papers report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hamst3r.evaluation import protocols
from hamst3r.evaluation.datasets import (
    co3d,
    depth_sets,
    dtu_scans,
    egoexo4d,
    egohumans,
    emdb,
    realestate10k,
    rich,
    sloper4d,
)
from hamst3r.evaluation.datasets.base import Case, Clip, ReadOptions
from hamst3r.evaluation.datasets.published import PUBLISHED, Published


@dataclass(frozen=True)
class Dataset:
    """One data set.

    Attributes:
        name: On the command line. title, paper, layout: For readers.
        read: Root folder, options -> cases. protocol: How they are measured.
        columns: Figure -> heading, those of the papers' tables.
        choice: Which images are used by default, one sentence.
        by_group: Whether figures are means over groups (categories), not over everything.
    """

    name: str
    title: str
    paper: str
    layout: str
    read: Callable[[Path, ReadOptions], Sequence[Case] | Sequence[Clip]]
    protocol: protocols.Protocol
    columns: dict[str, str]
    choice: str
    by_group: bool = False

    @property
    def published(self) -> tuple[Published, ...]:
        """What papers report, with the figures' names."""
        return PUBLISHED.get(self.name, ())


_PEOPLE = {
    "w_mpjpe_m": "W-MPJPE m",
    "ga_mpjpe_m": "GA-MPJPE m",
    "pa_mpjpe_m": "PA-MPJPE m",
    "te_m": "TE m",
    "s_te_m": "s-TE m",
    "ae_deg": "AE deg",
    "rra10": "RRA@10",
    "cca10": "CCA@10",
    "s_cca10": "s-CCA@10",
}
_POSES = {"rra15_percent": "RRA@15 %", "rta15_percent": "RTA@15 %", "maa30_percent": "mAA(30) %"}
_DEPTH = {"rel_percent": "rel %", "tau_percent": "tau 1.03 %"}
_VIDEO = {
    "wa_mpjpe_mm": "WA-MPJPE mm",
    "w_mpjpe_mm": "W-MPJPE mm",
    "rte_percent": "RTE %",
    "ate_m": "ATE m",
}
_SCAN = {
    "accuracy_mm": "accuracy mm",
    "completeness_mm": "completeness mm",
    "overall_mm": "overall mm",
}
_COCO = "errors are of COCO's 17 keypoints, regressed from the body's surface"


def _depth(name: str, paper: str, described: depth_sets.DepthSet) -> Dataset:
    of = "nearest in order" if described.step == 1 else "nearest of every third in order"
    rule = f"{described.per_scene} key images per scene, evenly spread, each with the "
    rule += f"{described.views - 1} {of}"
    return Dataset(
        name,
        described.title,
        paper,
        described.layout,
        described.read,
        protocols.DEPTH,
        _DEPTH,
        f"without --list our own choice: {rule}; with robustmvd's list its samples",
    )


DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "egohumans",
            "EgoHumans",
            "Khirodkar et al., ICCV 2023",
            egohumans.LAYOUT,
            egohumans.read,
            protocols.PEOPLE,
            _PEOPLE,
            f"4 exo cameras and 10 moments per sequence, evenly spread; {_COCO}",
        ),
        Dataset(
            "egoexo4d",
            "Ego-Exo4D",
            "Grauman et al., CVPR 2024",
            egoexo4d.LAYOUT,
            egoexo4d.read,
            protocols.PEOPLE,
            _PEOPLE,
            f"4 exo cameras and 5 annotated moments per take of val, evenly spread; {_COCO}",
        ),
        Dataset(
            "rich",
            "RICH",
            "Huang et al., CVPR 2022",
            rich.LAYOUT,
            rich.read,
            protocols.VIDEO,
            _VIDEO,
            "first camera of every sequence of test, whole, once per person; 22 joints of SMPL-X",
        ),
        Dataset(
            "rich-views",
            "RICH, several views",
            "Huang et al., CVPR 2022",
            rich.LAYOUT,
            rich.read_views,
            protocols.PEOPLE,
            _PEOPLE,
            "4 cameras and 10 moments per sequence of test, evenly spread; 22 joints of SMPL-X",
        ),
        Dataset(
            "emdb",
            "EMDB",
            "Kaufmann et al., ICCV 2023",
            emdb.LAYOUT,
            emdb.read,
            protocols.VIDEO,
            _VIDEO,
            "all frames of part 2 that are marked good; 24 joints of SMPL",
        ),
        Dataset(
            "sloper4d",
            "SLOPER4D",
            "Dai et al., CVPR 2023",
            sloper4d.LAYOUT,
            sloper4d.read,
            protocols.VIDEO,
            _VIDEO,
            "all frames that have an image; 24 joints of SMPL",
        ),
        Dataset(
            "co3d",
            "CO3Dv2",
            "Reizenstein et al., ICCV 2021",
            co3d.LAYOUT,
            co3d.read,
            protocols.POSES,
            _POSES,
            "10 random images (seed 0) of every test sequence of fewview_dev; mean over categories",
            by_group=True,
        ),
        Dataset(
            "realestate10k",
            "RealEstate10K",
            "Zhou et al., SIGGRAPH 2018",
            realestate10k.LAYOUT,
            realestate10k.read,
            protocols.POSES,
            _POSES,
            "10 random images (seed 0) of every clip of test of which frames are there",
        ),
        _depth("scannet", "Dai et al., CVPR 2017", depth_sets.SCANNET),
        _depth("eth3d", "Schoeps et al., CVPR 2017", depth_sets.ETH3D),
        _depth("dtu", "Jensen et al., CVPR 2014", depth_sets.DTU),
        _depth("kitti", "Geiger et al., IJRR 2013; Uhrig et al., 3DV 2017", depth_sets.KITTI),
        _depth("tanks", "Knapitsch et al., SIGGRAPH 2017", depth_sets.TANKS),
        Dataset(
            "dtu-scans",
            "DTU scans",
            "Jensen et al., CVPR 2014",
            dtu_scans.LAYOUT,
            dtu_scans.read,
            protocols.SCAN,
            _SCAN,
            f"the 22 test scans of MVSNet, {dtu_scans.VIEWS} of their cameras, evenly spread",
        ),
    )
}
