"""How many positions a model has for its text, and whether virtual tokens fit beside it."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from propulsion_tools.errors import OptionError
from propulsion_tools.records import RunSpec


def position_offset(model: nn.Module) -> int:
    """The rows of the position table that no token of the text uses.

    RoBERTa and its relatives count positions from ``padding_idx + 1``, and their table has that ``padding_idx``. BART
    and OPT start at row 2 of a table with 2 rows more than ``max_position_embeddings``, and lose none.

    Args:
        model: With or without weights.
    """
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.rpartition(".")[2] == "position_embeddings" and padding is not None:
            return int(padding) + 1
    return 0


def check_virtual_tokens(tokens: Any, base_model: PreTrainedModel, spec: RunSpec) -> None:
    """Refuse virtual tokens that leave too few positions for the text.

    Raises:
        OptionError: There is not at least one, or with `max_length` they exceed the model's positions.
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise OptionError(f"num_virtual_tokens must be an integer of at least 1, and not {tokens!r}.")
    table = getattr(base_model.config, "max_position_embeddings", None)
    if not table:
        return
    positions = table - position_offset(base_model)
    length = spec.max_length or 1  # a resolved spec has one
    if tokens + length > positions:
        raise OptionError(
            f"{tokens} virtual tokens and a max_length of {length} exceed the {positions} positions "
            f"of this model: lower max_length to {max(1, positions - tokens)}, or num_virtual_tokens."
        )
