"""Recordings of several cameras side by side: a frame set per time step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamst3r.frames import Frame, FrameSet
from hamst3r.inputs.photos import assumed_intrinsics
from hamst3r.inputs.source import (
    InputError,
    InputOptions,
    Original,
    Report,
    check_size,
    reduced_frame,
)
from hamst3r.recording import Recording, open_recording

STAYS_SILENT = "the camera stays silent until the recording starts again"


class Rig:
    """A recording on disk (see :mod:`hamst3r.recording`)."""

    ordered = False

    def __init__(self, path: Path, options: InputOptions, report: Report) -> None:
        self.title = str(path)
        self._path, self._options = path, options

        def heard(sentence: str) -> None:
            report(f"{path}: {sentence.replace(STAYS_SILENT, 'the camera has no more images')}")

        self._recording: Recording = open_recording(path, step=options.step, size=0, report=heard)
        self.originals: dict[str, Original] = {}
        length = self._recording.length
        self.sets = min(length, options.sets) if options.sets else length

    def frame_sets(self) -> Iterator[FrameSet]:
        """Sets in the order of time."""
        played = 0
        for image_set in islice(self._recording.play(), self.sets):
            stamp = image_set.stamp if image_set.stamp is not None else image_set.time
            frames = [self._frame(n, stamp, rgb) for n, rgb in image_set.images.items()]
            played += 1
            yield FrameSet(stamp, tuple(frames))
        self._recording.close()
        if not played:
            raise InputError(f"{self._path}: no image of the recording can be read")

    def _frame(self, name: str, stamp: int, rgb: NDArray[np.uint8]) -> Frame:
        height, width = rgb.shape[:2]
        check_size(f"{self._path}: camera '{name}'", width, height)
        self.originals[name] = Original(f"{self._path}: {name}", width, height)
        known = self._recording.cameras[name]
        K = assumed_intrinsics(width, height, self._options)
        return reduced_frame(name, stamp, rgb, self._options.side, K, known)
