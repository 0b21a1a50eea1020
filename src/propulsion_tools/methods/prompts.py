"""Trained tokens before the text: prompt tuning (Lester et al., 2021), P-tuning (Liu et al., 2021) and prefix-tuning
(Li and Liang, 2021), which puts keys and values before those of every layer."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from propulsion_tools.errors import OptionError
from propulsion_tools.methods.from_peft import peft_method
from propulsion_tools.methods.method_callback import MethodCallback
from propulsion_tools.methods.registry import Cost
from propulsion_tools.methods.virtual_tokens import align
from propulsion_tools.records import RunSpec
from propulsion_tools.upstream.peft_private import prompt_encoder

NUM_VIRTUAL_TOKENS = 20
# Their attention takes no keys and values from outside.
WITHOUT_PREFIX = ("deberta", "deberta-v2", "distilbert")


def prompt(values: dict[str, Any], base_model: PreTrainedModel, spec: RunSpec) -> dict[str, Any]:
    """Tokens at the input.

    Raises:
        OptionError: They do not fit.
    """
    refuse_targets(spec)
    check_length(values["num_virtual_tokens"], base_model, spec)
    return values


def prefix(values: dict[str, Any], base_model: PreTrainedModel, spec: RunSpec) -> dict[str, Any]:
    """Keys and values before those of every layer.

    Raises:
        OptionError: They do not fit, the architecture takes none, or it is to recompute its activations.
    """
    refuse_targets(spec)
    refuse_without_cache(base_model, spec)
    check_length(values["num_virtual_tokens"], base_model, spec)
    if shares_one_head(base_model.config):  # PEFT would make as many as there are queries
        return {"num_attention_heads": 1, "token_dim": base_model.config.head_dim, **values}
    return values


def shares_one_head(config: Any) -> bool:
    """Whether all queries share one head of keys and values, which the configuration does not give a number for."""
    return bool(config.model_type == "falcon" and config.multi_query and not config.new_decoder_architecture)


def refuse_targets(spec: RunSpec) -> None:
    """A prompt has no target modules.

    Raises:
        OptionError: Some are given.
    """
    for name in ("target_modules", "exclude_modules", "layers_to_transform"):
        if getattr(spec, name) is not None:
            raise OptionError(f"{spec.method} puts tokens before the text and has no use for {name}.")


def refuse_without_cache(base_model: PreTrainedModel, spec: RunSpec) -> None:
    """Refuse what takes no keys and values from outside.

    Raises:
        OptionError: Names the architecture; or the model is to recompute its activations.
    """
    if spec.gradient_checkpointing:
        raise OptionError(f"gradient_checkpointing turns off the cache that {spec.method} writes to: leave it out.")
    if base_model.config.model_type in WITHOUT_PREFIX:
        raise OptionError(
            f"{spec.method} needs an attention that takes keys and values from outside, and that of "
            f"{base_model.config.model_type} takes none; choose another --method."
        )


def check_length(tokens: Any, base_model: PreTrainedModel, spec: RunSpec) -> None:
    """Refuse prompts that leave too few positions for the text.

    Raises:
        OptionError: Prompt and `max_length` together exceed the model's positions.
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise OptionError(f"num_virtual_tokens must be an integer of at least 1, and not {tokens!r}.")
    positions = getattr(base_model.config, "max_position_embeddings", None)
    if not positions:
        return
    offset = (base_model.config.pad_token_id or 0) + 1 if "roberta" in base_model.config.model_type else 0
    length = spec.max_length or 1  # a resolved spec has one
    if tokens + length > positions - offset:
        raise OptionError(
            f"{tokens} virtual tokens and a max_length of {length} exceed the {positions - offset} positions "
            f"of this model: lower max_length to {max(1, positions - offset - tokens)}, or num_virtual_tokens."
        )


class KeepNetwork(MethodCallback):
    """Keeps the network that makes the tokens in the checkpoints, of which PEFT saves the tokens alone."""

    def __init__(self, model: Any) -> None:
        self.encoder: nn.Module = prompt_encoder(model)

    def tensors(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.encoder.state_dict().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.encoder.load_state_dict(tensors)


def callbacks(model: nn.Module, spec: RunSpec) -> list[MethodCallback]:
    """Prompts are kept as they are trained."""
    return [KeepNetwork(model)]


def _prompts(name: str, description: str, config_class: type[PeftConfig], rate: float, **fields: Any) -> None:
    derive = prefix if config_class is PrefixTuningConfig else prompt
    peft_method(
        name,
        description,
        config_class,
        rate,
        defaults={"num_virtual_tokens": NUM_VIRTUAL_TOKENS},
        callbacks=callbacks,
        derive=derive,
        prepare=align,
        **fields,
    )


PROMPT = Cost("O(d × l_p)", "O(d × l_p)", "l_p · d")
_prompts(
    "prompt-tuning",
    "trained tokens before the text",
    PromptTuningConfig,
    1e-2,
    delta="ΔW = 0; x ← [P; x]",
    cost=PROMPT,
)
_prompts(
    "p-tuning",
    "tokens before the text, made by a trained network",
    PromptEncoderConfig,
    1e-3,
    delta="ΔW = 0; x ← [MLP(P); x]",
)
_prompts(
    "prefix-tuning",
    "trained keys and values before those of every layer",
    PrefixTuningConfig,
    1e-2,
    delta="ΔW = 0; K ← [P_K; K], V ← [P_V; V]",
    cost=Cost("O(L × d × l_p)", "O(L × d × l_p)", "L · l_p · d"),
)
