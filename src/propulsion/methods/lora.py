"""LoRA: low-rank updates of the weights, W + (α/r) B A (Hu et al., 2021)."""

from __future__ import annotations

from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from propulsion.methods.heads import modules_to_save
from propulsion.methods.registry import HasTaskType, Method, register
from propulsion.records import RunSpec

RANK = 8


def build(base_model: PreTrainedModel, spec: RunSpec, task: HasTaskType) -> nn.Module:
    """Rank 8 on the target modules, every linear of the backbone if none are given; the head is trained whole."""
    targets = spec.target_modules
    config = LoraConfig(
        task_type=task.peft_task_type,
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=list(targets) if isinstance(targets, tuple) else targets or "all-linear",
        exclude_modules=list(spec.exclude_modules) if isinstance(spec.exclude_modules, tuple) else spec.exclude_modules,
        modules_to_save=modules_to_save(base_model, spec.modules_to_save),
        layers_to_transform=spec.layers_to_transform,
    )
    return get_peft_model(base_model, config)


METHOD = register(Method("lora", f"low-rank updates of the weights, r = {RANK}", build, lambda spec: 1e-3, 5e-3))
