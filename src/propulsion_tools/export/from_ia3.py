"""`propulsion import`: an adapter that PEFT's (IA)³ has trained becomes one of Propulsion."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftConfig, get_peft_model
from safetensors import SafetensorError, safe_open
from torch import Tensor

from propulsion import PropulsionConfig
from propulsion.adapter_files import check_finite
from propulsion.errors import AdapterFileError
from propulsion.layers import PropulsionLayer
from propulsion.upstream.peft_private import name_in_base
from propulsion_tools.errors import OptionError
from propulsion_tools.export.agreement import TOLERANCES, compare
from propulsion_tools.export.bases import Base, open_base, read_whole
from propulsion_tools.export.export import name_base, new_folder, outputs_with, save, sentence
from propulsion_tools.export.formats import ADAPTER
from propulsion_tools.inspection.adapter_config import read_config
from propulsion_tools.records.options import ImportOptions
from propulsion_tools.training.notify import Notify, keep_quiet
from propulsion_tools.training.trained_files import ADAPTER_FILE

SUFFIX = ".ia3_l"


def from_ia3(adapter_dir: Path, options: ImportOptions, notify: Notify = keep_quiet) -> Path:
    """Write an adapter of Propulsion that computes what an adapter of (IA)³ does.

    Args:
        adapter_dir: What PEFT saved.
        options: The degree, and where it goes.
        notify: Is told what was written, and how far its outputs are.

    Returns:
        The folder that was written.

    Raises:
        OptionError: It scales inputs (feedforward_modules), or a vector has no root of this degree; the output folder
            is in use, or the base model cannot be had.
        AdapterFileError: It is no adapter of (IA)³, or is damaged.
        ExportError: What was written does not compute the same; it was removed.
    """
    config, vectors = read_ia3(adapter_dir)
    if config.feedforward_modules:
        raise OptionError(
            f"{adapter_dir} scales the inputs of {', '.join(sorted(config.feedforward_modules))}, and Propulsion "
            "scales outputs: only (IA)³ with feedforward_modules=[] can be imported."
        )
    deltas = {name: delta_of(name, vector, options.degree) for name, vector in vectors.items()}
    base = open_base(adapter_dir, config, options.model_name_or_path)
    output = Path(options.output or f"{adapter_dir}-propulsion")
    with new_folder(output) as folder:
        expected = outputs_with(base, adapter_dir, options.device_map)
        _write(adapter_dir, config, base, deltas, folder, options)
        agreement = compare(expected, outputs_with(base, folder, options.device_map))
        agreement.check(TOLERANCES[torch.float32] if options.tolerance is None else options.tolerance)
    notify(sentence(output, agreement))
    return output


def delta_of(name: str, vector: Tensor, degree: int) -> Tensor:
    """δ with (1 + δ)^k = l.

    Args:
        name: Of the layer, for the message.
        vector: l, of any shape with d_out values.
        degree: k.

    Returns:
        Shape (1, d_out), float32, from a root in float64.

    Raises:
        OptionError: k is 0, or even where a value of l is negative.
    """
    if degree < 1:
        raise OptionError(f"degree must be at least 1 to have roots, and not {degree}.")
    wide = vector.reshape(1, -1).double()
    if degree % 2 == 0 and bool((wide < 0).any()):
        raise OptionError(f"{name} has negative gains, which have no root of degree {degree}: choose an odd --degree.")
    return (wide.sign() * wide.abs() ** (1 / degree) - 1).float()


def read_ia3(adapter_dir: Path) -> tuple[PeftConfig, dict[str, Tensor]]:
    """The configuration of an adapter of (IA)³, and l for each layer by its name in the base model.

    Raises:
        AdapterFileError: It is no adapter of (IA)³, or is damaged, incomplete or not finite.
    """
    config = read_config(adapter_dir, "IA3")
    path = adapter_dir / ADAPTER_FILE
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AdapterFileError(f"{path} is damaged ({error}): get the adapter again.") from error
    check_finite(found, str(path))
    vectors = {name_in_base(key).removesuffix(SUFFIX): value for key, value in found.items() if key.endswith(SUFFIX)}
    if not vectors:
        raise AdapterFileError(f"{path} holds no vectors: the file is incomplete.")
    return config, vectors


def _write(
    adapter_dir: Path,
    source: PeftConfig,
    base: Base,
    deltas: dict[str, Tensor],
    folder: Path,
    options: ImportOptions,
) -> None:
    config = PropulsionConfig(
        task_type=source.task_type,
        target_modules=sorted(deltas),
        degree=options.degree,
        modules_to_save=source.modules_to_save,
        inference_mode=True,
    )
    whole = read_whole(adapter_dir)
    with base.loaded(set(whole), options.device_map) as model:
        imported = get_peft_model(model, config)
        name_base(config, source.base_model_name_or_path, source)
        for name, layer in imported.base_model.model.named_modules():
            if isinstance(layer, PropulsionLayer):
                delta = layer.propulsion_delta[ADAPTER].weight
                if name not in deltas or deltas[name].shape != delta.shape:
                    raise AdapterFileError(
                        f"{adapter_dir} does not fit {name} of its base model: it is of another one."
                    )
                delta.data = deltas[name].to(delta.device)
        save(imported, whole, folder)
