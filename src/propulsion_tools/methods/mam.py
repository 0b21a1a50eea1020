"""MAM adapter: a prefix in each attention, a bottleneck beside each feed-forward part (He et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from propulsion_tools.methods.attach import attached_method, check_options
from propulsion_tools.methods.bottleneck import attach_parallel
from propulsion_tools.methods.layer_prefix import Prefix, attach_prefix
from propulsion_tools.methods.registry import HasTaskType
from propulsion_tools.records import RunSpec


@dataclass(frozen=True)
class Options:
    """Raises `OptionError` for what is out of range."""

    num_virtual_tokens: int = 30
    """Length of the prefix."""
    bottleneck: int | None = None
    """Width in the middle of the bottleneck; None: two thirds of the hidden size, 512 of 768 as in the original."""
    scale: float = 4.0
    """s, what the bottleneck's output is multiplied with."""

    def __post_init__(self) -> None:
        check_options(self, "mam")


def attach_to(model: PreTrainedModel, spec: RunSpec, task: HasTaskType, options: Options) -> None:
    """Both parts.

    Raises:
        OptionError: The prefix does not fit.
        TargetError: The architecture is unknown.
    """
    attach_parallel(model, options.bottleneck, options.scale)
    attach_prefix(model, spec, task, options.num_virtual_tokens, Prefix)


METHOD = attached_method(
    name="mam",
    description="a prefix in the attention, a bottleneck beside the feed-forward",
    options_class=Options,
    attach_to=attach_to,
    learning_rate=1e-3,
    delta="ΔW = 0; prefix-tuning and parallel-adapter together",
)
