"""Starts what ``multi_cam.launch.py`` starts, without the launch package.

    bringup [name:=value ...] [--show-args]

Arguments and processes come from :mod:`hamst3r_ros.plan`, which the launch file reads, too. The
first process that fails ends all others, and its exit code is that of bringup.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from hamst3r_ros.plan import ARGUMENTS, Process, plan
from hamst3r_ros.processes import Command, ProcessGroup, heed_interrupts, own_environment


class BringupError(ValueError):
    """Something that keeps the processes from being started; one line that says what to do."""


def parse(words: Sequence[str]) -> dict[str, str]:
    """``name:=value`` arguments by name.

    Raises:
        BringupError: A word of another form, or a name that is no argument.
    """
    known = [argument.name for argument in ARGUMENTS]
    values: dict[str, str] = {}
    for word in words:
        name, assigned, value = word.partition(":=")
        if not assigned:
            raise BringupError(f"'{word}' is not of the form name:=value; see bringup --show-args")
        if name not in known:
            raise BringupError(f"there is no argument '{name}', only {', '.join(known)}")
        values[name] = value
    return values


def command(process: Process) -> Command:
    """The command line that starts a process as launch would.

    Raises:
        BringupError: Its package or program is not installed.
    """
    if not process.package:
        program = shutil.which(process.executable)
        if program is None:
            raise BringupError(
                f"no program '{process.executable}' on the path; '{process.name}' needs an "
                "installed ROS (sudo apt install ros-jazzy-ros2bag)"
            )
        return Command(process.name, (program, *process.arguments), process.respawn)
    try:
        prefix = get_package_prefix(process.package)
    except PackageNotFoundError as error:
        raise BringupError(
            f"ROS package '{process.package}' is not here; install it (sudo apt install "
            f"ros-jazzy-{process.package.replace('_', '-')}), or enter the environment that has it "
            "(source scripts/env.sh)"
        ) from error
    path = Path(prefix, "lib", process.package, process.executable)
    if not path.exists():
        raise BringupError(f"{path}: no such program; build the workspace (scripts/setup)")
    argv = [str(path), *process.arguments, "--ros-args", "--log-level", process.log_level]
    if process.name:
        argv += ["-r", f"__node:={process.name}"]
    if process.namespace:
        argv += ["-r", f"__ns:=/{process.namespace.strip('/')}"]
    for parameters in process.parameters:
        if isinstance(parameters, str):
            argv += ["--params-file", parameters]
        else:
            for name, value in parameters.items():
                # JSON is YAML, which is what ROS reads here.
                argv += ["-p", f"{name}:={json.dumps(value, ensure_ascii=False)}"]
    return Command(
        process.name or process.executable, tuple(argv), process.respawn, process.essential
    )


def show_arguments() -> str:
    """The arguments as ``ros2 launch --show-args`` shows them."""
    lines = ["Arguments (pass arguments as '<name>:=<value>'):"]
    for argument in ARGUMENTS:
        choices = f" One of: {', '.join(argument.choices)}." if argument.choices else ""
        lines += ["", f"    '{argument.name}':", f"        {argument.description}{choices}"]
        lines += [f"        (default: '{argument.default}')"]
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> int:
    """Console entry point; see the module's description."""
    words = list(sys.argv[1:] if args is None else args)
    if "--show-args" in words or "-s" in words:
        sys.stdout.write(show_arguments() + "\n")
        return 0
    if "--help" in words or "-h" in words:
        sys.stdout.write(f"{(__doc__ or '').strip()}\n\n{show_arguments()}\n")
        return 0

    def line(name: str, text: str) -> None:
        sys.stdout.write(f"[{name}] {text}\n")
        sys.stdout.flush()

    try:
        commands = [command(process) for process in plan(parse(words))]
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    heed_interrupts()
    group = ProcessGroup(commands, line, own_environment())
    try:
        group.start()
        while (code := group.poll()) is None:
            pass
        return code if code >= 0 else 128 - code
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    finally:
        group.stop()


if __name__ == "__main__":
    sys.exit(main())
