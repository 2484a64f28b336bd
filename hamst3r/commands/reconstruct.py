"""``hamst3r reconstruct INPUT... --out DIR``: images in, a scene out, in files of all kinds."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hamst3r.commands.arguments import count

if TYPE_CHECKING:
    from hamst3r.export.report import ReportFacts, Shown
    from hamst3r.inputs import Source
    from hamst3r.offline import OfflineOptions, Result
    from hamst3r.pair_store import StoredEngine
    from hamst3r.scene import PointCloud, Scene

STATE, RUN, REPORT = "state.json", "run.json", "report.html"
PAIRS = ".pairs"
FORMAT_NAMES = ("ply", "glb", "colmap", "png", "smpl", "usd")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "inputs",
        type=Path,
        nargs="+",
        metavar="INPUT",
        help="images and folders of images (one place); or one video, one ROS bag, or one folder "
        "with a recording (calibration.json and videos, or a folder of images per camera)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    what = parser.add_argument_group("input")
    what.add_argument("--max-images", type=int, default=200, metavar="N", help="of photos (200)")
    what.add_argument(
        "--sets", type=int, default=1, metavar="N", help="frame sets of a recording; 0: all (1)"
    )
    what.add_argument(
        "--every",
        type=float,
        metavar="S",
        help="seconds between images of a video (0.5), or sets of a recording (all)",
    )
    what.add_argument("--calibration", type=Path, metavar="FILE", help="calibration.json of photos")
    what.add_argument("--focal", type=float, metavar="PX", help="focal length of unknown cameras")
    what.add_argument("--no-exif", action="store_true", help="do not trust EXIF's focal lengths")
    what.add_argument("--topic", action="append", default=[], help="image topic of a bag (all)")
    network = parser.add_argument_group("network")
    network.add_argument("--weights", type=Path, metavar="FILE", help="default: the shipped ones")
    network.add_argument(
        "--human-weights", type=Path, metavar="FILE", help="see people with other weights"
    )
    network.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    network.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp16", "fp32"))
    network.add_argument("--image-size", type=count(1), metavar="PX", help="long side it sees")
    network.add_argument(
        "--pairs",
        default="auto",
        metavar="GRAPH",
        help="complete, swin-K, swin-K-noncyclic, oneref-K or auto (auto: by likeness)",
    )
    network.add_argument(
        "--memory", type=float, default=4.0, metavar="GB", help="most that pairs may take (4)"
    )
    points = parser.add_argument_group("points")
    points.add_argument(
        "--min-confidence", type=_confidence, metavar="C", help="1 keeps all (default: by view)"
    )
    points.add_argument("--max-points", type=int, default=500_000, metavar="N")
    points.add_argument("--voxel", type=float, default=0.0, metavar="M", help="one point a cube")
    points.add_argument(
        "--clean-depth",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave out points that float before what other views see",
    )
    points.add_argument("--sky-mask", action="store_true", help="leave out what looks like sky")
    output = parser.add_argument_group("output")
    output.add_argument("--as", dest="kind", choices=("points", "mesh"), default="points")
    output.add_argument("--camera-size", type=float, metavar="M", help="of drawn cameras; 0: none")
    output.add_argument(
        "--formats",
        default=",".join(FORMAT_NAMES),
        metavar="LIST",
        help=f"some of {','.join(FORMAT_NAMES)} (all; usd where usd-core is installed)",
    )
    output.add_argument("--quiet", action="store_true", help="no progress")


def _confidence(text: str) -> float:
    value = float(text)
    if not value >= 1:
        raise argparse.ArgumentTypeError(f"confidences are 1 or more, got {text}")
    return value


def run(options: argparse.Namespace) -> int:
    """Reconstruct, write everything, say where it is."""
    from hamst3r.export.writer import ExportOptions, write_json
    from hamst3r.inputs import open_inputs
    from hamst3r.offline import reconstruct

    started = time.monotonic()
    # Of a broken video one line is enough, and it is ours.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    out: Path = options.out
    offline = _offline(options)
    export = ExportOptions(
        formats=[name for name in options.formats.split(",") if name],
        surfaces=options.kind == "mesh",
        camera_size=options.camera_size,
        confidence=offline.refine.cloud,
    )
    source = open_inputs(options.inputs, _inputs(options), _say)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; --out needs a folder")
    out.mkdir(parents=True, exist_ok=True)
    engine = _engine(options)
    run = _Run(out, source, export, options, engine, started)
    state = {"done": 0, "sets": source.sets, "pairs": 0, "of": 0}
    with _Progress(options.quiet) as bar:

        def progress(done: int, total: int) -> None:
            bar.advance(done, total * source.sets)
            state["pairs"], state["of"] = state["pairs"] + done, total * source.sets
            write_json(out / STATE, state)

        for result in reconstruct(source, engine, out / PAIRS, offline, progress):
            bar.say("writing")
            run.add(result)
            state["done"] = result.index + 1
            write_json(out / STATE, state)
    run.finish()
    (out / STATE).unlink(missing_ok=True)
    return 0


def _inputs(options: argparse.Namespace) -> Any:
    from hamst3r.alignment.calibration import load_calibration
    from hamst3r.inputs import InputOptions

    return InputOptions(
        max_images=options.max_images,
        sets=options.sets,
        every=options.every,
        side=max(InputOptions.side, options.image_size or 0),
        exif=not options.no_exif,
        focal=options.focal,
        calibration=load_calibration(options.calibration) if options.calibration else {},
        topics=tuple(options.topic),
    )


def _offline(options: argparse.Namespace) -> OfflineOptions:
    from hamst3r.offline import GIGABYTE, OfflineOptions
    from hamst3r.pair_graphs import PairGraph
    from hamst3r.reconstructor import ReconstructorConfig
    from hamst3r.refine import RefineOptions

    PairGraph.parse(options.pairs)
    if not (options.memory > 0 and math.isfinite(options.memory)):
        raise ValueError(f"--memory must be a positive number of GB, got {options.memory}")
    cloud = ReconstructorConfig(max_points=options.max_points, voxel=options.voxel)
    if options.min_confidence is not None:
        cloud = replace(cloud, point_confidence=options.min_confidence, relative_confidence=0.0)
        if options.min_confidence == 1:  # All: the least confidence of a valid point is 1.
            cloud = replace(cloud, point_confidence=float(np.nextafter(np.float32(1), 0)))
    return OfflineOptions(
        pairs=options.pairs,
        image_size=options.image_size,
        refine=RefineOptions(cloud, options.clean_depth, options.sky_mask),
        memory=round(options.memory * GIGABYTE),
    )


def _engine(options: argparse.Namespace) -> StoredEngine:
    from hamst3r.combined import CombinedEngine
    from hamst3r.engine import PairEngine
    from hamst3r.network.checkpoint import shipped_weights

    weights = options.weights or shipped_weights()
    engine = PairEngine.from_checkpoint(weights, options.device, options.precision)
    if options.human_weights is None:
        return engine
    humans = PairEngine.from_checkpoint(options.human_weights, options.device, options.precision)
    return CombinedEngine(engine, humans)


def _say(sentence: str) -> None:
    print(f"hamst3r reconstruct: {sentence}", file=sys.stderr)


class _Progress:
    """A bar over the pairs with the time left, on a terminal."""

    def __init__(self, quiet: bool) -> None:
        from tqdm import tqdm

        disable = True if quiet else None
        self._bar = tqdm(desc="pairs", unit="pair", disable=disable, dynamic_ncols=True)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(done)
        if self._bar.n >= total:
            self.say("aligning")

    def say(self, what: str) -> None:
        self._bar.set_postfix_str(what)


class _Run:
    """What is written while frame sets come in, and in the end."""

    def __init__(
        self,
        out: Path,
        source: Source,
        export: Any,
        options: argparse.Namespace,
        engine: StoredEngine,
        started: float,
    ) -> None:
        self._out, self._source, self._export = out, source, export
        self._options, self._engine, self._started = options, engine, started
        # Of a long recording only some frame sets stay in memory whole.
        self._shown: list[Shown] = []
        self._stride = 1
        self._light: list[Scene] = []
        self._entries: list[dict[str, Any]] = []
        self._first: Result | None = None
        self._people: set[int] = set()
        from hamst3r.scene_folder import SEQUENCE

        (out / SEQUENCE).unlink(missing_ok=True)

    def add(self, result: Result) -> None:
        """Write one frame set's scene."""
        from hamst3r.export import export_scene
        from hamst3r.export.report import MAX_POINTS, MAX_SCENES, Shown
        from hamst3r.export.writer import write_json
        from hamst3r.scene_folder import SEQUENCE

        single = self._source.sets == 1
        folder = self._out if single else self._out / f"{result.index:06d}"
        details = {
            "source": self._source.title,
            "originals": {
                name: {"file": o.file, "width": o.width, "height": o.height}
                for name, o in self._source.originals.items()
                if name in result.images
            },
            "pairs": [list(edge) for edge in result.edges],
        }
        scene = result.scene
        export_scene(scene, folder, result.images, self._export, details)
        self._first = self._first or result
        self._people |= {p.id for p in scene.people if p.num_points}
        seconds = (scene.stamp - self._first.scene.stamp) / 1e9
        title = "" if single else f"{seconds:.2f} s"
        self._light.append(replace(scene, views=(), points=_thin(scene.points, 0)))
        if result.index % self._stride == 0:
            few = replace(scene, points=_thin(scene.points, MAX_POINTS))
            self._shown.append(Shown(title, few, _small(result.images)))
        if len(self._shown) > 2 * MAX_SCENES:
            self._shown, self._stride = self._shown[::2], 2 * self._stride
        if not single:
            self._entries.append({"folder": folder.name, "stamp": scene.stamp})
            write_json(self._out / SEQUENCE, {"source": self._source.title, "sets": self._entries})

    def finish(self) -> None:
        """Write what concerns all frame sets: people over time, and the report."""
        from hamst3r.export.people import write_people
        from hamst3r.export.report import ReportFacts, write_report
        from hamst3r.export.writer import write_json
        from hamst3r.offline import peak_memory

        first = self._first
        assert first is not None  # a source without a frame set is an error
        if self._source.sets > 1 and "smpl" in self._export.formats:
            write_people(self._light, self._out / "people.npz")
        facts = ReportFacts(
            source=self._source.title,
            sets=len(self._light),
            images=len(first.images),
            placed=len(first.scene.cameras),
            pairs=len(first.edges),
            people=len(self._people),
            seconds=time.monotonic() - self._started,
            memory=peak_memory(),
            settings={
                "weights": str(self._options.weights or "shipped"),
                "weights' sha256": self._engine.sha256,
                "precision": self._engine.precision,
                "image size": self._options.image_size or self._engine.image_size,
                "pairs": self._options.pairs,
                "minimum confidence": self._options.min_confidence or "by view",
                "clean depth": self._options.clean_depth,
                "sky mask": self._options.sky_mask,
            },
        )
        write_json(self._out / RUN, asdict(facts))
        write_report(self._out / REPORT, self._shown, facts)
        self._tell(facts, len(first.scene.points))

    def _tell(self, facts: ReportFacts, points: int) -> None:
        from hamst3r.export.report import grouped

        for note in grouped(note for scene in self._light for note in scene.notes):
            _say(note)
        people = len(self._people)
        sets = "" if len(self._light) == 1 else f"{len(self._light)} frame sets; the first: "
        print(
            f"{sets}{facts.placed} of {facts.images} cameras placed, {points} points, "
            f"{people} {'person' if people == 1 else 'people'}; "
            f"{facts.seconds:.1f} s, {facts.memory / 1e9:.1f} GB"
        )
        print(f"open {self._out / REPORT} in a browser, or: hamst3r view {self._out}")


def _thin(points: PointCloud, most: int) -> PointCloud:
    """At most so many points, evenly chosen."""
    count = len(points)
    if count <= most:
        return points
    chosen = np.linspace(0, count - 1, most).astype(int)
    return replace(points, **{f.name: getattr(points, f.name)[chosen] for f in fields(points)})


def _small(images: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
    import cv2

    from hamst3r.export.report import THUMBNAIL
    from hamst3r.recording import delivered_size

    return {
        name: np.asarray(
            cv2.resize(
                image,
                delivered_size(image.shape[1], image.shape[0], THUMBNAIL),
                interpolation=cv2.INTER_AREA,
            ),
            np.uint8,
        )
        for name, image in images.items()
    }
