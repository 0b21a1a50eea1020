"""Every method's name, and the module of this package that registers it. Nothing is imported to know a name."""

from __future__ import annotations

from collections.abc import Collection

from propulsion_tools.errors import check_name

METHOD_MODULES = {
    "adalora": "adalora",
    "adapter": "bottleneck",
    "bitfit": "bitfit",
    "deltalora": "deltalora",
    "dylora": "dylora",
    "full": "full",
    "head": "head_only",
    "ia3": "ia3",
    "increlora": "increlora",
    "intrinsic-said": "intrinsic_said",
    "kernel-mix": "kernel_mix",
    "krona": "kronecker",
    "loftq": "quantized",
    "loha": "kronecker",
    "lokr": "kronecker",
    "lora": "lora",
    "lora-fa": "lora_fa",
    "lora-r1": "lora",
    "lora-r2": "lora",
    "loraprune": "loraprune",
    "mam": "mam",
    "p-tuning": "prompt_tuning",
    "parallel-adapter": "bottleneck",
    "prefix-tuning": "prefix_tuning",
    "prompt-tuning": "prompt_tuning",
    "propetl-adapter": "propetl",
    "propetl-lora": "propetl",
    "propetl-prefix": "propetl",
    "propulsion": "propulsion",
    "propulsion-all": "propulsion",
    "propulsion-attn": "propulsion",
    "propulsion-embedding": "propulsion",
    "propulsion-key": "propulsion",
    "propulsion-mlp": "propulsion",
    "propulsion-query": "propulsion",
    "propulsion-value": "propulsion",
    "qa-lora": "quantized",
    "qlora": "quantized",
}


def check_method_name(name: str, known: Collection[str] = METHOD_MODULES.keys()) -> None:
    """Refuse the name of a method that there is not.

    Raises:
        UnknownNameError: It is not `known`; names the near misses.
    """
    check_name("method", name, sorted(known))
