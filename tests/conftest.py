"""How the tests are shared out where several processes run them (``pytest -n``, scripts/test)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

with contextlib.suppress(ImportError):  # where only tests without it are run
    from hypothesis import settings

    # An example takes as long as the machine has other work.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parents[1]
DDS = ("tests/ros", "tests/system")
# What takes longest comes first, so that no process is left with it at the end.
LONG = ("test_docs_commands", "test_gpu_run", "test_training", "test_reconstruct", "test_public")


def _unit(path: str) -> str:
    """Tests of one unit run in one process, one after the other: those of a file share fixtures,
    those that talk over DDS share its domains and ports."""
    return "dds" if path.startswith(DDS) else path


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):
        return

    def rank(item: pytest.Item) -> int:
        if _unit(item.path.relative_to(ROOT).as_posix()) == "dds":
            return 0
        return 1 if item.path.stem in LONG else 2

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByUnit(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _unit(nodeid.partition("::")[0])

    config.option.loadscopereorder = False  # the order above
    return ByUnit(config, log)
