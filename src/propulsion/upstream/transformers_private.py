"""What the method knows of the code of transformers' models, which promises nothing about its inside."""

from __future__ import annotations

from torch import nn

# Attention that repeats one row of a steered layer's output for the whole batch: DeBERTa's relative positions. By name,
# because importing the models' code takes a second and more.
_REPEATS_ROWS = ("DisentangledSelfAttention",)


def repeats_rows(module: nn.Module) -> bool:
    """Whether a module spreads one row of a steered layer's output over the batch, so that rows cannot be told."""
    return type(module).__name__ in _REPEATS_ROWS


def is_rms_norm(module: nn.Module) -> bool:
    """Whether it is one of the models' own RMS norms, of which each model has a class, with no common base."""
    return "RMSNorm" in type(module).__name__


def is_own_code(module: nn.Module) -> bool:
    """Whether a module's forward is transformers' own, which our table of architectures was read off."""
    return type(module).__module__.startswith("transformers.models.")


def experts_implementation(experts: nn.Module) -> str | None:
    """How a module of stacked experts multiplies; None where transformers does not say."""
    config = getattr(experts, "config", None)
    name: str | None = getattr(config, "_experts_implementation", None)
    return name


def is_expert_parallel(experts: nn.Module) -> bool:
    """Whether this process holds only some of a module's stacked experts."""
    return bool(getattr(experts, "_is_expert_parallel", False))
