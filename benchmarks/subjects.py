"""What the benchmarks measure: models with random weights, and every method that tunes them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import peft
import torch
import transformers
from torch import Tensor, nn

from propulsion import PropulsionConfig
from propulsion.targets import resolve_preset

DEGREE = 15
FLASH = {"attention_probs_dropout_prob": 0.0}  # with dropout of the attention there is no flash attention on the CPU
LLAMA = {"vocab_size": 32000, "use_cache": False, "pad_token_id": 0}
LLAMA_3 = LLAMA | {
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Subject:
    """A model's architecture.

    Attributes:
        model_type: As in transformers' configurations.
        config: The fields that differ from its defaults.
        causal: Whether it is trained on every next token instead of one label for the text.
    """

    model_type: str
    config: dict[str, Any]
    causal: bool = False


SUBJECTS = {
    "minilm": Subject(
        "bert",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536} | FLASH,
    ),
    "roberta-base": Subject("roberta", {"vocab_size": 50265, "max_position_embeddings": 514} | FLASH),
    "roberta-large": Subject(
        "roberta",
        {"vocab_size": 50265, "max_position_embeddings": 514, "hidden_size": 1024, "num_hidden_layers": 24}
        | {"num_attention_heads": 16, "intermediate_size": 4096, **FLASH},
    ),
    "llama-110m": Subject(
        "llama",
        LLAMA | {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 2048},
        causal=True,
    ),
    "llama-1b": Subject(
        "llama", LLAMA_3 | {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32}, causal=True
    ),
    "llama-3b": Subject(
        "llama", LLAMA_3 | {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24}, causal=True
    ),
}


def build(name: str, dtype: torch.dtype, device: str = "cpu") -> nn.Module:
    """A model with random weights, trained as a classifier of two labels or on the next token."""
    subject = SUBJECTS[name]
    config = transformers.AutoConfig.for_model(subject.model_type, **subject.config)
    auto_class = (
        transformers.AutoModelForCausalLM if subject.causal else transformers.AutoModelForSequenceClassification
    )
    torch.manual_seed(0)
    with torch.device(device):
        return auto_class.from_config(config, dtype=dtype).train()


def batch(name: str, rows: int, length: int, device: str = "cpu") -> dict[str, Tensor]:
    """Random tokens without padding, with labels."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 30000, (rows, length), generator=generator).to(device)
    labels = tokens if SUBJECTS[name].causal else torch.randint(2, (rows,), generator=generator).to(device)
    return {"input_ids": tokens, "labels": labels}


def share_weights(model: nn.Module) -> nn.Module:
    """A copy whose parameters are frozen and lie in the memory of the model's own."""
    memo = {id(p): nn.Parameter(p.data, requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, memo)


# Methods. Each takes a frozen model and gives it back with exactly those parameters trainable that the method trains.

Method = Callable[[nn.Module], nn.Module]


def floor(model: nn.Module) -> nn.Module:
    """Nothing is trained; the gradient flows through the activations from the loss down to the embeddings' output."""
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: output.requires_grad_())
    return model


def full(model: nn.Module) -> nn.Module:
    return _own_weights(model, lambda name, module: True)


def bitfit(model: nn.Module) -> nn.Module:
    return _own_weights(model, lambda name, module: name.endswith("bias"))


def layer_norm(model: nn.Module) -> nn.Module:
    return _own_weights(model, lambda name, module: "Norm" in type(module).__name__)


def tuned(config: Callable[[nn.Module], peft.PeftConfig]) -> Method:
    """A method of PEFT; heads stay frozen, as under the floor."""

    def build(model: nn.Module) -> nn.Module:
        wrapped = peft.get_peft_model(model, config(model))
        for name, parameter in wrapped.named_parameters():
            if "modules_to_save" in name:
                parameter.requires_grad_(False)
        return wrapped

    return build


def naive(
    model: nn.Module,
    multiply: Callable[[Tensor, Tensor], Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The formula as it is written, y * torch.pow(z, k), on what the preset `all` steers.

    Args:
        model: Whose layers are replaced.
        multiply: The formula, of y and z.
        dtype: Of z; that of the layer's weight if not given, in which z moves in steps of 2^-7 under bfloat16.
    """
    for name in resolve_preset(model, "all"):
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, _Naive(model.get_submodule(name), multiply or _multiply, dtype))
    return model


def naive_in_full(model: nn.Module) -> nn.Module:
    """The same with vectors that can be trained beside bfloat16: z in float32, the product rounded once."""
    return naive(model, _multiply_in_full, torch.float32)


def naive_compiled(model: nn.Module) -> nn.Module:
    """The same with that one line compiled."""
    return naive(model, torch.compile(_multiply, dynamic=False))


class _Naive(nn.Module):
    def __init__(
        self, base_layer: nn.Module, multiply: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        self.base_layer, self.multiply = base_layer, multiply
        size = base_layer.embedding_dim if isinstance(base_layer, nn.Embedding) else base_layer.out_features
        weight = base_layer.weight
        self.z = nn.Parameter(torch.ones(size, dtype=dtype or weight.dtype, device=weight.device))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        return self.multiply(self.base_layer(x, *args), self.z)


def _multiply(y: Tensor, z: Tensor) -> Tensor:
    return y * torch.pow(z, DEGREE)


def _multiply_in_full(y: Tensor, z: Tensor) -> Tensor:
    return _multiply(y, z).to(y.dtype)


def _own_weights(model: nn.Module, trains: Callable[[str, nn.Module], bool]) -> nn.Module:
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if trains(name, module):
                parameter.data = parameter.data.clone()
                parameter.requires_grad_()
    return model


def linears(model: nn.Module) -> list[str]:
    """What the preset `all` steers, without the embeddings."""
    return [name for name in resolve_preset(model, "all") if not isinstance(model.get_submodule(name), nn.Embedding)]


def queries_and_values(model: nn.Module) -> list[str]:
    return ["query", "value"] if model.config.model_type in ("bert", "roberta") else ["q_proj", "v_proj"]


def attention(model: nn.Module) -> list[str]:
    return resolve_preset(model, "attn")


def task_type(model: nn.Module) -> str:
    return "CAUSAL_LM" if "CausalLM" in type(model).__name__ else "SEQ_CLS"


def steered(targets: str) -> Method:
    return tuned(lambda model: PropulsionConfig(target_modules=targets, degree=DEGREE))


METHODS: dict[str, Method] = {
    "floor": floor,
    "full": full,
    "bitfit": bitfit,
    "layernorm": layer_norm,
    "lora-qv": tuned(lambda model: peft.LoraConfig(r=8, target_modules=queries_and_values(model))),
    "lora-all": tuned(lambda model: peft.LoraConfig(r=8, target_modules=linears(model))),
    "ia3-default": tuned(lambda model: peft.IA3Config()),
    "ia3-attn": tuned(lambda model: peft.IA3Config(target_modules=attention(model), feedforward_modules=[])),
    "ia3-all": tuned(lambda model: peft.IA3Config(target_modules=linears(model), feedforward_modules=[])),
    "loha": tuned(lambda model: peft.LoHaConfig(r=8, target_modules=queries_and_values(model))),
    "lokr": tuned(lambda model: peft.LoKrConfig(r=8, target_modules=queries_and_values(model))),
    "adalora": tuned(
        lambda model: peft.AdaLoraConfig(init_r=12, total_step=10000, target_modules=queries_and_values(model))
    ),
    "vera": tuned(lambda model: peft.VeraConfig(target_modules=queries_and_values(model))),
    "prefix": tuned(lambda model: peft.PrefixTuningConfig(num_virtual_tokens=20, task_type=task_type(model))),
    "prompt": tuned(lambda model: peft.PromptTuningConfig(num_virtual_tokens=20, task_type=task_type(model))),
    "naive-eager": naive,
    "naive-in-full": naive_in_full,
    "naive-compiled": naive_compiled,
    "propulsion-attn": steered("attn"),
    "propulsion-all": steered("all"),
}


@dataclass
class Trainee:
    """A tuned model with its optimizer and one batch."""

    model: nn.Module
    inputs: dict[str, Tensor]
    learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.parameters = sum(parameter.numel() for parameter in trained)
        self.optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, fused=True) if trained else None
        tuner = getattr(self.model, "base_model", None)
        self.allocate = partial(tuner.update_and_allocate, 1) if hasattr(tuner, "update_and_allocate") else None

    def loss(self) -> Tensor:
        loss: Tensor = self.model(**self.inputs).loss
        return loss

    def step(self) -> None:
        """One step of training, with all that belongs to it."""
        self.loss().backward()
        if self.optimizer is not None:
            self.optimizer.step()
            if self.allocate is not None:
                self.allocate()
            self.optimizer.zero_grad()
