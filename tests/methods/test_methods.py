"""Laws of methods: what is trained is what the method says, and names are found or refused."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
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

from propulsion.errors import TargetError
from propulsion.heads import head_modules
from propulsion_tools.errors import OptionError, UnknownNameError
from propulsion_tools.methods import Method, get_method, method_names, register
from propulsion_tools.methods.layer_names import target_names
from propulsion_tools.records import RunSpec
from propulsion_tools.training.resolve import resolve
from tests.tiny_models import tiny_inputs, tiny_model


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
    with pytest.raises(UnknownNameError, match="'lora'"):
        get_method("LoRA")
    with pytest.raises(UnknownNameError, match=r"There are .*full, head"):
        get_method("zzz")
    with pytest.raises(OptionError, match="already"):
        register(Method("lora", "again", lambda model, spec, task: torch.nn.Identity(), lambda spec: 1.0))


@pytest.mark.parametrize(
    ("method", "arguments", "said"),
    [
        ("lora", {"rr": 4}, "'r'"),
        ("lora", {"target_modules": ["query"]}, "--target_modules"),
        ("propulsion", {"degree": 3}, "--degree"),
        ("adapter", {"bottlenek": 4}, "'bottleneck'"),
        ("full", {"r": 4}, "'r' is no argument"),
        ("lora", {"inference_mode": True}, "inference_mode"),
    ],
)
def test_arguments_that_a_method_does_not_have_are_refused_before_a_model_is_loaded(
    method: str, arguments: dict[str, object], said: str
) -> None:
    with pytest.raises((OptionError, UnknownNameError), match=said):
        get_method(method).check(RunSpec(method=method, method_args=arguments))


@pytest.mark.parametrize(
    ("method", "arguments", "said"),
    [
        ("lora", {"r": -1}, "r"),
        ("lora", {"r": "many"}, "lora"),
        ("adapter", {"bottleneck": 0}, "bottleneck"),
        ("adapter", {"layer_norms": "some"}, "none, output, all"),
        ("propetl-adapter", {"kept": 2.0}, "at most 1"),
        ("loraprune", {"sparsity": 1.0}, "below 1"),
        ("dylora", {"r": True}, "r of"),
        ("deltalora", {"alpha": float("nan")}, "alpha"),
        ("prefix-tuning", {"num_virtual_tokens": 0}, "num_virtual_tokens"),
        ("prompt-tuning", {"num_virtual_tokens": 600}, "max_length"),
        ("adalora", {"total_step": 10}, "max_steps"),
    ],
)
def test_arguments_out_of_range_are_refused_in_one_sentence(
    method: str, arguments: dict[str, object], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        get_method(method).build(bert(), RunSpec(method=method, method_args=arguments), Classification())


def build(make, spec: RunSpec) -> torch.nn.Module:  # type: ignore[no-untyped-def]
    """As training does."""
    get_method(spec.method).check(spec)
    return get_method(spec.method).build(make(), spec, Classification())


@pytest.mark.parametrize(
    ("make", "method", "changes", "said"),
    [
        (deberta, "prefix-tuning", {}, "deberta-v2"),
        (distilbert, "mam", {}, "distilbert"),
        (gpt2, "prefix-tuning", {"gradient_checkpointing": True}, "cache"),
        (bert, "prompt-tuning", {"target_modules": ("query",)}, "target_modules"),
        (bert, "adapter", {"layers_to_transform": 1}, "layers_to_transform"),
        (bert, "propulsion-attn", {"target_modules": "mlp"}, "--method propulsion"),
        (bert, "lora", {"target_modules": ("quary",)}, "quary"),
        (bert, "dylora", {"target_modules": "embedding"}, "no linear"),
        (bert, "lora", {"layers_to_transform": (7,)}, "layers_to_transform"),
        (
            bert,
            "kernel-mix",
            {"target_modules": ("intermediate.dense", "output.dense"), "layers_to_transform": 9},
            "no",
        ),
    ],
)
def test_what_does_not_apply_to_a_model_is_refused_with_the_reason(  # type: ignore[no-untyped-def]
    make, method: str, changes: dict[str, object], said: str
) -> None:
    spec = RunSpec(method=method, max_length=8, **changes)
    with pytest.raises((OptionError, TargetError), match=said):
        build(make, spec)


@pytest.mark.parametrize(
    ("methods", "changes", "said"),
    [
        (("head", "full", "bitfit", "adapter", "prefix-tuning"), {"target_modules": "mlp"}, "target_modules"),
        (("head", "full", "bitfit", "mam", "p-tuning"), {"exclude_modules": ("dense",)}, "exclude_modules"),
        (("head", "full", "bitfit", "propetl-prefix"), {"layers_to_transform": 1}, "layers_to_transform"),
        (("lora-fa",), {"optim": "sgd"}, "optim"),
        (("lora-fa",), {"adam_beta1": 0.8}, "adam_beta1"),
        (("lora-fa",), {"adam_beta2": 0.98}, "adam_beta2"),
        (("lora-fa",), {"adam_epsilon": 1e-6}, "adam_epsilon"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused_before_a_model_is_loaded(
    methods: tuple[str, ...], changes: dict[str, Any], said: str
) -> None:
    for name in methods:
        with pytest.raises(OptionError, match=f"{name} .* and has no use for {said}"):
            get_method(name).check(RunSpec(method=name, **changes))
    get_method("lora").check(RunSpec(method="lora", **changes))


@pytest.mark.parametrize("name", method_names())
def test_what_is_resolved_can_be_resolved_again(name: str) -> None:
    if get_method(name).refusal():
        pytest.skip(f"{name} cannot run here")
    resolved = resolve(RunSpec(method=name))
    assert resolve(resolved) == resolved


def test_what_cannot_run_here_says_so_before_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionError, match="CUDA or XPU"):
        get_method("loftq").check(RunSpec(method="loftq"))
    if importlib.util.find_spec("gptqmodel") is None:
        with pytest.raises(OptionError, match="gptqmodel"):
            get_method("qa-lora").check(RunSpec(method="qa-lora"))
    with pytest.raises(OptionError, match="GPTQ layers"):
        get_method("qa-lora").build(bert(), RunSpec(method="qa-lora"), Classification())


def test_arguments_reach_the_methods_configuration() -> None:
    spec = RunSpec(method="lora-r2", method_args={"r": 5, "lora_alpha": 7}, target_modules="mlp", layers_to_transform=1)
    config = get_method("lora-r2").build(bert(), spec, Classification()).peft_config["default"]
    assert (config.r, config.lora_alpha) == (5, 7)
    names = [f"bert.encoder.layer.1.{part}.dense" for part in ("intermediate", "output")]
    assert set(config.target_modules) == set(names)


def test_every_method_says_what_it_does() -> None:
    for name in method_names():
        method = get_method(name)
        assert method.description
        assert method.delta
        assert method.learning_rate(RunSpec()) > 0


@pytest.mark.parametrize("make", HEADS)
def test_queries_and_values_are_the_usual_targets(make) -> None:  # type: ignore[no-untyped-def]
    names = {name.rpartition(".")[2] for name in target_names(make(), RunSpec())}
    wanted = {bert: {"query", "value"}, distilbert: {"q_lin", "v_lin"}, deberta: {"query_proj", "value_proj"}}
    assert names == wanted.get(make, {"c_attn"})


@pytest.mark.parametrize(("name", "head"), [("llama", "lm"), ("gpt2", "lm"), ("t5", "lm"), ("llama", "cls")])
def test_all_linear_means_what_it_means_in_peft(name: str, head: str) -> None:
    ours = target_names(tiny_model(name, head), RunSpec(target_modules="all-linear"))
    task = {"lm": "CAUSAL_LM", "cls": "SEQ_CLS"}[head]
    peft = get_peft_model(tiny_model(name, head), LoraConfig(target_modules="all-linear", task_type=task))
    assert set(ours) == set(peft.base_model.targeted_module_names)


@pytest.mark.parametrize("targets", [None, ("k_lin", "ffn.lin2"), "mlp"])
def test_ia3_scales_the_inputs_of_feed_forward_ends_where_peft_knows_no_targets(targets: object) -> None:
    spec = RunSpec(method="ia3", target_modules=targets)  # type: ignore[arg-type]
    config = get_method("ia3").build(distilbert(), spec, Classification()).peft_config["default"]
    wanted = {None: {"k_lin", "v_lin", "lin2"}, "mlp": {"lin1", "lin2"}}.get(targets, {"k_lin", "lin2"})
    assert {name.rpartition(".")[2] for name in config.target_modules} == wanted
    assert {name.rpartition(".")[2] for name in config.feedforward_modules} == {"lin2"}


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe"])
def test_methods_leave_stacked_experts_alone_and_say_so(name: str) -> None:
    model = tiny_model(name)
    with pytest.warns(UserWarning, match="experts, which only Propulsion steers"):
        names = target_names(model, RunSpec(method="lora", target_modules="all"))
    assert not any(layer.endswith("experts") for layer in names)
    with pytest.raises(TargetError, match="feed-forward parts in stacked experts"):
        get_method("adapter").build(model, RunSpec(method="adapter"), Classification())


def test_ia3_scales_the_inputs_of_the_dense_ends_of_a_mixture() -> None:
    model = get_method("ia3").build(tiny_model("qwen2_moe"), RunSpec(method="ia3"), Classification())
    lasts = {layer.rpartition("mlp.")[2] for layer in model.peft_config["default"].feedforward_modules}
    assert lasts == {"down_proj", "shared_expert.down_proj"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["adapter", "parallel-adapter", "propetl-adapter", "dylora", "intrinsic-said", "ia3"]
)
@pytest.mark.parametrize("architecture", ["deberta-v3", "distilbert", "t5-gated", "bart", "gpt2", "falcon", "phi3"])
def test_methods_of_ours_reach_every_layer_of_other_architectures(architecture: str, method: str) -> None:
    model = get_method(method).build(tiny_model(architecture), RunSpec(method=method), Classification())
    output = model(**tiny_inputs(architecture))
    assert torch.allclose(output.logits, tiny_model(architecture)(**tiny_inputs(architecture)).logits, atol=1e-5)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("degree", 3),
        ("degree_pattern", {"query": 3}),
        ("num_vectors", 3),
        ("pooling", "max"),
        ("init_weights", "normal"),
        ("init_noise", 0.1),
        ("train_bias", True),
    ],
)
def test_an_option_that_a_method_does_not_have_is_refused(name: str, value: object) -> None:
    spec = RunSpec(**{name: value})
    for method in map(get_method, method_names()):
        if method.refusal() is None and not method.name.startswith("propulsion"):
            with pytest.raises(OptionError, match=f"{name} is an option of the method propulsion, and '{method.name}'"):
                method.check(spec)
    get_method("propulsion").check(spec)
    get_method("propulsion-attn").check(spec)


@pytest.mark.parametrize("method", ["bitfit", "head", "adapter", "propulsion", "lora"])
def test_modules_to_save_are_named_by_their_ends_with_every_method(method: str) -> None:
    spec = RunSpec(method=method, max_length=8, modules_to_save=("pooler",))
    model = get_method(method).build(tiny_model("bert"), spec, Classification())
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad and "pooler" in name]
    assert len(trained) == 2
    wrong = replace(spec, modules_to_save=("poolr",))
    with pytest.raises(OptionError, match=r"poolr.*pooler"):
        get_method(method).build(tiny_model("bert"), wrong, Classification())
