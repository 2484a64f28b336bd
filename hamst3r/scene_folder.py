"""What ``hamst3r reconstruct`` wrote, found again: one scene, or one per time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.export import SceneFileError, load_scene
from hamst3r.export.writer import DOCUMENT, IMAGES, SCENE
from hamst3r.scene import Scene

SEQUENCE = "sequence.json"


@dataclass(frozen=True)
class StoredScene:
    """A scene on disk.

    Attributes:
        file: The archive. changed: When it was written (ns), to tell a new one of the same name.
    """

    file: Path
    changed: int

    def load(self) -> Scene:
        """Raises SceneFileError, OSError."""
        return load_scene(self.file)

    def images(self) -> dict[str, NDArray[np.uint8]]:
        """camera -> (H, W, 3) undistorted image; those that are there."""
        document = self.file.parent / DOCUMENT
        try:
            names = json.loads(document.read_text(encoding="utf-8"))["images"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        found = {}
        for camera, name in names.items():
            image = cv2.imread(str(self.file.parent / IMAGES / Path(name).name), cv2.IMREAD_COLOR)
            if image is not None:
                found[camera] = np.ascontiguousarray(image[..., ::-1], np.uint8)
        return found


def stored_scenes(path: str | Path) -> list[StoredScene]:
    """The scenes of a folder of ``hamst3r reconstruct`` (or one ``scene.npz``), by time.

    Empty where the folder is there, but (still) holds no scene.

    Raises:
        SceneFileError: There is no such file or folder, or what lists the scenes is broken.
    """
    path = Path(path)
    if path.is_file():
        return _existing([path])
    if not path.is_dir():
        raise SceneFileError(f"{path}: no such file or folder")
    listed = path / SEQUENCE
    if listed.is_file():
        try:
            entries = json.loads(listed.read_text(encoding="utf-8"))["sets"]
            folders = [path / Path(entry["folder"]).name for entry in entries]
        except (ValueError, KeyError, TypeError) as error:
            raise SceneFileError(f"{listed}: not a list of scenes: {error}") from error
        return _existing([folder / SCENE for folder in folders])
    return _existing([path / SCENE])


def _existing(files: list[Path]) -> list[StoredScene]:
    found = []
    for file in files:
        try:
            found.append(StoredScene(file, file.stat().st_mtime_ns))
        except OSError:
            continue
    return found


def need_scenes(path: str | Path) -> list[StoredScene]:
    """As :func:`stored_scenes`, at least one.

    Raises:
        SceneFileError: There is none.
    """
    found = stored_scenes(path)
    if not found:
        raise SceneFileError(
            f"{path}: holds no {SCENE}; name a folder that hamst3r reconstruct wrote"
        )
    return found
