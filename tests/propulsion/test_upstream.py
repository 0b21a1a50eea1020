"""What the method uses of the insides of torch, PEFT and transformers is there, and does what we take it to do."""

from __future__ import annotations

import inspect
import warnings
from contextlib import nullcontext
from tempfile import TemporaryDirectory
from types import CellType, FunctionType
from typing import Any

import peft
import pytest
import torch
import transformers
from packaging.version import Version
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, get_peft_model
from peft.config import PeftConfigMixin
from peft.tuners import tuners_utils
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from transformers import GenerationMixin, MusicgenForConditionalGeneration, PreTrainedModel
from transformers.integrations.peft import MIN_PEFT_VERSION
from transformers.models.bert import modeling_bert
from transformers.models.deberta import modeling_deberta
from transformers.models.deberta_v2 import modeling_deberta_v2
from transformers.models.llama import modeling_llama
from transformers.models.mixtral import modeling_mixtral
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

from propulsion import PropulsionModel
from propulsion.experts import ExpertWeight, SteeredExperts
from propulsion.layers import PropulsionLayer
from propulsion.merging import MergeableLayer
from propulsion.upstream import peft_private
from tests.canaries import Canary, assert_alive, assert_mortal, without
from tests.tiny_models import tiny_inputs, tiny_model

TORCH, PEFT, TRANSFORMERS = (f"propulsion.upstream.{name}_private" for name in ("torch", "peft", "transformers"))


def asks_for_torch_func(private: Any) -> None:
    seen: list[bool] = []
    torch.func.grad(lambda x: seen.append(private.is_transformed()) or x.sum())(torch.ones(2))
    assert [*seen, private.is_transformed()] == [True, False]


def asks_for_forward_mode(private: Any) -> None:
    with forward_ad.dual_level():
        assert private.is_forward_mode()
    assert not private.is_forward_mode()


def asks_for_storage(private: Any) -> None:
    assert private.has_storage(torch.ones(2))
    assert not private.has_storage(torch.ones(2).to_sparse())


def leaves_modes(private: Any) -> None:
    with FakeTensorMode(), private.without_modes():
        assert type(torch.ones(2)) is torch.Tensor


def multiplies_by_normalising(private: Any) -> None:
    x, gains = torch.ones(1, 3, 2, 1), torch.tensor([1.0, 2.0, 3.0])
    zeros, ones, out, unused = torch.zeros(3), torch.ones(3), torch.empty_like(x), torch.empty(0)
    private.batch_norm(x, gains, zeros, zeros, ones, False, 0.0, 0.0, out=(out, unused, unused))
    assert torch.equal(out, x * gains[:, None, None])


def sums_by_batch_norm(private: Any) -> None:
    x, zeros, ones = torch.ones(1, 3, 2, 1), torch.zeros(3), torch.ones(3)
    wanted = [False, True, False]
    sums = private.batch_norm_backward(2 * x, x, ones, zeros, ones, None, None, False, 0.0, wanted)[1]
    assert sums.tolist() == [4, 4, 4]


def sums_by_layer_norm(private: Any) -> None:
    x, zeros, ones = torch.ones(2, 3), torch.zeros(2), torch.ones(2)
    sums = private.layer_norm_backward(2 * x, x, [3], zeros, ones, torch.ones(3), None, [False, True, False])[1]
    assert sums.tolist() == [4, 4, 4]


def takes_many_powers(private: Any) -> None:
    deltas = [torch.linspace(-0.1, 0.1, 37), torch.linspace(-0.1, 0.1, 5)]
    powers = private.powers_of_each(deltas, [15, 3])
    assert all(torch.equal(power, (1 + d).pow(k)) for power, d, k in zip(powers, deltas, (15, 3), strict=True))
    assert private.powers_of_each([], []) == ()


def counts_changes(private: Any) -> None:
    tensor = torch.ones(2)
    before = private.times_changed(tensor)
    tensor.add_(1)
    assert private.times_changed(tensor) == before + 1


def knows_bare_modules(private: Any) -> None:
    linear = nn.Linear(1, 1)
    assert private.parameters_of_bare(linear)["weight"] is linear.weight
    handle = linear.register_forward_pre_hook(lambda *args: None)
    assert private.parameters_of_bare(linear) is None
    handle.remove()
    handle = nn.modules.module.register_module_forward_pre_hook(lambda *args: None)
    found = private.parameters_of_bare(linear)
    handle.remove()
    assert found is None


def finds_submodules(private: Any) -> None:
    inner = nn.Linear(1, 1)
    assert vars(nn.Sequential(inner))[private.SUBMODULES]["0"] is inner
    assert vars(inner)[private.PARAMETERS]["weight"] is inner.weight


def counts_references(private: Any) -> None:
    alone = private.reference_counts((torch.ones(2),))
    kept = torch.ones(2)
    also_a_view = kept.view(1, 2)
    assert len(alone) == 3
    assert len(private.reference_counts((also_a_view,))) == 5
    counts = private.reference_counts((kept,))
    assert counts[0] > alone[0]  # Python's
    assert counts[2] > alone[2]  # the storage's


def asks_for_hooks(private: Any) -> None:
    embedding = nn.Embedding(3, 2)
    assert not private.may_change_inputs(embedding)
    assert not private.is_hooked(embedding)
    embedding.register_forward_pre_hook(lambda module, args: None)
    assert private.may_change_inputs(embedding)
    assert private.is_hooked(embedding)


def finds_what_was_compiled(private: Any) -> None:
    module = nn.Linear(1, 1)
    assert private.uncompiled(module) is module
    assert private.uncompiled(torch.compile(module)) is module


def finds_compiled_parts(private: Any) -> None:
    plain, within = nn.Sequential(nn.Linear(1, 1)), nn.Sequential(nn.Linear(1, 1))
    within[0].compile()
    assert not private.has_compiled_parts(plain)
    assert private.has_compiled_parts(within)
    assert private.has_compiled_parts(torch.compile(plain))


def register_nowhere(self: nn.Module, hook: Any, **kwargs: Any) -> None:
    """A way of adding hooks that keeps them in another place."""


def notices_a_hook(private: Any) -> None:
    outer, inner = nn.Identity(), nn.Linear(1, 1)
    assert not private.is_watched(outer, inner)
    for module, register in ((inner, "register_forward_hook"), (outer, "register_forward_hook")):
        handle = getattr(module, register)(lambda *args: None)
        assert private.is_watched(outer, inner)
        handle.remove()


def notices_a_backward_hook(private: Any) -> None:
    inner = nn.Linear(1, 1)
    inner.register_full_backward_hook(lambda *args: None)
    assert private.is_watched(nn.Identity(), inner)


def notices_hooks_on_all_modules(private: Any) -> None:
    everywhere = nn.modules.module
    for register in (everywhere.register_module_forward_hook, everywhere.register_module_full_backward_hook):
        handle = register(lambda *args: None)
        assert private.is_watched(nn.Identity(), nn.Identity())
        handle.remove()


def notices_another_hook(private: Any) -> None:
    module = nn.Linear(1, 1)
    module.register_forward_hook(lambda *args: None)
    assert not private.is_watched_by_others(module)
    module.register_forward_hook(lambda *args: None)
    assert private.is_watched_by_others(module)


def copies_a_module(private: Any) -> None:
    module = nn.Sequential(nn.Linear(1, 1))
    copied = private.shallow_copy(module)
    copied[0] = nn.Identity()
    assert isinstance(module[0], nn.Linear)
    linear = private.shallow_copy(module[0])
    assert vars(linear)["_parameters"]["weight"] is module[0].weight
    linear.weight = nn.Parameter(torch.ones(1, 1))
    assert linear.weight is not module[0].weight


def knows_the_projection_of_attention(private: Any) -> None:
    assert private.is_called_by_its_weight(nn.MultiheadAttention(2, 1).out_proj)
    assert not private.is_called_by_its_weight(nn.Linear(1, 1))


def is_registered(private: Any) -> None:
    assert PeftType("PROPULSION") is PeftType.PROPULSION
    assert PeftType.PROPULSION in list(PeftType)
    assert f"{PeftType.PROPULSION.value}" == "PROPULSION"
    assert "PROPULSION" in PeftType.__members__


def has_all_hooks(private: Any) -> None:
    private.check_hooks()


def sees_configurations_being_read(private: Any) -> None:
    before, seen = vars(PeftConfigMixin)["from_pretrained"], []
    with TemporaryDirectory() as folder:
        LoraConfig(r=3).save_pretrained(folder)
        try:
            private.check_when_read(lambda *given: seen.append(given))
            read = PeftConfig.from_pretrained(folder)
        finally:
            PeftConfigMixin.from_pretrained = before
    assert read.r == 3
    assert [(config.r, where) for config, where, _ in seen] == [(3, folder)]


def passes_placeholders(private: Any) -> None:
    assert private.is_placeholder(private.DUMMY_TARGET_MODULES)
    get_peft_model(nn.Sequential(nn.Linear(1, 1)), LoraConfig(target_modules=private.DUMMY_TARGET_MODULES))


def names_linear_layers(private: Any) -> None:
    config = LoraConfig(target_modules="all-linear")
    private.name_all_linear(config, nn.Sequential(nn.Linear(1, 1), nn.Identity()))
    assert config.target_modules == {"0"}


def matches_patterns(private: Any) -> None:
    assert private.of_pattern({"query": 1, "k.*": 2}, "layer.0.key", 3) == 2
    assert private.of_pattern({"query": 1}, "layer.0.key", 3) == 3
    assert private.matches_pattern("query", "layer.0.query")
    assert not private.matches_pattern("query", "layer.0.key")


def knows_quantized_layers(private: Any) -> None:
    assert private.quantization_of(nn.Linear(1, 1)) is None
    assert not private.is_four_bit(None)


def knows_torchao(private: Any) -> None:
    assert issubclass(private.TorchaoBackend, private.QuantizationBackend)
    assert private.TorchaoBackend.supports_merge


def knows_four_bits(private: Any) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    four = private.quantization_of(bitsandbytes.nn.Linear4bit(2, 2))
    eight = private.quantization_of(bitsandbytes.nn.Linear8bitLt(2, 2))
    assert private.is_four_bit(four)
    assert not private.is_four_bit(eight)
    assert eight.supports_merge
    assert eight.backend_name
    assert eight.layer_type == "linear"


def small_lora() -> PeftModel:
    return get_peft_model(nn.Sequential(nn.Linear(2, 2)), LoraConfig(target_modules=["0"]))


def tells_device_and_dtype(private: Any) -> None:
    layer = next(module for module in small_lora().modules() if isinstance(module, BaseTunerLayer))
    assert private.device_and_dtype(layer) == (torch.device("cpu"), torch.float32)


def hides_the_warning_of_merged_adapters(private: Any) -> None:
    model = small_lora()
    model.merge_adapter()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        model.merge_adapter()
        before = len(shown)
        with private.merged_without_warning():
            model.merge_adapter()
    assert before == len(shown) == 1


def reads_the_state_of_a_layer(private: Any) -> None:
    model = small_lora()
    layer = next(module for module in model.modules() if isinstance(module, BaseTunerLayer))
    assert private.state_of_layer(layer) == (["default"], False, [])
    model.base_model.disable_adapter_layers()
    assert private.state_of_layer(layer)[1]


def finds_the_base_model(private: Any) -> None:
    names = [private.name_in_base(name) for name, _ in small_lora().named_modules()]
    assert "0.base_layer" in names


def sees_a_trace(private: Any) -> None:
    seen = []

    def program(x: torch.Tensor) -> torch.Tensor:
        seen.append(private.is_recorded())
        return x * 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(program, torch.ones(1), check_trace=False)
    assert seen == [True]
    assert not private.is_recorded()


def names_what_is_saved(private: Any) -> None:
    config = LoraConfig(target_modules=["0"], modules_to_save=["1"])
    model = get_peft_model(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), config)
    names = {private.name_when_saved(name) for name, _ in model.named_parameters() if ".1." in name}
    assert names == {key for key in peft.get_peft_model_state_dict(model) if ".1." in key} != set()


def knows_who_repeats_rows(private: Any) -> None:
    for name in ("deberta", "deberta-v3"):
        assert any(private.repeats_rows(module) for module in tiny_model(name, "base").modules())
    assert not any(private.repeats_rows(module) for module in tiny_model("roberta", "base").modules())


def knows_who_multiplies_in_order(private: Any) -> None:
    for name in ("gpt2", "whisper"):
        assert private.multiplies_in_order(tiny_model(name, "lm"))
    guided = MusicgenForConditionalGeneration.__new__(MusicgenForConditionalGeneration)
    assert not private.multiplies_in_order(guided)


def knows_rms_norms(private: Any) -> None:
    assert any(private.is_rms_norm(module) for module in tiny_model("llama", "base").modules())
    assert not private.is_rms_norm(nn.LayerNorm(1))


def knows_its_own_code(private: Any) -> None:
    assert private.is_own_code(tiny_model("bert", "base").encoder)
    assert not private.is_own_code(nn.Linear(1, 1))


def knows_who_calls(private: Any) -> None:
    model, answers, own = tiny_model("llama", "base"), [], modeling_llama.apply_rotary_pos_emb
    hook = FunctionType(  # as one of ours
        (lambda *args: answers.append(private.is_called_by_own_code())).__code__,
        {"__name__": "propulsion.layers"},
        closure=(CellType(answers), CellType(private)),
    )
    model.layers[0].self_attn.q_proj.register_forward_hook(hook)
    model(**tiny_inputs("llama", "base"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda *args: own(*args))
        model(**tiny_inputs("llama", "base"))
    model.layers[0].self_attn.q_proj(torch.ones(1, 32))
    assert answers == [True, False, False]


def knows_how_experts_multiply(private: Any) -> None:
    model = tiny_model("mixtral", "base")
    model.set_experts_implementation("batched_mm")
    assert private.experts_implementation(model.layers[0].mlp.experts) == "batched_mm"
    assert private.experts_implementation(nn.Linear(1, 1)) is None


def knows_spread_experts(private: Any) -> None:
    experts = tiny_model("mixtral", "base").layers[0].mlp.experts
    assert not private.is_expert_parallel(experts)
    for name in [name for name in vars(experts) if "expert_parallel" in name]:
        setattr(experts, name, True)
        assert private.is_expert_parallel(experts)
        setattr(experts, name, False)


def with_another_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    made = modeling_mixtral.MixtralExperts.__init__

    def init(self: Any, config: Any) -> None:
        made(self, config)
        self.expert_parallel = False

    monkeypatch.setattr(modeling_mixtral.MixtralExperts, "__init__", init)


def renamed(module: Any, name: str) -> Any:
    return without(module, name, type("Other", (getattr(module, name),), {}))


CANARIES = [
    Canary("torch._C._is_tracing", TORCH, sees_a_trace, without(torch._C, "_is_tracing", lambda: False)),
    Canary("torch._C._are_functorch_transforms_active", TORCH, asks_for_torch_func,
           without(torch._C, "_are_functorch_transforms_active")),
    # The name itself is left alone: without it torch enters a level that nobody leaves, and later tests fail.
    Canary("forward_ad._current_level", TORCH, asks_for_forward_mode, without(forward_ad, "dual_level", nullcontext)),
    Canary("torch._C._has_storage", TORCH, asks_for_storage, without(torch._C, "_has_storage")),
    Canary("_disable_current_modes", TORCH, leaves_modes,
           without(torch.utils._python_dispatch, "_disable_current_modes")),
    Canary("native_batch_norm", TORCH, multiplies_by_normalising, without(torch, "native_batch_norm")),
    Canary("aten.native_batch_norm_backward", TORCH, sums_by_batch_norm,
           without(torch.ops.aten, "native_batch_norm_backward")),
    Canary("aten.native_layer_norm_backward", TORCH, sums_by_layer_norm,
           without(torch.ops.aten, "native_layer_norm_backward")),
    Canary("torch._foreach_add", TORCH, takes_many_powers, without(torch, "_foreach_add")),
    Canary("torch._foreach_pow", TORCH, takes_many_powers, without(torch, "_foreach_pow")),
    Canary("Tensor._version", TORCH, counts_changes, without(torch.Tensor, "_version")),
    Canary("module._global_forward_pre_hooks", TORCH, knows_bare_modules,
           without(nn.modules.module, "_global_forward_pre_hooks", {})),
    Canary("Module._modules", TORCH, finds_submodules,
           without(nn.Module, "add_module", lambda self, name, module: setattr(self, "_other", {name: module}))),
    Canary("torch._C._storage_Use_Count", TORCH, counts_references, without(torch._C, "_storage_Use_Count")),
    Canary("Tensor._use_count", TORCH, counts_references, without(torch.Tensor, "_use_count")),
    Canary("Tensor._is_view", TORCH, counts_references, without(torch.Tensor, "_is_view")),
    Canary("Tensor._base", TORCH, counts_references, without(torch.Tensor, "_base")),
    Canary("UntypedStorage._cdata", TORCH, counts_references, without(torch.UntypedStorage, "_cdata")),
    Canary("Module._forward_pre_hooks", TORCH, asks_for_hooks,
           without(nn.Module, "register_forward_pre_hook", register_nowhere)),
    Canary("OptimizedModule._orig_mod", TORCH, finds_what_was_compiled,
           without(torch, "compile", lambda module: nn.Sequential(module))),
    Canary("Module._compiled_call_impl", TORCH, finds_compiled_parts,
           without(nn.Module, "compile", lambda self: setattr(self, "_compiled", torch.compile(self.forward)))),
    Canary("Module._forward_hooks", TORCH, notices_a_hook,
           without(nn.Module, "register_forward_hook", register_nowhere)),
    Canary("Module._forward_hooks, of others", TORCH, notices_another_hook,
           without(nn.Module, "register_forward_hook", register_nowhere)),
    Canary("Module._backward_hooks", TORCH, notices_a_backward_hook,
           without(nn.Module, "register_full_backward_hook", register_nowhere)),
    Canary("module._global_forward_hooks", TORCH, notices_hooks_on_all_modules,
           without(nn.modules.module, "_global_forward_hooks", {})),
    Canary("module._global_backward_hooks", TORCH, notices_hooks_on_all_modules,
           without(nn.modules.module, "_global_backward_hooks", {})),
    Canary("Module._parameters", TORCH, copies_a_module, without(nn.Module, "register_parameter", object.__setattr__)),
    Canary("NonDynamicallyQuantizableLinear", TORCH, knows_the_projection_of_attention,
           without(torch.nn.modules.activation, "NonDynamicallyQuantizableLinear", nn.Linear)),
    Canary("PeftType", PEFT, is_registered,
           lambda monkeypatch: monkeypatch.delitem(PeftType._value2member_map_, "PROPULSION")),
    *(
        Canary(f"{owner.__name__}.{name}", PEFT, has_all_hooks,
               lambda monkeypatch, owner=owner, name=name: monkeypatch.delattr(owner, name))
        for owner, names in peft_private.HOOKS.items()
        for name in names
    ),
    Canary("PeftConfigMixin.from_pretrained", PEFT, sees_configurations_being_read,
           without(PeftConfig, "from_pretrained", classmethod(lambda cls, folder: LoraConfig(r=3)))),
    Canary("DUMMY_TARGET_MODULES", PEFT, passes_placeholders, without(tuners_utils, "DUMMY_TARGET_MODULES", "other")),
    Canary("_maybe_include_all_linear_layers", PEFT, names_linear_layers,
           without(tuners_utils, "_maybe_include_all_linear_layers")),
    Canary("get_pattern_key", PEFT, matches_patterns, without(peft.utils.other, "get_pattern_key")),
    Canary("resolve_quantization_backend", PEFT, knows_quantized_layers,
           without(peft.utils.quantization_utils, "resolve_quantization_backend")),
    Canary("Bnb4bitBackend", PEFT, knows_four_bits,
           without(peft.utils.quantization_utils, "resolve_quantization_backend",
                   lambda layer, **kwargs: peft.utils.quantization_utils.Bnb8bitBackend())),
    Canary("TorchaoBackend", PEFT, knows_torchao, without(peft.utils.quantization_utils, "TorchaoBackend")),
    Canary("BaseTunerLayer._get_base_layer_device_and_dtype", PEFT, tells_device_and_dtype,
           without(BaseTunerLayer, "_get_base_layer_device_and_dtype")),
    Canary("the warning of merged adapters", PEFT, hides_the_warning_of_merged_adapters,
           without(tuners_utils.warnings, "warn", lambda *args, **kwargs: None)),
    Canary("BaseTunerLayer._active_adapter", PEFT, reads_the_state_of_a_layer,
           without(BaseTunerLayer, "set_adapter", lambda self, *args, **kwargs: None)),
    Canary("BaseTunerLayer._disable_adapters", PEFT, reads_the_state_of_a_layer,
           without(BaseTunerLayer, "enable_adapters", lambda self, enabled: None)),
    Canary("base_model.model", PEFT, finds_the_base_model,
           without(nn.Module, "named_modules", lambda self: [("tuner.base.0.base_layer", self)])),
    Canary("ModulesToSaveWrapper's names", PEFT, names_what_is_saved,
           without(nn.Module, "named_parameters", lambda self: [("base.1.elsewhere.default.weight", self)])),
    Canary("DeBERTa-v2's DisentangledSelfAttention", TRANSFORMERS, knows_who_repeats_rows,
           renamed(modeling_deberta_v2, "DisentangledSelfAttention")),
    Canary("DeBERTa's DisentangledSelfAttention", TRANSFORMERS, knows_who_repeats_rows,
           renamed(modeling_deberta, "DisentangledSelfAttention")),
    Canary("GenerationMixin.generate", TRANSFORMERS, knows_who_multiplies_in_order,
           without(GenerationMixin, "generate", lambda self: None)),
    Canary("WhisperGenerationMixin.generate", TRANSFORMERS, knows_who_multiplies_in_order,
           without(WhisperGenerationMixin, "generate", lambda self: None)),
    Canary("LlamaRMSNorm", TRANSFORMERS, knows_rms_norms, renamed(modeling_llama, "LlamaRMSNorm")),
    Canary("transformers.models", TRANSFORMERS, knows_its_own_code,
           without(modeling_bert.BertEncoder, "__module__", "transformers.elsewhere")),
    Canary("apply_rotary_pos_emb", TRANSFORMERS, knows_who_calls,
           without(modeling_llama, "apply_rotary_pos_emb", lambda *args: args[:2])),
    Canary("config._experts_implementation", TRANSFORMERS, knows_how_experts_multiply,
           without(PreTrainedModel, "set_experts_implementation", lambda self, name: None)),
    Canary("experts._is_expert_parallel", TRANSFORMERS, knows_spread_experts, with_another_flag),
]  # fmt: skip


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.what)
def test_upstream_is_what_we_take_it_for(canary: Canary) -> None:
    assert_alive(canary)


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.what)
def test_each_canary_notices(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_mortal(canary, monkeypatch)


def test_every_hook_that_we_override_is_listed() -> None:
    ours = {
        PropulsionModel: (BaseTuner, PeftModel),
        PropulsionLayer: (BaseTunerLayer,),
        MergeableLayer: (BaseTunerLayer,),
        ExpertWeight: (BaseTunerLayer,),
        SteeredExperts: (BaseTunerLayer,),
    }
    listed = {name for names in peft_private.HOOKS.values() for name in names}
    overridden = {
        name
        for kind, owners in ours.items()
        for name in vars(kind)
        if name.startswith("_") and not name.startswith("__") and any(name in vars(owner) for owner in owners)
    }
    assert overridden - {"_abc_impl"} == listed


@pytest.mark.parametrize("name", peft_private.HOOKS[BaseTuner])
def test_hooks_take_what_peft_gives_them(name: str) -> None:
    theirs, own = (inspect.signature(getattr(kind, name)).parameters for kind in (BaseTuner, PropulsionModel))
    named = [parameter for parameter in own.values() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    takes_rest = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in own.values())
    given = [parameter.name for parameter in theirs.values() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    assert takes_rest or len(named) >= len(given), f"PEFT {peft.__version__} gives {name} {given}: look at tuner.py."


def test_transformers_takes_this_peft() -> None:
    assert Version(MIN_PEFT_VERSION) <= Version(peft.__version__), (
        f"transformers {transformers.__version__} wants PEFT {MIN_PEFT_VERSION} in its add_adapter, and this is "
        f"{peft.__version__}: lower the bound of transformers in pyproject.toml, or raise that of peft."
    )
