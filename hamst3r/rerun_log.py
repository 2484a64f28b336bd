"""Scenes as a Rerun recording (.rrd), by rerun-sdk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hamst3r.colors import by_person, person_colors
from hamst3r.export.geometry import pose_bodies
from hamst3r.people.body import BodyModel, anny24
from hamst3r.scene import Scene
from hamst3r.viewer import Images


def write_rrd(
    moments: Iterable[tuple[Scene, Images]], file: Path, body: BodyModel | None = None
) -> int:
    """Write scenes along their stamps; the number of them.

    Raises:
        ValueError: rerun-sdk is not installed. OSError: The file cannot be written.
    """
    try:
        import rerun as rr
    except ImportError:
        raise ValueError(
            "--rerun needs rerun-sdk; install it: pip install 'hamst3r[rerun]'"
        ) from None
    body = body or anny24()
    partial = file.with_name(f"{file.name}.partial")
    partial.touch()  # an error of ours, not of rerun's background thread
    count = 0
    with rr.RecordingStream("hamst3r") as log:
        log.save(partial)
        log.log("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        for scene, images in moments:
            log.set_time("stamp", timestamp=np.datetime64(scene.stamp, "ns"))
            _log_scene(rr, log, scene, images, body)
            count += 1
        log.flush()
        log.disconnect()
    partial.replace(file)
    return count


def _log_scene(rr, log, scene: Scene, images: Images, body: BodyModel) -> None:
    points = scene.points
    log.log("world/points", rr.Points3D(points.xyz, colors=points.rgb))
    people = points.instance > 0
    colors = by_person(points.rgb, points.instance)[people]
    log.log("world/people/points", rr.Points3D(points.xyz[people], colors=colors))
    meshes = pose_bodies(scene.people, body)
    for person in scene.people:
        path = f"world/people/{person.id}"
        label = rr.Points3D([person.position], labels=[f"person {person.id}"], radii=[0.03])
        log.log(f"{path}/place", label)
        if person.id in meshes:
            color = person_colors(np.array(person.id))
            tints = np.tile(color, (len(meshes[person.id]), 1))
            mesh = rr.Mesh3D(
                vertex_positions=meshes[person.id],
                triangle_indices=body.faces.numpy(),
                vertex_colors=tints,
            )
            log.log(f"{path}/body", mesh)
    for camera in scene.cameras:
        path = f"world/cameras/{camera.name}"
        T = camera.T_world_cam
        log.log(path, rr.Transform3D(translation=T[:3, 3], mat3x3=T[:3, :3]))
        pinhole = rr.Pinhole(
            image_from_camera=camera.K,
            resolution=[camera.width, camera.height],
            camera_xyz=rr.ViewCoordinates.RDF,
        )
        log.log(path, pinhole)
        if camera.name in images:
            log.log(path, rr.Image(images[camera.name]).compress())
