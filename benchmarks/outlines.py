#!/usr/bin/env python3
"""Bodies from outlines alone: ``python benchmarks/outlines.py``.

Random people in everyday poses, seen by 2 to 4 calibrated cameras around them through the eyes of a
weak network (``WeakEyes`` in ``tests/core/people_data.py``): masks that wobble and lack heads or
feet, a view that shows something else, and places on the body whose left and right, front and back
are averaged away. What is measured per kind of eyes:

- ``fitted``: share of people who get a body. ``mpjpe_m``: mean error of their 24 joints;
  ``mpjpe_right_m``: of those who face the right way. ``trunk_m``: of hips, spine, neck, shoulders.
- ``right_way``: share of people who face the right way; ``said``: what the fits say of that.
- ``one_sigma_coverage``: share of the joints' errors per axis within one stated deviation.

``cold_ms`` and ``tracked_ms`` are CPU milliseconds per person on one thread, of 4 views.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "core"))
from people_data import WeakEyes, cameras_around, random_people, weakly_seen

from hamst3r.people.body import JOINT_NAMES, anny24
from hamst3r.people.fitting import single_thread
from hamst3r.people.standing import StandingFitter

BODY = anny24()
FITTER = StandingFitter(BODY)
TRUNK = [
    joint
    for joint, name in enumerate(JOINT_NAMES)
    if name.split("_")[-1] in ("pelvis", "hip", "spine1", "spine2", "spine3", "neck", "shoulder")
]
KINDS = {
    "4 views": (4, WeakEyes()),
    "2 views": (2, WeakEyes()),
    "4 views, 1 of nobody": (4, WeakEyes(lost=1)),
    "3 views, poor masks": (3, WeakEyes(wobble=2.0, cut=0.5)),
    "4 views, a third told": (4, WeakEyes(sided=0.33)),
}


def measure(people: int, views: int, eyes: WeakEyes, seed: int) -> dict[str, float]:
    """Figures of one kind of eyes."""
    rng = np.random.default_rng(seed)
    states = random_people(people, torch.Generator().manual_seed(seed))
    vertices, joints = BODY(states.rotations, states.transl, states.betas)
    errors, within, right, said, cold, tracked = [], [], [], [], [], []
    for person in range(people):
        true = joints[person].numpy()
        cameras = cameras_around(true[0], views, rng)
        outlines = weakly_seen(BODY, vertices[person].numpy(), cameras, eyes, rng)
        start = time.process_time()
        stance = FITTER.fit(outlines)
        cold.append(time.process_time() - start)
        if stance is None:
            continue
        start = time.process_time()
        FITTER.fit(outlines, stance, 0.1)
        tracked.append(time.process_time() - start)
        errors.append(np.linalg.norm(stance.joints - true, axis=1))
        within.append(np.abs(stance.joints - true) < stance.joint_std[:, None])
        fronts = states.rotations[person, 0, :2, 2].numpy(), stance.pose.rotations[0, 0, :2, 2]
        right.append(fronts[0] @ fronts[1] > 0)
        said.append(stance.facing)
    error, way = np.array(errors), np.array(right)
    return {
        "fitted": len(error) / people,
        "mpjpe_m": float(error.mean()),
        "mpjpe_right_m": float(error[way].mean()),
        "trunk_m": float(error[:, TRUNK].mean()),
        "right_way": float(way.mean()),
        "said": float(np.mean(said)),
        "one_sigma_coverage": float(np.mean(within)),
        "cold_ms": 1e3 * statistics.median(cold),
        "tracked_ms": 1e3 * statistics.median(tracked),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=60, help="per kind of eyes")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with single_thread():
        found = {
            kind: measure(options.people, views, eyes, options.seed + number)
            for number, (kind, (views, eyes)) in enumerate(KINDS.items())
        }
    names = list(next(iter(found.values())))
    lines = [" " * 24 + "".join(f"{name:>20}" for name in names)]
    for kind, figures in found.items():
        lines.append(f"{kind:24}" + "".join(f"{figures[name]:20.3g}" for name in names))
    sys.stdout.write("\n".join(lines) + "\n")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
