"""The layers that presets stand for are there, run, are complete, and can be scaled in place where we say so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from propulsion.architectures import ARCHITECTURES
from propulsion.errors import TargetError
from propulsion.targets import (
    PRESETS,
    check_every_entry_matches,
    give_each_its_own,
    is_preset,
    layer_index,
    leaves_outputs_alone,
    missing_entries,
    resolve_preset,
)
from tests.propulsion.steered import config
from tests.tiny_models import SPECS, tiny_inputs, tiny_model

HEADS = [(name, head) for name, spec in SPECS.items() for head in spec.heads]
LINEAR = (nn.Linear, Conv1D)
STEERABLE = (*LINEAR, nn.Embedding, nn.Conv2d)


def names_of(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_modules()]


def in_block(name: str) -> bool:
    return re.search(r"\.?\b\d+\.", name) is not None


def resolve_or_none(model: nn.Module, preset: str) -> list[str]:
    """A preset's modules; none where the architecture has no such layers."""
    try:
        return resolve_preset(model, preset)
    except TargetError:
        return []


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --------------------------------------------------------------------------------------------------------------------
# The paper's counts
# --------------------------------------------------------------------------------------------------------------------


def on_meta(model_class: Any, config: Any) -> nn.Module:
    with torch.device("meta"):
        return model_class(config)


def width(module: nn.Module) -> int:
    for attribute in ("out_features", "embedding_dim", "nf", "out_channels"):
        if hasattr(module, attribute):
            return int(getattr(module, attribute))
    raise AssertionError(f"{module} has no output dimension")


def count(model: nn.Module, preset: str) -> int:
    return sum(width(model.get_submodule(name)) for name in resolve_preset(model, preset))


def paper_count(model: nn.Module, preset: str) -> int:
    """As the authors count: with "all", the output dimensions of the head's linears too."""
    head = (module for name, module in model.named_modules() if isinstance(module, LINEAR) and not in_block(name))
    return count(model, preset) + (sum(width(module) for module in head) if preset == "all" else 0)


def roberta(**sizes: int) -> nn.Module:
    config = transformers.RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=2, **sizes
    )
    return on_meta(transformers.RobertaForSequenceClassification, config)


def test_counts_are_those_of_the_paper() -> None:
    base = roberta()
    large = roberta(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    bart_large = on_meta(transformers.BartForConditionalGeneration, transformers.BartConfig())
    assert (paper_count(base, "all"), paper_count(base, "attn")) == (86_018, 27_648)
    assert (paper_count(large, "all"), paper_count(large, "attn")) == (225_282, 73_728)
    assert paper_count(bart_large, "attn") == 110_592


def test_minilm_has_21888_trained_numbers() -> None:
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    model = on_meta(transformers.BertForSequenceClassification, config)
    assert count(model, "all") == 6 * (4 * 384 + 1536 + 384) + 3 * 384 == 21_888
    assert count(model, "attn") == 6_912


# --------------------------------------------------------------------------------------------------------------------
# Presets are real and complete
# --------------------------------------------------------------------------------------------------------------------


@contextmanager
def recorded_calls(model: nn.Module) -> Iterator[set[str]]:
    called: set[str] = set()
    handles = [
        module.register_forward_hook(lambda *_, name=name: called.add(name)) for name, module in model.named_modules()
    ]
    yield called
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(("name", "head"), HEADS)
def test_presets_are_what_runs(name: str, head: str) -> None:
    model = tiny_model(name, head)
    with recorded_calls(model) as called, torch.no_grad():
        model(**tiny_inputs(name, head))
    layers = {preset: set(resolve_or_none(model, preset)) for preset in PRESETS}
    everything = layers["all"]

    assert everything <= called, "a layer of a preset never runs"
    assert all(isinstance(model.get_submodule(layer), STEERABLE) for layer in everything)
    assert {layer for layer in called if in_block(layer) and isinstance(model.get_submodule(layer), LINEAR)} == {
        layer for layer in everything if in_block(layer)
    }, "a linear of a block that runs is missing"
    embeddings = {layer for layer in called if isinstance(model.get_submodule(layer), (nn.Embedding, nn.Conv2d))}
    assert {layer for layer in embeddings if not in_block(layer)} == layers["embedding"]
    assert layers["attn"] | layers["mlp"] | layers["embedding"] <= everything
    assert layers["query"] | layers["key"] | layers["value"] <= layers["attn"]
    assert layers["attn"]


def test_every_architecture_of_the_table_is_tested() -> None:
    assert set(ARCHITECTURES) - {"gemma3"} == {spec.model_type for spec in SPECS.values()}


@pytest.mark.parametrize("preset", PRESETS)
def test_adapters_in_the_model_change_nothing(preset: str) -> None:
    names = resolve_preset(tiny_model("roberta"), preset)
    steered = get_peft_model(tiny_model("roberta"), LoraConfig(target_modules=["query", "dense", "word_embeddings"]))
    assert resolve_preset(steered.base_model.model, preset) == names
    assert resolve_preset(steered, preset) == [f"base_model.model.{name}" for name in names]


def test_only_the_language_model_of_a_multimodal_model_is_steered() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.Gemma3Config(
        text_config={**sizes, "head_dim": 8, "num_key_value_heads": 2, "vocab_size": 96},
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
    )
    model = on_meta(transformers.Gemma3ForConditionalGeneration, config)
    names = resolve_preset(model, "all")
    assert len(names) == 1 + 7
    assert all(name.startswith("model.language_model.") for name in names)


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_shared_embeddings_are_given_back_their_own_modules(name: str) -> None:
    model = tiny_model(name, "lm")
    names = resolve_preset(model, "all")
    model.resize_token_embeddings(100)
    assert sorted(resolve_preset(model, "all")) == sorted(names)
    assert not set(names) <= set(names_of(model)), "transformers keeps them apart by now: drop give_each_its_own"

    inputs = tiny_inputs(name, "lm")
    before = model(**inputs).logits
    give_each_its_own(model, names)
    assert set(names) <= set(names_of(model))
    assert torch.equal(model(**inputs).logits, before)
    embeddings = [module for name, module in model.named_modules() if name.endswith(("embed_tokens", "shared"))]
    assert len(embeddings) == 3
    assert len({id(module.weight) for module in embeddings}) == 1


# --------------------------------------------------------------------------------------------------------------------
# Overwriting the outputs
# --------------------------------------------------------------------------------------------------------------------


class InPlace(torch.autograd.Function):
    """y = s ⊙ v in v's memory; what the backward needs is computed from y alone."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, scale: Tensor) -> Tensor:
        result = output.data
        result *= scale
        ctx.save_for_backward(result, scale)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        result, scale = ctx.saved_tensors
        return grads[0] * scale, (grads[0] * result / scale).sum_to_size(scale.shape)


def steered_gradients(model: nn.Module, inputs: dict[str, Tensor], layers: list[str], in_place: set[str]) -> list[Any]:
    """Loss and gradients of a gain in every layer, by the formula or, in some layers, in place."""
    generator = torch.Generator().manual_seed(1)
    scales, handles = [], []
    for name in layers:
        module = model.get_submodule(name)
        scale = 1 + 0.3 * torch.randn(width(module), dtype=torch.float64, generator=generator)
        if isinstance(module, nn.Conv2d):
            scale = scale[:, None, None]
        scales.append(scale.requires_grad_())
        apply = InPlace.apply if name in in_place else torch.mul
        handles.append(
            module.register_forward_hook(lambda _, args, output, apply=apply, scale=scale: apply(output, scale))
        )
    try:
        torch.manual_seed(2)
        loss = model(**inputs).loss
        return [loss.detach(), *torch.autograd.grad(loss, scales, allow_unused=True)]
    finally:
        for handle in handles:
            handle.remove()


def frozen_double(name: str, head: str, **overrides: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    model = tiny_model(name, head, **overrides).double().train().requires_grad_(False)
    inputs = tiny_inputs(name, head)
    return model, {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}


DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "dropout_rate")
DROPOUTS += ("resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout", "resid_dropout", "embd_dropout")
DROPOUTS += ("activation_dropout", "pooler_dropout", "seq_classif_dropout", "classifier_dropout")


@pytest.mark.parametrize(("name", "head"), [pair for pair in HEADS if pair[1] != "base"])
def test_outputs_that_are_left_alone_can_be_overwritten(name: str, head: str) -> None:
    for dropouts in ({}, dict.fromkeys(DROPOUTS, 0.1)):
        model, inputs = frozen_double(name, head, **dropouts)
        layers = resolve_preset(model, "all")
        in_place = {layer for layer in layers if leaves_outputs_alone(model, layer)}
        assert len(in_place) > len(layers) / 2
        for attention in ("eager", "sdpa") if model._supports_sdpa else ("eager",):
            model.set_attn_implementation(attention)
            expected = steered_gradients(model, inputs, layers, set())
            found = steered_gradients(model, inputs, layers, in_place)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
            assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in expected)


@pytest.mark.parametrize(
    ("name", "ending"),
    [("falcon", "mlp.dense_4h_to_h"), ("falcon-new", "mlp.dense_4h_to_h"), ("deberta", "self.pos_q_proj")],
)
def test_outputs_that_the_model_changes_cannot_be_overwritten(name: str, ending: str) -> None:
    """The law above can fail: overwriting where we say no is an error."""
    model, inputs = frozen_double(name, "cls")
    layers = resolve_preset(model, "all")
    refused = {layer for layer in layers if not leaves_outputs_alone(model, layer)}
    assert refused == {layer for layer in layers if layer.endswith(ending)} != set()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        steered_gradients(model, inputs, layers, refused)


def test_a_view_of_the_weight_is_not_overwritten() -> None:
    model = tiny_model("whisper", "lm")
    positions = model.model.decoder.embed_positions
    assert positions(torch.zeros(1, 3)).data_ptr() == positions.weight.data_ptr()
    assert not leaves_outputs_alone(model, "model.decoder.embed_positions")


def test_only_verified_layers_are_overwritten() -> None:
    class OwnRoberta(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = transformers.RobertaConfig()
            self.layer = nn.ModuleList([nn.ModuleDict({"output": nn.ModuleDict({"dense": nn.Linear(2, 2)})})])

    model = tiny_model("roberta")
    assert leaves_outputs_alone(model, "roberta.encoder.layer.0.output.dense")
    assert not leaves_outputs_alone(model, "classifier.dense")
    assert not leaves_outputs_alone(model, "roberta.encoder.layer.0.output.LayerNorm")
    assert not leaves_outputs_alone(OwnRoberta(), "layer.0.output.dense")
    assert not leaves_outputs_alone(nn.Sequential(nn.Linear(2, 2)), "0")


# --------------------------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------------------------


def test_is_preset() -> None:
    assert all(map(is_preset, PRESETS))
    assert not any(map(is_preset, ["all-linear", ".*", ["all"], None]))


@pytest.mark.parametrize(
    ("name", "head", "preset", "message"),
    [
        ("roberta", "cls", "atn", "no preset 'atn'.*Did you mean 'attn'"),
        ("gpt2", "lm", "query", "'attn.c_attn' computes queries, keys and values together.*target_modules='attn'"),
        ("deberta", "cls", "value", "'attention.self.in_proj' computes"),
        ("mixtral", "lm", "mlp", "no layers for the preset 'mlp'.*'o_proj', 'q_proj'"),
    ],
)
def test_presets_that_stand_for_nothing_are_refused(name: str, head: str, preset: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        resolve_preset(tiny_model(name, head), preset)


def test_unknown_models_are_told_what_to_pass() -> None:
    own = nn.ModuleDict({"encoder": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    with pytest.raises(TargetError, match=r"a ModuleDict, which has no model_type.*'all-linear'.*end in 'encoder'\."):
        resolve_preset(own, "all")
    albert = on_meta(transformers.AlbertModel, transformers.AlbertConfig())
    with pytest.raises(TargetError, match=r"'albert'.*'query' and 'value'"):
        resolve_preset(albert, "attn")
    with pytest.raises(TargetError, match="Pass target_modules with the names"):
        resolve_preset(nn.Sequential(nn.Identity()), "attn")


def test_layers_that_bloom_goes_around_are_refused() -> None:
    with pytest.raises(TargetError, match="slow_but_exact=False"):
        resolve_preset(tiny_model("bloom", pretraining_tp=2, slow_but_exact=True), "all")


@pytest.mark.parametrize(("name", "resized"), [("t5", False), ("bart", False), ("bart", True)])
def test_the_embedding_that_only_owns_the_matrix_is_refused(name: str, resized: bool) -> None:
    model = tiny_model(name, "lm")
    if resized:
        model.resize_token_embeddings(model.config.vocab_size + 8)
    with pytest.raises(TargetError, match=r"shared owns a weight.*name '.*encoder\.embed_tokens'"):
        get_peft_model(model, config(target_modules=["shared"]))


def test_every_entry_of_a_list_has_to_match() -> None:
    names = names_of(tiny_model("roberta"))
    check_every_entry_matches(names, ["query", "output.dense", "roberta.encoder.layer.0.output.dense"])
    assert missing_entries(names, ["query", "lf.query", "self.query", "dense.weight"]) == ["lf.query", "dense.weight"]
    with pytest.raises(TargetError, match=r"'quary' of target_modules matches no module\. Did you mean 'query'\?"):
        check_every_entry_matches(names, ["value", "quary"])
    with pytest.raises(TargetError, match=r"'self.ky'.*Did you mean 'self.key'"):
        check_every_entry_matches(names, ["self.ky"])
    with pytest.raises(TargetError, match="is empty"):
        check_every_entry_matches(names, [])


def test_every_pattern_has_to_match() -> None:
    names = names_of(tiny_model("roberta"))
    check_every_entry_matches(names, r".*\.layer\.[01]\..*dense")
    check_every_entry_matches(names, "all-linear")
    with pytest.raises(TargetError, match=r"matches no module.*Did you mean 'attn'"):
        check_every_entry_matches(names, "atn")
    with pytest.raises(TargetError, match=r"matches no module.*layer.0.attention.output.dense'.*write.*\['dense'\]"):
        check_every_entry_matches(names, "dense")
    with pytest.raises(TargetError, match=r"not a regular expression: .*unterminated"):
        check_every_entry_matches(names, ".*[dense")


@pytest.mark.parametrize("name", ["roberta", "t5", "gpt2", "llama"])
@pytest.mark.parametrize("pattern", [None, "layer", "h", ["block", "layers"]])
def test_layers_are_numbered_as_peft_does(name: str, pattern: str | list[str] | None) -> None:
    for module_name in resolve_preset(tiny_model(name, "base"), "all") + resolve_preset(tiny_model(name, "lm"), "all"):
        for index in (0, 1):
            config = LoraConfig(
                target_modules=[module_name.rpartition(".")[2]], layers_to_transform=[index], layers_pattern=pattern
            )
            # PEFT takes a name that is listed whole without looking at its layer.
            listed_whole = module_name in config.target_modules
            expected = check_target_module_exists(config, module_name)
            assert (layer_index(module_name, pattern) == index) is bool(expected and not listed_whole)


LINEARS = "linear layers of this model end in 'dense', 'key', 'out_proj', 'query' and 'value'"
MISTAKES = [
    (
        {"target_modules": "LayerNorm"},
        r"'roberta.embeddings.LayerNorm', of which .*=\['LayerNorm'\]",
    ),
    ({"target_modules": "query,key"}, r"write target_modules=\['query', 'key'\]"),
    ({"target_modules": "attention"}, "Did you mean 'attn'"),
    ({"target_modules": "all_linear"}, "Did you mean 'all-linear'"),
    ({"target_modules": "q_proj"}, f"Did you mean 'query'.*{LINEARS}"),
    ({"target_modules": ["q_proj"]}, f"Did you mean 'query'.*{LINEARS}"),
    ({"target_modules": ["gate_proj"]}, LINEARS),
    ({"target_modules": ["attn"]}, "'attn' stands alone"),
    ({"target_modules": ["all-linear"]}, "'all-linear' stands alone"),
    ({"target_modules": ["query, key"]}, r"entry of its own: \['query', 'key'\]"),
    ({"target_modules": [".*query"]}, "a regular expression is given as a string"),
    ({"exclude_modules": ["key", "quary"]}, "exclude_modules has 'quary'.*Did you mean 'query'"),
    ({"exclude_modules": "quary"}, "exclude_modules has 'quary'.*Did you mean 'query'"),
    ({"modules_to_save": ["classifierx"]}, "modules_to_save has 'classifierx'.*Did you mean 'classifier'"),
    ({"layers_to_transform": [0, 99]}, "layers_to_transform has 99.*numbered 0 to 1"),
    ({"layers_to_transform": 9, "target_modules": ["query"]}, "layers_to_transform has 9.*numbered 0 to 1"),
    (
        {"layers_to_transform": 0, "layers_pattern": "layers"},
        "layers_pattern='layers' finds none. Did you mean 'layer'",
    ),
    (
        {"degree_pattern": {"q_proj": 3}},
        "has 'q_proj'.*Did you mean 'query'.*Those end in 'dense', 'key'",
    ),
]


@pytest.mark.parametrize(("fields", "message"), MISTAKES, ids=str)
def test_names_that_are_in_no_module_are_refused(fields: dict[str, Any], message: str) -> None:
    base = tiny_model("roberta", "cls")
    before = set(base.state_dict())
    with pytest.raises(TargetError, match=message) as caught:
        get_peft_model(base, config(**fields))
    wrong = {str(value) for value in fields.values()}
    assert not any(f"Did you mean {value!r}?" in str(caught.value) for value in wrong)
    assert set(base.state_dict()) == before


def test_an_adapter_loads_onto_a_model_without_the_head_that_it_left_alone(tmp_path: Path) -> None:
    model = get_peft_model(
        tiny_model("gpt2", "lm"),
        config(task_type=None, target_modules="all-linear", exclude_modules=["lm_head"]),
    )
    model.save_pretrained(tmp_path)
    other = tiny_model("gpt2", "cls")
    other.transformer.load_state_dict(tiny_model("gpt2", "lm").transformer.state_dict())
    PeftModel.from_pretrained(other, tmp_path)


def test_pefts_placeholder_steers_nothing_yet() -> None:
    model = get_peft_model(tiny_model("roberta", "cls"), config(target_modules=DUMMY_TARGET_MODULES))
    assert not [name for name, _ in model.named_parameters() if "propulsion_delta" in name]
