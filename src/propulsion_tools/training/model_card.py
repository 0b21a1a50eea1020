"""The model card: README.md beside the adapter, with the method and its numbers."""

from __future__ import annotations

import json
from pathlib import Path

from propulsion_tools.methods import get_method
from propulsion_tools.records import RunRecord, write_atomically
from propulsion_tools.tasks import Task
from propulsion_tools.training.base_models import MINILM, MINILM_HUB_ID
from propulsion_tools.training.console import number, size
from propulsion_tools.training.trained_files import ADAPTER_CONFIG, WHOLE_FILE


def write_card(record: RunRecord, task: Task, folder: Path) -> None:
    """Replace the empty card that PEFT leaves by one that says what this is and how good it is."""
    parts = [
        _front_matter(record, task, folder),
        _heading(record, task),
        _scores(record),
        _data(record),
        _costs(record),
        _use(record, folder),
    ]
    write_atomically(folder / "README.md", "\n".join(parts))


def base_model_name(record: RunRecord) -> str:
    """The base model as the hub knows it, or the last part of a local path."""
    name = record.spec.model_name_or_path
    if name == MINILM:
        return MINILM_HUB_ID
    return Path(name).name if Path(name).exists() else name


def _front_matter(record: RunRecord, task: Task, folder: Path) -> str:
    """What the hub reads: which library loads it, and how it was made of the base model."""
    library = {ADAPTER_CONFIG: "peft", WHOLE_FILE: "transformers"}
    loaded_by = [f"library_name: {name}" for file, name in library.items() if (folder / file).exists()]
    made = "finetune" if (folder / WHOLE_FILE).exists() else "adapter"
    lines = [
        "---",
        f"base_model: {json.dumps(base_model_name(record))}",
        *loaded_by[:1],
        "tags:",
        f"- {record.spec.method}",
        f"- base_model:{made}:{base_model_name(record)}",
        "metrics:",
        f"- {task.main_metric}",
        "---",
        "",
    ]
    return "\n".join(lines)


def _heading(record: RunRecord, task: Task) -> str:
    spec, method = record.spec, get_method(record.spec.method)
    details = f"learning rate {spec.learning_rate:g}, seed {spec.seed}"
    if method.is_propulsion:
        targets = spec.target_modules or method.name.partition("-")[2] or "all"
        named = targets if isinstance(targets, str) else ", ".join(targets)
        details = f"targets {named}, degree {spec.degree}, {details}"
    return (
        f"# {spec.method} on {spec.task}\n\n"
        f"`{base_model_name(record)}`, fine-tuned by **{spec.method}** ({method.description}) for {spec.task}: "
        f"{task.description}. Settings: {details}; all of them are in `record.json`.\n"
    )


def _scores(record: RunRecord) -> str:
    lines = [
        "## Scores\n",
        "Beside each score, that of giving every row the most frequent answer.\n",
        "| Split | Metric | Value | Most frequent answer |",
        "|---|---|---|---|",
    ]
    for split, values in record.metrics.items():
        always = record.majority.get(split, {})
        lines += [
            f"| {split} | {name} | {number(value)} | {number(always.get(name))} |" for name, value in values.items()
        ]
    if record.forgotten is not None:
        before, after = record.forgetting["before"], record.forgetting["after"]
        lines += [
            "",
            f"Forgetting: the loss per token on other text ({_cell(str(record.spec.forgetting_text))}) is "
            f"{number(after)} after training and was {number(before)} before, {record.forgotten:+.4f}.",
        ]
    return "\n".join(lines) + "\n"


def _data(record: RunRecord) -> str:
    """The rows of each split, the labels in the order of their ids, and the columns that were read."""
    spec = record.spec
    source = spec.dataset_name or (Path(spec.data_dir).name if spec.data_dir else f"that of the task {spec.task}")
    lines = ["## Data\n", "| | |", "|---|---|", f"| Source | {_cell(source)} |"]
    lines += [f"| Rows of {split} | {count:,} |" for split, count in record.rows.items()]
    if record.label_names:
        labels = ", ".join(f"{number} = {name}" for number, name in enumerate(record.label_names))
        lines.append(f"| Labels | {_cell(labels)} |")
    elif record.label_column:
        lines.append("| Labels | numbers |")
    named = {name.removesuffix("_column"): column for name, column in record.columns.items()}
    named |= {"label": record.label_column} if record.label_column else {}
    if named:
        columns = ", ".join(f"{name.replace('_', ' ')} from `{column}`" for name, column in named.items())
        lines.append(f"| Columns | {_cell(columns)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that ends no cell of a table."""
    return " ".join(text.replace("|", "\\|").splitlines())


def _costs(record: RunRecord) -> str:
    counts, seconds, environment = record.parameters, record.seconds, record.environment
    lines = [
        "## Costs\n",
        "| | |",
        "|---|---|",
        f"| Trained parameters, adapter | {counts['adapter']:,} |",
        f"| Trained parameters, head | {counts['head']:,} |",
        f"| All parameters | {counts['total']:,} |",
        f"| Size of the trained weights | {size(record.adapter_bytes)} |",
        f"| Training | {seconds['train']:.0f} s, {seconds['per_step_median'] * 1000:.0f} ms per step |",
        f"| Peak memory | {size(record.peak_memory_bytes)} |",
        f"| Device | {environment['device']}, {environment['threads']} threads |",
        f"| Versions | {', '.join(f'{name} {version}' for name, version in environment['versions'].items())} |",
    ]
    return "\n".join(lines) + "\n"


def _use(record: RunRecord, folder: Path) -> str:
    commands = (
        "## Use\n\n```bash\n"
        "propulsion evaluate PATH_OF_THIS_FOLDER\n"
        "propulsion predict PATH_OF_THIS_FOLDER --input texts.jsonl --output predictions.jsonl\n"
        "```\n"
    )
    if not (folder / ADAPTER_CONFIG).exists():
        return commands
    is_ours = get_method(record.spec.method).is_propulsion
    registers = "import propulsion  # registers the method\n" if is_ours else ""
    return commands + (
        "\nOr with PEFT, from a base model with the same labels:\n\n```python\n"
        f"{registers}from peft import PeftModel\n\n"
        'model = PeftModel.from_pretrained(base_model, "PATH_OF_THIS_FOLDER")\n```\n'
    )
