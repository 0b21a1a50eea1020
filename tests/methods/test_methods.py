"""Laws of methods: what is trained is what the method says, and names are found or refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedModel,
)

from propulsion.errors import ConfigError, UnknownNameError
from propulsion.methods import Method, get_method, method_names, register
from propulsion.methods.heads import head_modules
from propulsion.records import RunSpec


@dataclass(frozen=True)
class Classification:
    """The only thing that a method asks of a task."""

    peft_task_type: str = "SEQ_CLS"


def bert() -> PreTrainedModel:
    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    return BertForSequenceClassification(config)


def distilbert() -> PreTrainedModel:
    return DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=20, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
    )


def deberta() -> PreTrainedModel:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return DebertaV2ForSequenceClassification(DebertaV2Config(vocab_size=20, pooler_hidden_size=16, **sizes))


def gpt2() -> PreTrainedModel:
    return GPT2ForSequenceClassification(GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2, pad_token_id=0))


HEADS = {
    bert: ["classifier"],
    distilbert: ["pre_classifier", "classifier"],
    deberta: ["pooler", "classifier"],
    gpt2: ["score"],
}


@pytest.mark.parametrize("make", HEADS)
def test_the_head_is_all_that_stands_outside_the_backbone(make) -> None:  # type: ignore[no-untyped-def]
    assert head_modules(make()) == HEADS[make]


@pytest.mark.parametrize("make", HEADS)
@pytest.mark.parametrize("name", ["head", "lora", "propulsion"])
def test_the_whole_head_is_trained_and_the_backbone_stays_frozen(make, name: str) -> None:  # type: ignore[no-untyped-def]
    base = make()
    sizes = {head: sum(p.numel() for p in base.get_submodule(head).parameters()) for head in HEADS[make]}
    model = get_method(name).build(base, RunSpec(method=name), Classification())
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    in_heads = {head: sum(p.numel() for key, p in trained.items() if f".{head}." in f".{key}") for head in HEADS[make]}
    assert in_heads == sizes
    adapter = [key for key in trained if not any(f".{head}." in f".{key}" for head in HEADS[make])]
    assert all("propulsion_" in key or "lora_" in key for key in adapter)
    assert bool(adapter) == (name != "head")


def test_full_trains_everything() -> None:
    model = get_method("full").build(bert(), RunSpec(method="full"), Classification())
    assert all(p.requires_grad for p in model.parameters())


def test_the_methods_fields_reach_its_configuration() -> None:
    spec = RunSpec(target_modules=("query", "value"), degree=3, degree_pattern={"query": 5}, layers_to_transform=(1,))
    config = get_method("propulsion").build(bert(), spec, Classification()).peft_config["default"]
    assert set(config.target_modules) == {"query", "value"}
    assert (config.degree, config.degree_pattern, config.layers_to_transform) == (3, {"query": 5}, [1])


@pytest.mark.parametrize(("degree", "rate"), [(15, 1e-3), (1, 1.5e-2), (0, 1.5e-2), ((1, 5), 3e-3)])
def test_the_default_learning_rate_goes_with_the_degree(degree: int, rate: float) -> None:
    assert get_method("propulsion").learning_rate(RunSpec(degree=degree)) == pytest.approx(rate)


def test_unknown_names_are_refused_with_near_misses_and_duplicates_too() -> None:
    assert set(method_names()) >= {"full", "head", "lora", "propulsion"}
    with pytest.raises(UnknownNameError, match="'propulsion'"):
        get_method("propulson")
    with pytest.raises(UnknownNameError, match=r"There are .*full, head"):
        get_method("zzz")
    with pytest.raises(ConfigError, match="already"):
        register(Method("lora", "again", lambda model, spec, task: torch.nn.Identity(), lambda spec: 1.0))
