"""``hamst3r localize SCENE IMAGE...``: where images were taken in a reconstructed scene."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hamst3r.localization import Localization


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("scene", type=Path, metavar="SCENE", help="what hamst3r reconstruct wrote")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="images to place")
    parser.add_argument("--focal", type=float, metavar="PX", help="their focal length, if known")
    parser.add_argument("--no-exif", action="store_true", help="do not trust EXIF's focal lengths")
    parser.add_argument("--set", type=int, default=0, metavar="N", help="of a sequence (0)")
    parser.add_argument("--references", type=int, default=6, metavar="N", help="views to match (6)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="default: the shipped ones")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the poses there, too")


def run(options: argparse.Namespace) -> int:
    """Place the images; 0 if all were, else 1."""
    from hamst3r.engine import PairEngine
    from hamst3r.export.writer import write_json
    from hamst3r.inputs import InputOptions
    from hamst3r.inputs.photos import Photos
    from hamst3r.localization import LocalizationConfig, localize
    from hamst3r.network.checkpoint import shipped_weights
    from hamst3r.scene_folder import need_scenes

    if options.references < 1:
        raise ValueError(f"--references must be at least 1, got {options.references}")
    if options.json and not options.json.absolute().parent.is_dir():
        raise OSError(f"{options.json.parent}: no such folder; make it or name another --json")
    scenes = need_scenes(options.scene)
    if not 0 <= options.set < len(scenes):
        raise ValueError(f"--set must be 0 to {len(scenes) - 1} of {options.scene}")
    photos = Photos(
        options.images,
        set(options.images),
        InputOptions(exif=not options.no_exif, focal=options.focal),
        print,
    )
    (frames,) = photos.frame_sets()
    scene, images = scenes[options.set].load(), scenes[options.set].images()
    weights = options.weights or shipped_weights()
    engine = PairEngine.from_checkpoint(weights, options.device, "auto")
    config = LocalizationConfig(references=options.references)
    document: dict[str, Any] = {}
    for frame in frames.frames:
        result = localize(scene, images, frame, engine, config)
        file = photos.originals[frame.camera].file
        size = frame.image.shape[1], frame.image.shape[0]
        _tell(file, result, photos.originals[frame.camera].width / size[0])
        document[file] = _entry(result, size)
    if options.json:
        write_json(options.json, {"scene": str(options.scene), "images": document})
    return 0 if all(entry["found"] for entry in document.values()) else 1


def _tell(file: str, result: Localization, reduced: float) -> None:
    """Print it; ``reduced`` is how much larger the image is on disk than what K is of."""
    counts = f"{result.inliers} inliers of {result.matches} matches"
    if not result.found:
        print(f"{file}: not found: {counts}, {result.needed} are needed")
        return
    place = " ".join(f"{value:.3f}" for value in result.T_world_cam[:3, 3])
    ahead = " ".join(f"{value:.3f}" for value in result.T_world_cam[:3, 2])
    known = "known" if result.known_K else "estimated"
    field = math.degrees(2 * math.atan((result.K[0, 2] + 0.5) / result.K[0, 0]))
    error, focal = reduced * result.error, reduced * result.K[0, 0]
    print(f"{file}: at {place} m, looks along {ahead}")
    print(f"    {counts}, median error {error:.1f} px")
    print(f"    {known} focal length {focal:.1f} px ({field:.0f} degrees across)")
    best = sorted(result.references.items(), key=lambda item: -item[1])
    print("    by " + ", ".join(f"{name} ({count})" for name, count in best if count))


def _entry(result: Localization, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "found": result.found,
        "T_world_cam": result.T_world_cam.tolist(),
        "K": result.K.tolist(),
        "width": size[0],
        "height": size[1],
        "known_K": result.known_K,
        "matches": result.matches,
        "inliers": result.inliers,
        "needed": result.needed,
        "error": None if np.isnan(result.error) else result.error,
        "references": dict(result.references),
    }
