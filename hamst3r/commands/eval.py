"""``hamst3r eval``: what a network reaches, in figures."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hamst3r.commands.arguments import count

if TYPE_CHECKING:
    from hamst3r.evaluation.datasets.registry import Dataset
    from hamst3r.network.checkpoint import Checkpoint
    from hamst3r.reconstructor import Engine

# Named here so that --help need not import the readers; a test holds both equal.
DATASETS = {
    "egohumans": "EgoHumans: people and cameras, several views",
    "egoexo4d": "Ego-Exo4D: people and cameras, several views",
    "rich": "RICH: a person's way, video",
    "rich-views": "RICH: people and cameras, several views",
    "emdb": "EMDB: a person's and the camera's way, video",
    "sloper4d": "SLOPER4D: a person's and the camera's way, video",
    "co3d": "CO3Dv2: cameras around objects",
    "realestate10k": "RealEstate10K: cameras in houses",
    "scannet": "ScanNet: depth among several views",
    "eth3d": "ETH3D: depth among several views",
    "dtu": "DTU: depth among several views",
    "kitti": "KITTI: depth among several views",
    "tanks": "Tanks and Temples: depth among several views",
    "dtu-scans": "DTU: points against scans",
}
LISTED = ("scannet", "eth3d", "dtu", "kitti", "tanks")
WITH_BODIES = ("rich", "rich-views", "emdb", "sloper4d")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    synthetic = kinds.add_parser("synthetic", help="on generated scenes never trained on")
    synthetic.add_argument("--seed", type=count(0), default=0, help="first scene (default 0)")
    synthetic.add_argument(
        "--scenes", type=count(1), default=24, metavar="N", help="how many (default 24)"
    )
    synthetic.add_argument(
        "--views", type=count(2), default=4, metavar="V", help="cameras per scene (default 4)"
    )
    synthetic.add_argument(
        "--delivered",
        type=count(16),
        default=640,
        metavar="PIXELS",
        help="long side of the cameras' images, which the network sees smaller (default 640)",
    )
    synthetic.add_argument(
        "--truth",
        nargs="+",
        default=[],
        metavar="PART",
        help="replace parts of the predictions (points, instances, body, densepose) by the truth, "
        "to see what they cost",
    )
    recording = kinds.add_parser("recording", help="on a real recording with reference joints")
    recording.add_argument("folder", type=Path, metavar="DIR", help="folder of the recording")
    recording.add_argument(
        "--frame-sets",
        type=count(1),
        metavar="N",
        help="use N frame sets, evenly spread (default: all)",
    )
    recording.add_argument(
        "--bodies",
        type=Path,
        metavar="FILE",
        help="write a sheet of the fitted bodies before what every camera saw (.png, .jpg)",
    )
    datasets = []
    for name, summary in DATASETS.items():
        dataset = kinds.add_parser(name, help=summary, description=f"{summary}.")
        dataset.add_argument(
            "folder", type=Path, metavar="DIR", help="of the data set, laid out as published"
        )
        dataset.add_argument("--split", help="default: the papers'")
        dataset.add_argument(
            "--views", type=count(2), metavar="V", help="images per case (default: the papers')"
        )
        dataset.add_argument(
            "--limit", type=count(1), metavar="N", help="use N cases, evenly spread"
        )
        if name in LISTED:
            dataset.add_argument(
                "--list",
                type=Path,
                metavar="FILE",
                help=f"the papers' samples: {name}.robustmvd.mvd.pickle of robustmvd",
            )
        if name in WITH_BODIES:
            dataset.add_argument(
                "--body",
                type=Path,
                metavar="PATH",
                help="your own SMPL or SMPL-X model, a file or a folder; the set needs one",
            )
        dataset.add_argument(
            "--image-size",
            type=count(1),
            metavar="PIXELS",
            help="long side that the network sees (default: what it was trained for)",
        )
        datasets.append(dataset)
    for kind in (synthetic, recording, *datasets):
        kind.add_argument("--weights", type=Path, metavar="FILE", help="default: the shipped ones")
        kind.add_argument(
            "--encoder", type=Path, metavar="FILE", help="DUNE's encoder, if not beside its weights"
        )
        kind.add_argument(
            "--human-weights",
            metavar="FILE",
            help="weights that see people where --weights do not; 'compact': the shipped ones",
        )
        kind.add_argument(
            "--precision",
            choices=("auto", "bf16", "fp16", "fp32"),
            default="auto",
            help="default: auto",
        )
        kind.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
        kind.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    for kind in (synthetic, recording):
        kind.add_argument(
            "--pictures",
            type=Path,
            metavar="DIR",
            help="write the best and the worst as pictures, predictions beside the truth",
        )


def run(options: argparse.Namespace) -> int:
    """Evaluate, print a table, write what was asked for."""
    from hamst3r.evaluation import report

    sheet = getattr(options, "bodies", None)
    for name, file in (("json", options.json), ("bodies", sheet)):
        if file and not file.absolute().parent.is_dir():
            raise OSError(f"{file.parent}: no such folder; make it or name another --{name}")
    if sheet and sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise OSError(f"--bodies {sheet}: expected a name that ends in .png or .jpg")
    if options.kind in DATASETS:
        dataset, cases = _read(options)
    engine, settings, notes = _engine(options)
    if options.kind in DATASETS:
        return _dataset(engine, options, dataset, cases, settings)
    evaluate = _synthetic if options.kind == "synthetic" else _recording
    figure_list, samples, own = evaluate(engine, options)
    document = report.document(figure_list, samples, settings | own)
    if options.kind == "synthetic":
        # Written by the trainer; None for weights that do not say.
        pairs = notes.get("pairs_seen", "")
        document["pairs_seen"] = int(pairs) if pairs.isdigit() else None
    if options.json:  # before the table: whose reader may have gone
        report.write(options.json, document)
    print(report.table(figure_list, samples))
    return 0


def _engine(options: argparse.Namespace) -> tuple[Engine, dict[str, object], dict[str, str]]:
    """What runs the network or networks, what a report says of it, and the weights' notes."""
    from hamst3r.combined import CombinedEngine
    from hamst3r.engine import PairEngine
    from hamst3r.network.checkpoint import load_checkpoint, shipped_weights

    def load(path: Path, encoder: Path | None) -> tuple[PairEngine, Checkpoint]:
        found = load_checkpoint(path, encoder)
        pair_engine = PairEngine(
            found.network, options.device, options.precision, sha256=found.sha256
        )
        return pair_engine, found

    engine, checkpoint = load(options.weights or shipped_weights(), options.encoder)
    settings: dict[str, object] = {
        "weights": checkpoint.path.name,
        "weights_sha256": checkpoint.sha256,
        "device": str(engine.device),
        "precision": engine.precision,
        "image_size": getattr(options, "image_size", None) or engine.image_size,
    }
    if options.human_weights is None:
        return engine, settings, checkpoint.notes
    compact = options.human_weights == "compact"
    humans, seen = load(shipped_weights() if compact else Path(options.human_weights), None)
    settings |= {"human_weights": seen.path.name, "human_weights_sha256": seen.sha256}
    return CombinedEngine(engine, humans), settings, checkpoint.notes


def _synthetic(engine: Engine, options: argparse.Namespace) -> tuple:
    from hamst3r.evaluation.pictures import Extremes, draw_scene
    from hamst3r.evaluation.samples import Samples
    from hamst3r.evaluation.synthetic import FIGURES, SyntheticEvaluation
    from hamst3r.synthetic.generator import HELD_OUT

    seeds = range(HELD_OUT + options.seed, HELD_OUT + options.seed + options.scenes)
    evaluation = SyntheticEvaluation(engine, true_parts=options.truth)
    samples, extremes = Samples(), Extremes(options.pictures)
    results = evaluation.run(seeds, options.views, options.delivered)
    for result in _progress(results, len(seeds), "scene"):
        samples.extend(result.samples)
        if result.samples["merged_iou"]:
            score = result.samples.mean("merged_iou")
            extremes.offer(score, f"scene_{result.scene.seed}", partial(draw_scene, result))
    extremes.close()
    settings = {
        "seeds": [seeds.start, seeds.stop],
        "views": options.views,
        "delivered": options.delivered,
        "true_parts": options.truth,
    }
    return FIGURES, samples, settings


def _recording(engine: Engine, options: argparse.Namespace) -> tuple:
    from hamst3r.evaluation.body_sheet import BodySheet
    from hamst3r.evaluation.pictures import Extremes, draw_set
    from hamst3r.evaluation.recording import FIGURES, RecordingEvaluation
    from hamst3r.evaluation.samples import Samples

    evaluation = RecordingEvaluation(engine, report=lambda line: print(line, file=sys.stderr))
    samples, extremes = Samples(), Extremes(options.pictures)
    bodies = BodySheet(options.bodies)
    used = 0
    for result in _progress(
        evaluation.run(options.folder, options.frame_sets), options.frame_sets, "set"
    ):
        used += 1
        samples.extend(result.samples)
        bodies.add(result)
        if result.found:
            error = result.samples["w_calibrated"] or [10.0]
            score = result.samples.mean("found") - error[0]
            extremes.offer(score, f"set_{result.index:05d}", partial(draw_set, result))
    extremes.close()
    bodies.close()
    return FIGURES, samples, {"recording": options.folder.resolve().name, "frame_sets": used}


def _read(options: argparse.Namespace) -> tuple[Dataset, list]:
    from hamst3r.evaluation.datasets.base import ReadOptions
    from hamst3r.evaluation.datasets.registry import DATASETS

    if not options.folder.is_dir():
        raise OSError(f"{options.folder}: no such folder; name the one that holds the data set")
    dataset = DATASETS[options.kind]
    list_file, body = getattr(options, "list", None), getattr(options, "body", None)
    how = ReadOptions(options.split, options.views, options.limit, list_file, body)
    return dataset, list(dataset.read(options.folder, how))


def _dataset(
    engine: Engine, options: argparse.Namespace, dataset: Dataset, cases: list, settings: dict
) -> int:
    """Measure a public data set, beside what papers report of it."""
    from hamst3r.evaluation import comparison, report
    from hamst3r.evaluation.datasets.base import DatasetError
    from hamst3r.reconstructor import ReconstructorConfig

    config = ReconstructorConfig(image_size=options.image_size)
    groups: dict[str, list] = {}
    unreadable: list[str] = []
    # Neither one broken file nor the end of somebody's patience costs what was measured.
    interrupted = False
    try:
        for case in _progress(cases, len(cases), "case"):
            try:
                result = next(dataset.protocol.run(engine, [case], config))
            except DatasetError as error:
                unreadable.append(str(error))
                print(f"left out {case.name}: {error}", file=sys.stderr)
                continue
            groups.setdefault(result.group, []).append(result.samples)
    except KeyboardInterrupt:
        if not groups:
            raise
        interrupted = True
        print("interrupted; these are the figures until now", file=sys.stderr)
    if not groups:
        raise DatasetError(f"none of {len(cases)} cases could be read; the first: {unreadable[0]}")
    measured = comparison.measure(dataset, groups)
    list_file = getattr(options, "list", None)
    changed = {name: getattr(options, name) for name in ("split", "views", "limit")}
    changed["list"] = list_file.name if list_file else None
    settings |= {"dataset": dataset.name, **changed}
    settings |= {"cases": measured.cases, "unreadable": unreadable, "interrupted": interrupted}
    images = comparison.images_used(dataset, changed)
    names = [str(settings[key]) for key in ("weights", "human_weights") if key in settings]
    if options.json:
        report.write(options.json, comparison.document(dataset, measured, settings, images))
    print(comparison.text(dataset, measured, " + ".join(names), images))
    return 130 if interrupted else 0


def _progress(results, total: int | None, unit: str):
    from tqdm import tqdm

    return tqdm(results, total=total, desc="evaluating", unit=unit, disable=None)
