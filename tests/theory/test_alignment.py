"""Laws of the numbers: equal kernels are near, scale does not matter where it should not, and the known is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from propulsion_tools.theory.alignment import nearness, per_sample, spectrum
from propulsion_tools.theory.kernel_figure import KernelSnapshot, Picture, pictures, runs


def kernel(seed: int, count: int = 12, rank: int = 5) -> np.ndarray:
    features = np.random.default_rng(seed).normal(size=(count, rank))
    return features @ features.T


def test_a_kernel_is_nearest_to_itself_at_any_scale() -> None:
    found = nearness(kernel(0), 0.25 * kernel(0))
    assert found.distance == pytest.approx(0.75)
    assert found.scale == pytest.approx(4)
    assert found.aligned_distance == pytest.approx(0, abs=1e-12)
    assert (found.alignment, found.correlation) == pytest.approx((1, 1))


def test_no_other_scale_is_better() -> None:
    one, other = kernel(0), kernel(1)
    best = nearness(one, other)
    for factor in (0.9, 1.1):
        distance = np.linalg.norm(one - factor * best.scale * other) / np.linalg.norm(one)
        assert distance > best.aligned_distance


def test_what_all_samples_share_does_not_count_for_the_alignment() -> None:
    one, other = kernel(0), kernel(1)
    assert nearness(one + 7, other).alignment == pytest.approx(nearness(one, other).alignment)
    assert nearness(one + 7, other + 7).aligned_distance < nearness(one, other).aligned_distance
    assert np.isnan(nearness(one, np.ones_like(one)).alignment)
    assert np.isnan(nearness(one, np.ones_like(one)).correlation)


def test_the_correlation_is_that_of_the_entries_above_the_diagonal() -> None:
    one, other = kernel(0), kernel(1)
    above = np.triu_indices(len(one), 1)
    expected = np.corrcoef(one[above], other[above])[0, 1]
    assert nearness(one + np.diag(np.arange(12)), other).correlation == pytest.approx(expected)


def test_one_sample_has_a_distance_and_nothing_else() -> None:
    found = nearness(np.array([[2.0]]), np.array([[1.0]]))
    assert (found.distance, found.scale) == (0.5, 2)
    assert np.isnan(found.correlation)


def test_the_effective_rank_of_equal_eigenvalues_is_their_number() -> None:
    found = spectrum(np.diag([3.0, 3, 3, 0]))
    assert (found.smallest, found.largest, found.effective_rank) == pytest.approx((0, 3, 3))


def test_the_kernel_of_samples_is_the_mean_over_outputs() -> None:
    full = torch.arange(36.0).view(3, 2, 3, 2).double()
    np.testing.assert_allclose(per_sample(full), ((full[:, 0, :, 0] + full[:, 1, :, 1]) / 2).numpy())


def test_pictures_show_what_they_say() -> None:
    one, other = kernel(0), kernel(1)
    full, tuned, distance, scaled = pictures(KernelSnapshot("now", one, other), "propulsion")
    assert (full.values is one, tuned.values is other) == (True, True)
    np.testing.assert_allclose(distance.values, np.abs(one - other))
    assert np.linalg.norm(scaled.values) <= np.linalg.norm(distance.values)
    assert Picture("nothing", "", 0 * one, True).limit > 0


def test_stretches_of_equal_labels() -> None:
    assert runs(["a", "a", "b"]) == [("a", 0, 2), ("b", 2, 3)]
    assert runs([]) == []
