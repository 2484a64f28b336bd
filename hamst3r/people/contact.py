"""Where bodies touch the scene: feet, hands and seat, and what that says of the scene's scale.

The ideas are JOSH's (joint optimisation of scene and humans): a part in contact lies on the scene's
surface, which ties the two scales together, and stays where it is while it is in contact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamst3r.people.body import NUM_JOINTS, BodyModel
from hamst3r.people.kinematics import F32, Pose, pose_bones, rig
from hamst3r.people.surroundings import Planes, Surroundings
from hamst3r.scene import Contact

F64 = NDArray[np.float64]

# Contact, parts of the body, direction of the surface at rest, range along z from the first part's
# joint (metres): heel and ball of the foot, palm (down in the T-pose), back of the thighs.
_POINTS: tuple[tuple[Contact, tuple[int, ...], tuple[float, float, float], float, float], ...] = (
    (Contact.LEFT_FOOT, (7,), (0.0, -1.0, 0.0), -0.10, 0.03),
    (Contact.LEFT_FOOT, (10, 7), (0.0, -1.0, 0.0), -0.03, 0.03),
    (Contact.RIGHT_FOOT, (8,), (0.0, -1.0, 0.0), -0.10, 0.03),
    (Contact.RIGHT_FOOT, (11, 8), (0.0, -1.0, 0.0), -0.03, 0.03),
    (Contact.LEFT_HAND, (22, 20), (0.0, -1.0, 0.0), -0.05, 0.05),
    (Contact.RIGHT_HAND, (23, 21), (0.0, -1.0, 0.0), -0.05, 0.05),
    (Contact.SEAT, (1,), (0.0, 0.0, -1.0), -1.0, 0.0),
    (Contact.SEAT, (2,), (0.0, 0.0, -1.0), -1.0, 0.0),
)
FLAGS = np.array([int(flag) for flag, *_ in _POINTS], dtype=np.int64)
NUM_CONTACTS = len(_POINTS)
FEET = slice(0, 4)
_FACING = 0.7  # cosine between a vertex's normal and the wanted direction
_THIGH = 0.22  # metres below the hip to which the seat reaches


class ContactPoints:
    """Places of the body that touch things: each the mean of a few vertices, hence linear in the
    joints' rigid motions as any vertex is (see ``kinematics.py``)."""

    def __init__(self, body: BodyModel) -> None:
        self._rig = rig(body)
        moments, shapes, weights = [], [], []
        for _, parts, direction, low, high in _POINTS:
            chosen = _choose(body, parts, torch.tensor(direction), low, high)
            share = body.weights[chosen]
            moments.append(torch.einsum("nj,nc->jc", share, body.v_template[chosen]) / len(chosen))
            shapes.append(torch.einsum("nj,nck->jck", share, body.shapedirs[chosen]) / len(chosen))
            weights.append(share.mean(0))
        self._moments, self._shapes = torch.stack(moments).numpy(), torch.stack(shapes).numpy()
        self._weights = torch.stack(weights).numpy()

    def features(self, betas: F32) -> F32:
        """(P, C, 96): places are ``features @ bones``, see :class:`~kinematics.Line`."""
        features = np.empty((len(betas), NUM_CONTACTS, 4, NUM_JOINTS), np.float32)
        moved = self._moments + np.einsum("cjak,pk->pcja", self._shapes, betas)
        arms = moved - self._weights[..., None] * self._rig.rest_joints(betas)[:, None]
        features[:, :, :3], features[:, :, 3] = arms.swapaxes(2, 3), self._weights
        return features.reshape(len(betas), NUM_CONTACTS, 4 * NUM_JOINTS)

    def places(self, pose: Pose) -> F64:
        """(P, C, 3) metres in the world."""
        placed: F32 = self.features(pose.betas) @ pose_bones(self._rig, pose)
        return placed.astype(np.float64)


def _choose(
    body: BodyModel, parts: tuple[int, ...], direction: Tensor, low: float, high: float
) -> Tensor:
    joint = body.joint_template[parts[0]]
    place = body.v_template - joint
    facing = (body.normals @ direction) > _FACING
    chosen = facing & torch.isin(body.part, torch.tensor(parts))
    chosen &= (place[:, 2] > low) & (place[:, 2] < high)
    if direction[2]:  # the seat: not the whole thigh
        chosen &= place[:, 1] > -_THIGH
    if not chosen.any():  # a model of unusual shape: the part itself
        chosen = body.part == parts[0]
    return chosen.nonzero()[:, 0]


@dataclass(frozen=True)
class ContactConfig:
    """When something touches. Metres and seconds.

    Attributes:
        distance: A point this near the surface touches it, if it is also no faster than
        speed, metres per second, beyond what the noise of its place makes of it.
        release: Both may be this many times larger for a contact to last.
    """

    distance: float = 0.05
    speed: float = 0.1
    release: float = 1.7


def touching(
    places: F64,
    before: F64 | None,
    dt: float | F64,
    std: F64,
    planes: Planes,
    last: NDArray[np.bool_],
    config: ContactConfig,
) -> NDArray[np.bool_]:
    """Which points (C, 3) of a body touch the scene.

    Args:
        before: Their places ``dt`` seconds, or (C,) seconds, earlier; None: nothing is known to
            stand still.
        std: (C,) deviation of the places per axis. planes: Near the places.
        last: (C,) what touched then.
    """
    if before is None or not np.all(np.asarray(dt) > 0):
        return np.zeros(len(places), dtype=bool)
    slack = np.where(last, config.release, 1.0)
    height = np.abs(((places - planes.points) * planes.normals).sum(1))
    moved = np.linalg.norm(places - before, axis=1)
    still = moved < slack * (config.speed * dt + 3.0 * std)
    return planes.known & still & (height < slack * config.distance)


def flags(touches: NDArray[np.bool_]) -> Contact:
    """As the bits of a :class:`~hamst3r.scene.Person`."""
    return Contact(int(np.bitwise_or.reduce(np.where(touches, FLAGS, 0))))


@dataclass(frozen=True)
class ScaleConfig:
    """How the scale of a scene is found from contacts.

    Attributes:
        low, high, steps: Factors tried before the best is refined.
        width: Metres, of the robust loss of a point's distance from the surface.
        noise: Metres, smallest deviation of a contact's height that is believed.
        min_contacts: With fewer, nothing is said.
    """

    low: float = 0.5
    high: float = 2.0
    steps: int = 71
    width: float = 0.06
    noise: float = 0.02
    min_contacts: int = 4


def contact_scale(
    lowest: F64,
    groups: NDArray[np.int64],
    surroundings: Surroundings,
    origin: F64,
    config: ScaleConfig | None = None,
) -> tuple[float, float] | None:
    """By which factor the scene must be scaled for bodies to stand on it (JOSH's contact scale).

    Bodies are metric, the scene is not: their places hold whatever the scale of the scene is.

    Args:
        lowest: (n, 3) metres, points of the bodies that touch the scene most likely: soles.
        groups: (n,) which of them err alike (one person's), for the deviation.
        origin: (3,) or (n, 3) the places about which the scene is scaled: those of the cameras.

    Returns:
        The factor and its relative deviation, or None where too little touches.
    """
    config = config or ScaleConfig()
    offsets = lowest - origin

    def off(scale: float) -> tuple[F64, F64, NDArray[np.bool_]]:
        """Metres that points are above the scaled scene, its reach from the origin, known."""
        planes = surroundings.planes(origin + offsets / scale)
        reach = ((planes.points - origin) * planes.normals).sum(1)
        return (offsets * planes.normals).sum(1) - scale * reach, reach, planes.known

    best, best_score = None, 0.0
    for scale in np.geomspace(config.low, config.high, config.steps):
        gap, _, known = off(float(scale))
        score = float((known / (1 + (gap / config.width) ** 2)).sum())
        if score > best_score:
            best, best_score = float(scale), score
    if best is None:
        return None
    for _ in range(6):
        gap, reach, known = off(best)
        weight = known / (1 + (gap / config.width) ** 2) ** 2
        leverage = float((weight * reach**2).sum())
        if weight.sum() < config.min_contacts or leverage <= 0:
            return None
        best += float((weight * reach * gap).sum()) / leverage
        if not config.low <= best <= config.high:
            return None
    spread = max(float(np.sqrt((weight * gap**2).sum() / weight.sum())), config.noise)
    # People err on their own; the points of one person together.
    independent = len(np.unique(groups[weight > 0.25]))
    typical = np.sqrt(leverage / weight.sum())
    return best, spread / typical / np.sqrt(max(independent, 1)) / best
