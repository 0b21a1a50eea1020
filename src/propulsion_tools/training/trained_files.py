"""How what was trained is saved and read, for every method alike.

| Trained | Kept as | Read with |
|---|---|---|
| a PEFT adapter | adapter_config.json, adapter_model.safetensors | PeftModel.from_pretrained |
| every weight | config.json, model.safetensors | AutoModel....from_pretrained |
| some weights, for example the head, and modules put into the model | trained.safetensors | `load_trained` |
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from propulsion.errors import AdapterFileError
from propulsion_tools.errors import is_one_sentence
from propulsion_tools.methods.virtual_tokens import align
from propulsion_tools.records import files_aside, write_atomically
from propulsion_tools.training.base_models import public_name, quiet_transformers
from propulsion_tools.training.manifest import MANIFEST_FILE, changed

TRAINED_FILE = "trained.safetensors"
WHOLE_FILE = "model.safetensors"
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
WEIGHT_FILES = ("*.safetensors", "*.bin")


def refuse_changed(folder: Path) -> None:
    """Refuse a finished run whose files are not what they were when it ended.

    Raises:
        AdapterFileError: Names the first of them.
    """
    if said := changed(folder):
        raise AdapterFileError(
            f"{folder} is not what its record tells of: {said}. Bring it back from a copy, or remove {MANIFEST_FILE} "
            "if that was meant."
        )


def save_trained(model: nn.Module, folder: Path) -> None:
    """Write what was trained into `folder`, each file whole or not at all."""
    whole = isinstance(model, PreTrainedModel) and all(parameter.requires_grad for parameter in model.parameters())
    with files_aside(folder) as aside:
        if isinstance(model, PeftModel) or whole:
            with quiet_transformers():
                model.save_pretrained(str(aside))
            if not whole:
                sets = {name for name, value in vars(model.active_peft_config).items() if isinstance(value, set)}
                _settle(aside / ADAPTER_CONFIG, sets)
        else:
            save_file(_changed(model), str(aside / TRAINED_FILE), metadata={"format": "pt"})


def _settle(file: Path, sets: set[str]) -> None:
    """Give the base model in an adapter's configuration a name that other machines know, too, and sets one order.

    Only in the file: PEFT asks the hub for the configuration of a model whose name is no folder. Python orders sets
    differently in each process, and a run that is gone on with ends with the same bytes.

    Args:
        file: The configuration.
        sets: Names of fields.
    """
    values = json.loads(file.read_text(encoding="utf-8"))
    name = values.get("base_model_name_or_path")
    settled: dict[str, Any] = {field: sorted(values[field]) for field in sets if isinstance(values.get(field), list)}
    if name:
        settled["base_model_name_or_path"] = public_name(name)
    write_atomically(file, json.dumps({**values, **settled}, indent=2, sort_keys=True))


def weight_bytes(folder: Path) -> int:
    """Size of the files with weights in `folder`."""
    return sum(file.stat().st_size for pattern in WEIGHT_FILES for file in folder.glob(pattern))


def _changed(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: the trained parameters and the buffers that belong to the state."""
    trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    state = model.state_dict()
    return trained | {name: b.detach().contiguous() for name, b in model.named_buffers() if name in state}


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Write what a method has to know to go on from a checkpoint, if there is any."""
    if tensors:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_atomically(file, save(contiguous, metadata={"format": "pt"}))


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer, each file whole or not at all."""
    with files_aside(folder) as aside:
        tokenizer.save_pretrained(str(aside))


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote.

    Raises:
        AdapterFileError: The file is damaged.
    """
    if not file.is_file():
        return {}
    with _explained(file):
        return load_file(str(file))


def open_adapter(base: PreTrainedModel, folder: Path) -> nn.Module:
    """The base model with the adapter in `folder`, ready to be trained on, checked as every PEFT user's is.

    Raises:
        AdapterFileError: It is missing, damaged, or of another model.
    """
    _require_file(folder / ADAPTER_FILE)
    with _explained(folder / ADAPTER_CONFIG):
        config = PeftConfig.from_pretrained(str(folder))
    with _explained(folder / ADAPTER_FILE):
        # PEFT keeps the tokens that a prompt's network has made, without the network, so they cannot be trained on.
        return align(PeftModel.from_pretrained(base, str(folder), is_trainable=not config.is_prompt_learning))


def load_trained(model: nn.Module, folder: Path) -> None:
    """Read what `save_trained` wrote back into a model that was built in the same way.

    Raises:
        AdapterFileError: The weights are missing, damaged, or those of another model.
    """
    file = folder / (ADAPTER_FILE if isinstance(model, PeftModel) else TRAINED_FILE)
    if not isinstance(model, PeftModel) and not file.is_file():
        file = folder / WHOLE_FILE
    _require_file(file)
    with _explained(file):
        _load(model, folder, file)


def _require_file(file: Path) -> None:
    if not file.is_file():
        raise AdapterFileError(f"{file.parent} has no {file.name}: pass a folder that `propulsion train` has finished.")


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # PEFT, torch and safetensors fail in as many ways as a file can be damaged
        if is_one_sentence(error):
            raise
        raise AdapterFileError(f"{file} cannot be read into this model: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _load(model: nn.Module, folder: Path, file: Path) -> None:
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"), model.active_adapters[0])
        return
    tensors = load_file(str(file))
    if missing := sorted(_changed(model).keys() - tensors.keys()):
        raise AdapterFileError(f"{file} lacks {missing[0]}: it is incomplete, or of another model.")
    unknown = model.load_state_dict(tensors, strict=False).unexpected_keys
    if unknown:
        raise AdapterFileError(f"{file} has {unknown[0]}, which this model lacks: it is of another model.")
