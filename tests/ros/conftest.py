"""Contexts and small real weights for the tests of the ROS package."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Callable, Iterator

import pytest
import rclpy
import torch

from hamst3r.network.checkpoint import save_checkpoint
from hamst3r.network.config import NetworkConfig
from hamst3r.network.hamst3r import HAMSt3R

_TURN = itertools.cycle(range(10))


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a tiny network that has learned nothing: for what does not depend on content."""
    torch.manual_seed(0)
    config = NetworkConfig(
        image_size=64,
        stem_dim=8,
        encoder_dim=32,
        encoder_depth=1,
        encoder_heads=2,
        decoder_dim=32,
        decoder_depth=1,
        decoder_heads=2,
        descriptor_dim=8,
        queries=4,
        instance_layers=1,
        mask_dim=8,
    )
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(HAMSt3R(config), path)
    return str(path)


@pytest.fixture
def ros() -> Iterator[None]:
    """An rclpy context for one test, in a domain where no message of the last test can be."""
    first = int(os.environ.get("ROS_DOMAIN_ID", "0"))
    rclpy.init(args=[], domain_id=(first + 10 * next(_TURN)) % 100)
    yield
    rclpy.try_shutdown()


@pytest.fixture
def bench(ros: None, tiny_weights: str) -> Iterator[Callable]:
    """``bench(cameras, parameter__name=value, ...)``: a node among its peers."""
    from bench import Bench

    made: list[Bench] = []

    def make(cameras: tuple[str, ...] = ("a", "b", "c"), weights: str = "", **values) -> Bench:
        made.append(Bench(list(cameras), weights or tiny_weights, **values))
        return made[-1]

    yield make
    while made:
        made.pop().close()
    # A node that dies late would take /rosout from the next one of its name.
    gc.collect()
