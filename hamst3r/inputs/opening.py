"""Finds out what the user handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hamst3r.alignment.calibration import load_calibration
from hamst3r.inputs.bags import Bag, is_bag
from hamst3r.inputs.photos import PHOTO_SUFFIXES, MovingCamera, Photos
from hamst3r.inputs.rigs import Rig
from hamst3r.inputs.source import InputError, InputOptions, Report, Source
from hamst3r.recording import VIDEO_SUFFIXES


def open_inputs(paths: Sequence[str | Path], options: InputOptions, report: Report) -> Source:
    """Open what was handed over.

    Args:
        paths: Images and folders of images (any number, one place); or one video, one bag, or one
            folder with a recording (``calibration.json``, or sub-folders of images, or videos).
        report: Called with a sentence about what is left out.

    Raises:
        InputError: What cannot be used, with the file's name.
        RecordingError, CalibrationError: The same, of recordings.
    """
    given = [Path(path) for path in paths]
    if not given:
        raise InputError("no input; name images, a folder, a video or a bag")
    for path in given:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
    single = given[0]
    if options.topics and not (len(given) == 1 and is_bag(single)):
        raise InputError(f"{single}: is no bag; topics can be chosen only of one (--topic)")
    source = _open(given, options, report)
    if options.calibration and not isinstance(source, Photos):
        raise InputError(
            f"{single}: a calibration can be given only for photos (--calibration); a recording "
            "has calibration.json in its folder, a bag camera_info, a video --focal"
        )
    return source


def _open(given: list[Path], options: InputOptions, report: Report) -> Source:
    single = given[0]
    if len(given) == 1 and is_bag(single):
        return Bag(single, options, report)
    if len(given) == 1 and single.suffix.lower() in VIDEO_SUFFIXES:
        return MovingCamera(single, options, report)
    if len(given) == 1 and single.is_dir():
        return _folder(single, options, report)
    alone = [path for path in given if is_bag(path) or path.suffix.lower() in VIDEO_SUFFIXES]
    if alone:
        raise InputError(
            f"{alone[0]}: a video or bag must be the only input; put the videos of several "
            "cameras into a folder and name that"
        )
    files: list[Path] = []
    for path in given:
        files += _images(path) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{single}: holds no images ({', '.join(PHOTO_SUFFIXES)})")
    return Photos(files, {path for path in given if path.is_file()}, options, report)


def _folder(folder: Path, options: InputOptions, report: Report) -> Source:
    images = _images(folder)
    if (folder / "calibration.json").is_file() and not images:
        return Rig(folder, options, report)
    if images:
        if (folder / "calibration.json").is_file() and not options.calibration:
            options = replace(options, calibration=load_calibration(folder / "calibration.json"))
        return Photos(images, set(), options, report)
    inside = sorted(folder.iterdir())
    cameras = [path for path in inside if path.is_dir() and _images(path)]
    videos = [path for path in inside if path.suffix.lower() in VIDEO_SUFFIXES]
    if len(cameras) == 1:
        return Photos(_images(cameras[0]), set(), options, report)
    if not cameras and len(videos) == 1:
        return MovingCamera(videos[0], options, report)
    if cameras or videos:
        return Rig(folder, options, report)
    raise InputError(
        f"{folder}: holds no images ({', '.join(PHOTO_SUFFIXES)}), videos "
        f"({', '.join(VIDEO_SUFFIXES)}), folders of images or bag"
    )


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file()
    )
