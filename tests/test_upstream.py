"""What the tools use of the insides of torch, PEFT and transformers is there, and nothing else of them is touched."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import peft
import peft.utils
import pytest
import torch
import transformers.trainer
import transformers.trainer_pt_utils
from peft import AdaLoraConfig, LoraConfig, PromptEncoderConfig, get_peft_model
from peft.peft_model import PeftModel
from peft.tuners import adalora
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments, conversion_mapping, core_model_loading
from transformers.trainer_callback import TrainerState

from tests.canaries import ROOT, Canary, assert_alive, assert_mortal, without
from tests.tiny_models import tiny_model

TORCH, PEFT, TRANSFORMERS = (f"propulsion_tools.upstream.{name}_private" for name in ("torch", "peft", "transformers"))


def opens_trees(private: Any) -> None:
    assert private.leaves(({"a": 1}, [2, (3,)])) == [1, 2, 3]


def counts_changes(private: Any) -> None:
    tensor = torch.ones(2)
    before = private.times_changed(tensor)
    tensor.add_(1)
    assert private.times_changed(tensor) == before + 1


def allocates_ranks(private: Any) -> None:
    model = get_peft_model(
        tiny_model("bert"), AdaLoraConfig(target_modules=["query"], total_step=10, tinit=1, tfinal=1)
    )
    allocator = private.rank_allocator(model)
    assert allocator.peft_config is model.peft_config["default"]
    model(input_ids=torch.ones(1, 3).long()).logits.sum().backward()
    _, pattern = allocator.update_and_allocate(model.base_model.model, 2)
    assert allocator.ipt.keys() == allocator.exp_avg_ipt.keys() == allocator.exp_avg_unc.keys()
    allocator.mask_using_rank_pattern(model.base_model.model, pattern)


def finds_the_network_of_prompts(private: Any) -> None:
    model = get_peft_model(tiny_model("bert"), PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    assert any(parameter.requires_grad for parameter in private.prompt_encoder(model).parameters())


def knows_ia3(private: Any) -> None:
    assert private.ia3_targets("bert")
    assert not private.ia3_targets("unheard-of")
    assert private.ia3_feed_forward("bert") == ("output.dense",)
    assert private.ia3_feed_forward("unheard-of") == ()


def warned(build: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        build()
    return [str(warning.message) for warning in shown]


def hides_defaults(private: Any) -> None:
    def build() -> None:
        get_peft_model(tiny_model("gpt2", "lm"), LoraConfig(target_modules=["c_attn"]))
        AdaLoraConfig(r=3, total_step=10)

    def build_quietly() -> None:
        with private.quiet_about_defaults():
            build()

    assert len(warned(build)) - len(warned(build_quietly)) >= 2


class Product(nn.Module):
    """w x, and a forward that takes anything, as the models do of which `Trainer` expects a loss of its own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, labels: Tensor, **kwargs: Any) -> dict[str, Tensor]:
        return {"loss": (self.weight * x).mean()}


def arguments(folder: str, **fields: Any) -> TrainingArguments:
    return TrainingArguments(
        folder, use_cpu=True, report_to="none", disable_tqdm=True, optim="sgd", learning_rate=0.5,
        lr_scheduler_type="constant", per_device_train_batch_size=1, max_steps=1, max_grad_norm=0, **fields,
    )  # fmt: skip


ROWS = [{"x": torch.ones(1), "labels": torch.ones(1)}] * 2


def writes_and_reads_weights(private: Any) -> None:
    written, read, gone_on = [], [], []

    class Kept(private.OpenTrainer):
        def write_weights(self, folder: Path) -> None:
            folder.mkdir(exist_ok=True)
            written.append(folder.name)

        def read_weights(self, folder: Path) -> None:
            read.append(folder.name)

        def read_run(self, folder: Path) -> None:
            gone_on.append(folder.name)

    with TemporaryDirectory() as folder:
        fields = {"save_steps": 1, "eval_steps": 1, "eval_strategy": "steps", "load_best_model_at_end": True}
        trainer = Kept(
            model=Product(),
            args=arguments(folder, metric_for_best_model="runtime", **fields),
            train_dataset=ROWS,
            eval_dataset=ROWS,
        )
        trainer.train()
        assert written == ["checkpoint-1"]
        assert read == ["checkpoint-1"]  # the best
        assert gone_on == []
        trainer.args.max_steps = 2
        trainer.train(resume_from_checkpoint=f"{folder}/checkpoint-1")
        assert len(read) == 3
        assert gone_on == ["checkpoint-1"]
        assert torch.equal(trainer.on_device({"x": torch.ones(1)})["x"], torch.ones(1))


def divides_the_loss(private: Any) -> None:
    with TemporaryDirectory() as folder:
        model = Product()
        args = arguments(folder, gradient_accumulation_steps=2, save_strategy="no")
        trainer = private.OpenTrainer(model=model, args=args, train_dataset=ROWS)
        trainer.take_loss_as_mean()
        trainer.train()
    assert model.weight.item() == pytest.approx(0.5, abs=1e-5)


class Counter(TrainerCallback):
    """A callback with a state."""

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"seen": 3}}


def keeps_the_state_of_callbacks(private: Any) -> None:
    class Exported(Counter, private.ExportableState):
        pass

    with TemporaryDirectory() as folder:
        Trainer(Product(), arguments(folder, save_steps=1), train_dataset=ROWS, callbacks=[Exported()]).train()
        state = TrainerState.load_from_json(f"{folder}/checkpoint-1/trainer_state.json")
    assert state.stateful_callbacks["Exported"]["attributes"] == {"seen": 3}


def pads_while_it_joins(private: Any) -> None:
    joined = private.nested_concat(torch.ones(1, 2), torch.ones(1, 3), padding_index=-100)
    assert joined.tolist() == [[1, 1, -100], [1, 1, 1]]


def knows_names_in_checkpoints(private: Any) -> None:
    classifier = tiny_model("bert")
    found = private.names_in_model(classifier, ["pooler.dense.bias", "embeddings.LayerNorm.gamma", "cls.bias"])
    assert found.named == {
        "pooler.dense.bias": "bert.pooler.dense.bias",
        "embeddings.LayerNorm.gamma": "bert.embeddings.LayerNorm.weight",
    }
    expert = "model.layers.0.block_sparse_moe.experts.1.w2.weight"
    query = "model.layers.0.self_attn.q_proj.weight"
    found = private.names_in_model(tiny_model("mixtral", "lm"), [expert, query])
    assert (found.named, found.converted) == ({query: query}, {expert})


CANARIES = [
    Canary("torch.utils._pytree.tree_leaves", TORCH, opens_trees, without(torch.utils._pytree, "tree_leaves")),
    Canary("Tensor._version", TORCH, counts_changes, without(torch.Tensor, "_version")),
    Canary("AdaLoraModel.rankallocator", PEFT, allocates_ranks,
           without(adalora.model, "RankAllocator", lambda *args: None)),
    Canary("RankAllocator.mask_using_rank_pattern", PEFT, allocates_ranks,
           without(adalora.layer.RankAllocator, "mask_using_rank_pattern")),
    Canary("PeftModel.prompt_encoder", PEFT, finds_the_network_of_prompts,
           without(PeftModel, "prompt_encoder", property(lambda self: {}, lambda self, value: None))),
    Canary("TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING", PEFT, knows_ia3,
           without(peft.utils, "TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING")),
    Canary("TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING", PEFT, knows_ia3,
           without(peft.utils, "TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING")),
    Canary("the warnings of defaults", PEFT, hides_defaults,
           without(warnings, "warn", lambda *args, **kwargs: None)),
    Canary("Trainer.save_model", TRANSFORMERS, writes_and_reads_weights,
           without(Trainer, "_save_checkpoint", lambda self, *args, **kwargs: None)),
    Canary("Trainer._load_best_model", TRANSFORMERS, writes_and_reads_weights,
           without(TrainingArguments, "load_best_model_at_end", property(lambda self: False, lambda *args: None))),
    Canary("Trainer._prepare_inputs", TRANSFORMERS, writes_and_reads_weights, without(Trainer, "_prepare_inputs")),
    Canary("Trainer.model_accepts_loss_kwargs", TRANSFORMERS, divides_the_loss,
           without(Trainer, "model_accepts_loss_kwargs", property(lambda self: True, lambda self, value: None))),
    Canary("ExportableState", TRANSFORMERS, keeps_the_state_of_callbacks,
           without(transformers.trainer, "ExportableState", type("Other", (), {}))),
    Canary("nested_concat", TRANSFORMERS, pads_while_it_joins,
           without(transformers.trainer_pt_utils, "nested_concat")),
    Canary("get_model_conversion_mapping", TRANSFORMERS, knows_names_in_checkpoints,
           without(conversion_mapping, "get_model_conversion_mapping", lambda model: [])),
    Canary("rename_source_key", TRANSFORMERS, knows_names_in_checkpoints,
           without(core_model_loading, "rename_source_key")),
]  # fmt: skip


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.what)
def test_upstream_is_what_we_take_it_for(canary: Canary) -> None:
    assert_alive(canary)


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.what)
def test_each_canary_notices(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_mortal(canary, monkeypatch)


def private_names(program: str) -> Iterator[str]:
    """What a program touches that begins with an underscore and is not its own object's."""
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        ):
            yield from _private(ast.unparse(node), [node.attr])
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from _private(ast.unparse(node), names)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield from _private(ast.unparse(node), [str(node.slice.value)])


def _private(text: str, names: list[str]) -> list[str]:
    return [text] if any(name.startswith("_") and not name.startswith("__") for name in names) else []


ALLOWED = {
    "os._exit",
    "super()._remove_adapter_name_from_key",
    "super()._remap_adapter_state_dict_for_load",
    "super()._unload_and_optionally_merge",
}


def test_private_names_are_touched_in_one_place() -> None:
    touched = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in (ROOT / "src").rglob("*.py")
        if file.parent.name != "upstream"
        for name in private_names(file.read_text(encoding="utf-8"))
        if name not in ALLOWED
    }
    assert not touched, f"These belong into a file of an `upstream` folder, with a canary: {sorted(touched)}"


@pytest.mark.parametrize(
    "program",
    [
        "torch._C.f()",
        "layer._forward_hooks",
        "vars(module)['_modules']",
        "from torch.utils._pytree import tree_leaves",
        "from peft.tuners.tuners_utils import _maybe_include_all_linear_layers",
    ],
)
def test_a_private_name_is_noticed(program: str) -> None:
    assert list(private_names(program))
    assert not list(private_names("self._own; from __future__ import annotations; x['a']; x.__dict__"))
