"""Propulsion: the outputs of frozen layers times trained vectors, V' = V ⊙ z^k."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from peft import get_peft_model
from torch import nn
from transformers import PreTrainedModel

from propulsion import PropulsionConfig
from propulsion.targets import PRESETS
from propulsion_tools.errors import OptionError
from propulsion_tools.methods.head_training import HEAD_LEARNING_RATE, modules_to_save
from propulsion_tools.methods.registry import Cost, HasTaskType, Method, register
from propulsion_tools.records import RunSpec


def build(base_model: PreTrainedModel, spec: RunSpec, task: HasTaskType) -> nn.Module:
    """Steer the outputs of the target modules; train the whole head.

    Raises:
        OptionError: A field of the method is wrong.
        TargetError: The target modules match nothing.
    """
    config = PropulsionConfig(
        task_type=task.peft_task_type,
        target_modules=_listed(spec.target_modules) or "all",
        exclude_modules=_listed(spec.exclude_modules),
        degree=list(spec.degree) if isinstance(spec.degree, tuple) else spec.degree,
        degree_pattern=spec.degree_pattern or {},
        num_vectors=spec.num_vectors,
        pooling=spec.pooling,
        init_weights=spec.init_weights,
        init_noise=spec.init_noise,
        train_bias=spec.train_bias,
        modules_to_save=modules_to_save(base_model, spec.modules_to_save),
        layers_to_transform=_listed(spec.layers_to_transform),
        **(spec.method_args or {}),
    )
    return get_peft_model(base_model, config)


def build_preset(preset: str, base_model: PreTrainedModel, spec: RunSpec, task: HasTaskType) -> nn.Module:
    """Steer what a preset stands for.

    Raises:
        OptionError: The spec names other targets.
    """
    if spec.target_modules not in (None, preset):
        raise OptionError(
            f"{spec.method} steers the preset {preset!r}, and not {spec.target_modules!r}: choose --method propulsion."
        )
    return build(base_model, replace(spec, target_modules=preset), task)


def learning_rate(spec: RunSpec) -> float:
    """0.015 / k: a step in z moves the gain z^k about k times as far, so the two trade off."""
    degrees = spec.degree if isinstance(spec.degree, tuple) else (spec.degree,)
    return 0.015 / max(1, *degrees)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


METHOD = register(
    Method(
        name="propulsion",
        description="outputs of frozen layers times trained vectors, z^k",
        build=build,
        learning_rate=learning_rate,
        head_learning_rate=HEAD_LEARNING_RATE,
        adam_beta1=0.0,  # docs/results.md, "Momentum"
        delta="ΔW = W ⊙ Z, W frozen",
        cost=Cost("O(d)", "O(d)", "d"),
        config_class=PropulsionConfig,
        family="propulsion",
    )
)
VARIANTS = tuple(
    register(
        replace(
            METHOD,
            name=f"propulsion-{preset}",
            description=f"propulsion on the preset {preset!r}",
            build=partial(build_preset, preset),
        )
    )
    for preset in PRESETS
)
