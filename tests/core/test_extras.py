"""What needs a library that the base install has not says which, and how to get it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hamst3r import batch, rerun_log, viewer
from hamst3r.export import usd
from hamst3r.inputs import InputOptions, open_inputs
from hamst3r.inputs.photos import read_photo


def bag(folder: Path) -> object:
    (folder / "bag.mcap").write_bytes(b"")
    return open_inputs([folder / "bag.mcap"], InputOptions(), print)


@pytest.mark.parametrize(
    ("library", "extra", "use"),
    [
        ("rosbags", "bags", bag),
        ("pillow_heif", "heif", lambda folder: read_photo(folder / "x.heic")),
        ("pxr", "usd", lambda folder: usd.require()),
        ("rerun", "rerun", lambda folder: rerun_log.write_rrd([], folder / "x.rrd")),
        ("viser", "view", lambda folder: viewer.SceneViewer("127.0.0.1", 0)),
        ("ray", "cluster", lambda folder: list(batch.run_on_ray([], "local", 1, 0))),
    ],
)
def test_an_extra_that_is_missing_is_named(
    library: str, extra: str, use: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    remedy = rf"install (it|them): pip install 'hamst3r\[{extra}\]'"
    with pytest.raises(ValueError, match=remedy) as caught:
        use(tmp_path)
    assert "\n" not in str(caught.value)
