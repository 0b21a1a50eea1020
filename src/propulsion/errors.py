"""Every error that the method raises of its own accord.

PropulsionError
├── ConfigError              a field of a PropulsionConfig is wrong (also a ValueError)
├── TargetError              target modules match nothing, or something that cannot be steered (also a ValueError)
├── LayerError               a layer of this kind cannot be steered (also a ValueError)
├── MergeError               these vectors cannot be folded into these weights (also a ValueError)
├── BankFullError            more adapters at once than an AdapterBank may have on the device
├── AdapterNameError         no adapter of this name (also a ValueError)
└── AdapterFileError         a saved adapter is damaged, incomplete or not finite (also a ValueError)
    └── BaseModelError       a saved adapter belongs to another base model
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PropulsionError(Exception):
    """Base class of every error that the method raises of its own accord."""


class ConfigError(PropulsionError, ValueError):
    """A field of a configuration is wrong."""


class TargetError(PropulsionError, ValueError):
    """Target modules match nothing, or something that cannot be steered."""


class LayerError(PropulsionError, ValueError):
    """A layer of this kind cannot be steered."""


class MergeError(PropulsionError, ValueError):
    """These vectors cannot be folded into these weights."""


class BankFullError(PropulsionError):
    """More adapters at once than an AdapterBank may have on the device."""


class AdapterNameError(PropulsionError, ValueError):
    """No adapter of this name is loaded."""

    @classmethod
    def unknown(cls, name: str, known: Iterable[str]) -> AdapterNameError:
        """The error for a name that is not among the known ones."""
        return cls(f"There is no adapter {name!r}.{near_misses(name, known)}")


class AdapterFileError(PropulsionError, ValueError):
    """A saved adapter is damaged, incomplete or not finite."""


class BaseModelError(AdapterFileError):
    """A saved adapter belongs to another base model."""


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
