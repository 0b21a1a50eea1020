"""PEFT's methods of virtual tokens, and what it leaves undone where these are fed as embeddings before a text.

| Head | Without this | With it |
|---|---|---|
| of each token (tags, spans) | labels and positions are off by their number, so are logits | all of the text |
| of a decoder's last token | the last token of a padded row is padding | the padding moves to the front |
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from peft import PeftModel, PeftType, TaskType
from torch import Tensor, nn
from transformers import PreTrainedModel

from propulsion_tools.methods.from_peft import Derive, peft_method
from propulsion_tools.methods.method_callback import MethodCallback
from propulsion_tools.methods.positions import check_virtual_tokens
from propulsion_tools.methods.registry import Method
from propulsion_tools.records import RunSpec
from propulsion_tools.upstream.peft_private import prompt_encoder

NUM_VIRTUAL_TOKENS = 20
NOT_SCORED = -100
FED_AS_EMBEDDINGS = (PeftType.PROMPT_TUNING, PeftType.P_TUNING)


def _unchanged(values: dict[str, Any], base_model: PreTrainedModel, spec: RunSpec) -> dict[str, Any]:
    return values


def virtual_token_method(*, derive: Derive = _unchanged, **fields: Any) -> Method:
    """Register one of PEFT's methods that train virtual tokens.

    Args:
        derive: As for `peft_method`.
        **fields: Those of `peft_method`.
    """

    def checked(values: dict[str, Any], base_model: PreTrainedModel, spec: RunSpec) -> dict[str, Any]:
        derived = derive(values, base_model, spec)
        check_virtual_tokens(values["num_virtual_tokens"], base_model, spec)
        return derived

    return peft_method(
        derive=checked,
        defaults={"num_virtual_tokens": NUM_VIRTUAL_TOKENS},
        callbacks=lambda model, spec: [SavePromptEncoder(model)],
        prepare=align,
        place="puts tokens before the text",
        **fields,
    )


class SavePromptEncoder(MethodCallback):
    """Saves the network that makes the tokens with each checkpoint; PEFT saves the tokens alone."""

    def __init__(self, model: Any) -> None:
        self.encoder: nn.Module = prompt_encoder(model)

    def tensors(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.encoder.state_dict().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.encoder.load_state_dict(tensors)


def align(model: nn.Module) -> nn.Module:
    """Hook a model with virtual tokens so that its head sees the text where it is; others are returned as they are.

    Args:
        model: From PEFT, freshly made or read.
    """
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    if config is None or config.peft_type not in FED_AS_EMBEDDINGS:
        return model
    base, count = model.get_base_model(), config.num_virtual_tokens
    if config.task_type in (TaskType.TOKEN_CLS, TaskType.QUESTION_ANS):
        base.register_forward_pre_hook(lambda _, args, kwargs: (args, shifted(kwargs, count)), with_kwargs=True)
        base.register_forward_hook(lambda _, args, output: without_virtual(output, count))
    elif config.task_type == TaskType.SEQ_CLS and hasattr(base, "score"):
        positions = "position_ids" in inspect.signature(base.forward).parameters
        base.register_forward_pre_hook(
            lambda _, args, kwargs: (args, padded_at_the_front(kwargs, positions)), with_kwargs=True
        )
    return model


def shifted(kwargs: dict[str, Any], count: int) -> dict[str, Any]:
    """The arguments of a forward with tags and positions moved behind `count` tokens."""
    moved = dict(kwargs)
    if isinstance(labels := kwargs.get("labels"), Tensor):
        moved["labels"] = torch.cat((labels.new_full((len(labels), count), NOT_SCORED), labels), dim=1)
    for name in ("start_positions", "end_positions"):
        if isinstance(position := kwargs.get(name), Tensor):
            moved[name] = position + count
    return moved


def without_virtual(output: Any, count: int) -> Any:
    """The output of a forward without the logits of the first `count` tokens."""
    for name in ("logits", "start_logits", "end_logits"):
        if isinstance(value := getattr(output, name, None), Tensor):
            output[name] = value[:, count:]
    return output


def padded_at_the_front(kwargs: dict[str, Any], takes_positions: bool) -> dict[str, Any]:
    """The arguments of a forward with the padding of each row moved from its end to its front.

    Args:
        kwargs: With ``inputs_embeds`` (rows, tokens, width) and ``attention_mask`` (rows, tokens), if any.
        takes_positions: Whether the model takes positions; each row counts its own from 0.
    """
    embeds, mask = kwargs["inputs_embeds"], kwargs.get("attention_mask")
    if mask is None:
        return kwargs  # nothing is padded
    rows, tokens = mask.shape
    padding = tokens - mask.sum(dim=1, keepdim=True).long()
    source = (torch.arange(tokens, device=mask.device)[None] - padding) % tokens
    index = torch.arange(rows, device=mask.device)[:, None]
    moved = {**kwargs, "inputs_embeds": embeds[index, source], "attention_mask": mask[index, source]}
    if takes_positions:
        moved["position_ids"] = (moved["attention_mask"].long().cumsum(dim=1) - 1).clamp(min=0)
    return moved
