"""Every task's name, and the module of this package that defines it. Nothing is imported to know a name."""

from __future__ import annotations

from collections.abc import Collection

from propulsion_tools.errors import check_name

_NAMES = {
    "classification_datasets": (
        "docstrings",
        "text-classification",
        "text-regression",
        "sst2",
        "cola",
        "mrpc",
        "qqp",
        "qnli",
        "rte",
        "mnli",
        "snli",
        "stsb",
        "emotion",
        "fake_news_filipino",
    ),
    "span_datasets": (
        "squad",
        "squad_v2",
        "question-answering",
        "docstring_questions",
        "docstring_questions_v2",
        "conll2003",
        "ncbi_disease",
        "wikiann",
        "token-classification",
        "docstring_mentions",
    ),
    "summarization": ("summaries", "xsum", "cnn_dailymail"),
    "commonsense": (
        "boolq",
        "boolq_ranking",
        "piqa",
        "piqa_ranking",
        "siqa",
        "siqa_ranking",
        "hellaswag",
        "hellaswag_ranking",
        "winogrande",
        "winogrande_ranking",
        "arc_easy",
        "arc_easy_ranking",
        "arc_challenge",
        "arc_challenge_ranking",
        "obqa",
        "obqa_ranking",
    ),
    "arithmetic": ("multiarith", "gsm8k", "addsub", "singleeq", "svamp", "aqua", "math"),
    "language_modelling": ("completions", "language-modelling"),
}
TASK_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def check_task_name(name: str, known: Collection[str] = TASK_MODULES.keys()) -> None:
    """Refuse the name of a task that there is not.

    Raises:
        UnknownNameError: It is not `known`; names the near misses.
    """
    check_name("task", name, known)
