"""What the worker does with a set of messages: decode, reconstruct, publish."""

from __future__ import annotations

import re
import threading
import time
import traceback
from collections.abc import Callable

import numpy as np
import torch
from hamst3r_msgs.srv import SaveScene
from numpy.typing import NDArray
from rclpy.impl.rcutils_logger import RcutilsLogger

from hamst3r.frames import FrameSet
from hamst3r.reconstructor import Reconstructor
from hamst3r.scene import Scene
from hamst3r_ros import promptness, saving
from hamst3r_ros.anchor import Anchor, apply, in_map
from hamst3r_ros.assembler import MessageSet
from hamst3r_ros.cameras import Cameras, Extrinsics
from hamst3r_ros.degrading import STEPS, Load
from hamst3r_ros.diagnostics import ERROR, Problems, Statistics
from hamst3r_ros.headers import NANOSECONDS, Link
from hamst3r_ros.parameter import Values
from hamst3r_ros.publishers import Publishers
from hamst3r_ros.reconstruction import Engine, reconstructor_config
from hamst3r_ros.settling import Settling
from hamst3r_ros.spinning import RightOfWay

# The library's note of what the node has told already, with the camera's name.
TOLD = "time jumped back"


class Pipeline:
    """Runs in the worker's thread; what others ask for takes effect with the next set.

    Args:
        now: ROS time in ns, for the latency of outputs.
        alive: Whether messages can still be published at all.
        fatal: Called when going on is pointless, with one sentence and whether the process is
            beyond repair (a lost CUDA context).

    Attributes:
        scene: The latest one, None before the first and after a reset.
        load: How much is left out because it took too long, or too much memory.
        anchor: What ties the world to a frame outside, None if nothing does; may be set any time.
        residual: Metres by which the latest scene's other cameras miss what TF says of them.
        cameras: Who knows the cameras' messages; set while the node is active.
        settling: Poses that stay, with parameter world.static_cameras.
    """

    def __init__(
        self,
        reconstructor: Reconstructor,
        engine: Engine,
        publishers: Publishers,
        extrinsics: Extrinsics,
        values: Values,
        problems: Problems,
        statistics: Statistics,
        logger: RcutilsLogger,
        now: Callable[[], int],
        alive: Callable[[], bool],
        fatal: Callable[[str, bool], None],
        way: RightOfWay,
    ) -> None:
        self.reconstructor = reconstructor
        self._engine = engine
        self.publishers = publishers
        self.extrinsics = extrinsics
        self.scene: Scene | None = None
        self.load = Load()
        self.anchor: Anchor | None = None
        self.residual: float | None = None
        self.cameras: Cameras | None = None
        self.settling = Settling()
        self._values = values
        self._changed = False
        self._reset = threading.Event()
        self._problems = problems
        self._statistics = statistics
        self._logger = logger
        self._now = now
        self._alive = alive
        self._fatal = fatal
        self._way = way

    def change(self, values: Values) -> None:
        """Use these values of dynamic parameters from the next set on."""
        self._values = values
        self._changed = True

    def reset(self) -> None:
        """Forget world and people before the next set."""
        self._reset.set()
        self.scene = None

    def save(self, request: SaveScene.Request, response: SaveScene.Response) -> SaveScene.Response:
        """~/save_scene, of the latest scene; called by the executor's thread."""
        return saving.answer(request, response, self.scene, self._values["output_dir"])

    def period(self) -> float:
        """Least seconds between two sets."""
        rate = self._values["rate.max"]
        return 1 / rate if rate > 0 else 0.0

    def process(self, messages: MessageSet) -> None:
        """One set, from messages to messages."""
        self._settle()
        values, start = self._values, time.monotonic()
        frames = self._decode(messages, values)
        self._statistics.record("stage/decode", time.monotonic() - start)
        if frames is None:
            return
        static = values["world.static_cameras"]
        if static:
            frames = self.settling.known(frames)
        promptness.relax()
        scene = self.reconstructor.push(frames)
        if static:
            scene = self.settling.seen(scene)
        for stage, seconds in scene.timings.items():
            self._statistics.record(f"stage/{stage}", seconds)
        if not self._alive() or self._reset.is_set():
            return
        self.scene = scene
        published = time.monotonic()
        promptness.hurry()
        with self._way:
            self.publishers.publish_people(scene, values, self._anchored(scene, values))
        promptness.relax()
        self._statistics.record("people_latency", (self._now() - scene.stamp) / NANOSECONDS)
        self.publishers.publish_rest(scene, values)
        self._statistics.record("stage/publish", time.monotonic() - published)
        self._statistics.record("latency", (self._now() - scene.stamp) / NANOSECONDS)
        taken = time.monotonic() - start
        self._statistics.record("out", taken)
        step, deadline = self.load.step, values["deadline"]
        if self.load.took(taken, deadline):
            late = f"frame sets take longer than the deadline of {deadline:g} s"
            self._degraded(late if self.load.step > step else "there is more room again")
        self._problems.remove("inference", "fault")
        self._problems.remove("device", "memory")
        self._tell(scene, frames)

    def _settle(self) -> None:
        if self._reset.is_set():
            self._reset.clear()
            self.reconstructor.reset()
            self.settling.reset()
            self.publishers.forget()
        if self._changed:
            self._changed = False
            engine = self._engine
            self.reconstructor.config = self.load.reduced(
                reconstructor_config(self._values), engine.image_size, engine.patch
            )

    def _degraded(self, why: str) -> None:
        """The load's step has changed: do so much from the next set on, and tell it."""
        self._changed = True
        if self.load.step:
            text = f"{why}; doing less until there is room: {STEPS[self.load.step]}"
            self._problems.add("inference", "degraded", text)
        else:
            self._problems.remove("inference", "degraded")

    def _decode(self, messages: MessageSet, values: Values) -> FrameSet | None:
        if self.cameras is None:
            return None
        frames = self.cameras.frame_set(messages, self.extrinsics)
        if frames is None or len(frames.frames) < values["sync.min_cameras"]:
            self._statistics.record("undecodable")
            return None
        if not self.cameras.placed(frames, self.extrinsics, values["world.known_extrinsics"]):
            self._statistics.record("waiting_for_tf")
            return None
        return frames

    def _anchored(self, scene: Scene, values: Values) -> Link | None:
        """The world's pose in the anchor's frame, else in the map of cameras that move."""
        anchor, frames = self.anchor, self.extrinsics.frames
        if anchor is None:
            self._problems.remove("world", "anchor")
            return in_map(scene, values)

        def lookup(target: str, source: str, stamp: int) -> NDArray[np.float64] | None:
            return None if frames is None else frames.lookup(target, source, stamp)

        found = apply(anchor, scene, values["world.frame"], lookup)
        self.residual = found.residual
        if found.problem:
            self._problems.add("world", "anchor", found.problem)
        else:
            self._problems.remove("world", "anchor")
        return found.transform

    def _tell(self, scene: Scene, frames: FrameSet) -> None:
        for note in scene.notes:
            if not note.startswith(TOLD):
                subject = re.sub(r"[-+]?\d+(\.\d+)?", "#", note)  # numbers vary, the note does not
                self._problems.event("world", subject, note)
        if scene.cameras:
            self._problems.remove("world", "nothing")
        else:
            self._problems.add(
                "world",
                "nothing",
                f"none of {', '.join(frames.cameras)} could be placed; do they see the same room?",
            )

    def failed(self, error: Exception, in_a_row: int) -> None:
        """An exception of :meth:`process`: told once, counted, survived if possible."""
        if not self._alive():
            return  # publishing ends with the context
        self._statistics.record("failed")
        text = " ".join(str(error).split())
        if isinstance(error, torch.OutOfMemoryError):
            self._statistics.record("out_of_memory")
            self._problems.add(
                "device",
                "memory",
                "out of GPU memory, the frame set was dropped; lower model.image_size, set pairs "
                "to oneref, or use fewer cameras",
                ERROR,
            )
            torch.cuda.empty_cache()
            if self.load.out_of_memory():
                self._degraded("memory ran out")
        else:
            self._problems.add(
                "inference", "fault", f"frame set failed: {type(error).__name__}: {text}", ERROR
            )
            self._logger.debug("".join(traceback.format_exception(error)))
            if "CUDA error" in text:  # the context is lost; only a new process gets another
                self._fatal(f"the GPU failed: {text}", True)
                return
        if in_a_row >= self._values["faults.max_consecutive"]:
            self._fatal(f"{in_a_row} frame sets in a row failed, the last with: {text}", False)

    def free(self) -> None:
        """Give the GPU's memory back; nothing works afterwards."""
        self.scene = None
        del self.reconstructor, self._engine
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def device(self) -> dict[str, object]:
        """What /diagnostics says of the device."""
        device = self._engine.device
        shown: dict[str, object] = {
            "device": str(device),
            "precision": self._engine.precision,
            "weights": self._values["model.weights"] or "shipped",
            "weights_sha256": self._engine.sha256,
            "provides": ", ".join(self._engine.provides),
            "torch": torch.__version__,
            "out_of_memory": self._statistics.count("out_of_memory"),
            "doing": STEPS[self.load.step],
            "deadline_misses": self.load.misses,
        }
        if device.type == "cuda":
            shown["name"] = torch.cuda.get_device_name(device)
            for name, size in (
                ("allocated", torch.cuda.memory_allocated(device)),
                ("reserved", torch.cuda.memory_reserved(device)),
                ("peak", torch.cuda.max_memory_allocated(device)),
            ):
                shown[f"{name}_mib"] = f"{size / 2**20:.0f}"
        return shown
