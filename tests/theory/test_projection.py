"""Laws of the bound: random matrices obey it, one that drops dimensions does not, a turned basis changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from propulsion_tools.errors import GradientError
from propulsion_tools.theory.gradients import split_rows
from propulsion_tools.theory.projection import (
    EPSILONS,
    bound,
    distortion,
    frequency,
    layer_inputs,
    random_distortions,
)
from propulsion_tools.theory.readout import make_readout
from tests.tiny_models import LABELS, tiny_inputs, tiny_model

VECTORS = torch.randn(60, 48, generator=torch.Generator().manual_seed(1))


def test_random_matrices_obey_the_bound_and_wider_ones_do_better() -> None:
    found = random_distortions(VECTORS, seed=0, widths=(64, 512, 4096))
    for item in found:
        assert (frequency(item.raw, EPSILONS) <= bound(EPSILONS, item.width)).all()
    medians = [float(np.median(item.raw)) for item in found]
    assert medians == sorted(medians, reverse=True)
    assert medians[0] / medians[2] == pytest.approx(8, rel=0.3)  # errors fall with the root of the width


def test_a_matrix_that_keeps_one_dimension_breaks_the_bound() -> None:
    weight = torch.zeros(512, 48)
    weight[0, 0] = 1
    found = distortion("flat", weight, VECTORS)
    assert (frequency(found.scaled, EPSILONS) > bound(EPSILONS, 512)).any()


def test_a_rotation_keeps_inner_products_and_the_best_scale_undoes_a_factor() -> None:
    rotation, _ = torch.linalg.qr(torch.randn(48, 48, dtype=torch.float64))
    assert distortion("turned", rotation, VECTORS).raw.max() < 1e-12
    grown = distortion("grown", 3 * rotation, VECTORS)
    assert grown.raw.max() > 0.1
    assert grown.scaled.max() < 1e-12


def test_the_bound_says_nothing_at_one_and_most_at_two_thirds() -> None:
    values = bound(np.linspace(0, 1, 301), 4096)
    assert (values[0], values[-1]) == (1, 1)
    assert values.argmin() == 200
    np.testing.assert_allclose(frequency(np.array([0.1, 0.2]), np.array([0.1, 0.15, 0.3])), [1, 0.5, 0])


@pytest.mark.parametrize(("name", "ending"), [("roberta", "query.weight"), ("gpt2", "c_fc.weight")])
def test_inputs_are_those_of_the_layer(name: str, ending: str) -> None:
    model, rows = tiny_model(name), split_rows([tiny_inputs(name)])
    names = [key for key, _ in model.named_parameters() if key.endswith(ending)]
    found = layer_inputs(model, rows, make_readout("sum", LABELS), names, count=9)
    assert list(found) == names
    for key, (weight, vectors) in found.items():
        assert vectors.shape == (9, weight.shape[1])
        module = model.get_submodule(key.removesuffix(".weight"))
        torch.testing.assert_close(module(vectors), vectors @ weight.T + module.bias)


def test_a_model_without_linear_targets_is_refused() -> None:
    model, rows = tiny_model("roberta"), split_rows([tiny_inputs("roberta")])
    with pytest.raises(GradientError, match="linear"):
        layer_inputs(model, rows, make_readout("sum", LABELS), ["roberta.embeddings.word_embeddings.weight"], 4)
