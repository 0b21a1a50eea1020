"""Laws of places: every layer that a preset steers has its kind, and numbers are sorted as numbers."""

from __future__ import annotations

import random

import pytest

from propulsion.targets import resolve_preset
from propulsion_tools.inspection.places import Place, model_order, natural_key, place_of, stack_names
from tests.tiny_models import tiny_model

PRESET_KINDS = {
    "embedding": {"embedding"},
    "attn": {"query", "key", "value", "fused qkv"},
    "mlp": {"mlp"},
}


@pytest.mark.parametrize(
    "architecture", ["roberta", "deberta-v3", "bart", "t5", "bloom", "gpt2", "gptj", "llama", "vit"]
)
@pytest.mark.parametrize("preset", PRESET_KINDS)
def test_the_kind_of_a_layer_is_that_of_its_preset(architecture: str, preset: str) -> None:
    places = [place_of(name) for name in resolve_preset(tiny_model(architecture, "base"), preset)]
    assert {place.kind for place in places} <= PRESET_KINDS[preset]
    assert {place.block for place in places} == ({""} if preset == "embedding" else {"0", "1"})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "bert.encoder.layer.10.attention.output.dense",
            Place("attention output", "bert.encoder", "10", "attention.output.dense"),
        ),
        ("bert.encoder.layer.10.output.dense", Place("mlp", "bert.encoder", "10", "output.dense")),
        ("decoder.block.3.layer.2.DenseReluDense.wi_0", Place("mlp", "decoder", "3", "DenseReluDense.wi_0")),
        ("my.blocks.4.special", Place("special", "my.blocks", "4", "special")),
        ("net.2", Place("net", "", "2", "net")),
        ("classifier", Place("classifier", "", "", "classifier")),
    ],
)
def test_a_place_is_read_off_the_name(name: str, expected: Place) -> None:
    assert place_of(name) == expected


def test_the_order_is_that_of_the_model() -> None:
    names = [
        "model.encoder.embed_tokens",
        "model.decoder.embed_tokens",
        *(f"model.encoder.layers.{block}.{end}" for block in range(12) for end in ("self_attn.q_proj", "fc1")),
        *(f"model.decoder.layers.{block}.self_attn.q_proj" for block in range(12)),
    ]
    shuffled = random.Random(0).sample(names, len(names))
    assert sorted(shuffled, key=lambda name: model_order(place_of(name))) == names


def test_numbers_in_names_are_sorted_as_numbers() -> None:
    assert sorted(["h.10", "h.9", "h.1", "h"], key=natural_key) == ["h", "h.1", "h.9", "h.10"]


def test_stacks_are_told_apart_by_as_little_as_needed() -> None:
    def names(*stacks: str) -> list[str]:
        return list(stack_names(Place("mlp", stack, "0", "fc1") for stack in stacks).values())

    assert names("model.encoder", "model.encoder") == [""]
    assert names("model.encoder", "model.decoder") == ["encoder", "decoder"]
    assert names("text.encoder", "image.encoder") == ["text.encoder", "image.encoder"]
