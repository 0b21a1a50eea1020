"""What the method knows of the code of transformers' models, which promises nothing about its inside."""

from __future__ import annotations

import sys

from torch import nn

_MODELS = "transformers.models."
_AROUND_A_FORWARD = ("propulsion.", "torch.nn.modules.module")

# Attention that repeats one row of a steered layer's output for the whole batch: DeBERTa's relative positions. By name,
# because importing the models' code takes a second and more.
_REPEATS_ROWS = ("DisentangledSelfAttention",)


# The `generate` that puts a row's beams and sequences beside each other. Others (MusicGen, Dia, Janus) put all rows
# once more behind all rows, for guidance, or run parts of themselves on parts of the batch.
_MULTIPLIES_IN_ORDER = ("GenerationMixin.generate", "WhisperGenerationMixin.generate")


def multiplies_in_order(model: nn.Module) -> bool:
    """Whether the copies of a row stand beside each other wherever `generate` makes several rows of one."""
    return getattr(getattr(type(model), "generate", None), "__qualname__", "") in _MULTIPLIES_IN_ORDER


def repeats_rows(module: nn.Module) -> bool:
    """Whether a module spreads one row of a steered layer's output over the batch, so that rows cannot be told."""
    return type(module).__name__ in _REPEATS_ROWS


def is_rms_norm(module: nn.Module) -> bool:
    """Whether it is one of the models' own RMS norms, of which each model has a class, with no common base."""
    return "RMSNorm" in type(module).__name__


def is_own_code(module: nn.Module) -> bool:
    """Whether a module's forward is transformers' own, which our table of architectures was read off."""
    return type(module).__module__.startswith(_MODELS) and "forward" not in vars(module)


def is_called_by_own_code() -> bool:
    """Whether the layer whose forward or hook asks is called by transformers' own code for a model.

    That can change after a model was made. Liger puts kernels in the place of a forward and of the function that
    rotates queries and keys; they write their results over what they read, and autograd does not see it.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_AROUND_A_FORWARD):
        frame = frame.f_back
    caller = frame.f_globals
    if not caller.get("__name__", "").startswith(_MODELS):
        return False
    rotate = caller.get("apply_rotary_pos_emb")
    if isinstance(rotate, nn.Module):  # what the package `kernels` makes of the function
        return "forward" not in vars(rotate)
    return rotate is None or getattr(rotate, "__globals__", {}).get("__name__", "").startswith(_MODELS)


def experts_implementation(experts: nn.Module) -> str | None:
    """How a module of stacked experts multiplies; None where transformers does not say."""
    config = getattr(experts, "config", None)
    name: str | None = getattr(config, "_experts_implementation", None)
    return name


def is_expert_parallel(experts: nn.Module) -> bool:
    """Whether this process holds only some of a module's stacked experts."""
    return bool(getattr(experts, "_is_expert_parallel", False))


def was_resized(model: nn.Module) -> bool:
    """Whether `resize_token_embeddings` has been called on a model with a head, by the trace that it leaves.

    It writes the new size to the model's `vocab_size`, but not to that of the network below the head. A network without
    a head has no trace of it that could be told from what its constructor writes.
    """
    below = model.base_model
    return below is not model and "vocab_size" in vars(model) and getattr(below, "vocab_size", None) != model.vocab_size
