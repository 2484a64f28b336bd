"""One look of a network at a frame set, for several reconstructions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hamst3r.engine import PairPrediction
from hamst3r.image import NetworkImage
from hamst3r.network.closeup import CloseupOutput
from hamst3r.pairs import Edge
from hamst3r.people.closeups import LooksCloser, SeesPeople
from hamst3r.reconstructor import Engine


class Replay:
    """An engine that predicts a frame set, and takes its close-ups, only once.

    Args:
        engine: Runs the network.
        closeups: Whether close-ups are taken where the engine sees people.
    """

    def __init__(self, engine: Engine, closeups: bool = True) -> None:
        self.patch, self.stride, self.image_size = engine.patch, engine.stride, engine.image_size
        self._engine = engine
        if closeups and isinstance(engine, SeesPeople):
            self._sees = engine
            self.people = self._people
        self.closeup_side = 0
        if closeups and isinstance(engine, LooksCloser):
            self._looks, self.closeup_side = engine, engine.closeup_side
        self.start()

    def start(self, predictions: Sequence[PairPrediction] | None = None) -> None:
        """Another frame set, of which the pairs' predictions may be known."""
        self._predictions = None if predictions is None else list(predictions)
        self._seen: dict[tuple[str, bytes], PairPrediction] = {}
        self._looked: dict[bytes, CloseupOutput] = {}

    def predict(self, images: Sequence[NetworkImage], edges: Sequence[Edge]) -> list:
        """Of the frame set's images and pairs, whatever is asked for."""
        if self._predictions is None:
            self._predictions = self._engine.predict(images, edges)
        return self._predictions

    def look(self, images: Tensor) -> CloseupOutput:
        """As :meth:`hamst3r.engine.PairEngine.look`."""
        keys = [image.numpy().tobytes() for image in images]
        rows = {key: row for row, key in enumerate(keys) if key not in self._looked}
        if rows:
            looks = zip(*self._looks.look(images[list(rows.values())]), strict=True)
            self._looked |= {k: CloseupOutput(*one) for k, one in zip(rows, looks, strict=True)}
        return CloseupOutput.stack([self._looked[key] for key in keys])

    def _people(self, images: Sequence[NetworkImage]) -> list[PairPrediction]:
        parts = [(image.camera, image.T_image_grid.tobytes()) for image in images]
        new = {p: image for p, image in zip(parts, images, strict=True) if p not in self._seen}
        self._seen |= dict(zip(new, self._sees.people(list(new.values())), strict=True))
        return [self._seen[part] for part in parts]
