"""Places in PEFT that are not documented, and texts of its warnings, that the tools need."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# Of transformers, when PEFT asks a model by an old name; nothing that a user could change.
OLD_NAME_WARNING = ".*is_gradient_checkpointing.*"


def hide_harmless_warnings() -> None:
    """From now on, no warning of what PEFT and transformers have to settle between them."""
    warnings.filterwarnings("ignore", message=OLD_NAME_WARNING, category=FutureWarning)


# Of PEFT about defaults of its own that it goes on to correct. A text is all that tells a warning from others.
_OWN_DEFAULTS = (".*`r` is not used in AdaLora.*", "fan_in_fan_out is set to False.*")


@contextmanager
def quiet_about_defaults() -> Iterator[None]:
    """Without PEFT's warnings of defaults that it corrects itself."""
    with warnings.catch_warnings():
        for text in _OWN_DEFAULTS:
            warnings.filterwarnings("ignore", message=text)
        yield


def rank_allocator(model: Any) -> Any:
    """What moves AdaLoRA's ranks: has `exp_avg_ipt`, `exp_avg_unc`, `ipt`, `peft_config`, `mask_using_rank_pattern`.

    Public is only `update_and_allocate` of the model, which resizes what is saved.
    """
    return model.base_model.rankallocator


def prompt_encoder(model: Any) -> Any:
    """The network that makes the active adapter's virtual tokens; PEFT saves the tokens, and gives only them."""
    return model.prompt_encoder[model.active_adapter]


def ia3_targets(model_type: str) -> bool:
    """Whether PEFT knows which layers (IA)³ is for in this architecture."""
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING

    return model_type in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING


def ia3_feed_forward(model_type: str) -> tuple[str, ...]:
    """How the names end of the layers whose inputs PEFT's (IA)³ scales in this architecture; none if it is unknown."""
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING

    endings: Mapping[str, list[str]] = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
    return tuple(endings.get(model_type, ()))
