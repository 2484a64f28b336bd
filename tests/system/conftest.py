from __future__ import annotations

from collections.abc import Iterator

import pytest
from dds_peer import Peer
from running import Start, free_domain, programs


@pytest.fixture
def domain() -> int:
    return free_domain()


@pytest.fixture
def start(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """start(program, *arguments) on the test's domain; nothing is left running."""
    with programs(domain, tmp_path_factory.mktemp("log")) as begin:
        yield begin


@pytest.fixture
def peer(domain: int) -> Iterator[Peer]:
    """A subscriber of another DDS on the test's domain."""
    listener = Peer(domain)
    yield listener
    listener.close()
