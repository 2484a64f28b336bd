"""Bodies of people of whom only the outlines are known.

A network that does not know places on the body well enough for ``fitting.py`` (one that takes left
for right predicts their mean, which is neither) may still know where people end in the images. What
two or more calibrated views show of that says where a person stands, how large, which way trunk and
legs point, and along which line the person faces; of arms it says little, and of which of the two
ways along that line hardly anything. So both ways are followed, and deviations say how little is
known.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hamst3r.geometry import closest_approach
from hamst3r.people.body import JOINT_NAMES, NUM_JOINTS, BodyModel
from hamst3r.people.contour_fit import ContourConfig, ContourFitter, Posed
from hamst3r.people.facing import SaidPlaces, Walk, ahead, facing_about
from hamst3r.people.fitting import single_thread
from hamst3r.people.judging import body_fit, posterior
from hamst3r.people.kinematics import F32, Pose, rig, rotations, skeleton
from hamst3r.people.normal import EVERYDAY, STANDING, add_pose_prior
from hamst3r.people.outlines import Outline
from hamst3r.people.state import BodyState
from hamst3r.scene import BodyFit

F64 = NDArray[np.float64]
_LOG = logging.getLogger(__name__)

_UPRIGHT = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32)  # y up -> z up, facing -y
# Deviations that contours may not show, where they are taken for those of another limb or end where
# the body does not, in metres per unit of what overlap lacks to 1; calibrated on simulated outlines
# so that 68 % of all errors lie within one deviation (benchmarks/outlines.py).
_DOUBTS = {
    "hip": 0.07,
    "knee": 0.2,
    "ankle": 0.37,
    "foot": 0.4,
    "shoulder": 0.05,
    "elbow": 0.14,
    "wrist": 0.36,
    "hand": 0.48,
}
_TRUNK_DOUBT = 0.085
_DOUBT = np.array([_DOUBTS.get(name.split("_")[-1], _TRUNK_DOUBT) for name in JOINT_NAMES])
_HEADINGS = 4  # tried on half of the circle: from the other side the outline is nearly the same


@dataclass(frozen=True)
class StandingConfig:
    """When to believe a body fitted to outlines, and how exactly. Metres, radians, seconds.

    Attributes:
        min_pixels: Views with fewer pixels of a person are left out.
        min_views, min_overlap: A body is believed where in so many views it and the mask have this
            intersection over union; other views are left out.
        min_angle: Between the rays of two such views.
        min_order: Correlation, of the heights on the body that pixels are said to show with those
            of the fitted body, below which it is no person, or not one who stands.
        min_height, max_height: Of the standing body.
        coarse_widths, fine_widths, warm_widths: Of the robust weights, in steps from nothing, those
            after them, and those after a previous result.
        contour_trust: How much of what contours say about the way of facing is to be believed:
            simulated ones deserve 0.15, real masks, whose errors are alike, less.
        walking, walking_std: Speed forward of people, and its deviation, m/s.
        afresh: A person is looked for from nothing again after this time: outlines may mislead.
        correlated: Evidence about the way of facing nearer in time is the same evidence.
        remembered: Evidence fades in that time: errors of masks of somebody who stands are alike.
        surest: Largest log odds of one way of facing against the other.
        contours: How a body is drawn to outlines.
    """

    min_pixels: int = 40
    min_views: int = 2
    min_overlap: float = 0.4
    min_angle: float = 0.2
    min_order: float = 0.3
    min_height: float = 0.9
    max_height: float = 2.2
    coarse_widths: tuple[float, ...] = (0.3, 0.25, 0.2, 0.2)
    fine_widths: tuple[float, ...] = (0.16, 0.13, 0.13, 0.13)
    warm_widths: tuple[float, ...] = (0.13, 0.13)
    contour_trust: float = 0.05
    walking: float = 0.5
    walking_std: float = 0.4
    afresh: float = 1.0
    correlated: float = 0.5
    remembered: float = 2.0
    surest: float = 4.0
    contours: ContourConfig = field(default_factory=ContourConfig)


@dataclass(frozen=True, eq=False)
class Stance:
    """A person fitted to outlines.

    Attributes:
        pose: Of one person. opposite: Facing the other way, the second best explanation.
        odds: Logarithm of how much likelier ``pose`` is than ``opposite``.
        joints: (24, 3) metres, world. joint_std: (24,) one deviation per axis, with what the doubt
            about the way of facing adds.
        rmse: Metres, of the contour points that lie near the body's rim. inliers: Their number.
        overlaps: View -> intersection over union of body and mask, of the views that are used.
        searched: Seconds since the person was looked for from nothing.
    """

    pose: Pose
    opposite: Pose
    odds: float
    joints: F32
    joint_std: F32
    rmse: float
    inliers: int
    overlaps: dict[int, float]
    searched: float

    @property
    def facing(self) -> float:
        """Probability that the person faces this way and not the opposite one."""
        return float(1 / (1 + np.exp(-self.odds)))

    def body_fit(self, body: BodyModel) -> BodyFit:
        """The parameters, of the model that was fitted."""
        return body_fit(body, BodyState.of(self.pose), self.rmse, self.inliers, self.facing)

    def moved(self, shift: F64) -> Stance:
        """The same elsewhere, as a start for the next frame set."""
        return replace(self, pose=_moved(self.pose, shift), opposite=_moved(self.opposite, shift))


class StandingFitter:
    """Fits standing bodies to outlines in a world whose z is up; built once per body model."""

    def __init__(self, body: BodyModel, config: StandingConfig | None = None) -> None:
        self.config = config or StandingConfig()
        self._rig = rig(body)
        self._contours = ContourFitter(body, self.config.contours)
        self._places_said = SaidPlaces(body, self._contours.vertices)

    def fit(
        self,
        outlines: Sequence[Outline],
        before: Stance | None = None,
        elapsed: float = 0.0,
        walk: Walk | None = None,
        afresh: bool = True,
    ) -> Stance | None:
        """The body of one person, or None where outlines do not show one.

        Args:
            before: The last result, where the person is expected now. elapsed: Seconds since.
            walk: How the person moves. afresh: Whether to look from nothing again, which takes
                several times as long, when it is time to.
        """
        if len(outlines) < self.config.min_views:
            return None
        with single_thread():
            return self._fit(outlines, before, elapsed, walk, afresh)

    def _fit(
        self,
        outlines: Sequence[Outline],
        before: Stance | None,
        elapsed: float,
        walk: Walk | None,
        afresh: bool,
    ) -> Stance | None:
        found, searched = None, 0.0
        if before is not None:
            known, widths = frozenset(before.overlaps), self.config.warm_widths
            found = self._refine(outlines, before.pose, before.opposite, widths, known)
            searched = before.searched + elapsed
        due = afresh and searched > self.config.afresh
        if found is None or due or self._lost(found, before):
            searched, found = 0.0, self._better(found, self._search(outlines), outlines)
        if found is None:
            return None
        one, other = found
        if before is not None and ahead(one.pose) @ ahead(before.pose) < 0:
            one, other = other, one
        odds = self._evidence(one, other, walk)
        if before is not None:
            share = min(elapsed / self.config.correlated, 1.0)
            odds = before.odds * np.exp(-elapsed / self.config.remembered) + share * odds
        odds = float(np.clip(odds, -self.config.surest, self.config.surest))
        best, worse = (one, other) if odds >= 0 else (other, one)
        return self._believed(best, worse, abs(odds), searched)

    def _lost(self, found: tuple[Posed, Posed], before: Stance | None) -> bool:
        """Whether a view does not agree any more: it may be right, and the others may mislead."""
        return before is not None and len(found[0].sights) < len(before.overlaps)

    def _better(
        self,
        one: tuple[Posed, Posed] | None,
        other: tuple[Posed, Posed] | None,
        outlines: Sequence[Outline],
    ) -> tuple[Posed, Posed] | None:
        """The pair whose better body is nearer to all outlines, also those it does not use."""
        if one is None or other is None:
            return one or other
        width = self.config.fine_widths[-1]
        losses = [
            min(self._contours.at(posed.pose, outlines, width).loss for posed in pair)
            for pair in (one, other)
        ]
        return one if losses[0] <= losses[1] else other

    def _search(self, outlines: Sequence[Outline]) -> tuple[Posed, Posed] | None:
        """From nothing: the place where the middles of most masks meet, and a few headings."""
        config, contours = self.config, self._contours
        places = self._places(outlines)
        if not places:
            return None
        width = config.coarse_widths[-1]
        shown = [contours.at(self._upright(p, 0.0), outlines, width).overlaps for p in places]
        place = places[int(np.argmax([overlaps.sum() for overlaps in shown]))]
        found = [
            contours.solve(self._upright(place, turn), outlines, config.coarse_widths)
            for turn in np.pi * np.arange(_HEADINGS) / _HEADINGS
        ]
        best = min(found, key=lambda posed: posed.loss)
        return self._refine(outlines, best.pose, facing_about(best.pose), config.fine_widths)

    def _refine(
        self,
        outlines: Sequence[Outline],
        pose: Pose,
        opposite: Pose,
        widths: Sequence[float],
        known: frozenset[int] = frozenset(),
    ) -> tuple[Posed, Posed] | None:
        """Both ways of facing, in the views that agree with the first; views that are ``known`` to
        have agreed need not agree before they had their say."""
        seen = self._contours.at(pose, outlines, widths[-1])
        outlines = self._agreeing(seen, known)
        if len(outlines) < self.config.min_views:
            return None
        one, other = (self._contours.solve(p, outlines, widths) for p in (pose, opposite))
        agreeing = self._agreeing(min(one, other, key=lambda posed: posed.loss))
        if len(agreeing) < self.config.min_views or not self._places(agreeing):
            return None
        if len(agreeing) == len(outlines):
            return one, other
        # Views that turned out to show something else have no say any more.
        one, other = (self._contours.solve(p.pose, agreeing, widths[-1:]) for p in (one, other))
        return one, other

    def _agreeing(self, posed: Posed, known: frozenset[int] = frozenset()) -> list[Outline]:
        least, half = self.config.min_overlap, self.config.min_overlap / 2
        kept = []
        for sight, overlap in zip(posed.sights, posed.overlaps, strict=True):
            if overlap >= (half if sight.outline.view in known else least):
                kept.append(sight.outline)
        return kept

    def _places(self, outlines: Sequence[Outline]) -> list[F64]:
        """Where the rays through the middles of two masks meet, if they do so at an angle."""
        rays = [outline.middle_ray for outline in outlines]
        found = []
        for a, b in combinations(range(len(outlines)), 2):
            one, other = outlines[a].centre, outlines[b].centre
            near, far, _, cosine = closest_approach(rays[a][None], rays[b][None], other - one)
            if abs(cosine[0]) < np.cos(self.config.min_angle) and near[0] > 0 and far[0] > 0:
                found.append((one + near[0] * rays[a] + other + far[0] * rays[b]) / 2)
        return found

    def _upright(self, place: F64, turn: float) -> Pose:
        """Somebody of mean shape whose hips are at a place, standing, arms down."""
        turns = np.zeros((1, NUM_JOINTS, 3), np.float32)
        turns[0, 1:] = STANDING.mean
        rotation = rotations(turns)
        rotation[0, 0] = rotations(np.array([0, 0, turn], np.float32)) @ _UPRIGHT
        betas = np.zeros((1, self._rig.num_betas), np.float32)
        return Pose(rotation, (place - self._rig.joints[0])[None].astype(np.float32), betas)

    def _evidence(self, one: Posed, other: Posed, walk: Walk | None) -> float:
        """Log odds of one against the other: contours, places on the body, and the way of going."""
        odds = self.config.contour_trust * (other.loss - one.loss) / 2
        for a, b in zip(one.sights, other.sights, strict=True):
            odds += self._places_said.odds(a, b)
        if walk is not None:
            odds += walk.odds(one.pose, self.config.walking, self.config.walking_std)
        return odds

    def _believed(self, best: Posed, other: Posed, odds: float, searched: float) -> Stance | None:
        """The result, unless it shows no person who stands."""
        height = float(np.ptp(self._rig.template[:, 1] + best.pose.betas[0] @ self._rig.heights))
        order = self._places_said.order(best.sights)
        if not self.config.min_height <= height <= self.config.max_height:
            _LOG.debug("no body in outlines: a height of %.2f m", height)
            return None
        if order < self.config.min_order:
            _LOG.debug("no body in outlines: heights are not in order (%.2f)", order)
            return None
        joints, opposite = (skeleton(self._rig, posed.pose)[1][0] for posed in (best, other))
        overlaps = best.overlaps
        variance = self._variance(best) + (_DOUBT * (1 - overlaps.mean())) ** 2
        wrong = 1 / (1 + np.exp(odds))  # of the way of facing
        variance += wrong * ((joints - opposite) ** 2).sum(1) / 3
        distances = best.distances
        near = np.abs(distances) < 2 * self.config.fine_widths[-1]
        used = zip(best.sights, overlaps, strict=True)
        return Stance(
            pose=best.pose,
            opposite=other.pose,
            odds=odds,
            joints=joints,
            joint_std=np.sqrt(variance).astype(np.float32),
            rmse=float(np.sqrt((distances[near] ** 2).mean())) if near.any() else np.inf,
            inliers=int(near.sum()),
            overlaps={sight.outline.view: float(overlap) for sight, overlap in used},
            searched=searched,
        )

    def _variance(self, posed: Posed) -> F64:
        """(24,) of the joints per axis, square metres. A prior of people who stand finds the pose,
        but people do more than that: they are as uncertain as everyday poses are wide."""
        hessian, gradient = self._contours.information(posed)
        add_pose_prior(hessian, gradient, posed.pose, posed.line, EVERYDAY)
        deviations: F64 = posterior(self._rig, posed.line, hessian)[0][0]
        return deviations**2


def _moved(pose: Pose, shift: F64) -> Pose:
    return replace(pose, transl=pose.transl + shift.astype(np.float32))
