"""A plain checkpoint with an adapter in its weights, written shard by shard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from propulsion.experts import ExpertWeight
from propulsion.layers import PropulsionLayer
from propulsion.merging import folded_bias, folded_weight
from propulsion_tools.errors import OptionError
from propulsion_tools.export.checkpoints import Checkpoint, NamedTensor, open_checkpoint, write_shards
from propulsion_tools.upstream.transformers_private import names_in_model

WEIGHT, BIAS = "weight", "bias"
ADAPTER = "default"


def write_merged(
    source: Path,
    skeleton: PreTrainedModel,
    layers: Mapping[str, PropulsionLayer],
    whole: Mapping[str, Tensor],
    folder: Path,
    max_shard_size: str,
) -> int:
    """Write the weights and the configuration of a base model with an adapter folded in.

    Every tensor is read, changed and written with its shard, and let go. What was tied to a changed weight is written
    beside it, and the configuration says that nothing is tied. Weights are multiplied in float32 and rounded once, to
    the checkpoint's own dtype.

    Args:
        source: The folder of the base model.
        skeleton: The base model without weights, not steered.
        layers: What to fold: the steering layers by name, as from `steering_layers`.
        whole: Tensors that take the place of the base model's, by its names.
        folder: Where to write; it exists.
        max_shard_size: Of one file.

    Returns:
        How many files hold the weights.

    Raises:
        OptionError: The base model's weights are quantized, damaged, or computed by transformers from several, as
            those of experts are.
        MergeError: A layer cannot be folded into its weights.
    """
    refuse_quantized(skeleton.config)
    for name, layer in layers.items():
        if isinstance(layer, ExpertWeight):
            raise OptionError(
                f"{name} is the stacked weight of experts, which checkpoints keep in another form: fold the adapter in "
                "memory, with model.merge_and_unload().save_pretrained(...) in Python."
            )
        layer.check_mergeable(ADAPTER)
    with open_checkpoint(source) as checkpoint:
        plan = _Plan(checkpoint, skeleton, layers, whole)
        files = write_shards(plan.tensors(), folder, max_shard_size)
    write_config(skeleton, folder, unties=plan.unties)
    return files


def refuse_quantized(config: PreTrainedConfig) -> None:
    """Refuse weights that are not what they stand for.

    Raises:
        OptionError: The checkpoint is quantized.
    """
    if getattr(config, "quantization_config", None) is not None:
        raise OptionError(
            "The base model's weights are quantized, so that nothing can be folded into them: name the checkpoint that "
            "they were made from with --model_name_or_path, or choose --format peft-ia3."
        )


def write_config(skeleton: PreTrainedModel, folder: Path, unties: bool) -> None:
    """Write config.json for a model that is what the skeleton is, with or without its ties."""
    config = skeleton.config
    config.architectures = [type(skeleton).__name__]
    if unties:
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
    config.save_pretrained(folder)


class _Plan:
    """What each tensor of the merged checkpoint is made of."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        skeleton: PreTrainedModel,
        layers: Mapping[str, PropulsionLayer],
        whole: Mapping[str, Tensor],
    ) -> None:
        self._checkpoint, self._layers, self._whole = checkpoint, layers, whole
        self._prefix = skeleton.base_model_prefix
        found = names_in_model(skeleton, checkpoint.keys)
        self._converted = sorted(found.converted)
        self._source = {name: key for key, name in found.named.items()}
        self._groups = list(_tied(skeleton))
        self._dtype = self._usual_dtype()
        self.unties = any(len(group) > 1 and any(map(self._changes, group)) for group in self._groups)
        self._refuse_missing()

    def tensors(self) -> Iterator[NamedTensor]:
        """The tensors of the merged checkpoint."""
        for key in self._converted:
            yield self._copied(key, key)
        for group in self._groups:
            shared = next((self._source[name] for name in group if name in self._source), None)
            present = [name for name in group if name in self._source or name in self._whole]
            for name in group if self.unties else present or group[:1]:
                source = self._source.get(name, shared)
                if name in self._whole:
                    yield self._replaced(name)
                elif source is not None and self._changes(name):
                    yield NamedTensor(*self._facts(source, name), partial(self._steered, name, source))
                elif source is not None:
                    yield self._copied(source, self._named(name, source))

    def _changes(self, name: str) -> bool:
        layer, _, parameter = name.rpartition(".")
        return name in self._whole or (layer in self._layers and parameter in (WEIGHT, BIAS))

    def _named(self, name: str, source: str) -> str:
        """As the checkpoint calls it, so that other programs find what they look for; but whole, with its prefix."""
        is_own, prefix = self._source.get(name) == source, f"{self._prefix}."
        return source if is_own and name.removeprefix(prefix) != source.removeprefix(prefix) else name

    def _facts(self, source: str, name: str) -> tuple[str, int, torch.dtype]:
        count = torch.Size(self._checkpoint.shape(source)).numel()
        return self._named(name, source), count, self._checkpoint.dtype(source)

    def _copied(self, source: str, name: str) -> NamedTensor:
        count = torch.Size(self._checkpoint.shape(source)).numel()
        return NamedTensor(name, count, self._checkpoint.dtype(source), partial(self._checkpoint.read, source))

    def _replaced(self, name: str) -> NamedTensor:
        value = self._whole[name]
        dtype = self._dtype if value.is_floating_point() else value.dtype
        source = self._source.get(name)
        written = name if source is None else self._named(name, source)
        return NamedTensor(written, value.numel(), dtype, lambda: self._folded(name, value).to(dtype).contiguous())

    def _steered(self, name: str, source: str) -> Tensor:
        return self._folded(name, self._checkpoint.read(source))

    def _folded(self, name: str, value: Tensor) -> Tensor:
        """The value of a tensor with the gain of its layer, if that is one to fold."""
        if (layer := self._layers.get(name.rpartition(".")[0])) is None:
            return value
        (gain,) = layer.pooled_gain(ADAPTER).detach()
        if name.endswith(f".{WEIGHT}"):
            return folded_weight(value, gain, layer.weight_axis).contiguous()
        beta = layer.propulsion_bias[ADAPTER].weight.data if ADAPTER in layer.propulsion_bias else None
        return folded_bias(value, gain, beta).to(value.dtype)

    def _usual_dtype(self) -> torch.dtype:
        """The dtype of most of the checkpoint's values: what is trained in full is written in it too."""
        counts: dict[torch.dtype, int] = defaultdict(int)
        for key in self._checkpoint.keys:
            counts[self._checkpoint.dtype(key)] += torch.Size(self._checkpoint.shape(key)).numel()
        floating = {dtype: count for dtype, count in counts.items() if dtype.is_floating_point}
        return max(floating, key=lambda dtype: floating[dtype], default=torch.float32)

    def _refuse_missing(self) -> None:
        for name, layer in self._layers.items():
            for parameter in (WEIGHT, BIAS):
                key = f"{name}.{parameter}"
                group = next((group for group in self._groups if key in group), ())
                if group and not any(each in self._source or each in self._whole for each in group):
                    raise OptionError(
                        f"The checkpoint has no tensor that is {key} of a {type(layer.get_base_layer()).__name__}: "
                        "transformers computes it from others. Load the model once, save it with "
                        "save_pretrained(folder, save_original_format=False), and name that folder with "
                        "--model_name_or_path."
                    )


def _tied(skeleton: PreTrainedModel) -> Iterator[list[str]]:
    """The names of each tensor in the model's state; several for one that is tied."""
    owners = dict(skeleton.named_parameters(remove_duplicate=False))
    groups: dict[object, list[str]] = defaultdict(list)
    for name in skeleton.state_dict():
        groups[id(owners[name]) if name in owners else name].append(name)
    yield from groups.values()
