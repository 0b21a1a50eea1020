"""Where the network ends and the task's head begins."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from propulsion.upstream.peft_private import name_in_base
from propulsion_tools.records import RunSpec


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the children that hold parameters and stand outside the backbone; none in a language model.

    The backbone is what transformers calls ``base_model_prefix``, or else (T5 for question answering) the embedding,
    the encoder and the decoder. BERT for classification has one other child (``classifier``), DistilBERT and DeBERTa
    have two: a list of usual names would forget ``pre_classifier`` or ``pooler``, and the reloaded adapter would then
    meet a random layer. The output layer of a language model is as old as its backbone, and stays frozen with it.
    """
    if model.get_output_embeddings() is not None:
        return []
    parts = (model.get_input_embeddings(), model.get_encoder(), model.get_decoder())
    backbone = {id(part) for part in parts} if not hasattr(model, model.base_model_prefix) else set()
    return [
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and id(child) not in backbone and any(True for _ in child.parameters())
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


def count_parameters(model: nn.Module, heads: list[str]) -> dict[str, int]:
    """How many numbers are trained, the adapter's and the head's apart.

    Args:
        model: The model, wrapped by PEFT or not.
        heads: Names of the base model's children that make up the head.

    Returns:
        Counts under ``adapter`` (trained, and not of the head), ``head`` (trained), ``trainable`` and ``total``. The
        untouched copy of the head that PEFT keeps beside the trained one is not counted.
    """
    counts = {"adapter": 0, "head": 0, "trainable": 0, "total": 0}
    state = model.state_dict()  # weights that a method moves by itself are buffers of it
    counts["total"] += sum(b.numel() for name, b in model.named_buffers() if name in state and b.is_floating_point())
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue
        counts["total"] += parameter.numel()
        if parameter.requires_grad:
            counts["trainable"] += parameter.numel()
            counts["head" if is_head(name, heads) else "adapter"] += parameter.numel()
    return counts


def is_head(name: str, heads: list[str]) -> bool:
    """Whether a parameter of this name, wrapped by PEFT or not, belongs to the head."""
    return ".modules_to_save." in name or name_in_base(name).split(".")[0] in heads
