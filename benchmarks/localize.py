#!/usr/bin/env python3
"""How well new images are placed in a scene of known cameras, with the shipped weights.

Simulated rooms with two people (held-out seeds): eight photos on an arc make the scene, with their
exact calibration; those taken half-way between two of them, and some from the far side, which see
none of it in the same way, are then localised with known and with unknown focal length.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from hamst3r.engine import PairEngine
from hamst3r.frames import Frame, FrameSet
from hamst3r.geometry import rotation_angle
from hamst3r.localization import localize
from hamst3r.network.checkpoint import shipped_weights
from hamst3r.reconstructor import Reconstructor
from hamst3r.synthetic.cameras import SyntheticCamera, intrinsics, look_at
from hamst3r.synthetic.motion import MovingScene

SIZE = 640, 480
STEP = np.radians(14)
REFERENCES, FAR = 8, 2


def arc(angle: float, name: str) -> SyntheticCamera:
    """A camera beside the middle of the room that looks across it."""
    place = np.array([1.7 * np.cos(angle), 1.4 * np.sin(angle), 1.5 + 0.2 * np.sin(3 * angle)])
    target = np.array([-0.6 * np.cos(angle), -0.6 * np.sin(angle), 0.9])
    return SyntheticCamera(name, *SIZE, intrinsics(*SIZE, np.radians(75)), look_at(place, target))


def measure(engine: PairEngine, seed: int) -> list[dict]:
    """One room."""
    cameras = [arc(k * STEP, f"cam{k}") for k in range(REFERENCES)]
    cameras += [arc((k + 0.5) * STEP, f"between{k}") for k in range(REFERENCES - 1)]
    cameras += [arc((REFERENCES + 8 + k) * STEP, f"far{k}") for k in range(FAR)]
    scene = MovingScene(seed, people=2, size=SIZE, cameras=cameras)
    frames = []
    for k, camera in enumerate(scene.cameras):
        (view,) = scene.render(0.0, [k])
        frames.append(Frame(camera.name, 0, view.rgb, camera.K, None, camera.T_world_cam))
    known = FrameSet(0, tuple(frames[:REFERENCES]))
    solved = Reconstructor(engine).push(known)
    images = {frame.camera: frame.image for frame in known.frames}
    rows = []
    for frame in frames[REFERENCES:]:
        assert frame.T_rig_cam is not None
        assert frame.K is not None
        for focal in ("known", "unknown"):
            K = frame.K if focal == "known" else None
            found = localize(solved, images, Frame(frame.camera, 0, frame.image, K), engine)
            away = np.linalg.norm(found.T_world_cam[:3, 3] - frame.T_rig_cam[:3, 3])
            rows.append(
                {
                    "seed": seed,
                    "image": frame.camera,
                    "far": frame.camera.startswith("far"),
                    "focal": focal,
                    "found": bool(found.found),
                    "inliers": found.inliers,
                    "matches": found.matches,
                    "position_m": float(away),
                    "rotation_deg": float(
                        np.degrees(rotation_angle(found.T_world_cam, frame.T_rig_cam))
                    ),
                    "focal_ratio": float(found.K[0, 0] / frame.K[0, 0]),
                }
            )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rooms", type=int, default=6, metavar="N")
    parser.add_argument("--weights", type=Path, help="default: the shipped ones")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    engine = PairEngine.from_checkpoint(options.weights or shipped_weights(), "cpu", "auto")
    rows = [row for k in range(options.rooms) for row in measure(engine, 900_500 + k)]
    figures = {}
    for focal in ("known", "unknown"):
        near = [row for row in rows if row["focal"] == focal and not row["far"]]
        good = [row for row in near if row["found"]]
        figures[focal] = {
            "images": len(near),
            "found": len(good),
            "position_median_m": float(np.median([row["position_m"] for row in good])),
            "rotation_median_deg": float(np.median([row["rotation_deg"] for row in good])),
            "inliers_median": float(np.median([row["inliers"] for row in good])),
        }
        far = [row for row in rows if row["focal"] == focal and row["far"]]
        wrong = [r for r in far if r["found"] and (r["position_m"] > 1 or r["rotation_deg"] > 20)]
        figures[focal] |= {"far_images": len(far), "far_found": sum(r["found"] for r in far)}
        figures[focal]["far_wrong"] = len(wrong)
        print(f"focal length {focal}: {json.dumps(figures[focal])}")
    if options.json:
        options.json.write_text(json.dumps({"figures": figures, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
