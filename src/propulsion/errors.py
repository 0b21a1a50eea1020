"""Every error that Propulsion raises of its own accord.

PropulsionError
├── ConfigError              a field of a configuration is wrong (also a ValueError)
│   └── SchemaVersionError   a record was written under another version of its schema
├── TargetError              target modules match nothing, or something that cannot be steered (also a ValueError)
├── LayerError               a layer of this kind cannot be steered (also a ValueError)
├── MergeError               these vectors cannot be folded into these weights (also a ValueError)
├── AdapterNameError         no adapter of this name (also a ValueError)
├── AdapterFileError         a saved adapter is damaged, incomplete or not finite (also a ValueError)
│   └── BaseModelError       a saved adapter belongs to another base model
├── DataError                the data cannot be trained on (also a ValueError)
├── NotFiniteError           the loss or a gain left the finite range (also an ArithmeticError)
├── GradientError            an output does not depend on the parameters in question (also a ValueError)
├── UnknownNameError         no task, method or key of this name; names the near misses (also a ValueError)
└── MissingExtraError        an optional dependency is not installed (also an ImportError)
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class PropulsionError(Exception):
    """Base class of every error that Propulsion raises of its own accord."""


class ConfigError(PropulsionError, ValueError):
    """A field of a configuration is wrong."""


class SchemaVersionError(ConfigError):
    """A record was written under another version of its schema."""


class TargetError(PropulsionError, ValueError):
    """Target modules match nothing, or something that cannot be steered."""


class LayerError(PropulsionError, ValueError):
    """A layer of this kind cannot be steered."""


class MergeError(PropulsionError, ValueError):
    """These vectors cannot be folded into these weights."""


class AdapterNameError(PropulsionError, ValueError):
    """No adapter of this name is loaded."""


class AdapterFileError(PropulsionError, ValueError):
    """A saved adapter is damaged, incomplete or not finite."""


class BaseModelError(AdapterFileError):
    """A saved adapter belongs to another base model."""


class RunsFailedError(PropulsionError, RuntimeError):
    """Every run of a grid failed."""


class DataError(PropulsionError, ValueError):
    """The data cannot be trained on."""


class NotFiniteError(PropulsionError, ArithmeticError):
    """The loss or a gain left the finite range."""


class GradientError(PropulsionError, ValueError):
    """An output does not depend on the parameters in question."""


class UnknownNameError(PropulsionError, ValueError):
    """No task, method or key of this name."""


class MissingExtraError(PropulsionError, ImportError):
    """An optional dependency is not installed."""


def near_misses(name: str, known: Iterable[str], limit: int = 3) -> str:
    """A clause for an error message that names what `name` may have been meant to be.

    Args:
        name: What was asked for.
        known: What there is.
        limit: How many near misses to name at most.

    Returns:
        ``" Did you mean 'a' or 'b'?"``, with a leading space, or an empty string if nothing is near.
    """
    close = difflib.get_close_matches(name, sorted(known), n=limit, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""


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
        raise MissingExtraError(
            f"This needs the package {module!r}, which is not installed: pip install 'propulsion-peft[{extra}]'"
        ) from error
