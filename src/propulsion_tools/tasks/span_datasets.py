"""The data sets of question answering and of token classification: where they are, and what their tags are called."""

from __future__ import annotations

from functools import partial

from propulsion_tools.tasks.hub import PARQUET
from propulsion_tools.tasks.mining import mine_mentions, mine_questions
from propulsion_tools.tasks.question_answering import QuestionAnswering
from propulsion_tools.tasks.token_classification import TokenClassification


def _iob(*kinds: str) -> tuple[str, ...]:
    return ("O", *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI"))


TASKS = (
    QuestionAnswering("squad", "the span of a Wikipedia paragraph that answers a question", hub_id="rajpurkar/squad"),
    QuestionAnswering(
        "squad_v2",
        "the same, or that the paragraph does not answer it",
        unanswerable=True,
        hub_id="rajpurkar/squad_v2",
    ),
    QuestionAnswering("question-answering", "any contexts with questions and answers that are spans of them"),
    QuestionAnswering("docstring_questions", "what a docstring says of a parameter", default=mine_questions),
    QuestionAnswering(
        "docstring_questions_v2",
        "the same, a third of the questions without an answer",
        unanswerable=True,
        default=partial(mine_questions, unanswerable=1 / 3),
    ),
    TokenClassification(
        "conll2003",
        "persons, organisations, places and other names in news",
        _iob("PER", "ORG", "LOC", "MISC"),
        hub_id=f"eriktks/conll2003{PARQUET}",
    ),
    TokenClassification(
        "ncbi_disease",
        "diseases in abstracts of PubMed",
        _iob("Disease"),
        hub_id=f"ncbi/ncbi_disease{PARQUET}",
    ),
    TokenClassification(
        "wikiann",
        "persons, organisations and places in English Wikipedia",
        _iob("PER", "ORG", "LOC"),
        hub_id="unimelb-nlp/wikiann",
        hub_config="en",
    ),
    TokenClassification("token-classification", "any lists of words with tags in the IOB scheme"),
    TokenClassification("docstring_mentions", "names of parameters in docstrings", default=mine_mentions),
)
