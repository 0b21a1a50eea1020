"""Where the network ends and the task's head begins."""

from __future__ import annotations

from transformers import PreTrainedModel

from propulsion.records import RunSpec


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the children that hold parameters and stand outside the backbone.

    The backbone is what transformers calls ``base_model_prefix``. BERT for classification has one such child
    (``classifier``), DistilBERT and DeBERTa have two: a list of usual names would forget ``pre_classifier`` or
    ``pooler``, and the reloaded adapter would then meet a random layer.
    """
    return [
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and any(True for _ in child.parameters())
    ]


def modules_to_save(model: PreTrainedModel, extra: tuple[str, ...] | None) -> list[str] | None:
    """What PEFT has to train and save whole: the head's modules, and `extra`."""
    return list(dict.fromkeys([*head_modules(model), *(extra or ())])) or None


def train_the_head_alone(model: PreTrainedModel, spec: RunSpec) -> list[str]:
    """Freeze the backbone, keep the head and the spec's `modules_to_save` trainable, and return their names."""
    model.requires_grad_(False)
    names = modules_to_save(model, spec.modules_to_save) or []
    for name in names:
        model.get_submodule(name).requires_grad_(True)
    return names
