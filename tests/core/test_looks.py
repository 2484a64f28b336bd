"""Ids that last because of what people wear, and because somebody is expected where a mask is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from people_data import GRID, calibrated, camera_at, intrinsics, photograph, standing

from hamst3r.people.body import anny24
from hamst3r.people.detections import DetectionConfig
from hamst3r.people.instances import ViewPeople
from hamst3r.people.looks import LooksConfig, log_odds, remember
from hamst3r.people.track import TrackingConfig
from hamst3r.people.tracking import PeopleTracker
from hamst3r.scene import Person, TrackingState

BODY = anny24()
HIP = 0.95  # metres: the height at which a standing person's pelvis is
K = intrinsics()
RIG = {
    "front": camera_at((0.0, -4.0, 1.4), (0.0, 0.0, 0.9)),
    "side": camera_at((4.0, 0.3, 1.4), (0.0, 0.0, 0.9)),
}
RED, BLUE, GREEN = (
    ((200, 40, 30), (40, 40, 60)),
    ((30, 60, 200), (190, 180, 150)),
    ((20, 160, 40),) * 2,
)
Clothes = tuple[tuple[int, int, int], tuple[int, int, int]]  # above and below the waist
Who = dict[str, tuple[float, float, Clothes]]  # place on the floor, and clothes


class Room:
    """A tracker, and cameras that see people in colour."""

    def __init__(self, cameras: tuple[str, ...] = ("front",), **options) -> None:
        self.cameras = cameras
        self.light = dict.fromkeys(RIG, 1.0)
        config = TrackingConfig(bodies=False, detection=DetectionConfig(max_points=100), **options)
        self.tracker = PeopleTracker(BODY, config)

    def see(
        self, time: float, people: Who, doubtful: bool = False, blind: str = ""
    ) -> dict[int, Person]:
        """Who is followed after a frame set, LOST ones left out; by id. A camera may be blind."""
        views, depths, colours = [], [], []
        for name in self.cameras:
            bodies = {
                k: standing((x, y, HIP)) for k, (x, y, _) in enumerate(people.values(), start=1)
            }
            instances, depth, canonical = photograph(BODY, bodies, RIG[name], K)
            instances[:] *= name != blind
            rgb = np.full((*GRID, 3), 128, np.uint8)
            for k, (_, _, clothes) in enumerate(people.values(), start=1):
                for part, colour in zip(
                    (canonical[..., 1] > 0.55, canonical[..., 1] <= 0.55), clothes, strict=True
                ):
                    lit = np.clip(np.array(colour) * self.light[name], 0, 255)
                    rgb[(instances == k) & part] = lit.astype(np.uint8)
            scores = {int(k): 0.3 if doubtful else 0.9 for k in np.unique(instances) if k}
            nobody = np.zeros_like(instances)
            sure, unsure = (nobody, instances) if doubtful else (instances, nobody)
            weight = (instances > 0).astype(np.float32)
            views.append(ViewPeople(sure, scores, canonical, weight, unsure))
            depths.append(depth.astype(np.float32))
            colours.append(rgb)
        alignment = calibrated([RIG[name] for name in self.cameras], K, depths)
        stamp, maps = round(time * 1e9), [np.eye(3)] * len(views)
        found = self.tracker.update(stamp, views, alignment, self.cameras, maps, colours).people
        return {p.id: p for p in found if p.state != TrackingState.LOST}

    def stay(self, since: float, people: Who) -> float:
        """Three frame sets; the time of the next one."""
        for step in range(3):
            self.see(since + 0.1 * step, people)
        return since + 0.3

    def leave(self, since: float) -> float:
        """Nobody until everybody is lost."""
        for step in range(24):
            left = self.see(since + 0.1 * step, {})
        assert not left
        return since + 2.4


@pytest.mark.parametrize(
    "back, options, same",
    [
        ((0.3, 0.0, RED), {}, True),
        ((0.3, 0.0, BLUE), {}, False),
        ((0.3, 0.0, RED), {"remembered": 0.0}, False),
        ((0.9, 0.0, RED), {"pace": 0.0, "max_gate": 0.7}, False),  # nobody comes as far as that
    ],
)
def test_who_comes_back_in_the_same_clothes_is_known_again(back, options, same):
    room = Room(**options)
    now = room.leave(room.stay(0.0, {"ann": (0.0, 0.0, RED)}))
    (found,) = room.see(now, {"somebody": back}).values()
    assert found.state == TrackingState.NEW and (found.id == 1) == same
    (later,) = room.see(now + 0.1, {"somebody": back})
    assert later == found.id


def test_nobody_is_known_for_ever():
    room = Room(remembered=5.0)
    room.leave(room.stay(0.0, {"ann": (0.0, 0.0, RED)}))
    assert set(room.see(6.0, {"ann": (0.0, 0.0, RED)})) == {2}


def test_of_two_who_wear_the_same_neither_is_known_again():
    room = Room()
    both = {"ann": (-0.4, 0.0, GREEN), "eve": (0.4, 0.0, GREEN)}
    now = room.leave(room.stay(0.0, both))
    assert set(room.see(now, {"who": (0.0, 0.0, GREEN)})) == {3}
    room = Room()
    now = room.leave(room.stay(0.0, both | {"ann": (-0.4, 0.0, RED)}))
    assert set(room.see(now, {"eve": (0.0, 0.0, GREEN)})) == {2}
    assert set(room.see(now + 0.1, {"eve": (0.3, 0, GREEN), "ann": (-0.4, 0, RED)})) == {1, 2}


def test_clothes_tell_who_changed_places_between_two_frame_sets():
    room = Room()
    now = room.stay(0.0, {"ann": (-0.4, 0.0, RED), "eve": (0.4, 0.0, BLUE)})
    found = room.see(now + 1.0, {"eve": (-0.2, 0.0, BLUE), "ann": (0.2, 0.0, RED)})
    assert {k: found[k].position[0] > 0 for k in found} == {1: True, 2: False}
    blind = Room(unlike=0.0)
    now = blind.stay(0.0, {"ann": (-0.4, 0.0, RED), "eve": (0.4, 0.0, BLUE)})
    found = blind.see(now + 1.0, {"eve": (-0.2, 0.0, BLUE), "ann": (0.2, 0.0, RED)})
    assert {k: found[k].position[0] > 0 for k in found} == {1: False, 2: True}


def test_cameras_that_see_colours_differently_agree_on_who_it_is():
    room = Room(("front", "side"))
    room.light["side"] = 0.4
    now = room.leave(room.stay(0.0, {"ann": (0.0, 0.0, RED), "eve": (0.4, 0.6, BLUE)}))
    assert set(room.see(now, {"eve": (0.0, 0.0, BLUE)})) == {2}


def test_a_doubtful_sight_lets_somebody_last_and_nobody_begin():
    room = Room(doubtful_for=4.0)
    ann = {"ann": (0.0, 0.0, RED)}
    assert not room.see(0.0, ann, doubtful=True)
    now = room.stay(0.1, ann)
    states = []
    for step in range(60):
        found = room.see(now + 0.1 * step, ann, doubtful=True)
        states += [found[1].state if found else None]
    # Four seconds of doubt, then two in which nobody is seen any more.
    assert states.count(TrackingState.OK) in (39, 40) and states[:39] == [TrackingState.OK] * 39
    assert states[45] == TrackingState.PREDICTED
    # Where nobody is expected there is nobody.
    elsewhere = {"ann": (0.0, 0.0, RED), "chair": (0.8, 0.6, BLUE)}
    room = Room()
    now = room.stay(0.0, ann)
    (found,) = room.see(now, elsewhere, doubtful=True).values()
    assert found.position[0] == pytest.approx(0.0, abs=0.1)
    # A sure sight goes before a doubtful one.
    assert found.confidence < 0.5 < room.see(now + 0.1, ann)[1].confidence


def test_a_doubtful_sight_that_another_view_contradicts_is_none():
    ann = {"ann": (0.0, 0.0, RED)}
    states = []
    for blind in ("", "side"):
        room = Room(("front", "side"))
        (found,) = room.see(room.stay(0.0, ann), ann, doubtful=True, blind=blind).values()
        states.append(found.state)
    assert states == [TrackingState.OK, TrackingState.PREDICTED]


def test_looks_that_tell_nothing_say_nothing():
    room = Room()
    room.stay(0.0, {"ann": (0.0, 0.0, RED), "eve": (0.6, 0.0, BLUE)})
    ann, eve = (track.looks for track in room.tracker._tracks)
    config = LooksConfig()
    assert log_odds(ann, {}, config) == log_odds({}, {}, config) == 0.0
    assert log_odds(ann, ann, config) > 0.2 > -2 > log_odds(ann, eve, config)
    assert log_odds(ann, {"side": ann["front"]}, config) > 0.2
    unseen = replace(ann["front"], colours=np.full_like(ann["front"].colours, np.nan))
    assert log_odds(ann, {"front": unseen}, config) == 0.0
    mixed = remember(remember({"front": unseen}, ann), {"side": eve["front"]})
    np.testing.assert_array_equal(mixed["front"].colours, ann["front"].colours)
    assert set(mixed) == {"front", "side"}


def test_what_is_remembered_is_bounded():
    room = Room(timeout=0.2, new_timeout=0.2, remembered=1e6)
    for visit in range(120):
        clothes = ((2 * visit, 255 - 2 * visit, 40 * visit % 256),) * 2
        for step in range(6):
            ann = {"ann": (0.0, 0.0, clothes)} if step < 2 else {}
            room.see(visit + 0.1 * step, ann)
    kept = room.tracker._memory.tracks
    assert 50 < len(kept) <= 100
    assert all(track.window is None and track.stance is None for track in kept)
