"""The ways in which people train: Trainer, TRL, checkpointing, compiling, autocast, several processes."""

from __future__ import annotations

import math
import os
from pathlib import Path

import datasets
import pytest
import tokenizers
import torch
import torch.distributed as dist
from peft.utils.other import fsdp_auto_wrap_policy
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments

from propulsion import PropulsionConfig
from tests.processes import together
from tests.propulsion.steered import batch, config, layers, relative_error, result, steered_model
from tests.tiny_models import tiny_inputs, tiny_model


def gradients(model: nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def rows(name: str, head: str, count: int = 24) -> datasets.Dataset:
    inputs = tiny_inputs(name, head, batch=count)
    return datasets.Dataset.from_dict({key: value.tolist() for key, value in inputs.items()})


def test_trainer_trains_evaluates_and_resumes_nothing_but_the_adapter(tmp_path: Path) -> None:
    model = steered_model("roberta", trained=False)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=6,
        learning_rate=1e-2,
        report_to="none",
        logging_steps=1,
        use_cpu=True,
        label_names=["labels"],
    )
    data = rows("roberta", "cls")
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    assert all(torch.equal(frozen[name], p) for name, p in model.named_parameters() if name in frozen)
    assert (tmp_path / "checkpoint-6" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "checkpoint-6" / "model.safetensors").exists()


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of the words "0" to "79", for the tiny models."""
    words = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *map(str, range(80))])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.slow
def test_trl_trains_with_our_configuration(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed")
    data = datasets.Dataset.from_dict({"text": [" ".join(str((i + j) % 80) for j in range(8)) for i in range(16)]})
    arguments = trl.SFTConfig(
        str(tmp_path),
        max_steps=3,
        report_to="none",
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        learning_rate=1e-2,
        max_length=16,
    )
    trainer = trl.SFTTrainer(
        tiny_model("llama", "lm"),
        arguments,
        train_dataset=data,
        processing_class=word_tokenizer(),
        peft_config=PropulsionConfig(task_type="CAUSAL_LM", target_modules="all"),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    assert any((layer.propulsion_delta["default"].weight != 0).any() for layer in layers(trainer.model))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < 50_000


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("wrapped_first", [False, True])
@pytest.mark.parametrize("name", ["roberta", "llama", "t5"])
def test_gradient_checkpointing_in_both_orders(name: str, wrapped_first: bool, use_reentrant: bool) -> None:
    from peft import get_peft_model

    from tests.propulsion.steered import train_by_chance

    inputs = batch(name)
    expected = gradients(steered_model(name).train(), inputs)
    base, how = tiny_model(name, "cls").train(), {"use_reentrant": use_reentrant}
    if wrapped_first:
        model = get_peft_model(base, config())
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
        model.enable_input_require_grads()
    else:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
        model = get_peft_model(base, config())
        model.enable_input_require_grads()
    train_by_chance(model)
    actual = gradients(model.train(), inputs)
    assert actual.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(actual[key], gradient, rtol=1e-4, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["attn", "all"])
@pytest.mark.parametrize("name", ["roberta", "llama"])
def test_compiles_without_graph_breaks(name: str, targets: str) -> None:
    model = steered_model(name, target_modules=targets)
    inputs = batch(name)
    expected = gradients(model, inputs)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    actual = gradients(compiled, inputs)
    for key, gradient in expected.items():
        torch.testing.assert_close(actual[f"_orig_mod.{key}"], gradient, rtol=1e-4, atol=1e-6)


def test_autocast_steers_what_autocast_computes() -> None:
    model = steered_model("llama")
    inputs = batch("llama")
    expected = result(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = result(model, inputs)
        loss = model(**inputs).loss
    loss.backward()
    assert relative_error(actual.float(), expected) < 0.05
    assert all(layer.propulsion_delta["default"].weight.grad.dtype == torch.float32 for layer in layers(model))


def trained_together(file: Path) -> None:
    """Three steps of each process on its rows of a batch; the first writes what they have made."""
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    model = steered_model("roberta").double()
    inputs = {key: value[rank::world] for key, value in batch("roberta", batch=4).items()}
    trained: nn.Module = model
    if world > 1:
        dist.init_process_group("gloo")
        trained = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        trained(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if rank == 0:
        torch.save({name: p for name, p in model.named_parameters() if p.requires_grad}, file)
    # If the reducer were the last to hold the group, it would wait for the group's threads with Python's lock in hand.
    del trained
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    trained_together(tmp_path / "one")
    together(trained_together, tmp_path / "two")
    one, two = torch.load(tmp_path / "one"), torch.load(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, parameter in one.items():
        torch.testing.assert_close(two[name], parameter, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_trl_takes_a_trained_adapter_as_its_reference(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    model = steered_model("llama", "lm").train()
    pairs = [{"prompt": "1 2", "chosen": " 3 4", "rejected": " 5 6 7"}] * 4
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, learning_rate=0.0, report_to=[],
        use_cpu=True, bf16=False, logging_steps=1, save_strategy="no",
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model, args=arguments, train_dataset=datasets.Dataset.from_list(pairs), processing_class=word_tokenizer()
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == [pytest.approx(math.log(2), abs=1e-4)]


def sharded(use_orig_params: bool) -> None:
    """A step of a model whose parameters two processes share, against the same step of a whole one."""
    dist.init_process_group("gloo")
    fields = {"target_modules": "all", "train_bias": True}
    alone, inputs = steered_model("bert", **fields).train(), batch("bert", batch=4)
    expected = alone(**inputs).loss
    model = steered_model("bert", **fields).train()
    shared = FullyShardedDataParallel(
        model,
        auto_wrap_policy=fsdp_auto_wrap_policy(model),
        use_orig_params=use_orig_params,
        device_id=torch.device("cpu"),
    )
    loss = shared(**inputs).loss
    loss.backward()
    torch.testing.assert_close(loss, expected)
    total = sum(p.grad.square().sum() for p in shared.parameters() if p.requires_grad and p.grad is not None)
    dist.all_reduce(total)
    expected.backward()
    wanted = sum(p.grad.square().sum() for p in alone.parameters() if p.grad is not None)
    torch.testing.assert_close(total, wanted, rtol=1e-4, atol=0)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("use_orig_params", [True, False])
def test_sharded_parameters_have_the_gradients_of_whole_ones(use_orig_params: bool) -> None:
    together(sharded, use_orig_params)


def test_a_replica_of_data_parallel_computes_the_same() -> None:
    layer = next(layer for layer in layers(steered_model("roberta", train_bias=True)) if layer.propulsion_bias)
    for trained in (layer.propulsion_delta["default"], layer.propulsion_bias["default"]):
        replica = trained._replicate_for_data_parallel()
        replica.weight = trained.weight.detach()  # as torch.nn.parallel.replicate does, without a parameter
        assert torch.equal(replica(), trained())
        assert replica().data_ptr() != trained.weight.data_ptr()  # FSDP takes the weight's memory away


@pytest.mark.parametrize("targets", ["attn", "all"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_model_answers_as_it_did_and_can_be_saved(targets: str, tmp_path: Path) -> None:
    model = steered_model("roberta", target_modules=targets, task_type=None).get_base_model()
    first, second = (batch("roberta", seed=seed)["input_ids"] for seed in (0, 1))
    torch.jit.trace(model, (first,), strict=False).save(tmp_path / "traced.pt")
    traced = torch.jit.load(tmp_path / "traced.pt")
    for ids in (first, second):
        assert relative_error(traced(ids)["logits"], model(input_ids=ids).logits) < 1e-6
