"""Cameras (real, simulated or recorded), the node, and RViz if wanted.

ros2 launch hamst3r_ros multi_cam.launch.py --show-args
"""

from hamst3r_ros.plan import ARGUMENTS, Process, plan
from launch.actions import DeclareLaunchArgument, EmitEvent, ExecuteProcess, OpaqueFunction
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

from launch import LaunchContext, LaunchDescription


def action(process: Process) -> ExecuteProcess:
    """The launch action of a planned process; parameter ``autostart`` drives the lifecycle."""
    if not process.package:
        return ExecuteProcess(
            cmd=[process.executable, *process.arguments], name=process.name, output="screen"
        )
    kind = LifecycleNode if process.executable == "hamst3r" else Node

    def ended(context: LaunchContext) -> list[EmitEvent]:
        # Not a second time, when it ended because everything is ending.
        reason = f"{process.executable} has ended"
        return [] if context.is_shutdown else [EmitEvent(event=Shutdown(reason=reason))]

    return kind(
        package=process.package,
        executable=process.executable,
        name=process.name,
        namespace=process.namespace,
        parameters=process.parameters,
        arguments=list(process.arguments),
        ros_arguments=["--log-level", process.log_level],
        output="screen",
        emulate_tty=True,
        respawn=process.respawn,
        respawn_delay=2.0,
        on_exit=OpaqueFunction(function=ended) if process.essential else None,
    )


def start(context: LaunchContext) -> list[ExecuteProcess]:
    """What the arguments ask for."""
    given = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    return [action(process) for process in plan(given)]


def generate_launch_description() -> LaunchDescription:
    """Called by ros2 launch."""
    declared = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=argument.description,
            choices=list(argument.choices) or None,
        )
        for argument in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
