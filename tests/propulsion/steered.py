"""Steered models for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from propulsion import PropulsionConfig
from propulsion.layers import PropulsionLayer
from tests.tiny_models import SPECS, tiny_inputs, tiny_model

MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "olmoe", "gpt_oss")
DENSE = ("roberta", "deberta-v3", "distilbert", "bart", "t5", "bloom", "gpt2", "gptj", "llama", "falcon", "mistral")
ARCHITECTURES = (*DENSE, "phi", *MIXTURES)
DEGREES = (1, 15, 55)
TARGETS = ("attn", "all")


def config(**fields: Any) -> PropulsionConfig:
    return PropulsionConfig(**{"task_type": "SEQ_CLS", "target_modules": "all", **fields})


def head_of(name: str) -> str:
    """A classifier if the architecture has one, or else a language model."""
    return "cls" if "cls" in SPECS[name].heads else "lm"


def steered_model(name: str, head: str | None = None, trained: bool = True, **fields: Any) -> PeftModel:
    """A tiny model with an adapter whose vectors are off the identity, if `trained`."""
    head = head or head_of(name)
    if head == "base":
        fields.setdefault("task_type", "FEATURE_EXTRACTION")
    elif head == "lm":
        fields.setdefault("task_type", "SEQ_2_SEQ_LM" if name in ("bart", "t5") else "CAUSAL_LM")
    model = get_peft_model(tiny_model(name, head), config(**fields)).eval()
    if trained:
        train_by_chance(model)
    return model


@torch.no_grad()
def train_by_chance(model: nn.Module, adapter_name: str = "default", seed: int = 1) -> None:
    """Give an adapter gains of about 0.7 to 1.3, and its head other weights."""
    generator = torch.Generator().manual_seed(seed)
    for layer in layers(model):
        if adapter_name in layer.propulsion_delta:
            delta = layer.propulsion_delta[adapter_name].weight
            degree = torch.tensor([max(1, k) for k in layer.propulsion_degree[adapter_name]]).unsqueeze(-1)
            delta.copy_(0.1 * torch.randn(delta.shape, generator=generator) / degree)
        if adapter_name in layer.propulsion_bias:
            bias = layer.propulsion_bias[adapter_name].weight
            bias.copy_(0.1 * torch.randn(bias.shape, generator=generator))
    for name, parameter in model.named_parameters():
        if f"modules_to_save.{adapter_name}" in name:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def layers(model: nn.Module) -> Iterator[PropulsionLayer]:
    return (module for module in model.modules() if isinstance(module, PropulsionLayer))


@torch.no_grad()
def result(model: nn.Module, inputs: dict[str, Tensor], **kwargs: Any) -> Tensor:
    """The logits, or the last hidden state of a model without head."""
    output = model(**{key: value for key, value in inputs.items() if key != "labels"}, **kwargs)
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def add_other(model: PeftModel) -> None:
    """A second adapter, "other", of another degree on other layers."""
    task_type = model.peft_config["default"].task_type
    model.add_adapter("other", PropulsionConfig(task_type=task_type, target_modules="mlp", degree=2))
    train_by_chance(model, "other", seed=2)


def each_alone(model: PeftModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a model with "default" and "other" answers with each, and with none, as "__base__"; it ends in "other"."""
    with model.disable_adapter():
        alone = {"__base__": result(model, inputs)}
    for adapter in ("default", "other"):
        model.set_adapter(adapter)
        alone[adapter] = result(model, inputs)
    return alone


def batch(name: str, head: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
    return tiny_inputs(name, head or head_of(name), **kwargs)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.detach() - expected.detach()).norm() / expected.detach().norm())
