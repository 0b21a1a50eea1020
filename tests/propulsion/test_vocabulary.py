"""The embedding of a vocabulary that was resized or trained is saved with the adapter, and fits where it is loaded."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from propulsion import hotswap_adapter
from propulsion.errors import AdapterFileError, BaseModelError
from tests.propulsion.steered import config, result, train_by_chance
from tests.tiny_models import VOCABULARY, tiny_model

TOKENS = VOCABULARY + 5
TASKS = {"base": "FEATURE_EXTRACTION", "cls": "SEQ_CLS", "lm": None}
# Where a network has neither a head nor the name of a checkpoint, it cannot be told that it was resized.
CASES = [
    (name, head) for name in ("gpt2", "llama", "roberta", "bert", "distilbert", "electra") for head in ("cls", "lm")
]
INPUTS = {"input_ids": torch.arange(VOCABULARY - 3, TOKENS)[None], "attention_mask": torch.ones(1, 8, dtype=torch.long)}


def resized(name: str, head: str, tokens: int = TOKENS) -> nn.Module:
    base = tiny_model(name, head)
    base.resize_token_embeddings(tokens, mean_resizing=False)
    return base


def adapted(base: nn.Module, head: str, **fields: object) -> PeftModel:
    model = get_peft_model(base, config(**{"task_type": TASKS[head], "degree": 2, **fields})).eval()
    train_by_chance(model)
    return model


@pytest.mark.parametrize("targets", ["all", "attn"])
@pytest.mark.parametrize(("name", "head"), CASES)
def test_a_resized_vocabulary_comes_back(name: str, head: str, targets: str, tmp_path: Path) -> None:
    fields = {"target_modules": targets} if name != "gpt2" or targets == "all" else {"target_modules": ["c_attn"]}
    model = adapted(resized(name, head), head, **fields)
    with pytest.warns(UserWarning, match="embedding was resized"):
        model.save_pretrained(tmp_path)
    base = resized(name, head)  # whose new rows are other ones
    assert not torch.equal(base.get_input_embeddings().weight, embedding(model))
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(result(loaded, INPUTS), result(model, INPUTS))


def embedding(model: PeftModel) -> torch.Tensor:
    layer = model.get_base_model().get_input_embeddings()
    return getattr(layer, "base_layer", layer).weight


@pytest.mark.parametrize("name", ["gpt2", "llama", "roberta", "t5"])
@pytest.mark.parametrize("head", ["base", "cls", "lm"])
def test_a_vocabulary_that_stayed_is_not_saved(name: str, head: str, tmp_path: Path) -> None:
    adapted(tiny_model(name, head), head).save_pretrained(tmp_path)
    keys = load_file(tmp_path / "adapter_model.safetensors")
    assert not [key for key in keys if "propulsion_" not in key and "classifi" not in key and "score" not in key]


def test_the_name_of_the_base_model_tells_what_was_resized(tmp_path: Path) -> None:
    tiny_model("gpt2", "lm").save_pretrained(tmp_path / "base")
    base = type(tiny_model("gpt2", "lm")).from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(VOCABULARY)  # as scripts do, whether there are new tokens or not
    adapted(base, "lm").save_pretrained(tmp_path / "adapter")
    assert not [key for key in load_file(tmp_path / "adapter" / "adapter_model.safetensors") if "propulsion" not in key]


def test_a_vocabulary_that_is_resized_or_trained_below_the_adapter_comes_back(tmp_path: Path) -> None:
    model = adapted(tiny_model("gpt2", "lm"), "lm", target_modules=["c_attn"])
    model.get_base_model().get_input_embeddings().requires_grad_(True).weight.data.mul_(1.1)
    with pytest.warns(UserWarning, match="embedding was trained"):
        model.save_pretrained(tmp_path / "trained")
    loaded = PeftModel.from_pretrained(tiny_model("gpt2", "lm"), tmp_path / "trained")
    assert torch.equal(embedding(loaded), embedding(model))
    model.resize_token_embeddings(TOKENS, mean_resizing=False)
    model.save_pretrained(tmp_path / "resized")
    loaded = PeftModel.from_pretrained(resized("gpt2", "lm"), tmp_path / "resized")
    assert torch.equal(result(loaded, INPUTS), result(model, INPUTS))


@pytest.mark.parametrize("targets", ["all", ["wte", "c_attn"]], ids=str)
def test_an_embedding_is_saved_as_it_was_before_merging(targets: object, tmp_path: Path) -> None:
    model = adapted(resized("gpt2", "lm"), "lm", target_modules=targets)
    expected = result(model, INPUTS)
    model.merge_adapter()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(resized("gpt2", "lm"), tmp_path)
    assert torch.equal(result(loaded, INPUTS), expected)


@pytest.mark.parametrize("way", ["peft", "transformers"])
@pytest.mark.parametrize("fields", [{}, {"modules_to_save": ["wte"], "target_modules": ["c_attn"]}], ids=str)
def test_a_vocabulary_of_another_size_is_refused(fields: dict[str, object], way: str, tmp_path: Path) -> None:
    adapted(resized("gpt2", "lm"), "lm", **fields).save_pretrained(tmp_path)
    base = tiny_model("gpt2", "lm")
    before = set(base.state_dict())
    with pytest.raises(BaseModelError, match=rf"resize_token_embeddings\({TOKENS}\)"):
        base.load_adapter(str(tmp_path)) if way == "transformers" else PeftModel.from_pretrained(base, tmp_path)
    assert set(base.state_dict()) == before


def test_an_embedding_does_not_change_under_another_adapter(tmp_path: Path) -> None:
    first, second = adapted(resized("gpt2", "lm"), "lm"), adapted(resized("gpt2", "lm"), "lm")
    for name, model in {"first": first, "second": second}.items():
        model.save_pretrained(tmp_path / name)
    loaded = PeftModel.from_pretrained(resized("gpt2", "lm"), tmp_path / "first")
    loaded.load_adapter(tmp_path / "first", "again")
    expected = result(loaded, INPUTS)
    with pytest.raises(AdapterFileError, match="an embedding of its own, which default, again would get as well"):
        loaded.load_adapter(tmp_path / "second", "second")
    assert list(loaded.peft_config) == ["default", "again"]
    assert torch.equal(result(loaded, INPUTS), expected)


def test_a_swap_does_not_change_the_embedding_under_another_adapter(tmp_path: Path) -> None:
    adapted(resized("gpt2", "lm"), "lm").save_pretrained(tmp_path)
    model = adapted(resized("gpt2", "lm"), "lm")
    hotswap_adapter(model, tmp_path)
    swapped = result(model, INPUTS)
    assert torch.equal(swapped, result(PeftModel.from_pretrained(resized("gpt2", "lm"), tmp_path), INPUTS))
    other = adapted(resized("gpt2", "lm"), "lm")
    other.add_adapter("beside", config(task_type=None))
    with pytest.raises(AdapterFileError, match="an embedding of its own, which beside would get as well"):
        hotswap_adapter(other, tmp_path)


def test_nothing_is_said_of_an_embedding_that_stayed(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        adapted(tiny_model("roberta", "cls"), "cls").save_pretrained(tmp_path)
