"""Laws of the joint pass: each model has the loss and the gradients that it has alone, whatever is beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from propulsion import PropulsionConfig
from propulsion.errors import LayerError
from propulsion.joint import JointBackbone, Member, share_frozen, why_apart
from tests.tiny_models import LABELS, tiny_inputs, tiny_model

Inputs = dict[str, Tensor]

FIRST_OF_MLP = {"distilbert": "lin1", "llama": "up_proj", "gpt2": "c_fc"}

# What may lie side by side: targets, degrees, vectors and their pooling, biases, starts, whole modules, heads.
VARIANTS: list[dict[str, Any]] = [
    {"target_modules": "all", "degree": 15},
    {"target_modules": "attn", "degree": 3, "init_weights": "normal"},
    {"target_modules": "all", "num_vectors": 2, "pooling": "max", "init_noise": 0.1, "degree": 2},
    {"target_modules": "mlp", "train_bias": True},
    {"target_modules": "embedding", "num_vectors": 3, "pooling": "l2", "init_noise": 0.1},
]


def make(name: str, head: str, number: int, **config: Any) -> nn.Module:
    """A model with an adapter off its rest, in float64."""
    labels = {"num_labels": LABELS + number} if head == "cls" else {}
    model = tiny_model(name, head, **labels)
    backbone = getattr(model, model.base_model_prefix)
    backbone.load_state_dict(getattr(tiny_model(name, head), model.base_model_prefix).state_dict())
    if config.get("train_bias"):
        config["degree_pattern"] = {FIRST_OF_MLP.get(name, "dense"): 4}
    task = {"cls": "SEQ_CLS", "lm": "CAUSAL_LM"}.get(head)
    torch.manual_seed(number)
    model = get_peft_model(model, PropulsionConfig(task_type=task, **config)).double()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.05
    return model.train()


def batch(name: str, head: str, number: int, rows: int) -> Inputs:
    return tiny_inputs(name, head, batch=rows, length=6 + number, seed=number)


def calls_of(model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """What a model calls its backbone with."""
    seen: dict[str, Any] = {}

    def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.update({str(n): value for n, value in enumerate(args)} | kwargs)

    handle = Member(model).backbone.register_forward_pre_hook(keep, with_kwargs=True)
    model(**inputs)
    handle.remove()
    return seen


def alone(model: nn.Module, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def together(models: list[nn.Module], batches: list[Inputs]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    for model in models[1:]:
        share_frozen(model, models[0])
    calls = {number: calls_of(model, batches[number]) for number, model in enumerate(models)}
    joint = JointBackbone(models)(calls)
    losses = []
    for number, model in enumerate(models):
        model.zero_grad()
        backbone = Member(model).backbone
        backbone.forward = lambda *args, number=number, **kwargs: joint.outputs[number]  # type: ignore[method-assign]
        losses.append(model(**batches[number]).loss)
        del backbone.forward
        losses[-1].backward()
    joint.backward()
    return [
        (loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        for loss, model in zip(losses, models, strict=True)
    ]


def assert_alike(found: Any, wanted: Any) -> None:
    for (loss, gradients), (loss_alone, gradients_alone) in zip(found, wanted, strict=True):
        torch.testing.assert_close(loss, loss_alone, rtol=1e-12, atol=1e-12)
        assert gradients.keys() == gradients_alone.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, gradients_alone[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    ("name", "head"),
    [("bert", "cls"), ("roberta", "cls"), ("distilbert", "cls"), ("llama", "lm"), ("gpt2", "lm")],
)
@pytest.mark.parametrize("uneven", [False, True])
def test_losses_and_gradients_are_those_of_each_model_alone(name: str, head: str, uneven: bool) -> None:
    models = [make(name, head, number, **config) for number, config in enumerate(VARIANTS)]
    batches = [batch(name, head, number, 2 + number * uneven) for number in range(len(models))]
    wanted = [alone(model, inputs) for model, inputs in zip(models, batches, strict=True)]
    assert_alike(together(models, batches), wanted)


def test_as_many_rows_as_tokens_are_not_taken_for_positions() -> None:
    """BERT's pooler sees one vector for each row: as many as a row has tokens, here."""
    models = [make("bert", "cls", number, target_modules=["pooler.dense"]) for number in (0, 2)]
    batches = [batch("bert", "cls", number, 4) for number in (0, 2)]
    wanted = [alone(model, inputs) for model, inputs in zip(models, batches, strict=True)]
    assert sum(len(inputs["input_ids"]) for inputs in batches) == batches[1]["input_ids"].shape[1]
    assert_alike(together(models, batches), wanted)


def test_what_one_of_them_trains_whole_is_its_own() -> None:
    models = [
        make("bert", "cls", 0, **VARIANTS[0]),
        make("bert", "cls", 1, target_modules="attn", modules_to_save=["pooler"]),
    ]
    batches = [batch("bert", "cls", number, 2) for number in range(2)]
    wanted = [alone(model, inputs) for model, inputs in zip(models, batches, strict=True)]
    assert_alike(together(models, batches), wanted)
    assert why_apart([Member(model) for model in models]) is None


def test_what_waits_for_its_head_gets_no_gradient_and_others_do() -> None:
    models = [make("bert", "cls", number, **VARIANTS[0]) for number in range(2)]
    for parameter in Member(models[0]).trained:
        parameter.requires_grad_(False)
    batches = [batch("bert", "cls", number, 2) for number in range(2)]
    wanted = [alone(model, inputs) for model, inputs in zip(models, batches, strict=True)]
    assert not any("propulsion" in name for name in wanted[0][1])
    assert_alike(together(models, batches), wanted)


def test_equal_weights_are_in_memory_once_and_others_stay() -> None:
    models = [make("bert", "cls", number, **VARIANTS[number]) for number in range(2)]
    before = {name: parameter.clone() for name, parameter in models[1].named_parameters()}
    share_frozen(models[1], models[0])
    ours, theirs = (Member(model).frozen() for model in models)
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)
    assert all(torch.equal(parameter, before[name]) for name, parameter in models[1].named_parameters())
    assert not {id(p) for m in models for p in [*Member(m).trained]} & {id(p) for p in ours.values()}


def apart(change: Callable[[nn.Module], object], **config: Any) -> str | None:
    models = [make("bert", "cls", number, **VARIANTS[0], **config) for number in range(2)]
    change(models[1])
    share_frozen(models[1], models[0])
    return why_apart([Member(model) for model in models])


def activate_two(model: nn.Module) -> None:
    model.add_adapter("other", PropulsionConfig(target_modules="attn", task_type="SEQ_CLS"))
    model.base_model.active_adapter = ["default", "other"]


def models_of_depths() -> list[nn.Module]:
    bases = [tiny_model("bert", "cls") for _ in range(2)]
    del bases[1].bert.encoder.layer[1]
    return [get_peft_model(base, PropulsionConfig(target_modules="all")) for base in bases]


def test_what_cannot_be_trained_together_is_told() -> None:
    assert apart(lambda model: None) is None
    inner = "bert.encoder.layer.0.attention.self"
    assert "draws" in str(apart(lambda m: setattr(m.get_submodule(f"base_model.model.{inner}.dropout"), "p", 0.1)))
    assert "draws" in str(apart(lambda m: setattr(m.get_submodule(f"base_model.model.{inner}"), "attention_drop", 0.1)))
    weight = "base_model.model.bert.encoder.layer.1.output.dense.base_layer.weight"
    assert "differ in encoder.layer.1.output.dense.weight" in str(
        apart(lambda m: m.get_parameter(weight).data.add_(1e-9))
    )
    assert "another way" in str(apart(lambda m: m.get_parameter(weight).requires_grad_(True)))
    assert "merged" not in str(apart(lambda m: m.merge_adapter()))
    assert "row by row" in str(apart(lambda m: m.merge_adapter()))
    assert "checkpointing" in str(apart(lambda m: m.gradient_checkpointing_enable()))
    assert "more than one active" in str(apart(activate_two))
    others = [get_peft_model(tiny_model("roberta", "cls"), PropulsionConfig(target_modules="all")), *models_of_depths()]
    assert "RobertaModel is no BertModel" in str(why_apart([Member(others[1]), Member(others[0])]))
    share_frozen(others[2], others[1])
    assert "one of them lacks encoder.layer.1" in str(why_apart([Member(model) for model in others[1:]]))
    assert "no backbone" in str(why_apart([Member(nn.Linear(2, 2))]))
    assert "two sequences" in str(why_apart([Member(tiny_model("bart", "cls"))]))
    with pytest.raises(LayerError, match="one batch: BertModel"):
        JointBackbone([tiny_model("bert", "base")])


def test_arguments_that_cannot_be_joined_are_refused() -> None:
    models = [make("bert", "cls", number, **VARIANTS[0]) for number in range(2)]
    share_frozen(models[1], models[0])
    joint, ids = JointBackbone(models), torch.ones(2, 3).long()
    with pytest.raises(LayerError, match="position_ids"):
        joint({0: {"input_ids": ids, "position_ids": ids}, 1: {"input_ids": ids}})
    with pytest.raises(LayerError, match="token ids"):
        joint({0: {"inputs_embeds": torch.ones(2, 3, 32)}, 1: {"input_ids": ids}})
