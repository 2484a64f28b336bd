"""The table of parameters, and what is made from it."""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import pytest
import yaml
from hamst3r_ros.declaration import declare, read
from hamst3r_ros.parameter import ParameterError
from hamst3r_ros.parameters import TABLE
from hamst3r_ros.reconstruction import reconstructor_config
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from hamst3r.keypoints import KeypointUse
from hamst3r.pairs import Pairing
from hamst3r_ros import parameters

ROOT = Path(__file__).resolve().parents[2]
BY_NAME = {parameter.name: parameter for parameter in TABLE}


def test_documents_are_current():
    assert (ROOT / "docs" / "parameters.md").read_text() == parameters.markdown()
    assert (ROOT / "config" / "hamst3r.yaml").read_text() == parameters.yaml()


def test_the_yaml_file_holds_the_defaults():
    document = yaml.safe_load(parameters.yaml())
    values = document["/**/hamst3r"]["ros__parameters"]
    assert values == {parameter.name: parameter.default for parameter in TABLE}


@pytest.mark.parametrize("parameter", TABLE, ids=lambda p: p.name)
def test_defaults_are_allowed_and_described(parameter):
    parameter.check(parameter.default)
    assert parameter.description.endswith(".")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("sync.slop", 2.0, "0.0 .. 1.0"),
        ("sync.slop", math.nan, "0.0 .. 1.0"),
        ("sync.slop", "fast", "double"),
        ("points.max", 1.5, "integer"),
        ("points.max", True, "integer"),
        ("lazy", 1, "bool"),
        ("transport", "theora", "raw | compressed"),
        ("model.device", "gpu", "cuda:N"),
        ("model.weights_sha256", "abc", "64 hex digits"),
        ("cameras", ["a b"], "topic names"),
        ("cameras", [1, 2], "string[]"),
        ("cameras", "a", "string[]"),
        ("world.frame", "/world", "a frame id"),
        ("stamp_offsets", ["a"], "double[]"),
        ("stamp_offsets", [math.inf], "-3600.0 .. 3600.0"),
        ("stamp_offsets", 1.0, "double[]"),
    ],
)
def test_refused_values_say_what_was_expected(name, value, told):
    with pytest.raises(ParameterError, match=f"parameter '{name}'") as caught:
        BY_NAME[name].check(value)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_accepted_values_get_their_type():
    assert BY_NAME["sync.slop"].check(1) == 1.0
    assert type(BY_NAME["sync.slop"].check(1)) is float
    assert BY_NAME["stamp_offsets"].check(array("d", [1, 0.5])) == [1.0, 0.5]
    assert BY_NAME["cameras"].check(["a", "", "/b/c"]) == ["a", "/b/c"]


def test_declaration_carries_descriptions_ranges_and_choices(ros):
    node = Node("n", parameter_overrides=[Parameter("sync.max_age", value=2)])
    declare(node, lambda: False, lambda _: None)
    for parameter in TABLE:
        descriptor = node.describe_parameter(parameter.name)
        assert descriptor.description == parameter.description
        if parameter.minimum is not None and not isinstance(parameter.default, list):
            (limits,) = descriptor.integer_range or descriptor.floating_point_range
            assert (limits.from_value, limits.to_value) == (parameter.minimum, parameter.maximum)
        for choice in parameter.choices:
            assert choice in descriptor.additional_constraints
    values = read(node)
    assert values["sync.max_age"] == 2.0
    assert {k: v for k, v in values.items() if k != "sync.max_age"} == {
        k: v for k, v in parameters.defaults().items() if k != "sync.max_age"
    }
    node.destroy_node()


def test_a_bad_value_at_start_is_an_error(ros):
    node = Node("n", parameter_overrides=[Parameter("tf.mode", value="maybe")])
    with pytest.raises(InvalidParameterValueException, match=r"estimated \| anchor \| none"):
        declare(node, lambda: False, lambda _: None)
    node.destroy_node()


def test_changes_while_configured(ros):
    changed = []
    configured = False
    node = Node("n", parameter_overrides=[Parameter("cameras", value=["a", "b"])])
    declare(node, lambda: configured, changed.append)
    assert node.set_parameters([Parameter("pairs", value="swin")])[0].successful
    assert changed == []
    configured = True
    (refused,) = node.set_parameters([Parameter("pairs", value="oneref")])
    assert not refused.successful and "read when the node configures" in refused.reason
    assert node.set_parameters([Parameter("points.max", value=7)])[0].successful
    assert changed[-1]["points.max"] == 7
    node.destroy_node()


def test_what_the_reconstruction_is_told():
    values = parameters.defaults() | {
        "pairs": "swin",
        "model.image_size": 320,
        "points.voxel": 0.02,
        "world.find_gravity": True,
        "world.keypoints": "poses",
        "world.keypoint_size": 480,
        "points.max": 9,
        "points.min_confidence": 1.5,
        "humans.min_score": 0.7,
        "humans.closeups": 2,
        "humans.track_timeout": 0.2,
        "humans.remember": 5.0,
        "humans.fit_body_model": False,
    }
    config = reconstructor_config(values)
    assert (config.pairing, config.image_size) == (Pairing.SWIN, 320)
    assert (config.voxel, config.max_points, config.point_confidence) == (0.02, 9, 1.5)
    assert config.instances.min_score == 0.7 and config.closeups.most == 2
    assert config.alignment.find_gravity and config.alignment.keypoint_size == 480
    assert config.alignment.keypoints is KeypointUse.POSES
    assert (config.tracking.timeout, config.tracking.new_timeout) == (0.2, 0.2)
    assert config.tracking.remembered == 5.0
    assert not config.tracking.bodies
    assert reconstructor_config(parameters.defaults()).image_size is None
