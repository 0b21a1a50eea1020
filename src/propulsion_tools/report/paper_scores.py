"""The paper's number beside ours, where model, data set, method and metric are the same."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from propulsion_tools.methods.paper_results import PaperResult, paper_results
from propulsion_tools.methods.paper_settings import paper_setting

# What the paper calls our tasks, where more differs than case and punctuation.
ALIASES = {
    "squad": "squadv11",
    "squad_v2": "squadv20",
    "conll2003": "conll03",
    "hellaswag": "hswag",
    "winogrande": "wgrande",
    "arc_easy": "arce",
    "arc_challenge": "arcc",
}

# What we call the paper's metrics, where it is not what the paper does: its R-L of several sentences is summary-level.
METRICS = {("cnndailymail", "rougeL"): "rougeLsum"}


def paper_score(model: str, method: str, task: str, metric: str) -> float | None:
    """What the paper reports, out of 100; None where it has no such number.

    Args:
        model: A folder or hub id; its last part is the name that the paper knows.
        method: Our name, for a method with its usual settings.
        task: Our name.
        metric: Our name.
    """
    return _scores().get((Path(model).name.lower(), method, _plain(ALIASES.get(task, task)), metric))


@cache
def _scores() -> dict[tuple[str, str, str, str], float]:
    scores: dict[tuple[str, str, str, str], float] = {}
    for row in paper_results():
        if row.value and (method := _method(row)) is not None:
            dataset = _plain(row.dataset)
            metric = METRICS.get((dataset, row.metric), row.metric)
            scores.setdefault((row.model.lower(), method, dataset, metric), float(row.value))
    return scores


def _method(row: PaperResult) -> str | None:
    setting = paper_setting(row.model, row.table, row.method)
    return setting.method if setting else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
