"""Laws of export: what is written computes what the adapter does, and needs nothing of ours; else nothing is left."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from propulsion.errors import AdapterFileError, BaseModelError, PropulsionError
from propulsion_tools.errors import ExportError, OptionError, ToolsError
from propulsion_tools.export import checkpoints, merged
from propulsion_tools.export.export import export
from propulsion_tools.records.options import EXPORT_FORMATS, ExportOptions
from propulsion_tools.upstream.bitsandbytes_private import keep_packing
from tests.export.saved import save_adapter
from tests.processes import WithPeftAlone
from tests.propulsion.steered import batch, relative_error, result

AUTO = {"cls": "AutoModelForSequenceClassification", "lm": "AutoModelForCausalLM"}
AUTO |= {"mlm": "AutoModelForMaskedLM", "seq2seq": "AutoModelForSeq2SeqLM"}
CASES = [
    ("llama", "lm", "lm"),
    ("llama", "cls", "cls"),
    ("bert", "cls", "cls"),
    ("roberta", "cls", "cls"),
    ("roberta", "lm", "mlm"),
    ("t5", "lm", "seq2seq"),
    ("t5", "cls", "cls"),
    ("gpt2", "lm", "lm"),
    ("mixtral", "lm", "lm"),
]
TARGETS: dict[str, dict[str, Any]] = {"mixtral": {"target_modules": ["embed_tokens", "q_proj", "v_proj"]}}
"""Where it is not the preset "all"; with embeddings by this name PEFT saves their weights too."""
FITS = {"peft-road": {"gpt2"}, "peft-dora": {"gpt2", "bert", "roberta"}}
"""The models none of whose layers fit."""


def inputs_for(name: str, head: str) -> dict[str, Tensor]:
    inputs = batch(name, head)
    if head == "lm" and name == "t5":
        inputs["decoder_input_ids"] = inputs["input_ids"].flip(1)
    return inputs


def own_output(folder: Path, auto: str, inputs: dict[str, Tensor]) -> Tensor:
    base = load(folder / "base", auto)
    return result(PeftModel.from_pretrained(base, folder / "adapter").eval(), inputs)


def load(folder: Path, auto: str, **kwargs: Any) -> transformers.PreTrainedModel:
    labels = {"num_labels": 3} if auto == "cls" else {}
    model: transformers.PreTrainedModel = getattr(transformers, AUTO[auto]).from_pretrained(folder, **labels, **kwargs)
    keep_packing(model)
    return model.eval()


@pytest.mark.parametrize("form", EXPORT_FORMATS)
@pytest.mark.parametrize(("name", "head", "auto"), CASES)
def test_what_is_exported_computes_what_the_adapter_does(
    name: str, head: str, auto: str, form: str, tmp_path: Path
) -> None:
    adapter = save_adapter(tmp_path, name, head, **TARGETS.get(name, {}))
    options = ExportOptions(format=form, output=str(tmp_path / "out"), fold_unsupported=form != "merged")
    if name in FITS.get(form, ()):
        with pytest.raises(OptionError, match="has no place for"):
            export(adapter, options)
        return
    inputs, said = inputs_for(name, head), list[str]()
    export(adapter, options, said.append)
    assert "differ from the adapter's by at most" in said[-1]
    out = tmp_path / "out"
    if form == "merged":
        actual = result(load(out, auto), inputs)
    else:
        named = json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"]
        assert Path(named) == out / "base"  # the embeddings of the preset "all" fit nowhere
        actual = result(PeftModel.from_pretrained(load(Path(named), auto), out).eval(), inputs)
        card = ModelCard.load(out / "README.md").data
        assert card.base_model == named
        assert f"base_model:adapter:{named}" in card.tags
    assert relative_error(actual, own_output(tmp_path, auto, inputs)) < 1e-5


@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_experts_are_refused_with_the_way_out(form: str, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path, "mixtral", "lm")
    options = ExportOptions(format=form, output=str(tmp_path / "out"), fold_unsupported=form != "merged")
    with pytest.raises(OptionError, match=r"experts.*merge_and_unload"):
        export(adapter, options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"train_bias": True},
        {"num_vectors": 3, "degree": [1, 2, 3], "pooling": "mean"},
        {"num_vectors": 2, "degree": [5, 15], "pooling": "l2"},
        {"degree": 55},
        {"target_modules": ["query", "LayerNorm"]},
    ],
)
@pytest.mark.parametrize("form", ["merged", "peft-ia3", "peft-road"])
def test_every_kind_of_gain_is_exported(fields: dict[str, Any], form: str, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path, "bert", **{"target_modules": "all", **fields})
    if fields == {"train_bias": True} and form != "merged":
        with pytest.raises(OptionError, match="no place"):  # every linear of BERT has a bias
            export(adapter, ExportOptions(format=form, output=str(tmp_path / "out"), fold_unsupported=True))
        return
    inputs = batch("bert")
    export(adapter, ExportOptions(format=form, output=str(tmp_path / "out"), fold_unsupported=True))
    if form == "merged":
        actual = result(load(tmp_path / "out", "cls"), inputs)
    else:
        actual = result(PeftModel.from_pretrained(load(tmp_path / "out" / "base", "cls"), tmp_path / "out"), inputs)
    assert relative_error(actual, own_output(tmp_path, "cls", inputs)) < 1e-5


CHILD = """
import json, os, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("propulsion", "propulsion_tools"):
            raise ImportError(name)

sys.meta_path.insert(0, Absent())
import torch, transformers
from peft import AutoPeftModelForSequenceClassification, PeftModel

where, folders, base, inputs = json.loads(ASKED)
os.chdir(where)
inputs = {name: torch.tensor(value) for name, value in inputs.items()}
answers = []
for folder in folders:
    if folder == "merged":
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    elif folder == "peft-ia3":  # the folded base has the number of labels
        model = AutoPeftModelForSequenceClassification.from_pretrained(folder)
    else:
        plain = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
        model = PeftModel.from_pretrained(plain, folder)
    with torch.no_grad():
        answers.append(model.eval()(**inputs).logits.tolist())
print(json.dumps(answers))
"""


def test_a_process_without_this_package_reads_every_format(with_peft_alone: WithPeftAlone, tmp_path: Path) -> None:
    inputs = {key: value for key, value in batch("llama").items() if key != "labels"}
    save_adapter(tmp_path, "llama", target_modules="all")
    expected = {"merged": own_output(tmp_path, "cls", inputs)}
    export(tmp_path / "adapter", ExportOptions(output=str(tmp_path / "merged")))
    ia3 = ExportOptions(format="peft-ia3", output=str(tmp_path / "peft-ia3"), fold_unsupported=True)
    expected["peft-ia3"] = expected["merged"]
    export(tmp_path / "adapter", ia3)
    attention = save_adapter(tmp_path, "llama", target_modules="attn")
    for form in ("peft-road", "peft-dora"):
        expected[form] = own_output(tmp_path, "cls", inputs)
        export(attention, ExportOptions(format=form, output=str(tmp_path / form)))
        assert not (tmp_path / form / "base").exists()
    tokens = {name: value.tolist() for name, value in inputs.items()}
    asked = json.dumps([str(tmp_path), list(expected), str(tmp_path / "base"), tokens])
    done = with_peft_alone(CHILD.replace("ASKED", repr(asked)))
    assert done.status == 0, done.errors
    answers = json.loads(done.out.splitlines()[-1])
    for form, answer in zip(expected, answers, strict=True):
        assert relative_error(torch.tensor(answer), expected[form]) < 1e-5, form


def test_peft_mixes_exported_road_adapters_in_a_batch(tmp_path: Path) -> None:
    inputs, rows = batch("llama", "lm"), ["one", "__base__", "two"]
    expected = {"__base__": None}
    for seed, name in enumerate(("one", "two")):
        adapter = save_adapter(tmp_path / name, "llama", "lm", target_modules="attn", degree=3 + 4 * seed)
        export(adapter, ExportOptions(format="peft-road", output=str(tmp_path / name / "out")))
        expected[name] = own_output(tmp_path / name, "lm", inputs)
    base = load(tmp_path / "one" / "base", "lm")
    expected["__base__"] = result(base, inputs)
    model = PeftModel.from_pretrained(base, tmp_path / "one" / "out", adapter_name="one")
    model.load_adapter(str(tmp_path / "two" / "out"), adapter_name="two")
    actual = result(model.eval(), inputs, adapter_names=rows)
    for row, name in enumerate(rows):
        assert relative_error(actual[row], expected[name][row]) < 1e-5


def test_only_one_shard_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Tensor]] = []
    write = checkpoints.save_file

    def watched(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        assert sum(each() is not None for each in alive) == 0
        alive.extend(map(weakref.ref, tensors.values()))
        write(tensors, path, metadata)

    monkeypatch.setattr(checkpoints, "save_file", watched)
    adapter = save_adapter(tmp_path, "llama", "lm")
    inputs = batch("llama", "lm")
    export(adapter, ExportOptions(output=str(tmp_path / "out"), max_shard_size="15KB"))
    files = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(files) > 3
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert relative_error(result(load(tmp_path / "out", "lm"), inputs), own_output(tmp_path, "lm", inputs)) < 1e-5


@pytest.mark.parametrize("targets", ["attn", "all"])
def test_embeddings_are_untied_only_where_they_are_steered(targets: str, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path, "llama", "lm", {"tie_word_embeddings": True}, target_modules=targets)
    export(adapter, ExportOptions(output=str(tmp_path / "out")))
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] == (targets == "attn")
    assert ("lm_head.weight" in tensors) == (targets == "all")
    if targets == "all":
        assert not torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])


def test_a_bare_backbone_becomes_a_whole_classifier(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path, "bert")
    assert "embeddings.word_embeddings.weight" in load_file(tmp_path / "base" / "model.safetensors")
    export(adapter, ExportOptions(output=str(tmp_path / "out")))
    names = set(load_file(tmp_path / "out" / "model.safetensors"))
    assert names == set(load(tmp_path / "out", "cls").state_dict())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]


def test_a_bfloat16_base_is_merged_in_its_own_dtype(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path, "llama", "lm", target_modules="attn")
    model = load(tmp_path / "base", "lm").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    export(adapter, ExportOptions(output=str(tmp_path / "out")))
    assert {each.dtype for each in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    with pytest.raises(ExportError, match="differ by"):
        export(adapter, ExportOptions(output=str(tmp_path / "other"), tolerance=1e-6))


def test_an_export_that_computes_something_else_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = save_adapter(tmp_path, "bert")
    fold = merged.folded_weight
    monkeypatch.setattr(merged, "folded_weight", lambda *args: fold(*args) * 1.01)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ExportError, match="does not compute the same"):
        export(adapter, ExportOptions(output=str(tmp_path / "out")))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("fields", "options", "error", "match"),
    [
        ({"target_modules": "all"}, {"format": "peft-ia3"}, OptionError, "Embedding.*--fold_unsupported"),
        ({"target_modules": ["LayerNorm"]}, {"format": "peft-road"}, OptionError, "LayerNorm.*Choose --format merged"),
        ({"target_modules": "attn"}, {"format": "peft-dora"}, OptionError, "has a bias"),
        ({"num_vectors": 2, "init_noise": 0.1, "pooling": "max"}, {}, OptionError, "pooling='max'"),
        ({}, {"output": "{}/base"}, OptionError, "exists already"),
        ({}, {"model_name_or_path": "{}/none"}, OptionError, "is no folder here"),
        ({}, {"max_shard_size": "much"}, OptionError, "like 5GB"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    fields: dict[str, Any], options: dict[str, Any], error: type[Exception], match: str, tmp_path: Path
) -> None:
    adapter = save_adapter(tmp_path, "bert", **fields)
    before = sorted(tmp_path.rglob("*"))
    values = {name: value.format(tmp_path) for name, value in {"output": "{}/out", **options}.items()}
    with pytest.raises(error, match=match):
        export(adapter, ExportOptions(**values))
    assert sorted(tmp_path.rglob("*")) == before


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "one", "bert")
    save_adapter(tmp_path / "two", "bert", base_overrides={"hidden_size": 64})
    save_adapter(tmp_path / "three", "llama")
    for other in ("two", "three"):
        with pytest.raises((PropulsionError, ToolsError)):
            export(
                adapter, ExportOptions(output=str(tmp_path / "out"), model_name_or_path=str(tmp_path / other / "base"))
            )
    scrambled = transformers.BertModel(transformers.AutoConfig.from_pretrained(tmp_path / "one" / "base"))
    scrambled.save_pretrained(tmp_path / "one" / "base")
    with pytest.raises(BaseModelError, match="another base model"):
        export(adapter, ExportOptions(output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_what_was_trained_on_quantized_weights_is_exported(bits: int, form: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    adapter = save_adapter(tmp_path, "llama", "lm", target_modules="attn")
    kept = {"load_in_8bit": bits == 8, "load_in_4bit": bits == 4, "bnb_4bit_compute_dtype": torch.float32}
    quantized = load(tmp_path / "base", "lm", quantization_config=transformers.BitsAndBytesConfig(**kept))
    quantized.save_pretrained(tmp_path / "quantized")
    options = {"format": form, "model_name_or_path": str(tmp_path / "quantized"), "output": str(tmp_path / "out")}
    if form == "merged":
        with pytest.raises(OptionError, match=r"quantized.*--model_name_or_path"):
            export(adapter, ExportOptions(**options))
        options["model_name_or_path"] = str(tmp_path / "base")  # what the quantized weights were made from
    export(adapter, ExportOptions(**options))
    if form != "merged":
        inputs, base = batch("llama", "lm"), tmp_path / "quantized"
        expected = result(PeftModel.from_pretrained(load(base, "lm"), adapter).eval(), inputs)
        actual = result(PeftModel.from_pretrained(load(base, "lm"), tmp_path / "out").eval(), inputs)
        assert relative_error(actual, expected) < 1e-3  # magnitudes are norms of weights in half precision


def test_quantized_and_pickled_bases_are_refused(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path, "bert")
    config = tmp_path / "base" / "config.json"
    kept = json.loads(config.read_text())
    config.write_text(
        json.dumps(kept | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}})
    )
    with pytest.raises(OptionError, match="quantized"):
        export(adapter, ExportOptions(output=str(tmp_path / "out")))
    config.write_text(json.dumps(kept))
    (tmp_path / "base" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "base" / "pytorch_model.bin")
    with pytest.raises(OptionError, match="only weights in safetensors"):
        export(adapter, ExportOptions(output=str(tmp_path / "out")))


def test_an_index_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path, "bert")
    base = tmp_path / "base"
    (base / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "../model.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(OptionError, match="no file beside it"):
        export(adapter, ExportOptions(output=str(tmp_path / "out")))


def test_another_methods_adapter_is_refused(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path, "bert")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peft_type": "LORA"}))
    with pytest.raises(AdapterFileError, match="no Propulsion adapter"):
        export(adapter, ExportOptions(output=str(tmp_path / "out")))
