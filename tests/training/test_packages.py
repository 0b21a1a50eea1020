"""What is not installed is said before data and weights are read, in one sentence that names the remedy."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from transformers.integrations import get_available_reporting_integrations
from transformers.training_args import OptimizerNames

from propulsion_tools.errors import MissingExtraError, OptionError
from propulsion_tools.records import RunSpec
from propulsion_tools.training.resolve import resolve
from propulsion_tools.training.run import train

TRACKERS = ("azure_ml", "clearml", "comet_ml", "dagshub", "dvclive", "flyte", "mlflow", "tensorboard", "wandb")


@pytest.mark.parametrize("optimizer", [item.value for item in OptimizerNames])
def test_an_optimizer_can_be_had_or_is_refused(optimizer: str) -> None:
    error = None
    try:
        resolve(RunSpec(optim=optimizer))
    except OptionError as refusal:
        error = str(refusal)
    assert error is None or error.startswith(f"optim cannot be {optimizer!r} here: ")


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_can_be_had_or_is_refused(tracker: str) -> None:
    if tracker in get_available_reporting_integrations():
        resolve(RunSpec(report_to=("none", tracker)))
        return
    with pytest.raises(OptionError, match=f"report_to .*{tracker}.*pip install"):
        resolve(RunSpec(report_to=("none", tracker)))


def test_an_unknown_tracker_names_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"wandbb is not supported, only .*wandb"):
        resolve(RunSpec(report_to="wandbb"))


def test_asking_chooses_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.state import PartialState

    monkeypatch.setattr(PartialState, "_shared_state", {})
    resolve(RunSpec(report_to="all"))
    assert PartialState._shared_state == {}


def test_the_run_has_written_nothing(make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.trainer_optimizer.is_bitsandbytes_available", lambda: False)
    spec = make_spec(optim="paged_adamw_8bit", data_dir="nowhere")
    with pytest.raises(OptionError, match="bitsandbytes"):
        train(spec)


@pytest.mark.parametrize(("task", "package"), [("xsum", "sentencex"), ("xsum", "rouge_score"), ("wikiann", "seqeval")])
def test_what_a_task_scores_with(task: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=f"{package}.*\\[train\\]"):
        resolve(RunSpec(task=task))
