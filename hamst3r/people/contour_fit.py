"""Gauss-Newton of one body onto a person's outlines.

Contours of masks and the rim of the posed body are drawn to each other: pairs of nearest points,
distances across the contour, robust weights, and a prior of people who stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hamst3r.people.body import NUM_JOINTS, BodyModel
from hamst3r.people.contours import Matches, Sight
from hamst3r.people.kinematics import (
    BETAS,
    F32,
    ROTATIONS,
    TRANSLATION,
    Line,
    Pose,
    Surface,
    apply_increment,
    clipped,
    linearize,
    nearest_rotations,
    rig,
)
from hamst3r.people.normal import STANDING, add_pose_prior, damped_step, unbend
from hamst3r.people.outlines import Outline

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class ContourConfig:
    """How a body is drawn to outlines. Metres and radians.

    Attributes:
        spacing: Of the places of the body that are compared.
        reach: Pairs of places and contour points are at most so far apart.
        contour_std: Deviation of contours, and
        contour_points: how many independent points one is worth.
        tilt_std: Of the trunk against the upright. shape_limit: Betas stay within +- this.
        max_turn, max_shift, max_shape: Longest step of a joint, the translation, a beta.
    """

    spacing: float = 0.045
    reach: float = 0.5
    contour_std: float = 0.04
    contour_points: float = 40.0
    tilt_std: float = 0.3
    shape_limit: float = 3.0
    max_turn: float = 0.4
    max_shift: float = 0.3
    max_shape: float = 1.0


@dataclass(frozen=True, eq=False)
class Posed:
    """One body before outlines, and the equations there.

    Attributes:
        pose: Of one person. loss: Squared deviations, robust, with those of the priors.
        line: Of the bones. information: (1, D, D) of contours, shape and upright alone.
        hessian: (1, D, D) and gradient: (1, D) of half of the loss.
        sights: Per outline. matches: Of those whose contours could be matched.
    """

    pose: Pose
    loss: float
    line: Line
    information: F64
    hessian: F64
    gradient: F64
    sights: list[Sight]
    matches: list[Matches]

    def overlaps(self) -> F64:
        """Per outline, intersection over union of body and mask."""
        return np.array([sight.overlap() for sight in self.sights])


class ContourFitter:
    """Draws bodies to outlines; built once per body model.

    Attributes:
        vertices: (n,) of the body, those that are compared.
    """

    def __init__(self, body: BodyModel, config: ContourConfig | None = None) -> None:
        self.config = config or ContourConfig()
        self._rig = rig(body)
        cells = np.floor(self._rig.template / self.config.spacing).astype(np.int64)
        self.vertices = np.sort(np.unique(cells, axis=0, return_index=True)[1])
        self._surface = Surface.of(self._rig, self.vertices[None])

    def solve(self, pose: Pose, outlines: Sequence[Outline], widths: Sequence[float]) -> Posed:
        """One step for each width of the robust weights."""
        for width in widths:
            pose = self._step(self.at(pose, outlines, width))
        # Rounding adds up over the frames of a track.
        pose = unbend(replace(pose, rotations=nearest_rotations(pose.rotations)))
        return self.at(pose, outlines, widths[-1])

    def at(self, pose: Pose, outlines: Sequence[Outline], width: float) -> Posed:
        """A pose as it is, with the loss of robust weights of that width."""
        line = linearize(self._rig, pose)
        features = self._surface.features(pose)
        places = (line.bones.swapaxes(1, 2) @ features)[0].T.astype(np.float64)
        axes = line.turn_surface(self._surface)[0]
        normals = np.einsum("can,na->nc", axes, self._rig.normals[self.vertices])
        normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        sights = [Sight.of(outline, places, normals, self.config.spacing) for outline in outlines]
        matches = [found for sight in sights if (found := sight.match(self.config.reach))]
        distances = np.concatenate([np.empty(0), *(found.distances for found in matches)])
        shares = np.concatenate([np.empty(0), *(found.shares for found in matches)])
        precision = self.config.contour_points / self.config.contour_std**2
        # The robust loss of Geman and McClure; what finds no partner counts as far off.
        ratio = 1 / (1 + distances**2 / width**2)
        loss = precision * width**2 * (len(sights) - float(shares @ ratio))
        weights = precision * shares * ratio**2
        slopes = self._slopes(matches, line, features[0], axes)
        seen = ((slopes * weights[:, None].astype(np.float32)).T @ slopes)[None].astype(float)
        gradient = ((weights * distances) @ slopes)[None]
        loss += float(STANDING.loss(pose)[0]) + self._add_stance(seen, gradient, pose)
        hessian = seen.copy()
        add_pose_prior(hessian, gradient, pose, line, STANDING)
        return Posed(pose, loss, line, seen, hessian, gradient, sights, matches)

    def _slopes(self, matches: Sequence[Matches], line: Line, features: F32, axes: F32) -> F32:
        """(m, D) derivatives of the distances of all matches."""
        turned = line.turned[0]
        if not matches:
            return np.empty((0, turned.shape[-1]), np.float32)
        own, row = np.unique(
            np.concatenate([found.places for found in matches]), return_inverse=True
        )
        moved = features[:, own].T @ turned.reshape(len(features), -1)
        moved = moved.reshape(len(own), 3, -1)
        shapes = self._surface.directions[0][..., own]
        moved[..., BETAS] += np.einsum("can,ban->ncb", axes[..., own], shapes)
        directions = np.concatenate([found.directions for found in matches]).astype(np.float32)
        return (directions[:, None] @ moved[row])[:, 0]

    def _add_stance(self, hessian: F64, gradient: F64, pose: Pose) -> float:
        """Add the upright and the population's shapes to the equations; their loss."""
        up = pose.rotations[0, 0, :, 1].astype(np.float64)
        tilt = np.array([up[1], -up[0]])  # what turns it upright, about x and y
        stiff = self.config.tilt_std**-2
        hessian[0, [0, 1], [0, 1]] += stiff
        gradient[0, :2] -= stiff * tilt
        betas = np.arange(hessian.shape[-1])[BETAS]
        hessian[0, betas, betas] += 1
        gradient[0, BETAS] += pose.betas[0]
        return float(stiff * tilt @ tilt + pose.betas[0] @ pose.betas[0])

    def _step(self, posed: Posed) -> Pose:
        """After one damped and clipped step."""
        config, pose = self.config, posed.pose
        step, _ = damped_step(posed.hessian, posed.gradient)
        betas = pose.betas + step[:, BETAS].clip(-config.max_shape, config.max_shape)
        return apply_increment(
            pose,
            posed.line,
            clipped(step[:, ROTATIONS].reshape(1, NUM_JOINTS, 3), config.max_turn),
            clipped(step[:, TRANSLATION], config.max_shift),
            betas.clip(-config.shape_limit, config.shape_limit) - pose.betas,
        )
