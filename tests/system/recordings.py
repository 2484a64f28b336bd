"""Small recordings of the synthetic world, in the format that users have."""

from __future__ import annotations

import json
from pathlib import Path

import cv2

from hamst3r.synthetic.motion import MovingScene


def write_recording(folder: Path, sets: int = 3, seed: int = 3) -> Path:
    """A folder with calibration.json and a folder of PNG images per camera.

    Three cameras of a room with one person. The images' names carry no stamps.
    """
    scene = MovingScene(seed, people=1, size=(160, 120))
    scene.cameras = scene.cameras[:3]
    cameras = {}
    for camera in scene.cameras:
        (folder / camera.name).mkdir(parents=True)
        rotation = camera.T_world_cam[:3, :3].T
        cameras[camera.name] = {
            "K": camera.K.tolist(),
            "R": rotation.tolist(),
            "t": (-rotation @ camera.T_world_cam[:3, 3]).tolist(),
        }
    for index in range(sets):
        for view in scene.render(0.2 * index):
            cv2.imwrite(str(folder / view.name / f"{index:06d}.png"), view.rgb[..., ::-1])
    (folder / "calibration.json").write_text(json.dumps({"cameras": cameras}), encoding="utf-8")
    return folder
