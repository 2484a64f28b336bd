"""RICH (Huang et al., CVPR 2022): people touching scanned scenes before static cameras.

Layout (that of its toolkit): ``images/<split>/<sequence>/cam_NN/FFFFF_NN.{png,jpg,jpeg,bmp}``,
``bodies/<split>/<sequence>/FFFFF/<subject>.pkl`` (SMPL-X), ``scan_calibration/<scene>/calibration/
NNN.xml``, where the scene is the first word of the sequence's name. Joints take ``--body``: a
folder with models of both genders, and the toolkit's ``resource/gender.json`` beside ``bodies``; or
one file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.evaluation.datasets.base import (
    Case,
    Clip,
    DatasetError,
    ImageFile,
    Item,
    Lens,
    ReadOptions,
    Shot,
    as_pose,
    evenly,
    existing,
    folders,
    matrix3,
    read_json,
)
from hamst3r.evaluation.datasets.pickles import load_pickle
from hamst3r.evaluation.datasets.skeleton import load_skeleton
from hamst3r.people.body import JOINT_NAMES

LAYOUT = "images/<split>/<sequence>/cam_NN, bodies/<split>, scan_calibration/<scene>/calibration"
RATE = 30.0
_PER_SEQUENCE = 10  # moments
_KEYS = ("global_orient", "body_pose", "transl", "betas")


def read(root: Path, options: ReadOptions) -> list[Clip]:
    """Whole sequences, seen by their first camera, one clip per person.

    ``options.split``: "test" (default), "train" or "val".
    """
    return _of_sequences(root, options, _clips)


def _of_sequences(
    root: Path, options: ReadOptions, read_one: Callable[[Path, str, Path, ReadOptions], list[Item]]
) -> list[Item]:
    split = options.split or "test"
    found: list[Item] = []
    for sequence in folders(root / "images" / split, "sequences"):
        found += read_one(root, split, sequence, options)
    return evenly(existing(found, root, LAYOUT), options.limit)


def _clips(root: Path, split: str, images: Path, options: ReadOptions) -> list[Clip]:
    camera = next(iter(sorted(images.glob("cam_*"))), None)
    moments = _moments(root, split, images)
    if camera is None or len(moments) < 2:
        return []
    lens, pose = _calibration(_calibration_file(root, images, camera))
    shots = tuple(
        Shot(m.name, ImageFile(_image(camera, m.name), lens), lens.K, pose) for m in moments
    )
    subjects = sorted({file.stem for moment in moments for file in moment.glob("*.pkl")})
    clips = []
    for subject in subjects:
        joints = np.full((len(moments), len(JOINT_NAMES), 3), np.nan)
        for index, moment in enumerate(moments):
            file = moment / f"{subject}.pkl"
            if file.is_file():
                joints[index] = _joints(root, file, options.body)
        clips.append(Clip(f"{images.name}/{subject}", images.name, shots, joints, RATE))
    return clips


def read_views(root: Path, options: ReadOptions) -> list[Case]:
    """Moments with four cameras, evenly spread over every sequence.

    ``options.split``: "test" (default), "train" or "val".
    """
    return _of_sequences(root, options, _sequence)


def _sequence(root: Path, split: str, images: Path, options: ReadOptions) -> list[Case]:
    cameras = evenly(sorted(images.glob("cam_*")), options.views or 4)
    lenses = {
        camera.name: _calibration(_calibration_file(root, images, camera)) for camera in cameras
    }
    cases = []
    for moment in evenly(_moments(root, split, images), _PER_SEQUENCE):
        shots = []
        for camera in cameras:
            lens, pose = lenses[camera.name]
            file = _image(camera, moment.name)
            shots.append(Shot(camera.name, ImageFile(file, lens), lens.K, pose))
        people = {
            file.stem: _joints(root, file, options.body) for file in sorted(moment.glob("*.pkl"))
        }
        cases.append(Case(f"{images.name}/{moment.name}", images.name, tuple(shots), people))
    return cases


def _moments(root: Path, split: str, images: Path) -> list[Path]:
    """Folders of the frames that have bodies."""
    return sorted(p for p in (root / "bodies" / split / images.name).glob("*") if p.is_dir())


def _calibration_file(root: Path, images: Path, camera: Path) -> Path:
    scene = images.name.split("_")[0]
    return root / "scan_calibration" / scene / "calibration" / f"{int(camera.name[4:]):03d}.xml"


def _image(camera: Path, frame: str) -> Path:
    stem = f"{frame}_{camera.name[4:]}"
    files = [camera / f"{stem}{suffix}" for suffix in (".jpeg", ".jpg", ".png", ".bmp")]
    return next((file for file in files if file.is_file()), files[0])


def _calibration(path: Path) -> tuple[Lens, NDArray[np.float64]]:
    names = ("Intrinsics", "CameraMatrix", "Distortion")
    parts: list[NDArray | None] = [None]
    try:
        if path.is_file():
            storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
            parts = [storage.getNode(name).mat() for name in names]
            storage.release()
    except (cv2.error, SystemError):  # the latter where it is no XML at all
        pass
    if any(part is None for part in parts):
        raise DatasetError(f"{path}: expected OpenCV's XML with {', '.join(names)}")
    K, extrinsics, distortion = parts
    lens = Lens(matrix3(K, str(path)), np.asarray(distortion, float).ravel())
    return lens, as_pose(extrinsics, str(path))


def _joints(root: Path, file: Path, body: Path | None) -> NDArray[np.float64]:
    parameters = load_pickle(file)
    missing: Sequence[str] = [
        key for key in _KEYS if not isinstance(parameters, dict) or key not in parameters
    ]
    if missing:
        raise DatasetError(f"{file}: expected SMPL-X parameters, {', '.join(missing)} missing")
    orient, pose, transl, betas = (np.asarray(parameters[key], float) for key in _KEYS)
    gender = _gender(root, file.stem) if body is not None and body.is_dir() else "neutral"
    skeleton = load_skeleton(body, gender, "RICH")
    return skeleton.joints(betas.ravel(), orient, pose, transl)[0]


def _gender(root: Path, subject: str) -> str:
    """Whose model a subject's parameters are of."""
    path = root / "resource" / "gender.json"
    genders = read_json(path)
    key = str(int(subject)) if subject.isdigit() else subject
    if not isinstance(genders, dict) or key not in genders:
        raise DatasetError(f"{path}: expected the gender of subject {key}")
    return str(genders[key])
