"""For the Python reference: a dataclass's field shows its default, and the help in its metadata is its docstring."""

from __future__ import annotations

import ast
from typing import Any

import griffe


class FieldHelp(griffe.Extension):
    """Reads ``field(default=..., metadata={"help": ...})``."""

    def on_attribute_instance(
        self, *, node: ast.AST | griffe.ObjectNode, attr: griffe.Attribute, **kwargs: Any
    ) -> None:
        if isinstance(node, ast.AnnAssign) and attr.docstring is None and (text := _help(node.value)):
            attr.docstring = griffe.Docstring(text, parent=attr)
            attr.value = next((item.value for item in attr.value.arguments if item.name == "default"), None)
            attr.labels.clear()


def _help(value: ast.expr | None) -> str:
    for keyword in value.keywords if isinstance(value, ast.Call) else ():
        if keyword.arg == "metadata":
            return str(ast.literal_eval(keyword.value).get("help", ""))
    return ""
