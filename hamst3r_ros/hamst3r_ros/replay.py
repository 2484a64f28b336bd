"""Plays a recording as a rig of cameras.

    replay DIR [--rate HZ] [--once] [--ros-args -p size:=640 ...]

Topics: see :class:`hamst3r_ros.rig_publisher.RigPublisher`; recordings: see
:mod:`hamst3r.recording`. A thread decodes ahead; the executor only publishes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

from rclpy.utilities import remove_ros_args

from hamst3r.recording import ImageSet, RecordingError, open_recording
from hamst3r_ros.rig_publisher import RigPublisher
from hamst3r_ros.source_node import Ahead, SourceError, SourceNode, names, parameter, positive, run

AHEAD = 3  # sets decoded before their time


class Replay(SourceNode):
    """Publishes the sets of a recording at a constant rate.

    Args:
        overrides: Parameter values from the command line, over those of ``--ros-args``.
    """

    def __init__(self, overrides: dict[str, object]) -> None:
        super().__init__("replay")

        def option(name, default, description):
            value = parameter(self, name, default, description)
            return overrides.get(name, value)

        folder = option("dir", "", "folder of the recording")
        rate = positive("rate", option("rate", 10.0, "sets published per second"))
        speed = positive("speed", option("speed", 1.0, "recorded seconds played per second"))
        self._loop = option("loop", True, "start again at the end, else exit with code 0")
        transport = option("transport", "raw", "raw, compressed or both")
        size = option("size", 0, "long side images are reduced to, pixels; 0 keeps them")
        stamps = option("stamps", "now", "now, or recorded (from image names, or spacing)")
        cameras = names(self, "cameras", "cameras to play; all by default")
        world = option("world_frame", "rig", "parent of the cameras in /tf_static")
        self._wait = option("wait", 0.0, "seconds to wait for subscribers of all images")
        if not folder:
            raise SourceError("no recording named; give its folder, or the parameter 'dir'")
        if stamps not in ("now", "recorded"):
            raise SourceError(f"parameter 'stamps' is '{stamps}', expected now or recorded")
        self._recorded_stamps = stamps == "recorded"
        self._recording = open_recording(
            folder,
            step=round(1e9 * speed / rate),
            period=round(1e9 * speed / rate),
            size=size,
            cameras=cameras,
            report=self.get_logger().error,
        )
        self._rig = RigPublisher(self, self._recording.cameras, transport, world)
        self._sets = Ahead(self._passes, AHEAD)
        self._started = time.monotonic()
        self._epoch: int | None = None  # stamp of the first set, ns
        self._published = 0
        self._timer = self.create_timer(1.0 / rate, self._tick)
        known = sum(known is not None for known in self._recording.cameras.values())
        self.get_logger().info(
            f"{folder}: {len(self._recording.cameras)} cameras, {known} calibrated, {rate:g} Hz"
        )

    def _passes(self) -> Iterator[tuple[int, ImageSet]]:
        """Sets of one pass or of endless passes, each with the length of the passes before, ns."""
        elapsed = 0
        while True:
            image_set = None
            for image_set in self._recording.play():
                yield elapsed, image_set
            if image_set is None:
                raise RecordingError("the recording yields no images; is it complete?")
            elapsed += image_set.time + self._recording.step
            if not self._loop:
                return

    def _tick(self) -> None:
        if self._wait > 0 and not self._rig.watched():
            if time.monotonic() - self._started < self._wait:
                return
            self.get_logger().warning(f"not every image has a subscriber after {self._wait:g} s")
        self._wait = 0.0
        item = self._sets.get()
        if item is not None:
            self._publish(*item)
        elif self._sets.ended:
            error = self._sets.error
            if isinstance(error, RecordingError):
                self.get_logger().error(str(error))
                self.finish(1)
            elif error is not None:
                raise error
            else:
                self.get_logger().info(f"end of the recording, {self._published} sets published")
                self.finish(0)
        # Otherwise the decoder is late, and this tick is left out.

    def _publish(self, elapsed: int, image_set: ImageSet) -> None:
        now = self.get_clock().now().nanoseconds
        if self._epoch is None:
            first = now if image_set.stamp is None else image_set.stamp
            self._epoch = first - image_set.time
        recorded = self._epoch + elapsed + image_set.time
        stamp = recorded if self._recorded_stamps else now
        self._rig.publish(stamp, image_set.images)
        self._published += 1

    def close(self) -> None:
        """Stop the decoder and release the recording."""
        self._sets.close()
        self._recording.close()


def main(args: Sequence[str] | None = None) -> int:
    """Console entry point; see the module's description."""
    argv = list(sys.argv if args is None else args)
    parser = argparse.ArgumentParser(prog="replay", description="Play a recording of cameras.")
    parser.add_argument("dir", nargs="?", help="folder with calibration.json, videos or images")
    parser.add_argument("--rate", type=float, help="sets per second (default 10)")
    parser.add_argument("--once", action="store_true", help="exit at the end of the recording")
    options = parser.parse_args(remove_ros_args(argv)[1:])
    overrides: dict[str, object] = {"loop": False} if options.once else {}
    if options.dir:
        overrides["dir"] = options.dir
    if options.rate is not None:
        overrides["rate"] = options.rate
    return run(lambda: Replay(overrides), argv)


if __name__ == "__main__":
    sys.exit(main())
