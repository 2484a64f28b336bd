"""Which processes run with which parameters, and the files that are shipped with them."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from bench import picture
from hamst3r_ros.declaration import check_together
from hamst3r_ros.parameters import TABLE, defaults
from hamst3r_ros.plan import ARGUMENTS, SIM_CAMERAS, PlanError, plan

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recording(tmp_path) -> Path:
    """Two folders of images, without calibration."""
    import cv2

    for index, name in enumerate(("left", "right")):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "000.png"), picture(index))
    return tmp_path


def calibrate(folder: Path) -> None:
    entry = {"K": np.eye(3).tolist(), "R": np.eye(3).tolist(), "t": [0, 0, 0]}
    document = {"cameras": {"left": entry, "right": entry}}
    (folder / "calibration.json").write_text(json.dumps(document))


def overrides(process) -> dict:
    """What a process is given apart from files."""
    return {k: v for part in process.parameters if isinstance(part, dict) for k, v in part.items()}


def test_the_node_alone():
    (node,) = plan({"cameras": "[front, /rig/left]", "device": "cpu", "weights": "w.safetensors"})
    assert (node.package, node.executable, node.name) == ("hamst3r_ros", "hamst3r", "hamst3r")
    assert Path(node.parameters[0]).samefile(ROOT / "config" / "hamst3r.yaml")
    assert overrides(node) == {
        "use_sim_time": False,
        "cameras": ["front", "/rig/left"],
        "model.device": "cpu",
        "model.weights": "w.safetensors",
    }
    assert node.essential and not node.respawn


def test_names_may_be_separated_by_commas():
    assert overrides(plan({"cameras": "a, b"})[0])["cameras"] == ["a", "b"]


def test_simulated_cameras():
    source, node = plan({"source": "sim", "transport": "compressed", "rate": "5"})
    assert source.executable == "sim_cameras"
    assert overrides(source)["rate"] == 5.0
    assert overrides(source)["transport"] == overrides(node)["transport"] == "compressed"
    assert overrides(node)["cameras"] == list(SIM_CAMERAS)
    assert overrides(node)["world.known_extrinsics"] == "tf"
    assert overrides(node)["world.rig_frame"] == overrides(source)["world_frame"] == "rig"


def test_a_recording_without_and_with_calibration(recording):
    arguments = {"source": "replay", "replay_dir": str(recording), "loop": "false"}
    source, node = plan(arguments)
    assert overrides(source)["dir"] == str(recording) and overrides(source)["loop"] is False
    assert overrides(node)["cameras"] == ["left", "right"]
    assert "world.known_extrinsics" not in overrides(node)
    calibrate(recording)
    assert overrides(plan(arguments)[1])["world.known_extrinsics"] == "tf"
    (_, node) = plan({**arguments, "cameras": "[right]"})
    assert overrides(node)["cameras"] == ["right"]


def test_a_calibration_file_names_the_source_of_poses():
    (node,) = plan({"cameras": "[a, b]", "calibration": "c.json"})
    assert overrides(node)["world.known_extrinsics"] == "file"
    assert overrides(node)["world.calibration_file"] == "c.json"


def test_namespace_log_level_clock_respawn_and_rviz():
    source, node, rviz = plan(
        {
            "source": "sim",
            "namespace": "/robot1/",
            "log_level": "debug",
            "use_sim_time": "true",
            "respawn": "true",
            "rviz": "true",
        }
    )
    assert {p.namespace for p in (source, node, rviz)} == {"robot1"}
    assert {p.log_level for p in (source, node, rviz)} == {"debug"}
    assert all(overrides(p)["use_sim_time"] is True for p in (source, node, rviz))
    assert node.respawn and not node.essential
    assert Path(rviz.arguments[1]).samefile(ROOT / "config" / "hamst3r.rviz")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"camera": "[a]"}, "no argument 'camera'; there are cameras"),
        ({"source": "usb"}, "source:=usb is not one of none, sim, replay"),
        ({"source": "replay"}, "needs replay_dir:=FOLDER"),
        ({"source": "replay", "replay_dir": "nowhere"}, "nowhere: no such folder"),
        ({"cameras": "[a, 3]"}, 'write cameras:="[front, left]"'),
        ({"cameras": "[a"}, 'write cameras:="[front, left]"'),
        ({"source": "sim", "rate": "fast"}, "rate:=fast is not a number"),
        ({"params_file": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"rviz": "yes"}, "rviz:=yes is not one of true, false"),
    ],
)
def test_arguments_that_cannot_be_followed(arguments, told):
    with pytest.raises(PlanError) as caught:
        plan(arguments)
    assert told in str(caught.value)


def test_every_override_is_a_parameter_of_the_node(recording):
    names = {parameter.name for parameter in TABLE} | {"use_sim_time"}
    calibrate(recording)
    for arguments in (
        {"source": "sim", "weights": "w", "device": "cpu", "transport": "raw"},
        {"source": "replay", "replay_dir": str(recording)},
        {"cameras": "[a]", "calibration": "c.json"},
    ):
        assert set(overrides(plan(arguments)[-1])) <= names


def test_files_of_parameters_name_only_parameters():
    for use in ("hamst3r", "rig", "room", "cpu", "jetson"):
        values = yaml.safe_load((ROOT / "config" / f"{use}.yaml").read_text())
        table = {parameter.name: parameter for parameter in TABLE}
        given = values["/**/hamst3r"]["ros__parameters"]
        checked = {name: table[name].check(value) for name, value in given.items()}
        check_together({**defaults(), **checked, "cameras": checked.get("cameras") or ["a", "b"]})
        (node,) = plan({"cameras": "[a, b]", "params_file": use})
        assert Path(node.parameters[0]).samefile(ROOT / "config" / f"{use}.yaml")


def test_topics_of_the_users_own():
    (node,) = plan({"cameras": "[a, b]", "topics": "[/left/color, /right/color]"})
    assert overrides(node)["image_topics"] == ["/left/color", "/right/color"]


def test_foxglove_can_only_be_reached_from_this_machine():
    _, bridge = plan({"cameras": "[a, b]", "foxglove": "true", "namespace": "r"})
    assert (bridge.package, bridge.executable) == ("foxglove_bridge", "foxglove_bridge")
    assert overrides(bridge)["address"] == "127.0.0.1"
    assert not {"clientPublish", "services", "parameters"} & set(overrides(bridge)["capabilities"])


def test_a_bag_of_what_goes_in_and_comes_out(tmp_path):
    folder = tmp_path / "bag"
    arguments = {"cameras": "[a, /b]", "record": str(folder), "namespace": "r"}
    recorder = plan(arguments)[-1]
    assert (recorder.package, recorder.executable) == ("", "ros2")
    words = list(recorder.arguments)
    assert words[:4] == ["bag", "record", "--output", str(folder)]
    for topic in ("/r/a/image_raw", "/b/image_raw", "/r/hamst3r/humans", "/tf_static"):
        assert topic in words
    assert (
        "/r/a/image_raw/compressed" in plan({**arguments, "transport": "compressed"})[-1].arguments
    )
    folder.mkdir()
    with pytest.raises(PlanError, match="is there already"):
        plan(arguments)
    with pytest.raises(PlanError, match="needs cameras"):
        plan({"record": "x"})


def test_foxglove_shows_topics_that_exist():
    layout = json.loads((ROOT / "config" / "hamst3r_foxglove.json").read_text())
    panels = layout["configById"]
    made = (ROOT / "hamst3r_ros" / "hamst3r_ros" / "publishers.py").read_text()
    for topic in panels["3D!scene"]["topics"]:
        assert f'"{topic.replace("/hamst3r", "~")}"' in made

    def placed(part) -> set[str]:
        return {part} if isinstance(part, str) else placed(part["first"]) | placed(part["second"])

    assert placed(layout["layout"]) == set(panels)


def test_rviz_shows_topics_that_exist():
    displays = yaml.safe_load((ROOT / "config" / "hamst3r.rviz").read_text())
    shown = displays["Visualization Manager"]["Displays"]
    topics = {d["Name"]: d["Topic"]["Value"] for d in shown if "Topic" in d}
    assert topics["Points"] == "/hamst3r/points"
    assert topics["People"] == "/hamst3r/humans/markers"
    assert {"rviz_default_plugins/TF", "rviz_default_plugins/Image"} <= {d["Class"] for d in shown}


def test_the_launch_file_declares_every_argument_and_decides_nothing():
    tree = ast.parse((ROOT / "launch" / "multi_cam.launch.py").read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert {"ARGUMENTS", "plan", "generate_launch_description"} <= names | {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }
    strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    assert not strings & {argument.name for argument in ARGUMENTS}
