"""Every error that the tools raise of their own accord, without importing the method or anything that it needs.

ToolsError
├── OptionError              an option, a field of a run, or a file named by one is wrong (also a ValueError)
│   └── SchemaVersionError   a record was written under another version of its schema
├── DataError                the data cannot be trained on (also a ValueError)
├── NotFiniteError           the loss or a gain left the finite range (also an ArithmeticError)
├── CollapseError            a training lost what it had learned, or could learn nothing (also an ArithmeticError)
├── GradientError            an output does not depend on the parameters in question (also a ValueError)
├── ExportError              what was written does not compute what it was written from (also a RuntimeError)
├── RunsFailedError          every run of a grid failed, or one of the demo's (also a RuntimeError)
├── UnknownNameError         no task, method, key or the like of this name; names the near misses (also a ValueError)
└── MissingExtraError        an optional dependency is not installed (also an ImportError)

What the method itself refuses is a `propulsion.errors.PropulsionError`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterable, Sequence
from types import ModuleType

from propulsion_tools.installation import install_command


class ToolsError(Exception):
    """Base class of every error that the tools raise of their own accord."""


class OptionError(ToolsError, ValueError):
    """An option, a field of a run, or a file named by one is wrong."""


class SchemaVersionError(OptionError):
    """A record was written under another version of its schema."""


class DataError(ToolsError, ValueError):
    """The data cannot be trained on."""


class NotFiniteError(ToolsError, ArithmeticError):
    """The loss or a gain left the finite range."""


class CollapseError(ToolsError, ArithmeticError):
    """A training lost what it had learned, or could learn nothing any more."""


class GradientError(ToolsError, ValueError):
    """An output does not depend on the parameters in question."""


class ExportError(ToolsError, RuntimeError):
    """What was written does not compute what it was written from."""


class RunsFailedError(ToolsError, RuntimeError):
    """Every run of a grid failed, or one of the demo's."""


class UnknownNameError(ToolsError, ValueError):
    """No task, method, key or the like of this name."""


class MissingExtraError(ToolsError, ImportError):
    """An optional dependency is not installed."""


def is_one_sentence(error: BaseException) -> bool:
    """Whether a user needs the error's message alone and no traceback: an error of the tools or of the method.

    The method is not imported to ask: before that has happened, none of its errors can have been raised.
    """
    method = sys.modules.get("propulsion.errors")
    return isinstance(error, ToolsError) or (method is not None and isinstance(error, method.PropulsionError))


def near_misses(name: str, known: Iterable[str], limit: int = 3) -> str:
    """A clause for an error message that names what `name` may have been meant to be.

    Args:
        name: What was asked for.
        known: What there is.
        limit: How many near misses to name at most.

    Returns:
        ``" Did you mean 'a' or 'b'?"``, with a leading space, or an empty string if nothing is near.
    """
    others = sorted(known)
    near = difflib.get_close_matches(name.lower(), sorted({other.lower() for other in others}), n=limit, cutoff=0.6)
    return did_you_mean([other for word in near for other in others if other.lower() == word][:limit])


def did_you_mean(names: Sequence[str]) -> str:
    """The same clause for names that are known already."""
    return f" Did you mean {' or '.join(map(repr, names))}?" if names else ""


def check_name(kind: str, name: str, known: Collection[str], rest: str | None = None) -> None:
    """Refuse a name that there is not.

    Args:
        kind: What it should be the name of, such as ``"task"``.
        name: What was asked for.
        known: What there is.
        rest: Said where nothing is near; None: all that there is.

    Raises:
        UnknownNameError: It is not `known`; names the near misses.
    """
    if name not in known:
        hint = near_misses(name, known) or f" {rest or 'There are ' + ', '.join(known) + '.'}"
        raise UnknownNameError(f"There is no {kind} {name!r}.{hint}")


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency at the door of the room that needs it.

    Args:
        module: The module's import name.
        extra: The extra of this distribution that installs it.

    Raises:
        MissingExtraError: It is not installed; the message is the command that mends it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(module, extra) from error


def check_installed(module: str, extra: str) -> None:
    """As `require`, but without importing it.

    Raises:
        MissingExtraError: It is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise _missing(module, extra)


def _missing(module: str, extra: str) -> MissingExtraError:
    return MissingExtraError(f"This needs the package {module!r}, which is not installed: {install_command(extra)}")
