"""The commands on the theory as a user types them, on a tiny model; their numbers fit together."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from propulsion_tools.cli import main
from propulsion_tools.records import RunSpec
from propulsion_tools.theory import jacobian_figure, kernel_image
from propulsion_tools.theory.commands import ntk
from propulsion_tools.theory.commands.jacobian import describe
from propulsion_tools.theory.commands.study import evenly_spaced
from propulsion_tools.theory.kernel_figure import KernelSnapshot
from propulsion_tools.theory.linearization import Departure
from propulsion_tools.training.resolve import resolve

pytest.importorskip("plotly", reason="the kernels' HTML needs plotly: pip install 'propulsion-peft[report]'")


@pytest.fixture
def words(tiny_model: Path, data_dir: Path, tmp_path: Path) -> list[str]:
    """The options of a small study."""
    model, out = str(tiny_model), str(tmp_path / "study")
    common = ["--model_name_or_path", model, "--data_dir", str(data_dir), "--output_dir", out, "--num_samples", "8"]
    return [*common, "--max_length", "16", "--degree", "3", "--disable_tqdm", "--use_cpu"]


def test_ntk_writes_kernels_that_fit_their_numbers(words: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "study"
    assert main(["ntk", *words, "--steps", "2"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "kernels.html",
        "kernels.npz",
        "kernels.png",
        "numbers.json",
    ]
    numbers, arrays = json.loads((folder / "numbers.json").read_text()), np.load(folder / "kernels.npz")
    full = (arrays["before training: full body"] + arrays["before training: full head"])[:, 0, :, 0]
    tuned = arrays["before training: propulsion body"][:, 0, :, 0]
    found = numbers["nearness"]["before training"]["all weights / propulsion"]
    assert found["distance"] == pytest.approx(np.linalg.norm(full - tuned) / np.linalg.norm(full))
    assert numbers["spectrum"]["before training"]["propulsion"]["largest"] == pytest.approx(
        np.linalg.eigvalsh(tuned)[-1]
    )
    assert numbers["output"] == "difference"
    assert arrays["labels"].tolist() == sorted(arrays["labels"].tolist())
    assert numbers["drift"]["after 2 steps"]["propulsion"]["distance"] > 0


def test_each_method_is_trained_as_it_is_by_itself(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    trained: dict[str, Any] = {}
    monkeypatch.setattr(ntk, "train_steps", lambda job, steps, folder: trained.update({job.spec.method: job.spec}))
    assert main(["ntk", *words, "--steps", "2"]) == 0
    for name, spec in trained.items():
        alone = resolve(RunSpec(method=name, degree=3 if name == "propulsion" else 15))
        assert (spec.learning_rate, spec.adam_beta1) == (alone.learning_rate, alone.adam_beta1)
    assert set(trained) == {"propulsion", "full"}


def test_the_head_has_the_same_kernel_under_both(words: list[str], tmp_path: Path) -> None:
    """Both start from the same head, and the steered model is the frozen one: what they share must agree."""
    assert main(["ntk", *words]) == 0
    arrays = np.load(tmp_path / "study" / "kernels.npz")
    head = arrays["before training: propulsion head"]
    np.testing.assert_allclose(head, arrays["before training: full head"], rtol=1e-4, atol=1e-5 * np.abs(head).max())


def test_the_page_needs_no_network_and_names_its_samples(words: list[str], tmp_path: Path) -> None:
    assert main(["ntk", *words]) == 0
    page = (tmp_path / "study" / "kernels.html").read_text(encoding="utf-8")
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page[:5000] + page[-200_000:])
    assert tags
    assert not [tag for tag in tags if re.search(r"(?:src|href)\s*=", tag)]
    assert "7: positive: " in page


def test_jacobian_follows_the_training(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jacobian", *words, "--steps", "3"]) == 0
    folder = tmp_path / "study"
    numbers, arrays = json.loads((folder / "numbers.json").read_text()), np.load(folder / "jacobian.npz")
    assert [item["step"] for item in numbers["linearization"]] == [1, 2, 3]
    assert numbers["difference"] == pytest.approx(np.linalg.norm(arrays["after"] - arrays["before"]))
    assert numbers["linearization"][0]["relative"] is None  # the first step of the warm-up has no length
    assert numbers["linearization"][1]["relative"] < 0.5
    assert (folder / "jacobian.png").read_bytes().startswith(b"\x89PNG")
    assert "error / change" in capsys.readouterr().out


def test_bound_looks_at_each_linear_layer(words: list[str], tmp_path: Path) -> None:
    assert main(["bound", *words]) == 0
    numbers = json.loads((tmp_path / "study" / "numbers.json").read_text())
    assert len(numbers["layers"]) == 12
    assert all(item["holds"] for item in numbers["random"])
    assert (tmp_path / "study" / "bound.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("command", ["ntk", "jacobian", "bound"])
def test_earlier_results_are_not_replaced_unasked(
    command: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study").mkdir()
    numbers = tmp_path / "study" / "numbers.json"
    numbers.write_text("kept")
    more = ["--steps", "1"] if command == "jacobian" else []
    assert main([command, *words, *more]) == 2
    assert "--overwrite_output_dir true to replace them" in capsys.readouterr().err
    assert numbers.read_text() == "kept"
    assert [file.name for file in numbers.parent.iterdir()] == ["numbers.json"]
    assert main([command, *words, *more, "--overwrite_output_dir"]) == 0
    assert json.loads(numbers.read_text())


def test_columns_can_be_named(
    words: list[str], data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd").mkdir()
    for file in data_dir.iterdir():
        rows = file.read_text().replace('"text"', '"prose"').replace('"label"', '"mood"')
        (tmp_path / "odd" / file.name).write_text(rows)
    odd = [str(tmp_path / "odd") if word == str(data_dir) else word for word in words]
    assert main(["bound", *odd]) == 2
    assert "name it with --label_column" in capsys.readouterr().err
    assert main(["bound", *odd, "--label_column", "mood", "--text_column", "prose"]) == 0


def test_regress_scores_the_kernels_beside_the_adapter(
    tiny_model: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, result = tmp_path / "run", tmp_path / "result.json"
    common = ["--model_name_or_path", str(tiny_model), "--data_dir", str(data_dir), "--output_dir", str(run)]
    assert main(["train", *common, "--max_steps", "2", "--max_length", "16", "--disable_tqdm", "--use_cpu"]) == 0
    assert main(["regress", str(run), "--result", str(result), "--disable_tqdm", "--use_cpu"]) == 0
    found = json.loads(result.read_text())
    record = json.loads((run / "record.json").read_text())
    scores = found["scores"]["validation"]
    assert list(scores) == [
        "trained adapter",
        "kernel of propulsion",
        "kernel of the head",
        "kernel of propulsion and head",
    ]
    assert scores["trained adapter"]["accuracy"] == record["metrics"]["validation"]["accuracy"]
    assert scores["kernel of propulsion"]["accuracy"] > 0.9  # the label is one word of the sentence
    assert found["training_samples"] == 64
    printed = capsys.readouterr().out
    assert "kernel of the head" in printed
    assert f"Written to {result}\n" in printed
    assert main(["regress", str(run), "--result", str(result), "--disable_tqdm", "--use_cpu"]) == 0
    assert f"Written to {result}, in place of what was there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        ("ntk", ["--num_samples", "0"], "num_samples must be an integer of at least 2"),
        ("ntk", ["--num_samples", "1"], "num_samples must be an integer of at least 2"),
        ("ntk", ["--method", "head", "--degree", "15"], "trains the head alone"),
        ("ntk", ["--method", "head"], "degree is an option of the method propulsion"),
        ("ntk", ["--num_samples", "65"], "64 rows"),
        ("ntk", ["--split", "trian"], "'train'"),
        ("ntk", ["--output", "logit"], "difference"),
        ("ntk", ["--method", "full"], "another method"),
        ("ntk", ["--degree", "0"], "depends on no parameter"),
        ("ntk", ["--memory", "0"], "memory must be a number above 0"),
        ("ntk", ["--steps", "-1"], "steps"),
        ("jacobian", ["--steps", "0"], "steps must be an integer of at least 1"),
        ("bound", ["--method", "lora"], "propulsion"),
        ("bound", ["--target_modules", "embedding"], "linear"),
        ("regress", [], "adapter_dir"),
        ("regress", ["nowhere"], "propulsion train"),
        ("regress", ["nowhere", "--output", "loss"], "label"),
    ],
)
def test_bad_input_gives_one_sentence(
    words: list[str], command: str, more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *(words if command != "regress" else []), *more]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_samples_are_evenly_spaced_in_the_order_of_labels() -> None:
    labels = [3, 1, 2, 2, 1, 3, 1, 1]
    chosen = evenly_spaced(labels, 4, seed=0)
    assert [labels[index] for index in chosen] == [1, 1, 2, 3]
    assert sorted(evenly_spaced(labels, 8, seed=0)) == list(range(8))
    assert evenly_spaced([0] * 100, 10, seed=1) != evenly_spaced([0] * 100, 10, seed=2)


def test_class_names_do_not_overlap_and_samples_are_counted_as_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    for module in (kernel_image, jacobian_figure):
        monkeypatch.setattr(module, "figure_bytes", lambda figure, kind: drawn.append(figure))
    labels = [name for name in ("networkx", "numpy", "pandas", "scipy", "sklearn", "transformers") for _ in range(4)]
    values = np.random.default_rng(0).normal(size=(24, 24))
    kernel_image.draw_kernels([KernelSnapshot("start", values, values)], "propulsion", labels, "t", "png")
    drawn[0].draw_without_rendering()
    for axes in drawn[0].axes[::2]:
        for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
            boxes = [tick.get_window_extent() for tick in ticks if tick.get_text()]
            assert not [1 for one, other in itertools.pairwise(boxes) if one.overlaps(other)]
    jacobian = np.random.default_rng(1).normal(size=(8 * 3, 50))
    departures = [Departure(1, 0.0, 0.0, 0.0), Departure(2, 1.0, 1.0, 0.1)]
    jacobian_figure.draw_jacobian(jacobian, 2 * jacobian, departures, ["query"] * 50, 3, "t", "png")
    heat = drawn[1].axes[0]
    assert sorted(heat.get_ylim()) == [0, 8]
    assert heat.get_ylabel() == "sample, 3 outputs each"


def test_a_share_of_nothing_is_a_dash() -> None:
    numbers = dict.fromkeys(("norm_before", "norm_after", "difference", "relative_difference", "cosine"), 1.0)
    table = describe(numbers, [Departure(1, 0.0, 0.0, 0.0)], Path("runs"))[1]
    assert [list(column.cells) for column in table.columns][-1] == ["–"]  # type: ignore[attr-defined]
