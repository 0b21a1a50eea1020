"""Laws of PEFT's method comparison as we run it: its protocol step by step, its folders, and its form of a result."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from propulsion import PropulsionConfig
from propulsion_tools.tasks import get_task
from propulsion_tools.training.forgetting import loss_per_token
from propulsion_tools.training.smoke import build_tiny
from tests.processes import environment

pytest.importorskip("datasets", reason="the benchmark needs datasets: pip install 'propulsion-peft[train]'")
ROOT = Path(__file__).parents[2]
COMPARISON = ROOT / "method_comparison" / "MetaMathQA"
EXPERIMENTS = sorted((COMPARISON / "experiments" / "propulsion").iterdir())
STEPS, WARM_UP, BETWEEN, BATCH, RATE = 10, 1, 5, 3, 0.05
# What PEFT's script writes (utils.py, log_results).
KEYS = {
    "run_info": "created_at total_time experiment_name peft_branch peft_worktree_is_dirty train_config peft_config "
    "error_msg",
    "train_info": "accelerator_memory_reserved_avg accelerator_memory_max accelerator_memory_reserved_99th train_time "
    "file_size num_trainable_params num_total_params status metrics",
    "meta_info": "model_info dataset_info package_info system_info pytorch_info",
}
ASKED = "step, valid accuracy, train loss, train samples, train time, eval time, tokens / sec, mem allocated avg, "
ASKED += "mem reserved avg, elapsed time"
TESTED = "step, test accuracy, train loss, train samples, train total tokens, forgetting"


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module", name="here")
def _here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama, and the three data sets as files."""
    folder = tmp_path_factory.mktemp("comparison")
    build_tiny("llama", "math", get_task("math").toy(), folder / "model")
    learned = [
        {
            "type": "GSM",
            "query": f"what is {n} and 2?" + " please" * (7 * n % 40),
            "response": f"The answer is: {n + 2}",
        }
        for n in range(40)  # of 40 lengths, so that only one order is sorted
    ]
    write(folder / "data/MetaMathQA/train.jsonl", [*learned[:5], {**learned[0], "query": "x" * 1290}, *learned[5:]])
    for split, count in (("train", 60), ("test", 3)):
        rows = [{"question": f"what is {n} and 2?", "answer": f"it is {n + 2}\n#### {n + 2}"} for n in range(count)]
        write(folder / f"data/gsm8k/{split}.jsonl", rows)
    write(folder / "other.jsonl", [{"text": f"the sea is blue and the sky is grey {n}" + " x" * n} for n in range(5)])
    for name, config in (
        ("propulsion", PropulsionConfig(target_modules="all")),
        ("lora", LoraConfig(r=2, target_modules=["q_proj", "v_proj"])),
    ):
        config.save_pretrained(folder / "experiments" / name / "tiny")
        settings = {"optimizer_kwargs": {"lr": RATE, "weight_decay": 0.1}, "max_steps": STEPS, "eval_steps": BETWEEN}
        settings |= {"model_id": str(folder / "model"), "dtype": "float32", "batch_size": BATCH, "batch_size_eval": 20}
        settings["generation_kwargs"] = {"max_length": 200, "max_new_tokens": 2}
        (folder / "experiments" / name / "tiny/training_params.json").write_text(json.dumps(settings))
    return folder


def arguments(here: Path, name: str, tmp_path: Path) -> list[str]:
    told = ["--data_dir", here / "data", "--forgetting_text", here / "other.jsonl", "--output_dir", tmp_path / "out"]
    return list(map(str, [here / "experiments" / name / "tiny", *told]))


def as_peft_trains(here: Path, name: str) -> tuple[PeftModel, list[float]]:
    """The protocol in plain PyTorch: the trained model, and the loss of each step."""
    torch.manual_seed(0)
    torch.nn.Linear(1, 1)
    base = AutoModelForCausalLM.from_pretrained(here / "model")
    model = get_peft_model(base, PeftConfig.from_pretrained(str(here / "experiments" / name / "tiny"))).train()
    tokenizer = AutoTokenizer.from_pretrained(here / "model")
    lines = (here / "data/MetaMathQA/train.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if len(row["query"] + row["response"]) < 1300]
    texts = [f"Question: {row['query']} Think step by step.\nAnswer:{row['response']}" for row in rows]
    ids = sorted((tokenizer(text).input_ids for text in texts), key=len, reverse=True)  # all of them are one bucket
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    losses = []
    for step in range(STEPS):
        part = ids[step * BATCH : (step + 1) * BATCH]
        longest, total = max(map(len, part)), 0.0
        for row in part:
            target = [*row, tokenizer.eos_token_id] if len(row) < longest else row
            log_p = model(input_ids=torch.tensor([target])).logits[0, :-1].log_softmax(-1)
            total = total - log_p.gather(1, torch.tensor(target[1:])[:, None]).sum()
        loss = total / sum(map(len, part))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        share = (step - WARM_UP) / (STEPS - WARM_UP)
        optimizer.param_groups[0]["lr"] = RATE * (0.5 * (1 + np.cos(np.pi * share)) if share >= 0 else step / WARM_UP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return model.eval(), losses


@pytest.mark.parametrize("name", ["propulsion", "lora"])
def test_a_run_is_the_protocol_and_its_result_has_the_form_of_the_benchmark(
    name: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from method_comparison import main

    file = main(arguments(here, name, tmp_path))
    assert file == tmp_path / f"out/results/{name}--tiny.json"
    found = json.loads(file.read_text())
    form = {part: set(keys.split()) for part, keys in KEYS.items()}
    assert {part: set(found[part]) - {"run_with"} for part in KEYS} == form
    asked, tested = found["train_info"]["metrics"][:-1], found["train_info"]["metrics"][-1]
    assert [entry["step"] for entry in asked] == [BETWEEN, STEPS]
    assert all(set(entry) == set(ASKED.split(", ")) for entry in asked)
    assert set(tested) == set(TESTED.split(", "))

    model, losses = as_peft_trains(here, name)
    means = [sum(losses[:BETWEEN]) / BETWEEN, sum(losses[BETWEEN:]) / BETWEEN]
    assert [entry["train loss"] for entry in asked] == pytest.approx(means, rel=1e-5)
    assert tested["train samples"] == STEPS * BATCH
    base = AutoModelForCausalLM.from_pretrained(here / "model")
    saved = PeftModel.from_pretrained(base, str(tmp_path / "out" / name / "tiny"))
    theirs = dict(model.named_parameters())
    trained = {key: value for key, value in saved.named_parameters() if "propulsion_" in key or "lora_" in key}
    assert trained
    for key, value in trained.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-3, atol=1e-4)

    tokenizer = AutoTokenizer.from_pretrained(here / "model")
    texts = [json.loads(line)["text"] for line in (here / "other.jsonl").read_text().splitlines()]
    with saved.disable_adapter():
        before = loss_per_token(saved, tokenizer, texts, 1)
    assert tested["forgetting"] == pytest.approx(loss_per_token(saved, tokenizer, texts, 1) - before, abs=1e-5)
    assert found["train_info"]["num_trainable_params"] == sum(value.numel() for value in trained.values())
    weights = tmp_path / "out" / name / "tiny/adapter_model.safetensors"
    assert found["train_info"]["file_size"] == weights.stat().st_size
    assert found["train_info"]["status"] == "success"
    assert "valid accuracy" in capsys.readouterr().err


def test_a_run_that_is_stopped_says_so(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import comparison_run
    from method_comparison import main

    def stopped(self: Any, *args: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(comparison_run.ComparisonTrainer, "training_step", stopped)
    found = json.loads(main(arguments(here, "propulsion", tmp_path)).read_text())
    assert (tmp_path / "out/cancelled_results/propulsion--tiny.json").is_file()
    assert (found["train_info"]["status"], found["run_info"]["error_msg"]) == ("canceled", "no room")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["compile=true"], "compile is not followed here"),
        (["dtype=int4"], "dtype int4"),
        (["optimizer_type=lora+"], r"optimizer_type lora\+"),
        (["learning_rate=1"], "learning_rate in .* is no setting"),
        (["lr_scheduler=linear"], "cosine or null"),
    ],
)
def test_what_is_not_followed_is_refused(changes: list[str], says: str, here: Path, tmp_path: Path) -> None:
    from method_comparison import main

    with pytest.raises(SystemExit, match=says):
        main([*arguments(here, "propulsion", tmp_path), "--set", *changes])
    with pytest.raises(SystemExit, match=r"has no adapter_config\.json"):
        main([str(tmp_path)])


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=lambda folder: folder.name)
def test_our_experiments_are_read_and_count_what_the_readme_says(folder: Path) -> None:
    from method_comparison import read_experiment

    name, config, adapter = read_experiment(folder, {})
    assert name == f"propulsion/{folder.name}"
    assert isinstance(adapter, PropulsionConfig)
    llama = LlamaConfig(
        vocab_size=128256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(llama)
        assert sum(parameter.numel() for parameter in base.parameters()) == 3_212_749_824
        trained, total = get_peft_model(base, adapter).get_nb_trainable_parameters()
    rate = f"{config.optimizer_kwargs['lr']:.3g}".replace("0.001", "1e-3").replace("0.00033", "3.3e-4")
    (line,) = [line for line in (COMPARISON / "README.md").read_text().splitlines() if f"| `{name}` |" in line]
    assert f"| {rate}, 0 | {trained:,} | {100 * trained / total:.4f} % |" in line


def test_the_settings_are_those_of_the_benchmark(here: Path) -> None:
    from method_comparison import read_experiment

    _, config, _ = read_experiment(EXPERIMENTS[0], {"optimizer_kwargs": {"lr": 1e-4, "weight_decay": 0.1}})
    assert vars(config) == {
        "model_id": "meta-llama/Llama-3.2-3B",
        "dtype": "bfloat16",
        "max_seq_length": 768,
        "batch_size": 4,
        "batch_size_eval": 50,
        "max_steps": 5000,
        "eval_steps": 250,
        "compile": False,
        "use_gc": False,
        "seed": 0,
        "grad_norm_clip": 1.0,
        "optimizer_type": "AdamW",
        "optimizer_kwargs": {"lr": 1e-4, "weight_decay": 0.1},
        "lr_scheduler": "cosine",
        "use_amp": False,
        "autocast_adapter_dtype": True,
        "attn_implementation": None,
        "generation_kwargs": {"max_length": 800, "max_new_tokens": 300},
        "query_template": "Question: {query} Think step by step.\nAnswer:",
        "init_kv_cache_prefix": None,
    }


def test_the_line_of_the_readme_makes_the_method_known_to_another_script(tmp_path: Path) -> None:
    (line,) = re.findall(r"^python (-c .*)$", (COMPARISON / "README.md").read_text(), flags=re.MULTILINE)
    script = "import sys, peft; print(type(peft.PeftConfig.from_pretrained(sys.argv[2])).__name__, __name__)"
    (tmp_path / "run.py").write_text(script)
    (tmp_path / "experiments").symlink_to(COMPARISON / "experiments")
    command = [sys.executable, *shlex.split(line)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment())
    assert done.stdout.split() == ["PropulsionConfig", "__main__"], done.stderr


@pytest.mark.parametrize(
    ("text", "response", "right"),
    [
        ("Question: what? Answer: so it is 4.\nThe answer is: 16", "it is\n#### 16", True),
        ("The answer is: 3. The answer is: 16.0!", "#### 16", True),
        ("The answer is $50%.\nThe answer", "#### 50", True),
        ("#### 7", "The answer is: 7", True),
        ("The final answer is: 20/14", "The answer is: 10/7", True),
        ("The answer is: 16\n\nQuestion: and 17?", "#### 16", True),
        ("it is 16", "#### 16", False),
        ("The answer is: 1000", "#### 1,000", False),
        ("The answer is: 1,000", "#### 1,000", True),
        ("The answer is: 1/0", "#### 0", False),
        ("The answer is: x + 1", r"The answer is: x + 1.", True),
        ("#### 3\nThe answer is 4", "#### 3", False),
    ],
)
def test_answers_are_read_as_the_benchmark_reads_them(text: str, response: str, right: bool) -> None:
    from metamathqa import accuracy

    assert accuracy([text, "nothing"], [response, response]) == right / 2
    with pytest.raises(ValueError, match="no answer"):
        accuracy([text], ["sixteen"])


def test_batches_are_sorted_within_twenty_and_padded_by_one_end_that_counts() -> None:
    from metamathqa import batches, collate

    lengths = [3 + number * 7 % 13 for number in range(100)]
    found = batches(lengths, 4)
    assert sorted(row for batch in found[:20] for row in batch) == list(range(80))
    assert [len(batch) for batch in found] == [4] * 25
    for bucket in (found[:20], found[20:]):
        order = [lengths[row] for batch in bucket for row in batch]
        assert order == sorted(order, reverse=True)
    batch = collate([[5, 6, 7, 8], [5, 6], [9, 9, 9]], end=2)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [5, 6, 2, 2], [9, 9, 9, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7, 8], [5, 6, 2, -100], [9, 9, 9, 2]]


def test_lengths_and_the_validation_rows(here: Path) -> None:
    from metamathqa import generation_config, load_rows, validation_rows

    assert generation_config({"max_length": 800, "max_new_tokens": 300}, 100, 2).max_length == 400
    assert generation_config({"max_length": 800, "max_new_tokens": 300}, 600, 2).max_length == 800
    assert generation_config({"max_length": None, "max_new_tokens": 300}, 600, 2).max_new_tokens == 300
    np.random.seed(0)
    order = np.arange(7473)
    np.random.shuffle(order)
    assert validation_rows(7473) == order[:50].tolist()
    rows = load_rows(here / "data")
    assert (len(rows.train), len(rows.validation), len(rows.test)) == (40, 50, 3)
    assert rows.validation[0]["query"] == f"what is {validation_rows(60)[0]} and 2?"
