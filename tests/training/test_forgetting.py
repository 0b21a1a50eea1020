"""Laws of forgetting: it is the loss on other text, before and after, and measuring it changes nothing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from propulsion_tools.compare.grid_file import grid_from
from propulsion_tools.compare.results import all_results
from propulsion_tools.compare.runner import run_grid
from propulsion_tools.errors import DataError, OptionError
from propulsion_tools.records import RunRecord, RunSpec
from propulsion_tools.report.summary import Summary
from propulsion_tools.report.write import markdown, rows_as_csv
from propulsion_tools.tasks import get_task
from propulsion_tools.tasks.other_text import first_texts
from propulsion_tools.training import forgetting
from propulsion_tools.training.forgetting import loss_per_token
from propulsion_tools.training.run import train
from propulsion_tools.training.smoke import build_tiny
from tests.grids import Here, Notes
from tests.training.test_run import assert_equal_adapters, kill_at

TEXTS = ["the sea is blue and the sky is grey", "so is the cat", "the sky", "a", "it rained when the cat came home"]
Spec = Callable[..., RunSpec]


def write(path: Path, column: str, texts: list[Any]) -> str:
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module", name="llama")
def _llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny decoder, rows to train on, and other text."""
    folder = tmp_path_factory.mktemp("forgetting")
    build_tiny("llama", "language-modelling", get_task("language-modelling").toy(), folder / "model")
    (folder / "data").mkdir()
    for split in ("train", "validation"):
        write(folder / "data" / f"{split}.jsonl", "text", [f"the sky is grey {row}" for row in range(24)])
    write(folder / "other.jsonl", "text", TEXTS)
    return folder


@pytest.fixture(name="spec")
def _spec(llama: Path, tmp_path: Path) -> Spec:
    def make(**changes: Any) -> RunSpec:
        values = {
            "model_name_or_path": str(llama / "model"),
            "task": "language-modelling",
            "data_dir": str(llama / "data"),
            "output_dir": str(tmp_path / "run"),
            "forgetting_text": str(llama / "other.jsonl"),
            "max_length": 32,
            "max_steps": 3,
            "learning_rate": 0.05,
            "per_device_train_batch_size": 2,
            "eval_strategy": "no",
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return RunSpec(**{**values, **changes})

    return make


def one_by_one(model: torch.nn.Module, tokenizer: Any, length: int = 768) -> float:
    """The definition: the mean over all tokens of all texts, none of them padded."""
    losses = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text).input_ids[:length]])
        with torch.no_grad():
            log_p = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        losses.append(-log_p.gather(1, ids[0, 1:, None])[:, 0])
    return float(torch.cat(losses).mean())


def test_it_is_the_mean_over_all_tokens_however_texts_share_batches(llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama / "model").train()
    tokenizer = AutoTokenizer.from_pretrained(llama / "model")
    for size in (1, 2, 5):
        assert loss_per_token(model, tokenizer, TEXTS, size) == pytest.approx(one_by_one(model, tokenizer), rel=1e-5)
    assert model.training
    assert loss_per_token(model, tokenizer, TEXTS, 2, max_length=4) == pytest.approx(one_by_one(model, tokenizer, 4))
    with pytest.raises(OptionError, match="two tokens"):
        loss_per_token(model, tokenizer, TEXTS, 2, max_length=1)


def test_processes_share_the_batches_and_have_the_same_number_each(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama / "model")
    tokenizer = AutoTokenizer.from_pretrained(llama / "model")
    alone, passes = loss_per_token(model, tokenizer, TEXTS, 2), []
    model.register_forward_pre_hook(lambda *_: passes.append(place))
    sent: list[Any] = []

    def gathered(part: Any) -> list[Any]:
        sent.append(part)
        return sent[::-1] if place == 0 else []

    monkeypatch.setattr(forgetting, "len_of_round", lambda: 2)
    monkeypatch.setattr(forgetting, "place_in_round", lambda: place)
    monkeypatch.setattr(forgetting, "gathered", gathered)
    for place in (1, 0):  # the first comes last, with what the other has sent  # noqa: B007
        found = loss_per_token(model, tokenizer, TEXTS, 2)
    assert found == alone
    assert passes == [1, 1, 0, 0]  # of three batches: weights that are sharded want every process


# One that begins at the identity, one that does not, one that keeps a part of its adapter frozen, and a plain model.
@pytest.mark.parametrize("method", ["propulsion", "prompt-tuning", "lora-fa", "full"])
def test_a_run_measures_the_base_and_what_it_has_trained_and_trains_the_same(
    method: str, spec: Spec, llama: Path, tmp_path: Path
) -> None:
    record = train(spec(method=method))
    base = AutoModelForCausalLM.from_pretrained(llama / "model")
    tokenizer = AutoTokenizer.from_pretrained(llama / "model")
    assert record.forgetting["before"] == pytest.approx(one_by_one(base, tokenizer), rel=1e-5)
    assert RunRecord.read(tmp_path / "run").forgetting == record.forgetting
    without = train(spec(method=method, forgetting_text=None, output_dir=str(tmp_path / "without")))
    assert (without.forgetting, without.forgotten) == ({}, None)
    assert without.parameters == record.parameters
    if method == "full":
        trained = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
        assert without.history == record.history
    else:
        trained = PeftModel.from_pretrained(base, str(tmp_path / "run")).eval()
        assert_equal_adapters(tmp_path / "run", tmp_path / "without")
    after = loss_per_token(trained, tokenizer, TEXTS, 2)
    assert record.forgetting["after"] == pytest.approx(after, rel=1e-4)
    assert record.forgotten == pytest.approx(after - record.forgetting["before"], abs=1e-3)
    assert f"{record.forgotten:+.4f}" in (tmp_path / "run/README.md").read_text(encoding="utf-8")


def test_a_resumed_run_compares_with_the_base_model_too(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(spec(output_dir=str(tmp_path / "whole")))
    kill_at(monkeypatch, 2)
    saving = {"save_strategy": "steps", "save_steps": 1}
    with pytest.raises(KeyboardInterrupt):
        train(spec(**saving))
    monkeypatch.undo()
    assert train(spec(resume_from_checkpoint=True, **saving)).forgetting == whole.forgetting


def test_the_report_shows_it_for_runs_that_count(spec: Spec, llama: Path, tmp_path: Path) -> None:
    settings = {
        name: value
        for name, value in vars(spec()).items()
        if value != getattr(RunSpec, name) and name not in ("task", "learning_rate", "output_dir")
    }
    values = {"methods": ["propulsion", "ia3"], "tasks": ["language-modelling"], "seeds": [1, 2]}
    values |= {"learning_rates": {"ia3": [0.01, 0.02]}, "output_dir": str(tmp_path / "grid"), "settings": settings}
    grid = grid_from({**values, "selection": {"max_steps": 1}}, "forgets")
    run_grid(grid, Here(), Notes())
    results = all_results(grid)
    summary = Summary(grid, results)
    lines = list(csv.DictReader(io.StringIO(rows_as_csv(summary))))
    for line in (line for line in lines if line["metric"] == "forgetting"):
        values = [record.forgotten for record in summary.records(line["method"])]
        assert float(line["mean"]) == pytest.approx(sum(values) / 2)
        assert f"forgetting {float(line['mean']):.3f}" in markdown(summary)
    assert sum(line["metric"] == "forgetting" for line in lines) == 2
    tries = [outcome for result in results for _, outcome in result.selection]
    assert len(tries) == 2
    assert all(isinstance(record, RunRecord) and record.forgotten is None for record in tries)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"forgetting_text": "nowhere.jsonl"}, DataError, "nowhere.jsonl, which is no file here"),
        ({"forgetting_text": "somebody/texts"}, DataError, "somebody/texts on the hub"),
        ({"forgetting_text": "{folder}"}, DataError, "which is no file here"),
        ({"forgetting_text": "{folder}/words.jsonl"}, DataError, "no column 'text'; it has 'words'"),
        ({"forgetting_text": "{folder}/empty.jsonl"}, DataError, "no text in its first 100 rows"),
        ({"task": "sst2"}, OptionError, "makes a sequence classifier of"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_weights_are_read(
    changes: dict[str, str], error: type[Exception], says: str, spec: Spec, tmp_path: Path
) -> None:
    write(tmp_path / "words.jsonl", "words", ["a b"])
    write(tmp_path / "empty.jsonl", "text", [" ", None])
    write(tmp_path / "train.jsonl", "text", ["a b"])
    changed = spec(**{name: value.replace("{folder}", str(tmp_path)) for name, value in changes.items()})
    if changed.task == "sst2":
        (tmp_path / "data").mkdir()
        for split in ("train", "validation"):
            lines = [json.dumps({"sentence": f"a film {row}", "label": row % 2}) for row in range(4)]
            (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        changed = replace(changed, data_dir=str(tmp_path / "data"))
    with pytest.raises(error, match=says):
        train(changed)
    assert not (tmp_path / "run").exists()


def test_of_a_hub_data_set_the_first_rows_are_read_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(name: str, **options: Any) -> datasets.IterableDataset:
        asked.append((name, options["split"], options["streaming"], options["revision"]))
        return datasets.Dataset.from_dict({"text": list("abcdef"), "id": list(range(6))}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert first_texts("HuggingFaceFW/finewiki", 4) == list("abcd")
    assert first_texts("HuggingFaceFW/finewiki@main", 9) == list("abcdef")
    assert asked == [("HuggingFaceFW/finewiki", "train", True, revision) for revision in (None, "main")]
