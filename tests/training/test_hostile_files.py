"""What a user has downloaded is data: no code in it runs, no pickle is read, and what is damaged is named."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from peft import PeftModel

from propulsion import PropulsionConfig
from propulsion.errors import AdapterFileError, ConfigError
from propulsion_tools.cli import main
from propulsion_tools.errors import DataError, OptionError
from propulsion_tools.inspection.saved_adapter import read_adapter
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks.data_files import read_table
from propulsion_tools.tasks.given_rows import read_given
from propulsion_tools.training.base_models import load_config, load_tokenizer
from propulsion_tools.training.checkpoints import last_checkpoint
from propulsion_tools.training.manifest import fault, seal
from propulsion_tools.training.run import train
from tests.export.saved import save_adapter
from tests.propulsion.steered import steered_model
from tests.tiny_models import tiny_model as tiny


class Touch:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    return tmp_path / "ran"


def test_the_code_of_a_model_is_not_run_and_nobody_is_asked(
    ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    own = {"AutoConfig": "own.Config", "AutoTokenizer": ["own.Tokenizer", None], "AutoModel": "own.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": own}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": own, "tokenizer_class": "Tokenizer"}))
    for load in (load_config, load_tokenizer):
        with pytest.raises(OptionError, match="cannot be loaded"):
            load(str(tmp_path))
    assert not ran.exists()


def test_pickled_weights_are_not_read(make_spec: Callable[..., RunSpec], ran: Path, tmp_path: Path) -> None:
    spec = make_spec()
    base = tmp_path / "base"
    base.mkdir()
    for file in Path(spec.model_name_or_path).iterdir():
        if file.suffix != ".safetensors":
            (base / file.name).write_bytes(file.read_bytes())
    torch.save({"a": Touch(ran)}, base / "pytorch_model.bin")
    with pytest.raises(OptionError, match="cannot be loaded"):
        train(make_spec(model_name_or_path=str(base), max_steps=1))
    assert not ran.exists()


def test_a_pickled_adapter_is_refused(ran: Path, tmp_path: Path) -> None:
    steered_model("bert").save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save({"a": Touch(ran)}, tmp_path / "adapter_model.bin")
    with pytest.raises(AdapterFileError, match="a pickle"):
        PeftModel.from_pretrained(tiny("bert"), tmp_path)
    assert not ran.exists()


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_what_a_checkpoint_has_pickled_is_not_run(
    file: str, make_spec: Callable[..., RunSpec], ran: Path, tmp_path: Path
) -> None:
    spec = make_spec(max_steps=2, save_strategy="steps", save_steps=1, eval_strategy="no")
    train(spec)
    checkpoint = last_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    assert (checkpoint / file).is_file()
    torch.save({"state": Touch(ran)}, checkpoint / file)
    go_on = make_spec(max_steps=4, save_strategy="no", eval_strategy="no", resume_from_checkpoint=str(checkpoint))
    with pytest.raises(OptionError, match=f"{file} has changed since it was written"):
        train(go_on)
    seal(checkpoint, json.loads((checkpoint / "spec.json").read_text()))  # by whoever put it there
    with pytest.raises(OptionError, match="Weights only load failed"):
        train(go_on)
    assert not ran.exists()


@pytest.mark.parametrize("file", ["optimizer.pt", "rng_state.pth"])
def test_what_a_checkpoint_has_pickled_is_as_large_as_its_file(file: str, tmp_path: Path) -> None:
    torch.save({"state": torch.zeros(10_000)}, tmp_path / file)
    (tmp_path / "trainer_state.json").write_text('{"global_step": 3}')
    seal(tmp_path, {})
    assert fault(tmp_path) is None
    with zipfile.ZipFile(tmp_path / file) as archive:
        contents = {item.filename: archive.read(item) for item in archive.infolist()}
    with zipfile.ZipFile(tmp_path / file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    seal(tmp_path, {})
    assert fault(tmp_path) == f"{file} is compressed, which torch's own files are not"


@pytest.mark.parametrize(
    ("field", "value"),
    [("task_type", "SEQ"), ("task_type", [1]), ("peft_version", {}), ("degree", 10**30), ("nothing", 1)],
)
def test_a_field_of_a_configuration_is_named(field: str, value: Any, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path, "bert")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    if field in ("peft_version", "nothing"):
        read_adapter(adapter)
        return
    for read in (read_adapter, PropulsionConfig.from_pretrained):
        with pytest.raises(ConfigError, match=field):
            read(adapter)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("texts.jsonl", b'{"text": "\xff"}'),
        ("texts.jsonl", b"[" * 100_000),
        ("texts.jsonl", b'{"text": ' + b"9" * 5000 + b"}"),
        ("texts.csv", b"text\n\xff"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_rows_that_are_not_text_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_given(str(file))


def test_a_number_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": ' + "9" * 5000 + "}\n")
    with pytest.raises(DataError, match=r"train.jsonl, line 1"):
        read_table(tmp_path / "train.jsonl")


def test_every_error_of_parquet_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "train.parquet"
    file.write_bytes(b"PAR1")

    def refuse(path: Path) -> None:
        raise pyarrow.ArrowNotImplementedError("more than 64 bits")

    monkeypatch.setattr("pyarrow.parquet.ParquetFile", refuse)
    with pytest.raises(DataError, match="more than 64 bits"):
        read_table(file)


@pytest.mark.parametrize("text", ["degree: " + "9" * 5000, "[" * 5000, "degree: \xff", "a: !!python/name:os.system"])
def test_hostile_yaml_is_one_sentence(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(text.encode("latin-1"))
    assert main(["train", "--config", str(file)]) == 2
    assert "run.yaml" in capsys.readouterr().err


def test_a_nested_trainer_state_is_no_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (folder / "trainer_state.json").write_text("[" * 100_000)
    assert last_checkpoint(tmp_path) is None
