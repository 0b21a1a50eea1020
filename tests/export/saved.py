"""Base models and adapters in folders, as a user has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import get_peft_model

from tests.propulsion.steered import config, train_by_chance
from tests.tiny_models import tiny_model

LANGUAGE_MODELS = {"t5": "SEQ_2_SEQ_LM", "bart": "SEQ_2_SEQ_LM"}


def task_type(name: str, head: str) -> str | None:
    if head == "cls":
        return "SEQ_CLS"
    return LANGUAGE_MODELS.get(name, None if name in ("bert", "roberta") else "CAUSAL_LM")


def save_adapter(
    folder: Path, name: str, head: str = "cls", base_overrides: dict[str, Any] | None = None, **fields: Any
) -> Path:
    """A base model in `folder/base` without the classifier's head, and an adapter for it in `folder/adapter`."""
    model = tiny_model(name, head, **(base_overrides or {}))
    base = tiny_model(name, "base", **(base_overrides or {})) if head == "cls" else model
    if head == "cls":  # a checkpoint of the backbone alone, as those that people fine-tune
        backbone = getattr(model, model.base_model_prefix, None)
        base = base if backbone is None or name == "t5" else backbone
    (base if name != "t5" else model).save_pretrained(folder / "base")
    model.config._name_or_path = str(folder / "base")
    model.name_or_path = str(folder / "base")
    fields.setdefault("task_type", task_type(name, head))
    steered = get_peft_model(model, config(**fields))
    train_by_chance(steered)
    steered.save_pretrained(folder / "adapter")
    return folder / "adapter"
