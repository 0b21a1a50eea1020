"""What cannot be an adapter of this base model is refused, and the others go on."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from propulsion import AdapterBank, PropulsionConfig
from propulsion.errors import (
    AdapterFileError,
    AdapterNameError,
    BaseModelError,
    ConfigError,
    LayerError,
    PropulsionError,
)
from tests.propulsion.bank.adapters import adapter
from tests.propulsion.steered import MIXTURES, batch, config, result, train_by_chance
from tests.tiny_models import VOCABULARY, tiny_model

WEIGHTS = "adapter_model.safetensors"


def tensors(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        saved = load_file(folder / WEIGHTS)
        change(saved)
        save_file(saved, folder / WEIGHTS)

    return damage


def settings(**fields: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return damage


def vector(saved: dict[str, Tensor]) -> str:
    return next(key for key in saved if "propulsion_delta" in key and "dense" in key)


def head(saved: dict[str, Tensor]) -> str:
    return next(key for key in saved if "out_proj.weight" in key)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


DAMAGE: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "no folder": (lambda f: shutil.rmtree(f), AdapterFileError, "no adapter_config.json"),
    "no configuration": (lambda f: (f / "adapter_config.json").unlink(), AdapterFileError, "no adapter_config.json"),
    "no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), AdapterFileError, "damaged"),
    "deep JSON": (lambda f: (f / "adapter_config.json").write_text("[" * 100_000), AdapterFileError, "damaged"),
    "a list": (lambda f: (f / "adapter_config.json").write_text("[]"), AdapterFileError, "damaged"),
    "no text": (lambda f: (f / "adapter_config.json").write_bytes(b"\xff\xfe\x00"), AdapterFileError, "damaged"),
    "unheard-of method": (settings(peft_type="NOSUCH"), AdapterFileError, "damaged"),
    "cut off": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]), AdapterFileError, "damaged"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), AdapterFileError, "damaged"),
    "pickled": (pickled, AdapterFileError, "only adapter_model.safetensors is read"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), AdapterFileError, "has no adapter_model.safetensors"),
    "a vector less": (tensors(lambda s: s.pop(vector(s))), AdapterFileError, "no vector"),
    "a head's part less": (tensors(lambda s: s.pop(head(s))), BaseModelError, "out_proj.weight"),
    "a vector more": (
        tensors(lambda s: s.update({"base_model.model.roberta.pooler.propulsion_delta.weight": torch.zeros(1, 32)})),
        BaseModelError,
        "does not mean",
    ),
    "not finite": (tensors(lambda s: s[vector(s)].fill_(float("nan"))), AdapterFileError, "not finite"),
    "a head that is not finite": (tensors(lambda s: s[head(s)].fill_(float("inf"))), AdapterFileError, "not finite"),
    "a power that is not finite": (tensors(lambda s: s[vector(s)].fill_(1e4)), AdapterFileError, "gains"),
    "another size": (tensors(lambda s: s.update({vector(s): torch.zeros(1, 7)})), BaseModelError, "outputs in this"),
    "another shape": (tensors(lambda s: s.update({vector(s): torch.zeros(32)})), AdapterFileError, "num_vectors"),
    "integers": (
        tensors(lambda s: s.update({vector(s): torch.zeros(1, 32, dtype=torch.int32)})),
        AdapterFileError,
        "floating point",
    ),
    "another base": (
        settings(base_fingerprint={"roberta.encoder.layer.0.attention.self.query": [9.0] * 16}),
        BaseModelError,
        "another base model",
    ),
    "a base with other modules": (settings(base_fingerprint={"llama.x": [9.0] * 16}), BaseModelError, "lacks"),
    "weights of the base": (
        tensors(lambda s: s.update({"base_model.model.roberta.pooler.weight": torch.zeros(1)})),
        AdapterFileError,
        "overwrite",
    ),
    "a wide head": (tensors(lambda s: s.update({head(s): torch.zeros(3, 9)})), BaseModelError, "number of labels"),
    "no degree": (settings(degree=-1), ConfigError, "degree"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_bad_files_are_refused_and_the_others_go_on(what: str, tmp_path: Path) -> None:
    damage, error, message = DAMAGE[what]
    adapter("roberta").save_pretrained(tmp_path / "good")
    adapter("roberta", seed=2).save_pretrained(tmp_path / "bad")
    bank, inputs = AdapterBank(tiny_model("roberta")), {k: v for k, v in batch("roberta").items() if k != "labels"}
    bank.load(tmp_path / "good")
    expected = bank(**inputs, adapter_names=["good"] * 3).logits
    damage(tmp_path / "bad")
    with pytest.raises(error, match=message) as raised:
        bank.load(tmp_path / "bad")
    assert isinstance(raised.value, PropulsionError)
    assert bank.names == bank.resident == ["good"]
    assert torch.equal(bank(**inputs, adapter_names=["good"] * 3).logits, expected)


def test_other_methods_and_models_are_refused(tmp_path: Path) -> None:
    bank = AdapterBank(tiny_model("roberta"))
    lora = get_peft_model(tiny_model("roberta"), LoraConfig(task_type="SEQ_CLS"))
    lora.save_pretrained(tmp_path / "lora")
    with pytest.raises(ConfigError, match="LORA, and not of Propulsion"):
        bank.load(tmp_path / "lora")
    with pytest.raises(ConfigError, match="LORA, and not of Propulsion"):
        bank.add("lora", lora)
    with pytest.raises(ConfigError, match="takes a PeftModel"):
        bank.add("plain", tiny_model("roberta"))  # type: ignore[arg-type]
    stranger = get_peft_model(tiny_model("roberta", seed=5), config())
    with pytest.raises(BaseModelError, match="another base model"):
        bank.add("stranger", stranger)
    both = get_peft_model(tiny_model("roberta", "base"), config(task_type=None))
    both.add_adapter("other", config(task_type=None))
    both.base_model.set_adapter(["default", "other"])
    with pytest.raises(AdapterNameError, match="one of them"):
        bank.add("both", both)
    assert not bank.names


def test_what_was_added_is_a_copy() -> None:
    model, bank = adapter("roberta"), AdapterBank(tiny_model("roberta"))
    inputs = {key: value for key, value in batch("roberta").items() if key != "labels"}
    bank.add("one", model)
    expected = bank(**inputs, adapter_names=["one"] * 3).logits
    train_by_chance(model, seed=9)
    assert torch.equal(bank(**inputs, adapter_names=["one"] * 3).logits, expected)
    model.merge_adapter()
    bank.add("merged", model)
    model.unmerge_adapter()
    actual = bank(**inputs, adapter_names=["merged"] * 3).logits
    assert torch.equal(actual, model(**inputs).logits)


@pytest.mark.parametrize("targets", [["query", "output.dense"], r".*attention\.self\.(query|key)", "all-linear", None])
def test_targets_that_are_no_presets(targets: Any, tmp_path: Path) -> None:
    model, bank = adapter("roberta", target_modules=targets), AdapterBank(tiny_model("roberta"))
    inputs = {key: value for key, value in batch("roberta").items() if key != "labels"}
    model.save_pretrained(tmp_path / "one")
    if targets is None:  # PEFT writes what it has made of it
        settings(target_modules=None)(tmp_path / "one")
    bank.load(tmp_path / "one")
    bank.load(tmp_path / "one", "again")
    assert torch.equal(bank(**inputs, adapter_names=["one", "again", "one"]).logits, model(**inputs).logits)


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Conv1d(3, 5, 1))
    model = get_peft_model(base, PropulsionConfig(target_modules=["0", "2"])).eval()
    train_by_chance(model)
    model.save_pretrained(tmp_path / "own")
    x = torch.randn(2, 3, 4)
    expected = model(x).detach()
    plain = model.unload()
    bank = AdapterBank(plain)
    bank.load(tmp_path / "own")
    assert torch.equal(bank(x, adapter_names=["own", "__base__"])[0], expected[0])
    assert torch.equal(bank(x, adapter_names=["own", "__base__"])[1], plain(x)[1])


@pytest.mark.parametrize(
    "fields",
    [{}, {"target_modules": ["experts"]}, {"target_modules": "attn", "target_parameters": ["down_proj"]}],
    ids=str,
)
@pytest.mark.parametrize("name", MIXTURES)
def test_adapters_that_steer_experts_are_refused(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    model = adapter(name, "lm", **fields)
    model.save_pretrained(tmp_path / "one")
    bank = AdapterBank(tiny_model(name, "lm"))
    with pytest.raises(LayerError, match="stacked weights of experts"):
        bank.load(tmp_path / "one")
    with pytest.raises(LayerError, match="stacked weights of experts"):
        bank.add("one", model)
    assert not bank.names


@pytest.mark.filterwarnings("ignore:.*of the weights in the targeted blocks stay as they are")
@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("name", MIXTURES)
def test_adapters_that_leave_experts_alone_are_held(name: str, is_old: bool, tmp_path: Path) -> None:
    adapter(name, "lm", **({} if is_old else {"target_modules": "attn"})).save_pretrained(tmp_path / "one")
    if is_old:  # of a release whose presets had no experts
        tensors(lambda s: [s.pop(key) for key in [*s] if ".experts." in key])(tmp_path / "one")
        settings(base_fingerprint=None)(tmp_path / "one")
    inputs = {key: value for key, value in batch(name, "lm").items() if key != "labels"}
    expected = result(PeftModel.from_pretrained(tiny_model(name, "lm"), tmp_path / "one").eval(), inputs)
    bank = AdapterBank(tiny_model(name, "lm"))
    bank.load(tmp_path / "one")
    assert torch.equal(bank(**inputs, adapter_names=["one"] * len(inputs["input_ids"])).logits, expected)


def with_new_tokens(**fields: Any) -> PeftModel:
    base = tiny_model("gpt2", "lm")
    base.resize_token_embeddings(VOCABULARY + 5, mean_resizing=False)
    model = get_peft_model(base, config(**{"task_type": "CAUSAL_LM", **fields})).eval()
    train_by_chance(model)
    return model


@pytest.mark.filterwarnings("ignore:The embedding was resized")
@pytest.mark.parametrize("targets", ["all", ["c_attn"]], ids=str)
def test_an_embedding_of_an_adapters_own_is_refused(targets: Any, tmp_path: Path) -> None:
    model = with_new_tokens(target_modules=targets)
    model.save_pretrained(tmp_path / "one")
    base = copy.deepcopy(model).unload()
    bank = AdapterBank(base)
    bank.load(tmp_path / "one")  # whose embedding this is
    bank.add("two", model)
    ids = torch.arange(VOCABULARY, VOCABULARY + 4)[None].expand(2, -1)
    actual = bank(input_ids=ids, adapter_names=["one", "two"]).logits
    assert torch.equal(actual, result(model, {"input_ids": ids}))
    other = AdapterBank(with_new_tokens().unload())
    for read in (lambda: other.load(tmp_path / "one"), lambda: other.add("two", model)):
        with pytest.raises(LayerError, match="embedding of its own"):
            read()
    small = AdapterBank(tiny_model("gpt2", "lm"))
    with pytest.raises(BaseModelError, match="resize_token_embeddings"):
        small.load(tmp_path / "one")
    assert not other.names
    assert not small.names


def test_an_embedding_that_was_trained_whole_is_refused(tmp_path: Path) -> None:
    model = adapter("gpt2", "lm", target_modules=["c_attn"], modules_to_save=["wte"])
    model.save_pretrained(tmp_path / "one")
    bank = AdapterBank(tiny_model("gpt2", "lm"))
    for read in (lambda: bank.load(tmp_path / "one"), lambda: bank.add("one", model)):
        with pytest.raises(LayerError, match="the embedding transformer"):
            read()


def test_a_head_that_the_base_model_lacks_is_refused(tmp_path: Path) -> None:
    base = tiny_model("roberta", "lm")
    base.roberta.load_state_dict(tiny_model("roberta").roberta.state_dict())
    model, bank = adapter("roberta"), AdapterBank(base)
    model.save_pretrained(tmp_path / "one")
    for read in (lambda: bank.load(tmp_path / "one"), lambda: bank.add("one", model)):
        with pytest.raises(BaseModelError, match="classifier"):
            read()
    assert not bank.names


def test_an_adapter_without_one_of_its_biases_is_refused(tmp_path: Path) -> None:
    adapter("roberta", train_bias=True).save_pretrained(tmp_path / "one")
    tensors(lambda s: s.pop(next(key for key in s if "propulsion_bias" in key)))(tmp_path / "one")
    with pytest.raises(AdapterFileError, match="no bias for"):
        AdapterBank(tiny_model("roberta")).load(tmp_path / "one")
