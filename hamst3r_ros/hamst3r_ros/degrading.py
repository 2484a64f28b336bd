"""Doing less when a frame set takes longer than it may, and more again when there is room."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hamst3r.pairs import Pairing
from hamst3r.reconstructor import ReconstructorConfig

MISSES = 3  # in a row, until less is done
HITS = 30  # in a row, well within the deadline, until more is tried again
ROOM = 0.5  # share of the deadline that counts as well within
SMALLER = 0.75  # of the long side of the images
STEPS = (
    "everything",
    "no close-ups",
    "no close-ups, fewer pairs",
    "no close-ups, fewer pairs, smaller images",
)


@dataclass
class Load:
    """How much is left out; by one thread.

    Attributes:
        step: Index into ``STEPS``: 0 leaves nothing out.
        misses: Deadlines missed since the start.
    """

    step: int = 0
    misses: int = 0
    _bad: int = 0
    _good: int = 0

    def took(self, seconds: float, deadline: float) -> bool:
        """A frame set took so long; whether the step has changed.

        Args:
            deadline: Seconds; 0 = none, so that only memory leads to less.
        """
        before = self.step
        if deadline <= 0:
            deadline = math.inf
        if seconds > deadline:
            self.misses += 1
            self._bad, self._good = self._bad + 1, 0
            if self._bad >= MISSES:
                self._down()
        elif seconds < ROOM * deadline:
            self._bad, self._good = 0, self._good + 1
            if self._good >= HITS:
                self.step, self._good = max(self.step - 1, 0), 0
        else:
            self._bad = self._good = 0
        return self.step != before

    def out_of_memory(self) -> bool:
        """Memory ran out; whether the step has changed."""
        before = self.step
        self._down()
        return self.step != before

    def _down(self) -> None:
        self.step, self._bad, self._good = min(self.step + 1, len(STEPS) - 1), 0, 0

    def reduced(
        self, config: ReconstructorConfig, usual_size: int, patch: int
    ) -> ReconstructorConfig:
        """What is done at this step of what was asked for.

        Args:
            usual_size: Long side in pixels that the network sees if nothing else was asked for.
            patch: The size stays a multiple of this.
        """
        if self.step >= 1:
            config = replace(config, closeups=replace(config.closeups, most=0))
        if self.step >= 2:
            config = replace(config, pairing=Pairing.ONEREF)
        if self.step >= 3:
            size = int(SMALLER * (config.image_size or usual_size)) // patch * patch
            config = replace(config, image_size=max(size, patch))
        return config
