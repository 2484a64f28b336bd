#!/usr/bin/env python3
"""People followed, and what contact makes of them: ``python benchmarks/tracking.py``.

Five people walk about and cross before four calibrated cameras for a minute; what the cameras see
is that of a good network (``tests/core/people_crowd.py``): true masks, depth and places on the body
with noise, wrong places, missed people and masks not recognised as the same person. Ids are scored
by motmetrics (a person counts as found within half a metre; everybody published counts, hidden
people too).

- ``skating_ratio``: how far a foot that has stood for 0.3 s moves from one frame set to the next,
  without contact over with it, both as published at once. ``skating_ratio_from_touchdown`` counts
  from the first moment on. ``penetration_*_mm`` is how deep soles are below the floor.
- ``scale_error_after_contact``: the worst relative error of ``contact_scale`` over scenes that are
  30 % too large or small, seen from one camera; bodies are as the tracker fitted them.
- ``fixed_lag_ms``: of the windows (twelve frame sets) of four people together, per frame set.
  Times are CPU milliseconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import roma
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "core"))
from people_crowd import STEP, Crowd, Flaws, rig

from hamst3r.people.body import anny24
from hamst3r.people.contact import ContactPoints, contact_scale
from hamst3r.people.fitting import single_thread
from hamst3r.people.smoothing import SmoothingConfig, Window
from hamst3r.people.state import BodyState
from hamst3r.people.surroundings import Surroundings
from hamst3r.people.track import TrackingConfig
from hamst3r.people.tracking import PeopleTracker
from hamst3r.scene import Person, TrackingState

BODY = anny24()
POINTS = ContactPoints(BODY)
FEET = slice(0, 4)
FOUND = 0.5  # metres
STANDS, ESTABLISHED = 0.01, 3  # metres per frame set, frame sets
F64 = NDArray[np.float64]


class Moment(NamedTuple):
    """A frame set: the truth and who was published."""

    state: BodyState
    people: tuple[Person, ...]


def follow(crowd: Crowd, frames: int, config: TrackingConfig) -> tuple[list[Moment], float]:
    """Track a crowd; also the CPU milliseconds per frame set."""
    tracker, moments, spent = PeopleTracker(BODY, config), [], 0.0
    for frame in range(frames):
        state = crowd.state(frame)
        views, alignment = crowd.see(state, Flaws())
        begin = time.thread_time()
        tracked = tracker.update(
            round(frame * STEP * 1e9), views, alignment, list("abcd"), [np.eye(3)] * 4
        )
        spent += time.thread_time() - begin
        moments.append(Moment(state, tracked.people))
    return moments, spent / frames * 1e3


def identity(moments: list[Moment]) -> dict[str, float]:
    """Figures of multiple object tracking."""
    import motmetrics

    scores = motmetrics.MOTAccumulator(auto_id=True)
    for moment in moments:
        state = moment.state
        hips = BODY.skeleton(state.rotations, state.transl, state.betas)[1][:, 1:3].mean(1)
        people = [p for p in moment.people if p.state != TrackingState.LOST]
        places = np.array([p.position for p in people]).reshape(-1, 3)
        gap = cdist(hips.numpy(), places)
        scores.update(
            list(range(len(hips))), [p.id for p in people], np.where(gap < FOUND, gap, np.nan)
        )
    names = ["num_switches", "mota", "idf1", "num_misses", "num_false_positives"]
    row = motmetrics.metrics.create().compute(scores, metrics=names).iloc[0]
    return {"id_switches": float(row["num_switches"])} | {n: float(row[n]) for n in names[1:]}


def contact_places(state: BodyState) -> F64:
    """(P, C, 3)."""
    return POINTS.places(state.pose())


def fitted(person: Person) -> BodyState | None:
    """The published parameters."""
    fit = person.fit
    if fit is None or person.state not in (TrackingState.NEW, TrackingState.OK):
        return None
    turns = np.concatenate([fit.global_orient, fit.body_pose]).reshape(1, 24, 3)
    return BodyState(
        roma.rotvec_to_rotmat(torch.from_numpy(turns)),
        torch.from_numpy(fit.transl)[None],
        torch.from_numpy(fit.betas)[None],
    )


def published_feet(moments: list[Moment]) -> tuple[F64, F64]:
    """True and published contact points of everybody, (frames, P, C, 3), NaN without a fit."""
    true = np.stack([contact_places(moment.state) for moment in moments])
    shown = np.full_like(true, np.nan)
    for k, moment in enumerate(moments):
        for person in moment.people:
            state = fitted(person)
            if state is None:
                continue
            places = contact_places(state)[0]
            gap = np.linalg.norm(true[k][:, FEET] - places[FEET], axis=-1).mean(1)
            if gap.min() < FOUND:
                shown[k, gap.argmin()] = places
    return true, shown


def skating(true: F64, shown: F64) -> tuple[float, float, float]:
    """Millimetres per frame set that standing feet move, established and from touchdown on, and
    the soles' mean depth below the floor."""
    moved = np.linalg.norm(np.diff(true[:, :, FEET], axis=0), axis=-1)
    stands = (moved < STANDS) & (np.abs(true[1:, :, FEET, 2]) < 0.03)
    slid = np.linalg.norm(np.diff(shown[:, :, FEET], axis=0), axis=-1)
    established = stands.copy()
    for k in range(1, ESTABLISHED):
        established[k:] &= stands[:-k]
    established[:ESTABLISHED] = False
    seen = np.isfinite(shown[..., 0, 2])
    below = np.maximum(-shown[..., FEET, 2].min(-1), 0)[seen]
    return (
        float(np.nanmean(slid[established])) * 1e3,
        float(np.nanmean(slid[stands])) * 1e3,
        float(below.mean()) * 1e3,
    )


def scale_errors(moments: list[Moment], seed: int) -> list[float]:
    """Relative errors of the scale after contact, for scenes of a wrong scale.

    Each scene is the floor as one camera sees it, scaled about the camera, with noise.
    """
    rng, errors = np.random.default_rng(seed), []
    for wrong in (0.7, 1.3):
        for camera in rig()[0][:, :3, 3]:
            floor = np.column_stack([rng.uniform(-3, 3, (4000, 2)), 0.02 * rng.normal(size=4000)])
            surroundings = Surroundings()
            surroundings.add(camera + wrong * (floor - camera))
            for start in range(20, len(moments) - 15, max((len(moments) - 15) // 4, 1)):
                soles, groups = [], []
                for moment in moments[start : start + 15]:
                    for person in moment.people:
                        state = fitted(person)
                        if state is not None:
                            feet = contact_places(state)[0, FEET]
                            soles.append(feet[feet[:, 2].argmin()])
                            groups.append(person.id)
                found = contact_scale(np.array(soles), np.array(groups), surroundings, camera)
                errors.append(abs(found[0] * wrong - 1) if found else 1.0)
    return errors


def fixed_lag_ms(crowd: Crowd, people: int, frames: int) -> float:
    """CPU milliseconds per frame set of the windows of some people."""
    surroundings, rng = Surroundings(floor=0.0), torch.Generator().manual_seed(0)
    windows = [Window(BODY, POINTS) for _ in range(people)]
    information = np.diag(np.r_[np.full(72, 1e3), np.full(3, 1e4)])
    times = []
    for frame in range(frames):
        state = crowd.state(frame)
        begin = time.thread_time()
        for k, window in enumerate(windows):
            own = state.person(k)
            own = replace(own, transl=own.transl + 0.01 * torch.randn(1, 3, generator=rng))
            window.push(
                round(frame * STEP * 1e9), own, information, np.full(24, 0.01), surroundings
            )
        times.append(time.thread_time() - begin)
    return float(np.median(times[frames // 2 :])) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long people walk")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    frames = round(options.seconds / STEP)
    with single_thread():
        crossing, update_ms = follow(
            Crowd(BODY, 5, frames, options.seed, pause=0.0), frames, TrackingConfig()
        )
        figures = identity(crossing)
        standing = min(frames, 120)
        plain = TrackingConfig(smoothing=SmoothingConfig(window=0))
        runs = [
            follow(Crowd(BODY, 4, standing, options.seed + 1), standing, config)[0]
            for config in (plain, TrackingConfig())
        ]
        (before, before_all, deep), (after, after_all, deep_after) = (
            skating(*published_feet(moments)) for moments in runs
        )
        errors = scale_errors(runs[1], options.seed)
        figures |= {
            "scale_error_after_contact": max(errors),
            "scale_error_after_contact_median": float(np.median(errors)),
            "skating_ratio": before / after,
            "skating_ratio_from_touchdown": before_all / after_all,
            "skating_before_mm": before,
            "skating_after_mm": after,
            "penetration_before_mm": deep,
            "penetration_after_mm": deep_after,
            "fixed_lag_ms": fixed_lag_ms(Crowd(BODY, 4, 40, 3), 4, 40),
            "update_ms": update_ms,
        }
    sys.stdout.write("".join(f"{name:36}{value:10.4g}\n" for name, value in figures.items()))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
