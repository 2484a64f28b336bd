"""Posed bodies and the labelled points a camera would see of them, for the tests of people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import roma
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from hamst3r.alignment.incremental import Alignment
from hamst3r.people.body import BodyModel
from hamst3r.people.outlines import Outline
from hamst3r.people.prior import pose_prior
from hamst3r.people.state import BodyState
from hamst3r.scene import ScaleSource

UPRIGHT = roma.rotvec_to_rotmat(torch.tensor([np.pi / 2, 0.0, 0.0]))  # y up -> z up


@dataclass(frozen=True)
class Cloud:
    state: BodyState
    joints: Tensor
    points: Tensor
    vertex_ids: Tensor
    weights: Tensor


def random_people(count: int, generator: torch.Generator) -> BodyState:
    """People in varied poses, any heading, standing in a z-up world."""
    mean, std = pose_prior()
    turns = mean + std * torch.randn(count, 24, 3, generator=generator)
    turns[:, 4:6, 0] = turns[:, 4:6, 0].clamp(-0.05, 2.2)
    turns[:, 18, 1] = turns[:, 18, 1].clamp(-2.3, 0.05)
    turns[:, 19, 1] = turns[:, 19, 1].clamp(-0.05, 2.3)
    rotations = roma.rotvec_to_rotmat(turns)
    heading = torch.zeros(count, 3)
    heading[:, 2] = torch.rand(count, generator=generator) * 2 * np.pi
    lean = 0.2 * torch.randn(count, 3, generator=generator)
    rotations[:, 0] = roma.rotvec_to_rotmat(heading) @ roma.rotvec_to_rotmat(lean) @ UPRIGHT
    transl = torch.randn(count, 3, generator=generator) * torch.tensor([2.0, 2.0, 0.3])
    return BodyState(rotations, transl, torch.randn(count, 10, generator=generator))


def observe(
    body: BodyModel,
    state: BodyState,
    generator: torch.Generator,
    number: int = 500,
    noise: float = 0.02,
    outliers: float = 0.2,
    one_view: bool = False,
    place_noise: float = 0.0,
    flips: float = 0.0,
) -> Cloud:
    """Points of the surface; outliers are half far points, half wrong vertices.

    Args:
        one_view: Only from the half of the surface that faces a camera in some direction.
        place_noise: Deviation, metres on the template, of the place on the body that a point
            claims to be.
        flips: Share of the points that are said to be on the other side of the body.
    """
    vertices, joints = body(state.rotations, state.transl, state.betas)
    corners = vertices[:, body.faces]
    normal = torch.linalg.cross(
        corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]
    )
    area = normal.norm(dim=-1)
    if one_view:
        angle = 2 * np.pi * torch.rand(len(state), generator=generator)
        camera = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], -1)
        area = (normal @ camera[..., None])[..., 0].clamp_min(0)
    face = torch.multinomial(area, number, replacement=True, generator=generator)
    ids = body.faces[:, 0][face]
    points = torch.gather(vertices, 1, ids[..., None].expand(-1, -1, 3))
    points = points + noise * torch.randn(points.shape, generator=generator)
    if place_noise:
        claimed = body.v_template[ids]
        claimed = claimed + place_noise * torch.randn(claimed.shape, generator=generator)
        ids = torch.from_numpy(cKDTree(body.v_template.numpy()).query(claimed.numpy())[1])
    flipped = int(number * flips)
    ids[:, number - flipped :] = body.mirror[ids[:, number - flipped :]]
    far = int(number * outliers / 2)
    if far:
        shift = torch.rand(len(state), far, 3, generator=generator) - 0.5
        points[:, :far] += 1.2 * shift
        ids[:, far : 2 * far] = torch.randint(
            len(body.v_template), (len(state), far), generator=generator
        )
    return Cloud(state, joints, points, ids, torch.ones(len(state), number))


def joint_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean distance of joints per person, metres."""
    return (a - b).norm(dim=-1).mean(1)


# --- rigs and views -----------------------------------------------------------------------------

GRID = (96, 72)  # rows, columns: portrait, so that a whole person fits at 3 m


def camera_at(position: tuple[float, float, float], target: tuple[float, float, float]):
    """(4, 4) T_world_cam of a camera (OpenCV axes) looking at a target, z up."""
    forward = np.subtract(target, position).astype(float)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    T[:3, 3] = position
    return T


def intrinsics(focal: float = 150.0) -> np.ndarray:
    return np.array([[focal, 0, GRID[1] / 2 - 0.5], [0, focal, GRID[0] / 2 - 0.5], [0, 0, 1.0]])


def calibrated(
    cameras: Sequence[np.ndarray],
    K: np.ndarray,
    depths: Sequence[np.ndarray],
    scale: ScaleSource = ScaleSource.CALIBRATION,
) -> Alignment:
    """Cameras (N, 4, 4) that are exactly known, with their depths (gh, gw)."""
    return Alignment(
        placed=np.ones(len(cameras), dtype=bool),
        T_world_cam=np.stack(cameras),
        K=[K] * len(cameras),
        camera_confidence=np.ones(len(cameras)),
        depth=list(depths),
        confidence=[(depth > 0) * np.float32(5) for depth in depths],
        scale_source=scale,
        scale_std=0.0,
        notes=(),
    )


def standing(transl: tuple[float, float, float], turn: float = 0.0, raise_arms: float = 0.0):
    """One relaxed person at a place; arms hang unless raised."""
    mean, _ = pose_prior()
    turns = mean.clone()
    turns[1:3, 0] = -0.1
    turns[4:6, 0] = 0.2
    turns[16, 2], turns[17, 2] = -1.2 + raise_arms, 1.2 - raise_arms
    rotations = roma.rotvec_to_rotmat(turns)
    rotations[0] = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.0, turn])) @ UPRIGHT
    return BodyState(rotations[None], torch.tensor([transl]), torch.zeros(1, 10))


def photograph(
    body: BodyModel, people: dict[int, BodyState], T_world_cam: np.ndarray, K: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Instances (gh, gw), depth and canonical coordinates by splatting the vertices."""
    vertices = {
        local: body(state.rotations, state.transl, state.betas)[0][0].numpy()
        for local, state in people.items()
    }
    return splat(body, vertices, T_world_cam, K, GRID)


def splat(
    body: BodyModel,
    people: dict[int, np.ndarray],
    T_world_cam: np.ndarray,
    K: np.ndarray,
    grid: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As :func:`photograph`, of posed vertices."""
    instances = np.zeros(grid, dtype=np.int32)
    depth = np.full(grid, np.inf, dtype=np.float32)
    canonical = np.full((*grid, 3), np.nan, dtype=np.float32)
    T_cam_world = np.linalg.inv(T_world_cam)
    for local, vertices in people.items():
        seen = vertices @ T_cam_world[:3, :3].T + T_cam_world[:3, 3]
        ahead = np.maximum(seen[:, 2:], 0.1)
        pixels = np.rint((seen @ K.T)[:, :2] / ahead).astype(int)
        order = np.argsort(-seen[:, 2])  # the nearest is written last
        inside = ((pixels >= 0) & (pixels < [grid[1], grid[0]])).all(1) & (seen[:, 2] > 0.1)
        order = order[inside[order]]
        own = np.full(grid, np.inf, dtype=np.float32)
        places = np.full((*grid, 3), np.nan, dtype=np.float32)
        own[pixels[order, 1], pixels[order, 0]] = seen[order, 2]
        places[pixels[order, 1], pixels[order, 0]] = body.canonical.numpy()[order]
        front = own < depth
        instances[front], depth[front], canonical[front] = local, own[front], places[front]
    return instances, np.where(np.isfinite(depth), depth, 0), canonical


# --- outlines -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeakEyes:
    """What a weak network makes of a person.

    Attributes:
        wobble: Deviation in pixels of where a mask ends, alike over some pixels.
        cut: Chance that a view's mask lacks its upper or lower fifth.
        lost: Number of views whose mask is something else altogether.
        sided: How much of left or right and of front or back is told: 0 nothing, 1 all.
    """

    wobble: float = 1.0
    cut: float = 0.3
    lost: int = 0
    sided: float = 0.0


def cameras_around(middle: np.ndarray, views: int, rng: np.random.Generator) -> list[np.ndarray]:
    """T_world_cam of cameras 3.2 m from a place, about evenly around it, at most 1 m higher."""
    angles = rng.uniform(0, 2 * np.pi) + np.arange(views) * 2 * np.pi / max(views, 3)
    found = []
    for angle in angles + rng.normal(0, 0.3, views):
        shift = np.array([3.2 * np.cos(angle), 3.2 * np.sin(angle), rng.uniform(0, 1)])
        found.append(camera_at(tuple(middle + shift), tuple(middle)))
    return found


def weakly_seen(
    body: BodyModel,
    vertices: np.ndarray,
    cameras: Sequence[np.ndarray],
    eyes: WeakEyes,
    rng: np.random.Generator,
    K: np.ndarray | None = None,
) -> list[Outline]:
    """Outlines of a posed body (V, 3) in views of :data:`GRID` size."""
    K = intrinsics() if K is None else K
    found = []
    for view, T_world_cam in enumerate(cameras):
        ids, _, canonical = splat(body, {1: vertices}, T_world_cam, K, GRID)
        mask = cv2.morphologyEx((ids > 0).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3)))
        inside = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
        outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
        field = cv2.GaussianBlur(rng.normal(size=GRID), (0, 0), 3.0)
        seen = inside - outside + eyes.wobble * field / field.std() > 0
        if rng.random() < eyes.cut:
            rows = np.flatnonzero(seen.any(1))
            fifth = np.array_split(rows, 5)[rng.choice([0, 4])]
            seen[fifth] = False
        if view < eyes.lost:
            seen = cv2.GaussianBlur(rng.normal(size=GRID), (0, 0), 8.0) > 0.02
        found.append(
            Outline(
                view=view,
                mask=seen,
                unknown=np.zeros(GRID, bool),
                coordinates=_averaged(body, canonical, eyes.sided, rng),
                K=K,
                T_world_cam=T_world_cam,
            )
        )
    return found


def _averaged(
    body: BodyModel, canonical: np.ndarray, sided: float, rng: np.random.Generator
) -> np.ndarray:
    """Coordinates as an L2 loss makes them where nothing else is told than the height, and that
    not well."""
    middle = np.array([0.5, 0.6, float(body.canonical[:, 2].mean())])
    gain = np.array([sided, 0.6, sided])
    said = middle + gain * (canonical - middle) + 0.02 * rng.normal(size=canonical.shape)
    return said.astype(np.float32)
