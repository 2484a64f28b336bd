"""What the benchmarks of the node share: the node as a process of its own, with a reconstruction
that costs nothing, and a domain in which nobody else is."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hamst3r.frames import FrameSet
from hamst3r.people.body import BodyModel, anny24
from hamst3r.reconstructor import ReconstructorConfig
from hamst3r.scene import (
    BodyFit,
    Camera,
    Person,
    PointCloud,
    ScaleSource,
    Scene,
    TrackingState,
    View,
)

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]


def free_domain() -> int:
    """A ROS domain that no process of this machine is in."""
    for domain in range(40 + os.getpid() % 50, 101):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7410 + 250 * domain))  # where discovery of a domain listens
            except OSError:
                continue
        return domain
    raise SystemExit("error: every ROS domain from 40 to 100 is in use; end what runs there")


def child(script: str, domain: int, *arguments: str) -> subprocess.Popen[str]:
    """Start a benchmark's script again in another role.

    Its standard output is a pipe; what it says otherwise goes where ours goes. Like ours, its
    images travel by shared memory, and nothing of it leaves this machine.
    """
    profile = str(ROOT / "config" / "fastdds.xml")
    environment = {
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,
        "OMP_NUM_THREADS": "1",
        **os.environ,
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_DOMAIN_ID": str(domain),
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    environment.pop("ROS_PYTHON_CHECK_FIELDS", None)  # for tests; images would take 55 ms each
    return subprocess.Popen(
        [sys.executable, script, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def stop(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End them as Ctrl-C would, and by force if they do not."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class NoEngine:
    """Stands for a network where none is needed."""

    device: torch.device = CPU
    precision: str = "none"
    provides: tuple[str, ...] = ("pointmaps", "humans")
    sha256: str = "0" * 64


class ReadyScene:
    """A reconstructor whose scene is ready: what is left is the node's own work.

    Args:
        cameras: Their names. people: How many, all with bodies. points: In the cloud.
        grid: (height, width) of each view.
    """

    def __init__(
        self, cameras: Sequence[str], people: int, points: int, grid: tuple[int, int]
    ) -> None:
        self.config = ReconstructorConfig()
        self._scene = ready_scene(cameras, people, points, grid)

    def reset(self) -> None:
        """Nothing is remembered."""

    def push(self, frames: FrameSet) -> Scene:
        """The same scene at the frames' time."""
        return replace(self._scene, stamp=frames.stamp)


def ready_scene(cameras: Sequence[str], people: int, points: int, grid: tuple[int, int]) -> Scene:
    """A scene with nothing missing; its content is random, of the right kind."""
    rng = np.random.default_rng(0)
    body = anny24()
    K = np.array([[500.0, 0, 319.5], [0, 500, 239.5], [0, 0, 1]])
    solved, views = [], []
    for index, name in enumerate(cameras):
        T = np.eye(4)
        T[:3, 3] = rng.normal(size=3)
        solved.append(Camera(name, f"{name}_optical_frame", index, 640, 480, K, T, 1.0))
        views.append(
            View(
                name,
                K / 2,
                rng.uniform(1, 5, grid).astype(np.float32),
                np.full(grid, 2, np.float32),
                rng.integers(0, 256, (*grid, 3), np.uint8),
                rng.integers(0, people + 1, grid).astype(np.uint16),
                np.full((*grid, 3), np.nan, np.float32),
            )
        )
    instance = np.where(rng.random(points) < 0.2, rng.integers(1, people + 1, points), 0)
    cloud = PointCloud(
        xyz=rng.normal(size=(points, 3)).astype(np.float32),
        rgb=rng.integers(0, 256, (points, 3), np.uint8),
        confidence=rng.uniform(1, 5, points).astype(np.float32),
        label=(instance > 0).astype(np.uint8),
        instance=instance.astype(np.uint16),
        camera=rng.integers(0, len(cameras), points).astype(np.uint8),
        body=np.full((points, 3), np.nan, np.float32),
    )
    everybody = tuple(_person(index + 1, body, rng, cameras) for index in range(people))
    return Scene(0, tuple(solved), tuple(views), cloud, everybody, ScaleSource.CALIBRATION, 0.01)


def _person(
    identity: int, body: BodyModel, rng: np.random.Generator, cameras: Sequence[str]
) -> Person:
    fit = BodyFit(
        body.name,
        body.sha256,
        rng.normal(size=10).astype(np.float32),
        np.array([np.pi / 2, 0, 0], np.float32),
        (0.1 * rng.normal(size=69)).astype(np.float32),
        rng.normal(size=3).astype(np.float32),
        0.02,
        500,
    )
    return Person(
        identity,
        TrackingState.OK,
        0.9,
        fit,
        rng.normal(size=(24, 3)).astype(np.float32),
        np.full(24, 0.02, np.float32),
        rng.normal(size=3),
        np.eye(3) * 1e-4,
        rng.normal(size=3),
        1000,
        dict.fromkeys(cameras, (10, 20, 100, 200)),
        joint_velocities=rng.normal(size=(24, 3)).astype(np.float32),
        joint_velocity_std=np.full(24, 0.1, np.float32),
    )
