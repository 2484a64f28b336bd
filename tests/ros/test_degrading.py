"""Doing less under load, and more again; told while it lasts."""

from __future__ import annotations

import pytest
import torch
from hamst3r_msgs.msg import HumanArray
from hamst3r_ros.degrading import HITS, MISSES, STEPS, Load

from hamst3r.pairs import Pairing
from hamst3r.reconstructor import ReconstructorConfig


def test_steps_down_after_misses_in_a_row_and_up_when_there_is_room():
    load = Load()
    assert not any(load.took(2.0, 1.0) for _ in range(MISSES - 1))
    assert not load.took(0.9, 1.0)  # in time: the row is over
    assert [load.took(2.0, 1.0) for _ in range(MISSES)] == [False] * (MISSES - 1) + [True]
    assert load.step == 1
    for _ in range(5 * MISSES):
        load.took(2.0, 1.0)
    assert load.step == len(STEPS) - 1
    assert load.misses == 7 * MISSES - 1
    assert not any(load.took(0.9, 1.0) for _ in range(2 * HITS))  # just in time is no room
    last = len(STEPS) - 1
    assert [load.took(0.2, 1.0) for _ in range(last * HITS)].count(True) == last
    assert load.step == 0


def test_without_a_deadline_only_memory_counts():
    load = Load()
    assert not any(load.took(1e9, 0.0) for _ in range(10))
    assert load.out_of_memory() and load.step == 1
    assert [load.took(1e9, 0.0) for _ in range(HITS)][-1]
    assert load.step == 0


@pytest.mark.parametrize(("asked", "size"), [(None, 336), (100, 64), (16, 16)])
def test_what_is_left_out(asked, size):
    config = ReconstructorConfig(image_size=asked)
    load = Load()
    assert load.reduced(config, 448, 16) == config
    load.out_of_memory()
    assert load.reduced(config, 448, 16).closeups.most == 0 < config.closeups.most
    assert load.reduced(config, 448, 16).pairing == config.pairing
    load.out_of_memory()
    assert load.reduced(config, 448, 16).pairing == Pairing.ONEREF
    assert load.reduced(config, 448, 16).image_size == asked
    load.out_of_memory()
    assert load.reduced(config, 448, 16).image_size == size


def test_a_missed_deadline_is_told_and_the_node_goes_on_with_less(bench):
    it = bench(("a", "b", "c"), world__known_extrinsics="tf", deadline=1e-6)
    it.put_up()
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.activate()
    it.until(lambda: "fewer pairs, smaller images" in it.message("inference"), it.shoot)
    reconstructor = it.node._pipeline.reconstructor
    it.until(lambda: reconstructor.config.image_size == 48, it.shoot)
    assert reconstructor.config.pairing == Pairing.ONEREF
    seen = len(humans)
    it.until(lambda: len(humans) > seen + 2, it.shoot)
    assert it.set(deadline=0.0) == []
    it.until(lambda: it.value("device", "doing") == "everything", it.shoot)
    it.until(lambda: "room" not in it.message("inference"), it.shoot)
    it.until(lambda: reconstructor.config.pairing == Pairing.COMPLETE, it.shoot)
    assert reconstructor.config.image_size is None


def test_running_out_of_memory_leads_to_less(bench, monkeypatch):
    it = bench(("a", "b", "c"), world__known_extrinsics="tf")
    it.put_up()
    humans = it.listen(HumanArray, "/hamst3r/humans")
    it.activate()
    it.until(lambda: humans, it.shoot)
    engine = it.node._pipeline.reconstructor.engine
    predict = engine.predict

    def small_memory(images, edges):
        if len(edges) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(images, edges)

    monkeypatch.setattr(engine, "predict", small_memory)
    seen = len(humans)
    it.until(lambda: len(humans) > seen + 2, it.shoot)
    it.until(lambda: "memory ran out; doing less" in it.message("inference"), it.shoot)
