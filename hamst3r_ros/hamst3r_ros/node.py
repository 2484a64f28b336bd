"""The lifecycle node ``hamst3r``: what exists when, and who may call whom. No maths.

Threads: the executor takes messages, services and timers; the worker does the slow work. What the
worker uses is destroyed only after it has been stopped. Torch is imported while configuring.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from hamst3r_msgs.srv import SaveScene, SetAnchor
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.task import Future
from rclpy.timer import Timer
from std_srvs.srv import SetBool, Trigger

from hamst3r.alignment.calibration import CameraCalibration, load_calibration
from hamst3r_ros import declaration, promptness, qos, reporting
from hamst3r_ros.anchor import Anchor, AnchorError, requested
from hamst3r_ros.assembler import Assembler, MessageSet, SyncSettings
from hamst3r_ros.cameras import Cameras, Extrinsics, sources
from hamst3r_ros.diagnostics import ERROR, OK, Problems, Statistics, report
from hamst3r_ros.headers import NANOSECONDS
from hamst3r_ros.parameter import Values
from hamst3r_ros.spinning import RightOfWay, spin
from hamst3r_ros.tf import FrameListener
from hamst3r_ros.worker import Worker

if TYPE_CHECKING:
    from hamst3r_ros.pipeline import Pipeline

NO_PEOPLE = (
    "no people: the weights have no human heads; set model.human_weights to 'compact' to take "
    "people from the shipped network"
)
RCLError = rclpy_implementation.RCLError
SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE


class Hamst3rNode(LifecycleNode):
    """Images of N cameras in; points, people and frames out.

    Attributes:
        ended: Set to an exit code when the process should end by itself.
        way: The worker has it, and whoever executes the node's callbacks gives it, while people
            are waited for.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__("hamst3r", **kwargs)
        self.ended: Future = Future()
        self.way = RightOfWay()
        self._problems = Problems(self._log)
        self._statistics = Statistics()
        self._pipeline: Pipeline | None = None
        self._listener: FrameListener | None = None
        self._cameras: Cameras | None = None
        self._assembler: Assembler | None = None
        self._worker: Worker[MessageSet] | None = None
        self._tf_timer: Timer | None = None
        self._paused = False
        self._since = 0.0
        self._fault: tuple[str, bool] | None = None
        declaration.declare(self, lambda: self._pipeline is not None, self._changed)
        self._values = declaration.read(self)
        self._fault_guard = self.create_guard_condition(self._on_fault)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        # Wall time: what is wrong is also told while the clock of a recording stands still.
        self._timer = self.create_timer(
            self._values["diagnostics.period"],
            self._report,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/pause", self._on_pause)
        self.create_service(SaveScene, "~/save_scene", self._on_save)
        self.create_service(SetAnchor, "~/set_anchor", self._on_anchor)

    # ------------------------------------------------------------------------------ lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load everything; FAILURE with one line in the log if something is not usable."""
        self._problems.remove("inference", "configure")
        self._problems.remove("inference", "stopped")
        try:
            self._values = declaration.read(self)
            self._timer.timer_period_ns = round(self._values["diagnostics.period"] * NANOSECONDS)
            declaration.check_together(self._values)
            self._configure(self._values)
        except Exception as error:
            self._release()
            self._failed_to("configure", error)
            return FAILURE
        return super().on_configure(state)

    def _failed_to(self, transition: str, error: Exception) -> None:
        """Tell why in one line, which is what an operator reads first; rclpy would say nothing."""
        if not self.context.ok():
            return  # somebody ended the process meanwhile
        text = " ".join(str(error).split())
        if not text or not isinstance(error, (ValueError, OSError, RuntimeError, ImportError)):
            text = f"{type(error).__name__} {text}".rstrip()
        self._problems.add("inference", transition, f"cannot {transition}: {text}", ERROR)
        self.get_logger().debug("".join(traceback.format_exception(error)))

    def _configure(self, values: Values) -> None:
        file: dict[str, CameraCalibration] = {}
        known = values["world.known_extrinsics"]
        if known == "file":
            file = load_calibration(Path(values["world.calibration_file"]).expanduser())
        self.get_logger().info("loading the network ...")
        start = time.monotonic()
        from hamst3r_ros.pipeline import Pipeline
        from hamst3r_ros.publishers import Publishers
        from hamst3r_ros.reconstruction import make_body, make_engine, make_reconstructor

        engine = make_engine(values)
        body = make_body(values)
        reconstructor = make_reconstructor(engine, values, body)
        if known == "tf" or values["tf.mode"] == "anchor":
            self._listener = FrameListener(self)
        frames = self._listener.buffer if self._listener is not None else None
        self._pipeline = Pipeline(
            reconstructor,
            engine,
            Publishers(self, values["cameras"], values["tf.mode"] != "none", body),
            Extrinsics(file, frames, values["world.rig_frame"] if known == "tf" else ""),
            values,
            self._problems,
            self._statistics,
            self.get_logger(),
            now=lambda: self.get_clock().now().nanoseconds,
            alive=self.context.ok,
            fatal=self._fatal,
            way=self.way,
        )
        if values["tf.mode"] == "anchor" and values["world.anchor_camera"]:
            anchor = Anchor(values["world.anchor_camera"], values["world.anchor_frame"])
            self._pipeline.anchor = anchor
        if "humans" in engine.provides:
            self._problems.remove("inference", "people")
        else:
            self._problems.add("inference", "people", NO_PEOPLE)
        promptness.settle()
        self.get_logger().info(
            f"ready after {time.monotonic() - start:.1f} s: {len(values['cameras'])} cameras, "
            f"{engine.device} {engine.precision}, weights {engine.sha256[:12]}"
        )

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the worker; FAILURE with one line in the log if that cannot be."""
        self._problems.remove("inference", "activate")
        pipeline = self._pipeline
        if pipeline is None:
            return FAILURE
        result = super().on_activate(state)
        try:
            self._activate(self._values, pipeline)
        except Exception as error:
            self._stop()
            super().on_deactivate(state)
            self._failed_to("activate", error)
            return FAILURE
        return result

    def _activate(self, values: Values, pipeline: Pipeline) -> None:
        self._assembler = Assembler(values["cameras"], _sync(values))
        self._worker = Worker(pipeline.process, pipeline.failed, pipeline.period)
        self._cameras = pipeline.cameras = Cameras(
            self, sources(values), values["image_reliability"], self._problems, self._arrived
        )
        if values["tf.rate"] > 0:
            self._tf_timer = self.create_timer(1 / values["tf.rate"], self._repeat_tf)
        self._fault = None
        self._since = time.monotonic()
        self._worker.start()
        pipeline.publishers.begin(self.get_clock().now().nanoseconds, values)
        self.get_logger().info(f"active, waiting for {', '.join(self._cameras.topics.values())}")

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the worker, then end the subscriptions. ERROR if it stops because of a fault."""
        self._stop()
        result = super().on_deactivate(state)
        return TransitionCallbackReturn.ERROR if self._fault is not None else result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give everything back that configuring took."""
        result = super().on_cleanup(state)
        self._release()
        return result

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The last transition, from any state."""
        self._stop()
        self._release()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, from where configuring may be tried again."""
        self._stop()
        self._release()
        return SUCCESS

    def close(self) -> None:
        """Stop and release, in whatever state; before the node is destroyed."""
        self._stop()
        self._release()

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
        if self._cameras is not None:
            self._cameras.destroy()
        if self._pipeline is not None:
            self._pipeline.cameras = None
        if self._tf_timer is not None:
            self.destroy_timer(self._tf_timer)
        self._tf_timer = None
        self._worker = self._cameras = self._assembler = None
        for status in ("cameras", "frame_sets", "world", "device"):
            self._problems.clear(status)
        for subject in ("hang", "delay", "degraded"):
            self._problems.remove("inference", subject)

    def _release(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.publishers.destroy()
            pipeline.free()
            promptness.unsettle()
        if self._listener is not None:
            self._listener.destroy()
            self._listener = None

    # --------------------------------------------------------------------------------- images

    def _arrived(self, camera: str, stamp: int, message: object) -> None:
        """An image, in the executor's thread: kept, never decoded here."""
        assembler, worker, pipeline = self._assembler, self._worker, self._pipeline
        if assembler is None or worker is None or pipeline is None:
            return
        messages = assembler.add(camera, stamp, message)
        if messages is None:
            return
        self._statistics.record("set", messages.spread / NANOSECONDS)
        if self._paused:
            return
        if self._values["lazy"] and not pipeline.publishers.wanted():
            self._statistics.record("idle")
            return
        worker.mailbox.put(messages)

    def _repeat_tf(self) -> None:
        """Of the ROS clock, so that it stands still with a recording."""
        pipeline, now = self._pipeline, self.get_clock().now().nanoseconds
        if pipeline is None or self._paused or not self._values["world.static_cameras"]:
            return
        if pipeline.settling.settled is not None:
            pipeline.publishers.repeat(now)

    def _changed(self, values: Values) -> None:
        self._values = values
        if self._assembler is not None:
            self._assembler.settings = _sync(values)
        if self._cameras is not None:
            for source in sources(values):
                self._cameras.inputs[source.name].offset = source.offset
        if self._pipeline is not None:
            self._pipeline.change(values)

    def _fatal(self, why: str, beyond_repair: bool) -> None:
        """From the worker: the executor takes the node out of service."""
        self._fault = (why, beyond_repair)
        self._fault_guard.trigger()

    def _on_fault(self) -> None:
        if self._fault is None or self._worker is None:
            return
        why, beyond_repair = self._fault
        self._problems.remove("inference", "fault")
        remedy = (
            "the process ends, start it again"
            if beyond_repair
            else "the node is unconfigured; mend the cause, then configure and activate it"
        )
        self._problems.add("inference", "stopped", f"stopped: {why}; {remedy}", ERROR)
        self.trigger_deactivate()  # which returns ERROR, and so leads to on_error
        if beyond_repair and not self.ended.done():
            self.ended.set_result(1)

    # ------------------------------------------------------------------------------- services

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._pipeline is not None
        if self._pipeline is None:
            response.message = "nothing to forget: the node is not configured"
            return response
        if self._worker is not None:
            self._worker.mailbox.clear()
        if self._assembler is not None:
            self._assembler.flush()
        self._pipeline.reset()
        response.message = "world and people are forgotten; ids start again at 1"
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._paused = request.data
        if self._paused and self._worker is not None:
            self._worker.mailbox.clear()
        response.success = True
        response.message = "paused, the model stays loaded" if self._paused else "running"
        return response

    def _on_save(
        self, request: SaveScene.Request, response: SaveScene.Response
    ) -> SaveScene.Response:
        if self._pipeline is not None:
            return self._pipeline.save(request, response)
        response.message = "no scene yet; configure and activate the node"
        return response

    def _on_anchor(
        self, request: SetAnchor.Request, response: SetAnchor.Response
    ) -> SetAnchor.Response:
        values, pipeline = self._values, self._pipeline
        try:
            if pipeline is None or values["tf.mode"] != "anchor":
                raise AnchorError("configure the node with parameter 'tf.mode' set to anchor first")
            pipeline.anchor, response.message = requested(request, values)
            response.success = True
        except AnchorError as error:
            response.message = str(error)
        return response

    # ---------------------------------------------------------------------------- diagnostics

    def _log(self, level: bytes, text: str) -> None:
        logger = self.get_logger()
        # The level of a log call must be the same at each place in the code.
        if level == ERROR:
            logger.error(text)
        elif level == OK:
            logger.info(text)
        else:
            logger.warning(text)

    def _doing(self) -> str:
        if self._pipeline is None:
            return "unconfigured"
        if self._worker is None:
            return "inactive"
        if self._paused:
            return "paused"
        if self._values["lazy"] and not self._pipeline.publishers.wanted():
            return "resting: nobody subscribes to an output"
        return "active" if self._statistics.count("out") else "waiting for the first frame set"

    def _report(self) -> None:
        values, cameras, assembler = self._values, self._cameras, self._assembler
        problems, statistics, worker = self._problems, self._statistics, self._worker
        name = self.get_fully_qualified_name()
        states: dict[str, str] = {}
        if cameras is not None and assembler is not None and worker is not None:
            states = cameras.watch(values["sync.max_age"])
            active_for = time.monotonic() - self._since
            reporting.watch_sets(assembler, statistics, states, values, active_for, problems)
            reporting.watch_worker(worker.busy(), statistics, values, problems)
        reporting.watch_name(name, self.get_node_names_and_namespaces(), problems)
        pipeline = self._pipeline
        reporting.watch_readers(pipeline.publishers.unheard() if pipeline else {}, problems)
        facts = reporting.Facts(
            name,
            self._doing(),
            values,
            cameras,
            states,
            assembler,
            worker.mailbox.superseded if worker is not None else 0,
            pipeline.device() if pipeline is not None else {},
            reporting.world(pipeline) if pipeline else {},
        )
        statuses = reporting.statuses(facts, problems, statistics)
        self._diagnostics.publish(report(self.get_clock().now().nanoseconds, statuses))
        problems.reported()

    # ---------------------------------------------------------------------------------- start

    def start(self) -> bool:
        """Configure and activate, if parameter ``autostart`` says so; whether that succeeded."""
        if not self._values["autostart"]:
            return True
        return self.trigger_configure() == SUCCESS and self.trigger_activate() == SUCCESS

    @property
    def state(self) -> int:
        """One of lifecycle_msgs/State's PRIMARY_STATE_*."""
        return self._state_machine.current_state[0]


def _sync(values: Values) -> SyncSettings:
    return SyncSettings(
        slop=round(values["sync.slop"] * NANOSECONDS),
        min_cameras=values["sync.min_cameras"],
        max_age=round(values["sync.max_age"] * NANOSECONDS),
        reference=values["sync.reference_camera"],
    )


def main(args: Sequence[str] | None = None) -> int:
    """Console entry point: 0 after SIGINT or SIGTERM, 1 after a one-line error."""
    spinning = False

    def interrupted(*_: object) -> None:
        # While it spins, rclpy's own handler, which calls this one, ends the context and so the
        # spinning; an exception in the middle of rclpy's code would leave halves of things.
        if not spinning:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupted)
    promptness.prepare()
    node, started = None, False
    try:
        rclpy.init(args=None if args is None else list(args))
        started = True
        # Before anything that takes time: a signal would leave a half-made executor behind.
        executor = SingleThreadedExecutor()
        node = Hamst3rNode()
        executor.add_node(node)
        if not node.start():
            return 1 if rclpy.ok() else 0  # the reason is in the log
        spinning = True
        spin(executor, node.ended, node.way)
        return node.ended.result() if node.ended.done() else 0
    except ParameterException as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except RCLError as error:
        if started and not rclpy.ok():
            return 0  # a signal came in the middle of a transition
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
