"""Pictures of people, for posters, screens and boards: they look like people and are not there."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.bodies import Figure, sample_betas
from hamst3r.synthetic.cameras import SyntheticCamera, intrinsics, look_at
from hamst3r.synthetic.clothing import sample_outfit
from hamst3r.synthetic.materials import MaterialMaker
from hamst3r.synthetic.meshes import MeshBuilder
from hamst3r.synthetic.poses import sample_pose
from hamst3r.synthetic.render import Renderer
from hamst3r.synthetic.surfaces import Cast
from hamst3r.synthetic.textures import TextureBank
from hamst3r.synthetic.world import Light, World

SIDE = 128  # pixels of a picture, whatever its shape on the wall
COUNT = 12  # pictures of each shape
ASPECT = {"tall": 0.7, "wide": 1.45}  # width by height


@lru_cache(maxsize=1)
def picture_bank() -> TextureBank:
    """The pictures all scenes share, families ``tall`` and ``wide``."""
    family, planes = picture_planes()
    return TextureBank(planes, family)


@lru_cache(maxsize=1)
def picture_planes() -> tuple[dict[str, NDArray[np.int64]], NDArray[np.float32]]:
    """Images of each family, and their planes (3 N, SIDE, SIDE): linear red, green, blue of each.

    Drawn once per process, which takes two seconds.
    """
    rng = np.random.default_rng(0x9047)
    family: dict[str, NDArray[np.int64]] = {}
    planes: list[NDArray[np.float32]] = []
    for shape, aspect in ASPECT.items():
        family[shape] = np.arange(len(planes), len(planes) + COUNT)
        planes += [_picture(rng, aspect) for _ in range(COUNT)]
    return family, np.concatenate(planes)


def _picture(rng: np.random.Generator, aspect: float) -> NDArray[np.float32]:
    """(3, SIDE, SIDE): one to three people before a wall, from a face to the whole figure."""
    count = int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1] if aspect < 1 else [0.3, 0.4, 0.3]))
    meshes, joints = [], []
    for k in range(count):
        figure = Figure(sample_outfit(rng), sample_betas(rng))
        rotations, kind = sample_pose(rng, str(rng.choice(["stand", "walk", "reach", "any"])))
        where = np.array([(k - (count - 1) / 2) * rng.uniform(0.6, 0.9), rng.uniform(-0.2, 0.2)])
        state, mesh = figure.stand_on_floor(rotations, where, k + 1, kind)
        meshes.append(mesh)
        joints.append(state.joints)
    maker, builder = MaterialMaker(rng), MeshBuilder(rng)
    builder.box((0, 0, 4), (12, 12, 8), maker.draw(("plain", "noise", "outside", "blotches")), True)
    world = World(
        builder.build(),
        maker.table(),
        (Light(np.array([2.0, -3.0, 3.0]), np.full(3, 1.0), 0.4, 6.0),),
        np.full(3, rng.uniform(0.2, 0.6)),
        None,
        np.array([6.0, 6.0]),
        8.0,
    )
    everyone = np.concatenate(joints)
    top = max(float(j[15, 2]) for j in joints) + 0.25
    low = rng.choice([0.0, 0.45, 0.75]) * top
    span = max(top - low, (np.ptp(everyone[:, 0]) + 0.3) / aspect if count > 1 else 0.0)
    middle = np.array([everyone[:, 0].mean(), everyone[:, 1].mean(), (top + low) / 2])
    distance = 4.0
    front = rotations[0] @ np.array([0.0, 0.0, 1.0]) if count == 1 else np.array([0.0, -1.0, 0.0])
    angle = np.arctan2(front[1], front[0]) + rng.normal(0, 0.6)
    turn = np.array([np.cos(angle), np.sin(angle), rng.uniform(-0.1, 0.3)])
    K = intrinsics(SIDE, SIDE, 2 * np.arctan(0.55 * span / distance))
    K[0, 0] /= aspect  # squeezed; hanging it up stretches it again
    camera = SyntheticCamera("photo", SIDE, SIDE, K, look_at(middle + distance * turn, middle))
    renderer = Renderer(world)
    image = renderer.render(renderer.background(camera), Cast(meshes)).rgb
    return ((image / np.float32(255)) ** np.float32(2.2)).transpose(2, 0, 1)
