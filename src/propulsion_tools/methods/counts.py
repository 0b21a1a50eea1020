"""Trained parameters of every method, counted on models without weights, beside those that the paper prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from propulsion.errors import PropulsionError
from propulsion.heads import head_modules
from propulsion_tools.errors import OptionError, ToolsError, near_misses
from propulsion_tools.methods.head_training import count_parameters
from propulsion_tools.methods.paper_results import paper_parameters
from propulsion_tools.methods.paper_settings import Setting, paper_setting
from propulsion_tools.methods.registry import get_method, method_names
from propulsion_tools.records import RunSpec

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
DEBERTA = {
    "vocab_size": 128100,
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "pooler_hidden_size": 768,
}
# Known without a hub: the type of the model, and how its configuration differs from the type's defaults.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta-base": ("roberta", ROBERTA | BASE),
    "roberta-large": ("roberta", ROBERTA | LARGE),
    "bart-large": ("bart", {}),
    "deberta-v3-base": ("deberta-v2", DEBERTA | BASE),
    "minilm": ("bert", MINILM),
}


@dataclass(frozen=True)
class Classification:
    """The task that is counted for: two labels."""

    peft_task_type: str = "SEQ_CLS"


@dataclass(frozen=True)
class Count:
    """One row: what a method trains, or why it does not apply, and what the paper prints for it."""

    method: str
    adapter: int = 0
    head: int = 0
    as_counted: int | None = None
    paper: str = ""
    table: str = ""
    note: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether rounding or cutting our number off gives the paper's; None where the paper has none."""
        if not self.paper or self.as_counted is None:
            return None if not self.paper else False
        digits = self.paper.rstrip("M")
        unit = 10.0 ** -len(digits.partition(".")[2])
        return abs(self.as_counted / 1e6 - float(digits)) < unit


def counts(model: str) -> list[Count]:
    """What every method trains in a model, the paper's rows with the paper's settings first.

    Args:
        model: One of `MODELS`, a folder with a config.json, or a hub id.

    Raises:
        OptionError: There is no such configuration.
    """
    config = model_config(model)
    rows = [
        _counted(config, setting, printed, table)
        for (table, label), printed in paper_parameters(model).items()
        if (setting := paper_setting(model, table, label)) is not None
    ]
    listed = {row.method for row in rows}
    return rows + [_counted(config, Setting(name)) for name in method_names() if name not in listed]


def model_config(model: str) -> PretrainedConfig:
    """The configuration of a classifier with two labels.

    Raises:
        OptionError: There is none of this name.
    """
    if model in MODELS:
        model_type, values = MODELS[model]
        return AutoConfig.for_model(model_type, num_labels=2, **values)
    try:
        return AutoConfig.from_pretrained(model, num_labels=2, trust_remote_code=False)
    except (OSError, ValueError) as error:
        hint = near_misses(Path(model).name, MODELS)
        raise OptionError(
            f"There is no configuration of {model!r} here: name one of {', '.join(MODELS)}, or the folder of a model."
            f"{hint}"
        ) from error


def _counted(config: PretrainedConfig, setting: Setting, printed: str = "", table: str = "") -> Count:
    method = get_method(setting.method)
    if reason := method.refusal():
        return Count(setting.method, paper=printed, table=table, note=reason)
    spec = RunSpec(method=setting.method, **setting.spec)
    try:
        with torch.device("meta"):
            base = AutoModelForSequenceClassification.from_config(config)
            heads = head_modules(base)
            outputs = head_outputs(base, heads)
            trained = count_parameters(method.build(base, spec, Classification()), heads)
    except (PropulsionError, ToolsError) as error:
        return Count(setting.method, paper=printed, table=table, note=str(error))
    values = {"trainable": trained["trainable"], "adapter": trained["adapter"], "outputs": trained["adapter"] + outputs}
    row = Count(setting.method, trained["adapter"], trained["head"], values[setting.counted], printed, table)
    settings = f"with {_flags(setting.spec)}" if setting.spec else ""
    why_not = (setting.why_not or "not reproduced") if row.agrees is False else ""
    return replace(row, note="; ".join(filter(None, (settings, why_not))))


def _flags(spec: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in spec.items() if name != "method_args"}
    return ", ".join(f"{name}={value}" for name, value in {**plain, **spec.get("method_args", {})}.items())


def head_outputs(model: PreTrainedModel, heads: list[str]) -> int:
    """The output dimensions of the head's linears, which the paper adds to Propulsion(All)."""
    linears = [module for name in heads for module in model.get_submodule(name).modules()]
    return sum(module.out_features for module in linears if isinstance(module, nn.Linear))
