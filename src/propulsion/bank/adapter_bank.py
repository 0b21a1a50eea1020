"""What a user calls."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from propulsion.bank.adapters import Adapter, Base
from propulsion.bank.shelf import Entry, Shelf
from propulsion.bank.steering import Batch, Steering
from propulsion.errors import AdapterNameError, ConfigError
from propulsion.mixed_batches import BASE_MODEL, batch_shape, by_name, check_adapter_names, without_graphs
from propulsion.targets import architecture_of, give_each_its_own, resolve_preset
from propulsion.upstream.torch_private import has_compiled_parts

_NAME = re.compile(r"\w[\w.@:+ -]{0,199}")


class AdapterBank:
    """Thousands of adapters on one frozen model; each row of a batch has its own, at the price of the base model.

    An adapter is kept as ready gains z^k, one row for each adapter and one column for each output of each steered
    layer, and the layers of the base model multiply each row of the batch with the row of its adapter. The gains are
    float32 whatever the model's dtype, as everywhere in Propulsion.

    ```python
    bank = AdapterBank(base, capacity=1000)
    bank.load("adapters/alice")
    bank.load("adapters/bob", name="bob")
    logits = bank(**batch, adapter_names=["alice", "bob", "__base__"]).logits
    tokens = bank.generate(**prompts, adapter_names=["bob", "alice"], max_new_tokens=20)
    ```

    A row's answer is the one that its adapter alone gives in a batch of the same shape, bit for bit, whatever stands
    beside it. Adapters may differ in targets, degrees, number of vectors, pooling, biases and heads. What an adapter
    does not steer is the base model's. `adapter_names` may name each token instead of each row (a list of lists), for
    batches in which texts were packed; adapters with heads cannot be in those.

    Rows are scored by their own heads. Where these have different numbers of labels, rows with fewer end in -inf, so
    that softmax and argmax are those of the row; `num_labels` says how many are meant.

    Every method may be called from any thread, also while others run the model: a batch keeps what it began with when
    an adapter is replaced or removed meanwhile. The model works without gradients, and must be in eval mode; it goes on
    to be usable by itself, as the base model.

    Memory: the adapters used most recently are on the device, at most `capacity` of them, and no more than fit into
    `device_budget`. The others wait in host memory and, above `host_budget`, in a temporary folder; they come back when
    they are named.
    """

    def __init__(
        self,
        base_model: nn.Module,
        capacity: int | None = None,
        device_budget: int | None = None,
        host_budget: int | None = None,
    ) -> None:
        """
        Args:
            base_model: A plain model, without adapters, all of it on one device. It is put into eval mode.
            capacity: How many adapters may be on the device; None for no limit.
            device_budget: How many bytes their gains and heads may take there; None for no limit. Each is counted with
                the largest head of all.
            host_budget: How many bytes the others may take in host memory; None for no limit.

        Raises:
            ConfigError: The model has adapters, is compiled or spread over devices, or a limit is no positive integer.
        """
        limits = {"capacity": capacity, "device_budget": device_budget, "host_budget": host_budget}
        for name, value in limits.items():
            least = 0 if name == "host_budget" else 1
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigError(f"{name} must be an integer ≥ {least} or None, not {value!r}.")
        if isinstance(base_model, PeftModel) or any(hasattr(m, "adapter_layer_names") for m in base_model.modules()):
            raise ConfigError(
                "The bank wants the plain base model: give it the model before get_peft_model, or unload()."
            )
        if has_compiled_parts(base_model):
            raise ConfigError("The bank wants the model as it was before torch.compile, whose graphs its hooks break.")
        devices = {parameter.device for parameter in base_model.parameters()}
        if len(devices) != 1 or torch.device("meta") in devices:
            raise ConfigError(f"The bank wants a model on one device, and this one is on {sorted(map(str, devices))}.")
        self.base_model = base_model.eval()
        if architecture_of(base_model) is not None:
            give_each_its_own(base_model, resolve_preset(base_model, "all"))
        self._base = Base(base_model)
        self._loading = threading.Lock()
        self._steering = Steering(base_model)
        self._shelf = Shelf(devices.pop(), capacity, device_budget, host_budget, self._steering.make_heads)

    @property
    def names(self) -> list[str]:
        """The names of all known adapters, in the order in which they came."""
        return list(self._shelf.entries)

    @property
    def resident(self) -> list[str]:
        """The names of those that are on the device."""
        return self._shelf.resident

    def __contains__(self, name: object) -> bool:
        return name in self._shelf.entries

    def __len__(self) -> int:
        return len(self._shelf.entries)

    def load(self, path: str | os.PathLike[str], name: str | None = None) -> str:
        """Read an adapter that PEFT has saved, under a new name or in the place of one that has this name.

        Only .safetensors files are read. Whoever uses the old adapter of this name at the moment goes on with it.

        Args:
            path: A local folder.
            name: What to call it; the folder's name if not given.

        Returns:
            Its name.

        Raises:
            AdapterNameError: The name cannot be one.
            ConfigError: The folder has another method's adapter.
            AdapterFileError: Its files are damaged, incomplete, not finite, or pickled.
            BaseModelError: It was trained on another base model.
            LayerError: It steers experts' stacked weights, or has an embedding of its own; PeftModel can hold those.
            BankFullError: Not even one such adapter fits into the budget.
        """
        folder = os.fspath(path)
        name = check_name(os.path.basename(os.path.normpath(folder)) if name is None else name)
        return self._put(name, self._base.read(folder))

    def add(self, name: str, peft_model: PeftModel) -> str:
        """Copy the active adapter of a model, with its head.

        Args:
            name: What to call it.
            peft_model: A model with the same base model, for instance one that was just trained.

        Returns:
            The name.

        Raises:
            AdapterNameError: The name cannot be one, or not exactly one adapter is active.
            ConfigError, BaseModelError, LayerError, BankFullError: As for `load`.
        """
        return self._put(check_name(name), self._base.take(peft_model))

    def remove(self, name: str) -> None:
        """Forget an adapter. Whoever uses it at the moment goes on with it.

        Raises:
            AdapterNameError: There is none of this name.
        """
        self._shelf.remove(name)

    def pin(self, name: str, pinned: bool = True) -> None:
        """Keep an adapter on the device however long it is not used, or, with `pinned=False`, no longer.

        Raises:
            AdapterNameError: There is none of this name.
            BankFullError: Nothing else would find a place.
        """
        self._shelf.pin(name, pinned)

    def num_labels(self, name: str) -> int | None:
        """How many labels the head of an adapter has; those of the base model if it has no head, or None.

        Raises:
            AdapterNameError: There is none of this name.
        """
        if name == BASE_MODEL:
            return self._base.labels
        return self._shelf.entries[self._shelf.check(name)].labels or self._base.labels

    def __call__(self, *args: Any, adapter_names: Sequence[Any], **kwargs: Any) -> Any:
        """Run the base model with an adapter for each row.

        Args:
            *args: For the model.
            adapter_names: A name for each row, `"__base__"` for none; or a list of names for each row, one a token.
            **kwargs: For the model; no labels, as heads differ.

        Returns:
            What the model returns.

        Raises:
            AdapterNameError: A name is not known, or the names do not fit the batch.
            BankFullError: The adapters do not fit onto the device together.
        """
        if kwargs.get("labels") is not None:
            raise ConfigError("The bank answers and does not train: leave out `labels`.")
        with self.steering(adapter_names, *args, **kwargs):
            return self.base_model(*args, **kwargs)

    def generate(self, *args: Any, adapter_names: Sequence[str], **kwargs: Any) -> Any:
        """`generate` of the base model with an adapter for each row; beams and returned sequences have their row's.

        Arguments, results and errors are those of `__call__` and of the model's own `generate`.
        """
        with self.steering(adapter_names, *args, **kwargs):
            return self.base_model.generate(*args, **kwargs)

    @contextmanager
    def steering(self, adapter_names: Sequence[Any], *args: Any, **kwargs: Any) -> Iterator[None]:
        """Let calls of the base model in this thread have an adapter for each row, until the block ends.

        For loops of one's own: what was gathered for the rows serves all steps.

        Args:
            adapter_names: As for `__call__`.
            *args: The model's inputs, if they are to be compared with the names.
            **kwargs: The same.
        """
        if self.base_model.training:
            raise ConfigError("The base model is in training mode: call base_model.eval() first.")
        is_packed = _is_packed(adapter_names)
        inputs = by_name(args, kwargs)
        names = _flat(adapter_names, inputs) if is_packed else adapter_names
        check_adapter_names(names, self._shelf.entries, {} if is_packed else inputs)
        wanted = [name for name in dict.fromkeys(names) if name != BASE_MODEL]
        with without_graphs(), torch.no_grad(), self._shelf.in_use(wanted) as entries:
            of: dict[str, Entry | None] = {BASE_MODEL: None, **{entry.name: entry for entry in entries}}
            if is_packed and (scored := [entry.name for entry in entries if entry.modules]):
                raise AdapterNameError(f"{scored[0]!r} has a head, which takes whole rows: give one name for each row.")
            width = len(adapter_names[0]) if is_packed else 1
            table = self._shelf.table
            batch = Batch(self.base_model, table.values, table.columns, [of[name] for name in names], is_packed, width)
            with self._steering.serving(batch):
                yield

    def close(self) -> None:
        """Forget all adapters and leave the base model as it was before the bank."""
        self._steering.close()
        self._shelf.close()

    def _put(self, name: str, adapter: Adapter) -> str:
        with self._loading:
            for column in adapter.layout:
                self._steering.add_layer(column.layer)
            for head in adapter.heads:
                self._steering.add_head(head)
        self._shelf.put(name, adapter)
        return name


def check_name(name: object) -> str:
    """Refuse what could not be told from something else: an empty name, a path, `__base__`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == BASE_MODEL:
        raise AdapterNameError(
            f"An adapter cannot be named {name!r} in a bank: take up to 200 letters, digits and any of '_.@:+ -', not "
            f"beginning with one of those but '_', and not {BASE_MODEL!r}."
        )
    return name


def _is_packed(adapter_names: Any) -> bool:
    kinds = (list, tuple)
    return isinstance(adapter_names, kinds) and any(isinstance(names, kinds) for names in adapter_names)


def _flat(adapter_names: Sequence[Any], inputs: dict[str, Any]) -> list[str]:
    """The names of all tokens, row by row."""
    shape = batch_shape(inputs)
    lengths = {len(names) if isinstance(names, (list, tuple)) else -1 for names in adapter_names}
    if len(lengths) != 1 or (shape is not None and (len(adapter_names), *lengths) != tuple(shape[:2])):
        raise AdapterNameError(
            "For a packed batch adapter_names must have a list for each row, with one name for each of its tokens."
        )
    return [name for names in adapter_names for name in names]
