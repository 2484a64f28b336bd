"""Other joint sets, regressed from a body's surface: COCO's 17 keypoints, Human3.6M's 17, and the
14 of these that evaluations share.

The regressors are our own, made of the body model alone: limbs are its joints, and places of the
face are found on its template. So they work for any model in SMPL's layout.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from hamst3r.people.body import JOINT_NAMES, BodyModel

_HEAD = JOINT_NAMES.index("head")
_NEAREST = 6  # vertices whose mean a place of the face is
_MIDLINE = 0.012  # metres from the middle plane within which the nose is looked for
# As shares of the distances from the nose's tip to the top of the head, and from ear to ear.
_EYES_UP, _EYES_APART = 0.24, 0.37

_RIGHT_LEG = ("right_hip", "right_knee", "right_ankle")
_LEFT_LEG = ("left_hip", "left_knee", "left_ankle")
_RIGHT_ARM = ("right_shoulder", "right_elbow", "right_wrist")
_LEFT_ARM = ("left_shoulder", "left_elbow", "left_wrist")
# Names in the order in which each set is usually written. Human3.6M's "spine" and "thorax" are the
# body's spine2 and neck, its "neck" the nose.
JOINT_SETS: dict[str, tuple[str, ...]] = {
    "coco17": (
        "nose",
        *(f"{side}_{part}" for part in ("eye", "ear") for side in ("left", "right")),
        *(name for pair in zip(_LEFT_ARM, _RIGHT_ARM, strict=True) for name in pair),
        *(name for pair in zip(_LEFT_LEG, _RIGHT_LEG, strict=True) for name in pair),
    ),
    "h36m17": (
        "pelvis",
        *_RIGHT_LEG,
        *_LEFT_LEG,
        *("spine2", "neck", "nose", "head_top"),
        *_LEFT_ARM,
        *_RIGHT_ARM,
    ),
    "common14": (
        *reversed(_RIGHT_LEG),
        *_LEFT_LEG,
        *reversed(_RIGHT_ARM),
        *_LEFT_ARM,
        *("neck", "head_top"),
    ),
}


@lru_cache(maxsize=8)
def regressor(body: BodyModel, name: str) -> Tensor:
    """(J, V) weights, >= 0, that sum to one: joints are ``regressor @ vertices``.

    Args:
        name: One of :data:`JOINT_SETS`. Joints come in the order given there.

    Raises:
        ValueError: There is no such set.
    """
    if name not in JOINT_SETS:
        raise ValueError(f"joint set {name!r} is unknown; there are {', '.join(JOINT_SETS)}")
    face = _face(body)
    rows = [
        body.J_regressor[JOINT_NAMES.index(joint)] if joint in JOINT_NAMES else face[joint]
        for joint in JOINT_SETS[name]
    ]
    weights = torch.stack(rows)
    return weights / weights.sum(1, keepdim=True)


def joints(body: BodyModel, name: str, vertices: Tensor) -> Tensor:
    """(P, J, 3) joints of a set, metres, of posed vertices (P, V, 3); differentiable.

    Raises:
        ValueError: There is no such set, or the vertices are not the body's.
    """
    if vertices.shape[1:] != body.v_template.shape:
        raise ValueError(
            f"vertices must be (P, {len(body.v_template)}, 3) for {body.name}, "
            f"got {tuple(vertices.shape)}"
        )
    return regressor(body, name).to(vertices) @ vertices


def _face(body: BodyModel) -> dict[str, Tensor]:
    """Name -> (V,) weights, of places on the head in the rest pose (x left, y up, z front)."""
    own = (body.part == _HEAD).nonzero()[:, 0]
    head = body.v_template[own]
    middle = head[head[:, 0].abs() < _MIDLINE]
    nose = middle[middle[:, 2].argmax()]
    top = middle[middle[:, 1].argmax()]
    found = {"nose": nose, "head_top": top}
    width = 0.0
    for side, sign in (("left", 1.0), ("right", -1.0)):
        found[f"{side}_ear"] = ear = head[(sign * head[:, 0]).argmax()]
        width += sign * float(ear[0])
    front = head[head[:, 2] > (nose[2] + head[:, 2].mean()) / 2]
    height = nose[1] + _EYES_UP * (top[1] - nose[1])
    for side, sign in (("left", 1.0), ("right", -1.0)):
        wanted = torch.stack([nose[0] + sign * _EYES_APART * width / 2, height])
        found[f"{side}_eye"] = front[(front[:, :2] - wanted).norm(dim=1).argmin()]
    weights = {}
    for name, place in found.items():
        near = (head - place).norm(dim=1).topk(_NEAREST, largest=False).indices
        weights[name] = torch.zeros(len(body.v_template)).index_fill_(0, own[near], 1 / _NEAREST)
    return weights
