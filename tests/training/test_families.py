"""Every family of tasks from rows to answers: trained, scored again from its folder, asked for predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaForCausalLM

from propulsion_tools.errors import OptionError
from propulsion_tools.records import RunSpec
from propulsion_tools.records.options import EvaluateOptions, PredictOptions
from propulsion_tools.tasks import get_task
from propulsion_tools.training import build
from propulsion_tools.training.data import load_data
from propulsion_tools.training.evaluate import evaluate
from propulsion_tools.training.predict import predict
from propulsion_tools.training.resolve import resolve
from propulsion_tools.training.run import train
from propulsion_tools.training.smoke import build_tiny, tiny_config
from propulsion_tools.training.trainer import make_trainer

QUIET = {"disable_tqdm": True, "use_cpu": True}
PIQA = {"goal": "open the jar", "sol1": "turn the lid", "sol2": "look at it"}
FAMILIES: list[tuple[str, str, dict[str, Any], dict[str, Any], set[str]]] = [
    ("xsum", "bart", {"document": "it rained when the cat came home"}, {"summary": "the cat came home"}, {"text"}),
    ("xsum", "llama", {"document": "it rained when the cat came home"}, {"summary": "the cat came home"}, {"text"}),
    ("piqa", "llama", PIQA, {"label": 1}, {"text", "answer"}),
    ("piqa_ranking", "bloom", PIQA, {"label": 1}, {"answer", "label", "log_likelihoods"}),
    ("gsm8k", "phi", {"question": "what is two and three"}, {"answer": "#### 5"}, {"text", "answer"}),
    ("aqua", "mistral", {"question": "one and one", "options": ["A)2", "B)3"]}, {"correct": "A"}, {"text", "answer"}),
    ("language-modelling", "gptj", {"prompt": "the sea"}, {"completion": " is blue"}, {"text"}),
    ("sst2", "llama", {"sentence": "a good film"}, {"label": 1}, {"label", "label_id", "scores"}),
    ("stsb", "falcon", {"sentence1": "a film", "sentence2": "a plot"}, {"label": 2.5}, {"score"}),
]


def write_rows(folder: Path, question: dict[str, Any], answer: dict[str, Any]) -> str:
    """Six rows for each split, told apart by a word in their first text, and for classes by their label."""
    folder.mkdir()
    first = next(iter(question))
    for split in ("train", "validation"):
        rows = [{**question, **answer, first: f"{question[first]} {row} {split}"} for row in range(6)]
        for number, row in enumerate(rows):
            if row.get("label") in (0, 1):
                row["label"] = number % 2
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("name", "architecture", "question", "answer", "keys"), FAMILIES, ids=[f"{row[0]}-{row[1]}" for row in FAMILIES]
)
def test_a_family_trains_and_is_scored_and_answers_from_its_folder(
    name: str, architecture: str, question: dict[str, Any], answer: dict[str, Any], keys: set[str], tmp_path: Path
) -> None:
    build_tiny(architecture, name, get_task(name).toy(), tmp_path / "model")
    data_dir = write_rows(tmp_path / "data", question, answer)
    spec = RunSpec(
        model_name_or_path=str(tmp_path / "model"),
        task=name,
        data_dir=data_dir,
        output_dir=str(tmp_path / "run"),
        max_length=96,
        max_target_length=16,
        max_new_tokens=4,
        learning_rate=5e-3,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=4,
        group_by_length=True,
        save_strategy="epoch",
        load_best_model_at_end=True,
        num_train_epochs=2,
        **QUIET,
    )
    record = train(spec)
    main = get_task(name).main_metric
    assert main in record.metrics["validation"]
    assert len(record.history[main]) == 2
    assert (record.parameters["head"] > 0) == (name in ("sst2", "stsb"))
    again = evaluate(tmp_path / "run", EvaluateOptions(**QUIET))
    assert again["validation"] == pytest.approx(record.metrics["validation"], rel=1e-4)
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({**question, "id": row}) + "\n" for row in range(3)), encoding="utf-8")
    options = PredictOptions(input=str(source), output=str(target), per_device_eval_batch_size=2, **QUIET)
    assert predict(tmp_path / "run", options) == 3
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [0, 1, 2]
    assert all(set(row["prediction"]) == keys for row in rows)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny decoder with rows of piqa beside it."""
    folder = tmp_path_factory.mktemp("llama")
    build_tiny("llama", "piqa", get_task("piqa").toy(), folder / "model")
    write_rows(folder / "data", PIQA, {"label": 1})
    return folder


def piqa_spec(llama: Path, tmp_path: Path, **changes: Any) -> RunSpec:
    values = {
        "model_name_or_path": str(llama / "model"),
        "task": "piqa",
        "data_dir": str(llama / "data"),
        "output_dir": str(tmp_path / "run"),
        "max_length": 128,
        "max_new_tokens": 8,
        "per_device_train_batch_size": 2,
        **QUIET,
    }
    return RunSpec(**{**values, **changes})  # type: ignore[arg-type]


def test_a_decoder_learns_to_write_the_answer(llama: Path, tmp_path: Path) -> None:
    spec = piqa_spec(
        llama, tmp_path, method="full", learning_rate=1e-2, num_train_epochs=25, save_strategy="no", max_new_tokens=30
    )
    record = train(spec)
    losses = [value for _, value in record.history["loss"]]
    assert losses[-1] < 0.3 * losses[0]
    found = predict_one(tmp_path / "run", {**PIQA, "goal": "open the jar 1 train"})
    assert found["text"].startswith("the correct answer is")


def predict_one(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    source, target = folder.parent / "one.jsonl", folder.parent / "answer.jsonl"
    source.write_text(json.dumps(row) + "\n", encoding="utf-8")
    predict(folder, PredictOptions(input=str(source), output=str(target), **QUIET))
    return json.loads(target.read_text(encoding="utf-8"))["prediction"]  # type: ignore[no-any-return]


def test_one_adapter_is_scored_by_both_protocols_and_on_a_test_file_alone(llama: Path, tmp_path: Path) -> None:
    train(piqa_spec(llama, tmp_path, max_steps=1))
    ranked = evaluate(tmp_path / "run", EvaluateOptions(task="piqa_ranking", **QUIET))
    assert set(ranked["validation"]) == {"loss", "accuracy", "accuracy_norm"}
    (tmp_path / "alone").mkdir()
    (llama / "data/validation.jsonl").rename(tmp_path / "alone/test.jsonl")
    try:
        found = evaluate(tmp_path / "run", EvaluateOptions(data_dir=str(tmp_path / "alone"), **QUIET))
    finally:
        (tmp_path / "alone/test.jsonl").rename(llama / "data/validation.jsonl")
    assert list(found) == ["test"]


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_accumulated_batches_are_one_batch_for_language_models(kind: str, llama: Path, tmp_path: Path) -> None:
    spec = piqa_spec(llama, tmp_path)
    if kind == "encoder-decoder":
        build_tiny("bart", "piqa", get_task("piqa").toy(), tmp_path / "model")
        spec = piqa_spec(llama, tmp_path, model_name_or_path=str(tmp_path / "model"))
    norms = {}
    for name, sizes in (("one", (4, 1)), ("two", (2, 2))):
        changed = RunSpec(
            **{
                **vars(resolve(spec)),
                "per_device_train_batch_size": sizes[0],
                "gradient_accumulation_steps": sizes[1],
                "max_steps": 1,
                "output_dir": str(tmp_path / name),
            }
        )
        made = build.build(changed, load_data(changed))
        made.model.train()
        for module in made.model.modules():
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
        run = make_trainer(made, logging_steps=1, save_strategy="no", eval_strategy="no")
        run.train()
        norms[name] = next(entry["grad_norm"] for entry in run.state.log_history if "grad_norm" in entry)
    assert norms["one"] == pytest.approx(norms["two"], rel=1e-3)


def test_the_head_alone_is_refused_where_there_is_none(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="has no head to train"):
        train(piqa_spec(llama, tmp_path, method="head"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_length": 4096}, "max_length"),
        ({"max_length": 630, "max_new_tokens": 20}, "max_new_tokens is 650 and the model takes 640 tokens"),
        ({"task": "sst2", "data_dir": None, "dataset_name": None}, "hub"),
    ],
)
def test_what_the_model_cannot_take_is_refused_before_its_weights_are_read(
    changes: dict[str, Any], said: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr(build, "load_base", never)
    with pytest.raises(ValueError, match=said):
        train(piqa_spec(llama, tmp_path, **changes))


def test_a_wrong_model_is_refused_before_its_weights_are_read(
    llama: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "load_base", None)
    with pytest.raises(OptionError, match="piqa needs a causal language model or an encoder-decoder, and bert is"):
        train(piqa_spec(llama, tmp_path, model_name_or_path=str(tiny_model), max_length=16))


def test_both_kinds_of_quantization_are_one_too_many() -> None:
    with pytest.raises(OptionError, match="drop one"):
        RunSpec(load_in_4bit=True, load_in_8bit=True)


@pytest.fixture(scope="module")
def wide(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As wide as a block of 4-bit weights."""
    folder = tmp_path_factory.mktemp("wide")
    tokenizer = AutoTokenizer.from_pretrained(llama / "model")
    config = tiny_config("llama", tokenizer)
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", ["load_in_4bit", "load_in_8bit"])
@pytest.mark.parametrize("task", ["piqa", "sst2"])
def test_weights_are_quantized_and_the_head_is_whole(
    how: str, task: str, llama: Path, wide: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    data = llama / "data"
    if task == "sst2":
        data = Path(write_rows(tmp_path / "data", {"sentence": "a good film"}, {"label": 1}))
    changes = {"task": task, "data_dir": str(data), how: True, "max_steps": 2, "attn_implementation": "eager"}
    record = train(piqa_spec(llama, tmp_path, model_name_or_path=str(wide), **changes))
    again = evaluate(tmp_path / "run", EvaluateOptions(**QUIET))
    assert again["validation"] == pytest.approx(record.metrics["validation"], rel=1e-2)
    made = build.build(record.spec, load_data(record.spec))
    kinds = {name: type(parameter).__name__ for name, parameter in made.model.named_parameters()}
    quantized = [name for name, kind in kinds.items() if kind in ("Params4bit", "Int8Params")]
    assert any("q_proj" in name for name in quantized)
    assert not [name for name in quantized if "lm_head" in name or "score" in name]
