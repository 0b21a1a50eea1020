"""Where the network ends and the task's head begins."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

from peft import TaskType
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from propulsion.errors import AdapterFileError
from propulsion.upstream.peft_private import name_in_base

if TYPE_CHECKING:
    from propulsion.config import PropulsionConfig


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


def is_saved_whole(name: str, modules_to_save: Iterable[str]) -> bool:
    """Whether a module or a parameter, by its name in a saved file, is in a module that PEFT trains and saves whole.

    PEFT compares the ends of modules' names: "classifier" is "pre_classifier" too.
    """
    parts = name.split(".")
    ancestors = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return any(ancestor.endswith(module) for ancestor in ancestors for module in modules_to_save)


def train_the_whole_head(peft_config: PropulsionConfig, model: nn.Module) -> None:
    """Add to what PEFT trains of a classifier's head the rest of it: DeBERTa's pooler, BART's classification_head.

    Nothing is added where modules were named: by a user, or in a saved adapter.
    """
    is_classifier = peft_config.task_type in (TaskType.SEQ_CLS, TaskType.TOKEN_CLS)
    modules = peft_config.modules_to_save  # PEFT has put its own guess into it
    if is_classifier and isinstance(model, PreTrainedModel) and modules is not None and not peft_config.names_modules:
        modules += [name for name in head_modules(model) if not is_saved_whole(name, modules)]


def leave_out_what_was_not_saved(peft_config: PropulsionConfig, model: nn.Module) -> None:
    """Let a loaded adapter keep the base model's head where its file has none, whatever PEFT guesses for the task."""
    modules, saved = peft_config.modules_to_save, peft_config.saved_names
    if modules is None or saved is None:
        return
    names = [name for name, _ in model.named_modules()]
    peft_config.modules_to_save = [
        module
        for module in modules
        if any(is_saved_whole(name, [module]) for name in saved.others)
        or not any(name.endswith(module) for name in names)
    ]


def leave_out_heads(peft_config: PropulsionConfig) -> None:
    """Take out of the names of target modules those that are trained and saved whole: DistilBERT's `pre_classifier`."""
    whole = peft_config.modules_to_save or ()
    peft_config.target_modules = [name for name in peft_config.target_modules or () if not is_saved_whole(name, whole)]


def check_heads_in_memory(model: nn.Module, tensors: Iterable[str], adapter_name: str) -> None:
    """Refuse to load a trained head into one that is offloaded, where it would be lost without a word.

    Args:
        model: The model with the adapter's layers.
        tensors: The names of the saved tensors.
        adapter_name: The adapter's name.

    Raises:
        AdapterFileError: The adapter has a head, and that of the model is offloaded.
    """
    mark = f".modules_to_save.{adapter_name}."
    # Without a hook of accelerate's, the weights are only not there yet (low_cpu_mem_usage).
    hooked = [
        f"{name}." for name, module in model.named_modules() if mark in f"{name}." and hasattr(module, "_hf_hook")
    ]
    offloaded = [
        name for name, parameter in model.named_parameters() if parameter.is_meta and name.startswith(tuple(hooked))
    ]
    saved = {name.replace(mark, ".") for name in tensors}
    if lost := [name for name in offloaded if name.replace(mark, ".") in saved]:
        head = name_in_base(lost[0]).partition(".modules_to_save.")[0]
        raise AdapterFileError(
            f"Adapter {adapter_name!r} has a trained head, and that of the base model, {head}, is offloaded, where it "
            f"cannot be replaced: load the base model with a device_map that keeps {head!r} on a device."
        )


def copy_heads(heads: list[ModulesToSaveWrapper], owner: str, adapter_name: str) -> None:
    """Give an adapter a copy of what another has trained in full, and say whose it is."""
    for head in heads:
        head.update(adapter_name)
        head.modules_to_save[adapter_name].load_state_dict(head.modules_to_save[owner].state_dict())
    warnings.warn(
        f"{adapter_name!r} has the head of {owner!r}: what is trained in full cannot be combined. Put the adapter "
        "first whose head you want.",
        stacklevel=4,
    )
