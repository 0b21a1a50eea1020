"""A row of the bank answers as its adapter alone, whatever is beside it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from propulsion import AdapterBank, PropulsionConfig
from propulsion.bank import steering
from propulsion.errors import AdapterNameError, ConfigError, LayerError
from tests.propulsion.bank.adapters import VARIETY, adapter, alone, saved, various
from tests.propulsion.steered import batch, result, train_by_chance
from tests.tiny_models import tiny_model

NAMES = ["__base__", *VARIETY]


def bank_of(architecture: str, models: dict[str, Any], head: str = "cls", **kwargs: Any) -> AdapterBank:
    dtype = kwargs.pop("dtype", torch.float32)
    bank = AdapterBank(tiny_model(architecture, head).to(dtype), **kwargs)
    for name, model in models.items():
        bank.add(name, model)
    return bank


def rows_of(output: Any) -> Tensor:
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def cast(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items() if k != "labels"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("roberta", "cls"), ("bert", "base"), ("gpt2", "cls"), ("llama", "lm"), ("bart", "cls"), ("t5", "cls"),
        ("deberta-v3", "cls"), ("distilbert", "cls"), ("vit", "cls"), ("whisper", "cls"), ("falcon", "lm"),
    ],
)  # fmt: skip
def test_a_row_is_its_adapter_alone_bit_for_bit(
    architecture: str, head: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    models = various(architecture, head, dtype=dtype)
    bank = AdapterBank(tiny_model(architecture, head).to(dtype))
    for name, folder in saved(models, tmp_path).items():
        assert bank.load(folder) == name
    names = [*NAMES, "all", "__base__"]
    inputs = cast(batch(architecture, head, batch=len(names)), dtype)
    base = tiny_model(architecture, head).to(dtype)
    actual = rows_of(bank(**inputs, adapter_names=names))
    for row, expected in enumerate(alone(models, names, base, inputs)):
        if architecture == "deberta-v3":  # its attention runs on the rows of one adapter at a time
            torch.testing.assert_close(
                actual[row : row + 1], expected, atol=1e-2 if dtype == torch.bfloat16 else 1e-5, rtol=0
            )
        else:
            assert torch.equal(actual[row : row + 1], expected), names[row]


@pytest.mark.parametrize("architecture", ["roberta", "gpt2", "bart", "whisper"])
def test_large_outputs_are_overwritten_to_the_same_bits(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "FEW", 0)  # so that all count as large
    models = various(architecture)
    bank, names = bank_of(architecture, models), [*NAMES]
    inputs = cast(batch(architecture, batch=len(names)), torch.float32)
    actual = rows_of(bank(**inputs, adapter_names=names))
    for row, expected in enumerate(alone(models, names, tiny_model(architecture), inputs)):
        assert torch.equal(actual[row : row + 1], expected), names[row]


@pytest.fixture(scope="module")
def bank_and_models() -> tuple[AdapterBank, dict[str, Any]]:
    models = various("roberta")
    return bank_of("roberta", models, capacity=4), models


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=6), seed=st.integers(0, 9))
def test_any_mixture_under_any_load(
    bank_and_models: tuple[AdapterBank, dict[str, Any]], names: list[str], seed: int
) -> None:
    bank, models = bank_and_models
    inputs = cast(batch("roberta", batch=len(names), seed=seed), torch.float32)
    few = [*dict.fromkeys(name for name in names if name != "__base__")][:4]
    names = [name if name in few else "__base__" for name in names]
    actual = bank(**inputs, adapter_names=names).logits
    for row, expected in enumerate(alone(models, names, tiny_model("roberta"), inputs)):
        assert torch.equal(actual[row : row + 1], expected)
    assert len(bank.resident) <= 4


def test_without_a_batch_the_model_is_the_base_model() -> None:
    models = various("roberta")
    bank, inputs = bank_of("roberta", models), batch("roberta")
    expected = result(tiny_model("roberta"), inputs)
    assert torch.equal(result(bank.base_model, inputs), expected)
    copied = copy.deepcopy(bank.base_model)
    with bank.steering(["all"] * 3):
        assert torch.equal(result(copied, inputs), expected)
        assert not torch.equal(result(bank.base_model, inputs), expected)
    bank.close()
    assert not bank.names
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in bank.base_model.modules())
    assert torch.equal(result(bank.base_model, inputs), expected)


def test_heads_differ_in_their_labels() -> None:
    models = {f"{n}": adapter("roberta", seed=n, num_labels=n) for n in (1, 2, 5)}
    bank, names = bank_of("roberta", models), ["5", "1", "__base__", "2", "5"]
    inputs = cast(batch("roberta", batch=5), torch.float32)
    logits = bank(**inputs, adapter_names=names).logits
    assert logits.shape == (5, 5)
    for row, (name, expected) in enumerate(
        zip(names, alone(models, names, tiny_model("roberta"), inputs), strict=True)
    ):
        labels = bank.num_labels(name)
        assert labels == expected.shape[-1]
        assert torch.equal(logits[row : row + 1, :labels], expected)
        assert (logits[row, labels:] == float("-inf")).all()
    assert bank(**inputs, adapter_names=["2"] * 5).logits.shape == (5, 2)
    assert bank(**inputs, adapter_names=["__base__"] * 5).logits.shape == (5, 3)


def test_tokens_are_scored_by_their_rows_head() -> None:
    models = {f"{n}": adapter("gpt2", seed=n, num_labels=n) for n in (2, 4)}  # which scores every token first
    bank, names = bank_of("gpt2", models), ["4", "2", "__base__"]
    inputs = cast(batch("gpt2"), torch.float32)
    logits = bank(**inputs, adapter_names=names).logits
    for row, expected in enumerate(alone(models, names, tiny_model("gpt2"), inputs)):
        assert torch.equal(logits[row : row + 1, : expected.shape[-1]], expected)


GENERATION = [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}]


@pytest.mark.parametrize("options", GENERATION, ids=str)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bart", "t5"])
def test_generation_is_that_of_the_adapter_alone(architecture: str, options: dict[str, Any]) -> None:
    models = various(architecture, "lm")
    bank, names = bank_of(architecture, models, "lm"), ["signed", "__base__", "all", "biased"]
    inputs = {"input_ids": torch.randint(4, 60, (4, 5))}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    options = {**options, "max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    actual = bank.generate(**inputs, adapter_names=names, **options)
    each = options.get("num_return_sequences", 1)
    for row, name in enumerate(names):
        model = tiny_model(architecture, "lm") if name == "__base__" else models[name]
        expected = model.generate(**inputs, **options)
        assert torch.equal(actual[row * each : (row + 1) * each], expected[row * each : (row + 1) * each])


def test_whisper_returns_several_sequences() -> None:
    model = adapter("whisper", "lm", task_type=None, target_modules="all")
    bank = bank_of("whisper", {"one": model}, "lm")
    inputs = {"input_features": batch("whisper", "lm")["input_features"]}
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 2, "num_return_sequences": 2}
    actual = bank.generate(**inputs, adapter_names=["one", "__base__", "one"], **options)
    assert torch.equal(actual[:2], model.generate(**inputs, **options)[:2])


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "roberta"])
def test_each_token_of_a_packed_batch_has_its_own(architecture: str) -> None:
    head = "base"
    models = various(architecture, head)
    bank = bank_of(architecture, models, head)
    inputs = {"input_ids": torch.randint(4, 60, (2, 6))}
    rows = [["all"] * 6, ["signed"] * 6]
    packed = rows_of(bank(**inputs, adapter_names=rows))
    assert torch.equal(packed, rows_of(bank(**inputs, adapter_names=["all", "signed"])))
    mixed = rows_of(bank(**inputs, adapter_names=[["all"] * 3 + ["biased"] * 3, ["__base__"] * 6]))
    base = result(tiny_model(architecture, head), inputs)
    assert torch.equal(mixed[1], base[1])
    if architecture != "roberta":  # where a token sees only what stands before it
        assert torch.equal(mixed[0, :3], result(models["all"], inputs)[0, :3])
    with pytest.raises(AdapterNameError, match="one name for each of its tokens"):
        bank(**inputs, adapter_names=[["all"] * 5, ["all"] * 6])


def test_a_head_cannot_score_single_tokens() -> None:
    bank = bank_of("roberta", {"one": adapter("roberta")})
    with pytest.raises(AdapterNameError, match="takes whole rows"):
        bank(input_ids=torch.ones(1, 2).long(), adapter_names=[["one", "__base__"]])


def test_names_that_do_not_fit_are_refused() -> None:
    bank, inputs = bank_of("roberta", {"alice": adapter("roberta")}), cast(batch("roberta"), torch.float32)
    with pytest.raises(AdapterNameError, match="Did you mean 'alice'"):
        bank(**inputs, adapter_names=["alcie", "alice", "alice"])
    for names in (["alice"], ["alice"] * 6, [], "alice", [1, 2, 3], None):
        with pytest.raises(AdapterNameError):
            bank(**inputs, adapter_names=names)
    with pytest.raises(AdapterNameError, match="Did you mean 'alice'"):
        bank.remove("alic")
    with pytest.raises(ConfigError, match="labels"):
        bank(**batch("roberta"), adapter_names=["alice"] * 3)
    bank.base_model.train()
    with pytest.raises(ConfigError, match="eval"):
        bank(**inputs, adapter_names=["alice"] * 3)


@pytest.mark.parametrize("name", ["", "__base__", "../x", "a/b", ".hidden", "a\nb", 5, None, "x" * 201])
def test_names_that_nobody_could_tell_are_refused(name: Any) -> None:
    bank, model = bank_of("roberta", {}), adapter("roberta")
    with pytest.raises(AdapterNameError, match="cannot be named"):
        bank.add(name, model)


@pytest.mark.parametrize("limits", [{"capacity": 0}, {"capacity": True}, {"device_budget": 1.5}, {"host_budget": -1}])
def test_limits_that_are_none_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(limits))):
        AdapterBank(tiny_model("roberta"), **limits)


def test_a_model_that_is_compiled_later_gets_adapters_all_the_same() -> None:
    base, x = nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4)
    bank = AdapterBank(copy.deepcopy(base))
    bank.base_model.compile(backend="eager")
    with torch.no_grad():
        bank.base_model(x)
    model = get_peft_model(copy.deepcopy(base), PropulsionConfig(target_modules=["0"], init_weights=False))
    bank.add("a", model)
    torch.testing.assert_close(bank(x, adapter_names=["a", "__base__"]), torch.stack([model(x)[0], base(x)[1]]))


def test_a_model_with_adapters_compiled_or_nowhere_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"before torch\.compile"):
        AdapterBank(torch.compile(tiny_model("roberta")))
    with pytest.raises(ConfigError, match="plain base model"):
        AdapterBank(adapter("roberta"))
    with pytest.raises(ConfigError, match="plain base model"):
        AdapterBank(adapter("roberta").base_model.model)
    with pytest.raises(ConfigError, match="one device"):
        AdapterBank(tiny_model("roberta").to("meta"))


def test_somebody_elses_hook_sees_what_it_always_saw() -> None:
    models = {"one": adapter("roberta")}
    bank, inputs = bank_of("roberta", models), cast(batch("roberta", batch=64, length=30), torch.float32)
    layer: nn.Module = bank.base_model.roberta.encoder.layer[0].intermediate.dense
    plain = tiny_model("roberta").roberta.encoder.layer[0].intermediate.dense
    seen: list[Tensor] = []
    layer.register_forward_hook(lambda module, args, output: seen.append(output), prepend=True)
    bank(**inputs, adapter_names=["one"] * 64)
    before = seen[0].clone()
    bank(**inputs, adapter_names=["one"] * 64)
    assert torch.equal(seen[0], before)
    assert plain.weight.shape == layer.weight.shape


class Guided(GPT2LMHeadModel):
    """Runs with all rows and then all rows once more, as MusicGen, Dia and Janus do for their guidance."""

    def generate(self, input_ids: Tensor, **kwargs: Any) -> Tensor:
        return self(torch.cat([input_ids, input_ids])).logits


def test_rows_in_an_order_of_the_models_own_are_refused() -> None:
    base = Guided(tiny_model("gpt2", "lm").config)
    base.load_state_dict(tiny_model("gpt2", "lm").state_dict())
    bank = AdapterBank(base)
    bank.add("one", adapter("gpt2", "lm"))
    ids = batch("gpt2", "lm", batch=2)["input_ids"]
    with pytest.raises(AdapterNameError, match="Guided generates with 4 rows, in an order of its own"):
        bank.generate(ids, adapter_names=["one", "__base__"])
    assert bank.generate(ids, adapter_names=["one", "one"]).shape[0] == 4  # whichever rows they are


def test_a_closed_bank_leaves_a_patched_forward_in_its_place() -> None:
    base, model = tiny_model("deberta-v3"), adapter("deberta-v3")
    inputs, expected = cast(batch("deberta-v3"), torch.float32), result(base, batch("deberta-v3"))
    first, second = (m for m in base.modules() if type(m).__name__ == "DisentangledSelfAttention")
    patched = first.forward = copy.copy(first.forward)
    bank = AdapterBank(base)
    bank.add("one", model)
    assert torch.equal(rows_of(bank(**inputs, adapter_names=["one"] * 3)), result(model, inputs))
    bank.close()
    assert first.forward is patched
    assert "forward" not in vars(second)
    assert torch.equal(result(base, inputs), expected)


class Reader(nn.Module):
    """Embeds, and reads with a network that gives a tensor or a tuple or a dictionary; then means, for each row."""

    def __init__(self, wrap: Any = lambda output: output) -> None:
        super().__init__()
        self.embed, self.head, self.mean = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.head.register_forward_hook(lambda module, args, output: wrap(output))

    def forward(self, input_ids: Tensor) -> Tensor:
        self.head(self.embed(input_ids))
        return self.mean(self.embed(input_ids).mean(1))


def test_layers_whose_rows_cannot_be_told_are_refused() -> None:
    base = Reader()
    model = get_peft_model(copy.deepcopy(base), PropulsionConfig(target_modules=["embed", "mean"]))
    bank, ids = AdapterBank(base), torch.ones(2, 6).long()
    bank.add("one", model)
    with pytest.raises(AdapterNameError, match="tokens cannot be told"):
        bank(input_ids=ids, adapter_names=[["one"] * 6, ["__base__"] * 6])
    bank, model = bank_and_model(nn.Sequential(nn.Linear(4, 4)))
    for run in (bank, model):
        with pytest.raises(AdapterNameError, match="whose rows cannot be told"):
            run(torch.randn(4), adapter_names=["default", "__base__"] * 2)


def bank_and_model(base: nn.Module) -> tuple[AdapterBank, nn.Module]:
    model = get_peft_model(copy.deepcopy(base), PropulsionConfig(target_modules=["0"])).eval()
    train_by_chance(model)
    bank = AdapterBank(base.eval())
    bank.add("default", model)
    return bank, model


def test_rows_may_be_single_tokens() -> None:
    bank, model = bank_and_model(nn.Sequential(nn.Embedding(7, 4)))
    ids = torch.tensor([5, 2])
    for run in (bank, model):
        mixed = run(ids, adapter_names=["default", "__base__"])
        assert torch.equal(mixed, torch.stack([model(ids)[0], bank.base_model(ids)[1]]))


def test_whole_modules_that_give_other_than_a_tensor_are_refused() -> None:
    base = Reader(lambda output: {"output": output})
    model = get_peft_model(copy.deepcopy(base), PropulsionConfig(target_modules=["mean"], modules_to_save=["head"]))
    bank, ids, names = AdapterBank(base), torch.ones(2, 6).long(), ["default", "__base__"]
    bank.add("default", model)
    with pytest.raises(LayerError, match="gives more than one tensor"):
        bank(input_ids=ids, adapter_names=names)
    with pytest.raises(LayerError, match="dict cannot be split by adapter"):
        model.eval()(input_ids=ids, adapter_names=names)


def test_as_many_rows_as_positions_are_not_taken_for_each_other() -> None:
    """Whisper's encoder looks its positions up once, for all rows."""
    models = {"default": adapter("whisper")}
    positions = tiny_model("whisper").config.max_source_positions
    bank, names = bank_of("whisper", models), ["default", "__base__"] * (positions // 2)
    inputs = cast(batch("whisper", batch=positions), torch.float32)
    expected = torch.cat(alone(models, names, tiny_model("whisper"), inputs))
    for run in (bank, models["default"]):
        torch.testing.assert_close(rows_of(run(**inputs, adapter_names=names)), expected)
