"""People over time: lasting ids, bodies that start from the last ones, and coasting when hidden."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from hamst3r.people.body import BodyModel, anny24
from hamst3r.people.densepose import VertexLookup
from hamst3r.people.detections import Detection, absorb, detect
from hamst3r.people.embodiment import Embodiment
from hamst3r.people.instances import ViewPeople
from hamst3r.people.motion import ConstantVelocity
from hamst3r.people.pixels import depth_factors, label, static_points
from hamst3r.people.scaling import PeopleScale, ScaleOpinion
from hamst3r.people.surroundings import Surroundings
from hamst3r.people.track import Track, TrackingConfig, coast
from hamst3r.people.triangulation import Triangulator
from hamst3r.scene import Person, ScaleSource, TrackingState

if TYPE_CHECKING:
    from hamst3r.alignment.incremental import Alignment

F64 = NDArray[np.float64]
_LOG = logging.getLogger(__name__)
_LARGEST_ID = int(np.iinfo(np.uint16).max)
_GROWTH = 0.002  # of the world, beyond which what stood still does not any more


class Tracked(NamedTuple):
    """Everybody after one frame set.

    Attributes:
        people: By id, those hidden and those just lost included (``num_points`` counts their
            pixels with depth).
        instances: Per view a (gh, gw) map of their ids.
        depth_factors: Per view a (gh, gw) float32 map of what the depth is to be multiplied with,
            so that a person's points are where views agree the person is; 1 elsewhere.
    """

    people: tuple[Person, ...]
    instances: list[NDArray[np.uint16]]
    depth_factors: list[NDArray[np.float32]]


class PeopleTracker:
    """Follows people through frame sets.

    Args:
        body: The body model to fit.
        config: Settings.
        seed: Of the random draws; equal input then gives equal output.

    Attributes:
        scale: By which factor the world of the last frame set must grow for its people to have the
            size of people and to stand on the ground; None where a calibration tells the scale,
            or nobody was seen well enough.
    """

    def __init__(
        self,
        body: BodyModel | None = None,
        config: TrackingConfig | None = None,
        seed: int = 0,
    ) -> None:
        self.body = body or anny24()
        self.config = config or TrackingConfig()
        self._lookup = VertexLookup(self.body)
        self._triangulator = Triangulator(self.body)
        self._embodiment = Embodiment(self.body, self.config)
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """Forget everybody; ids start at 1 again."""
        self._tracks: list[Track] = []
        self.scale: ScaleOpinion | None = None
        self._scale = PeopleScale(self.body, self._embodiment.contact_points, self.config.scale)
        self._gain: float | None = None
        self._next_id = 1
        self._stamp: int | None = None
        self._step = 0.0  # seconds from the last frame set but one to the last
        self._surroundings = Surroundings(self.config.surroundings, self.config.floor)
        self._rng = np.random.default_rng(self._seed)
        self._embodiment.reset(self._surroundings, self._seed)

    def update(
        self,
        stamp: int,
        views: Sequence[ViewPeople],
        alignment: Alignment,
        cameras: Sequence[str],
        grids_to_image: Sequence[NDArray[np.float64]],
    ) -> Tracked:
        """Take in one frame set.

        Args:
            stamp: ns. A stamp before the last one counts as the same time; after a jump of the
                clock call :meth:`reset`.
            views: From ``merge_instances``. alignment: Of the same views.
            cameras: Their names. grids_to_image: (3, 3) ``NetworkImage.T_image_grid`` of each.

        Raises:
            ValueError: Numbers or sizes of the views do not agree.
        """
        if not len(views) == len(cameras) == len(grids_to_image):
            raise ValueError(
                f"{len(views)} views, {len(cameras)} cameras and {len(grids_to_image)} pixel maps "
                "must be as many"
            )
        dt = 0.0 if self._stamp is None else min(max((stamp - self._stamp) / 1e9, 0.0), 10.0)
        self._step = dt
        self._stamp = stamp if self._stamp is None else max(stamp, self._stamp)
        self._keep_up(alignment.gain)
        detections = detect(
            views, alignment, self._lookup, self._triangulator, self._rng, self.config.detection
        )
        if self.config.smoothing.window:
            self._surroundings.add(static_points(views, alignment, self._rng))
        before = [track.motion.position.copy() for track in self._tracks]
        for track in self._tracks:
            track.motion.predict(dt, max((self._stamp - track.seen) / 1e9 - dt, 0.0))
        for track, old in zip(self._tracks, before, strict=True):
            shift = track.motion.position - old
            if track.body is not None:
                moved = track.body.transl + torch.from_numpy(shift).float()
                track.body = replace(track.body, transl=moved)
            if track.stance is not None:
                track.stance = track.stance.moved(shift)
        matches = self._associate(detections)
        for track, detection in matches:
            # Before a doubtful sight becomes a person it must come again.
            if not track.id and (detection.missed < 2 or track.hits + 1 >= self.config.sights):
                track.id = self._new_id()
        self._embodiment.config = self.config
        self._embodiment.embody(matches, self._stamp, views, alignment)
        self.scale = None
        if alignment.scale_source is not ScaleSource.CALIBRATION:
            statures = {track.id: found.stature for track, found in matches if track.id}
            self.scale = self._scale.heed(self._embodiment.sized, self._surroundings, statures)
        identified = [(track.id, detection) for track, detection in matches if track.id]
        maps, rois = label(views, cameras, grids_to_image, identified)
        people = [
            self._describe(track, detection, rois.get(track.id, {})) for track, detection in matches
        ]
        people += self._unseen([track for track, _ in matches])
        people = [person for person in people if person.id]
        return Tracked(
            tuple(sorted(people, key=lambda person: person.id)),
            maps,
            [depth_factors(ids, view, identified) for view, ids in enumerate(maps)],
        )

    def _keep_up(self, gain: float) -> None:
        """Let all that is remembered grow as the world has grown since the last frame set."""
        growth = 1.0 if self._gain is None else gain / self._gain
        self._gain = gain
        if growth == 1.0:
            return
        self._surroundings.grow(growth)
        self._scale.grow(growth)
        for track in self._tracks:
            track.motion.state *= growth
            track.offset = track.offset * growth
            track.size *= growth
            if track.body is not None:
                track.body = replace(track.body, transl=track.body.transl * growth)
            if abs(growth - 1) > _GROWTH:
                track.window = track.joints = track.stance = None
                # A shape that was learnt in a smaller world is that of a smaller person.
                track.shape, track.fits, track.shape_held = None, 0, False

    def _associate(self, detections: list[Detection]) -> list[tuple[Track, Detection]]:
        """Detections with their tracks, newly opened where none fits."""
        gain = np.zeros((len(self._tracks), len(detections)))
        least = self.config.gate + self.config.weak
        for row, track in enumerate(self._tracks):
            std = float(np.sqrt(np.trace(track.motion.covariance[:3, :3]) / 3))
            gate = min(self.config.gate + 2 * std, self.config.max_gate)
            # The less is known of the place, the more it counts who is whole.
            weak = max(self.config.weak, min(std, self.config.max_gate))
            reach = gate + weak
            for column, detection in enumerate(detections):
                distance = self._distance(track, detection)
                ratio = max(detection.size / track.size, track.size / detection.size)
                near = self.config.gate if _doubtful(track, detection) else gate
                if distance < near and ratio < self.config.max_size_ratio:
                    share = min(detection.num_points / max(track.pixels, 1.0), 1.0)
                    cost = distance + weak * (1 - share)
                    # Who is expected at a place goes before whoever may be anywhere, and nobody
                    # gives up a good match for the sake of two bad ones.
                    gain[row, column] = max(1 - cost / reach, 0.0) * least / reach
        rows, columns = linear_sum_assignment(gain, maximize=True)
        taken = {
            int(column): self._tracks[row]
            for row, column in zip(rows, columns, strict=True)
            if gain[row, column] > 0
        }
        matches = [(taken[k], found) for k, found in enumerate(detections) if k in taken]
        for k, detection in enumerate(detections):
            if k not in taken:
                home = self._owner(detection, matches)
                if home is None:
                    matches.append((self._open(detection), detection))
                else:
                    track, whole = matches[home]
                    matches[home] = (track, absorb(whole, detection))
        return matches

    def _distance(self, track: Track, detection: Detection) -> float:
        """Metres from where a person is expected; less along lines on which the place is vague,
        except of doubtful sights: they must come again where they were."""
        off = detection.centre - track.motion.position - track.offset
        if _doubtful(track, detection):
            return float(np.linalg.norm(off))
        own = self.config.centre_std**2
        spread = np.eye(3) + detection.covariance / own
        return float(np.sqrt(off @ np.linalg.solve(spread, off)))

    def _owner(self, piece: Detection, matches: list[tuple[Track, Detection]]) -> int | None:
        """Which known person an unmatched detection is a piece of: one seen by other views only,
        who stands where the piece is. Views of one person that could not be joined are likelier
        than a stranger who appears inside somebody."""
        near = [
            (self._distance(track, piece), k)
            for k, (track, whole) in enumerate(matches)
            if track.hits and not piece.views & whole.views
        ]
        distance, home = min(near, default=(np.inf, None))
        return home if distance < self.config.piece_distance else None

    def _open(self, detection: Detection) -> Track:
        assert self._stamp is not None
        track = Track(detection, self.config.centre_std, self._stamp)
        self._tracks.append(track)
        return track

    def _new_id(self) -> int:
        alive = {track.id for track in self._tracks}
        if self._next_id > _LARGEST_ID:
            _LOG.warning("more than %d people since the last reset: ids repeat", _LARGEST_ID)
            self._next_id = 1
        while self._next_id in alive:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def _describe(
        self, track: Track, detection: Detection, rois: dict[str, tuple[int, int, int, int]]
    ) -> Person:
        """Correct the track by what was seen and describe the person."""
        fitted = track.person
        if fitted is None:
            fitted = track.seen_as(detection, self.config.centre_std)
        expected = True
        if track.hits:
            expected = track.motion.correct(fitted.position, fitted.covariance)
        else:
            track.motion = ConstantVelocity(fitted.position, fitted.covariance)
        assert self._stamp is not None
        track.hits += 1
        track.seen = self._stamp
        track.size = 0.8 * track.size + 0.2 * detection.size if track.hits > 1 else detection.size
        track.pixels += 0.2 * (detection.num_points - track.pixels)
        if expected:
            # Where the centre is not well known, most of what it is off is no offset.
            known = 1 / (1 + np.trace(detection.covariance) / 3 / self.config.centre_std**2)
            off = detection.centre - track.motion.position
            track.offset = track.offset + known * (off - track.offset)
        track.person = replace(
            fitted,
            id=track.id,
            state=TrackingState.NEW if track.new else TrackingState.OK,
            velocity=track.motion.velocity.copy() if track.hits > 1 else None,
            rois=rois,
            contacts=track.contacts,
        )
        track.new = track.new and not track.id
        return track.person

    def _unseen(self, seen: list[Track]) -> list[Person]:
        """Coast the hidden, dismiss the lost."""
        assert self._stamp is not None
        people, kept = [], []
        for track in self._tracks:
            if track in seen or track.person is None:
                kept.append(track)
                continue
            hidden = (self._stamp - track.seen) / 1e9
            known = track.id and track.hits > 1
            # Even where frame sets are rare, one miss alone does not end somebody.
            once = min(max(self.config.new_timeout, 1.5 * self._step), self.config.timeout)
            timeout = self.config.timeout if known else once
            lost = hidden > timeout
            person = coast(track.person, track.motion)
            fade = max(0.0, 1 - hidden / self.config.timeout)
            state = TrackingState.LOST if lost else TrackingState.PREDICTED
            score = 0.0 if lost else person.confidence * fade
            people.append(replace(person, state=state, confidence=score))
            # Remembered with the confidence of the last sight, from which the fading counts.
            track.person = replace(person, state=TrackingState.PREDICTED)
            if not lost:
                kept.append(track)
        self._tracks = kept
        return people


def _doubtful(track: Track, detection: Detection) -> bool:
    """Whether a match is no more than a guess: nobody was told of the person yet, or one view
    claims what two others should show and do not."""
    return not track.id or detection.missed > 1
