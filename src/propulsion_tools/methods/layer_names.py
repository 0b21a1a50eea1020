"""Which layers of a model a method changes, by full name."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

from peft import LoraConfig
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from propulsion.architectures import Architecture
from propulsion.errors import TargetError
from propulsion.heads import head_modules
from propulsion.targets import (
    ALL_LINEAR,
    architecture_of,
    check_every_entry_matches,
    is_preset,
    layer_index,
    resolve_preset,
)
from propulsion.upstream.peft_private import name_all_linear
from propulsion_tools.records import RunSpec

QUERY_VALUE = ("query", "value")


def target_names(model: PreTrainedModel, spec: RunSpec, default: tuple[str, ...] = QUERY_VALUE) -> list[str]:
    """The full names of the modules that a method changes; never those of the head, all of which is trained.

    Args:
        model: The base model.
        spec: Its `target_modules`, `exclude_modules` and `layers_to_transform`, with the meaning they have in PEFT.
        default: The presets that stand for `target_modules=None`. Where queries, keys and values are fused, the fused
            layer stands for any of them.

    Raises:
        TargetError: Nothing matches, or one entry matches nothing.
    """
    heads = head_modules(model)
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name.split(".")[0] not in heads]
    if spec.target_modules is None:
        matching = _of_presets(model, default)
    elif is_preset(spec.target_modules):
        matching = set(resolve_preset(model, str(spec.target_modules)))
        _warn_of_experts(model, str(spec.target_modules))
    elif spec.target_modules == ALL_LINEAR:
        of_peft = LoraConfig(target_modules=ALL_LINEAR)
        name_all_linear(of_peft, model)
        matching = set(of_peft.target_modules or ())
    else:
        check_every_entry_matches(names, spec.target_modules)
        matching = {name for name in names if _matches(name, spec.target_modules)}
    chosen = [
        name for name in names if name in matching and not _matches(name, spec.exclude_modules) and _in(name, spec)
    ]
    if not chosen:
        raise TargetError(
            f"target_modules={spec.target_modules!r} leaves no module of this {type(model).__name__}: look at "
            "exclude_modules and layers_to_transform."
        )
    return chosen


def linear_names(model: PreTrainedModel, spec: RunSpec, default: tuple[str, ...] = QUERY_VALUE) -> list[str]:
    """`target_names`, of which only linear layers are kept.

    Raises:
        TargetError: There are none.
    """
    names = target_names(model, spec, default)
    linears = [name for name in names if isinstance(model.get_submodule(name), nn.Linear | Conv1D)]
    if not linears:
        raise TargetError(f"target_modules={spec.target_modules!r} names no linear layer, which this method needs.")
    return linears


def _warn_of_experts(model: PreTrainedModel, preset: str) -> None:
    architecture = architecture_of(model)
    experts = _ends(model, architecture, architecture.experts) if architecture is not None else []
    if experts and preset in ("all", "mlp"):
        warnings.warn(
            f"{experts[0]} and its like are stacked experts, which only Propulsion steers: this method leaves them as "
            "they are.",
            stacklevel=3,
        )


def _of_presets(model: PreTrainedModel, presets: tuple[str, ...]) -> set[str]:
    architecture = architecture_of(model)
    if architecture is not None and architecture.fused:
        presets = tuple("attn" if preset in ("query", "key", "value") else preset for preset in presets)
    if architecture is not None and not architecture.mlp:  # all of it is in experts
        presets = tuple(preset for preset in presets if preset != "mlp")
    return {name for preset in presets for name in resolve_preset(model, preset)}


def _matches(name: str, wanted: str | tuple[str, ...] | None) -> bool:
    if wanted is None:
        return False
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == entry or name.endswith(f".{entry}") for entry in wanted)


def _in(name: str, spec: RunSpec) -> bool:
    if spec.layers_to_transform is None:
        return True
    wanted = spec.layers_to_transform
    return layer_index(name, None) in (wanted if isinstance(wanted, tuple) else (wanted,))


def feed_forward(model: PreTrainedModel) -> list[tuple[str, str]]:
    """The first and the last linear of each feed-forward part.

    Raises:
        TargetError: The architecture is unknown, or has no such linears.
    """
    architecture = _known(model)
    if _ends(model, architecture, architecture.experts):
        raise TargetError(
            f"This {type(model).__name__} has its feed-forward parts in stacked experts, between which this method "
            "cannot be put."
        )
    first, last = (_ends(model, architecture, entries) for entries in (architecture.mlp[:1], architecture.mlp[-1:]))
    of_block = {block_of(name): name for name in reversed(first)}
    pairs = [(of_block[block_of(name)], name) for name in last if block_of(name) in of_block]
    if not pairs:
        raise TargetError(f"This {type(model).__name__} has no feed-forward parts that this method knows.")
    return pairs


def feed_forward_outputs(model: PreTrainedModel) -> list[str]:
    """The last linear of each feed-forward part, but for those in stacked experts; none if they are not known."""
    architecture = architecture_of(model)
    if architecture is None or not architecture.mlp:
        return []
    last = architecture.mlp[-1]
    leaf = last.rpartition(".")[2]  # dense parts and shared experts have several lasts, of one name
    lasts = [entry for entry in architecture.mlp if entry.endswith(f".{leaf}")] if architecture.experts else [last]
    return _ends(model, architecture, tuple(lasts))


def attention_outputs(model: PreTrainedModel) -> list[str]:
    """The projections after each attention.

    Raises:
        TargetError: The architecture is unknown.
    """
    architecture = _known(model)
    return _ends(model, architecture, architecture.attention_output)


def before_residual(model: PreTrainedModel, linear: str) -> str:
    """Where the output of a sublayer that ends in `linear` is added to its input: after its dropout if it has one."""
    parent, _, name = linear.rpartition(".")
    children = dict(model.get_submodule(parent).named_children())
    after = "resid_dropout" if "resid_dropout" in children else "dropout" if name == "dense" else ""
    return f"{parent}.{after}" if after in children else linear


def block_of(name: str) -> str:
    """The name of the block that a module lies in."""
    match = re.match(r".*?\.\d+(?=\.)", name)
    return match[0] if match else ""


def _known(model: PreTrainedModel) -> Architecture:
    architecture = architecture_of(model)
    if architecture is None:
        raise TargetError(
            f"The sublayers of a {type(model).__name__} are not known, so this method cannot be put between them."
        )
    return architecture


def _ends(model: PreTrainedModel, architecture: Architecture, entries: tuple[str, ...]) -> list[str]:
    only = replace(architecture, mlp=entries)
    return [name for name, _ in model.named_modules() if only.matches(name, "mlp")]
