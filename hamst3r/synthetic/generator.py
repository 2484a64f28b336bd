"""Seeds to labelled multi-view scenes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.assets import load_pack
from hamst3r.synthetic.bodies import Figure, PersonMesh, PersonState, sample_betas
from hamst3r.synthetic.cameras import sample_cameras, small
from hamst3r.synthetic.clothing import sample_outfit
from hamst3r.synthetic.crowds import sample_crowd
from hamst3r.synthetic.render import Renderer, SyntheticView
from hamst3r.synthetic.sensor import expose
from hamst3r.synthetic.solids import Space
from hamst3r.synthetic.surfaces import Cast
from hamst3r.synthetic.wardrobe import load_wardrobe
from hamst3r.synthetic.worlds import PLACES, sample_place, sample_world

F64 = NDArray[np.float64]
HELD_OUT = 900_000  # seeds from here on are never trained on


@dataclass(frozen=True)
class GeneratorConfig:
    """Shares and sizes of what is generated.

    Attributes:
        places: Shares of rooms, corridors, halls and yards. place: One of them only.
        empty: Share of scenes without people. max_people: Most people in a scene.
        difficulty: 0 (one or two people nearby, little else) to 1 (many, far, hidden, cluttered);
            None draws it for every scene.
        lookalikes: Scales the number of statues, dummies and the like (they are in every world).
        clutter: Scales the furniture. sensor: Strength of the sensor model, 0 off.
        camera_style: One of ``cameras.STYLES``, or None for all.
        assets: A folder of models to furnish with (:mod:`hamst3r.synthetic.assets`).
        wardrobe: A folder of MakeHuman's clothes (:mod:`hamst3r.synthetic.wardrobe`).
    """

    places: tuple[float, float, float, float] = (0.44, 0.13, 0.22, 0.21)
    place: str | None = None
    empty: float = 0.3
    max_people: int = 6
    difficulty: float | None = None
    lookalikes: float = 1.0
    clutter: float = 1.0
    sensor: float = 1.0
    camera_style: str | None = None
    assets: Path | None = None
    wardrobe: Path | None = None

    def __post_init__(self) -> None:
        if self.place is not None and self.place not in PLACES:
            raise ValueError(f"place must be one of {', '.join(PLACES)}; got {self.place!r}")
        if self.difficulty is not None and not 0 <= self.difficulty <= 1:
            raise ValueError(f"difficulty must be within 0 and 1, got {self.difficulty}")
        if not 0 <= self.max_people <= 6:
            raise ValueError(f"max_people must be within 0 and 6, got {self.max_people}")


@dataclass(frozen=True, eq=False)
class SyntheticScene:
    """Views of one moment and the truth about it.

    Attributes:
        seed: What it came from. views: V of them, one size. people: Also those out of sight.
        meshes: The people's posed surfaces, in the order of ``people``.
        metadata: place, style (of the cameras), difficulty, half (2,) and height (m), activities,
            props (what people sit on, lie on and hold), solids (what all furniture fills),
            lookalikes (L, 3) (middles of what looks like people).
    """

    seed: int
    views: tuple[SyntheticView, ...]
    people: tuple[PersonState, ...]
    meshes: tuple[PersonMesh, ...]
    metadata: dict[str, object] = field(default_factory=dict)


class SceneGenerator:
    """Draws scenes; the same seed gives the same bytes."""

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        self.config = config or GeneratorConfig()

    def sample(
        self, seed: int, size: tuple[int, int] = (224, 168), views: int = 4
    ) -> SyntheticScene:
        """The scene of ``seed``.

        Args:
            size: (width, height) in pixels. views: How many cameras.

        Raises:
            ValueError: ``size`` is below 16 pixels or ``views`` below 1.
        """
        if min(size) < 16 or views < 1:
            raise ValueError(
                f"size must be at least 16 x 16, views at least 1; got size={size}, views={views}"
            )
        rng = np.random.default_rng([seed, 0x5CE4E])
        config = self.config
        drawn = float(rng.random())
        hard = drawn if config.difficulty is None else config.difficulty
        place = sample_place(rng, config.place or str(rng.choice(PLACES, p=config.places)))
        gather = rng.uniform(0.25, 1.0)
        crowd = sample_crowd(
            rng,
            place.half,
            place.height,
            self._count(rng, hard),
            lambda: self._dressed(rng),
            gather,
        )
        space = Space(place.half, crowd.points)
        space.take(*crowd.solids)
        stand_ins = config.lookalikes * (0.3 + hard) * (1.0 if crowd.states else 2.0)
        clutter = config.clutter * (0.6 + 0.8 * hard)
        pack = load_pack(config.assets) if config.assets else None
        world = sample_world(rng, place, space, crowd.props, clutter, stand_ins, pack)
        renderer, cast = Renderer(world), Cast(crowd.meshes)
        people = [state.joints[[0, 15]].mean(0) for state in crowd.states]
        targets = people or list(world.lookalikes)
        if not targets or rng.random() < 0.15:
            targets = [np.array([0, 0, 1.0]), *people, *world.lookalikes]
        cameras, style = sample_cameras(
            rng,
            views,
            size,
            place.half,
            3.0 if place.kind == "yard" else place.height,
            np.stack(targets),
            lambda camera: renderer.probe(small(camera), cast),
            config.camera_style,
            (1.2 + 1.6 * hard, 4.0 + 6.0 * hard),
        )
        rendered = []
        for camera in cameras:
            view = renderer.render(renderer.background(camera), cast)
            rgb = expose(view.rgb, rng, config.sensor)
            rendered.append(SyntheticView(**{**view.__dict__, "rgb": rgb}))
        metadata = {
            "place": place.kind,
            "style": style,
            "difficulty": hard,
            "half": place.half,
            "height": place.height,
            "activities": crowd.activities,
            "props": crowd.props,
            "solids": tuple(space.solids),
            "lookalikes": world.lookalikes,
        }
        return SyntheticScene(seed, tuple(rendered), crowd.states, crowd.meshes, metadata)

    def _count(self, rng: np.random.Generator, hard: float) -> int:
        """How many people are wanted."""
        most = self.config.max_people
        empty = rng.random() < self.config.empty
        if most == 0:
            return 0
        chances = np.exp(-np.arange(most) / (1.0 + 5.0 * hard))
        count = 1 + int(rng.choice(most, p=chances / chances.sum()))
        return 0 if empty else count

    def _dressed(self, rng: np.random.Generator) -> Figure:
        outfit = sample_outfit(rng)
        if self.config.wardrobe:
            outfit = load_wardrobe(self.config.wardrobe).dress(outfit, rng)
        return Figure(outfit, sample_betas(rng))
