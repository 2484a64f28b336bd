"""People who were lost, as long as they may come back."""

from __future__ import annotations

import numpy as np

from hamst3r.people.detections import Detection
from hamst3r.people.looks import log_odds
from hamst3r.people.track import Track, TrackingConfig

_MOST = 100  # people; a network that errs often must not fill the memory


class Memory:
    """Tracks that ended, of people whose looks are known.

    Attributes:
        tracks: By when they ended, without what only frame sets in a row need.
    """

    def __init__(self) -> None:
        self.tracks: list[Track] = []

    def keep(self, lost: list[Track], stamp: int, config: TrackingConfig) -> None:
        """Remember those who are lost now (``stamp`` in ns), and forget whom it was long ago."""
        for track in lost:
            track.body = track.stance = track.window = track.joints = None
        kept = [*self.tracks, *(track for track in lost if track.looks)]
        kept = [track for track in kept if (stamp - track.seen) / 1e9 < config.remembered]
        self.tracks = kept[-_MOST:]

    def recognise(self, found: Detection, stamp: int, config: TrackingConfig) -> Track | None:
        """Whoever looks like the detection, could have come there, and like whom no other does;
        no longer remembered then."""
        told = []
        for rank, track in enumerate(self.tracks):
            gap = (stamp - track.seen) / 1e9
            way = float(np.linalg.norm(found.centre - track.motion.position))
            if gap < config.remembered and way < config.max_gate + config.pace * gap:
                told.append((log_odds(track.looks, found.looks, config.looks), rank))
        told.sort(reverse=True)
        rival = max([0.0, *(odds for odds, _ in told[1:])])  # 0: of a stranger
        if not told or told[0][0] - rival < config.same_looks:
            return None
        return self.tracks.pop(told[0][1])
