"""The theorem's bound, evaluated: does a layer's weight keep inner products as a random projection does?

The Johnson-Lindenstrauss lemma (appendix A) says for a matrix A of d rows with independent entries of variance
1 / d, and for vectors u, v of norm at most 1:  Pr(|(Au)ᵀ(Av) - uᵀv| ≥ ε) ≤ 4 exp(-(ε² - ε³) d / 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from propulsion_tools.errors import GradientError
from propulsion_tools.theory.alignment import Array
from propulsion_tools.theory.gradients import Readout, Row
from propulsion_tools.theory.weight_uses import UsageTracer, names_by_id

EPSILONS = np.linspace(0.01, 2 / 3, 66)  # the bound is smallest at 2/3, and says nothing at 1
WIDTHS = (64, 256, 1024, 4096)


@dataclass(frozen=True)
class Distortion:
    """How a matrix changes the inner products of unit vectors.

    Attributes:
        name: Whose matrix it is.
        width: d, its number of rows.
        raw: |(Wu)ᵀ(Wv) - uᵀv| of all pairs u ≠ v.
        scaled: The same with W times the factor that suits these vectors best.
    """

    name: str
    width: int
    raw: Array
    scaled: Array


def bound(epsilon: Array | float, width: int) -> Array:
    """The lemma's bound on the probability of an error of ε or more; 1 where it says nothing."""
    epsilon = np.asarray(epsilon, dtype=np.float64)
    return np.minimum(1.0, 4 * np.exp(-(epsilon**2 - epsilon**3) * width / 4))


def frequency(errors: Array, epsilons: Array) -> Array:
    """The share of errors that are at least ε, for each ε."""
    ordered = np.sort(errors)
    shares: Array = 1 - np.searchsorted(ordered, epsilons, side="left") / len(ordered)
    return shares


def distortion(name: str, weight: Tensor, vectors: Tensor) -> Distortion:
    """What a weight does to the inner products of some of its layer's inputs.

    Args:
        name: Of the layer.
        weight: Shape (d, d_in).
        vectors: Shape (m, d_in); they are brought to norm 1.
    """
    unit = nn.functional.normalize(vectors.double(), dim=-1)
    image = unit @ weight.double().T
    before, after = (unit @ unit.T).numpy(), (image @ image.T).numpy()
    scale = float((before * after).sum() / (after * after).sum())
    pairs = np.triu_indices(len(unit), 1)
    return Distortion(name, len(weight), np.abs(after - before)[pairs], np.abs(scale * after - before)[pairs])


def random_distortions(vectors: Tensor, seed: int, widths: Sequence[int] = WIDTHS) -> list[Distortion]:
    """The same for Gaussian matrices of growing width, for which the lemma is meant."""
    generator = torch.Generator().manual_seed(seed)
    return [
        distortion(
            f"random, d = {width}",
            torch.randn(width, vectors.shape[-1], generator=generator, dtype=torch.float64) / width**0.5,
            vectors,
        )
        for width in widths
    ]


def layer_inputs(
    model: nn.Module, rows: Sequence[Row], readout: Readout, names: Sequence[str], count: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """The weight of each linear layer and some of its inputs.

    Args:
        model: In evaluation mode.
        rows: The samples.
        readout: Runs the model.
        names: Names of weights, as in `model.named_parameters()`.
        count: How many inputs to keep: evenly spaced among the tokens of all samples.

    Returns:
        Name → weight of shape (d, d_in), inputs of shape (m, d_in).

    Raises:
        GradientError: None of these is the weight of a linear layer.
    """
    weights = {name: parameter for name, parameter in model.named_parameters() if name in set(names)}
    inputs: dict[str, list[Tensor]] = {}
    turned: set[str] = set()
    for row in rows:
        with torch.no_grad(), UsageTracer(names_by_id(iter(weights.items()))) as tracer:
            readout(model, row)
        for name, uses in tracer.uses.items():
            for use in uses:
                if use.kind != "lookup":
                    inputs.setdefault(name, []).append(use.input.reshape(-1, use.input.shape[-1]).float().cpu())
                    turned |= {name} if use.kind == "transposed" else set()
    if not inputs:
        raise GradientError("None of the target modules is a linear layer, so that there is no projection to look at.")
    return {
        name: (_oriented(weights[name], name in turned), _spaced(torch.cat(parts), count))
        for name, parts in inputs.items()
    }


def _oriented(weight: Tensor, turned: bool) -> Tensor:
    weight = weight.detach().float().cpu()
    return weight.T if turned else weight


def _spaced(vectors: Tensor, count: int) -> Tensor:
    chosen = torch.linspace(0, len(vectors) - 1, min(count, len(vectors))).round().long()
    return vectors[chosen]
