"""Every message of an error that the source raises, as a user sees it, with "…" for what differs from case to case.

python -m tests.error_messages

prints those that docs/errors.md has no entry for.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "src"
PAGE = ROOT / "docs" / "errors.md"
TREES = ("propulsion/errors.py", "propulsion_tools/errors.py")
MANY = 64
"""Ways to say a message; beyond, what differs is left open."""
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True)
class Message:
    """A message that is raised.

    Attributes:
        error: The name of its class.
        text: What it says, with "…" for what differs.
        where: File and line.
        hands_on: Whether it says what a caught error has said.
    """

    error: str
    text: str
    where: str
    hands_on: bool


class Module:
    """A module's source, in which the texts of messages are looked up."""

    def __init__(self, path: Path, sources: Path) -> None:
        self.place = path.relative_to(sources).as_posix()
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.functions = {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}

    def function_around(self, node: ast.AST) -> ast.AST:
        """The function that a node stands in, or the module."""
        while node in self.parents and not isinstance(node, ast.FunctionDef):
            node = self.parents[node]
        return node

    def texts(self, node: ast.expr, depth: int = 3) -> list[str]:
        """What an expression may say, each with "…" for what is not written here."""
        if isinstance(node, ast.Constant):
            return [node.value if isinstance(node.value, str) else "…"]
        if isinstance(node, ast.JoinedStr):
            plain = self._joined([self.texts(part, 0) for part in node.values])
            if has_words(plain[0]) or not depth:
                return plain
            return self._joined([self.texts(part, depth - 1) for part in node.values])
        if isinstance(node, ast.FormattedValue) and depth:
            return self.texts(node.value, depth)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._joined([self.texts(node.left, depth), self.texts(node.right, depth)])
        if isinstance(node, ast.IfExp):
            return [*self.texts(node.body, depth), *self.texts(node.orelse, depth)]
        if isinstance(node, ast.ListComp):
            return self.texts(node.elt, depth)
        if isinstance(node, ast.List):
            return [text for part in node.elts for text in self.texts(part, depth)]
        if depth and (found := self._looked_up(node)):
            return [text for value in found for text in self.texts(value, depth - 1)]
        return ["…"]

    def _looked_up(self, node: ast.expr) -> list[ast.expr]:
        """What a variable is set to, a function of this module returns, or a list is joined of."""
        if isinstance(node, ast.Name):
            return [
                other.value
                for other in ast.walk(self.function_around(node))
                if isinstance(other, ast.Assign) and node.id in [ast.unparse(target) for target in other.targets]
            ]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self.functions:
            returns = [other for other in ast.walk(self.functions[node.func.id]) if isinstance(other, ast.Return)]
            return [other.value for other in returns if other.value is not None]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join":
            return node.args[:1]
        return []

    @staticmethod
    def _joined(parts: list[list[str]]) -> list[str]:
        ways = 1
        for part in parts:
            ways *= len(part)
        return ["".join(way) for way in itertools.product(*(parts if ways <= MANY else [["…"]]))]


def error_classes(sources: Path = SOURCES) -> dict[str, list[str]]:
    """Every class of our trees of errors, with the names of its bases."""
    return {
        node.name: [ast.unparse(base) for base in node.bases]
        for tree in TREES
        for node in ast.parse((sources / tree).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }


@cache
def texts(sources: Path = SOURCES) -> tuple[Message, ...]:
    """What every error says that is raised or made to be raised: those of our classes, and all of a `raise`."""
    ours = error_classes().keys()
    paths = sorted(sources.rglob("*.py"))
    return tuple(message for path in paths for message in _of_module(Module(path, sources), ours))


def messages(sources: Path = SOURCES) -> list[Message]:
    """Every message that is raised; one that says nothing of its own hands on what another has said."""
    return [message for message in texts(sources) if has_words(message.text)]


def _of_module(module: Module, ours: Collection[str]) -> Iterator[Message]:
    raised = {node.exc for node in ast.walk(module.tree) if isinstance(node, ast.Raise)}
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or not (said := [*node.args, *(word.value for word in node.keywords)]):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        if name == "type(error)":  # one of ours, with more words
            name = "ToolsError"
        if name in ours or (node in raised and name[0].isupper()):
            hands_on = any(isinstance(part, ast.Name) and part.id == "error" for part in ast.walk(said[0]))
            for text in dict.fromkeys(shown(text) for text in module.texts(said[0])):
                yield Message(name, text, f"{module.place}:{node.lineno}", hands_on)


def shown(text: str) -> str:
    """A message with one "…" where several would stand, single spaces, and without the hint that may follow it."""
    text = re.sub(r"…(?:[\s,]*…)+", "…", " ".join(text.split()))
    return re.sub(r"(?<=[^.]\.)\s?…$", "", text)


def has_words(text: str) -> bool:
    """Whether a message says anything of its own; one that does not hands on what another has said."""
    return len(re.findall(r"[^\W\d_]{2,}", text.replace("…", " "))) >= 2


def entries(page: str) -> dict[tuple[str, str], str]:
    """The errors and messages that a page has an entry for, with what it says about each."""
    found = {}
    for block in re.finditer(r"```text\n(.*?)\n```\n(.*?)(?=\n#|\n```|\Z)", page, flags=re.DOTALL):
        for line in block.group(1).splitlines():
            error, _, text = line.partition(": ")
            found[error, text] = block.group(2).strip()
    return found


def missing() -> list[Message]:
    """Messages without an entry."""
    known = entries(PAGE.read_text(encoding="utf-8"))
    return [message for message in messages() if (message.error, message.text) not in known]


if __name__ == "__main__":
    for message in missing():
        print(f"{message.where}\n{message.error}: {message.text}")
