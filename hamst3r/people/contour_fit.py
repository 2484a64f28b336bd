"""Gauss-Newton of one body onto a person's outlines.

Contours of masks and the rim of the posed body are drawn to each other: pairs of nearest points,
distances across the contour, robust weights, and a prior of people who stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hamst3r.geometry import lengths
from hamst3r.people.body import BodyModel
from hamst3r.people.contours import Matches, Sight
from hamst3r.people.kinematics import (
    BETAS,
    F32,
    Line,
    Pose,
    Surface,
    bounded_step,
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

    @property
    def precision(self) -> float:
        """Inverse variance of a whole contour, m^-2."""
        return self.contour_points / self.contour_std**2


@dataclass(frozen=True, eq=False)
class Posed:
    """One body before outlines.

    Attributes:
        pose: Of one person. line: Of the bones there.
        features: (96, n) of the places that are compared. axes: (3, 3, n) how their surroundings
            are turned.
        sights: Per outline.
        width: Of the robust weights. config: Of the fit.
    """

    pose: Pose
    line: Line
    features: F32
    axes: F32
    sights: list[Sight]
    width: float
    config: ContourConfig

    @cached_property
    def overlaps(self) -> F64:
        """Per outline, intersection over union of body and mask."""
        return np.array([sight.overlap() for sight in self.sights])

    @cached_property
    def matches(self) -> list[Matches]:
        """Of the outlines whose contours can be matched."""
        return [found for sight in self.sights if (found := sight.match(self.config.reach))]

    @cached_property
    def distances(self) -> F64:
        """(m,) metres, of all matches."""
        return np.concatenate([np.empty(0), *(found.distances for found in self.matches)])

    @cached_property
    def shares(self) -> F64:
        """(m,) of all matches."""
        return np.concatenate([np.empty(0), *(found.shares for found in self.matches)])

    @cached_property
    def loss(self) -> float:
        """Squared deviations of contours, by Geman and McClure's robust function, and of what is
        known of bodies; what finds no partner counts as far off."""
        close = float(self.shares @ (1 / (1 + self.distances**2 / self.width**2)))
        contours = self.config.precision * self.width**2 * (len(self.sights) - close)
        tilt, betas = _tilt(self.pose) / self.config.tilt_std, self.pose.betas[0]
        return contours + float(tilt @ tilt + betas @ betas + STANDING.loss(self.pose)[0])


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
        """A pose as it is, to be weighed with robust weights of that width."""
        line = linearize(self._rig, pose)
        features = self._surface.features(pose)
        places = (line.bones.swapaxes(1, 2) @ features)[0].T.astype(np.float64)
        axes = line.turn_surface(self._surface)[0]
        normals = np.einsum("can,na->nc", axes, self._rig.normals[self.vertices])
        normals = normals / lengths(normals)[:, None]
        sights = [Sight.of(outline, places, normals, self.config.spacing) for outline in outlines]
        return Posed(pose, line, features[0], axes, sights, width, self.config)

    def information(self, posed: Posed) -> tuple[F64, F64]:
        """(1, D, D) of contours, shape and the upright, and (1, D) half of the slope of their loss:
        all but what is known of postures."""
        robust = 1 / (1 + posed.distances**2 / posed.width**2) ** 2
        weights = self.config.precision * posed.shares * robust
        slopes = self._slopes(posed)
        hessian = ((slopes * weights[:, None].astype(np.float32)).T @ slopes)[None].astype(float)
        gradient = ((weights * posed.distances) @ slopes)[None]
        stiff = self.config.tilt_std**-2
        hessian[0, [0, 1], [0, 1]] += stiff
        gradient[0, :2] += stiff * _tilt(posed.pose)
        betas = np.arange(hessian.shape[-1])[BETAS]
        hessian[0, betas, betas] += 1
        gradient[0, BETAS] += posed.pose.betas[0]
        return hessian, gradient

    def _slopes(self, posed: Posed) -> F32:
        """(m, D) derivatives of the distances of all matches."""
        turned = posed.line.turned[0]
        if not posed.matches:
            return np.empty((0, turned.shape[-1]), np.float32)
        places = np.concatenate([found.places for found in posed.matches])
        own, row = np.unique(places, return_inverse=True)
        moved = posed.features[:, own].T @ turned.reshape(len(turned), -1)
        moved = moved.reshape(len(own), 3, -1)
        shapes = self._surface.directions[0][..., own]
        moved[..., BETAS] += np.einsum("can,ban->ncb", posed.axes[..., own], shapes)
        directions = np.concatenate([found.directions for found in posed.matches])
        return (directions.astype(np.float32)[:, None] @ moved[row])[:, 0]

    def _step(self, posed: Posed) -> Pose:
        """After one damped and clipped step."""
        hessian, gradient = self.information(posed)
        add_pose_prior(hessian, gradient, posed.pose, posed.line, STANDING)
        step, _ = damped_step(hessian, gradient)
        return bounded_step(posed.pose, posed.line, step, self.config)


def _tilt(pose: Pose) -> F64:
    """(2,) about x and y, by how much the trunk of a person is turned off the upright."""
    up = pose.rotations[0, 0, :, 1].astype(np.float64)
    return np.array([-up[1], up[0]])
