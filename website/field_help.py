"""For the Python reference: the help of a dataclass's field, which stands in its metadata, is the field's docstring."""

from __future__ import annotations

import ast
from typing import Any

import griffe


class FieldHelp(griffe.Extension):
    """Reads ``field(metadata={"help": ...})``."""

    def on_attribute_instance(self, *, node: ast.AST | griffe.ObjectNode, attr: griffe.Attribute, **kwargs: Any) -> None:
        if isinstance(node, ast.AnnAssign) and attr.docstring is None and (text := _help(node.value)):
            attr.docstring = griffe.Docstring(text, parent=attr)


def _help(value: ast.expr | None) -> str:
    for keyword in value.keywords if isinstance(value, ast.Call) else ():
        if keyword.arg == "metadata":
            return str(ast.literal_eval(keyword.value).get("help", ""))
    return ""
