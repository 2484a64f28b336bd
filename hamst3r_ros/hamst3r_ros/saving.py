"""~/save_scene: a scene as a file, only ever below the folder that the operator named."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from hamst3r_msgs.srv import SaveScene

from hamst3r.export import save_scene
from hamst3r.export.ply import write_ply
from hamst3r.scene import LABEL_HUMAN, PointCloud, Scene

FORMATS = ("ply", "npz")


class SaveError(ValueError):
    """A request that is refused; the message says why and what to do."""


def answer(
    request: SaveScene.Request, response: SaveScene.Response, scene: Scene | None, output_dir: str
) -> SaveScene.Response:
    """Do what a request asks for, or say why not."""
    try:
        file, form = target(output_dir, request.path, request.format)
        if scene is None:
            raise SaveError(
                "no scene yet; activate the node, and subscribe to an output or set lazy to false"
            )
        response.num_points = save(scene, file, form, request.include_humans)
        response.success, response.message = True, f"written to {file}"
    except SaveError as error:
        response.message = str(error)
    except OSError as error:
        response.message = f"cannot write, nothing was changed: {error}"
    return response


def target(output_dir: str, path: str, form: str) -> tuple[Path, str]:
    """Where to write and in which format.

    Raises:
        SaveError: No folder is set, the path leads out of it, or the format is not known.
    """
    if not output_dir:
        raise SaveError("parameter 'output_dir' is empty; set it to the folder to save below")
    wanted = PurePosixPath(path)
    if not path or wanted.is_absolute() or ".." in wanted.parts or "\0" in path:
        raise SaveError(f"path '{path}' is refused; give one relative to output_dir, without '..'")
    form = form or wanted.suffix.removeprefix(".")
    if form not in FORMATS:
        raise SaveError(f"format '{form}' is not known, expected {' or '.join(FORMATS)}")
    folder = Path(output_dir).expanduser().resolve()
    file = folder / wanted
    if file.suffix != f".{form}":
        file = file.with_name(f"{file.name}.{form}")
    # Links inside the folder must not lead out of it, either.
    if not file.resolve().is_relative_to(folder):
        raise SaveError(f"path '{path}' leads out of output_dir; choose another")
    return file, form


def save(scene: Scene, file: Path, form: str, include_humans: bool) -> int:
    """Write a scene as :mod:`hamst3r.export` does; the number of points written.

    What was there under that name stays until everything is on the disk.

    Raises:
        OSError: It cannot be written; nothing is left of the attempt.
    """
    if not include_humans:
        scene = _without_people(scene)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
        partial = Path(folder, file.name)
        if form == "ply":
            write_ply(scene.points, partial)
        else:
            # Images wait meanwhile: rather large than late.
            save_scene(scene, partial, compressed=False)
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(file)
    return len(scene.points)


def _without_people(scene: Scene) -> Scene:
    """The same with neither their points nor their bodies nor their pixels."""
    keep = scene.points.label != LABEL_HUMAN
    points = PointCloud(**{name: column[keep] for name, column in vars(scene.points).items()})
    views = []
    for view in scene.views:
        away = view.instances > 0
        views.append(
            replace(
                view,
                depth=np.where(away, 0, view.depth),
                confidence=np.where(away, 0, view.confidence),
                rgb=np.where(away[..., None], 0, view.rgb),
                instances=np.zeros_like(view.instances),
                densepose=np.full_like(view.densepose, np.nan),
            )
        )
    return replace(scene, points=points, views=tuple(views), people=())
