"""What cannot be an adapter of this base model is refused, and the others go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from propulsion import AdapterBank, PropulsionConfig
from propulsion.errors import AdapterFileError, AdapterNameError, BaseModelError, ConfigError, PropulsionError
from tests.propulsion.bank.adapters import adapter
from tests.propulsion.steered import batch, config, train_by_chance
from tests.tiny_models import tiny_model

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
