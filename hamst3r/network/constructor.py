"""Constructor strings of public checkpoints: ``Net(head_type='dpt', conf_mode=('exp', 1, inf))``.

The reference code evaluates them. Here they are parsed: a name, and keyword arguments that are
literals. A file cannot make us run anything.
"""

from __future__ import annotations

import ast
import math
from typing import Any

MAX_LENGTH = 4096


class ConstructorError(ValueError):
    """A string that is not a plain constructor call."""


def parse_constructor(text: str) -> tuple[str, dict[str, Any]]:
    """Name and keyword arguments of a call; ``inf`` and ``-inf`` are numbers.

    Raises:
        ConstructorError: Anything but one call with literal keyword arguments.
    """
    shown = repr(text[:80]) if isinstance(text, str) else type(text).__name__
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        raise ConstructorError(f"a model description of up to {MAX_LENGTH} characters: {shown}")
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConstructorError(f"not a model description: {shown}") from error
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args):
        raise ConstructorError(f"expected Name(key=value, ...), got {shown}")
    arguments = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ConstructorError(f"expected Name(key=value, ...), got {shown}")
        arguments[keyword.arg] = _literal(keyword.value, keyword.arg)
    return call.func.id, arguments


def _literal(node: ast.expr, name: str) -> Any:
    if isinstance(node, ast.Constant) and isinstance(
        node.value, (str, int, float, bool, type(None))
    ):
        return node.value
    if isinstance(node, ast.Name) and node.id == "inf":
        return math.inf
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(_literal(part, name) for part in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand, name)
        if isinstance(value, (int, float)):
            return -value
    raise ConstructorError(f"'{name}' of the model description is not a plain value")
