"""Body parameters from 3D points whose place on the body is known.

A closed-form start (``start.py``) is refined by robust Gauss-Newton (``normal.py``), with priors of
pose and shape. Derivatives are exact (``kinematics.py``), people are solved in one batch, and a
previous result warm-starts the next frame. ``judging.py`` says which results to believe.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from hamst3r.people.body import NUM_JOINTS, BodyModel
from hamst3r.people.judging import FitResult, JudgeConfig, judge
from hamst3r.people.kinematics import (
    F32,
    I64,
    Pose,
    Rig,
    Surface,
    bounded_step,
    nearest_rotations,
    rig,
)
from hamst3r.people.normal import (
    Belief,
    NormalEquations,
    ShapePrior,
    damped_step,
    geman_mcclure,
    mixture,
    normal_equations,
    unbend,
)
from hamst3r.people.start import analytic_start, reconsider_limbs
from hamst3r.people.state import BodyState


@dataclass(frozen=True)
class FitConfig:
    """How to fit. Metres and radians.

    Attributes:
        cold_widths, warm_widths: Widths of the Geman-McClure loss in the first steps, without and
            with a previous result.
        reconsider_before: Steps of a cold start, from 0, before which limbs that few points support
            are looked for anew.
        most_steps: Steps after these at most, with the sharper weights of a mixture whose width is
            the noise seen in the points; they end with one that lowers everybody's loss (squared
            deviations) by less than
        enough.
        point_std: First guess of that noise. min_noise, max_noise: Its limits.
        effective_points: Points of one person are correlated: together they count as this many.
        max_turn, max_shift, max_shape: Longest step of a joint, the translation, a beta.
        shape_limit: Betas stay within +- this.
        side_distance: Points this far off are counted on the other side of the body where they
            are less than half as far off: networks confuse left and right.
        flip_ratio: With a smaller share of inliers than this, all sides are exchanged on trial.
        judge: Which fits to believe.
    """

    cold_widths: tuple[float, ...] = (0.25, 0.19, 0.14, 0.106)
    warm_widths: tuple[float, ...] = (0.15,)
    reconsider_before: tuple[int, ...] = (2, 3)
    most_steps: int = 6
    enough: float = 1.0
    point_std: float = 0.025
    min_noise: float = 0.01
    max_noise: float = 0.1
    effective_points: float = 500.0
    max_turn: float = 0.7
    max_shift: float = 0.5
    max_shape: float = 1.5
    shape_limit: float = 4.0
    side_distance: float = 0.1
    flip_ratio: float = 0.75
    judge: JudgeConfig = field(default_factory=JudgeConfig)


@contextmanager
def single_thread() -> Iterator[None]:
    """Torch and numpy's linear algebra on one thread within: a fit is hundreds of tiny operations,
    and on a busy machine handing each to a second thread costs ten times what it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _pools().limit(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _pools() -> ThreadpoolController:
    """The loaded libraries' own threads; looking for them takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


@torch.no_grad()
def fit(
    body: BodyModel,
    points: Tensor,
    vertex_ids: Tensor,
    weights: Tensor,
    start: BodyState | None = None,
    shape_prior: ShapePrior | None = None,
    config: FitConfig | None = None,
    generator: torch.Generator | None = None,
) -> FitResult:
    """Fit bodies to the points of P people, N each (pad with zero weights).

    Args:
        points: (P, N, 3) world metres; points that are not finite are ignored.
        vertex_ids: (P, N) int64 vertex of the body each point lies on, -1 = unknown, ignored.
        weights: (P, N) >= 0, any scale; those not finite count as zero.
        start: Earlier parameters of the same people: few steps then do. None: found from scratch.
        shape_prior: What is known of the betas; the population if None.
        generator: Draws hypotheses of a cold start; a fixed one by default.

    Raises:
        ValueError: Shapes that do not agree, or a vertex the body does not have.
    """
    config = config or FitConfig()
    _check(body, points, vertex_ids, weights, start)
    given, ids, shares = points.cpu().numpy(), vertex_ids.cpu().numpy(), weights.cpu().numpy()
    with np.errstate(invalid="ignore"):
        usable = (np.abs(given) < _FARTHEST).all(-1) & (ids >= 0) & (shares > 0)
        usable &= np.isfinite(shares)
    shares = np.where(usable, shares, 0).astype(np.float64)
    # Of mean 1 over the usable ones: a limb's points are weighed against its stiffness.
    shares *= usable.sum(1, keepdims=True) / np.maximum(shares.sum(1, keepdims=True), 1e-300)
    prior = shape_prior or ShapePrior.standard(len(points), body.shapedirs.shape[-1])
    data = _Data(
        points=np.where(usable[:, None], given.swapaxes(1, 2), 0).astype(np.float32),
        vertex_ids=np.where(usable, ids, 0),
        weights=shares.astype(np.float32),
        prior=prior,
    )
    with single_thread():
        if start is not None:
            return _solve(rig(body), start.pose(), data, config, warm=True)
        generator = generator or torch.Generator().manual_seed(0)
        result = _from_scratch(rig(body), data, config, generator)
        doubted = np.flatnonzero(result.inlier_ratio.numpy() < config.flip_ratio)
        if not len(doubted) or not points.numel():
            return result
        # A body whose left and right are exchanged is a mirror image, which no pose fits well.
        mirrored = _from_scratch(rig(body), data.mirrored(doubted, rig(body)), config, generator)
        mirrored = replace(mirrored, flipped=torch.ones_like(mirrored.flipped))
        better = mirrored.inlier_ratio > 1.1 * result.inlier_ratio[doubted]
        return result.replaced(mirrored, better, doubted)


_FARTHEST = 1e6  # metres from the origin, beyond which a point is none


@dataclass(frozen=True, eq=False)
class _Data:
    """Usable points (P, 3, N), their vertices (P, N), weights (P, N), zero if unusable."""

    points: F32
    vertex_ids: I64
    weights: F32
    prior: ShapePrior

    def mirrored(self, people: I64, body: Rig) -> _Data:
        """Some of the people (by number), left and right exchanged."""
        prior = ShapePrior(self.prior.mean[people], self.prior.information[people])
        vertices = body.mirror[self.vertex_ids[people]]
        return _Data(self.points[people], vertices, self.weights[people], prior)


def _from_scratch(
    body: Rig, data: _Data, config: FitConfig, generator: torch.Generator
) -> FitResult:
    if data.points.size:
        surface = Surface.of(body, data.vertex_ids)
        pose = analytic_start(surface, data.points, data.weights, generator)
    else:
        pose = _empty(body, len(data.points))
    return _solve(body, pose, data, config, warm=False)


def _solve(body: Rig, pose: Pose, data: _Data, config: FitConfig, warm: bool) -> FitResult:
    """Gauss-Newton: steps of given widths, then steps as sharp as the points' noise allows."""
    surface = Surface.of(body, data.vertex_ids)
    if warm:
        pose = _recentre(pose, surface, data)
    noise = np.full((len(pose), 1), config.point_std, dtype=np.float32)
    for k, width in enumerate(config.warm_widths if warm else config.cold_widths):
        if k in config.reconsider_before and not warm:
            pose = reconsider_limbs(pose, surface, data.points, data.weights)
        believe = geman_mcclure(width)
        pose, noise, equations, _ = _step(pose, surface, data, noise, believe, config)
    surface = _choose_sides(pose, equations, surface, data, config)
    for _ in range(max(config.most_steps, 1)):
        believe = mixture(noise)
        pose, noise, equations, gain = _step(pose, surface, data, noise, believe, config)
        if (gain < config.enough).all():
            break
    # Rounding adds up over the frames of a track.
    pose = unbend(replace(pose, rotations=nearest_rotations(pose.rotations)))
    # The last equations are those before a step that hardly mattered any more.
    return judge(pose, surface, data.weights, noise, equations, config.judge)


def _recentre(start: Pose, surface: Surface, data: _Data) -> Pose:
    """A warm start moved by the median residual: people walk, and depth as a whole may jump."""
    residual = data.points - surface.posed(start)
    shift = np.zeros_like(start.transl)
    for person, usable in enumerate(data.weights > 0):
        if usable.any():
            shift[person] = np.median(residual[person][:, usable], axis=1)
    return replace(start, transl=start.transl + shift)


def _choose_sides(
    pose: Pose, equations: NormalEquations, surface: Surface, data: _Data, config: FitConfig
) -> Surface:
    """The surface with far points on the other side of the body where they fit much better."""
    far = equations.square > config.side_distance**2
    if not far.any():
        return surface
    mirrored = surface.rig.mirror[data.vertex_ids]
    there = Surface.of(surface.rig, mirrored).features(pose)
    residual = equations.line.bones.swapaxes(1, 2) @ there - data.points
    closer = np.einsum("pcn,pcn->pn", residual, residual) < 0.25 * equations.square
    return Surface.of(surface.rig, np.where(far & closer, mirrored, data.vertex_ids))


def _step(
    pose: Pose,
    surface: Surface,
    data: _Data,
    noise: F32,
    believe: Belief,
    config: FitConfig,
) -> tuple[Pose, F32, NormalEquations, F32]:
    """One damped, clipped Gauss-Newton step of the robust loss; also the points' noise (P, 1), the
    equations that were solved, and by how much they say that the loss falls (P,)."""
    information = _information(data, noise, config)
    equations = normal_equations(pose, surface, data.points, information, believe, data.prior)
    step, gain = damped_step(equations.hessian, equations.gradient)
    moved = bounded_step(pose, equations.line, step, config)
    believed = data.weights * equations.believed
    variance = (believed * equations.square).sum(1) / (3 * np.maximum(believed.sum(1), 1e-9))
    noise = np.sqrt(variance).clip(config.min_noise, config.max_noise)
    return moved, noise[:, None].astype(np.float32, copy=False), equations, gain


def _information(data: _Data, noise: F32, config: FitConfig) -> F32:
    """Weights (P, N) as inverse variances that sum to the effective number of points."""
    weights = data.weights
    number = np.minimum((weights > 0).sum(1), config.effective_points)
    share = number / np.maximum(weights.sum(1), 1e-9)
    return weights * (share[:, None] / noise**2).astype(np.float32)


def _empty(body: Rig, count: int) -> Pose:
    return Pose(
        np.tile(np.eye(3, dtype=np.float32), (count, NUM_JOINTS, 1, 1)),
        np.zeros((count, 3), dtype=np.float32),
        np.zeros((count, body.num_betas), dtype=np.float32),
    )


def _check(
    body: BodyModel,
    points: Tensor,
    vertex_ids: Tensor,
    weights: Tensor,
    start: BodyState | None,
) -> None:
    if points.dim() != 3 or points.shape[-1] != 3:
        raise ValueError(f"points must be (P, N, 3), got {tuple(points.shape)}")
    for name, value in (("vertex_ids", vertex_ids), ("weights", weights)):
        if value.shape != points.shape[:2]:
            raise ValueError(
                f"{name} must be {tuple(points.shape[:2])} as points, got {tuple(value.shape)}"
            )
    if vertex_ids.numel() and int(vertex_ids.max()) >= len(body.v_template):
        raise ValueError(
            f"vertex {int(vertex_ids.max())} asked for, but {body.name} has "
            f"{len(body.v_template)}; look vertices up in the same body model"
        )
    if start is not None and len(start) != len(points):
        raise ValueError(f"start holds {len(start)} people, points {len(points)}")
