"""Kinds of models: the automatic class that builds one, and what PEFT calls its task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from propulsion_tools.errors import OptionError


@dataclass(frozen=True)
class ModelKind:
    """A network with a certain head.

    Args:
        name: For messages.
        auto_class: The class of transformers that builds it.
        mapping: The table of transformers with the configurations that this class builds something from.
        peft_task_type: What PEFT calls it, a name of `peft.TaskType`.
        loss_is_mean: Its loss is the mean over a batch, whatever `Trainer` says about accumulated ones.
    """

    name: str
    auto_class: str
    mapping: str
    peft_task_type: str
    loss_is_mean: bool = True


SEQUENCE_CLASSIFIER = ModelKind(
    "sequence classifier",
    "AutoModelForSequenceClassification",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "SEQ_CLS",
)
TOKEN_CLASSIFIER = ModelKind(
    "token classifier", "AutoModelForTokenClassification", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING", "TOKEN_CLS"
)
QUESTION_ANSWERER = ModelKind(
    "question answering model",
    "AutoModelForQuestionAnswering",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING",
    "QUESTION_ANS",
)
CAUSAL_LM = ModelKind(
    "causal language model",
    "AutoModelForCausalLM",
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "CAUSAL_LM",
    loss_is_mean=False,
)
SEQ2SEQ_LM = ModelKind(
    "encoder-decoder", "AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", "SEQ_2_SEQ_LM"
)


def of_kind(task: str, config: Any, *kinds: ModelKind) -> ModelKind:
    """The first of these kinds that a checkpoint of this configuration can be.

    Raises:
        OptionError: It can be none of them.
    """
    for kind in kinds:
        if _can_be(config, kind):
            return kind
    what = next((kind.name for kind in (SEQ2SEQ_LM, CAUSAL_LM) if _can_be(config, kind)), "encoder")
    wanted = " or ".join(_with_article(kind.name) for kind in kinds)
    raise OptionError(
        f"The task {task} needs {wanted}, and {config.model_type} is {_with_article(what)} that cannot be one: "
        "choose another model or another task."
    )


def _can_be(config: Any, kind: ModelKind) -> bool:
    import transformers

    if type(config) not in getattr(transformers, kind.mapping):
        return False
    if kind is CAUSAL_LM:  # encoders are in its mapping too, for use as decoders
        masked = type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
        return not config.is_encoder_decoder and (getattr(config, "is_decoder", False) or not masked)
    return True


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
