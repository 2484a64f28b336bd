"""Who of those detected is who of those known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from hamst3r.people.detections import Detection, absorb
from hamst3r.people.looks import log_odds
from hamst3r.people.track import Track, TrackingConfig

F64 = NDArray[np.float64]
Match = tuple[Track | None, Detection]


def assign(
    tracks: Sequence[Track], detections: Sequence[Detection], stamp: int, config: TrackingConfig
) -> list[Match]:
    """Detections with their tracks, None where none fits.

    Doubtful detections come last, and only where somebody told of is expected whom no other one
    fits (as in ByteTrack, arXiv 2110.06864), and no view contradicts; of the rest nothing is heard.

    Args:
        tracks: Predicted to the time of the detections, ``stamp`` in ns.
    """
    sure = [own for own in detections if not own.doubtful]
    known = _match(tracks, sure, config)
    matches: list[Match] = [(tracks[row], sure[k]) for k, row in known.items()]
    for k, found in enumerate(sure):
        if k not in known:
            home = _owner(found, matches, config)
            if home is None:
                matches.append((None, found))
            else:
                track, whole = matches[home]
                matches[home] = (track, absorb(whole, found))
    seen = set(known.values())
    waiting = [
        track
        for row, track in enumerate(tracks)
        if track.id and row not in seen and (stamp - track.sure) / 1e9 <= config.doubtful_for
    ]
    doubtful = [own for own in detections if own.doubtful and not own.missed]
    held = _match(waiting, doubtful, config)
    return matches + [(waiting[row], doubtful[k]) for k, row in held.items()]


def _match(
    tracks: Sequence[Track], detections: Sequence[Detection], config: TrackingConfig
) -> dict[int, int]:
    """Detection -> track, by index, in the order of the detections: the best of all ways to match
    those that fit one-to-one."""
    gain = np.zeros((len(tracks), len(detections)))
    least = config.gate + config.weak
    for row, track in enumerate(tracks):
        std = float(np.sqrt(np.trace(track.motion.covariance[:3, :3]) / 3))
        gate = min(config.gate + 2 * std, config.max_gate)
        # The less is known of the place, the more it counts who is whole.
        weak = max(config.weak, min(std, config.max_gate))
        reach = gate + weak
        for column, detection in enumerate(detections):
            distance = _distance(track, detection, config)
            ratio = max(detection.size / track.size, track.size / detection.size)
            near = config.gate if _guessed(track, detection) else gate
            if distance < near and ratio < config.max_size_ratio:
                share = min(detection.num_points / max(track.pixels, 1.0), 1.0)
                unlike = max(-log_odds(track.looks, detection.looks, config.looks), 0.0)
                cost = distance + weak * (1 - share) + config.unlike * unlike * reach
                # Who is expected at a place goes before whoever may be anywhere, and nobody
                # gives up a good match for the sake of two bad ones.
                gain[row, column] = max(1 - cost / reach, 0.0) * least / reach
    rows, columns = linear_sum_assignment(gain, maximize=True)
    fits = gain[rows, columns] > 0
    order = np.argsort(columns[fits])
    return dict(zip(columns[fits][order].tolist(), rows[fits][order].tolist(), strict=True))


def _distance(track: Track, detection: Detection, config: TrackingConfig) -> float:
    """Metres from where a person is expected; less along lines on which the place is vague,
    except of a guess: it must come again where it was."""
    off = detection.centre - track.motion.position - track.offset
    if _guessed(track, detection):
        return float(np.linalg.norm(off))
    spread = np.eye(3) + detection.covariance / config.centre_std**2
    return float(np.sqrt(off @ np.linalg.solve(spread, off)))


def _owner(piece: Detection, matches: Sequence[Match], config: TrackingConfig) -> int | None:
    """Which known person an unmatched detection is a piece of: one seen by other views only,
    who stands where the piece is. Views of one person that could not be joined are likelier
    than a stranger who appears inside somebody."""
    near = [
        (_distance(track, piece, config), k)
        for k, (track, whole) in enumerate(matches)
        if track is not None and not piece.views & whole.views
    ]
    distance, home = min(near, default=(np.inf, None))
    return home if distance < config.piece_distance else None


def _guessed(track: Track, detection: Detection) -> bool:
    """Whether a match is no more than a guess: nobody was told of the person yet, or one view
    claims what two others should show and do not."""
    return not track.id or detection.missed > 1
