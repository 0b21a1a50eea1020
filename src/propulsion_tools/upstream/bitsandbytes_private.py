"""What bitsandbytes does to the weights of its layers on a CPU, and keeps to itself."""

from __future__ import annotations

from torch import nn

_REPACKS = "support_avx512bf16_for_cpu"


def keep_packing(model: nn.Module) -> None:
    """Let 4-bit layers keep their weights as they were loaded.

    On a CPU with bfloat16 instructions their first forward pass in eval mode repacks them (0.50), for a product that
    has no gradient for its input, adds the bias in place and cannot be of layers with fewer inputs than a block has.
    """
    for module in model.modules():
        if hasattr(module, _REPACKS):
            setattr(module, _REPACKS, False)
