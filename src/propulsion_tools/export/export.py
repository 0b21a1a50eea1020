"""`propulsion export`: read an adapter, write it in another form, and see that both compute the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel

from propulsion.heads import is_saved_whole
from propulsion.layers import PropulsionLayer
from propulsion_tools.errors import OptionError
from propulsion_tools.export.agreement import TOLERANCES, Agreement, compare, outputs_of
from propulsion_tools.export.bases import Base, open_base, read_whole, saved_whole
from propulsion_tools.export.checkpoints import check_shard_size, open_checkpoint
from propulsion_tools.export.companions import write_companions
from propulsion_tools.export.formats import ADAPTER, FORMATS, Format, check_one_gain, gain_of
from propulsion_tools.export.merged import refuse_quantized, write_merged
from propulsion_tools.inspection.adapter_config import read_config
from propulsion_tools.records.options import MERGED, ExportOptions
from propulsion_tools.training.notify import Notify, keep_quiet
from propulsion_tools.training.trained_files import refuse_changed

BASE_FOLDER = "base"


@dataclass(frozen=True)
class Adapter:
    """A saved adapter of ours with its base model, neither of them loaded.

    Attributes:
        folder: Where the adapter lies.
        config: Its configuration.
        base: Its base model.
        layers: The steering layers by name, around layers without weights.
    """

    folder: Path
    config: PeftConfig
    base: Base
    layers: Mapping[str, PropulsionLayer]


def export(adapter_dir: Path, options: ExportOptions, notify: Notify = keep_quiet) -> Path:
    """Write an adapter in another form.

    Args:
        adapter_dir: The folder of a run of `propulsion train`, or what `save_pretrained` wrote.
        options: The form, and where it goes.
        notify: Is told what was written, and how far its outputs are from the adapter's.

    Returns:
        The folder that was written.

    Raises:
        OptionError: The form has no place for what the adapter has, the output folder is in use, or the base model
            cannot be had.
        AdapterFileError: It is no adapter of ours, or is damaged, or of another model.
        MergeError: The vectors cannot be folded into these weights.
        ExportError: What was written does not compute the same; it was removed.
    """
    check_shard_size(options.max_shard_size)
    adapter = open_adapter(adapter_dir, options.model_name_or_path)
    kept, folded = _divided(adapter, options)
    output = Path(options.output or f"{adapter_dir}-{options.format}")
    with new_folder(output) as folder:
        expected = _outputs(adapter.base, adapter.folder, options)
        base, tolerance = adapter.base, TOLERANCES[torch.float32]
        if folded or options.format == MERGED:
            merged_folder = folder if options.format == MERGED else folder / BASE_FOLDER
            tolerance = _merge(adapter, folded, merged_folder, options, notify)
            base = Base(merged_folder, adapter.base.class_name)
        if options.format == MERGED:
            agreement = compare(expected, _outputs(base, None, options))
        else:
            named = str((output / BASE_FOLDER).resolve()) if folded else adapter.config.base_model_name_or_path
            _write_adapter(adapter, kept, base, folder, named, options)
            agreement = compare(expected, _outputs(base, folder, options))
        agreement.check(tolerance if options.tolerance is None else options.tolerance)
    notify(sentence(output, agreement))
    return output


def open_adapter(adapter_dir: Path, model_name_or_path: str | None) -> Adapter:
    """Read an adapter of ours, and put it into its base model without weights.

    Raises:
        AdapterFileError, OptionError, MergeError: As `export`.
    """
    refuse_changed(adapter_dir)
    config = read_config(adapter_dir, "PROPULSION")
    base = open_base(adapter_dir, config, model_name_or_path)
    steered = PeftModel.from_pretrained(base.skeleton(), str(adapter_dir), low_cpu_mem_usage=True)
    named = steered.base_model.model.named_modules()
    layers = {name: module for name, module in named if isinstance(module, PropulsionLayer)}
    for name, layer in layers.items():
        check_one_gain(name, layer)
    return Adapter(adapter_dir, config, base, layers)


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder beside the one that is wanted, which takes its name at the end, and is removed after an error.

    Raises:
        OptionError: There is something already.
    """
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise OptionError(f"{output} exists already: name another --output, or remove it.")
    partial_folder = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    partial_folder.mkdir(parents=True)
    try:
        yield partial_folder
        os.replace(partial_folder, output)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def sentence(output: Path, agreement: Agreement) -> str:
    """What to tell of an export that has succeeded."""
    return (
        f"Written to {output}. Read back, its outputs differ from the adapter's by at most {agreement.difference:.2g} "
        f"({agreement.share:.1g} of the largest)."
    )


def outputs_with(base: Base, adapter_dir: Path | None, device_map: str | None) -> dict[str, Tensor]:
    """What a base model computes with the adapter in a folder, or alone."""
    whole = set(saved_whole(adapter_dir)) if adapter_dir else set()
    with base.loaded(whole, device_map) as model:
        steered = PeftModel.from_pretrained(model, str(adapter_dir)).eval() if adapter_dir else model
        return outputs_of(steered, model.config, model.main_input_name)


def _outputs(base: Base, adapter_dir: Path | None, options: ExportOptions) -> dict[str, Tensor]:
    return outputs_with(base, adapter_dir, options.device_map)


def _divided(adapter: Adapter, options: ExportOptions) -> tuple[dict[str, PropulsionLayer], dict[str, PropulsionLayer]]:
    """The layers that stay in the adapter, and those that go into the base model's weights.

    Raises:
        OptionError: A layer does not fit into the form, and may not be folded either.
    """
    if options.format == MERGED:
        refuse_quantized(adapter.base.config())
        return {}, dict(adapter.layers)
    refusals = _refusals(adapter, FORMATS[options.format])
    kept = {name: layer for name, layer in adapter.layers.items() if name not in refusals}
    if refusals and not (kept and options.fold_unsupported):
        name, reason = next(iter(refusals.items()))
        others = f", and {len(refusals) - 1} more do not fit" if len(refusals) > 1 else ""
        fold = "Fold just those into a copy of the base model with --fold_unsupported, or choose" if kept else "Choose"
        raise OptionError(
            f"{options.format} has no place for {name}: it {reason}{others}. {fold} --format merged, which folds all."
        )
    return kept, {name: adapter.layers[name] for name in refusals}


def _refusals(adapter: Adapter, chosen: Format) -> dict[str, str]:
    found = {name: chosen.refusal(layer) for name, layer in adapter.layers.items()}
    return {name: reason for name, reason in found.items() if reason is not None}


def _merge(
    adapter: Adapter, layers: Mapping[str, PropulsionLayer], folder: Path, options: ExportOptions, notify: Notify
) -> float:
    """Write a base model with layers folded in, and everything that was trained in full; gives the tolerance."""
    folder.mkdir(exist_ok=True)
    skeleton = adapter.base.skeleton()
    whole = read_whole(adapter.folder)
    write_merged(adapter.base.folder, skeleton, layers, whole, folder, options.max_shard_size)
    missing = write_companions(
        adapter.folder, adapter.base.folder, folder, skeleton.config, generates=skeleton.can_generate()
    )
    if missing:
        notify(missing)
    with open_checkpoint(folder) as checkpoint:
        dtypes = {checkpoint.dtype(key) for key in checkpoint.keys}
    return max((TOLERANCES.get(dtype, 0.0) for dtype in dtypes), default=0.0)


def _write_adapter(
    adapter: Adapter,
    layers: Mapping[str, PropulsionLayer],
    base: Base,
    folder: Path,
    base_name: str | None,
    options: ExportOptions,
) -> None:
    """Write the layers as an adapter of one of PEFT's own methods, and everything that was trained in full with it."""
    chosen, source = FORMATS[options.format], adapter.config
    common: dict[str, Any] = {
        "task_type": source.task_type,
        "target_modules": sorted(layers),
        "modules_to_save": source.modules_to_save,
        "inference_mode": True,
    }
    whole = read_whole(adapter.folder)
    # PEFT saves the weight of a steered embedding too, which is the base model's, or folded into its copy.
    whole = {name: value for name, value in whole.items() if name.rpartition(".")[0] not in adapter.layers}
    with base.loaded(set(whole), options.device_map) as model, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exported = get_peft_model(model, chosen.config(common, layers))
        name_base(exported.peft_config[ADAPTER], base_name, source)
        fill(exported.base_model.model, layers, chosen)
        save(exported, whole, folder)


def name_base(config: PeftConfig, name: str | None, source: PeftConfig) -> None:
    """Let an adapter name its base model: the one that another adapter names, or another."""
    config.base_model_name_or_path = name
    config.revision = source.revision if name == source.base_model_name_or_path else None


def save(model: PeftModel, whole: Mapping[str, Tensor], folder: Path) -> None:
    """Save an adapter with what another has trained in full."""
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    set_peft_model_state_dict(model, own | {f"base_model.model.{name}": value for name, value in whole.items()})
    config = model.peft_config[ADAPTER]
    modules = config.modules_to_save or ()
    # PEFT's model card reads the base model's name here, where it is the folder of the moment.
    base = model.get_base_model()
    base.name_or_path = base.config.name_or_path = config.base_model_name_or_path or ""
    # PEFT keeps embeddings with an adapter that are none of its modules: they are here if they were there.
    has_embeddings = any(not is_saved_whole(name, modules) for name in whole)
    model.save_pretrained(str(folder), save_embedding_layers=has_embeddings)


def fill(model: PreTrainedModel, layers: Mapping[str, PropulsionLayer], chosen: Format) -> None:
    """Put the gains into PEFT's layers.

    Raises:
        OptionError: PEFT has wrapped others than were named.
    """
    wrapped = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    if other := sorted(wrapped.keys() ^ layers.keys()):
        raise OptionError(f"PEFT does not tell {other[0]} from others by its name: choose --format merged.")
    for name, layer in layers.items():
        chosen.write(wrapped[name], gain_of(layer))
