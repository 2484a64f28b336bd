"""The table of parameters on a node: declared, watched, read, and checked together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node

from hamst3r_ros.parameter import Parameter, ParameterError, Values
from hamst3r_ros.parameters import TABLE


def declare(node: Node, configured: Callable[[], bool], changed: Callable[[Values], None]) -> None:
    """Declare the table on a node and watch over later changes.

    Args:
        configured: Whether parameters that are not dynamic are in use and must not change now.
        changed: Called with all values after a change while configured.

    Raises:
        rclpy.exceptions.ParameterException: A value given at start is refused.
    """
    table = {parameter.name: parameter for parameter in TABLE}

    def check(given: Sequence) -> SetParametersResult:
        try:
            values = {p.name: p.check(i.value) for i in given if (p := table.get(i.name))}
            if configured() and values:
                for name in values:
                    if not table[name].dynamic:
                        raise ParameterError(
                            f"parameter '{name}' is read when the node configures; first "
                            "'ros2 lifecycle set' it to deactivate and cleanup"
                        )
                check_together(read(node) | values)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)
    for parameter in TABLE:
        node.declare_parameter(parameter.name, parameter.default, _descriptor(parameter))

    def apply(given: Sequence) -> None:
        if configured() and any(item.name in table for item in given):
            changed(read(node))

    node.add_post_set_parameters_callback(apply)


def read(node: Node) -> Values:
    """All values of the table as the node has them now, in their right types."""
    return {p.name: p.check(node.get_parameter(p.name).value) for p in TABLE}


def check_together(values: Values) -> None:
    """What no parameter can say alone.

    Raises:
        ParameterError: Parameters that do not fit each other.
    """
    cameras = values["cameras"]
    if not cameras:
        raise ParameterError("parameter 'cameras' is empty; name them: cameras:=\"[left, right]\"")
    if len({name.strip("/") for name in cameras}) < len(cameras):
        raise ParameterError(f"parameter 'cameras' names a camera twice: {', '.join(cameras)}")
    if len(cameras) > 255:
        raise ParameterError(f"parameter 'cameras' has {len(cameras)} names, at most 255 fit")
    for name in ("image_topics", "info_topics"):
        if len(values[name]) not in (0, len(cameras)):
            raise ParameterError(
                f"parameter '{name}' has {len(values[name])} topics, but there are "
                f"{len(cameras)} cameras; name one for each, in their order, or none"
            )
    offsets = values["stamp_offsets"]
    if any(offsets) and len(offsets) != len(cameras):
        raise ParameterError(
            f"parameter 'stamp_offsets' has {len(offsets)} numbers, but there are {len(cameras)} "
            "cameras; give one for each, in their order, or a single 0"
        )
    if values["sync.min_cameras"] > len(cameras):
        raise ParameterError(
            f"parameter 'sync.min_cameras' is {values['sync.min_cameras']}, but there are only "
            f"{len(cameras)} cameras; lower it"
        )
    reference = values["sync.reference_camera"]
    if reference and reference not in cameras:
        raise ParameterError(
            f"parameter 'sync.reference_camera' is '{reference}', expected one of "
            f"{', '.join(cameras)} or empty"
        )
    _check_anchor(values)
    if values["world.static_cameras"] and values["pairs"] == "rig":
        raise ParameterError(
            "parameter 'world.static_cameras' is true, but 'pairs' is 'rig', which is for cameras "
            "that move; change one of the two"
        )
    if values["world.known_extrinsics"] == "file" and not values["world.calibration_file"]:
        raise ParameterError(
            "parameter 'world.known_extrinsics' is 'file', but 'world.calibration_file' is empty; "
            "set it to the path of a calibration.json"
        )


def _check_anchor(values: Values) -> None:
    camera, cameras = values["world.anchor_camera"], values["cameras"]
    if camera and camera not in cameras:
        raise ParameterError(
            f"parameter 'world.anchor_camera' is '{camera}', expected one of {', '.join(cameras)} "
            "or empty"
        )
    if values["tf.mode"] == "anchor" and values["world.anchor_frame"] == values["world.frame"]:
        raise ParameterError(
            "parameters 'world.anchor_frame' and 'world.frame' are both "
            f"'{values['world.frame']}', but with tf.mode anchor one is the other's parent; give "
            "world.frame another name"
        )


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=parameter.description,
        # A whole number is a good value for a double, which static typing would refuse.
        dynamic_typing=parameter.type_name in ("double", "double[]", "string[]"),
        additional_constraints="" if _has_range(parameter) else parameter.allowed,
    )
    if not parameter.dynamic:
        note = "read when the node configures"
        constraints = descriptor.additional_constraints
        descriptor.additional_constraints = f"{constraints}; {note}" if constraints else note
    low, high = parameter.minimum, parameter.maximum
    if low is not None and _has_range(parameter):
        if isinstance(parameter.default, int):
            integers = IntegerRange(from_value=int(low), to_value=int(high), step=1)
            descriptor.integer_range = [integers]
        else:
            limits = FloatingPointRange(from_value=float(low), to_value=float(high))
            descriptor.floating_point_range = [limits]
    return descriptor


def _has_range(parameter: Parameter) -> bool:
    """Whether ROS can hold the range itself: it knows none of lists."""
    return parameter.minimum is not None and not isinstance(parameter.default, list)
