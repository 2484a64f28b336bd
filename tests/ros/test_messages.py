"""The message packages: what they declare, that others read them alike, that colcon finds them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import rclpy
from hamst3r_msgs.msg import Camera, CameraArray, Human, HumanArray
from hamst3r_msgs.srv import SaveScene, SetAnchor
from rclpy.context import Context
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray, LabelInfo

from hamst3r.scene import Contact, ScaleSource, TrackingState

ROOT = Path(__file__).resolve().parents[2]
INTERFACES = sorted([*(ROOT / "msg").glob("*.msg"), *(ROOT / "msg" / "srv").glob("*.srv")])
STAND_IN = ROOT / "ros2_ws" / "pypi" / "tf2_msgs" / "msg" / "TFMessage.msg"
# Of tf2_msgs/msg/TFMessage in every ROS 2 since Iron: who listens to /tf must see this type.
TF_HASH = "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"

# Of vision_msgs 4.1 (Jazzy and Kilted).
VISION_HASHES = {
    "Detection2DArray": "214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
    "Detection3DArray": "793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
    "LabelInfo": "3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
}

FIELD = re.compile(
    r"(?P<type>[\w/]+(\[\d*\])?)\s+(?P<name>\w+)\s*(=\s*(?P<value>\S+))?\s*(#\s*(?P<comment>.*))?"
)
# What says where and in what a quantity is: a unit, a range, a frame, or that there is none.
MEASURE = re.compile(
    r"\b(m|m/s|m\^2|px|rad|world|metres|frame set|frame_id|no unit|metric)\b|\[0, 1\]"
)
MEASURED = re.compile(r"(float|geometry_msgs/|sensor_msgs/RegionOfInterest|std_msgs/Header)")


def declarations(path: Path) -> list[re.Match[str]]:
    """The fields and constants of an interface file."""
    found = []
    for line in path.read_text().splitlines():
        if line.strip() and line.strip() != "---" and not line.lstrip().startswith("#"):
            match = FIELD.fullmatch(line.strip())
            assert match, f"{path.name}: cannot read {line!r}"
            found.append(match)
    return found


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.name)
def test_every_declaration_says_what_it_is_and_in_what_unit_and_frame(path):
    assert declarations(path)
    for declaration in declarations(path):
        comment = declaration["comment"] or ""
        assert len(comment) > 5, f"{path.name}: {declaration['name']} has no comment"
        if declaration["value"] is None and MEASURED.match(declaration["type"]):
            assert MEASURE.search(comment), (
                f"{path.name}: {declaration['name']} names neither unit nor frame: {comment!r}"
            )


def constants(message) -> dict[str, int]:
    """Constants of a generated message class."""
    names = (name for name in dir(type(message)) if name.isupper() and not name.startswith("_"))
    return {name: getattr(message, name) for name in names if name != "SLOT_TYPES"}


def test_constants_are_those_of_the_library():
    states = {state.name: int(state) for state in TrackingState}
    contacts = {contact.name: int(contact) for contact in Contact if contact}
    genders = {"NEUTRAL": 0, "FEMALE": 1, "MALE": 2}
    assert constants(Human()) == states | contacts | genders
    assert constants(HumanArray()) == {source.name: int(source) for source in ScaleSource}


def test_built_fields_are_the_declared_ones():
    built = {"Camera": Camera, "CameraArray": CameraArray, "Human": Human, "HumanArray": HumanArray}
    for name, message in built.items():
        fields = [d["name"] for d in declarations(ROOT / "msg" / f"{name}.msg") if not d["value"]]
        assert fields == list(message.get_fields_and_field_types()), f"{name}: run scripts/setup"
    for service in (SaveScene, SetAnchor):
        fields = [d["name"] for d in declarations(ROOT / "msg/srv" / f"{service.__name__}.srv")]
        both = [*service.Request.get_fields_and_field_types()]
        both += service.Response.get_fields_and_field_types()
        assert fields == both, f"{service.__name__}: run scripts/setup"


@pytest.fixture(scope="module")
def hashes():
    """Type hashes that rclpy announces for publishers of our types, by type name."""
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node("type_hashes", context=context)
    reported = {}
    ours = (Camera, CameraArray, Human, HumanArray)
    vision = (Detection2DArray, Detection3DArray, LabelInfo)
    for index, message in enumerate((*ours, TFMessage, *vision)):
        node.create_publisher(message, f"type_hashes/topic_{index}", 1)
        (end,) = node.get_publishers_info_by_topic(f"/type_hashes/topic_{index}")
        value = end.topic_type_hash
        reported[end.topic_type] = f"RIHS{value.version:02d}_{bytes(value.value).hex()}"
    node.destroy_node()
    context.try_shutdown()
    return reported


def test_tf_listeners_of_other_systems_see_the_type_they_know(hashes):
    store = get_typestore(Stores.ROS2_JAZZY)
    # Raises if the stand-in declares other fields than the original.
    store.register(get_types_from_msg(STAND_IN.read_text(), "tf2_msgs/msg/TFMessage"))
    assert store.hash_rihs01("tf2_msgs/msg/TFMessage") == TF_HASH
    assert hashes["tf2_msgs/msg/TFMessage"] == TF_HASH


def test_tools_for_detections_see_the_types_they_know(hashes):
    for name, value in VISION_HASHES.items():
        assert hashes[f"vision_msgs/msg/{name}"] == f"RIHS01_{value}"


def test_readers_without_our_package_compute_the_same_types(hashes):
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in (ROOT / "msg").glob("*.msg"):
        store.register(get_types_from_msg(path.read_text(), f"hamst3r_msgs/msg/{path.stem}"))
    for name in ("Camera", "CameraArray", "Human", "HumanArray"):
        full = f"hamst3r_msgs/msg/{name}"
        assert hashes[full] == store.hash_rihs01(full)


def found_by_colcon(folder: Path) -> dict[str, str]:
    """Name and build type of each package that colcon finds from a folder."""
    command = [sys.executable, "-m", "colcon", "--log-base", os.devnull, "list"]
    listed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    lines = [line.split("\t") for line in listed.stdout.splitlines()]
    return {name: kind.strip("()") for name, _, kind in lines}


def test_a_workspace_of_a_robot_finds_our_two_packages(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "hamst3r_ros").symlink_to(ROOT, target_is_directory=True)
    expected = {"hamst3r_msgs": "ros.ament_cmake", "hamst3r_ros": "ros.ament_python"}
    assert found_by_colcon(tmp_path) == expected
    # The stand-ins would shadow the robot's own packages; only scripts/setup names it.
    assert found_by_colcon(ROOT) == expected
    assert found_by_colcon(ROOT / "ros2_ws") == expected
