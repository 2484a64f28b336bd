#!/usr/bin/env python3
"""Time and error of the body fit, and of a textbook optimiser: ``python benchmarks/fitting.py``.

Random people, 500 points each with 2 cm noise and 20 % outliers (half of them up to 60 cm off, half
on a wrong vertex), one person at a time, on one thread; times are that thread's CPU seconds. The
other optimiser is torch's L-BFGS with strong-Wolfe line search on axis-angle parameters and
automatic derivatives, from the same start, of the same vertices, to convergence (200 steps; with
400 its error is the same); its loss has the terms of ours, with Geman-McClure's function of a fixed
width that suits the noise. Stopped at half of the steps it is less exact and faster: the rows
``half the steps`` say by how much. ``speedup_lbfgs`` and
``error_ratio_lbfgs`` (ours over theirs) are from scratch.

Accuracy and the share of joint errors per axis within one stated deviation are of more people,
under several kinds of noise; ``one_sigma_coverage`` is over all kinds together.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import roma
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "core"))
from people_data import Cloud, joint_error, observe, random_people

from hamst3r.people.body import anny24
from hamst3r.people.fitting import FitConfig, fit, single_thread
from hamst3r.people.kinematics import Surface, rig
from hamst3r.people.prior import LIMIT_STD, joint_limits, pose_prior
from hamst3r.people.start import analytic_start
from hamst3r.people.state import BodyState

BODY = anny24()
CONFIG = FitConfig()
WIDTH = 0.09  # metres, of the robust loss of L-BFGS
BATCH = 32
# What the points are like -> options of the simulation.
KINDS: dict[str, dict] = {
    "full": {},
    "one_view": {"one_view": True},
    "one_view_5cm_noise": {"one_view": True, "noise": 0.05},
    "one_view_3cm_on_body": {"one_view": True, "place_noise": 0.03},
    "one_view_10pct_flips": {"one_view": True, "flips": 0.1},
    "one_view_40pct_outliers": {"one_view": True, "outliers": 0.4},
}


def lbfgs(data: Cloud, start: BodyState, steps: int) -> torch.Tensor:
    """Joints (1, 24, 3) by L-BFGS."""
    mean, std = pose_prior()
    low, high = joint_limits()
    turn = roma.rotmat_to_rotvec(start.rotations).clone().requires_grad_()
    transl = start.transl.clone().requires_grad_()
    betas = start.betas.clone().requires_grad_()
    number = data.points.shape[1]
    information = min(number, CONFIG.effective_points) / number / CONFIG.point_std**2
    optimiser = torch.optim.LBFGS(
        [turn, transl, betas], lr=1.0, max_iter=steps, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        posed, _ = BODY(roma.rotvec_to_rotmat(turn), transl, betas, data.vertex_ids)
        square = (posed - data.points).square().sum(-1)
        loss = information * (square * WIDTH**2 / (square + WIDTH**2)).sum()
        loss = loss + ((turn - mean) / std)[:, 1:].square().sum() + betas.square().sum()
        beyond = turn - torch.minimum(torch.maximum(turn, low), high)
        loss = loss + (beyond / LIMIT_STD)[:, 1:].square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        return BODY.skeleton(roma.rotvec_to_rotmat(turn), transl, betas)[1]


def timed(work: Callable[[], torch.Tensor], truth: torch.Tensor) -> tuple[float, float]:
    """CPU milliseconds and mean joint error in millimetres."""
    begin = time.thread_time()
    joints = work()
    return (time.thread_time() - begin) * 1e3, float(joint_error(joints, truth)) * 1e3


def disturbed(state: BodyState, generator: torch.Generator) -> BodyState:
    """The true state as a tracker would hold it from the last frame: 4 degrees, 4 cm off."""
    turn = roma.rotvec_to_rotmat(0.04 * torch.randn(1, 24, 3, generator=generator))
    shift = 0.025 * torch.randn(1, 3, generator=generator)
    return BodyState(turn @ state.rotations, state.transl + shift, state.betas)


def race(options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Per method, (ms, mm) of each person."""
    rows: dict[str, list[tuple[float, float]]] = {
        name: []
        for name in (
            "ours, from scratch",
            "L-BFGS, same start",
            "ours, tracked",
            "L-BFGS, tracked",
            "L-BFGS, half the steps",
        )
    }
    with single_thread():
        for seed in range(-1, options.people):  # the first one warms up
            generator = torch.Generator().manual_seed(seed + 1000)
            data = observe(BODY, random_people(1, generator), generator, number=options.points)
            last = disturbed(data.state, generator)
            given = (BODY, data.points, data.vertex_ids, data.weights)

            def cold(given=given) -> torch.Tensor:
                return fit(*given).joints

            def warm(given=given, last=last) -> torch.Tensor:
                return fit(*given, last).joints

            def cold_lbfgs(steps=options.steps, given=given, data=data) -> torch.Tensor:
                body, points, ids, weights = given
                surface = Surface.of(rig(body), ids.numpy())
                draws = torch.Generator().manual_seed(0)
                start = analytic_start(surface, points.mT.numpy(), weights.numpy(), draws)
                return lbfgs(data, BodyState.of(start), steps)

            def warm_lbfgs(data=data, last=last) -> torch.Tensor:
                return lbfgs(data, last, options.steps)

            def half_lbfgs(cold_lbfgs=cold_lbfgs) -> torch.Tensor:
                return cold_lbfgs(options.steps // 2)

            works = (cold, cold_lbfgs, warm, warm_lbfgs, half_lbfgs)
            for name, work in zip(rows, works, strict=True):
                result = timed(work, data.joints)
                if seed >= 0:
                    rows[name].append(result)
    return rows


def accuracy(people: int) -> dict[str, tuple[float, torch.Tensor]]:
    """Kind of points -> mean joint error in mm, whether each error is within its deviation."""
    found = {}
    for kind, given in KINDS.items():
        errors, within = [], []
        for seed in range(max(people // BATCH, 1)):
            generator = torch.Generator().manual_seed(5000 + seed)
            data = observe(BODY, random_people(BATCH, generator), generator, **given)
            result = fit(BODY, data.points, data.vertex_ids, data.weights)
            errors.append(joint_error(result.joints, data.joints))
            within.append((result.joints - data.joints).abs() < result.joint_std[..., None])
        found[kind] = (float(torch.cat(errors).mean()) * 1e3, torch.cat(within).float())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=12, help="how many to time")
    parser.add_argument("--points", type=int, default=500, help="points per person timed")
    parser.add_argument("--steps", type=int, default=200, help="most steps of L-BFGS")
    parser.add_argument("--measured", type=int, default=256, help="people per kind of noise")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    rows = race(options)
    kinds = accuracy(options.measured)
    medians = [statistics.median(ms for ms, _ in results) for results in rows.values()]
    means = [statistics.mean(error for _, error in results) for results in rows.values()]
    figures = {
        "mpjpe_full_mm": kinds["full"][0],
        "mpjpe_one_view_mm": kinds["one_view"][0],
        "cold_ms": medians[0],
        "tracked_ms": medians[2],
        "speedup_lbfgs": medians[1] / medians[0],
        "speedup_lbfgs_tracked": medians[3] / medians[2],
        "error_ratio_lbfgs": means[0] / means[1],
        "error_ratio_lbfgs_tracked": means[2] / means[3],
        "speedup_lbfgs_half": medians[4] / medians[0],
        "error_ratio_lbfgs_half": means[0] / means[4],
        "one_sigma_coverage": float(torch.cat([within for _, within in kinds.values()]).mean()),
    }
    for kind, (error, within) in kinds.items():
        figures[f"{kind}.mpjpe_mm"] = error
        figures[f"{kind}.one_sigma_coverage"] = float(within.mean())
    lines = [f"{'':22}{'ms / person':>12}{'mean mm':>9}{'worst mm':>10}"]
    for (name, results), median, mean in zip(rows.items(), medians, means, strict=True):
        worst = max(error for _, error in results)
        lines.append(f"{name:22}{median:12.1f}{mean:9.1f}{worst:10.1f}")
    lines += [f"{name:44}{value:8.3g}" for name, value in figures.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
