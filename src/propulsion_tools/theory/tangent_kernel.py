"""The empirical neural tangent kernel K(x, x') = ⟨∇φ(x), ∇φ(x')⟩ of any model, exact (paper, definition 1).

K is a sum over parameters. It is accumulated group of parameters by group, so that neither the n × P Jacobian nor one
gradient of all weights is ever in memory; a smaller memory means more passes over the samples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from propulsion_tools.errors import GradientError, NotFiniteError, OptionError
from propulsion_tools.theory.gradients import Gradient, Group, Readout, Row, gradients, groups
from propulsion_tools.theory.gram import gram

MEMORY = 2 << 30


def empirical_ntk(
    model: nn.Module,
    rows: Sequence[Row],
    readout: Readout,
    parts: Mapping[str, Collection[str]],
    memory: int = MEMORY,
) -> dict[str, Tensor]:
    """The kernel of each part of the parameters.

    Args:
        model: Any model; it is differentiated in evaluation mode and left as it was.
        rows: The n samples, as from `split_rows`.
        readout: The C outputs.
        parts: Names of parameters under the name of their part. A parameter belongs to one part at most.
        memory: Bytes for the gradients that are kept at once.

    Returns:
        Part → kernel of shape (n, C, n, C), float64, symmetric. Kernels of parts add up.

    Raises:
        OptionError: There is no sample, or a parameter is in two parts.
        GradientError: An output depends on none of a part's parameters.
        NotFiniteError: A kernel is not finite; names the parameter.
    """
    if not rows:
        raise OptionError("A kernel needs at least one sample.")
    part_of = {name: part for part, names in parts.items() for name in names}
    if len(part_of) < sum(map(len, parts.values())):
        raise OptionError("A parameter is in two parts of the kernel.")
    kernels: dict[str, Tensor] = {}
    outputs = _count_outputs(model, rows[0], readout)
    for group in groups(model, rows, readout, part_of, memory):
        by_sample = list(gradients(model, rows, readout, group))
        for name in dict.fromkeys(name for row in by_sample for name in row):
            product = gram([row.pop(name, None) for row in by_sample], outputs)
            if not product.isfinite().all():
                raise NotFiniteError(f"The kernel is not finite at {name}: the gradient there is too large, or NaN.")
            part = part_of[name]
            kernels[part] = kernels[part] + product if part in kernels else product
    return {part: _checked(part, kernels.get(part), len(rows), outputs) for part in parts}


def jacobian(model: nn.Module, rows: Sequence[Row], readout: Readout, names: Sequence[str]) -> Tensor:
    """∇φ as a matrix: for few parameters, such as δ.

    Args:
        model, rows, readout: As for `empirical_ntk`.
        names: Names of the parameters, in the order of the columns.

    Returns:
        Shape (n, C, P), in the parameters' dtype or float32.

    Raises:
        GradientError: There are no parameters.
        NotFiniteError: A derivative is not finite; names the parameter.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if name in set(names)}
    outputs = _count_outputs(model, rows[0], readout)
    by_sample = [
        torch.cat([_dense(by_name[name], outputs, sizes[name]) for name in names], dim=1)
        for by_name in gradients(model, rows, readout, Group(frozenset(), frozenset(names)))
    ]
    result = torch.stack(by_sample)
    if not result.isfinite().all():
        raise NotFiniteError("A derivative is not finite: the gradient is too large, or NaN.")
    return result


def _dense(gradient: Gradient, outputs: int, size: int) -> Tensor:
    return gradient.cpu() if isinstance(gradient, Tensor) else torch.zeros(outputs, size)


def _count_outputs(model: nn.Module, row: Row, readout: Readout) -> int:
    with torch.no_grad():
        return len(readout(model, row))


def _checked(part: str, kernel: Tensor | None, count: int, outputs: int) -> Tensor:
    if kernel is None:
        raise GradientError(f"No output depends on any parameter of {part!r}.")
    kernel = ((kernel + kernel.T) / 2).view(count, outputs, count, outputs)
    own = kernel.diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1)  # (n, C)
    if silent := [str(output) for output in range(outputs) if not own[:, output].any()]:
        raise GradientError(
            f"Output {', '.join(silent)} depends on no parameter of {part!r}: its kernel would be zero. "
            "Choose another output, or other target modules."
        )
    return kernel
