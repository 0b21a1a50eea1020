"""Laws of import: an adapter of (IA)³ and what is made of it compute the same, at every degree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from propulsion import PropulsionConfig
from propulsion.errors import AdapterFileError
from propulsion_tools.errors import OptionError
from propulsion_tools.export.export import export
from propulsion_tools.export.from_ia3 import delta_of, from_ia3
from propulsion_tools.records.options import ExportOptions, ImportOptions
from tests.export.saved import save_adapter
from tests.export.test_export import load
from tests.propulsion.steered import batch, relative_error, result
from tests.tiny_models import tiny_model


def save_ia3(folder: Path, name: str, head: str = "cls", least: float = 0.5, **fields: Any) -> Path:
    base = tiny_model(name, head)
    base.save_pretrained(folder / "base")
    base.name_or_path = str(folder / "base")
    values: dict[str, Any] = {"target_modules": ["query", "value"], "feedforward_modules": [], **fields}
    model = get_peft_model(base, IA3Config(task_type="SEQ_CLS" if head == "cls" else "CAUSAL_LM", **values))
    generator = torch.Generator().manual_seed(3)
    for key, parameter in model.named_parameters():
        if "ia3_l" in key:
            parameter.data = least + torch.rand(parameter.shape, generator=generator)
        elif "modules_to_save" in key:
            parameter.data += 0.1
    model.save_pretrained(folder / "ia3")
    return folder / "ia3"


@pytest.mark.parametrize("degree", [1, 2, 15, 55])
@pytest.mark.parametrize(
    ("name", "head", "targets"),
    [("bert", "cls", ["query", "dense"]), ("llama", "lm", ["k_proj"]), ("gpt2", "lm", ["c_attn"])],
)
def test_what_is_imported_computes_what_ia3_did(
    name: str, head: str, targets: list[str], degree: int, tmp_path: Path
) -> None:
    adapter = save_ia3(tmp_path, name, head, target_modules=targets)
    from_ia3(adapter, ImportOptions(output=str(tmp_path / "out"), degree=degree))
    assert PropulsionConfig.from_pretrained(str(tmp_path / "out")).degree == degree
    inputs = batch(name, head)
    expected = result(PeftModel.from_pretrained(load(tmp_path / "base", head), adapter).eval(), inputs)
    actual = result(PeftModel.from_pretrained(load(tmp_path / "base", head), tmp_path / "out").eval(), inputs)
    assert relative_error(actual, expected) < 1e-5


def test_there_and_back_is_the_same_adapter(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path, "bert", target_modules="attn", degree=3)
    export(adapter, ExportOptions(format="peft-ia3", output=str(tmp_path / "ia3")))
    from_ia3(tmp_path / "ia3", ImportOptions(output=str(tmp_path / "back"), degree=3))
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "back"))
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.allclose(after[key], value, atol=1e-6)


def test_negative_gains_need_an_odd_degree(tmp_path: Path) -> None:
    adapter = save_ia3(tmp_path, "bert", least=-0.5)
    with pytest.raises(OptionError, match=r"odd --degree"):
        from_ia3(adapter, ImportOptions(output=str(tmp_path / "out"), degree=2))
    assert not (tmp_path / "out").exists()
    from_ia3(adapter, ImportOptions(output=str(tmp_path / "out"), degree=3))


def test_gains_of_zero_have_every_root() -> None:
    assert torch.equal(delta_of("a", torch.tensor([0.0, 1.0]), 15), torch.tensor([[-1.0, 0.0]]))
    with pytest.raises(OptionError, match="at least 1"):
        delta_of("a", torch.ones(2), 0)


def test_scaled_inputs_are_refused(tmp_path: Path) -> None:
    adapter = save_ia3(tmp_path, "bert", target_modules=["query", "dense"], feedforward_modules=["dense"])
    with pytest.raises(OptionError, match="scales the inputs of dense"):
        from_ia3(adapter, ImportOptions(output=str(tmp_path / "out")))


@pytest.mark.parametrize("harm", ["truncated", "nan", "empty", "absent"])
def test_a_damaged_adapter_is_refused(harm: str, tmp_path: Path) -> None:
    adapter = save_ia3(tmp_path, "bert")
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    if harm == "truncated":
        file.write_bytes(file.read_bytes()[:-50])
    elif harm == "absent":
        file.unlink()
    else:
        kept = {key: value for key, value in tensors.items() if harm == "nan" or "ia3_l" not in key}
        save_file(
            {key: torch.full_like(value, torch.nan) if harm == "nan" else value for key, value in kept.items()}, file
        )
    with pytest.raises(AdapterFileError):
        from_ia3(adapter, ImportOptions(output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
