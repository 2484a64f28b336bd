"""What one parameter of the node is: its type, range and meaning."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

Value = bool | int | float | str | list[str] | list[float]
Values = dict[str, Any]


class ParameterError(ValueError):
    """A parameter that cannot be used; the message is one line and says what would do."""


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name, default, description: As ROS shows them.
        minimum, maximum: Inclusive range of a number.
        choices: The only values allowed, if any.
        pattern: Regular expression of a text; ``expected`` says it in words.
        dynamic: May change while the node is configured, and takes effect at once.
    """

    name: str
    default: Value
    description: str
    minimum: float | None = None
    maximum: float = math.inf
    choices: tuple[str, ...] = ()
    pattern: str = ""
    expected: str = ""
    dynamic: bool = False

    def check(self, value: Any) -> Value:
        """The value in the parameter's type (5 is as good as 5.0).

        Raises:
            ParameterError: It is of another type, out of range or not one of the choices.
        """
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        if self.type_name == "double[]":
            value = self._numbers(value)
        elif kind is list and isinstance(value, (list, tuple)):
            value = [item for item in value if item]  # [''] is how ROS spells "none"
            if not all(isinstance(item, str) for item in value):
                raise self._error(value)
        elif type(value) is not kind:
            raise self._error(value)
        if self.choices and value not in self.choices:
            raise self._error(value)
        if self.pattern:
            for text in value if isinstance(value, list) else [value]:
                if not re.fullmatch(self.pattern, str(text)):
                    raise self._error(text)
        if self.minimum is not None:
            for number in value if isinstance(value, list) else [value]:
                if not self.minimum <= number <= self.maximum:  # also NaN
                    raise self._error(value)
        return value

    def _numbers(self, value: Any) -> list[float]:
        if not hasattr(value, "__len__") or isinstance(value, str):
            raise self._error(value)
        if any(type(item) not in (int, float) for item in value):
            raise self._error(value)
        return [float(item) for item in value]

    @property
    def allowed(self) -> str:
        """What is allowed, in words; "" for anything of the type."""
        if self.choices:
            return " | ".join(self.choices)
        if self.minimum is not None:
            return f"{shown(self.minimum)} .. {shown(self.maximum)}"
        return self.expected

    @property
    def type_name(self) -> str:
        """As ROS calls it."""
        if isinstance(self.default, list):
            return "double[]" if isinstance(self.default[0], float) else "string[]"
        names = {bool: "bool", int: "integer", float: "double", str: "string"}
        return names[type(self.default)]

    def _error(self, value: object) -> ParameterError:
        expected = f"{self.type_name}, {self.allowed}" if self.allowed else self.type_name
        return ParameterError(f"parameter '{self.name}' is {value!r}, expected {expected}")


def shown(value: object) -> str:
    """A value as YAML has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[{}]".format(", ".join(shown(item) for item in value))
    return f'"{value}"' if isinstance(value, str) else str(value)
