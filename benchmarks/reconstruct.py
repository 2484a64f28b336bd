#!/usr/bin/env python3
"""Memory and time of ``hamst3r reconstruct`` as photos grow in number; ratios in one run.

One simulated room is photographed along a walk, 640x480; ``hamst3r reconstruct`` runs on growing
numbers of these photos as a process of its own, of which the system tells peak memory and processor
time (what else runs on the machine then matters little). Time is linear where the milliseconds per
pair stay what they are; starting (libraries, weights) is measured with two photos and taken off.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from hamst3r.pair_graphs import PairGraph
from hamst3r.synthetic.cameras import SyntheticCamera, intrinsics, look_at
from hamst3r.synthetic.motion import MovingScene

SIZE = 640, 480


def photograph(folder: Path, count: int) -> None:
    """Write ``count`` photos of one room with two people, taken along a loop."""
    folder.mkdir(parents=True, exist_ok=True)
    K = intrinsics(*SIZE, np.radians(75))
    cameras = []
    for k in range(count):
        angle = 2 * np.pi * k / count
        place = np.array([1.7 * np.cos(angle), 1.4 * np.sin(angle), 1.5 + 0.2 * np.sin(3 * angle)])
        target = np.array([-0.6 * np.cos(angle), -0.6 * np.sin(angle), 0.9])
        cameras.append(SyntheticCamera(f"cam{k:03d}", *SIZE, K, look_at(place, target)))
    scene = MovingScene(seed=0, people=2, size=SIZE, cameras=cameras)
    for k, camera in enumerate(cameras):
        file = folder / f"{camera.name}.jpg"
        if not file.is_file():
            (view,) = scene.render(0.0, [k])
            cv2.imwrite(str(file), view.rgb[..., ::-1])


def measure(photos: list[Path], pairs: str, work: Path) -> dict[str, float]:
    """Seconds, seconds of processor time and peak memory (MB) of one reconstruction."""
    arguments = ["reconstruct", *map(str, photos), "--out", str(work / "out"), "--pairs", pairs]
    command = [sys.executable, "-m", "hamst3r.cli", *arguments, "--quiet", "--memory", "16"]
    started, used = time.perf_counter(), processor_seconds()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds, used = time.perf_counter() - started, processor_seconds() - used
    if done.returncode:
        raise SystemExit(done.stderr)
    document = json.loads((work / "out" / "scene.json").read_text())
    run = json.loads((work / "out" / "run.json").read_text())
    return {
        "images": len(photos),
        "pairs": len(document["pairs"]),
        "placed": len(document["cameras"]),
        "points": document["points"],
        "seconds": seconds,
        "processor_seconds": used,
        "align_seconds": document["timings"]["align"],
        "peak_mb": run["memory"] / 2**20,
    }


def processor_seconds() -> float:
    """Of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[25, 50, 100], metavar="N")
    parser.add_argument("--pairs", nargs="+", default=["swin-5", "auto"])
    parser.add_argument("--photos", type=Path, help="keep the simulated photos in this folder")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    for name in options.pairs:
        PairGraph.parse(name)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        folder = options.photos or work / "photos"
        photograph(folder, max(options.images))
        photos = sorted(folder.glob("cam*.jpg"))
        start = measure(photos[:2], "complete", work)["processor_seconds"]
        print(f"{'pairs':>10} {'images':>7} {'pairs':>6} {'placed':>7} {'seconds':>8} "
              f"{'ms/pair':>8} {'align s':>8} {'peak MB':>8}")  # fmt: skip
        rows = []
        for name in options.pairs:
            for count in options.images:
                chosen = [photos[k * len(photos) // count] for k in range(count)]
                row = measure(chosen, name, work)
                own = row["processor_seconds"] - start
                row |= {"graph": name, "ms_per_pair": 1e3 * own / row["pairs"]}
                rows.append(row)
                print(f"{name:>10} {row['images']:7} {row['pairs']:6} {row['placed']:7} "
                      f"{row['seconds']:8.1f} {row['ms_per_pair']:8.1f} "
                      f"{row['align_seconds']:8.1f} {row['peak_mb']:8.0f}", flush=True)  # fmt: skip
        figures = {"start_processor_seconds": start, "peak_mb": max(row["peak_mb"] for row in rows)}
        for name in options.pairs:
            own = [row["ms_per_pair"] for row in rows if row["graph"] == name]
            figures[f"growth_{name}"] = own[-1] / own[0]
            print(f"{name}: {own[-1] / own[0]:.2f} x the time per pair of "
                  f"{options.images[0]} images with {options.images[-1]}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"figures": figures, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
