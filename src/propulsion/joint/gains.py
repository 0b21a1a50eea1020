"""The gains of several models for one pass: for each layer and model one, in few operations.

The vectors of a model are joined before they are raised to its degree, and the gains of all models are cut apart again
by one operation, so that a layer costs one product forward and one backward, however many models there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from propulsion.gain import in_full
from propulsion.joint.members import Member
from propulsion.layers import PropulsionLayer
from propulsion.pooling import folds_into_weights


class LayerGains(NamedTuple):
    """What a layer does to its output; each of shape (models or rows, d_out).

    Attributes:
        gain: Of the output, where that is not below 0 if there is a `negative`.
        negative: Of outputs below 0; None: the same.
        bias: Is added before; None: nothing.
    """

    gain: Tensor
    negative: Tensor | None
    bias: Tensor | None


class Gains:
    """The gains of some models.

    Args:
        members: The models.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        layers: dict[str, PropulsionLayer] = {}
        for member in members:
            layers = {**member.layers, **layers}
        self.sizes = {name: layer.out_features for name, layer in layers.items()}
        self.biases = [name for name in layers if any(m.adapter in _biases(m, name) for m in members)]
        self.has_signs = any(not _folds(m, layer) for m in members for layer in m.layers.values())

    def now(self, models: Sequence[int], rows: Tensor | None) -> dict[str, LayerGains]:
        """The gains as the vectors are now, with their gradients.

        Args:
            models: The numbers of the models, each once.
            rows: For each row of the batch the place of its model in `models`; None: a gain for each model is enough.
        """
        if not self.sizes:
            return {}
        members = [self.members[number] for number in models]
        lines = [self._line(member) for member in members]
        positive = _by_layer([line[0] for line in lines], rows, self.sizes)
        negative = _by_layer([line[1] for line in lines], rows, self.sizes) if self.has_signs else {}
        widths = {name: self.sizes[name] for name in self.biases}
        biases = _by_layer([self._bias_line(member, lines[0][0]) for member in members], rows, widths)
        return {name: LayerGains(gain, negative.get(name), biases.get(name)) for name, gain in positive.items()}

    def _line(self, member: Member) -> tuple[Tensor, Tensor]:
        """The gains of all layers behind one another: of outputs ≥ 0, and of those below."""
        degrees = {name: layer.propulsion_degree[member.adapter] for name, layer in member.layers.items()}
        like = member.trained[0] if member.trained else self._any()
        if all(len(degree) == 1 for degree in degrees.values()):
            pieces = [
                member.layers[name].propulsion_delta[member.adapter].weight.view(-1)
                if name in member.layers
                else like.new_zeros(size)
                for name, size in self.sizes.items()
            ]
            z = 1 + in_full(torch.cat(pieces))
            each = {degree[0] for degree in degrees.values()}
            if len(each) == 1:
                gain = z.pow(each.pop())
            else:
                exponents = [z.new_tensor(float(degrees.get(name, (1,))[0])) for name in self.sizes]
                counts = torch.tensor(list(self.sizes.values()), device=z.device)
                gain = z.pow(torch.stack(exponents).repeat_interleave(counts)) if each else z
            return gain, gain
        pooled = [
            member.layers[name].pooled_gain(member.adapter)
            if name in member.layers
            else in_full(like.new_ones(1, size))
            for name, size in self.sizes.items()
        ]
        return torch.cat([gains[0] for gains in pooled]), torch.cat([gains[-1] for gains in pooled])

    def _bias_line(self, member: Member, like: Tensor) -> Tensor:
        pieces = [
            layer[member.adapter].weight
            if member.adapter in (layer := _biases(member, name))
            else like.new_zeros(self.sizes[name])
            for name in self.biases
        ]
        return torch.cat(pieces) if pieces else like.new_zeros(0)

    def _any(self) -> Tensor:
        return next(member.trained[0] for member in self.members if member.trained)


def _biases(member: Member, name: str) -> dict[str, torch.nn.Module]:
    return dict(member.layers[name].propulsion_bias) if name in member.layers else {}


def _folds(member: Member, layer: PropulsionLayer) -> bool:
    name = member.adapter
    return folds_into_weights(layer.propulsion_pooling[name], len(layer.propulsion_degree[name]))


def _by_layer(lines: list[Tensor], rows: Tensor | None, sizes: dict[str, int]) -> dict[str, Tensor]:
    """The lines of all models, cut into layers by one split: the backward of a slice is of full size."""
    if not sizes:
        return {}
    values = torch.stack(lines)
    if rows is not None:
        values = values.index_select(0, rows)
    return dict(zip(sizes, values.split(list(sizes.values()), dim=1), strict=True))
