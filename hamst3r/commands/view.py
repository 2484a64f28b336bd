"""``hamst3r view SCENE``: a web page of a scene, of what is being made, or of a running node."""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hamst3r.scene_folder import StoredScene
    from hamst3r.viewer import Moment, SceneViewer

POLL = 0.5  # seconds between looks at a growing folder


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "scene",
        metavar="SCENE",
        help="folder that hamst3r reconstruct wrote (or writes), a scene.npz, or with --live the "
        "name of a running node, such as /hamst3r",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="go on with what is new: sets that a running reconstruct writes, or a node's topics",
    )
    parser.add_argument("--host", default="127.0.0.1", help="who may look: 0.0.0.0 is everybody")
    parser.add_argument("--port", type=int, default=8080, help="0: any free one (8080)")
    parser.add_argument("--rerun", type=Path, metavar="FILE", help="write an .rrd instead")
    parser.add_argument("--seconds", type=float, metavar="S", help="stop after so long")


def run(options: argparse.Namespace) -> int:
    """Serve until interrupted."""
    is_node = options.scene.startswith("/") and not Path(options.scene).exists()
    if is_node and not options.live:
        raise ValueError(
            f"{options.scene}: no such file or folder; for the node of that name add --live"
        )
    if options.rerun is not None:
        return _rerun(options)
    if not 0 <= options.port < 65536:
        raise ValueError(f"--port must be 0 to 65535, got {options.port}")
    if not is_node and not options.live:
        from hamst3r.scene_folder import need_scenes

        stored = need_scenes(options.scene)
        if Path(options.scene).is_file():
            stored[0].load()  # so that what is no scene is told before a page is promised
    from hamst3r.viewer import SceneViewer

    viewer = SceneViewer(options.host, options.port)
    try:
        with _end(options.seconds) as stop:
            print(f"{viewer.address} shows {options.scene}; Ctrl+C ends", flush=True)
            if is_node:
                from hamst3r.live import watch_node

                watch_node(options.scene, viewer.show_scene, lambda: not stop.is_set())
            else:
                _watch_folder(options.scene, viewer, options.live, stop)
    finally:
        viewer.close()
    return 0


@contextlib.contextmanager
def _end(seconds: float | None) -> Iterator[threading.Event]:
    """What is set after so long, and by Ctrl+C, which as an exception a library may swallow."""
    stop = threading.Event()
    timer = threading.Timer(seconds or threading.TIMEOUT_MAX, stop.set)
    timer.daemon = True
    timer.start()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
        timer.cancel()


def _rerun(options: argparse.Namespace) -> int:
    from hamst3r.rerun_log import write_rrd
    from hamst3r.scene_folder import need_scenes

    stored = need_scenes(options.scene)
    if not options.rerun.absolute().parent.is_dir():
        raise OSError(f"{options.rerun.parent}: no such folder; make it or name another --rerun")
    count = write_rrd(((s.load(), s.images()) for s in stored), options.rerun)
    print(f"{options.rerun}: {count} scene{'s' * (count != 1)}")
    return 0


def _watch_folder(scene: str, viewer: SceneViewer, live: bool, stop: threading.Event) -> None:
    from hamst3r.export import SceneFileError
    from hamst3r.scene_folder import stored_scenes

    known: list[StoredScene] = []
    while not stop.is_set():
        try:
            found = stored_scenes(scene)
            if found != known:
                viewer.show(_moments(found))
                known = found
        except SceneFileError:
            if not live:
                raise  # of a folder that is being written the next look may tell more
        if not live:
            stop.wait()
            return
        stop.wait(POLL)


def _moments(stored: list[StoredScene]) -> list[Moment]:
    from hamst3r.viewer import Moment

    def moment(index: int, one: StoredScene) -> Moment:
        title = f"frame set {index + 1} of {len(stored)}" if len(stored) > 1 else ""
        return Moment(title, lambda: (one.load(), one.images()))

    return [moment(index, one) for index, one in enumerate(stored)]
