"""Seeds to labelled multi-view scenes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.bodies import Figure, PersonMesh, PersonState, sample_betas
from hamst3r.synthetic.cameras import sample_cameras, small
from hamst3r.synthetic.clothing import sample_outfit
from hamst3r.synthetic.poses import sample_pose
from hamst3r.synthetic.render import Renderer, SyntheticView
from hamst3r.synthetic.sensor import expose
from hamst3r.synthetic.surfaces import Cast
from hamst3r.synthetic.worlds import free, sample_world

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class GeneratorConfig:
    """Shares and sizes of what is generated.

    Attributes:
        outdoor: Share of scenes under the sky. empty: Share of scenes without people.
        max_people: Most people in a scene. half: Range of half the room's sides, metres.
        sensor: Strength of the sensor model, 0 off. clutter: Scales the furniture.
        camera_style: One of ``cameras.STYLES``, or None for all.
    """

    outdoor: float = 0.15
    empty: float = 0.3
    max_people: int = 4
    half: tuple[float, float] = (1.5, 5.0)
    sensor: float = 1.0
    clutter: float = 1.0
    camera_style: str | None = None


@dataclass(frozen=True, eq=False)
class SyntheticScene:
    """Views of one moment and the truth about it.

    Attributes:
        seed: What it came from. views: V of them, one size. people: Also those out of sight.
        meshes: The people's posed surfaces, in the order of ``people``.
        metadata: style (cameras), outdoor, half (m), height (m).
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
        low, high = np.log(config.half)
        half = np.exp(rng.uniform(low, high, 2))
        outdoor = bool(rng.random() < config.outdoor)
        states, meshes = self._people(rng, half)
        discs = np.array([_disc(mesh) for mesh in meshes], float).reshape(-1, 3)
        stools = [_seat(s, m) for s, m in zip(states, meshes, strict=True) if s.kind == "sit"]
        stool_table = np.array([s for s in stools if s is not None], float).reshape(-1, 3)
        world = sample_world(rng, outdoor, discs, stool_table, half, config.clutter)
        renderer, cast = Renderer(world), Cast(meshes)
        targets = [np.array([0, 0, 1.0]), *(s.joints[[0, 15]].mean(0) for s in states)]
        if len(targets) > 1 and rng.random() < 0.85:
            targets = targets[1:]
        cameras, style = sample_cameras(
            rng,
            views,
            size,
            half,
            world.height if not outdoor else 3.0,
            np.stack(targets),
            lambda camera: renderer.probe(small(camera), cast),
            config.camera_style,
        )
        rendered = []
        for camera in cameras:
            view = renderer.render(renderer.background(camera), cast)
            rgb = expose(view.rgb, rng, config.sensor)
            rendered.append(SyntheticView(**{**view.__dict__, "rgb": rgb}))
        metadata = {"style": style, "outdoor": outdoor, "half": half, "height": world.height}
        return SyntheticScene(seed, tuple(rendered), tuple(states), tuple(meshes), metadata)

    def _people(
        self, rng: np.random.Generator, half: F64
    ) -> tuple[list[PersonState], list[PersonMesh]]:
        """People on the floor who do not touch each other or the walls."""
        count = 0
        if rng.random() >= self.config.empty:
            count = int(rng.integers(1, self.config.max_people + 1))
        states: list[PersonState] = []
        meshes: list[PersonMesh] = []
        discs: list[tuple[float, float, float]] = []
        gather = rng.uniform(0.3, 1.0)
        for _ in range(count):
            figure = Figure(sample_outfit(rng), sample_betas(rng))
            rotations, kind = sample_pose(rng)
            state, mesh = figure.stand_on_floor(rotations, np.zeros(2), len(states) + 1, kind)
            x, y, radius = _disc(mesh)
            for _ in range(30):
                xy = rng.uniform(-half, half) * gather
                if free(discs, xy, radius, half):
                    state, mesh = moved(state, mesh, np.array([xy[0] - x, xy[1] - y, 0.0]))
                    discs.append((*xy, radius))
                    states.append(state)
                    meshes.append(mesh)
                    break
        return states, meshes


def moved(state: PersonState, mesh: PersonMesh, by: F64) -> tuple[PersonState, PersonMesh]:
    """The same person translated by (3,) metres."""
    state = PersonState(
        state.id,
        state.betas,
        state.rotations,
        state.transl + by,
        state.joints + by,
        state.kind,
    )
    vertices = (mesh.vertices + by).astype(np.float32)
    return state, PersonMesh(mesh.id, mesh.figure, vertices, mesh.normals)


def _disc(mesh: PersonMesh) -> tuple[float, float, float]:
    """Circle (x, y, radius) that holds all of a person seen from above."""
    flat = mesh.vertices[:, :2].astype(float)
    x, y = (flat.min(0) + flat.max(0)) / 2
    return x, y, float(np.hypot(flat[:, 0] - x, flat[:, 1] - y).max())


def _seat(state: PersonState, mesh: PersonMesh) -> tuple[float, float, float] | None:
    """Where a stool goes under a sitting person (x, y, z of its top), None if too low for one."""
    pelvis = state.joints[0]
    body = mesh.vertices[: len(mesh.figure.model.v_template)]
    under = body[np.hypot(body[:, 0] - pelvis[0], body[:, 1] - pelvis[1]) < 0.12, 2]
    height = float(under.min()) if len(under) else 0.0
    return (float(pelvis[0]), float(pelvis[1]), height) if height > 0.1 else None
