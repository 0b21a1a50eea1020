"""Where each way to begin puts z = 1 + δ."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from propulsion import PropulsionConfig
from propulsion.initialization import NORMAL_STD, RANDOM_GAIN_STD, initial_delta

SIZE = 4096
EXACT = {"ones": 1.0, "zeros": 0.0}
SPREAD = {  # mean and deviation of z
    "normal": (1.0, NORMAL_STD),
    "uniform": (0.5, 12**-0.5),
    "xavier": (0.0, (2 / (2 + SIZE)) ** 0.5),
}


def z(degree: tuple[int, ...] = (1, 15), **fields: Any) -> Tensor:
    torch.manual_seed(0)
    config = PropulsionConfig(num_vectors=2, degree=list(degree), **fields)
    return 1 + initial_delta(SIZE, config, degree)


@pytest.mark.parametrize("name", EXACT)
def test_constants_are_exact(name: str) -> None:
    assert torch.equal(z(init_weights=name), torch.full((2, SIZE), EXACT[name]))


@pytest.mark.parametrize("name", SPREAD)
def test_random_starts_have_the_mean_and_spread_of_their_distribution(name: str) -> None:
    mean, std = SPREAD[name]
    for row in z(init_weights=name):
        assert abs(float(row.mean()) - mean) < 5 * std / SIZE**0.5
        assert float(row.std()) == pytest.approx(std, rel=0.06)


def test_a_random_start_spreads_the_gains_alike_whatever_the_degree() -> None:
    degree = (1, 15)
    start = z(degree, init_weights=False)
    for row, k in zip(start, degree, strict=True):
        assert float(k * (row - 1).std()) == pytest.approx(RANDOM_GAIN_STD, rel=0.06)
    assert torch.equal(z((0, 1), init_weights=False)[0], z((1, 0), init_weights=False)[0])


def test_noise_is_added_to_where_it_begins() -> None:
    for row in z(init_weights="ones", init_noise=0.01):
        assert float((row - 1).std()) == pytest.approx(0.01, rel=0.06)
