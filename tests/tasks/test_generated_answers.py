"""Answers read out of generated texts, and their scores, against values worked out by hand."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from propulsion_tools.tasks import Setup, get_task
from propulsion_tools.tasks.arithmetic import last_letter, last_number
from propulsion_tools.tasks.completion import token_losses
from propulsion_tools.tasks.language_modelling import Perplexity
from propulsion_tools.tasks.ranking import IMPOSSIBLE, _by_owner
from propulsion_tools.tasks.summarization import sentence_lines
from propulsion_tools.tasks.text_metrics import MeanScores


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 4.", 4.0),
        ("7 - 3 = 4 crayons, so 1,234.50 dollars", 1234.5),
        ("7-3", 3.0),
        ("it falls to -3 degrees", -3.0),
        ("a half is .5", 0.5),
        ("$18", 18.0),
        ("2, 3", 3.0),
        ("none", None),
        ("-$5", -5.0),
        ("$-5", -5.0),
        ("he owes -$1,234.50 now", -1234.5),
        ("he owes \u2212£7", -7.0),
        ("\u22123", -3.0),
        ("it falls to \u20133 degrees", -3.0),
        ("x = -.5", -0.5),
        ("between 3\u20135", 5.0),
        ("10 - $4", 4.0),
        ("(3)-5", 5.0),
        ("a 5-year-old", 5.0),
        ("an F-16", 16.0),
        ("Rs. 50", 50.0),
        ("Rs50", 50.0),
        ("US$12", 12.0),
        ("56 cm2", 56.0),
        ("56 cm^2", 56.0),
        ("56 cm**2", 56.0),
        ("56 cm\u00b2", 56.0),
        ("56 m3 of water", 56.0),
        ("2^10", 10.0),
        ("6 moles of H2O", 6.0),
        ("16x2 + 4x", 4.0),
        ("solution12", 12.0),
        ("**18**", 18.0),
        ("\\boxed{18}", 18.0),
        ("#### 18", 18.0),
        ("####18\nand 7 more", 18.0),
        ("#### -$1,200 or 3", -1200.0),
        ("2 + 3 = 5\n#### **5** apples, 6 pears", 5.0),
        ("#### 18\n\nQuestion: Tom has 5.\n#### 24", 18.0),
        ("#### Step 1: 2 + 3 = 5", 5.0),
        ("The answer is 18.\n\nQuestion: Tom has 5 apples. The answer is 7.", 18.0),
        ("The answer is 18. Question 2: Tom has 5.", 18.0),
        ("The answer is 18.\nQ: Tom has 5.\nA: 7", 18.0),
        ("The answer is 18.\n### Instruction:\nTom has 5.", 18.0),
        ("Question: Tom has 5 and 3. Answer: 8\nQuestion: 9?", 8.0),
        ("To answer the question: 2 + 3 = 5", 5.0),
    ],
)
def test_the_last_number(text: str, number: float | None) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("output", "answer"),
    [  # of the published test sets of LLM-Adapters: what was written, and the number that its pattern finds in it
        ("\nA: Mary took 3 out, so now there are 7 - 3 = 4 crayons. The answer is 4.", 4.0),
        ("\nA: So in total there will be 3 + 6.8 = 9.8 gallons. The answer is 9.8.", 9.8),
        ("\nA: This means he paid 63 / 7 = 9 hours. The answer is 9.", 9.0),
        ("\nA: He needs to cover 36 * 2/3 = 24 sq ft. 24 * 24 = 576 tiles. The answer is 576.", 576.0),
        ("He ate 3/4", 4.0),
        ("50%", 50.0),
        ("12.5 percent", 12.5),
        ("1,234", 1234.0),
        ("1,00,000", 100000.0),
        ("3.", 3.0),
        ("-3", -3.0),
    ],
)
def test_the_protocol_of_llm_adapters(output: str, answer: float) -> None:
    found = re.findall(r"-?\d+\.?\d*", output.replace(",", ""))
    assert last_number(output) == float(found[-1]) == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (D).", "D"),
        ("A man walks. The answer is B", "B"),
        ("A man walks.", None),
        ("Answer: A", "A"),
        ("(A) is wrong, so (C)", "C"),
        ("A", "A"),
        ("", None),
        ("#### A\nso not B", "A"),
        ("The answer is (D). Question: which is (A)? (B)", "D"),
    ],
)
def test_the_last_letter(text: str, letter: str | None) -> None:
    assert last_letter(text) == letter


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("piqa", "the correct answer is solution2, not solution1", "solution2"),
        ("boolq", "True. It is false to say", "true"),
        ("boolq", "untrue", None),
        ("arc_easy", "the correct answer is answer12", None),
        ("hellaswag", "", None),
    ],
)
def test_the_first_option_word(name: str, text: str, answer: str | None) -> None:
    assert get_task(name).read_answer(text) == {"answer": answer}


def test_right_and_wrong_answers() -> None:
    gsm8k, aqua, piqa = get_task("gsm8k"), get_task("aqua"), get_task("piqa")
    assert gsm8k.score("so 4.0004", {"reference": "4"}) == {"accuracy": 1.0}
    assert gsm8k.score("so 4.1", {"reference": "4"}) == gsm8k.score("", {"reference": "4"}) == {"accuracy": 0.0}
    assert aqua.score("(B)", {"reference": "B"}) == {"accuracy": 1.0}
    assert piqa.score("solution1", {"reference": "solution2"}) == {"accuracy": 0.0}


def test_rouge_by_hand() -> None:
    # "cats running" stems to "cat run": two of three words and one of two pairs in common, both ways.
    scores = get_task("xsum").score("the cats running", {"reference": "the cat ran"})
    assert scores["rouge1"] == pytest.approx(2 / 3)
    assert scores["rouge2"] == pytest.approx(1 / 2)
    assert scores["rougeL"] == pytest.approx(2 / 3)
    assert get_task("xsum").score("", {"reference": "the cat"})["rougeL"] == 0.0


def test_a_summary_is_scored_sentence_by_sentence() -> None:
    # Lin (2004), 3.2: the sentences of the reference in another order are all found. As one sequence, either is.
    scores = get_task("cnn_dailymail").score("It rained. A dog ran home.", {"reference": "A dog ran home.\nIt rained."})
    assert scores["rougeLsum"] == scores["rouge1"] == 1.0
    assert scores["rougeL"] == pytest.approx(4 / 6)
    assert get_task("cnn_dailymail").main_metric == "rougeLsum"
    assert get_task("cnn_dailymail").score("", {"reference": "It rained."})["rougeLsum"] == 0.0


def test_summary_level_is_the_union_of_each_sentence() -> None:
    # Lin's own example: w1 w2 w3 w4 w5 against w1 w2 w6 w7 w8 and w1 w3 w8 w9 w5 has the union w1 w2 w3 w5.
    one, two = "one two six seven eight .", "one three eight nine five ."
    scores = get_task("cnn_dailymail").score(f"{one}\n{two}", {"reference": "one two three four five ."})
    recall, precision = 4 / 5, 4 / 10
    assert scores["rougeLsum"] == pytest.approx(2 * recall * precision / (recall + precision))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Mr. Smith met Dr. Jones. He left.", ["Mr. Smith met Dr. Jones.", "He left."]),
        ("The U.S. economy grew 2.5 percent. Good.", ["The U.S. economy grew 2.5 percent.", "Good."]),
        (
            "Apple Inc. said it will pay $2.65 a share. Shares fell.",
            ["Apple Inc. said it will pay $2.65 a share.", "Shares fell."],
        ),
        ("J. K. Rowling wrote it, e.g. in 1997. It sold!", ["J. K. Rowling wrote it, e.g. in 1997.", "It sold!"]),
        ("Lt. Col. John Doe Jr., was held. He denied it.", ["Lt. Col. John Doe Jr., was held.", "He denied it."]),
        ('"I know," he said. "Ask Gen. Lee." The end.', ['"I know," he said.', '"Ask Gen. Lee."', "The end."]),
        ("No. 1 seed Nadal won 6-4, 6-3. Is it true?", ["No. 1 seed Nadal won 6-4, 6-3.", "Is it true?"]),
        ("a line without an end\nand another", ["a line without an end", "and another"]),
        ("", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert sentence_lines(text).splitlines() == sentences


def test_means_are_streamed() -> None:
    metrics = MeanScores(lambda answers, index: [{"x": float(a == i)} for a, i in zip(answers, index, strict=True)])
    assert metrics(EvalPrediction(np.array([0, 5]), np.array([0, 1])), compute_result=False) == {}
    assert metrics(EvalPrediction(np.array([2]), np.array([2])), compute_result=True) == {"x": pytest.approx(2 / 3)}
    assert metrics(EvalPrediction(np.array([0]), np.array([1])), compute_result=True) == {"x": 0.0}


def test_accuracies_can_be_compared_row_by_row() -> None:
    metrics = MeanScores(lambda answers, index: [{"accuracy": float(answer)} for answer in answers])
    metrics(EvalPrediction(np.array([1, 0]), np.array([0, 1])), compute_result=True)
    assert (metrics.scored["labels"] == metrics.scored["answers"]).tolist() == [True, False]


def test_perplexity_is_over_tokens_not_over_batches() -> None:
    metrics = Perplexity()
    metrics(EvalPrediction(np.array([[math.log(4) * 2, 2.0]]), np.array([0])), compute_result=False)
    found = metrics(EvalPrediction(np.array([[math.log(2), 1.0], [0.0, 1.0]]), np.array([1, 2])), compute_result=True)
    assert found["perplexity"] == pytest.approx(32 ** (1 / 4))
    assert found["bits_per_token"] == pytest.approx(5 / 4)


@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_token_losses_pass_over_what_has_no_label(encoder_decoder: bool) -> None:
    class Config:
        is_encoder_decoder = encoder_decoder

    logits = torch.randn(2, 5, 7)
    labels = torch.tensor([[-100, 3, 2], [-100, -100, 6]])
    losses = token_losses(logits, labels, Config())
    logp = logits.log_softmax(-1)[:, -3:]
    if encoder_decoder:
        wanted = torch.tensor([[0.0, -logp[0, 1, 3], -logp[0, 2, 2]], [0.0, 0.0, -logp[1, 2, 6]]])
    else:
        wanted = torch.tensor([[-logp[0, 0, 3], -logp[0, 1, 2]], [0.0, -logp[1, 1, 6]]])
    torch.testing.assert_close(losses, wanted)


def test_likelihoods_go_back_to_their_questions() -> None:
    table = _by_owner(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([0, 0, 1, 1, 1]))
    assert table.tolist() == [[1.0, 2.0, IMPOSSIBLE], [3.0, 4.0, 5.0]]


def test_a_long_option_is_judged_by_its_characters() -> None:
    rows: list[dict[str, Any]] = [{"choices": ["ab", "abcdefgh"], "label": 1}]
    answers, task = np.array([[-4.0, -8.0, IMPOSSIBLE]]), get_task("piqa_ranking")
    found = task.metrics(rows, None)(EvalPrediction(answers, np.array([0])), compute_result=True)
    assert found == {"accuracy": 0.0, "accuracy_norm": 1.0}
    decoded = task.decode(answers, [0], {"choices": [["ab", "abcdefgh"]]}, Setup(None, None))
    assert decoded == [{"answer": "ab", "label": 0, "log_likelihoods": [-4.0, -8.0]}]
