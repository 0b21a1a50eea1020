"""The benchmarks can show a difference: they catch the formula as it is written. Bytes only, never a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("rich", reason="the benchmarks need rich: pip install 'propulsion-peft[train]'")
FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture(name="small")
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    import subjects

    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 12, "num_attention_heads": 4}
    for name in ("roberta-base", "llama-110m"):
        subject = subjects.SUBJECTS[name]
        small = subjects.Subject(subject.model_type, {**subject.config, **sizes, "vocab_size": 30000}, subject.causal)
        monkeypatch.setitem(subjects.SUBJECTS, name, small)


def saved_ratio(model_name: str, method: str) -> float:
    from measuring import saved_bytes
    from subjects import METHODS, Trainee, batch, build, share_weights

    model = build(model_name, torch.float32)
    inputs = batch(model_name, 2, 64)
    floor, tuned = (Trainee(METHODS[name](share_weights(model)), inputs) for name in ("floor", method))
    return saved_bytes(tuned.model, tuned.loss) / saved_bytes(floor.model, floor.loss)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("model_name", "method", "least", "most"),
    [
        ("roberta-base", "naive-eager", 1.5, 2.5),
        ("roberta-base", "propulsion-all", 1.0, 1.2),
        ("roberta-base", "propulsion-attn", 0.9, 1.02),
        ("llama-110m", "propulsion-all", 1.0, 1.2),
    ],
)
def test_the_naive_form_is_caught_by_its_bytes(model_name: str, method: str, least: float, most: float) -> None:
    assert least < saved_ratio(model_name, method) < most


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("method", "moves"), [("naive-eager", False), ("naive-in-full", True), ("propulsion-all", True)]
)
def test_vectors_kept_in_bfloat16_do_not_move_at_the_default_rate(method: str, moves: bool) -> None:
    from subjects import METHODS, Trainee, batch, build, share_weights

    model = METHODS[method](share_weights(build("roberta-base", torch.bfloat16)))
    before = {name: weight.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    trainee = Trainee(model, batch("roberta-base", 2, 8), learning_rate=1e-3)
    trainee.step()
    after = dict(model.named_parameters())
    assert before
    assert any(not torch.equal(weight, after[name]) for name, weight in before.items()) == moves


@pytest.mark.usefixtures("small")
def test_floor_trains_nothing_and_reaches_the_embeddings() -> None:
    from subjects import METHODS, Trainee, batch, build, share_weights

    model = build("roberta-base", torch.float32)
    floor = Trainee(METHODS["floor"](share_weights(model)), batch("roberta-base", 2, 8))
    assert floor.parameters == 0
    seen: list[bool] = []

    def look(module: Any, args: Any, output: torch.Tensor) -> None:
        output.register_hook(lambda grad: seen.append(True))

    floor.model.get_input_embeddings().register_forward_hook(look)
    floor.step()
    assert seen == [True]


@pytest.mark.usefixtures("small")
def test_one_round_writes_what_the_report_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import inference
    import training_step

    import report

    common = ["--models", "roberta-base", "--batch", "1", "--length", "8", "--rounds", "3", "--minutes", "0"]
    few = ["--methods", "propulsion-all", "propulsion-attn", "ia3-all", "ia3-attn", "lora-all"]
    training_step.main([*common, "--dtype", "bfloat16", *few, "--output", str(tmp_path / "steps.json")])
    inference.main([*common, "--dtype", "float32", "--output", str(tmp_path / "inference.json")])
    record = json.loads((tmp_path / "steps.json").read_text())
    assert {row["method"] for row in record["rows"]} == {"floor", *few[1:]}
    assert all(len(row["ratios"]) == 3 for row in record["rows"])
    page = tmp_path / "performance.md"
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "PAGE", page)
    report.main()
    assert "step / IA3 on the same modules, bfloat16" in page.read_text()
    assert "propulsion-all, merged" in page.read_text()
    assert "not measured" in page.read_text()  # memory was not


@pytest.mark.usefixtures("small")
def test_memory_over_four_bits_is_measured_beside_bfloat16_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    import quantized_memory

    import report

    few = ["--methods", "propulsion-all", "--batch", "1", "--length", "8", "--threads", "1"]
    quantized_memory.main([*few, "--output", str(tmp_path / "quantized.json")])
    rows = json.loads((tmp_path / "quantized.json").read_text())["rows"]
    measured = {(row["dtype"], row["method"]): row for row in rows}
    assert set(measured) == {
        (base, method) for base in quantized_memory.BASES for method in ("floor", "propulsion-all")
    }
    four, sixteen = (measured[base, "propulsion-all"] for base in quantized_memory.BASES)
    in_linears = 12 * (4 * 64 * 64 + 3 * 64 * 256)
    assert sixteen["base_mib"] - four["base_mib"] == pytest.approx(in_linears * (16 - 4) / 8 / 2**20, abs=0.15)
    assert four["trainable"] == sixteen["trainable"] > 0
    assert measured["4-bit", "floor"]["trainable"] == 0
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "PAGE", tmp_path / "performance.md")
    report.main()
    page = (tmp_path / "performance.md").read_text()
    assert page.count("is QLoRA") == 1
    assert "### llama-110m, bfloat16, 1 × 8 tokens" in page


def test_a_goal_is_met_or_says_by_how_much_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import report

    rows: list[dict[str, Any]] = [
        {"model": "roberta-base", "dtype": "float32", "batch": 1, "length": 8, "method": method, "saved_ratio": ratio}
        for method, ratio in {"floor": 1.0, "propulsion-all": 1.16, "propulsion-attn": 1.25}.items()
    ]
    table = "\n".join(report.goals([{"benchmark": "memory", "rows": rows}]))
    assert "| all | ≤ 1.17 | 1.160 | met |" in table
    assert "| attn | ≤ 1.00 | 1.250 | missed by 0.250 |" in table


def test_a_time_is_not_rounded_into_a_goal_and_settings_share_a_line() -> None:
    import report

    rows: list[dict[str, Any]] = []
    for length, ratios in ((8, [0.98, 1.005, 1.016]), (16, [0.98, 0.985, 0.99]), (32, [1.1, 1.2, 1.3])):
        setting = {"model": "minilm", "dtype": "float32", "batch": 1, "length": length}
        median = {"ratio": {"median": ratios[1]}}
        rows += [{**setting, **median, "method": "propulsion-all, merged", "ratios": ratios}]
        rows += [{**setting, "ratio": {"median": 1.0}, "method": "base", "ratios": [1.0] * 3}]
    lines = [line for line in report.goals([{"benchmark": "inference", "rows": rows}]) if line.startswith("| merged")]
    said = "met in 1, missed by 0.200 in 1, too close to call in 1"
    assert lines == [f"| merged inference / base | all | ≤ 1.00 | 0.985–1.200 | {said} |"]


def test_the_page_opens_with_what_a_reader_compares() -> None:
    import report

    setting = {"model": "roberta-base", "batch": 1, "length": 8}
    step = {"dtype": "bfloat16", "trainable": 512, "saved_ratio": 2.0}
    memory = {"dtype": "float32", "trainable": 512, "saved_ratio": 1.5, "step_mib": 1024}
    records: list[dict[str, Any]] = [
        {"benchmark": "training_step", "rows": [{**setting, **step, "method": "full", "ratio": {"median": 1.25}}]},
        {"benchmark": "memory", "rows": [{**setting, **memory, "method": method} for method in ("lora-qv", "vera")]},
        {"benchmark": "something else", "rows": [{"command": "--version"}]},
    ]
    table = "\n".join(report.glance(records))
    costs = "training step, bfloat16 | kept, float32 | kept, bfloat16 | peak of a step, float32"
    assert f"| | trained parameters | file | {costs} |" in table
    assert "| LoRA r = 8, query and value | 512 | 2 KiB | – | 1.50 | – | 1,024 MiB |" in table
    assert "| full fine-tuning | 512 | 2 KiB | 1.25 | – | 2.00 | – |" in table
    assert "vera" not in table


def test_the_page_is_what_the_results_say() -> None:
    import report

    written = "\n".join(report.page(report.costs())).rstrip() + "\n"
    assert report.PAGE.read_text() == written, "run `python benchmarks/report.py`"
    assert written.index("## Beside LoRA") < written.index("## How it was measured") < written.index("## Our goals")


def test_runs_alternate_with_the_reference() -> None:
    from measuring import alternate

    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "abcdef"}
    samples = alternate(runs, rounds=4)
    assert all(len(values) == 4 for values in samples.values())
    assert order.count("b") == 5  # once to warm up
    longest = max(len(stretch) for stretch in "".join(order[6:]).split("a"))
    assert longest <= 2


def test_the_command_line_is_timed_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import command_line

    import report

    monkeypatch.setattr(command_line, "WORDS", (["--version"], ["train", "--config", "unknown_key.yaml"]))
    command_line.main(["--rounds", "2", "--output", str(tmp_path / "command_line.json")])
    rows = json.loads((tmp_path / "command_line.json").read_text())["rows"]
    assert [row["words"] for row in rows][1:] == ["propulsion --version", "propulsion train --config unknown_key.yaml"]
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "PAGE", tmp_path / "performance.md")
    report.main()
    assert "| `propulsion --version` |" in (tmp_path / "performance.md").read_text()


def test_a_command_line_that_fails_is_not_timed(tmp_path: Path) -> None:
    import command_line

    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        command_line.times(["-c", "1 / 0"], str(tmp_path))
