"""The safetensors files of a checkpoint, read tensor by tensor and written shard by shard."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from propulsion_tools.errors import OptionError

_PATTERN = SAFE_WEIGHTS_NAME.replace(".safetensors", "{suffix}.safetensors")
_SIZE = re.compile(r"(\d+(\.\d+)?)([KMGT]B)")


@dataclass(frozen=True)
class NamedTensor:
    """A tensor to be written, which is made when its shard is.

    Attributes:
        name: As in the file.
        numel: How many values it has.
        dtype: Of these.
        make: Gives the tensor.
    """

    name: str
    numel: int
    dtype: torch.dtype
    make: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.numel * self.dtype.itemsize


class Checkpoint:
    """The tensors in a folder, by name; each is read when it is asked for, and nothing is kept."""

    def __init__(self, files: dict[str, Any]) -> None:
        self._files = files

    @property
    def keys(self) -> list[str]:
        """The names of all tensors."""
        return list(self._files)

    def read(self, key: str) -> Tensor:
        """One tensor, in memory of its own."""
        return self._files[key].get_tensor(key).clone()

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header of its file."""
        return tuple(self._files[key].get_slice(key).get_shape())

    def dtype(self, key: str) -> torch.dtype:
        """The dtype of a tensor, by way of an empty part of it."""
        shape, part = self.shape(key), self._files[key].get_slice(key)
        return (part[0:0] if shape else part[...]).dtype


@contextmanager
def open_checkpoint(folder: Path) -> Iterator[Checkpoint]:
    """The checkpoint in a folder, one file or several with an index.

    Raises:
        OptionError: There is none in safetensors, or it is damaged.
    """
    with ExitStack() as stack:
        try:
            handles = [stack.enter_context(safe_open(file, framework="pt")) for file in weight_files(folder)]
            yield Checkpoint({key: handle for handle in handles for key in handle.keys()})  # noqa: SIM118
        except SafetensorError as error:
            raise OptionError(f"The weights in {folder} are damaged ({error}): get them again.") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the checkpoint in a folder.

    Raises:
        OptionError: There are none, one of them is missing, or the index is damaged or names a file elsewhere.
    """
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():
        if not (folder / SAFE_WEIGHTS_NAME).is_file():
            raise OptionError(
                f"{folder} has no {SAFE_WEIGHTS_NAME}: only weights in safetensors are read. Load the model once and "
                "save it with save_pretrained, which writes them."
            )
        return [folder / SAFE_WEIGHTS_NAME]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError, OSError, RecursionError) as error:
        raise OptionError(f"{index} is damaged: get the model again.") from error
    there = {file.name for file in folder.iterdir() if file.is_file()}
    for name in names:
        if name not in there:
            raise OptionError(f"{index} names {name!r}, which is no file beside it: get the model again.")
    return [folder / name for name in sorted(names)]


def check_shard_size(size: str) -> None:
    """Refuse what is no size of a file.

    Raises:
        OptionError: It is not like 5GB or 200MB.
    """
    if not _SIZE.fullmatch(size):
        raise OptionError(f"max_shard_size must be like 5GB or 200MB, and not {size!r}.")


def write_shards(tensors: Iterable[NamedTensor], folder: Path, max_shard_size: str) -> int:
    """Write a checkpoint; of its tensors, only those of one file are in memory at a time.

    Args:
        tensors: What to write.
        folder: Where; it exists.
        max_shard_size: Of one file, for example "5GB"; a larger tensor has a file of its own.

    Returns:
        How many files it has.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    split = split_state_dict_into_shards_factory(
        by_name,
        get_storage_size=lambda tensor: tensor.bytes,
        filename_pattern=_PATTERN,
        max_shard_size=max_shard_size,
    )
    for file, names in split.filename_to_tensors.items():
        save_file({name: by_name[name].make() for name in names}, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return len(split.filename_to_tensors)
