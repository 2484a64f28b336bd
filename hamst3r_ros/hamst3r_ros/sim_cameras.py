"""Simulated cameras in the corners of a furnished room in which people walk.

    sim_cameras [--ros-args -p seed:=3 -p people:=2 -p rate:=5.0 ...]

Publishes what :class:`hamst3r_ros.rig_publisher.RigPublisher` says, and the truth under the same
stamps on ``~/ground_truth/humans`` and ``~/ground_truth/cameras``, in the rig's frame. People walk
in the time of the stamps: where the machine renders fewer sets than asked for, the sets come less
often, and nobody walks slower.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from hamst3r_msgs.msg import CameraArray, HumanArray
from rclpy.qos import QoSProfile

from hamst3r.alignment.calibration import CameraCalibration
from hamst3r.people.body import anny24
from hamst3r.scene import Scene
from hamst3r.synthetic.motion import MovingScene
from hamst3r_ros.bodies import CoarseBody
from hamst3r_ros.conversions import camera_array, human_array
from hamst3r_ros.ground_truth import Truth
from hamst3r_ros.headers import header_fields
from hamst3r_ros.rig_publisher import RigPublisher
from hamst3r_ros.source_node import Ahead, SourceError, SourceNode, names, parameter, positive, run

CORNERS = 4  # of the room: one camera each
AHEAD = 2  # sets rendered before their time
TICKS = 4  # looks at the clock per set
TRUTH_QOS = QoSProfile(depth=5)


@dataclasses.dataclass(frozen=True, eq=False)
class RenderedSet:
    """Images of one time and what is true then.

    Attributes:
        time: Seconds since the beginning.
        images: camera -> (H, W, 3) uint8 RGB.
        truth: The scene, without points; its stamp is ``time`` in ns.
    """

    time: float
    images: dict[str, np.ndarray]
    truth: Scene


def rendered_sets(
    scene: MovingScene, rate: float, now: Callable[[], float]
) -> Iterator[RenderedSet]:
    """Endless sets of a moving scene, at most ``rate`` per second.

    A set that would be late already is left out: the next one is of the time at which it will
    be ready.

    Args:
        now: Seconds since the beginning; negative before it.
    """
    truth = Truth(scene)
    at, cost = 0.0, 0.0
    scene.render(at)  # traces the room, which is then kept and no part of the cost
    while True:
        started = time.monotonic()
        views = scene.render(at)
        ready = RenderedSet(at, {view.name: view.rgb for view in views}, truth.at(at, views))
        took = time.monotonic() - started
        cost = took if cost == 0 else 0.8 * cost + 0.2 * took
        yield ready
        at = max(at + 1 / rate, now() + cost)


class SimCameras(SourceNode):
    """Publishes rendered sets when their time has come."""

    def __init__(self) -> None:
        super().__init__("sim_cameras")
        seed = parameter(self, "seed", 0, "which room, which people and which ways they walk")
        people = parameter(self, "people", 2, "how many walk, 0 to 6")
        width = positive("width", parameter(self, "width", 320, "of the images, pixels"))
        height = positive("height", parameter(self, "height", 240, "of the images, pixels"))
        rate = positive("rate", parameter(self, "rate", 5.0, "sets per second, at most"))
        cameras = names(self, "cameras", "names of up to four cameras; default cam0 to cam3")
        transport = parameter(self, "transport", "raw", "raw, compressed or both")
        self._world = parameter(self, "world_frame", "rig", "frame of the room and of the truth")
        if len(cameras) > CORNERS:
            raise SourceError(
                f"parameter 'cameras' has {len(cameras)} names, the room has {CORNERS} corners"
            )
        if max(width, height) > 4096 or min(width, height) < 16:
            raise SourceError(
                f"images are {width}x{height}; parameters 'width' and 'height' need 16 to 4096"
            )
        if seed < 0:
            raise SourceError(f"parameter 'seed' is {seed}, expected a number from 0 on")
        scene = MovingScene(seed, people, (width, height))
        wanted = cameras or [camera.name for camera in scene.cameras]
        # The room stays as it is, whichever of its cameras are asked for.
        scene.cameras = tuple(
            dataclasses.replace(camera, name=name)
            for camera, name in zip(scene.cameras, wanted, strict=False)
        )
        rig = {
            c.name: CameraCalibration(c.K, np.zeros(0), c.T_world_cam, c.width, c.height)
            for c in scene.cameras
        }
        self._rig = RigPublisher(self, rig, transport, self._world)
        self._humans = self.create_publisher(HumanArray, "~/ground_truth/humans", TRUTH_QOS)
        self._cameras = self.create_publisher(CameraArray, "~/ground_truth/cameras", TRUTH_QOS)
        self._bodies = CoarseBody(anny24())
        self._beginning: int | None = None  # stamp of time 0, ns: when the first set was ready
        self._next: RenderedSet | None = None
        self._sets = Ahead(lambda: rendered_sets(scene, rate, self._since_beginning), AHEAD)
        self._timer = self.create_timer(1 / (rate * TICKS), self._tick)
        self.get_logger().info(
            f"room {seed}: {people} people, {len(rig)} cameras of {width}x{height}, {rate:g} Hz"
        )

    def _since_beginning(self) -> float:
        if self._beginning is None:
            return -1.0
        return (self.get_clock().now().nanoseconds - self._beginning) / 1e9

    def _tick(self) -> None:
        if self._next is None:
            self._next = self._sets.get()
        if self._next is None:
            if self._sets.error is not None:
                raise self._sets.error
            return
        if self._beginning is None:
            self._beginning = self.get_clock().now().nanoseconds
        if self._since_beginning() >= self._next.time:
            self._publish(self._beginning, self._next)
            self._next = None

    def _publish(self, beginning: int, ready: RenderedSet) -> None:
        stamp = beginning + ready.truth.stamp
        self._rig.publish(stamp, ready.images)
        truth = dataclasses.replace(
            ready.truth,
            stamp=stamp,
            cameras=tuple(dataclasses.replace(c, stamp=stamp) for c in ready.truth.cameras),
        )
        self._humans.publish(human_array(truth, self._world, self._bodies.boxes(truth.people)))
        self._cameras.publish(camera_array(truth, header_fields(stamp, self._world)))

    def close(self) -> None:
        """Stop rendering."""
        self._sets.close()


def main(args: Sequence[str] | None = None) -> int:
    """Console entry point; see the module's description."""
    return run(SimCameras, args)


if __name__ == "__main__":
    sys.exit(main())
