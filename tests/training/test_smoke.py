"""Laws of trials: every architecture is tried in small, by its name alone, and nothing is kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from propulsion_tools.cli import main
from propulsion_tools.errors import OptionError
from propulsion_tools.records import RunSpec
from propulsion_tools.training import smoke

NAMES = {
    "FacebookAI/roberta-large": "roberta",
    "microsoft/deberta-v3-base": "deberta-v2",
    "facebook/bart-large": "bart",
    "bigscience/bloomz-7b1": "bloom",
    "EleutherAI/gpt-j-6b": "gptj",
    "huggyllama/llama-7b": "llama",
    "meta-llama/Llama-2-13b-hf": "llama",
    "tiiuae/falcon-7b": "falcon",
    "mistralai/Mistral-7B-v0.1": "mistral",
    "microsoft/phi-2": "phi",
    "google-t5/t5-small": "t5",
    "google/gemma-3-270m": "gemma3_text",
    "Qwen/Qwen2-0.5B": "qwen2",
    "Qwen/Qwen3-8B": "qwen3",
}
MIXTURES = {
    "mistralai/Mixtral-8x7B-v0.1": "mixtral",
    "Qwen/Qwen1.5-MoE-A2.7B": "qwen2_moe",
    "Qwen/Qwen3-30B-A3B": "qwen3_moe",
    "deepseek-ai/DeepSeek-V3": "deepseek_v3",
    "allenai/OLMoE-1B-7B-0924": "olmoe",
    "openai/gpt-oss-20b": "gpt_oss",
}


@pytest.mark.parametrize("name", [*NAMES, *MIXTURES])
def test_a_name_spells_its_architecture(name: str) -> None:
    assert smoke.architecture(name) == {**NAMES, **MIXTURES}[name]


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_of_experts_is_tried_in_small(name: str) -> None:
    record = smoke.smoke(RunSpec(model_name_or_path=name, task="gsm8k", use_cpu=True, disable_tqdm=True))
    assert record.parameters["total"] < 200_000, "experts are not few, or not small"
    assert record.parameters["trainable"] > 0


def test_a_folder_says_more_than_its_name(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    folder.symlink_to(tiny_model)
    assert smoke.architecture(str(folder)) == "bert"
    with pytest.raises(OptionError, match="pass a folder"):
        smoke.architecture("nobody/mystery")


def test_a_trial_takes_two_steps_of_the_run_that_is_asked_for_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "run.yaml").write_text("model_name_or_path: tiiuae/falcon-7b\ntask: obqa\nnum_vectors: 2\n")
    assert main(["train", "--config", "run.yaml", "--smoke", "--use_cpu", "--init_noise", "0.01"]) == 0
    printed = capsys.readouterr().out
    assert "A falcon of two layers" in printed
    assert "obqa by propulsion: 2 steps taken, nothing kept." in printed
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_a_trial_has_the_schedule_of_the_run() -> None:
    schedule = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 3}}
    best = {"load_best_model_at_end": True, "early_stopping_patience": 2}
    record = smoke.smoke(RunSpec(use_cpu=True, disable_tqdm=True, **schedule, **best))  # type: ignore[arg-type]
    assert (record.spec.lr_scheduler_type, record.spec.lr_scheduler_kwargs) == tuple(schedule.values())


@pytest.mark.parametrize(
    ("name", "task", "said"),
    [
        ("bert-base-uncased", "xsum", "bert is an encoder that cannot be one"),
        ("facebook/bart-base", "completions", "needs a causal language model, and bart is an encoder-decoder"),
        ("EleutherAI/gpt-j-6b", "conll2003", "needs a token classifier, and gptj is a causal language model"),
    ],
)
def test_a_model_that_does_not_fit_the_task_is_refused(name: str, task: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        smoke.smoke(RunSpec(model_name_or_path=name, task=task, use_cpu=True))
