"""A simulated drive through a hall with walking people: ``python benchmarks/drive.py``.

A robot with cameras all round drives laps through a hall in which people walk; the whole
reconstruction runs on it (pairing "rig"), with pairs as a network of the tests' noise would say
them, and masks that miss some of the people. The trajectory's errors are evo's (absolute, RMSE,
after alignment), of the poses as they were published at the time:

- ``ate_m``: in the map, aligned rigidly; ``ate_scaled_m``: with a scale too; ``scale``: that scale.
- ``ate_world_m``: in the continuous world, which drifts; ``path_m``: how long the way was.
- ``jump_m``: largest step of the world beside that of the truth, between two frame sets.
- ``ms_first``, ``ms_last``: of alignment per frame set (CPU time, mean), in the second and in the
  last fifth; ``time_ratio``: last over second fifth. ``rss_mb``: memory of the process at the
  end; ``rss_growth_mb``: more than at half of the way. Both once what the allocator keeps for
  later (between 50 and 90 MB, up and down) has been handed back.
- ``window_sets``: how many frame sets the keyframes kept span, if they are the newest.
- ``ghost_sets``: longest time, in frame sets, that a cube of the static map was there only because
  of a person; ``ghosts``: such cubes at the end, of ``map_points``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from evo.core import metrics
from evo.core.trajectory import PosePath3D
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "core"))

from simulated_drive import Drive, DriveEngine, View

from hamst3r.alignment.stream import StreamConfig
from hamst3r.geometry import invert, transform, unproject
from hamst3r.pairs import Pairing
from hamst3r.people.track import TrackingConfig
from hamst3r.reconstructor import Reconstructor, ReconstructorConfig
from hamst3r.scene import Scene
from hamst3r.static_map import StaticMap, cube_keys

VOXEL, MAX_POINTS = 0.15, 200_000
# Metres from what stands there, within which a cube may be of its surface.
CLEARANCE = 0.3
POSITION_STD, TURN_STD, FOCAL_STD = 0.03, np.deg2rad(2.0), 0.05


def calibration(drive: Drive, kind: str) -> dict[str, list]:
    """Fields of the frames: nothing, what is true, or what is a little off and says so."""
    if kind == "none":
        return {}
    if kind == "exact":
        return {"K": drive.K_image, "T_rig_cam": list(drive.T_rig_cam)}
    rng = np.random.default_rng(drive.seed + 1)
    covariance = np.diag([POSITION_STD**2] * 3 + [TURN_STD**2] * 3)
    K, poses = [], []
    for true_K, T in zip(drive.K_image, drive.T_rig_cam, strict=True):
        K.append(true_K * [[s := np.exp(FOCAL_STD * rng.normal()), 1, 1], [1, s, 1], [1, 1, 1]])
        off = T.copy()
        off[:3, 3] += POSITION_STD * rng.normal(size=3)
        turn = np.cross(np.eye(3), -TURN_STD * rng.normal(size=3))
        U, _, Vt = np.linalg.svd((np.eye(3) + turn) @ T[:3, :3])
        off[:3, :3] = U @ Vt
        poses.append(off)
    count = len(K)
    return {
        "K": K,
        "K_std": [FOCAL_STD] * count,
        "T_rig_cam": poses,
        "T_rig_cam_covariance": [covariance] * count,
    }


class Ghosts:
    """Cubes of the static map that only people's pixels have ever filled since they did."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._since: dict[int, int] = {}
        self.longest = 0
        self.now = 0

    def _clear(self, view: View, K: NDArray) -> NDArray[np.bool_]:
        """(gh, gw) what is really farther from all that stands there than a surface is thick."""
        places = transform(view.T_world_cam, unproject(view.depth, K))
        clear = places[..., 2] > CLEARANCE
        for axis, at in self._drive.planes:
            clear &= np.abs(places[..., axis] - at) > CLEARANCE
        for centre, radii in self._drive.things:
            clear &= (((places - centre) / (radii + CLEARANCE)) ** 2).sum(-1) > 1
        return clear

    def watch(self, step: int, scene: Scene, engine: DriveEngine, static: StaticMap) -> None:
        """Take a scene in; before the map does."""
        views = {f"cam{k}": view for k, view in enumerate(engine.views())}
        for camera, view in zip(scene.cameras, scene.views, strict=True):
            true = views[camera.name]
            of_people = true.people > 0
            entering = of_people & (view.instances == 0)
            if not (entering.any() or self._since):
                continue
            points = transform(
                scene.T_map_world @ camera.T_world_cam, unproject(view.depth, view.K)
            )
            if entering.any():
                keys = cube_keys(points[entering & self._clear(true, view.K)], VOXEL)
                for key in np.unique(keys[~static.holds(keys, False)]).tolist():
                    self._since.setdefault(key, step)
            for key in set(self._since) & set(cube_keys(points[~of_people], VOXEL).tolist()):
                del self._since[key]

    def count(self, step: int, static: StaticMap) -> None:
        """Those that are in the map, once it has taken the scene in."""
        keys = np.array(sorted(self._since), np.int64)
        known, shown = static.holds(keys, False), static.holds(keys, True)
        ages = [step - self._since[key] for key in keys[shown].tolist()]
        self.longest, self.now = max([self.longest, *ages]), len(ages)
        for key in keys[~known].tolist():
            del self._since[key]


def ate(found: list, true: list, scale: bool) -> tuple[float, float]:
    """evo's absolute trajectory error, RMSE in metres, and the scale it took."""
    estimate, reference = PosePath3D(poses_se3=found), PosePath3D(poses_se3=true)
    _, _, factor = estimate.align(reference, correct_scale=scale)
    error = metrics.APE(metrics.PoseRelation.translation_part)
    error.process_data((reference, estimate))
    return float(error.get_statistic(metrics.StatisticsType.rmse)), float(factor)


def rss_mb() -> float:
    """Memory of this process, without what the C library (glibc) has free."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def drive(arguments: argparse.Namespace) -> dict[str, float]:
    """Run it; the figures by name."""
    world = Drive(arguments.seed, arguments.cameras, arguments.people, missed=arguments.missed)
    engine = DriveEngine(world)
    reconstructor = Reconstructor(
        engine,
        ReconstructorConfig(pairing=Pairing.RIG, tracking=TrackingConfig(bodies=False)),
        clock=time.process_time,
    )
    static, ghosts = StaticMap(), Ghosts(world)
    known = calibration(world, arguments.calibration)
    mapped: list[NDArray] = []
    published: list[NDArray] = []
    true: list[NDArray] = []
    seconds: list[float] = []
    memory: list[float] = []
    lost = keyframes = 0
    for step in range(arguments.sets):
        engine.step = step
        scene = reconstructor.push(world.frame_set(step, **known))
        seconds.append(scene.timings["align"])
        if step + 1 in (max(arguments.sets // 2, 1), arguments.sets):
            memory.append(rss_mb())
        lost += len(scene.cameras) < arguments.cameras
        keyframes += scene.keyframe
        if scene.cameras:
            camera = scene.cameras[0]
            published.append(camera.T_world_cam)
            mapped.append(scene.T_map_world @ camera.T_world_cam)
            true.append(engine.views()[int(camera.name[3:])].T_world_cam)
        ghosts.watch(step, scene, engine, static)
        static.add(scene, VOXEL, MAX_POINTS)
        ghosts.count(step, static)
        if arguments.verbose and step % 50 == 49:
            error, scale = ate(mapped, true, True)
            print(
                f"{step + 1:5d} ate {error:6.3f} scale {scale:5.3f} align "
                f"{1e3 * np.mean(seconds[-50:]):5.1f} ms "
                f"ghosts {ghosts.now:4d} of {len(static.confirmed()[0]):6d}",
                flush=True,
            )
    steps, real = (
        [np.linalg.norm((invert(a) @ b)[:3, 3]) for a, b in pairwise(poses)]
        for poses in (published, true)
    )
    fifth = max(arguments.sets // 5, 1)
    first, last = np.mean(seconds[fifth : 2 * fifth]), np.mean(seconds[-fifth:])
    scaled, scale = ate(mapped, true, True)
    return {
        "frame_sets": arguments.sets,
        "ate_m": ate(mapped, true, False)[0],
        "ate_scaled_m": scaled,
        "scale": scale,
        "ate_world_m": ate(published, true, False)[0],
        "path_m": float(np.sum(real)),
        "jump_m": float(np.max(np.abs(np.subtract(steps, real)))),
        "incomplete_sets": lost,
        "ms_first": 1e3 * float(first),
        "ms_last": 1e3 * float(last),
        "time_ratio": float(last / first),
        "rss_mb": memory[-1],
        "rss_growth_mb": memory[-1] - memory[0],
        "window_sets": arguments.sets / keyframes * StreamConfig().keyframes,
        "ghost_sets": ghosts.longest,
        "ghosts": ghosts.now,
        "map_points": len(static.confirmed()[0]),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--sets", type=int, default=2000, help="frame sets, ten per second")
    result.add_argument("--cameras", type=int, default=4)
    result.add_argument("--people", type=int, default=5)
    result.add_argument("--missed", type=float, default=0.1, help="share of people without a mask")
    result.add_argument(
        "--calibration", choices=("none", "uncertain", "exact"), default="uncertain"
    )
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--json", type=Path, help="write the figures to this file")
    result.add_argument("--verbose", action="store_true", help="say how it goes")
    return result


def main() -> None:
    arguments = parser().parse_args()
    torch.set_num_threads(1)
    figures = drive(arguments)
    for name, value in figures.items():
        print(f"{name:16} {value:10.3f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
