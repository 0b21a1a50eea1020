"""How near two kernels of the same samples are, and what a kernel's spectrum says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Nearness:
    """A kernel K' beside a reference K.

    Attributes:
        distance: ‖K - K'‖ / ‖K‖, Frobenius.
        scale: α, for which ‖K - αK'‖ is smallest.
        aligned_distance: ‖K - αK'‖ / ‖K‖; 1 where they have nothing in common.
        alignment: Centred kernel alignment, ⟨HKH, HK'H⟩ / (‖HKH‖ ‖HK'H‖) with H = I - 1/n; what is left when what all
            samples have in common is taken away. NaN where nothing is left.
        correlation: Pearson's, of the entries above the diagonal. NaN where these are constant.
    """

    distance: float
    scale: float
    aligned_distance: float
    alignment: float
    correlation: float


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of a kernel.

    Attributes:
        smallest, largest: Eigenvalues.
        effective_rank: exp of the entropy of the eigenvalues' shares, between 1 and n.
    """

    smallest: float
    largest: float
    effective_rank: float


def per_sample(kernel: Tensor) -> Array:
    """The kernel of shape (n, n): of several outputs, the mean over the outputs' own kernels.

    Args:
        kernel: Shape (n, C, n, C).
    """
    values: Array = kernel.diagonal(dim1=1, dim2=3).mean(-1).numpy()
    return values


def nearness(reference: Array, other: Array) -> Nearness:
    """Compare a kernel with a reference, both of shape (n, n)."""
    norm = np.linalg.norm(reference)
    scale = float((reference * other).sum() / (other * other).sum())
    centred, other_centred = _centred(reference), _centred(other)
    above = np.triu_indices(len(reference), 1)
    return Nearness(
        distance=float(np.linalg.norm(reference - other) / norm),
        scale=scale,
        aligned_distance=float(np.linalg.norm(reference - scale * other) / norm),
        alignment=_cosine(centred, other_centred, norm * np.linalg.norm(other)),
        correlation=_cosine(
            reference[above] - reference[above].mean() if len(above[0]) else reference[above],
            other[above] - other[above].mean() if len(above[0]) else other[above],
            norm * np.linalg.norm(other),
        ),
    )


def spectrum(kernel: Array) -> Spectrum:
    """The spectrum of a symmetric kernel of shape (n, n)."""
    values = np.linalg.eigvalsh(kernel)
    shares = np.clip(values, 0, None) / np.clip(values, 0, None).sum()
    shares = shares[shares > 0]
    return Spectrum(float(values[0]), float(values[-1]), float(np.exp(-(shares * np.log(shares)).sum())))


def _centred(kernel: Array) -> Array:
    centred: Array = kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
    return centred


def _cosine(left: Array, right: Array, size: float) -> float:
    """The cosine between two arrays; NaN if one of them is but rounding beside `size`."""
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float((left * right).sum() / norms) if norms > 1e-12 * size else float("nan")
