"""Which processes run with which parameters. Plain Python: the launch file and ``bringup`` carry
out what is decided here, with and without the launch package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

PACKAGE = "hamst3r_ros"
SIM_CAMERAS = ("cam0", "cam1", "cam2", "cam3")
RIG_FRAME = "rig"


class PlanError(ValueError):
    """Arguments that cannot be followed; the message says what to give."""


@dataclass(frozen=True)
class Argument:
    """One ``name:=value`` of the command line; ``choices`` are the only values, if any."""

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Process:
    """One process.

    Attributes:
        package, executable: As for ``ros2 run``; a program on the path where package is "".
        name: Of the node; "" = its own.
        parameters: Paths of parameter files and dicts of values; later ones win.
        namespace: Of the node.
        respawn: Start again whenever it ends.
        arguments: Of the command line, before those of ROS.
        log_level: debug, info, warn, error or fatal.
        essential: When it ends, everything ends.
    """

    package: str
    executable: str
    name: str
    parameters: list[str | dict] = field(default_factory=list)
    namespace: str = ""
    respawn: bool = False
    arguments: tuple[str, ...] = ()
    log_level: str = "info"
    essential: bool = False


_BOOL = ("true", "false")

ARGUMENTS: tuple[Argument, ...] = (
    Argument("cameras", "", 'names of the cameras, e.g. "[front, left]"; those of the source'),
    Argument("topics", "", "their image topics, where they are not <camera>/image_raw"),
    Argument(
        "params_file",
        "",
        "parameters of the node: a YAML file, or one of the package's: rig, room, cpu, jetson",
    ),
    Argument("calibration", "", "calibration.json of the rig: poses and intrinsics are known"),
    Argument(
        "transport", "", "how images travel; as the parameter file says", ("", "raw", "compressed")
    ),
    Argument("weights", "", "weights of the network, ours or public ones; those shipped"),
    Argument("human_weights", "", "weights that see people where those do not, e.g. compact"),
    Argument("device", "", "auto, cpu or cuda:N; as the parameter file says"),
    Argument("source", "none", "cameras to start, too", ("none", "sim", "replay")),
    Argument("replay_dir", "", "folder of the recording for source:=replay"),
    Argument("rate", "", "frame sets per second of the source; its own default"),
    Argument("loop", "true", "whether a replay starts again at its end", _BOOL),
    Argument("rviz", "false", "start RViz with the package's configuration", _BOOL),
    Argument("foxglove", "false", "start foxglove_bridge, for viewers on this machine", _BOOL),
    Argument("record", "", "folder, not yet there, for a bag of what goes in and comes out"),
    Argument("use_sim_time", "false", "take time from /clock", _BOOL),
    Argument("namespace", "", "namespace of all nodes and topics"),
    Argument("log_level", "info", "of all nodes", ("debug", "info", "warn", "error", "fatal")),
    Argument("respawn", "false", "start the node again when it ends", _BOOL),
)


def plan(arguments: Mapping[str, str]) -> list[Process]:
    """The processes to start, cameras first.

    Args:
        arguments: Name -> value of :data:`ARGUMENTS`; those not given have their defaults.

    Raises:
        PlanError: An argument or a value that is not known.
    """
    given = _checked(arguments)
    namespace, log_level = given["namespace"].strip("/"), given["log_level"]
    clock = {"use_sim_time": given["use_sim_time"] == "true"}
    cameras, calibrated = _cameras(given)
    transport = {"transport": given["transport"]} if given["transport"] else {}

    processes = []
    if given["source"] != "none":
        settings: dict[str, object] = {**clock, "world_frame": RIG_FRAME, **transport}
        if given["rate"]:
            settings["rate"] = _number("rate", given["rate"])
        if given["source"] == "replay":
            settings["dir"] = given["replay_dir"]
            settings["loop"] = given["loop"] == "true"
            settings["cameras"] = ",".join(cameras)
        executable = "sim_cameras" if given["source"] == "sim" else "replay"
        processes.append(
            Process(PACKAGE, executable, executable, [settings], namespace, log_level=log_level)
        )

    overrides: dict[str, object] = {**clock, **transport}
    if cameras:
        overrides["cameras"] = cameras
    topics = _names("topics", given["topics"])
    if topics:
        overrides["image_topics"] = topics
    if given["calibration"]:
        overrides["world.known_extrinsics"] = "file"
        overrides["world.calibration_file"] = given["calibration"]
    elif calibrated:
        overrides["world.known_extrinsics"] = "tf"
        overrides["world.rig_frame"] = RIG_FRAME
    for argument in ("weights", "human_weights", "device"):
        if given[argument]:
            overrides[f"model.{argument}"] = given[argument]
    file = _params_file(given["params_file"])
    respawn = given["respawn"] == "true"
    processes.append(
        Process(
            PACKAGE,
            "hamst3r",
            "hamst3r",
            [file, overrides],
            namespace,
            respawn,
            log_level=log_level,
            essential=not respawn,
        )
    )
    if given["rviz"] == "true":
        view = ("-d", str(config("hamst3r.rviz")))
        processes.append(
            Process("rviz2", "rviz2", "rviz2", [clock], namespace, False, view, log_level)
        )
    if given["foxglove"] == "true":
        # Whoever reaches its port sees the cameras: this machine only, and nothing can be sent.
        bridge = {"address": "127.0.0.1", "capabilities": ["connectionGraph", "assets"]}
        processes.append(
            Process(
                "foxglove_bridge",
                "foxglove_bridge",
                "foxglove_bridge",
                [{**clock, **bridge}],
                namespace,
                log_level=log_level,
            )
        )
    if given["record"]:
        processes.append(_recorder(given["record"], namespace, cameras, topics, given))
    return processes


def _params_file(name: str) -> str:
    """Path of a parameter file, or of the package's own of that name."""
    own = config(f"{name or 'hamst3r'}.yaml")
    file = Path(name) if name and not own.is_file() else own
    if not file.is_file():
        raise PlanError(
            f"params_file:={name}: no such file, and none of the package's (rig, room, cpu, jetson)"
        )
    return str(file)


def _recorder(
    folder: str, namespace: str, cameras: list[str], topics: list[str], given: Mapping[str, str]
) -> Process:
    """``ros2 bag record`` of images and intrinsics, people, clouds, frames and diagnostics."""
    if Path(folder).exists():
        raise PlanError(f"record:={folder} is there already; name a folder that is not")
    if not cameras:
        raise PlanError('record:= needs cameras:="[front, left]": images of which are recorded')
    suffix = "image_raw/compressed" if given["transport"] == "compressed" else "image_raw"
    images = topics or [f"{name}/{suffix}" for name in cameras]
    infos = [f"{name}/camera_info" for name in cameras]
    outputs = [f"hamst3r/{topic}" for topic in ("humans", "cameras", "points")]
    relative = [*images, *infos, *outputs]
    prefix = f"/{namespace}" if namespace else ""
    names = [name if name.startswith("/") else f"{prefix}/{name}" for name in relative]
    clock = ["--use-sim-time"] if given["use_sim_time"] == "true" else []
    words = ("bag", "record", "--output", folder, *clock)
    return Process(
        "", "ros2", "record", arguments=(*words, *names, "/tf", "/tf_static", "/diagnostics")
    )


def config(name: str) -> Path:
    """A file of the package's folder config, installed or in the source tree."""
    try:
        return Path(get_package_share_directory(PACKAGE)) / "config" / name
    except PackageNotFoundError:
        return Path(__file__).resolve().parents[2] / "config" / name


def _checked(arguments: Mapping[str, str]) -> dict[str, str]:
    known = {argument.name: argument for argument in ARGUMENTS}
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise PlanError(f"no argument '{unknown[0]}'; there are {', '.join(known)}")
    given = {name: arguments.get(name, argument.default) for name, argument in known.items()}
    for name, value in given.items():
        choices = known[name].choices
        if choices and value not in choices:
            shown = ", ".join(choice for choice in choices if choice)
            raise PlanError(f"{name}:={value} is not one of {shown}")
    return given


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise PlanError(f"{name}:={text} is not a number") from None


def _cameras(given: Mapping[str, str]) -> tuple[list[str], bool]:
    """Names of the cameras ([] = as the parameter file says), and whether TF knows their poses."""
    names = _names("cameras", given["cameras"])
    if given["source"] == "sim":
        return names or list(SIM_CAMERAS), True
    if given["source"] == "replay":
        folder = given["replay_dir"]
        if not folder:
            raise PlanError("source:=replay needs replay_dir:=FOLDER of the recording")
        recorded, calibrated = _recorded(Path(folder))
        return names or recorded, calibrated
    return names, False


def _names(argument: str, text: str) -> list[str]:
    """Names from "[a, b]" or "a, b"."""
    if not text.strip():
        return []
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")]
    if not isinstance(value, list) or not all(isinstance(n, str) and n for n in value):
        raise PlanError(
            f'{argument}:={text} is not a list of names; write {argument}:="[front, left]"'
        )
    return value


def _recorded(folder: Path) -> tuple[list[str], bool]:
    """Names of a recording's cameras, and whether any of them is calibrated."""
    from hamst3r.recording import open_recording  # OpenCV only for those who replay

    try:
        recording = open_recording(folder, step=1, period=1, report=lambda _: None)
    except (ValueError, OSError) as error:
        raise PlanError(f"replay_dir:={folder}: {error}") from error
    recording.close()
    known = [calibration for calibration in recording.cameras.values() if calibration is not None]
    return list(recording.cameras), bool(known)
