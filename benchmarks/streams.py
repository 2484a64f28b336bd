#!/usr/bin/env python3
"""People followed through simulated rooms by the shipped network: ``python benchmarks/streams.py``.

Rooms that training never saw (seeds from 960000 on), two to four people who walk about, four
calibrated cameras of 320x240 pixels; 40 frame sets of each room, at one and at five a second. Ids
are scored by motmetrics as in ``tracking.py``: somebody counts as found within 0.75 m on the floor,
and everybody published counts, those out of sight (PREDICTED) included. The same frame sets are
followed twice: as shipped, and with nothing but places to go by (no doubtful sights, no looks).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import motmetrics
import numpy as np
from scipy.spatial.distance import cdist

from hamst3r.engine import PairEngine
from hamst3r.evaluation.replay import Replay
from hamst3r.frames import Frame, FrameSet
from hamst3r.network.checkpoint import shipped_weights
from hamst3r.people.closeups import CloseupsConfig
from hamst3r.reconstructor import Reconstructor, ReconstructorConfig
from hamst3r.scene import TrackingState
from hamst3r.synthetic.motion import MovingScene

FIRST = 960_000
FOUND = 0.75  # metres
FIGURES = {
    "num_switches": "id_switches",
    "mota": "mota",
    "idf1": "idf1",
    "num_misses": "missed",
    "num_false_positives": "wrong",
    "num_objects": "people",
}


def frame_sets(
    scene: MovingScene, rate: float, count: int
) -> Iterator[tuple[FrameSet, np.ndarray]]:
    """Frame sets, and where everybody's hips are then: (people, 2) metres."""
    for step in range(count):
        time = step / rate
        stamp = round(time * 1e9)
        frames = (
            Frame(camera.name, stamp, view.rgb, K=camera.K, T_rig_cam=camera.T_world_cam)
            for camera, view in zip(scene.cameras, scene.render(time), strict=True)
        )
        hips = np.array([person.joints[1:3].mean(0)[:2] for person in scene.at(time)])
        yield FrameSet(stamp, tuple(frames)), hips


def configs() -> dict[str, ReconstructorConfig]:
    """How people are followed: without close-ups, which take most of the time."""
    whole = ReconstructorConfig(closeups=CloseupsConfig(most=0))
    whole = replace(whole, tracking=replace(whole.tracking, bodies=False))
    places = replace(
        whole,
        instances=replace(whole.instances, doubtful_score=whole.instances.min_score),
        tracking=replace(whole.tracking, unlike=0.0, remembered=0.0),
    )
    return {"as_shipped": whole, "places_only": places}


def follow(
    engine: PairEngine, seed: int, rate: float, count: int
) -> dict[str, motmetrics.MOTAccumulator]:
    """One room."""
    replay = Replay(engine)
    followers = {name: Reconstructor(replay, config) for name, config in configs().items()}
    told = {name: motmetrics.MOTAccumulator(auto_id=True) for name in followers}
    for frames, hips in frame_sets(MovingScene(seed, 2 + seed % 3), rate, count):
        replay.start()
        for name, follower in followers.items():
            people = follower.push(frames).people
            people = [p for p in people if p.state != TrackingState.LOST]
            places = np.array([p.position[:2] for p in people]).reshape(-1, 2)
            gap = cdist(hips, places)
            told[name].update(
                range(len(hips)), [p.id for p in people], np.where(gap < FOUND, gap, np.nan)
            )
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rooms", type=int, default=12)
    parser.add_argument("--sets", type=int, default=40, help="frame sets per room and rate")
    parser.add_argument("--weights", type=Path, default=shipped_weights())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    engine = PairEngine.from_checkpoint(options.weights, "auto", "auto")
    rows = []
    for rate in (1.0, 5.0):
        rooms = [follow(engine, FIRST + room, rate, options.sets) for room in range(options.rooms)]
        for name in configs():
            whole = motmetrics.metrics.create().compute_many(
                [room[name] for room in rooms], metrics=list(FIGURES), generate_overall=True
            )
            figures = {FIGURES[key]: float(whole.loc["OVERALL"][key]) for key in FIGURES}
            rows.append({"followed": name, "frame_sets_per_second": rate} | figures)
            sys.stdout.write(" ".join(f"{key} {value}" for key, value in rows[-1].items()) + "\n")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
