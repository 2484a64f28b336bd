"""Posed bodies and the labelled points a camera would see of them, for the tests of people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import roma
import torch
from torch import Tensor

from hamst3r.people.body import BodyModel
from hamst3r.people.jacobian import BodyState
from hamst3r.people.prior import pose_prior

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
) -> Cloud:
    """Points all over the surface; outliers are half far points, half wrong vertices."""
    vertices, joints = body(state.rotations, state.transl, state.betas)
    corners = body.v_template[body.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(
        dim=-1
    )
    face = torch.multinomial(
        area.expand(len(state), -1), number, replacement=True, generator=generator
    )
    ids = body.faces[:, 0][face]
    points = torch.gather(vertices, 1, ids[..., None].expand(-1, -1, 3))
    points = points + noise * torch.randn(points.shape, generator=generator)
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
