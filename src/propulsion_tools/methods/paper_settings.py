"""How the rows of the paper's tables come about: our method, its settings, and what the paper counts. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Setting:
    """How a row of the paper comes about.

    Args:
        method: Our name.
        counted: What the paper counts: ``trainable`` (adapter and head), ``adapter``, or ``outputs`` (adapter, and the
            output dimensions of the head's linears).
        spec: Fields of the spec that differ from their defaults.
        why_not: Why the paper's number cannot be reached, where that is known.
    """

    method: str
    counted: str = "trainable"
    spec: Mapping[str, Any] = field(default_factory=dict)
    why_not: str = ""


QKV = {"target_modules": "attn"}
TABLE_1 = {
    "FT": Setting("full"),
    "Adapter S": Setting("adapter", "adapter"),
    "Prompt tuning": Setting("prompt-tuning"),
    "Prefix-tuning": Setting("prefix-tuning"),
    "(IA) 3": Setting("ia3"),
    "BitFit": Setting("bitfit", "adapter", why_not="the paper repeats the number of Propulsion(All)"),
    "LoRA": Setting("lora"),
    "AdaLoRA": Setting("adalora"),
    "MAM Adapter": Setting("mam", why_not="no setting that we know gives it"),
    "PROPETL Adapter": Setting("propetl-adapter"),
    "PROPETL LoRA": Setting("propetl-lora", why_not="no setting that we know gives it"),
    "PROPETL Prefix": Setting("propetl-prefix", why_not="no setting that we know gives it"),
    "Propulsion(All)": Setting("propulsion-all", "outputs"),
    "Propulsion(Attn)": Setting("propulsion-attn", "adapter"),
}
TABLE_2 = {
    "FT": Setting("full"),
    "Prompt tuning": Setting("prompt-tuning", "adapter", why_not="no number of tokens gives it"),
    "Prefix-tuning": Setting("prefix-tuning", "adapter", why_not="no number of tokens gives it"),
    "BitFit": Setting("bitfit", "adapter", why_not="the model has other biases"),
    "LoRA": Setting("lora", "adapter", QKV),
    "AdaLoRA": Setting("adalora", "adapter", QKV),
    "LoHa": Setting("loha", "adapter", QKV),
    "LoKr": Setting("lokr", "adapter", QKV | {"method_args": {"r": 12}}),
    "Propulsion(All)": Setting("propulsion-all", "outputs"),
    "Propulsion(Attn)": Setting("propulsion-attn", "adapter"),
}
ONE_MODEL = {
    ("bart-large", "LoHa"): Setting("loha", "adapter", QKV | {"method_args": {"r": 4}}),
    ("bart-large", "Prompt tuning"): Setting("prompt-tuning", "adapter", {"method_args": {"num_virtual_tokens": 512}}),
}
TABLE_5 = {
    f"Propulsion[{label}]": Setting(f"propulsion-{preset}", "outputs" if preset == "all" else "adapter")
    for label, preset in {
        **{name.capitalize(): name for name in ("all", "embedding", "key", "query", "value")},
        "MLP": "mlp",
        "K+Q+V": "attn",
    }.items()
}
SETTINGS = {"1": TABLE_1, "2": TABLE_2, "5": TABLE_5}


def paper_setting(model: str, table: str, label: str) -> Setting | None:
    """How a row of the paper's tables 1, 2 and 5 comes about, by the paper's label of its method; None for others."""
    plain = plain_label(label)
    plain = {"Bitfit": "BitFit", "Prompt-tuning": "Prompt tuning"}.get(plain, plain)
    return ONE_MODEL.get((model, plain)) or SETTINGS.get(table, {}).get(plain)


def plain_label(label: str) -> str:
    """A label of the paper's without its mark-up."""
    return re.sub(r"\s*</?sup>\s*", " ", label).strip()
