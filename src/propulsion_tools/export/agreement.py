"""Whether two models compute the same: inputs made up for a model, its outputs, and their largest difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from propulsion_tools.errors import ExportError, OptionError

ROWS, LENGTH = 4, 16
OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state")
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""The largest difference that rounding the weights to a dtype explains, as a share of the largest output."""


@dataclass(frozen=True)
class Agreement:
    """How two models' outputs differ.

    Attributes:
        difference: The largest difference of two values.
        largest: The largest value, without its sign.
    """

    difference: float
    largest: float

    @property
    def share(self) -> float:
        """The difference as a share of the largest value; not finite where a value is not."""
        return self.difference / self.largest if self.largest > 0 else self.difference

    def check(self, tolerance: float) -> None:
        """Refuse a difference that is too large.

        Raises:
            ExportError: It is above this share of the largest output, or not finite.
        """
        if not self.share <= tolerance:
            raise ExportError(
                f"What was written does not compute the same: its outputs differ by {self.difference:.2g}, and the "
                f"largest is {self.largest:.2g} (tolerance: {tolerance:.2g} of it). It was removed. --tolerance allows "
                "more."
            )


def outputs_of(model: nn.Module, config: PreTrainedConfig, main_input: str) -> dict[str, Tensor]:
    """What a model computes from made-up inputs, the same for the same configuration.

    Args:
        model: In evaluation mode.
        config: That of the base model.
        main_input: The name of its first argument.

    Raises:
        OptionError: No inputs can be made up for such a model.
    """
    device = next((each.device for each in model.parameters() if not each.is_meta), torch.device("cpu"))
    batch = {name: value.to(device) for name, value in made_up_inputs(config, main_input).items()}
    if config.is_encoder_decoder:
        batch["decoder_input_ids"] = batch.get("input_ids", _ids(config, seed=1).to(device))
    with torch.no_grad():
        result = model(**batch)
    found = {name: result[name].detach().float().cpu() for name in OUTPUTS if name in result}
    if not found:
        raise OptionError(f"A {type(model).__name__} gives none of {', '.join(OUTPUTS)}, so that it cannot be checked.")
    return found


def compare(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> Agreement:
    """The largest difference between the outputs of two models."""
    pairs = [(expected[name], actual[name]) for name in expected]
    differences = [float((one - other).abs().max()) for one, other in pairs]
    largest = [float(one.abs().max()) for one, _ in pairs]
    return Agreement(max(differences), max(largest))


def made_up_inputs(config: PreTrainedConfig, main_input: str) -> dict[str, Tensor]:
    """A batch of random tokens, pixels or sound.

    Raises:
        OptionError: The model reads something else.
    """
    generator = torch.Generator().manual_seed(0)
    if main_input == "input_ids":
        ids = _ids(config, seed=0)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if main_input == "pixel_values" and isinstance(getattr(config, "image_size", None), int):
        size = config.image_size
        return {main_input: torch.randn(2, getattr(config, "num_channels", 3), size, size, generator=generator)}
    if main_input == "input_features" and hasattr(config, "max_source_positions"):
        shape = (2, config.num_mel_bins, 2 * config.max_source_positions)
        return {main_input: torch.randn(shape, generator=generator)}
    if main_input == "input_values":
        return {main_input: torch.randn(2, 16_000, generator=generator)}
    raise OptionError(f"No inputs can be made up for a {config.model_type}, which reads {main_input}.")


def _ids(config: PreTrainedConfig, seed: int) -> Tensor:
    """Token ids without padding, and with one end of a sentence, by which BART's and T5's classifiers go."""
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None) or LENGTH
    length = min(LENGTH, max(2, limit - 2)) if limit > 0 else LENGTH
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, text.vocab_size, (ROWS, length), generator=generator)
    end = text.eos_token_id[0] if isinstance(text.eos_token_id, list) else text.eos_token_id
    special = {text.pad_token_id, *(text.eos_token_id if isinstance(text.eos_token_id, list) else [text.eos_token_id])}
    ordinary = next(number for number in range(text.vocab_size) if number not in special)
    for number in special - {None}:
        ids[ids == number] = ordinary
    if end is not None:
        ids[:, -1] = end
    return ids
