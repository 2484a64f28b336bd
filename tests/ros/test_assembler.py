"""Frame sets from streams of stamps."""

from __future__ import annotations

from hamst3r_ros.assembler import DEPTH, Assembler, MessageSet, SyncSettings
from hypothesis import given
from hypothesis import strategies as st

MS = 1_000_000


def assembler(cameras="abc", slop=50, min_cameras=2, max_age=300, reference="") -> Assembler:
    return Assembler(tuple(cameras), SyncSettings(slop * MS, min_cameras, max_age * MS, reference))


def feed(it: Assembler, *events: tuple[str, int]) -> list[MessageSet]:
    """Messages (camera, stamp in ms), each carrying its own stamp."""
    sets = [it.add(camera, stamp * MS, stamp) for camera, stamp in events]
    return [one for one in sets if one is not None]


def test_a_set_is_complete_when_the_last_camera_speaks():
    (found,) = feed(assembler(), ("c", 1000), ("a", 1010), ("b", 1020))
    assert found.messages == {"a": 1010, "b": 1020, "c": 1000}
    assert list(found.messages) == ["a", "b", "c"]
    assert (found.stamp, found.spread, found.partial) == (1020 * MS, 20 * MS, False)


def test_the_reference_camera_gives_the_stamp():
    (found,) = feed(assembler(reference="c"), ("c", 1000), ("a", 1010), ("b", 1020))
    assert found.stamp == 1000 * MS


def test_messages_too_far_apart_are_dropped_oldest_first():
    it = assembler("ab")
    assert feed(it, ("a", 1000), ("b", 1100)) == []
    assert feed(it, ("a", 1110))[0].messages == {"a": 1110, "b": 1100}
    assert it.counts.unmatched == 1


def test_a_delayed_camera_finds_its_match_among_older_messages():
    # b arrives 80 ms late: by then a has sent two newer images.
    it = assembler("ab", slop=10)
    sets = []
    for step in range(20):
        sets += feed(it, ("a", 1000 + 33 * step))
        if step >= 2:
            sets += feed(it, ("b", 1000 + 33 * (step - 2)))
    assert len(sets) == 18
    assert all(one.messages["a"] == one.messages["b"] for one in sets)


def test_a_silent_camera_is_waited_for_only_so_long():
    it = assembler(max_age=300)
    sets = []
    for step in range(20):
        sets += feed(it, ("a", 1000 + 50 * step), ("b", 1000 + 50 * step))
    assert sets and all(list(one.messages) == ["a", "b"] and one.partial for one in sets)
    assert sets[0].stamp > 1300 * MS
    (found,) = feed(it, ("c", 2000), ("a", 2000), ("b", 2000))
    assert not found.partial


def test_slow_cameras_are_not_taken_for_silent():
    # Two seconds between images, far more than max_age.
    it = assembler(max_age=300)
    sets = []
    for step in range(5):
        for camera in "abc":
            sets += feed(it, (camera, 1000 + 2000 * step))
    assert [one.partial for one in sets] == [False] * 5


def test_too_few_cameras_make_no_set():
    it = assembler(min_cameras=2)
    assert feed(it, *(("a", 1000 + 50 * step) for step in range(50))) == []


def test_one_camera_alone():
    assert len(feed(assembler("a", min_cameras=1), ("a", 1000), ("a", 1050))) == 2


def test_repeated_and_late_messages_are_left_out():
    it = assembler("ab")
    assert len(feed(it, ("a", 1000), ("b", 1000), ("a", 1000), ("a", 990), ("b", 1000))) == 1
    assert it.counts.out_of_order == 3


def test_a_jump_back_starts_anew():
    it = assembler("ab")
    feed(it, ("a", 100_000), ("b", 100_000))
    assert len(feed(it, ("a", 1000), ("b", 1000))) == 1
    assert it.take_jump() == 99.0
    assert it.take_jump() is None
    # One jump, although both cameras went back.
    assert it.counts.clock_jumps == 1


@given(
    events=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5000)), max_size=200),
    slop=st.integers(0, 200),
    min_cameras=st.integers(1, 4),
)
def test_whatever_comes(events, slop, min_cameras):
    it = assembler("abcd", slop=slop, min_cameras=min_cameras)
    used = set()
    for camera, stamp in events:
        jumps = it.counts.clock_jumps
        found = it.add(camera, stamp * MS, stamp)
        if it.counts.clock_jumps > jumps:
            used.clear()
        if found is None:
            continue
        stamps = list(found.messages.values())
        assert max(stamps) - min(stamps) <= slop
        assert len(stamps) >= min_cameras
        assert found.stamp == max(stamps) * MS
        assert found.partial == (len(stamps) < 4)
        for item in found.messages.items():  # no message twice
            assert item not in used
            used.add(item)
    assert all(len(queue) <= DEPTH for queue in it._queues.values())
