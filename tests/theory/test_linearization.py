"""Laws of the expansion: a linear model follows it exactly, another to second order, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from propulsion_tools.errors import NotFiniteError
from propulsion_tools.theory.gradients import split_rows
from propulsion_tools.theory.jacobian_figure import draw_jacobian
from propulsion_tools.theory.linearization import Departure, Linearization, outputs
from propulsion_tools.theory.readout import make_readout
from tests.tiny_models import LABELS, tiny_inputs, tiny_model

READOUT = make_readout("classes", LABELS)


def move(model: nn.Module, names: list[str], size: float) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in names:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=size)


def departures(names_end: str, sizes: tuple[float, ...]) -> list[Departure]:
    found = []
    for size in sizes:
        model = tiny_model("roberta").double()
        names = [name for name, _ in model.named_parameters() if name.endswith(names_end)]
        expansion = Linearization(model, split_rows([tiny_inputs("roberta")]), READOUT, names)
        move(model, names, size)
        found.append(expansion.depart(model, 1))
    return found


def test_outputs_are_linear_in_the_last_layer() -> None:
    (found,) = departures("out_proj.weight", (1.0,))
    assert found.change > 1
    assert found.relative < 1e-12


def test_the_error_falls_with_the_square_of_the_step() -> None:
    large, small = departures("query.weight", (1e-2, 1e-3))
    assert large.error / small.error == pytest.approx(100, rel=0.2)
    assert large.change / small.change == pytest.approx(10, rel=0.2)


def test_the_start_has_no_error_and_no_share() -> None:
    (found,) = departures("query.weight", (0.0,))
    assert (found.moved, found.change, found.error) == (0, 0, 0)
    assert np.isnan(found.relative)


def test_looking_leaves_the_mode_of_each_module() -> None:
    model = tiny_model("roberta")
    model.classifier.train()
    before = [module.training for module in model.modules()]
    outputs(model, split_rows([tiny_inputs("roberta")]), READOUT)
    assert [module.training for module in model.modules()] == before


def test_an_output_that_is_not_finite_is_refused() -> None:
    model = tiny_model("roberta")
    expansion = Linearization(model, split_rows([tiny_inputs("roberta")]), READOUT, ["classifier.out_proj.bias"])
    with torch.no_grad():
        model.classifier.out_proj.bias[0] = torch.inf
    with pytest.raises(NotFiniteError, match="step 4"):
        expansion.depart(model, 4)


def test_the_figure_is_drawn() -> None:
    values = np.random.default_rng(0).normal(size=(6, 500))
    steps = [Departure(step, 0.1 * step, 1.0 * step, 0.2 * step) for step in (1, 2)]
    places = ["query"] * 250 + ["mlp"] * 250
    assert draw_jacobian(values, 2 * values, steps, places, 1, "title", "png").startswith(b"\x89PNG")
