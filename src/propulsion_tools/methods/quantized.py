"""LoRA on quantized weights: QLoRA (Dettmers et al., 2023), QA-LoRA (Xu et al., 2024) and LoftQ (Li et al., 2024)."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import torch
from peft import LoftQConfig, LoraConfig
from transformers import PreTrainedModel

from propulsion.targets import ALL_LINEAR
from propulsion_tools.errors import OptionError
from propulsion_tools.installation import install_command
from propulsion_tools.methods.from_peft import peft_method
from propulsion_tools.methods.lora import with_alpha
from propulsion_tools.records import RunSpec


def all_linear(values: dict[str, Any], base_model: PreTrainedModel, spec: RunSpec) -> dict[str, Any]:
    """LoRA beside every linear of the backbone, as in the original, unless the spec names targets."""
    return with_alpha(values, base_model, replace(spec, target_modules=spec.target_modules or ALL_LINEAR))


def at_scale_one(values: dict[str, Any], base_model: PreTrainedModel, spec: RunSpec) -> dict[str, Any]:
    """α = r where none is given: LoftQ's B A is the quantization's error itself, which a scale of 2 would double."""
    return all_linear({"lora_alpha": values["r"], **values}, base_model, spec)


def without_bitsandbytes() -> str | None:
    """Why QLoRA cannot run here, or None."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return f"bitsandbytes is not installed: {install_command('quantization')}."
    return None


def without_gptq() -> str | None:
    """Why QA-LoRA cannot run here, or None."""
    if importlib.util.find_spec("gptqmodel") is None:
        return "it needs a base model with GPTQ layers, and the package gptqmodel that computes them is not installed."
    return None


def without_accelerator() -> str | None:
    """Why LoftQ cannot run here, or None."""
    if torch.cuda.is_available() or (hasattr(torch, "xpu") and torch.xpu.is_available()):
        return None
    return "PEFT quantizes for LoftQ on a CUDA or XPU device only, and there is none."


def on_gptq(values: dict[str, Any], base_model: PreTrainedModel, spec: RunSpec) -> dict[str, Any]:
    """QA-LoRA, which PEFT ignores silently on layers that are not quantized.

    Raises:
        OptionError: The base model has no GPTQ layers.
    """
    method = getattr(getattr(base_model.config, "quantization_config", None), "quant_method", "")
    if "gptq" not in str(method).lower():
        raise OptionError("qa-lora needs a base model with GPTQ layers; choose qlora for others.")
    return all_linear(values, base_model, spec)


QLORA = peft_method(
    name="qlora",
    description="LoRA on weights of four bits (NF4)",
    config_class=LoraConfig,
    learning_rate=1e-3,
    defaults={"r": 8},
    derive=all_linear,
    fixed={"load_in_4bit": True},
    refusal=without_bitsandbytes,
    delta="ΔW = W_down^BF16 W_up^BF16, W in NF4",
)
QA_LORA = peft_method(
    name="qa-lora",
    description="LoRA that reads means of the quantization groups",
    config_class=LoraConfig,
    learning_rate=1e-3,
    defaults={"r": 8, "use_qalora": True},
    derive=on_gptq,
    refusal=without_gptq,
    delta="ΔW = W_down W_up, W_up ∈ ℝ^(r × L), L groups of W",
)
LOFTQ = peft_method(
    name="loftq",
    description="LoRA that starts at the quantization's error",
    config_class=LoraConfig,
    learning_rate=1e-3,
    defaults={"r": 8, "init_lora_weights": "loftq", "loftq_config": LoftQConfig(loftq_bits=4)},
    derive=at_scale_one,
    refusal=without_accelerator,
    delta="ΔW = SVD(W − Q_t), Q_t = q_N(W − W_down^(t−1) W_up^(t−1))",
)
