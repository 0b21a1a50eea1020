"""One pass of a frozen backbone for the rows of many models, and the backward that gives each its own gradients.

The rows of all models are joined into one batch, padded to the longest, and run through one copy of the backbone whose
layers multiply each model's rows with that model's gains. Rows do not meet in a backbone, so each has what it would
have alone, to rounding. The head and the loss are each model's own business: it gets its part of what the backbone
gives as a leaf, and the gradients that come to the leaves go back through the backbone together.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.nn import functional
from transformers.utils import ModelOutput

from propulsion.errors import LayerError
from propulsion.joint.gains import Gains, LayerGains
from propulsion.joint.members import Member, bare_name, why_apart
from propulsion.layer_kinds import kind_of
from propulsion.layers import PropulsionLayer
from propulsion.mixed_batches import NamesOfRows, names_of_rows, run_by_adapter
from propulsion.pooling import steer
from propulsion.targets import leaves_outputs_alone
from propulsion.upstream.torch_private import is_watched_by_others
from propulsion.upstream.transformers_private import is_called_by_own_code

Inputs = Mapping[str, Any]
_PADDED = ("input_ids", "attention_mask", "token_type_ids")
_OF_THE_LOSS = ("num_items_in_batch",)


class JointBackbone:
    """The backbone that several models share.

    Args:
        models: Models of transformers, alone or each with one adapter of Propulsion. Their frozen parameters are shared
            (`share_frozen`).

    Raises:
        LayerError: They cannot be trained together; says why.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.members = [Member(model) for model in models]
        if reason := why_apart(self.members):
            raise LayerError(f"These models cannot be trained in one batch: {reason}.")
        self.gains = Gains(self.members)
        self.backbone = _without_adapters(self.members[0]).train()
        self.config = self.members[0].inner.config
        self._now: dict[str, LayerGains] = {}
        self._rows = NamesOfRows[int]([])
        self._lines = 0
        self._steer_layers()
        self._split_modules()

    def _steer_layers(self) -> None:
        inner = self.members[0].inner
        for name in self.gains.sizes:
            layer = self.backbone.get_submodule(name)
            full = f"{inner.base_model_prefix}.{name}"
            owns = type(layer) is kind_of(layer, name).base_class and leaves_outputs_alone(inner, full)
            layer.register_forward_hook(partial(self._steer, name, owns))

    def _split_modules(self) -> None:
        for name in {name for member in self.members for name in member.modules}:
            module = self.backbone.get_submodule(name)
            module.forward = partial(self._by_member, name, module.forward)

    def __call__(self, inputs: Mapping[int, Inputs]) -> JointPass:
        """Run the backbone once.

        Args:
            inputs: What the backbone of a model was called with, by the model's number; not every model needs to be
                there. Each is padded on the right, if at all.

        Raises:
            LayerError: An argument cannot be joined; names it.
        """
        named = [by_parameter(self.members[number].backbone, call) for number, call in inputs.items()]
        if not all(isinstance(call.get("input_ids"), Tensor) for call in named):
            raise LayerError("Rows can be joined where they are token ids (input_ids): train these models one by one.")
        rows = [len(call["input_ids"]) for call in named]
        lengths = [call["input_ids"].shape[1] for call in named]
        owners = [place for place, count in enumerate(rows) for _ in range(count)]
        is_even = len(set(rows)) == 1
        device = named[0]["input_ids"].device
        numbers = list(inputs)
        self._now = self.gains.now(numbers, None if is_even else torch.tensor(owners, device=device))
        self._lines = len(numbers) if is_even else len(owners)
        self._rows = NamesOfRows([numbers[place] for place in owners], tokens=max(lengths))
        try:
            output = self.backbone(**joined(named, self.config.get_text_config().pad_token_id or 0))
        finally:
            self._now = {}
        trains = [self.members[number].trains for number in numbers]
        return JointPass(output, numbers, rows, lengths, trains)

    def _steer(self, name: str, owns: bool, layer: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        gains = self._now.get(name)
        if gains is None:
            return None
        whole = self._one_for_all(args, output)
        # Rows of one model lie behind one another, so that its tokens do, whether or not the layer sees rows.
        values = output.reshape(1 if whole else self._lines, -1, output.shape[-1])
        gain, negative, bias = (None if part is None else part.unsqueeze(1) for part in gains)
        if bias is not None:
            values = (values + bias).to(values.dtype)
        in_place = owns and not whole and not is_watched_by_others(layer) and is_called_by_own_code()
        pooled = gain.unsqueeze(0) if negative is None else torch.stack([gain, negative])  # type: ignore[union-attr]
        steered = steer(values, pooled, in_place)
        if not whole:
            return steered.view(output.shape)
        return steered.repeat_interleave(len(self._rows) // self._lines, dim=0)

    def _one_for_all(self, args: Any, output: Tensor) -> bool:
        """Whether a layer has given one row that stands for all, as for positions.

        Raises:
            LayerError: The rows of the batch cannot be told in its output.
        """
        rows, tokens = len(self._rows), self._rows.tokens
        if output.dim() > 2 and len(output) == rows:
            return False
        if output.dim() == 3 and len(output) == 1:
            return True
        if output.dim() == 2 and len(output) == rows * tokens:
            return False
        if output.dim() == 2 and args and args[0].dim() == 1 and len(output) == tokens:  # looked up, not computed
            return True
        if output.dim() == 2 and len(output) == rows:
            return False
        raise LayerError(
            f"A layer's output has the shape {tuple(output.shape)}, in which the {rows} rows of {tokens} tokens cannot "
            "be told: train these models one by one."
        )

    def _by_member(self, name: str, forward: Any, *args: Any, **kwargs: Any) -> Any:
        """In the place of the forward of a module that is trained whole: each model's own, on its rows."""
        first = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))

        def run(number: int, *args: Any, **kwargs: Any) -> Any:
            return self.members[number].modules.get(name, forward)(*args, **kwargs)

        return run_by_adapter(run, names_of_rows(self._rows, first), args, kwargs)


class JointPass:
    """What one pass gave.

    Attributes:
        outputs: By the model's number, what its own backbone would have returned; tensors are leaves.
    """

    def __init__(
        self, output: ModelOutput, numbers: Sequence[int], rows: Sequence[int], lengths: Sequence[int], trains: Any
    ) -> None:
        self.outputs: dict[int, ModelOutput] = {}
        self._leaves: list[tuple[Tensor, Tensor]] = []
        self._parts: list[Tensor] = []
        tensors = {key: value for key, value in output.items() if isinstance(value, Tensor)}
        parts = {key: value.split(list(rows)) for key, value in tensors.items()}
        for place, number in enumerate(numbers):
            own = {key: _as_long(values[place], lengths[place]) for key, values in parts.items()}
            self.outputs[number] = type(output)(**{k: self._leaf(part, trains[place]) for k, part in own.items()})

    @property
    def roots(self) -> list[Tensor]:
        """Each model's part of what the pass gave, with its history, where it has one."""
        return [part for part in self._parts if part.requires_grad]

    def _leaf(self, part: Tensor, trains: bool) -> Tensor:
        self._parts.append(part)
        leaf = part.detach()
        if trains and part.requires_grad:
            leaf.requires_grad_()
            self._leaves.append((part, leaf))
        return leaf

    def backward(self) -> None:
        """Take the gradients that have come to the leaves back through the backbone, to every model's parameters."""
        reached = [(part, leaf.grad) for part, leaf in self._leaves if leaf.grad is not None]
        self._leaves, self._parts = [], []
        if reached:
            torch.autograd.backward([part for part, _ in reached], [gradient for _, gradient in reached])


def by_parameter(backbone: nn.Module, call: Inputs) -> dict[str, Any]:
    """The arguments of a call of the backbone by their names; those by position are under their number, as text."""
    names = [name for name in inspect.signature(type(backbone).forward).parameters if name != "self"]
    named = {names[int(key)] if key.isdigit() else key: value for key, value in call.items()}
    return {key: value for key, value in named.items() if value is not None and key not in _OF_THE_LOSS}


def joined(calls: Sequence[Mapping[str, Any]], pad: int) -> dict[str, Any]:
    """One batch of several, each row padded on the right to the longest.

    Args:
        calls: The arguments of each, by name.
        pad: The id of the padding token.

    Raises:
        LayerError: There is an argument that no batch can be made of.
    """
    longest = max(call["input_ids"].shape[1] for call in calls)
    result: dict[str, Any] = {}
    for name in dict.fromkeys(name for call in calls for name in call):
        values = [call.get(name) for call in calls]
        if name in _PADDED:
            continue
        if any(isinstance(value, Tensor) for value in values) or any(value != values[0] for value in values):
            raise LayerError(f"The argument {name} of several models cannot be joined: train them one by one.")
        result[name] = values[0]
    for name, fill in zip(_PADDED, (pad, 0, 0), strict=True):
        if name == "token_type_ids" and not any(name in call for call in calls):
            continue
        parts = [_or_default(call, name) for call in calls]
        result[name] = torch.cat([functional.pad(p, (0, longest - p.shape[1]), value=fill) for p in parts])
    return {**result, "use_cache": False} if "use_cache" in result else result


def _or_default(call: Mapping[str, Any], name: str) -> Tensor:
    ids = call["input_ids"]
    return call.get(name, torch.ones_like(ids) if name == "attention_mask" else torch.zeros_like(ids))


def _as_long(part: Tensor, length: int) -> Tensor:
    """Without the padding that came with the others."""
    return part[:, :length] if part.dim() > 2 and part.shape[1] != length else part


def _without_adapters(member: Member) -> nn.Module:
    """A copy of the backbone as it is without an adapter, which shares every parameter and buffer."""
    shared = (*member.backbone.parameters(), *member.backbone.buffers())
    backbone = copy.deepcopy(member.backbone, {id(tensor): tensor for tensor in shared})
    vars(backbone).pop("forward", None)
    for name, module in list(backbone.named_modules()):
        bare = bare_name(name)
        if isinstance(module, (PropulsionLayer, ModulesToSaveWrapper)) and name == bare:
            parent, _, child = bare.rpartition(".")
            inside = module.base_layer if isinstance(module, PropulsionLayer) else module.original_module
            setattr(backbone.get_submodule(parent), child, inside)
    return backbone
