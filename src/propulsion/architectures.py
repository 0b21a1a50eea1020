"""Where each supported architecture keeps the layers that can be steered: a table, with one entry per layout.

The names were read off the forward code of transformers' models, not off their weights. Left out, because the forward
of such a module never runs or it is not a layer: T5's and BART's `shared` (it only owns the matrix), DeBERTa's
`rel_embeddings` and T5's `relative_attention_bias` (tables of the attention, not of the input), ViT's class token and
positions (bare parameters). Left out too, because they choose and compute nothing: the routers of mixtures of experts.
Left out too, because they are neither an embedding nor in a block: the linears between embedding and first block
(ELECTRA's `embeddings_project`, DeBERTa's `embed_proj`, OPT's `project_in`), DeBERTa-v2's `conv` and Whisper's two
convolutions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType

# Towers for images and sound beside a language model: their blocks can look like the language model's.
OTHER_TOWER = re.compile(r"(?:^|\.)(?:vision|visual|image|audio)[^.]*\.")


@dataclass(frozen=True)
class Architecture:
    """Where one layout keeps its layers.

    Every entry is the end of a module's name, in which `*` stands for any characters but a dot. All but `embedding`
    and `not_in_place` follow a `block`.

    Attributes:
        block: One block of the stack, `layers.*` for example.
        query: Query projections, of self- and cross-attention, unless fused.
        key: Key projections.
        value: Value projections.
        fused: The layers that compute queries, keys and values together.
        attention_output: The projection after the attention.
        mlp: Every linear of the feed-forward part.
        experts: Modules with stacked experts (`propulsion.experts`), which are in the presets `mlp` and `all` as well.
        other: Every further linear of a block.
        embedding: The layers that turn the input into vectors.
        not_in_place: Layers of all these whose output must not be overwritten: the model's code changes it in place
            later, or it may be a view of the weight.
    """

    block: str
    embedding: tuple[str, ...]
    mlp: tuple[str, ...]
    attention_output: tuple[str, ...]
    query: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    value: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    not_in_place: tuple[str, ...] = ()

    def matches(self, name: str, preset: str) -> bool:
        """Whether a module of this full name belongs to a preset's layers, to `experts` or to `not_in_place`."""
        return not OTHER_TOWER.search(name) and _pattern(self, preset).fullmatch(name) is not None

    def endings(self, preset: str) -> tuple[str, ...]:
        """The ends of the names of a preset's layers, of `experts` or of `not_in_place`; none if there are none."""
        if preset in ("embedding", "not_in_place"):
            return self.embedding if preset == "embedding" else self.not_in_place
        attention = (*self.query, *self.key, *self.value, *self.fused)
        blocks = {
            "attn": attention,
            "mlp": self.mlp,
            "experts": self.experts,
            "query": self.query,
            "key": self.key,
            "value": self.value,
            "all": (*attention, *self.attention_output, *self.mlp, *self.other),
        }
        inside = tuple(f"{self.block}.{ending}" for ending in blocks[preset])
        return (*self.embedding, *inside) if preset == "all" else inside


@cache
def _pattern(architecture: Architecture, preset: str) -> re.Pattern[str]:
    return re.compile(rf"(?:.+\.)?{any_of(architecture.endings(preset))}")


def any_of(endings: Iterable[str]) -> str:
    """A regular expression for any of some entries of the table; for nothing if there are none.

    Args:
        endings: Ends of modules' names, in which `*` stands for any characters but a dot.
    """
    alternatives = [re.escape(ending).replace(r"\*", "[^.]*") for ending in endings]
    nothing = "(?!)"
    return f"(?:{'|'.join(alternatives) or nothing})"


BERT = Architecture(
    block="layer.*",
    embedding=("embeddings.*_embeddings",),
    query=("*attention.self.query",),
    key=("*attention.self.key",),
    value=("*attention.self.value",),
    attention_output=("*attention.output.dense",),
    mlp=("intermediate.dense", "output.dense"),
)
DEBERTA_V2 = replace(
    BERT,
    query=("attention.self.query_proj",),
    key=("attention.self.key_proj",),
    value=("attention.self.value_proj",),
    other=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
)
DEBERTA = replace(
    BERT,
    query=(),
    key=(),
    value=(),
    fused=("attention.self.in_proj",),
    other=("attention.self.pos_proj", "attention.self.pos_q_proj", "attention.self.head_*_proj"),
    not_in_place=("self.pos_q_proj",),  # pos_query_layer /= ...
)
DISTILBERT = Architecture(
    block="layer.*",
    embedding=("embeddings.*_embeddings",),
    query=("attention.q_lin",),
    key=("attention.k_lin",),
    value=("attention.v_lin",),
    attention_output=("attention.out_lin",),
    mlp=("ffn.lin1", "ffn.lin2"),
)
BART = Architecture(
    block="layers.*",
    embedding=("embed_tokens", "embed_positions"),
    query=("*_attn.q_proj",),
    key=("*_attn.k_proj",),
    value=("*_attn.v_proj",),
    attention_output=("*_attn.out_proj",),
    mlp=("fc1", "fc2"),
)
WHISPER = replace(BART, not_in_place=("embed_positions",))  # the decoder's returns a slice of its weight
T5 = Architecture(
    block="block.*.layer.*",
    embedding=("embed_tokens",),
    query=("*Attention.q",),
    key=("*Attention.k",),
    value=("*Attention.v",),
    attention_output=("*Attention.o",),
    mlp=("DenseReluDense.wi*", "DenseReluDense.wo"),
)
GPT2 = Architecture(
    block="h.*",
    embedding=("wte", "wpe"),
    fused=("attn.c_attn", "crossattention.c_attn", "crossattention.q_attn"),
    attention_output=("attn.c_proj", "crossattention.c_proj"),
    mlp=("mlp.c_fc", "mlp.c_proj"),
)
LLAMA = Architecture(
    block="layers.*",
    embedding=("embed_tokens",),
    query=("self_attn.q_proj",),
    key=("self_attn.k_proj",),
    value=("self_attn.v_proj",),
    attention_output=("self_attn.o_proj",),
    mlp=("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
GPTJ = replace(
    LLAMA,
    block="h.*",
    embedding=("wte",),
    query=("attn.q_proj",),
    key=("attn.k_proj",),
    value=("attn.v_proj",),
    attention_output=("attn.out_proj",),
    mlp=("mlp.fc_in", "mlp.fc_out"),
)
MIXTRAL = replace(LLAMA, mlp=(), experts=("mlp.experts",))
OLMOE = replace(MIXTRAL, not_in_place=("self_attn.v_proj",))  # value_states.clamp_
QWEN3_MOE = replace(LLAMA, experts=("mlp.experts",))  # some blocks have no experts
QWEN2_MOE = replace(
    QWEN3_MOE,
    mlp=(*LLAMA.mlp, *(entry.replace("mlp.", "mlp.shared_expert.") for entry in LLAMA.mlp)),
    other=("mlp.shared_expert_gate",),
)
DEEPSEEK_V3 = replace(
    QWEN3_MOE,
    query=("self_attn.q_proj", "self_attn.q_b_proj"),
    key=(),
    value=(),
    fused=("self_attn.kv_b_proj", "self_attn.kv_a_proj_with_mqa"),  # the latter gives the rotated part of the keys
    mlp=(*LLAMA.mlp, *(entry.replace("mlp.", "mlp.shared_experts.") for entry in LLAMA.mlp)),
    other=("self_attn.q_a_proj",),
)
PHI = replace(LLAMA, attention_output=("self_attn.dense",), mlp=("mlp.fc1", "mlp.fc2"))
PHI3 = replace(
    LLAMA, query=(), key=(), value=(), fused=("self_attn.qkv_proj",), mlp=("mlp.gate_up_proj", "mlp.down_proj")
)
BLOOM = Architecture(
    block="h.*",
    embedding=("word_embeddings",),
    fused=("self_attention.query_key_value",),
    attention_output=("self_attention.dense",),
    mlp=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
)
FALCON = replace(BLOOM, not_in_place=("mlp.dense_4h_to_h",))  # mlp_output += attention_output
GPT_NEOX = replace(
    BLOOM,
    block="layers.*",
    embedding=("embed_in",),
    fused=("attention.query_key_value",),
    attention_output=("attention.dense",),
)
VIT = Architecture(
    block="layer*.*",
    embedding=("patch_embeddings.projection",),
    query=("attention.q_proj",),
    key=("attention.k_proj",),
    value=("attention.v_proj",),
    attention_output=("attention.o_proj",),
    mlp=("mlp.fc1", "mlp.fc2"),
)

# By `config.model_type`.
ARCHITECTURES = MappingProxyType(
    {
        **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), BERT),
        "deberta": DEBERTA,
        "deberta-v2": DEBERTA_V2,
        "distilbert": DISTILBERT,
        **dict.fromkeys(("bart", "mbart", "opt"), BART),
        "whisper": WHISPER,
        **dict.fromkeys(("t5", "mt5"), T5),
        "gpt2": GPT2,
        "gptj": GPTJ,
        "gpt_neox": GPT_NEOX,
        "bloom": BLOOM,
        "falcon": FALCON,
        **dict.fromkeys(("llama", "mistral", "gemma", "gemma2", "gemma3", "gemma3_text", "qwen2", "qwen3"), LLAMA),
        **dict.fromkeys(("mixtral", "gpt_oss"), MIXTRAL),
        "olmoe": OLMOE,
        "qwen2_moe": QWEN2_MOE,
        "qwen3_moe": QWEN3_MOE,
        "deepseek_v3": DEEPSEEK_V3,
        "phi": PHI,
        "phi3": PHI3,
        "vit": VIT,
    }
)
