"""Laws of kernel regression: it finds what the kernel can say, and refuses to choose from too little."""

from __future__ import annotations

import numpy as np
import pytest

from propulsion_tools.errors import DataError
from propulsion_tools.theory.kernel_regression import FOLDS, kernel_regression, one_hot


def test_a_linear_function_of_the_features_is_found() -> None:
    draw = np.random.default_rng(0)
    features, weights = draw.normal(size=(80, 6)), draw.normal(size=(6, 2))
    train, test = features[:60], features[60:]
    predictions, ridge = kernel_regression(train @ train.T, test @ train.T, train @ weights + 3)
    np.testing.assert_allclose(predictions, test @ weights + 3, atol=0.02)
    assert ridge <= 1e-3


def test_noise_gets_a_strong_ridge() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(60, 30))
    _, ridge = kernel_regression(features @ features.T, features @ features.T, draw.normal(size=(60, 1)))
    assert ridge >= 1


def test_scale_does_not_matter() -> None:
    draw = np.random.default_rng(0)
    features, targets = draw.normal(size=(40, 5)), draw.normal(size=(40, 1))
    small, large = (kernel_regression(s * features @ features.T, s * features @ features.T, targets) for s in (1, 1e6))
    np.testing.assert_allclose(small[0], large[0], rtol=1e-6)


def test_targets_of_classes() -> None:
    assert one_hot(np.array([1.0, 0.0]), 3).tolist() == [[-1, 1, -1], [1, -1, -1]]


def test_too_few_samples_are_refused() -> None:
    few = np.eye(FOLDS - 1)
    with pytest.raises(DataError, match=str(FOLDS)):
        kernel_regression(few, few, np.ones((len(few), 1)))
