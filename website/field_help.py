"""For the Python reference: a configuration is its fields, each with its default and the help in its metadata."""

from __future__ import annotations

import ast
from typing import Any

import griffe


class FieldHelp(griffe.Extension):
    """Reads ``field(default=..., metadata={"help": ...})``, and leaves out what a dataclass has beside its fields."""

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        if "dataclass" in {str(decorator.value) for decorator in cls.decorators}:
            fields = {name for name, member in cls.members.items() if member.is_attribute}
            properties = {name for name, member in cls.members.items() if "property" in member.labels}
            for name in cls.members.keys() - (fields - properties):
                del cls.members[name]

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
