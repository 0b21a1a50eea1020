"""Tiny models of every supported architecture, with random weights, and batches that they take.

`tiny_model("roberta", "cls")` is a RoBERTa of two layers of width 32, `tiny_inputs("roberta", "cls")` a batch for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn

VOCABULARY, WIDTH, LABELS = 96, 32, 3
PAD, BOS, EOS = 1, 0, 2
TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
SEQ2SEQ_TOKENS = {**TOKENS, "decoder_start_token_id": EOS}


@dataclass(frozen=True)
class Tiny:
    """What it takes to build one architecture.

    Attributes:
        model_type: As in `config.model_type`.
        config: The configuration's fields.
        heads: The automatic class for each kind of head.
        modality: What it reads: text, text into text, images, or sound into text.
    """

    model_type: str
    config: dict[str, Any]
    heads: dict[str, str] = field(default_factory=dict)
    modality: str = "text"


BASE = {"base": "AutoModel"}
CLASSIFIER = {**BASE, "cls": "AutoModelForSequenceClassification"}
ENCODER = {**CLASSIFIER, "lm": "AutoModelForMaskedLM"}
GENERATOR = {**BASE, "lm": "AutoModelForCausalLM"}
DECODER = {**CLASSIFIER, **GENERATOR}
SEQ2SEQ = {**CLASSIFIER, "lm": "AutoModelForSeq2SeqLM"}
BERT = {
    **TOKENS,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DEBERTA = {
    **BERT,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "max_relative_positions": 16,
    "pooler_hidden_size": WIDTH,
    "pooler_dropout": 0.0,
}
BART = {
    **SEQ2SEQ_TOKENS,
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 40,
    "dropout": 0.0,
}
T5 = {
    **SEQ2SEQ_TOKENS,
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "tie_word_embeddings": True,
}
GPT = {**TOKENS, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 40}
GPT |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
NEOX = {
    **TOKENS,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
LLAMA = {**NEOX, "num_key_value_heads": 2, "head_dim": 8}
BLOOM = {**TOKENS, "hidden_size": WIDTH, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0}
FALCON = {
    **TOKENS,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
}
MOE = {**LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MOE |= {"experts_implementation": "eager"}
DEEPSEEK = {
    **{key: value for key, value in MOE.items() if key not in ("num_experts", "head_dim")},
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
GEMMA2 = {**LLAMA, "query_pre_attn_scalar": 8, "sliding_window": 16}

SPECS: dict[str, Tiny] = {
    "roberta": Tiny("roberta", BERT, ENCODER),
    "xlm-roberta": Tiny("xlm-roberta", BERT, ENCODER),
    "camembert": Tiny("camembert", BERT, ENCODER),
    "bert": Tiny("bert", BERT, ENCODER),
    "bert-decoder": Tiny("bert", BERT | {"is_decoder": True, "add_cross_attention": True}, {"lm": DECODER["lm"]}),
    "deberta": Tiny("deberta", DEBERTA, ENCODER),
    "deberta-talking": Tiny("deberta", DEBERTA | {"talking_head": True}, ENCODER),
    "deberta-v2": Tiny("deberta-v2", DEBERTA | {"conv_kernel_size": 3}, ENCODER),
    "deberta-v3": Tiny(
        "deberta-v2",
        DEBERTA
        | {"share_att_key": True, "position_buckets": 8, "position_biased_input": False, "type_vocab_size": 0}
        | {"norm_rel_ebd": "layer_norm"},
        ENCODER,
    ),
    "distilbert": Tiny(
        "distilbert",
        TOKENS
        | {"dim": WIDTH, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40}
        | {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0},
        ENCODER,
    ),
    "electra": Tiny("electra", BERT | {"embedding_size": 16}, ENCODER),
    "bart": Tiny("bart", BART | {"scale_embedding": True}, SEQ2SEQ),
    "mbart": Tiny("mbart", BART, SEQ2SEQ),
    "bart-decoder": Tiny("bart", BART | {"add_cross_attention": True}, {"lm": DECODER["lm"]}),
    "t5": Tiny("t5", T5, SEQ2SEQ),
    "t5-gated": Tiny("t5", T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, SEQ2SEQ),
    "mt5": Tiny("mt5", T5 | {"feed_forward_proj": "gated-gelu"}, SEQ2SEQ),
    "gpt2": Tiny("gpt2", GPT, DECODER),
    "gptj": Tiny("gptj", GPT | {"rotary_dim": 4}, DECODER),
    "gpt_neox": Tiny("gpt_neox", NEOX | {"tie_word_embeddings": False}, DECODER),
    "gpt_neox-sequential": Tiny("gpt_neox", NEOX | {"use_parallel_residual": False}, DECODER),
    "opt": Tiny(
        "opt",
        NEOX | {"ffn_dim": 48, "dropout": 0.0, "word_embed_proj_dim": WIDTH},
        DECODER,
    ),
    "opt-projected": Tiny("opt", NEOX | {"ffn_dim": 48, "dropout": 0.0, "word_embed_proj_dim": 16}, DECODER),
    "bloom": Tiny("bloom", BLOOM, DECODER),
    "falcon": Tiny("falcon", FALCON, DECODER),
    "falcon-new": Tiny("falcon", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}, DECODER),
    "falcon-alibi": Tiny("falcon", FALCON | {"parallel_attn": False, "alibi": True, "bias": True}, DECODER),
    "llama": Tiny("llama", LLAMA, DECODER),
    "mistral": Tiny("mistral", LLAMA, DECODER),
    "mixtral": Tiny("mixtral", LLAMA | {"num_local_experts": 3, "experts_implementation": "eager"}, DECODER),
    "qwen2_moe": Tiny("qwen2_moe", MOE | {"shared_expert_intermediate_size": 24, "mlp_only_layers": [0]}, DECODER),
    "qwen3_moe": Tiny("qwen3_moe", MOE, DECODER),
    "deepseek_v3": Tiny("deepseek_v3", DEEPSEEK, DECODER),
    "olmoe": Tiny("olmoe", MOE | {"clip_qkv": 8.0}, GENERATOR),
    "gpt_oss": Tiny(
        "gpt_oss",
        MOE
        | {
            "num_local_experts": 4,
            "sliding_window": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        DECODER,
    ),
    "phi": Tiny("phi", NEOX | {"num_key_value_heads": 2}, DECODER),
    "phi3": Tiny("phi3", NEOX | {"num_key_value_heads": 2}, DECODER),
    "gemma": Tiny("gemma", LLAMA, DECODER),
    "gemma2": Tiny("gemma2", GEMMA2, DECODER),
    "gemma3_text": Tiny("gemma3_text", GEMMA2, DECODER),
    "qwen2": Tiny("qwen2", LLAMA, DECODER),
    "qwen3": Tiny("qwen3", LLAMA, DECODER),
    "vit": Tiny(
        "vit",
        {key: BERT[key] for key in BERT.keys() - TOKENS.keys() - {"max_position_embeddings", "type_vocab_size"}}
        | {"image_size": 8, "patch_size": 4},
        BASE | {"cls": "AutoModelForImageClassification"},
        "image",
    ),
    "whisper": Tiny(
        "whisper",
        {key: value for key, value in BART.items() if key != "max_position_embeddings"}
        | {"num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 40, "classifier_proj_size": 16}
        | {"begin_suppress_tokens": None, "suppress_tokens": None},
        BASE | {"cls": "AutoModelForAudioClassification", "lm": "AutoModelForSpeechSeq2Seq"},
        "sound",
    ),
}


def tiny_model(
    name: str, head: str = "cls", seed: int = 0, attn_implementation: str | None = None, **overrides: Any
) -> nn.Module:
    """A tiny model in eval mode, without dropout, the same for the same arguments.

    Args:
        name: A key of `SPECS`.
        head: "base", "cls" or "lm".
        seed: Of its weights.
        attn_implementation: "eager" or "sdpa"; None takes the default.
        overrides: Fields of the configuration.
    """
    spec = SPECS[name]
    config = transformers.AutoConfig.for_model(spec.model_type, **{"num_labels": LABELS, **spec.config, **overrides})
    auto_class = getattr(transformers, spec.heads[head])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kwargs = {"attn_implementation": attn_implementation} if attn_implementation else {}
        model: nn.Module = auto_class.from_config(config, **kwargs)
        _randomize(model)
    return model.eval()


@torch.no_grad()
def _randomize(model: nn.Module) -> None:
    """Weights that make every layer matter: matrices neither tiny nor huge, biases and norms off their rest."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.dim() > 1:
            parameter.normal_(std=0.15)
        else:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def tiny_inputs(name: str, head: str = "cls", batch: int = 3, length: int = 7, seed: int = 0) -> dict[str, Tensor]:
    """A batch for `tiny_model(name, head)`: rows of different lengths, padded on the right, with labels."""
    spec = SPECS[name]
    generator = torch.Generator().manual_seed(seed)
    inputs = _features(spec, generator, batch, length)
    if head == "cls":
        inputs["labels"] = torch.randint(LABELS, (batch,), generator=generator)
    elif head == "lm" and spec.modality == "sound":
        inputs["labels"] = _tokens(generator, batch, length)
    elif head == "lm":
        inputs["labels"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    elif "decoder_start_token_id" in spec.config:
        inputs["decoder_input_ids"] = _tokens(generator, batch, length)
    if spec.config.get("add_cross_attention"):
        inputs["encoder_hidden_states"] = torch.randn(batch, length + 1, WIDTH, generator=generator)
    return inputs


def _features(spec: Tiny, generator: torch.Generator, batch: int, length: int) -> dict[str, Tensor]:
    if spec.modality == "image":
        return {"pixel_values": torch.randn(batch, 3, 8, 8, generator=generator)}
    if spec.modality == "sound":
        return {"input_features": torch.randn(batch, 8, 20, generator=generator)}
    lengths = torch.tensor([max(2, length - row % 3) for row in range(batch)])
    mask = (torch.arange(length) < lengths[:, None]).long()
    tokens = _tokens(generator, batch, length).masked_fill(mask == 0, PAD)
    # BART's and T5's classifiers read the one end-of-sentence token of each row.
    tokens[torch.arange(batch), lengths - 1] = EOS
    return {"input_ids": tokens, "attention_mask": mask}


def _tokens(generator: torch.Generator, batch: int, length: int) -> Tensor:
    return torch.randint(4, VOCABULARY, (batch, length), generator=generator)


# A builder for each name, with the default head.
TINY: dict[str, Callable[..., nn.Module]] = {name: partial(tiny_model, name) for name in SPECS}
