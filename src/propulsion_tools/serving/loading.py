"""The base model and the adapters of a folder, when the server starts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import set_seed

from propulsion import AdapterBank
from propulsion_tools.errors import OptionError, ToolsError
from propulsion_tools.records import RunSpec
from propulsion_tools.records.options import ServeOptions
from propulsion_tools.serving.adapters import Adapters
from propulsion_tools.serving.cards import KINDS, Sketch
from propulsion_tools.serving.errors import ApiError
from propulsion_tools.tasks import ModelKind, Setup, get_task
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


@dataclass(frozen=True)
class Plan:
    """What is to be served, by what the small files of the adapters say.

    Attributes:
        options: With the base model, the kind of task, and the folder's whole path.
        kind: What is served.
        sketches: The adapters.
    """

    options: ServeOptions
    kind: ModelKind
    sketches: list[Sketch]

    @property
    def key(self) -> str:
        """The same where the same base model is served, from the same folder."""
        options = self.options
        parts = (options.adapters, options.model_name_or_path, options.task_type, options.torch_dtype)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    @property
    def setup(self) -> Setup:
        """The base model's tokenizer and configuration."""
        path = str(self.options.model_name_or_path)
        return Setup(load_tokenizer(path), load_config(path))


def make_plan(options: ServeOptions, notify: Notify) -> Plan:
    """Find the adapters of the folder, their task, and their base model.

    Args:
        options: Name them.
        notify: Is told which adapters are left out, and why.

    Raises:
        OptionError: There is no such folder, or it is not clear what is to be served.
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
    base = model_path(options.model_name_or_path or _base_of(chosen, options))
    if Path(base).is_dir():
        base = str(Path(base).absolute())
    found = replace(options, adapters=str(root.resolve()), model_name_or_path=base, task_type=kind.peft_task_type)
    return Plan(found, kind, chosen)


def open_base(plan: Plan) -> tuple[AdapterBank, Adapters]:
    """The base model in a bank, and its adapters, of which there are none yet.

    Raises:
        OptionError: The model cannot be had.
    """
    options = plan.options
    spec = RunSpec(
        model_name_or_path=str(options.model_name_or_path), torch_dtype=options.torch_dtype, use_cpu=options.use_cpu
    )
    setup = plan.setup
    set_seed(0)
    base = load_base(spec, plan.kind, {"num_labels": 2} if plan.kind is QUESTION_ANSWERER else {}, setup.tokenizer)
    model = base.model.to(device_of(spec))
    bank = AdapterBank(model, capacity=options.capacity, host_budget=options.host_budget)
    vocabulary = int(model.get_input_embeddings().num_embeddings)
    root, limit = Path(options.adapters), options.max_adapters
    return bank, Adapters(bank, root, plan.kind, setup, vocabulary, base.fresh_heads, limit)


def load_all(adapters: Adapters, plan: Plan, notify: Notify) -> None:
    """Serve the adapters of a plan; those that are refused are named.

    Raises:
        OptionError: One can be loaded nowhere, which is no fault of its own.
    """
    for sketch in plan.sketches:
        try:
            name = sketch.folder.name or sketch.folder.resolve().name
            adapters.load(str(sketch.folder.absolute()), name, sketch)
        except ApiError as error:
            if error.status >= 500:
                raise OptionError(f"{sketch.folder.name} cannot be loaded: {error.message}") from error
            notify(f"{sketch.folder.name} is left out: {error.message}")


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
