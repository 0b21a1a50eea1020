"""Where z starts (appendix F, figure 8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from propulsion.config import PropulsionConfig

NORMAL_STD = 0.02  # of z around 1 with init_weights="normal"; the paper gives none
RANDOM_GAIN_STD = 0.3  # of z^k around 1, to first order, with init_weights=False


def initial_delta(size: int, config: PropulsionConfig, degree: Sequence[int]) -> Tensor:
    """δ = z - 1 at the start.

    Args:
        size: d_out.
        config: Its `init_weights` and `init_noise` say how.
        degree: k for each of the p vectors.

    Returns:
        Shape (p, size), float32.
    """
    delta = torch.zeros(config.num_vectors, size)
    match config.init_weights:
        case "zeros":
            delta -= 1
        case "normal":
            delta.normal_(std=NORMAL_STD)
        case "uniform":
            delta.uniform_(-1, 0)
        case "xavier":
            nn.init.xavier_uniform_(delta)
            delta -= 1
        case False:
            delta.normal_().mul_(RANDOM_GAIN_STD / torch.tensor([max(1, k) for k in degree]).unsqueeze(-1))
    if config.init_noise:
        delta += torch.randn_like(delta) * config.init_noise
    return delta
