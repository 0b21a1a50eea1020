"""Kernel ridge regression with a tangent kernel: what training would give if the model stayed linear (appendix C)."""

from __future__ import annotations

import numpy as np
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV

from propulsion_tools.errors import DataError
from propulsion_tools.theory.alignment import Array

STRENGTHS = tuple(10.0**power for power in range(-5, 3))  # of the ridge, as shares of the kernel's mean diagonal
FOLDS = 5


def kernel_regression(kernel: Array, cross: Array, targets: Array) -> tuple[Array, float]:
    """Predict from a kernel; the ridge is chosen by cross-validation on the training samples.

    Args:
        kernel: Of the training samples, of shape (n, n).
        cross: Of other samples with these, of shape (m, n).
        targets: Of the training samples, of shape (n, K).

    Returns:
        Predictions of shape (m, K), and the ridge as a share of the mean diagonal.

    Raises:
        DataError: There are too few training samples to cross-validate.
    """
    if len(kernel) < FOLDS:
        raise DataError(f"Choosing the ridge takes at least {FOLDS} training samples, and there are {len(kernel)}.")
    size = np.trace(kernel) / len(kernel)
    mean = targets.mean(0)
    search = GridSearchCV(
        KernelRidge(kernel="precomputed"), {"alpha": list(STRENGTHS)}, cv=FOLDS, scoring="neg_mean_squared_error"
    )
    search.fit(kernel / size + 1, targets - mean)  # the kernel of a constant feature: an intercept
    predictions: Array = search.predict(cross / size + 1).reshape(len(cross), -1) + mean
    return predictions, float(search.best_params_["alpha"])


def one_hot(labels: Array, count: int) -> Array:
    """Targets of a classifier: 1 for the label and -1 for all others, (n, count)."""
    targets: Array = 2 * np.eye(count)[labels.astype(int)] - 1
    return targets
