"""The ablations of the paper's section 4.5 and appendix F, as grids that are ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from propulsion_tools.compare.grid import EVERY_ROW, Grid, Rates, Settings
from propulsion_tools.errors import check_name
from propulsion_tools.methods import get_method
from propulsion_tools.records import RUN_FACTS, RunSpec
from propulsion_tools.records.fields import AUTO, borrowed_fields
from propulsion_tools.records.options import AblateOptions

DEGREES = (0, 1, 5, 10, 15, 20, 25, 35, 50, 75, 100, 150, 200, 500)
VECTORS = (1, 2, 3, 5, 10, 15, 20)
NOISE = 0.001
"""What tells the vectors of one layer apart: without it they would stay equal for ever."""


@dataclass(frozen=True)
class Ablation:
    """One question.

    Attributes:
        title: Of the report.
        source: What of the paper it repeats.
        axis: What is changed.
        rows: Fields of `RunSpec` by the value that is tried; numbers are drawn on an axis, words as bars.
        notes: What a reader has to know.
    """

    title: str
    source: str
    axis: str
    rows: Mapping[int | str, Settings]
    notes: tuple[str, ...] = ()


def _initialization(name: str) -> Settings:
    return {"init_weights": True if name == "ones (the identity)" else name}


ABLATIONS: dict[str, Ablation] = {
    "degree": Ablation(
        "Which degree?",
        "figure 5",
        "degree k",
        {degree: {"degree": degree} for degree in DEGREES},
        ("Degree 0 steers nothing: the head alone is trained.",),
    ),
    "position": Ablation(
        "Which layers?",
        "table 5",
        "steered layers",
        {
            name: {"method": f"propulsion-{preset}"}
            for name, preset in (
                ("Embedding", "embedding"),
                ("MLP", "mlp"),
                ("Key", "key"),
                ("Value", "value"),
                ("Query", "query"),
                ("K+Q+V", "attn"),
                ("All", "all"),
            )
        },
    ),
    "initialization": Ablation(
        "Where to start?",
        "figure 8",
        "start of z",
        {name: _initialization(name) for name in ("ones (the identity)", "zeros", "normal", "uniform", "xavier")},
    ),
    "vectors": Ablation(
        "How many vectors?",
        "figure 10",
        "vectors per layer",
        {count: {"num_vectors": count, "init_noise": NOISE if count > 1 else 0.0} for count in VECTORS},
        (f"With more than one vector, each starts with noise of standard deviation {NOISE}, which tells them apart.",),
    ),
    "pooling": Ablation(
        "How to pool several vectors?",
        "figure 11",
        "pooling",
        {name: {"num_vectors": 2, "pooling": name, "init_noise": NOISE} for name in ("mean", "max", "min", "l2")},
        (f"Two vectors per layer that start with noise of standard deviation {NOISE}, which tells them apart.",),
    ),
}


def get_ablation(name: str) -> Ablation:
    """The ablation of this name.

    Raises:
        UnknownNameError: There is none; names the near misses.
    """
    check_name("ablation", name, ABLATIONS)
    return ABLATIONS[name]


def ablation_grid(name: str, options: AblateOptions) -> Grid:
    """The grid of an ablation.

    Raises:
        UnknownNameError: There is no such ablation, or no such task; names the near misses.
        OptionError: A value is out of range.
    """
    ablation = get_ablation(name)
    tasks = (options.task,) if isinstance(options.task, str) else options.task
    fields = [name for name in borrowed_fields(AblateOptions) if RUN_FACTS[name].elsewhere is None]
    settings: dict[str, Any] = {field: value for field in fields if (value := getattr(options, field)) is not None}
    # Ten evaluations, for the score against the steps.
    settings |= {"logging_steps": 5, "eval_strategy": "steps", "eval_steps": 0.1}
    return Grid(
        name=f"ablate-{name}",
        title=f"{ablation.title} The ablation of {ablation.source}",
        notes=(*ablation.notes, _rate_note(options)),
        methods={row_label(ablation, value): {"method": "propulsion", **row} for value, row in ablation.rows.items()},
        tasks={task: {"task": task} for task in tasks},
        settings=settings,
        learning_rates=_rates(options),
        seeds=options.seeds,
        data_root=options.data_root,
        output_dir=options.output_dir,
        keep_weights=False,
    )


def row_label(ablation: Ablation, value: int | str) -> str:
    """The row of the grid that tries this value."""
    return f"{ablation.axis} = {value}" if isinstance(value, int) else value


def _rates(options: AblateOptions) -> Mapping[str, Rates]:
    """One rate for every row, the one of the method at its usual degree if none is given; or each row its own."""
    if options.scale_rate:
        return {}
    if options.learning_rate == AUTO:
        return {EVERY_ROW: AUTO}
    return {EVERY_ROW: (float(options.learning_rate or get_method("propulsion").learning_rate(RunSpec())),)}


def _rate_note(options: AblateOptions) -> str:
    if options.scale_rate:
        return "Each row at its usual learning rate, which falls with the degree: a step in z moves z^k k times as far."
    (rates,) = _rates(options).values()
    if rates == AUTO:
        return "Each row at the learning rate that was best for it on training rows set aside."
    return f"Every row at the learning rate {rates[0]:g}; the head at its own."
