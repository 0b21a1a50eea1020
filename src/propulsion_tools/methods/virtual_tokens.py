"""What PEFT leaves undone where virtual tokens are fed as embeddings before a text.

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

NOT_SCORED = -100
FED_AS_EMBEDDINGS = (PeftType.PROMPT_TUNING, PeftType.P_TUNING)


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
        counted = "position_ids" in inspect.signature(base.forward).parameters
        base.register_forward_pre_hook(lambda _, args, kwargs: (args, ended(kwargs, counted)), with_kwargs=True)
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


def ended(kwargs: dict[str, Any], counted: bool) -> dict[str, Any]:
    """The arguments of a forward with the padding of each row moved from its end to its front.

    Args:
        kwargs: With ``inputs_embeds`` (rows, tokens, width) and ``attention_mask`` (rows, tokens), if any.
        counted: Whether the model takes positions; each row counts its own from 0.
    """
    embeds, mask = kwargs["inputs_embeds"], kwargs.get("attention_mask")
    if mask is None:
        return kwargs  # nothing is padded
    rows, tokens = mask.shape
    padding = tokens - mask.sum(dim=1, keepdim=True).long()
    source = (torch.arange(tokens, device=mask.device)[None] - padding) % tokens
    index = torch.arange(rows, device=mask.device)[:, None]
    moved = {**kwargs, "inputs_embeds": embeds[index, source], "attention_mask": mask[index, source]}
    if counted:
        moved["position_ids"] = (moved["attention_mask"].long().cumsum(dim=1) - 1).clamp(min=0)
    return moved
