"""Every error that the method raises of its own accord.

PropulsionError
├── ConfigError              a field of a PropulsionConfig is wrong (also a ValueError)
├── TargetError              target modules match nothing, or something that cannot be steered (also a ValueError)
├── LayerError               a layer of this kind cannot be steered (also a ValueError)
├── MergeError               these vectors cannot be folded into these weights (also a ValueError)
├── HeadError                a model has no head that can be started so (also a ValueError)
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


class HeadError(PropulsionError, ValueError):
    """A model has no head that can be started from these labels."""


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


# What others call the same thing: other libraries, other architectures.
SAME_THING: tuple[frozenset[str], ...] = tuple(
    frozenset(words.split())
    for words in (
        "mean avg average",
        "max maximum",
        "min minimum",
        "l2 rms norm",
        "ones one identity",
        "zeros zero",
        "normal gaussian random",
        "xavier glorot",
        "linear sum add",
        "product mul multiply",
        "all-linear all_linear linears",
        "attn attention self_attn self_attention",
        "mlp ffn feed_forward feedforward fc",
        "embedding embeddings embed",
        "query q_proj q_lin query_proj q to_q wq",
        "key k_proj k_lin key_proj k to_k wk",
        "value v_proj v_lin value_proj v to_v wv",
        "o_proj out_proj out_lin to_out wo",
    )
)


def same_things(name: str, known: Iterable[str]) -> list[str]:
    """Those of the known names that others call by this one."""
    return [other for other in known if any({name.lower(), other} <= words for words in SAME_THING)]


def near_misses(name: str, known: Iterable[str], limit: int = 3) -> str:
    """A clause for an error message that names what `name` may have been meant to be.

    Args:
        name: What was asked for.
        known: What there is.
        limit: How many near misses to name at most.

    Returns:
        ``" Did you mean 'a' or 'b'?"``, with a leading space, or an empty string if nothing is near.
    """
    others = sorted(set(known) - {name})
    near = difflib.get_close_matches(name.lower(), sorted({other.lower() for other in others}), n=limit, cutoff=0.6)
    close = (same_things(name, others) or [other for word in near for other in others if other.lower() == word])[:limit]
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
