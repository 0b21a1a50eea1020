"""The kinds of layers that can be steered: where each has its channels, and nothing else."""

from __future__ import annotations

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D as TransformersConv1D

from propulsion.errors import LayerError
from propulsion.layers import PropulsionLayer
from propulsion.upstream.peft_private import quantization_of
from propulsion.upstream.torch_private import is_called_by_its_weight
from propulsion.upstream.transformers_private import is_rms_norm


class Linear(PropulsionLayer):
    """Steers nn.Linear, of which bitsandbytes' 8- and 4-bit layers are kinds."""

    base_class = nn.Linear
    size_name, weight_axis = "out_features", 0


class Conv1D(PropulsionLayer):
    """Steers transformers' Conv1D, a linear layer whose weight is transposed."""

    base_class = TransformersConv1D
    size_name, input_size_name, weight_axis = "nf", "nx", 1


class Embedding(PropulsionLayer):
    """Steers nn.Embedding."""

    base_class = nn.Embedding
    size_name, input_size_name, weight_axis = "embedding_dim", "num_embeddings", 1


class LayerNorm(PropulsionLayer):
    """Steers nn.LayerNorm, in the last of the dimensions that it normalises."""

    base_class = nn.LayerNorm
    size_name, weight_axis = "normalized_shape", -1


class Conv1d(PropulsionLayer):
    """Steers nn.Conv1d by channel."""

    base_class = nn.Conv1d
    size_name, input_size_name, weight_axis, output_axis = "out_channels", "in_channels", 0, -2


class Conv2d(PropulsionLayer):
    """Steers nn.Conv2d by channel."""

    base_class = nn.Conv2d
    size_name, input_size_name, weight_axis, output_axis = "out_channels", "in_channels", 0, -3


class Conv3d(PropulsionLayer):
    """Steers nn.Conv3d by channel."""

    base_class = nn.Conv3d
    size_name, input_size_name, weight_axis, output_axis = "out_channels", "in_channels", 0, -4


class _ChannelNorm(PropulsionLayer):
    """Steers a normalisation whose channels follow the rows, whatever follows them."""

    weight_axis, output_axis = 0, 1


class GroupNorm(_ChannelNorm):
    """Steers nn.GroupNorm by channel."""

    base_class = nn.GroupNorm
    size_name = input_size_name = "num_channels"


class BatchNorm1d(_ChannelNorm):
    """Steers nn.BatchNorm1d by channel."""

    base_class = nn.BatchNorm1d
    size_name = input_size_name = "num_features"


class BatchNorm2d(_ChannelNorm):
    """Steers nn.BatchNorm2d by channel."""

    base_class = nn.BatchNorm2d
    size_name = input_size_name = "num_features"


class BatchNorm3d(_ChannelNorm):
    """Steers nn.BatchNorm3d by channel."""

    base_class = nn.BatchNorm3d
    size_name = input_size_name = "num_features"


CONVOLUTIONS = (Conv1d, Conv2d, Conv3d)
NORMS = (LayerNorm, GroupNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d)
KINDS: tuple[type[PropulsionLayer], ...] = (Linear, Conv1D, Embedding, *CONVOLUTIONS, *NORMS)


def kind_of(module: nn.Module, name: str) -> type[PropulsionLayer]:
    """The class that steers a module.

    Args:
        module: A layer, or one that PEFT has wrapped.
        name: Its name, for the error message.

    Raises:
        LayerError: Layers like this cannot be steered; says what to target instead.
    """
    base_layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    class_name = type(base_layer).__name__
    if class_name in {kind.base_class.__name__ for kind in KINDS}:
        class_name = f"{type(base_layer).__module__}.{class_name}"  # another library's, of the same name
    if is_called_by_its_weight(base_layer):
        raise LayerError(
            f"{name} belongs to nn.MultiheadAttention, which does not call its forward: leave it out of target_modules."
        )
    if is_rms_norm(base_layer):
        raise LayerError(
            f"{name} is a {class_name}: some of these multiply with 1 + weight, so that it cannot be merged; target "
            "the linear layers after it."
        )
    # bitsandbytes' layers are found here already, as kinds of nn.Linear; other libraries' are not.
    for kind in KINDS:
        if isinstance(base_layer, kind.base_class):
            return kind
    backend = quantization_of(base_layer)
    if backend is not None and backend.layer_type == "linear":
        return Linear
    supported = ", ".join(kind.base_class.__name__ for kind in KINDS)
    raise LayerError(
        f"{name} is a {class_name}, which cannot be steered: target layers that are {supported} or quantized linears."
    )
