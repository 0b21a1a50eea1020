"""Saved adapters for the tests of the bank, and what each gives alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from tests.propulsion.steered import config, result, train_by_chance
from tests.tiny_models import tiny_model

VARIETY: dict[str, dict[str, Any]] = {
    "all": {},
    "attn": {"target_modules": "attn", "degree": 3},
    "wide": {"num_vectors": 3, "init_noise": 0.1, "pooling": "mean", "degree": [1, 2, 3]},
    "signed": {"num_vectors": 2, "init_noise": 0.1, "pooling": "max", "target_modules": "mlp"},
    "biased": {"train_bias": True, "degree": 55},
    "shy": {"target_modules": "mlp", "pooling": "min", "num_vectors": 2, "init_noise": 0.1, "train_bias": True},
}
HEADS = {"cls": "SEQ_CLS", "base": "FEATURE_EXTRACTION", "lm": "CAUSAL_LM"}


def adapter(
    architecture: str, head: str = "cls", seed: int = 1, dtype: torch.dtype = torch.float32, **fields: Any
) -> PeftModel:
    """A model with one trained adapter; `num_labels` among the fields is the model's."""
    labels = fields.pop("num_labels", None)
    task = "SEQ_2_SEQ_LM" if head == "lm" and architecture in ("bart", "t5") else HEADS[head]
    base = tiny_model(architecture, head).to(dtype)
    if labels is not None:
        attribute = "classifier" if hasattr(base, "classifier") else "score"
        setattr(base, attribute, getattr(tiny_model(architecture, head, num_labels=labels), attribute))
        base.num_labels = base.config.num_labels = labels
    model = get_peft_model(base, config(**{"task_type": task, **fields})).eval()
    train_by_chance(model, seed=seed)
    return model


def various(architecture: str, head: str = "cls", **kwargs: Any) -> dict[str, PeftModel]:
    """One adapter of each kind."""
    return {
        name: adapter(architecture, head, seed=number, **fields, **kwargs)
        for number, (name, fields) in enumerate(VARIETY.items(), start=1)
    }


def saved(models: dict[str, PeftModel], folder: Path) -> dict[str, Path]:
    """Save adapters to folders of their names."""
    for name, model in models.items():
        model.save_pretrained(folder / name)
    return {name: folder / name for name in models}


def alone(models: dict[str, PeftModel], names: list[str], base: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """What each row's own adapter gives for it, in a batch of the same shape."""
    return [
        result(base if name == "__base__" else models[name], inputs)[row : row + 1] for row, name in enumerate(names)
    ]
