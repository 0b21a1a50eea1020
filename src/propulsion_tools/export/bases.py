"""The base model of an adapter, as a folder and the class that reads it, before any of its weights are in memory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from peft import PeftConfig
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from propulsion.adapter_files import is_vector
from propulsion.errors import AdapterFileError
from propulsion.upstream.peft_private import name_in_base
from propulsion_tools.errors import OptionError
from propulsion_tools.export.checkpoints import weight_files
from propulsion_tools.records import RECORD_FILE, RunRecord
from propulsion_tools.tasks import get_task
from propulsion_tools.training.base_models import NO_CODE, SAFELY, explained, model_path, quiet_transformers
from propulsion_tools.training.trained_files import ADAPTER_FILE
from propulsion_tools.upstream.bitsandbytes_private import keep_packing

AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
}
"""What transformers builds for each task of PEFT."""
WANTED_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class Base:
    """A base model that has not been loaded.

    Attributes:
        folder: Where its files are.
        class_name: The class of transformers, automatic or not, that reads it.
        fields: What the adapter's task wants in its configuration, for example `num_labels`.
    """

    folder: Path
    class_name: str
    fields: dict[str, Any] = field(default_factory=dict)

    def config(self) -> PreTrainedConfig:
        """Its configuration, for the adapter's task."""
        with explained(str(self.folder), "model"):
            return AutoConfig.from_pretrained(self.folder, **NO_CODE, **self.fields)

    def skeleton(self) -> PreTrainedModel:
        """The model without weights."""
        model_class = getattr(transformers, self.class_name)
        build = model_class.from_config if self.class_name.startswith("Auto") else model_class
        with explained(str(self.folder), "model"), torch.device("meta"):
            return build(self.config())

    @contextlib.contextmanager
    def loaded(self, whole: set[str], device_map: str | None) -> Iterator[PreTrainedModel]:
        """The model with its weights in float32, for evaluation; what does not fit into memory stays on the disk.

        Args:
            whole: Parameters that an adapter brings, so that the checkpoint need not have them.
            device_map: Where the weights go; None: into memory, or as "auto" says where they do not fit.

        Raises:
            OptionError: It cannot be loaded, or lacks parameters.
        """
        place = device_map or ("auto" if self._is_large() else None)
        with tempfile.TemporaryDirectory() as folder:
            arguments = {"device_map": place, "offload_folder": folder} if place else {}
            with explained(str(self.folder), "model"), quiet_transformers():
                model, info = getattr(transformers, self.class_name).from_pretrained(
                    self.folder,
                    output_loading_info=True,
                    dtype=torch.float32,
                    **SAFELY,
                    **arguments,
                    **self.fields,
                )
            if missing := sorted(set(info["missing_keys"]) - whole):
                raise OptionError(
                    f"The weights in {self.folder} lack {missing[0]}, and the adapter has not trained it: it would "
                    "start at random. Name the base model that the adapter was trained on with --model_name_or_path."
                )
            keep_packing(model)
            yield model.eval()

    def _is_large(self) -> bool:
        """Whether its weights take more than half of the memory that is free, once they are in float32."""
        wanted = sum(file.stat().st_size for file in weight_files(self.folder)) * 2
        return wanted > psutil.virtual_memory().available / 2


def open_base(adapter_dir: Path, config: PeftConfig, model_name_or_path: str | None) -> Base:
    """The base model of an adapter.

    Args:
        adapter_dir: The adapter's folder, of a run of `propulsion train` or saved by PEFT.
        config: Its configuration.
        model_name_or_path: Another place of the base model than the one that the adapter names.

    Raises:
        OptionError: It cannot be had, or its kind cannot be told.
        AdapterFileError: The adapter has a head that this base model has no place for.
    """
    record = RunRecord.read(adapter_dir) if (adapter_dir / RECORD_FILE).is_file() else None
    named = record.spec.model_name_or_path if record else config.base_model_name_or_path
    name = model_name_or_path or named
    if not name:
        raise OptionError(f"{adapter_dir} does not name its base model: name it with --model_name_or_path.")
    folder = _local_folder(model_path(name), config.revision if name == named else None)
    weight_files(folder)
    base = Base(folder, _class_name(config, folder))
    if record is not None:
        return Base(folder, base.class_name, get_task(str(record.spec.task)).model_kwargs(record.label_names))
    return _with_labels(base, saved_whole(adapter_dir))


def saved_whole(adapter_dir: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of what an adapter has trained in full, a head for example, by the names in the base model."""
    with safe_open(adapter_dir / ADAPTER_FILE, framework="pt") as file:
        return {_name(key): tuple(file.get_slice(key).get_shape()) for key in file.keys() if not _is_part(key)}  # noqa: SIM118


def read_whole(adapter_dir: Path) -> dict[str, Tensor]:
    """What an adapter has trained in full, by the names in the base model."""
    with safe_open(adapter_dir / ADAPTER_FILE, framework="pt") as file:
        return {_name(key): file.get_tensor(key).clone() for key in file.keys() if not _is_part(key)}  # noqa: SIM118


def _name(key: str) -> str:
    """The name in the base model of what an adapter has saved whole, a steered embedding's own weight among it."""
    return name_in_base(key).replace(".base_layer.", ".")


def _is_part(key: str) -> bool:
    """Whether a key of an adapter of ours, or of (IA)³, is one of a layer's vectors."""
    return is_vector(key) or key.endswith(".ia3_l")


def _local_folder(name: str, revision: str | None) -> Path:
    if Path(name).is_dir():
        return Path(name)
    try:
        found = snapshot_download(name, revision=revision, allow_patterns=WANTED_FILES, ignore_patterns=["*/*"])
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise OptionError(
            f"The base model {name!r} is no folder here and could not be fetched from the hub: name its folder with "
            f"--model_name_or_path. ({first})"
        ) from error
    return Path(found)


def _class_name(config: PeftConfig, folder: Path) -> str:
    """The class that builds what the adapter was trained in."""
    if config.task_type is not None and str(config.task_type) in AUTO_CLASSES:
        return AUTO_CLASSES[str(config.task_type)]
    named = (config.auto_mapping or {}).get("base_model_class")
    if named is None:
        with explained(str(folder), "model"):
            named = next(iter(AutoConfig.from_pretrained(folder, **NO_CODE).architectures or ()), None)
    model_class = getattr(transformers, str(named), None)
    if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
        raise OptionError(
            f"The adapter was trained in a {named or 'model'} that transformers does not have, so that it cannot be "
            "exported; merge it in your own code with merge_and_unload()."
        )
    return str(named)


def _with_labels(base: Base, whole: dict[str, tuple[int, ...]]) -> Base:
    """With the number of labels for which the head in the adapter fits the model."""
    if not whole:
        return base
    usual = base.config().num_labels
    for labels in dict.fromkeys([usual, *(shape[0] for shape in whole.values() if shape)]):
        candidate = base if labels == usual else Base(base.folder, base.class_name, {"num_labels": labels})
        state = candidate.skeleton().state_dict()
        if all(name in state and tuple(state[name].shape) == shape for name, shape in whole.items()):
            return candidate
    name, shape = next(iter(whole.items()))
    raise AdapterFileError(
        f"The adapter has weights for {name} of the shape {shape}, for which a {base.class_name} of {base.folder} has "
        "no place: name the base model that it was trained on with --model_name_or_path."
    )
