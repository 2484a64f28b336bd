"""People over time: lasting ids, bodies that start from the last ones, and coasting when hidden."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hamst3r.people.assignment import assign
from hamst3r.people.body import BodyModel, anny24
from hamst3r.people.densepose import VertexLookup
from hamst3r.people.detections import Detection, detect
from hamst3r.people.embodiment import Embodiment
from hamst3r.people.instances import ViewPeople
from hamst3r.people.looks import look, remember
from hamst3r.people.memory import Memory
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
        self._memory = Memory()
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
        colours: Sequence[NDArray[np.uint8]] = (),
    ) -> Tracked:
        """Take in one frame set.

        Args:
            stamp: ns. A stamp before the last one counts as the same time; after a jump of the
                clock call :meth:`reset`.
            views: From ``merge_instances``. alignment: Of the same views.
            cameras: Their names. grids_to_image: (3, 3) ``NetworkImage.T_image_grid`` of each.
            colours: (gh, gw, 3) RGB of each; without, people are not known by their looks.

        Raises:
            ValueError: Numbers or sizes of the views do not agree.
        """
        if not len(views) == len(cameras) == len(grids_to_image):
            raise ValueError(
                f"{len(views)} views, {len(cameras)} cameras and {len(grids_to_image)} pixel maps "
                "must be as many"
            )
        if colours and len(colours) != len(views):
            raise ValueError(f"colours of {len(colours)} views of {len(views)}")
        dt = 0.0 if self._stamp is None else min(max((stamp - self._stamp) / 1e9, 0.0), 10.0)
        self._step = dt
        self._stamp = stamp if self._stamp is None else max(stamp, self._stamp)
        self._keep_up(alignment.gain)
        detections = detect(
            views, alignment, self._lookup, self._triangulator, self._rng, self.config.detection
        )
        if colours:
            detections = [self._look(found, views, cameras, colours) for found in detections]
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
        matches = [
            (track or self._open(found), found)
            for track, found in assign(self._tracks, detections, self._stamp, self.config)
        ]
        for track, detection in matches:
            # Before a guess becomes a person it must come again.
            if not track.id and (detection.missed < 2 or track.hits + 1 >= self.config.sights):
                self._identify(track, detection)
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
        for track in [*self._tracks, *self._memory.tracks]:
            track.motion.state *= growth
            track.offset = track.offset * growth
            track.size *= growth
            if track.body is not None:
                track.body = replace(track.body, transl=track.body.transl * growth)
            if abs(growth - 1) > _GROWTH:
                track.window = track.joints = track.stance = None
                # A shape that was learnt in a smaller world is that of a smaller person.
                track.shape, track.fits, track.shape_held = None, 0, False

    def _open(self, detection: Detection) -> Track:
        assert self._stamp is not None
        track = Track(detection, self.config.centre_std, self._stamp)
        self._tracks.append(track)
        return track

    def _look(
        self,
        found: Detection,
        views: Sequence[ViewPeople],
        cameras: Sequence[str],
        colours: Sequence[NDArray[np.uint8]],
    ) -> Detection:
        """The detection with its looks."""
        looks = {
            cameras[v]: own
            for v in sorted(found.views)
            if (own := look(views[v], colours[v], found.local_ids, self._lookup)) is not None
        }
        return replace(found, looks=looks)

    def _identify(self, track: Track, detection: Detection) -> None:
        """Give an id: a new one, or that of somebody who was lost and is back."""
        assert self._stamp is not None
        known = self._memory.recognise(detection, self._stamp, self.config)
        if known is None:
            track.id = self._new_id()
            return
        track.id, track.looks = known.id, known.looks
        track.shape, track.fits, track.shape_held = known.shape, known.fits, known.shape_held

    def _new_id(self) -> int:
        alive = {track.id for track in [*self._tracks, *self._memory.tracks]}
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
        if not detection.doubtful:
            track.sure = self._stamp
            track.looks = remember(track.looks, detection.looks)
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
        people, kept, gone = [], [], []
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
            elif known:
                gone.append(track)
        self._tracks = kept
        self._memory.keep(gone, self._stamp, self.config)
        return people
