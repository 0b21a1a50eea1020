"""Laws of prompts and completions: what is labelled, cut and padded, and what may be left out of a loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from propulsion_tools.errors import DataError, OptionError
from propulsion_tools.tasks import Lengths, Setup, get_task
from propulsion_tools.tasks.base import accepted_by, forward_arguments
from propulsion_tools.tasks.completion import completion_only
from propulsion_tools.tasks.model_kinds import CAUSAL_LM, SEQ2SEQ_LM, SEQUENCE_CLASSIFIER, of_kind
from propulsion_tools.tasks.padding import NOT_SCORED
from propulsion_tools.tasks.prompts import Cutter
from propulsion_tools.training.smoke import build_tiny, tiny_config

CHAT = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
CHAT += "{% if add_generation_prompt %}[assistant] {% endif %}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny decoder of relative and one of absolute positions, and an encoder-decoder, with their tokenizers."""
    made = {}
    for name, task in (("llama", "arc_easy"), ("gpt2", "arc_easy"), ("bart", "xsum")):
        made[name] = tmp_path_factory.mktemp(name)
        build_tiny(name, task, get_task(task).toy(), made[name])
    return made


def setup_of(folder: Path, **lengths: int) -> Setup:
    auto = AutoModelForSeq2SeqLM if "bart" in folder.name else AutoModelForCausalLM
    return Setup(AutoTokenizer.from_pretrained(folder), auto.from_pretrained(folder).config, Lengths(**lengths))


def test_a_decoder_is_scored_on_the_target_and_the_end_alone(folders: dict[str, Path]) -> None:
    setup = setup_of(folders["llama"])
    example = Cutter(setup, "{text}").example("is a house", "yes it is")
    text = setup.tokenizer.decode(example["input_ids"])
    assert text == "<s>Instruction:\nis a house\n\nResponse:\nyes it is</s>"
    scored = [token for token in example["labels"] if token != NOT_SCORED]
    assert setup.tokenizer.decode(scored) == "yes it is</s>"
    assert example["labels"][-len(scored) :] == example["input_ids"][-len(scored) :] == scored
    assert Cutter(setup, "{text}").prompt("is a house")["input_ids"] == example["input_ids"][: -len(scored)]
    assert Cutter(setup, "{text}", ends=False).example("a", "yes")["labels"][-1] != setup.tokenizer.eos_token_id


def test_an_encoder_decoder_reads_the_text_alone(folders: dict[str, Path]) -> None:
    setup = setup_of(folders["bart"], max_target_length=4)
    example = Cutter(setup, "Do it: {text}").example("the cat", "the cat came home at last")
    assert setup.tokenizer.decode(example["input_ids"]) == "<s>the cat</s>"
    assert len(example["labels"]) == 4


def test_a_chat_template_is_used_where_there_is_one(folders: dict[str, Path]) -> None:
    setup = setup_of(folders["llama"])
    setup.tokenizer.chat_template = CHAT
    prompt = Cutter(setup, "Say: {text}").prompt("a house")
    assert setup.tokenizer.decode(prompt["input_ids"]) == "[user] Say: a house [assistant] "
    plain = Cutter(setup, "{text}", framed=False).prompt("a house")
    assert setup.tokenizer.decode(plain["input_ids"]) == "<s>a house"


def test_a_long_text_is_cut_and_the_frame_stays(folders: dict[str, Path]) -> None:
    setup = setup_of(folders["llama"], max_length=48)
    cutter = Cutter(setup, "{text}")
    assert not cutter.fits("a house is larger " * 20, "yes")
    for tokens in (cutter.prompt("a house is larger " * 20), cutter.example("a house is larger " * 20, "yes")):
        assert len(tokens["input_ids"]) <= 48
        text = setup.tokenizer.decode(tokens["input_ids"])
        assert text.startswith("<s>Instruction:\na house is")
        assert "\n\nResponse:\n" in text
    assert "1 of 5 rows are longer than 48 tokens and are cut" in cutter.notes(5)[0]


def test_training_rows_that_do_not_fit_are_left_out_and_counted(folders: dict[str, Path]) -> None:
    setup = setup_of(folders["llama"], max_length=40)
    rows = Dataset.from_dict({"text": ["a", "a house " * 50], "target": ["yes", "no"], "reference": ["answer1"] * 2})
    task = get_task("arc_easy")
    encoded = task.encode(rows, setup, training=True)
    assert len(encoded.rows) == 1
    assert "1 of 2 rows are longer than 40 tokens and are left out" in encoded.notes[0]
    scored = task.encode(rows, setup, training=False)
    assert scored.rows["eval_index"][:] == [0, 1]
    assert max(map(len, scored.rows["eval_input_ids"][:])) <= 40
    many = Dataset.from_list([rows[1]] * 1000 + [rows[0]])  # the first batch of `map` comes out empty
    assert len(task.encode(many, setup, training=True).rows) == 1
    with pytest.raises(DataError, match="None of the 1 training rows fits into 40 tokens"):
        task.encode(rows.select([1]), setup, training=True)


def _batch(folder: Path, task_name: str = "arc_easy", training: bool = True) -> tuple[Any, Any, dict[str, Any], Setup]:
    torch.manual_seed(0)
    setup, task = setup_of(folder, max_length=96, max_new_tokens=6), get_task(task_name)
    auto = AutoModelForSeq2SeqLM if setup.config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_pretrained(folder).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    rows = task.toy().splits["train"]
    rows = rows.map(lambda row, index: {"text": row["text"] * (1 + index % 2)}, with_indices=True)
    encoded = task.encode(rows, setup, training).rows
    taken = accepted_by(model)
    kept = [name for name in encoded.column_names if name in taken or name.startswith("eval_")]
    return task, model, dict(task.collator(setup)(list(encoded.select_columns(kept)))), setup


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_padding_on_the_left_and_logits_left_out_change_no_loss(name: str, folders: dict[str, Path]) -> None:
    task, model, batch, _ = _batch(folders[name])
    assert (batch["attention_mask"][:, 0] == 0).any()
    assert (batch["attention_mask"][:, -1] == 1).all()
    trimmed = task.arguments(model, batch)
    assert trimmed["logits_to_keep"] < batch["labels"].shape[1]
    losses, count = [], 0
    for row in range(len(batch["labels"])):
        length = int(batch["attention_mask"][row].sum())
        ids, labels = batch["input_ids"][row : row + 1, -length:], batch["labels"][row : row + 1, -length:]
        scored = int((labels != NOT_SCORED).sum())
        losses.append(model(input_ids=ids, labels=labels).loss * scored)
        count += scored
    alone = torch.stack(losses).sum() / count
    gradients = []
    for loss in (alone, model(**batch).loss, model(**trimmed).loss):
        torch.testing.assert_close(loss, alone, rtol=1e-6, atol=1e-8)
        model.zero_grad()
        loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradients[2], gradients[0], rtol=1e-5, atol=1e-7)


def test_logits_stay_where_the_model_cannot_leave_them_out(folders: dict[str, Path]) -> None:
    _, model, batch, _ = _batch(folders["bart"], "xsum")
    assert completion_only(model, batch) == batch


@pytest.mark.parametrize(("name", "task_name"), [("llama", "arc_easy"), ("gpt2", "arc_easy"), ("bart", "xsum")])
def test_a_batch_is_answered_as_each_row_alone(name: str, task_name: str, folders: dict[str, Path]) -> None:
    task, model, batch, setup = _batch(folders[name], task_name, training=False)
    together = task.answer(model, batch, setup)
    assert together.shape[1] <= 6 + 1  # an encoder-decoder's answers begin with its start token
    for row in range(len(together)):
        mask_name = "eval_attention_mask" if name != "bart" else "attention_mask"
        ids_name = "eval_input_ids" if name != "bart" else "input_ids"
        kept = batch[mask_name][row].bool()
        one = {ids_name: batch[ids_name][row : row + 1, kept], mask_name: batch[mask_name][row : row + 1, kept]}
        alone = task.answer(model, {"input_ids": None, "attention_mask": None, **one}, setup)[0]
        assert together[row, : len(alone)].tolist() == alone.tolist()


@pytest.mark.parametrize(("name", "task_name"), [("llama", "arc_easy_ranking"), ("bart", "arc_easy_ranking")])
def test_options_are_as_likely_in_a_batch_as_alone(name: str, task_name: str, folders: dict[str, Path]) -> None:
    task, model, batch, setup = _batch(folders[name], task_name, training=False)
    found = task.answer(model, batch, setup)
    cutter = Cutter(setup, task.instruction, task.framed, task.ends)
    text = task.toy().splits["train"]["text"][1] * 2
    for number, option in enumerate(("yes", "no")):
        example = {key: torch.tensor([value]) for key, value in cutter.example(text, f" {option}").items()}
        taken = accepted_by(model)
        loss = model(**{key: value for key, value in example.items() if key in taken}).loss
        scored = int((example["labels"] != NOT_SCORED).sum())
        assert found[1, number].item() == pytest.approx(-loss.item() * scored, rel=1e-5)


def test_texts_without_a_prompt_come_in_windows(folders: dict[str, Path]) -> None:
    setup, task = setup_of(folders["llama"], max_length=8), get_task("language-modelling")
    rows = Dataset.from_dict({"text": [""], "target": ["the sea is blue and the sky is grey"]})
    encoded = task.encode(rows, setup, training=False).rows
    joined = [token for ids in encoded["input_ids"] for token in ids]
    assert setup.tokenizer.decode(joined) == "<s>the sea is blue and the sky is grey</s>"
    assert encoded["labels"][:] == encoded["input_ids"][:]
    assert max(map(len, encoded["input_ids"][:])) == 8
    assert set(encoded["eval_index"][:]) == {0}


def test_only_what_is_for_the_model_reaches_it(folders: dict[str, Path]) -> None:
    _, model, batch, _ = _batch(folders["llama"], training=False)
    assert "eval_index" in batch
    assert set(forward_arguments(batch)) <= accepted_by(model)


@pytest.mark.parametrize(
    ("name", "kinds", "wanted"),
    [
        ("llama", (CAUSAL_LM, SEQ2SEQ_LM), CAUSAL_LM),
        ("bart", (CAUSAL_LM, SEQ2SEQ_LM), SEQ2SEQ_LM),
        ("t5", (SEQ2SEQ_LM,), SEQ2SEQ_LM),
        ("bert", (SEQUENCE_CLASSIFIER,), SEQUENCE_CLASSIFIER),
        ("llama", (SEQ2SEQ_LM,), "needs an encoder-decoder, and llama is a causal language model"),
        ("bart", (CAUSAL_LM,), "needs a causal language model, and bart is an encoder-decoder"),
        ("bert", (CAUSAL_LM, SEQ2SEQ_LM), "bert is an encoder that cannot be one"),
    ],
)
def test_a_model_of_the_wrong_kind_is_refused(name: str, kinds: Any, wanted: Any, folders: dict[str, Path]) -> None:
    config = tiny_config(name, AutoTokenizer.from_pretrained(folders["llama"]))
    if not isinstance(wanted, str):
        assert of_kind("some-task", config, *kinds) is wanted
        return
    with pytest.raises(OptionError, match=wanted):
        of_kind("some-task", config, *kinds)
