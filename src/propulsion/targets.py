"""Which layers `target_modules` stands for: presets, checks that every entry matches, and layer numbers.

| Preset | Stands for |
|---|---|
| `attn` | queries, keys and values, of cross-attention too (the paper's K + Q + V); the fused layer if they are one |
| `query`, `key`, `value` | one of them; refused where they are fused |
| `mlp` | every linear of the feed-forward parts |
| `embedding` | every embedding of the input layer: words, positions, token types; a vision model's patch projection |
| `all` | every embedding of the input layer and every linear of the blocks, encoder and decoder |

LayerNorms and heads (classifier, pooler, lm_head, ...) belong to none of them: heads are trained in full, through
`modules_to_save`. The paper counts one trainable number per output dimension of each of these layers, and for `all`,
but not for `attn`, adds the output dimensions of the head's linears: 85,248 + 768 + 2 = 86,018 for RoBERTa-base with
two labels.

`encoder.embed_tokens` and `decoder.embed_tokens` are steered in T5 and BART, not `shared`, which only owns the matrix.
In a mixture of experts, `mlp` and `all` stand for the experts too, but never for the router. What else is left out, and
why, is told in `propulsion.architectures`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from propulsion.advice import endings_of_linears, listed, on_entry, on_pattern, what_there_is
from propulsion.architectures import ARCHITECTURES, Architecture
from propulsion.errors import TargetError, near_misses
from propulsion.upstream.torch_private import shallow_copy
from propulsion.upstream.transformers_private import is_own_code

PRESETS: tuple[str, ...] = ("all", "attn", "mlp", "embedding", "query", "key", "value")
ALL_LINEAR = "all-linear"


def is_preset(target_modules: Any) -> bool:
    """Whether `target_modules` is the name of a preset, not a pattern or a list."""
    return isinstance(target_modules, str) and target_modules in PRESETS


def resolve_preset(model: nn.Module, preset: str, experts: bool = False) -> list[str]:
    """The full names of the modules that a preset stands for.

    Args:
        model: A model of transformers, bare or with a head, steered already or not.
        preset: One of `PRESETS`.
        experts: Whether modules with stacked experts are wanted as well, which are no layers of torch's.

    Returns:
        Names as in `model.named_modules()`, in its order. A module that sits at several places is named at each place
        that computes, see `give_each_its_own`.

    Raises:
        TargetError: The preset or the architecture is unknown, or the model has no such layers; says what to pass.
    """
    if not is_preset(preset):
        raise TargetError(f"There is no preset {preset!r}, only {listed(PRESETS)}.{near_misses(preset, PRESETS)}")
    architecture = architecture_of(model)
    if architecture is None:
        raise TargetError(f"{_unknown_architecture(model, preset)} {_advice(model)}")
    if preset in ("query", "key", "value") and architecture.fused and not architecture.endings(preset):
        raise TargetError(
            f"There is no {preset!r} on its own in a {type(model).__name__}: its {architecture.fused[0]!r} computes "
            "queries, keys and values together. Use target_modules='attn'."
        )
    _refuse_bypassed_layers(model)
    kinds = [preset, "experts"] if experts and preset in ("all", "mlp") else [preset]
    names = [
        name
        for name, _ in model.named_modules(remove_duplicate=False)
        if any(architecture.matches(name, kind) for kind in kinds)
    ]
    if not names:
        raise TargetError(f"This {type(model).__name__} has no layers for the preset {preset!r}. {_advice(model)}")
    return names


def is_stack(model: nn.Module, name: str) -> bool:
    """Whether a module is where the model's architecture keeps stacked experts."""
    architecture = architecture_of(model)
    return architecture is not None and architecture.matches(name, "experts")


def give_each_its_own(model: nn.Module, names: Iterable[str]) -> None:
    """Let every named module be an object of its own, so that replacing one replaces no other; weights stay shared.

    After `resize_token_embeddings` transformers leaves one module at `shared`, `encoder.embed_tokens` and
    `decoder.embed_tokens`, of which `named_modules()` tells only the first name.
    """
    first_names = {name for name, _ in model.named_modules()}
    for name in names:
        if name in first_names:
            continue
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, shallow_copy(model.get_submodule(name)))


def missing_entries(module_names: Iterable[str], targets: Iterable[str]) -> list[str]:
    """The entries of a list of target modules that match no module, neither whole nor as the end after a dot."""
    endings = {ending for name in module_names for ending in _endings(name)}
    return [target for target in targets if target not in endings]


def check_every_entry_matches(
    modules: Mapping[str, nn.Module] | Iterable[str], target_modules: str | Iterable[str]
) -> None:
    """Refuse target modules of which an entry matches nothing, which PEFT lets pass if another entry matches.

    Args:
        modules: All modules of the model by name, or the names in `model.named_modules()`.
        target_modules: A list of names, each matching whole or as the end after a dot; or a regular expression that
            has to match a whole name.

    Raises:
        TargetError: Names the entry and its near misses, or says what is wrong with the expression.
    """
    names = [name for name in modules if name]
    there = what_there_is(modules) if isinstance(modules, Mapping) else ""
    if isinstance(target_modules, str):
        _check_pattern_matches(names, target_modules, there)
        return
    target_modules = list(target_modules)
    if not target_modules:
        raise TargetError(f"target_modules is empty. Name at least one module, or a preset: {listed(PRESETS)}.")
    missing = missing_entries(names, target_modules)
    if missing:
        refusals = [
            f"The entry {entry!r} of target_modules matches no module.{on_entry(entry, names, (*PRESETS, ALL_LINEAR))}"
            for entry in sorted(missing)
        ]
        raise TargetError(" ".join(refusals) + there)


def layer_index(name: str, layers_pattern: str | list[str] | None) -> int | None:
    """The number of the layer that a module lies in, by PEFT's rule for `layers_to_transform`.

    Args:
        name: The module's full name.
        layers_pattern: The name, or names, of the list of layers; None or empty for any.
    """
    if not layers_pattern:
        rules = [r".*?\.[^.]*\.(?P<idx>\d+)\."]
    else:
        patterns = [layers_pattern] if isinstance(layers_pattern, str) else layers_pattern
        rules = [rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\." for pattern in patterns]
    match = next(filter(None, (re.match(rule, name) for rule in rules)), None)
    return int(match["idx"]) if match else None


def leaves_outputs_alone(model: nn.Module, name: str) -> bool:
    """Whether a layer's fresh output may be overwritten with the steered one, and kept for the backward.

    It may where the layer's output is memory of its own (not a view of the weight) and the model's code never changes
    it in place afterwards. Only what has been verified counts: layers of the preset `all` of the supported
    architectures, called by transformers' own code.

    Args:
        model: The model.
        name: The layer's full name, as in `model.named_modules()` before it was wrapped.
    """
    architecture = architecture_of(model)
    if architecture is None or not architecture.matches(name, "all") or architecture.matches(name, "not_in_place"):
        return False
    return is_own_code(model.get_submodule(name.rpartition(".")[0]))


def architecture_of(model: nn.Module) -> Architecture | None:
    """The entry for the model, or for the language model inside of it."""
    config = getattr(model, "config", None)
    # A model with a tower for images has a type of its own, and its language model's in here.
    for part in (config, _read(config, "text_config")):
        if (architecture := ARCHITECTURES.get(_read(part, "model_type"))) is not None:
            return architecture
    return None


def _read(config: Any, field: str) -> Any:
    return config.get(field) if isinstance(config, dict) else getattr(config, field, None)


def _refuse_bypassed_layers(model: nn.Module) -> None:
    config = getattr(model, "config", None)
    if _read(config, "slow_but_exact") and (_read(config, "pretraining_tp") or 1) > 1:
        raise TargetError(
            "With slow_but_exact=True and pretraining_tp > 1, BLOOM multiplies with slices of the weights itself and "
            "never calls these layers, so they cannot be steered. Load the model with slow_but_exact=False."
        )


def _check_pattern_matches(module_names: list[str], pattern: str, there: str) -> None:
    if pattern == ALL_LINEAR:
        return
    try:
        matches = any(re.fullmatch(pattern, name) for name in module_names)
    except re.error as error:
        raise TargetError(f"target_modules={pattern!r} is not a regular expression: {error}.") from error
    if not matches:
        raise TargetError(
            f"target_modules={pattern!r} matches no module. A string is a preset ({listed(PRESETS)}), {ALL_LINEAR!r} "
            "or a regular expression for whole names; the ends of names go into a list."
            f"{on_pattern(pattern, module_names, (*PRESETS, ALL_LINEAR))}{there}"
        )


def _unknown_architecture(model: nn.Module, preset: str) -> str:
    model_type = _read(getattr(model, "config", None), "model_type")
    what = f"an architecture {model_type!r}" if model_type else f"a {type(model).__name__}, which has no model_type"
    return f"The preset {preset!r} is not known for {what}."


def _advice(model: nn.Module) -> str:
    names = endings_of_linears(dict(model.named_modules()))
    if not names:
        return "Pass target_modules with the names of the layers to steer."
    return f"Pass target_modules={ALL_LINEAR!r}, or a list; its linear layers end in {listed(names[:12], 'and')}."


def _endings(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[start:]) for start in range(len(parts)))
