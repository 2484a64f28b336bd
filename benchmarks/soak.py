#!/usr/bin/env python3
"""The node for thousands of frame sets, with people who come and go and faults that pass.

The real node in a process of its own, with everything but the network: three calibrated cameras
see a room whose images say in their colours how far away things are and who is a person; where the
network would be, that is read. So every other part does its work: matching, decoding, alignment,
people, the map, all topics; with --bodies the fitting of bodies, too, at three times the time. One
frame set is sent when the last one's people have come back. Now and then something goes wrong: a
camera falls silent, sends garbage or huge images, all clocks jump, memory runs out, the node is
deactivated. After each, the time is taken until people of all cameras, newer than the fault's end,
come out again.

``rss_growth_mb``: resident memory of the node, median of the last tenth of the run less that of the
second tenth, when each fault has happened once; ``rss_shared_growth_mb`` is the part of it that is
shared memory, which Fast DDS fills from its beginning to its end (64 MiB) before it starts over;
``fd_growth`` likewise of open files.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
from PIL import Image as Picture
from PIL import ImageDraw
from ros_common import child, free_domain, stop
from soak_rig import FAULTS, Rig, recover
from soak_room import CAMERAS, ReadingEngine, rig_file

EVERY = 250  # frame sets between faults, once each of them has happened
FIRST = 15  # and before
SAMPLE = 20  # frame sets between looks at the node's memory

Sample = tuple[int, float, int, float]


def node(calibration: str, bodies: bool) -> None:
    """The node, until it is interrupted."""
    from hamst3r_ros import node as module
    from hamst3r_ros import reconstruction

    reconstruction.make_engine = lambda values: ReadingEngine()  # type: ignore
    settings = {
        "cameras": list(CAMERAS),
        "model.device": "cpu",
        "world.known_extrinsics": "file",
        "world.calibration_file": calibration,
        "sync.max_age": 0.3,
        "humans.fit_body_model": bodies,
        "diagnostics.max_delay": 0.0,  # stamps are of no clock here
        "model.warmup": 0,
        "map.always": True,
        "map.rate": 2.0,
        "map.voxel": 0.1,
    }
    words = [f"{name}:={json.dumps(value)}" for name, value in settings.items()]
    arguments = [argument for word in words for argument in ("-p", word)]
    sys.exit(module.main(["--ros-args", "--log-level", "error", *arguments]))


def usage(process: subprocess.Popen[str]) -> tuple[float, int, float]:
    """Resident MB, open files, and how many of the MB are shared memory, of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    resident, shared = (int(fields[name].split()[0]) for name in ("VmRSS", "RssShmem"))
    files = len(os.listdir(f"/proc/{process.pid}/fd"))
    return resident * 1024 / 1e6, files, shared * 1024 / 1e6


def soak(count: int, bodies: bool) -> tuple[dict[str, float], list[Sample]]:
    """Figures by name, and (frame set, *:func:`usage`) over time."""
    domain = free_domain()
    samples: list[Sample] = []
    recoveries: dict[str, list[float]] = {fault.__name__: [] for fault in FAULTS}
    done, lost, due = 0, 0, FIRST
    live = sys.stdout.isatty()
    with tempfile.TemporaryDirectory() as folder:
        calibration = Path(folder, "calibration.json")
        calibration.write_text(json.dumps(rig_file()))
        arguments = ["--role", "node", "--calibration", str(calibration)]
        running = child(__file__, domain, *arguments, *(["--bodies"] if bodies else []))
        rig = Rig(domain)
        try:
            recover(rig, running)
            start = time.monotonic()
            while done < count:
                rig.send()
                if rig.answered(2.0):
                    done += 1
                else:
                    lost += 1
                if done % SAMPLE == 0:
                    samples.append((done, *usage(running)))
                    if live:
                        print(f"\r{done}/{count}  {samples[-1][1]:.0f} MB ", end="", flush=True)
                if done >= due:
                    fault = FAULTS[sum(map(len, recoveries.values())) % len(FAULTS)]
                    due += EVERY if all(recoveries.values()) else FIRST
                    fault(rig)
                    recoveries[fault.__name__].append(recover(rig, running))
                    done += 1  # the set that recovered
            seconds = time.monotonic() - start
        finally:
            stop([running])
            rig.close()
    if live:
        print("\r", end="")
    times = [at for found in recoveries.values() for at in found]
    second, last = _tenth(samples, 1), _tenth(samples, 9)
    figures = {
        "rss_growth_mb": round(last[0] - second[0], 2),
        "rss_shared_growth_mb": round(last[2] - second[2], 2),
        "fd_growth": last[1] - second[1],
        "frame_sets": done,
        "recoveries": len(times),
        "recovery_p100_s": round(max(times, default=0.0), 3),
        "lost": lost,
        "rss_mb": round(last[0], 1),
        "ids_given": len(rig.ids),
        "people_at_once": rig.people,
        "seconds": round(seconds, 1),
    }
    for name, found in recoveries.items():
        if found:
            figures[f"recovery_{name}_s"] = round(max(found), 3)
    return figures, samples


def _tenth(samples: Sequence[Sample], which: int) -> tuple[float, int, float]:
    """Medians of :func:`usage` of one tenth of the run."""
    part = samples[len(samples) * which // 10 : max(len(samples) * (which + 1) // 10, 1)]
    part = part or samples[-1:]
    resident, files, shared = (statistics.median(s[column] for s in part) for column in (1, 2, 3))
    return resident, int(files), shared


def plot(samples: Sequence[Sample], file: Path, title: str) -> None:
    """Memory and open files over frame sets, as a picture."""
    width, height, left, top = 900, 420, 70, 50
    picture = Picture.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((left, 12), title, fill="black")
    end = max(sample[0] for sample in samples)
    for index, (unit, column) in enumerate((("MB resident", 1), ("open files", 2))):
        base = top + index * 185 + 150
        values = [sample[column] for sample in samples]
        highest = 1.25 * max(values)
        for share in (0.0, 0.5, 1.0):
            y = base - 150 * share
            draw.line([(left, y), (width - 20, y)], fill=(220, 220, 220))
            draw.text((10, y - 6), f"{share * highest:.0f}", fill="black")
        draw.text((left + 6, base - 148), f"{unit} (from 0)", fill="black")
        line = [
            (left + (width - 20 - left) * sample[0] / end, base - 150 * sample[column] / highest)
            for sample in samples
        ]
        draw.line(line, fill=((200, 30, 30), (30, 60, 200))[index], width=2)
    draw.text((width // 2 - 40, height - 20), f"frame sets (0 to {end})", fill="black")
    picture.save(file)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frame-sets", type=int, default=10_000, help="how many (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--plot", type=Path, help="draw memory and files over time (PNG)")
    parser.add_argument("--bodies", action="store_true", help="fit bodies, too")
    parser.add_argument("--role", choices=("node",), help=argparse.SUPPRESS)
    parser.add_argument("--calibration", help=argparse.SUPPRESS)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.role == "node":
        node(options.calibration, options.bodies)
        return 0
    least = 2 * FIRST * len(FAULTS)
    if options.frame_sets < least:
        parser.error(f"--frame-sets is {options.frame_sets}, expected at least {least}")
    figures, samples = soak(options.frame_sets, options.bodies)
    for name, value in figures.items():
        print(f"{name:26}{value:10g}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if options.plot:
        plot(samples, options.plot, f"{figures['frame_sets']} frame sets, 3 cameras")
    return 0


if __name__ == "__main__":
    sys.exit(main())
