"""The tasks of the text classification family: what a data set calls its columns and labels, and how it is scored."""

from __future__ import annotations

from typing import Any

from propulsion_tools.tasks.classification import TextClassification
from propulsion_tools.tasks.columns import Columns
from propulsion_tools.tasks.hub import PARQUET
from propulsion_tools.tasks.mining import mine_packages

_THREE_WAYS = ("entailment", "neutral", "contradiction")
_ENTAILMENT = ("entailment", "not_entailment")
_FITS = ("pearson", "spearman")


def _glue(name: str, description: str, text: str, pair: str | None, **settings: Any) -> TextClassification:
    columns = Columns(text, pair, "label")
    return TextClassification(name, description, columns, hub_id="nyu-mll/glue", hub_config=name, **settings)


TASKS = (
    TextClassification(
        "docstrings",
        "which Python package a docstring is from, 8 classes",
        Columns("text", None, "label"),
        default=mine_packages,
    ),
    TextClassification("text-classification", "any texts or pairs of texts with classes"),
    TextClassification("text-regression", "any texts or pairs of texts with a number", scores=_FITS, regression=True),
    _glue("sst2", "sentiment of film reviews", "sentence", None, label_names=("negative", "positive")),
    _glue(
        "cola",
        "whether a sentence is acceptable English",
        "sentence",
        None,
        label_names=("unacceptable", "acceptable"),
        scores=("mcc", "accuracy", "f1_macro"),
    ),
    _glue(
        "mrpc",
        "whether two sentences say the same",
        "sentence1",
        "sentence2",
        label_names=("not_equivalent", "equivalent"),
        scores=("accuracy", "f1", "f1_macro"),
    ),
    _glue(
        "qqp",
        "whether two questions ask the same",
        "question1",
        "question2",
        label_names=("not_duplicate", "duplicate"),
        scores=("accuracy", "f1"),
    ),
    _glue("qnli", "whether a sentence answers a question", "question", "sentence", label_names=_ENTAILMENT),
    _glue("rte", "whether one text entails another", "sentence1", "sentence2", label_names=_ENTAILMENT),
    _glue(
        "mnli",
        "entailment, neutral or contradiction, in ten genres",
        "premise",
        "hypothesis",
        label_names=_THREE_WAYS,
    ),
    TextClassification(
        "snli",
        "entailment, neutral or contradiction, of captions of photographs",
        Columns("premise", "hypothesis", "label"),
        _THREE_WAYS,
        hub_id="stanfordnlp/snli",
        no_label=("-1", "-"),
    ),
    _glue(
        "stsb",
        "how similar two sentences are, 0 to 5 (regression)",
        "sentence1",
        "sentence2",
        scores=_FITS,
        regression=True,
    ),
    TextClassification(
        "emotion",
        "emotion of a tweet, 6 classes",
        Columns("text", None, "label"),
        ("sadness", "joy", "love", "anger", "fear", "surprise"),
        hub_id="dair-ai/emotion",
        hub_config="split",
    ),
    TextClassification(
        "fake_news_filipino",
        "whether a Filipino news article is fake",
        Columns("article", None, "label"),
        ("real", "fake"),
        hub_id=f"jcblaise/fake_news_filipino{PARQUET}",
    ),
)
