"""Body parameters from 3D points whose place on the body is known.

A closed-form start (``start.py``) is refined by robust Gauss-Newton (``normal.py``), with priors of
pose and shape. Derivatives are exact (``jacobian.py``), people are solved in one batch, and a
previous result warm-starts the next frame. ``judging.py`` says which results to believe.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hamst3r.people.body import NUM_JOINTS, BodyModel
from hamst3r.people.jacobian import (
    BETAS,
    ROTATIONS,
    TRANSLATION,
    BodyState,
    Surface,
    apply_increment,
    pose_bones,
)
from hamst3r.people.judging import FitResult, JudgeConfig, judge
from hamst3r.people.normal import (
    Belief,
    NormalEquations,
    ShapePrior,
    geman_mcclure,
    mixture,
    normal_equations,
)
from hamst3r.people.start import analytic_start, nearest_rotation, reconsider_limbs


@dataclass(frozen=True)
class FitConfig:
    """How to fit. Metres and radians.

    Attributes:
        cold_widths, warm_widths: Widths of the Geman-McClure loss in the first steps, without and
            with a previous result.
        reconsider_before: Steps of a cold start, from 0, before which limbs that few points support
            are looked for anew.
        cold_steps, warm_steps: Steps after these, with the sharper weights of a mixture whose
            width is the noise seen in the points.
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
    cold_steps: int = 3
    warm_steps: int = 2
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
    """Torch on one thread within: a fit is hundreds of tiny operations, and on a busy machine
    handing each to a second thread costs ten times what it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    usable = torch.isfinite(points).all(-1) & (vertex_ids >= 0)
    usable &= (weights > 0) & torch.isfinite(weights)
    data = _Data(
        points=torch.where(usable[..., None], points, 0.0).float(),
        vertex_ids=torch.where(usable, vertex_ids, 0),
        weights=torch.where(usable, weights, 0.0).float(),
        prior=shape_prior or ShapePrior.standard(len(points), body.shapedirs.shape[-1]),
    )
    with single_thread():
        if start is not None:
            return _solve(body, start, data, config, warm=True)
        generator = generator or torch.Generator().manual_seed(0)
        result = _from_scratch(body, data, config, generator)
        doubted = result.inlier_ratio < config.flip_ratio
        if not doubted.any() or not points.numel():
            return result
        # A body whose left and right are exchanged is a mirror image, which no pose fits well.
        mirrored = replace(data, vertex_ids=body.mirror[data.vertex_ids])
        other = _from_scratch(body, mirrored, config, generator)
        other = replace(other, flipped=torch.ones_like(other.flipped))
        return result.take(other, doubted & (other.inlier_ratio > 1.1 * result.inlier_ratio))


@dataclass(frozen=True, eq=False)
class _Data:
    """Usable points (P, N, 3), their vertices (P, N), weights (P, N), zero if unusable."""

    points: Tensor
    vertex_ids: Tensor
    weights: Tensor
    prior: ShapePrior


def _from_scratch(
    body: BodyModel, data: _Data, config: FitConfig, generator: torch.Generator
) -> FitResult:
    if data.points.numel():
        state = analytic_start(body, data.vertex_ids, data.points, data.weights, generator)
    else:
        state = _empty(body, len(data.points))
    return _solve(body, state, data, config, warm=False)


def _solve(
    body: BodyModel, state: BodyState, data: _Data, config: FitConfig, warm: bool
) -> FitResult:
    """Gauss-Newton: steps of given widths, then steps as sharp as the points' noise allows."""
    surface = Surface.of(body, data.vertex_ids)
    if warm:
        state = _recentre(body, state, surface, data)
    noise = torch.full((len(state), 1), config.point_std)
    for k, width in enumerate(config.warm_widths if warm else config.cold_widths):
        if k in config.reconsider_before and not warm:
            state = reconsider_limbs(body, state, data.vertex_ids, data.points, data.weights)
        believe = geman_mcclure(width)
        state, noise, equations = _step(body, state, surface, data, noise, believe, config)
    surface = _choose_sides(body, state, equations, surface, data, config)
    for _ in range(max(config.warm_steps if warm else config.cold_steps, 1)):
        state, noise, equations = _step(body, state, surface, data, noise, mixture(noise), config)
    # Rounding adds up over the frames of a track.
    state = replace(state, rotations=nearest_rotation(state.rotations))
    # The last equations are those before a step that hardly mattered any more.
    return judge(body, state, surface, data.weights, noise, equations, config.judge)


def _recentre(body: BodyModel, start: BodyState, surface: Surface, data: _Data) -> BodyState:
    """A warm start moved by the median residual: people walk, and depth as a whole may jump."""
    if not data.points.numel():
        return start
    posed = surface.features(body, start) @ pose_bones(body, start)
    residual = torch.where(data.weights[..., None] > 0, data.points - posed, torch.nan)
    shift = residual.nanmedian(1).values.nan_to_num(0.0)
    return BodyState(start.rotations, start.transl + shift, start.betas)


def _choose_sides(
    body: BodyModel,
    state: BodyState,
    equations: NormalEquations,
    surface: Surface,
    data: _Data,
    config: FitConfig,
) -> Surface:
    """The surface with far points on the other side of the body where they fit much better."""
    far = equations.square > config.side_distance**2
    if not far.any():
        return surface
    mirrored = body.mirror[data.vertex_ids]
    there = Surface.of(body, mirrored).features(body, state) @ equations.line.bones
    closer = (there - data.points).square().sum(-1) < 0.25 * equations.square
    return Surface.of(body, torch.where(far & closer, mirrored, data.vertex_ids))


def _step(
    body: BodyModel,
    state: BodyState,
    surface: Surface,
    data: _Data,
    noise: Tensor,
    believe: Belief,
    config: FitConfig,
) -> tuple[BodyState, Tensor, NormalEquations]:
    """One damped, clipped Gauss-Newton step of the robust loss; also the points' noise (P, 1)."""
    information = _information(data, noise, config)
    equations = normal_equations(
        body, state, surface, data.points, information, believe, data.prior
    )
    # The tiny constant keeps the root solvable where there are no points at all.
    diagonal = equations.hessian.diagonal(dim1=1, dim2=2)
    factor = torch.linalg.cholesky(equations.hessian + torch.diag_embed(1e-3 * diagonal + 1e-3))
    step = -torch.cholesky_solve(equations.gradient[..., None], factor)[..., 0].float()
    betas = state.betas + step[:, BETAS].clamp(-config.max_shape, config.max_shape)
    moved = apply_increment(
        state,
        equations.line,
        _clip(step[:, ROTATIONS].unflatten(1, (NUM_JOINTS, 3)), config.max_turn),
        _clip(step[:, TRANSLATION], config.max_shift),
        betas.clamp(-config.shape_limit, config.shape_limit) - state.betas,
    )
    believed = data.weights * equations.believed
    variance = (believed * equations.square).sum(1, keepdim=True) / (
        3 * believed.sum(1, keepdim=True).clamp_min(1e-9)
    )
    return moved, variance.sqrt().clamp(config.min_noise, config.max_noise), equations


def _information(data: _Data, noise: Tensor, config: FitConfig) -> Tensor:
    """Weights (P, N) as inverse variances that sum to the effective number of points."""
    weights = data.weights
    number = (weights > 0).sum(1, keepdim=True).clamp_max(int(config.effective_points))
    return weights * (number / weights.sum(1, keepdim=True).clamp_min(1e-9)) / noise**2


def _clip(vectors: Tensor, longest: float) -> Tensor:
    return vectors * (longest / vectors.norm(dim=-1, keepdim=True).clamp_min(longest))


def _empty(body: BodyModel, count: int) -> BodyState:
    return BodyState(
        torch.eye(3).repeat(count, NUM_JOINTS, 1, 1),
        torch.zeros(count, 3),
        torch.zeros(count, body.shapedirs.shape[-1]),
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
