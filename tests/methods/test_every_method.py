"""Laws of every method: twenty steps lower the loss, frozen weights stay as they are, and what was saved comes back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainingArguments, set_seed

from propulsion.errors import PropulsionError
from propulsion.heads import head_modules
from propulsion_tools.errors import ToolsError
from propulsion_tools.methods import get_method, method_names
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks import Setup, get_task
from propulsion_tools.training.trained_files import ADAPTER_CONFIG, load_trained, open_adapter, save_trained
from propulsion_tools.training.trainer import RunTrainer
from tests.methods.test_methods import Classification
from tests.tiny_models import tiny_inputs, tiny_model

# Why a method does not apply to a decoder that classifies.
REFUSED = {("llama", "bitfit"): "bias"}
STEPS = 20
# Built by the same calls as others in this test.
THIN = {"lora-r1", "lora-r2", *(f"propulsion-{name}" for name in ("embedding", "key", "mlp", "query", "value"))}
METHODS = [name for name in method_names() if name not in THIN]
KEEPS_A_STATE = ["adalora", "lora-fa", "p-tuning", "dylora", "deltalora", "increlora", "loraprune"]
# Start with other outputs than the base model: what is put before the text is seen at once.
NOT_THE_IDENTITY = {"prompt-tuning", "p-tuning", "prefix-tuning", "propetl-prefix", "mam"}
# Moves the weights beside its pieces along with them: that is what it is.
MOVES_THE_BASE = {"deltalora"}
# Train parameters that the base model has: all, the biases, norms.
TRAINS_ITS_OWN = {"full", "bitfit", "adapter"}


@dataclass
class Trained:
    """A model before and after some steps."""

    model: nn.Module
    trainer: RunTrainer
    originals: set[str]
    """Names of the parameters of the backbone."""
    frozen: dict[str, tuple[nn.Parameter, torch.Tensor]]
    loss_before: float
    loss_after: float


def logits(model: nn.Module, architecture: str) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(**tiny_inputs(architecture, batch=8)).logits


def loss(model: nn.Module, architecture: str) -> float:
    model.eval()
    with torch.no_grad():
        return float(model(**tiny_inputs(architecture, batch=8)).loss)


def built(architecture: str, spec: RunSpec) -> nn.Module:
    set_seed(0)
    return get_method(spec.method).build(tiny_model(architecture), spec, Classification())


def train_steps(
    architecture: str, spec: RunSpec, folder: Path, resume: Path | None = None, **arguments: Any
) -> Trained:
    method = get_method(spec.method)
    method.check(spec)
    set_seed(0)
    base = tiny_model(architecture)
    originals = {name: (parameter, parameter.detach().clone()) for name, parameter in base.named_parameters()}
    heads = head_modules(base)
    model = method.build(base, spec, Classification())
    frozen = {name: pair for name, pair in originals.items() if not pair[0].requires_grad}
    before = loss(model, architecture)
    rows = tiny_inputs(architecture, batch=8)
    dataset = [{key: value[number] for key, value in rows.items()} for number in range(8)] * STEPS
    settings = {"max_steps": STEPS, "per_device_train_batch_size": 8, "learning_rate": method.learning_rate(spec)}
    settings |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "warmup_steps": 2}
    trainer = RunTrainer(
        spec=spec,
        heads=heads,
        head_learning_rate=method.head_learning_rate,
        task=get_task("text-classification"),
        setup=Setup(tokenizer=None, config=base.config),
        loss_is_mean=True,
        method_optimizer=method.optimizer,
        model=model,
        args=TrainingArguments(output_dir=str(folder), **{**settings, **arguments}),
        train_dataset=dataset,
        callbacks=method.callbacks(model, spec),
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    backbone = {name for name in originals if name.split(".")[0] not in heads}
    return Trained(model, trainer, backbone, frozen, before, loss(model, architecture))


def reloaded(architecture: str, spec: RunSpec, folder: Path) -> nn.Module:
    if (folder / ADAPTER_CONFIG).exists():
        return open_adapter(tiny_model(architecture), folder)
    model = built(architecture, spec)
    load_trained(model, folder)
    return model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", ["roberta", "llama"])
def test_twenty_steps_lower_the_loss_leave_the_frozen_and_come_back(
    architecture: str, method: str, tmp_path: Path
) -> None:
    spec = RunSpec(method=method, max_length=8, torch_dtype="float32")
    if (architecture, method) in REFUSED:
        with pytest.raises((PropulsionError, ToolsError), match=REFUSED[architecture, method]):
            train_steps(architecture, spec, tmp_path)
        return
    if reason := get_method(method).refusal():
        with pytest.raises((PropulsionError, ToolsError), match="cannot run here"):
            get_method(method).check(spec)
        pytest.skip(reason)
    trained = train_steps(architecture, spec, tmp_path)
    assert trained.loss_after < trained.loss_before
    thawed = trained.originals - trained.frozen.keys()
    assert bool(thawed) == (method in TRAINS_ITS_OWN), thawed
    moved = [name for name, (parameter, original) in trained.frozen.items() if not torch.equal(parameter, original)]
    assert bool(moved) == (method in MOVES_THE_BASE), moved
    save_trained(trained.model, tmp_path / "saved")
    again = reloaded(architecture, spec, tmp_path / "saved")
    assert torch.equal(logits(again, architecture), logits(trained.model, architecture))


@pytest.mark.parametrize("method", [name for name in METHODS if name not in NOT_THE_IDENTITY])
@pytest.mark.parametrize("architecture", ["roberta", "llama"])
def test_the_start_is_the_identity_with_trained_parts_in_the_way(architecture: str, method: str) -> None:
    if (architecture, method) in REFUSED or get_method(method).refusal():
        pytest.skip("refused, see above")
    spec = RunSpec(method=method, max_length=8)
    model = built(architecture, spec)
    assert torch.allclose(logits(model, architecture), logits(tiny_model(architecture), architecture), atol=1e-6)
    if method in ("head", "full", "bitfit"):
        return
    # A start that is the identity because nothing is called would be one for any values.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "modules_to_save" not in name and not name.startswith("classifier"):
                parameter.add_(torch.randn_like(parameter))
    assert not torch.allclose(logits(model, architecture), logits(tiny_model(architecture), architecture), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["adalora", "lora-fa", "p-tuning", "propetl-adapter", "dylora", "deltalora", "increlora", "loraprune"]
)
def test_killed_and_resumed_is_as_never_killed(method: str, tmp_path: Path) -> None:
    spec = RunSpec(method=method, max_length=8)
    kept = {"save_strategy": "steps", "save_steps": 4}
    whole = train_steps("roberta", spec, tmp_path / "whole", **kept)
    again = train_steps("roberta", spec, tmp_path / "again", **kept, resume=tmp_path / "whole" / "checkpoint-8")
    assert torch.equal(logits(whole.model, "roberta"), logits(again.model, "roberta"))
    for one, other in zip(whole.trainer.tensor_keepers, again.trainer.tensor_keepers, strict=True):
        state = one.tensors()
        assert all(torch.equal(state[key], value) for key, value in other.tensors().items()), method
        assert state.keys() == other.tensors().keys()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_base_in_bfloat16_is_trained_in_float32(method: str) -> None:
    if get_method(method).refusal():
        pytest.skip("refused, see above")
    base = tiny_model("roberta").to(torch.bfloat16)
    model = get_method(method).build(base, RunSpec(method=method, max_length=8), Classification())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = model(**tiny_inputs("roberta")).loss
    value.backward()
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in trained)
