"""The base model and the adapters of a folder, when the server starts."""

from __future__ import annotations

from pathlib import Path

from transformers import set_seed

from propulsion import AdapterBank
from propulsion_tools.errors import OptionError, ToolsError
from propulsion_tools.records import RunSpec
from propulsion_tools.records.options import ServeOptions
from propulsion_tools.serving.adapters import Adapters
from propulsion_tools.serving.cards import KINDS, Sketch
from propulsion_tools.serving.errors import ApiError
from propulsion_tools.tasks import Setup, get_task
from propulsion_tools.tasks.model_kinds import QUESTION_ANSWERER
from propulsion_tools.training.base_models import (
    load_base,
    load_config,
    load_tokenizer,
    model_path,
    public_name,
)
from propulsion_tools.training.device import device_of
from propulsion_tools.training.moved_runs import located
from propulsion_tools.training.notify import Notify
from propulsion_tools.training.trained_files import ADAPTER_CONFIG


def open_adapters(options: ServeOptions, notify: Notify) -> Adapters:
    """The base model, and each adapter of the folder that can be served.

    Args:
        options: Name them.
        notify: Is told which adapters are refused, and why.

    Raises:
        OptionError: There is no such folder, or it is not clear what is to be served, or the model cannot be had.
    """
    root = Path(options.adapters)
    sketches = _sketches(root, notify)
    types = [_type_of(sketch) for sketch in sketches]
    kind = KINDS[_task_type(types, options)]
    chosen = []
    for sketch, task_type in zip(sketches, types, strict=True):
        if task_type == kind.peft_task_type:
            chosen.append(sketch)
        else:
            notify(f"{sketch.folder.name} is left out: it is for {task_type}.")
    name = options.model_name_or_path or _base_of(chosen, options)
    spec = RunSpec(model_name_or_path=name, torch_dtype=options.torch_dtype, use_cpu=options.use_cpu)
    path = model_path(name)
    setup = Setup(load_tokenizer(path), load_config(path))
    set_seed(0)
    base = load_base(spec, kind, {"num_labels": 2} if kind is QUESTION_ANSWERER else {}, setup.tokenizer)
    model = base.model.to(device_of(spec))
    bank = AdapterBank(model, capacity=options.capacity, host_budget=options.host_budget)
    adapters = Adapters(bank, root, kind, setup, base.fresh_heads, options.max_adapters)
    for sketch in chosen:
        try:
            adapters.load(str(sketch.folder.absolute()), sketch.folder.name or sketch.folder.resolve().name)
        except ApiError as error:
            notify(f"{sketch.folder.name} is left out: {error.message}")
    return adapters


def _sketches(root: Path, notify: Notify) -> list[Sketch]:
    if not root.is_dir():
        raise OptionError(f"There is no folder {root}: name the folder of the adapters with --adapters.")
    if (root / ADAPTER_CONFIG).is_file():
        return [Sketch.read(root)]
    found = []
    for folder in sorted(root.iterdir()):
        if not (folder / ADAPTER_CONFIG).is_file():
            continue
        try:
            found.append(Sketch.read(folder))
        except ToolsError as error:
            notify(f"{folder.name} is left out: {error}")
    return found


def _type_of(sketch: Sketch) -> str | None:
    """What PEFT calls the task of an adapter; of a run without it, by the run's task."""
    if sketch.task_type is not None or sketch.record is None:
        return sketch.task_type
    config = load_config(model_path(sketch.record.spec.model_name_or_path))
    return get_task(str(sketch.record.spec.task)).model_kind(config).peft_task_type


def _task_type(types: list[str | None], options: ServeOptions) -> str:
    found = sorted(set(map(str, types)))
    wanted = options.task_type or (found[0] if len(found) == 1 else None)
    if wanted is None and not found:
        raise OptionError(
            f"There are no adapters in {options.adapters}: name another folder, or what is to be served with "
            "--task_type and --model_name_or_path."
        )
    if wanted is None:
        raise OptionError(f"The adapters are for {' and '.join(found)}: choose one of these with --task_type.")
    if wanted not in KINDS:
        raise OptionError(f"The adapters are for {wanted}, and only {', '.join(KINDS)} can be served.")
    return wanted


def _base_of(sketches: list[Sketch], options: ServeOptions) -> str:
    """The base model that all adapters name."""
    names = {}
    for sketch in sketches:
        if sketch.base is None:
            continue
        name = located(sketch.record.spec, sketch.folder, options).model_name_or_path if sketch.record else sketch.base
        names[public_name(model_path(name))] = name
    if not names:
        raise OptionError("No adapter names its base model: name it with --model_name_or_path.")
    if len(names) > 1:
        raise OptionError(
            f"The adapters name {len(names)} base models, {' and '.join(sorted(names.values())[:4])}: choose one with "
            "--model_name_or_path."
        )
    return next(iter(names.values()))
