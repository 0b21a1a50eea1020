"""Virtual tokens leave the head where the text is: batches as rows alone, labels at their tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification
from transformers import AutoModelForTokenClassification as TokenClassifier

from propulsion_tools.methods.virtual_tokens import NOT_SCORED, align
from tests.tiny_models import tiny_model

COUNT, WORDS = 5, 7
DECODERS = ("llama", "bloom", "gptj", "falcon", "mistral", "phi", "gpt2")
CONFIGS = (PromptTuningConfig, PromptEncoderConfig)


def _made(auto_class: Any, architecture: str, task_type: str, config_class: Any = PromptTuningConfig) -> Any:
    config = tiny_model(architecture, "base").config
    config.num_labels = 3 if task_type != "QUESTION_ANS" else 2
    torch.manual_seed(0)
    model = get_peft_model(auto_class.from_config(config), config_class(task_type=task_type, num_virtual_tokens=COUNT))
    return align(model).eval()


def _batch(*lengths: int) -> dict[str, torch.Tensor]:
    ids = torch.ones(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.arange(10, 10 + length) + row
    return {"input_ids": ids, "attention_mask": (ids != 1).long()}


@pytest.mark.parametrize("config_class", CONFIGS)
@pytest.mark.parametrize("architecture", DECODERS)
def test_a_decoder_classifies_a_padded_row_as_it_does_the_row_alone(architecture: str, config_class: Any) -> None:
    model = _made(AutoModelForSequenceClassification, architecture, "SEQ_CLS", config_class)
    with torch.no_grad():
        together = model(**_batch(WORDS, 3)).logits
        first = _batch(WORDS, 3)
        alone = model(**{name: value[1:, :3] for name, value in first.items()}).logits
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-4)


@pytest.mark.parametrize("config_class", CONFIGS)
@pytest.mark.parametrize("architecture", ["bert", "roberta", "deberta-v3", "llama", "bloom"])
def test_tags_and_their_logits_are_those_of_the_text(architecture: str, config_class: Any) -> None:
    model = _made(TokenClassifier, architecture, "TOKEN_CLS", config_class)
    batch = _batch(WORDS, 3)
    labels = torch.where(batch["attention_mask"] > 0, batch["input_ids"] % 3, NOT_SCORED)
    output = model(**batch, labels=labels)
    assert output.logits.shape == (2, WORDS, 3)
    wanted = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), ignore_index=NOT_SCORED)
    assert output.loss.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "deberta-v3"])
def test_spans_and_their_logits_are_those_of_the_text(architecture: str) -> None:
    model = _made(AutoModelForQuestionAnswering, architecture, "QUESTION_ANS")
    starts, ends = torch.tensor([1, 0]), torch.tensor([4, 2])
    output = model(**_batch(WORDS, 3), start_positions=starts, end_positions=ends)
    assert output.start_logits.shape == output.end_logits.shape == (2, WORDS)
    # the model's softmax runs over the virtual tokens too, so the loss is a little larger than over the text alone
    over_text = sum(
        torch.nn.functional.cross_entropy(logits, target)
        for logits, target in ((output.start_logits, starts), (output.end_logits, ends))
    )
    assert 0 < output.loss.item() - over_text.item() / 2 < 2
