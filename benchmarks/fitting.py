#!/usr/bin/env python3
"""Time and error of the body fit beside a textbook optimiser on the same loss.

Random people, 500 points each with 2 cm noise and 20 % outliers, one thread, one person at a time.
The other optimiser is torch's L-BFGS with strong-Wolfe line search on axis-angle parameters and
automatic derivatives, from the same start, to convergence; the loss is ours, term by term.
"""

from __future__ import annotations

import argparse
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
from hamst3r.people.jacobian import BodyState
from hamst3r.people.prior import pose_prior
from hamst3r.people.start import analytic_start

BODY = anny24()
CONFIG = FitConfig()


def lbfgs(data: Cloud, start: BodyState, steps: int) -> torch.Tensor:
    """Joints (1, 24, 3) by L-BFGS."""
    mean, std = pose_prior()
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
        scale = CONFIG.scale**2
        loss = information * (square * scale / (square + scale)).sum()
        loss = loss + ((turn - mean) / std)[:, 1:].square().sum() + betas.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        return BODY.skeleton(roma.rotvec_to_rotmat(turn), transl, betas)[1]


def timed(work: Callable[[], torch.Tensor], truth: torch.Tensor) -> tuple[float, float]:
    """Milliseconds and mean joint error in millimetres."""
    begin = time.perf_counter()
    joints = work()
    return (time.perf_counter() - begin) * 1e3, float(joint_error(joints, truth)) * 1e3


def disturbed(state: BodyState, generator: torch.Generator) -> BodyState:
    """The true state as a tracker would hold it from the last frame: 4 degrees, 4 cm off."""
    turn = roma.rotvec_to_rotmat(0.04 * torch.randn(1, 24, 3, generator=generator))
    shift = 0.025 * torch.randn(1, 3, generator=generator)
    return BodyState(turn @ state.rotations, state.transl + shift, state.betas)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=12, help="how many to fit")
    parser.add_argument("--points", type=int, default=500, help="points per person")
    parser.add_argument("--steps", type=int, default=200, help="most steps of L-BFGS")
    options = parser.parse_args()
    rows: dict[str, list[tuple[float, float]]] = {
        name: []
        for name in ("ours, from scratch", "L-BFGS, same start", "ours, tracked", "L-BFGS, tracked")
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

            def cold_lbfgs(given=given, data=data) -> torch.Tensor:
                body, points, ids, weights = given
                draws = torch.Generator().manual_seed(0)
                return lbfgs(data, analytic_start(body, ids, points, weights, draws), options.steps)

            def warm_lbfgs(data=data, last=last) -> torch.Tensor:
                return lbfgs(data, last, options.steps)

            for name, work in zip(rows, (cold, cold_lbfgs, warm, warm_lbfgs), strict=True):
                result = timed(work, data.joints)
                if seed >= 0:
                    rows[name].append(result)
    lines = [f"{'':22}{'ms / person':>12}{'mean mm':>9}{'worst mm':>10}"]
    for name, results in rows.items():
        median = statistics.median(ms for ms, _ in results)
        errors = [error for _, error in results]
        lines.append(f"{name:22}{median:12.1f}{statistics.mean(errors):9.1f}{max(errors):10.1f}")
    medians = [statistics.median(ms for ms, _ in results) for results in rows.values()]
    lines.append(
        f"L-BFGS takes {medians[1] / medians[0]:.1f} x (from scratch) and "
        f"{medians[3] / medians[2]:.1f} x (tracked) the time"
    )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
