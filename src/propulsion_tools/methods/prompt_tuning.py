"""Trained tokens before the text: prompt tuning (Lester et al., 2021) and P-tuning (Liu et al., 2021)."""

from __future__ import annotations

from peft import PromptEncoderConfig, PromptTuningConfig

from propulsion_tools.methods.registry import Cost
from propulsion_tools.methods.virtual_tokens import virtual_token_method

PROMPT_TUNING = virtual_token_method(
    name="prompt-tuning",
    description="trained tokens before the text",
    config_class=PromptTuningConfig,
    learning_rate=1e-2,
    delta="ΔW = 0; x ← [P; x]",
    cost=Cost("O(d × l_p)", "O(d × l_p)", "l_p · d"),
)
P_TUNING = virtual_token_method(
    name="p-tuning",
    description="tokens before the text, made by a trained network",
    config_class=PromptEncoderConfig,
    learning_rate=1e-3,
    delta="ΔW = 0; x ← [MLP(P); x]",
)
