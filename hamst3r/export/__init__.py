"""Scenes as files that other programs open, and as files that come back as scenes."""

from hamst3r.export.scene_file import SceneFileError, load_scene, save_scene
from hamst3r.export.writer import FORMATS, export_scene

__all__ = ["FORMATS", "SceneFileError", "export_scene", "load_scene", "save_scene"]
