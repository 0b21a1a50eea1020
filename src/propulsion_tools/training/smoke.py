"""`propulsion train --smoke`: two steps of a run, on a tiny model of the same architecture and a few made-up rows.

Nothing is downloaded: the architecture is read off the model's name where its configuration is not at hand, the
weights are random, and the tokenizer is trained on the rows.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerFast

from propulsion.heads import head_modules
from propulsion_tools.errors import OptionError
from propulsion_tools.records import RUN_FACTS, RunRecord, RunSpec
from propulsion_tools.records.run_spec import SMOKE_LENGTH
from propulsion_tools.tasks import TaskData, get_task
from propulsion_tools.training.base_models import NO_CODE, model_path, quiet_transformers
from propulsion_tools.training.notify import Notify, keep_quiet
from propulsion_tools.training.resolve import resolve
from propulsion_tools.training.run import train

POSITIONS, WIDTH = 640, 32
ALIASES = {
    "minilm": "bert",
    "deberta-v3": "deberta-v2",
    "deberta-v2": "deberta-v2",
    "xlm-r": "xlm-roberta",
    "gpt-j": "gptj",
    "gpt-neox": "gpt_neox",
    "pythia": "gpt_neox",
    "phi-3": "phi3",
    "phi-2": "phi",
    "phi-1": "phi",
    "gemma-3": "gemma3_text",
    "gemma3": "gemma3_text",
    "gemma-2": "gemma2",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen1.5-moe": "qwen2_moe",
    "qwen2-57b-a14b": "qwen2_moe",
    "qwen3-30b-a3b": "qwen3_moe",
    "qwen3-235b-a22b": "qwen3_moe",
    "deepseek-v3": "deepseek_v3",
    "deepseek-r1": "deepseek_v3",
    "gpt-oss": "gpt_oss",
    "vicuna": "llama",
    "bloomz": "bloom",
}
"""Parts of model names that do not spell their architecture."""
SIZES = {
    "hidden_size": WIDTH,
    "d_model": WIDTH,
    "n_embd": WIDTH,
    "dim": WIDTH,
    "word_embed_proj_dim": WIDTH,
    "pooler_hidden_size": WIDTH,
    "embedding_size": WIDTH,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_kv_heads": 4,
    "head_dim": 8,
    "d_kv": 8,
    "rotary_dim": 4,
    "query_pre_attn_scalar": 8,
    "intermediate_size": 48,
    "d_ff": 48,
    "ffn_dim": 48,
    "hidden_dim": 48,
    "n_inner": 48,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": POSITIONS,
    "n_positions": POSITIONS,
    "sliding_window": SMOKE_LENGTH,
    "layer_types": None,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 48,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
"""What is small in a tiny model, whatever its architecture calls it."""


def smoke(spec: RunSpec, notify: Notify = keep_quiet) -> RunRecord:
    """Take two steps of a run and score them, in a folder that goes away.

    Args:
        spec: The run; its method and its options are kept, its model, its data and its lengths are made tiny.
        notify: Is told what is tried.

    Returns:
        The record of the tiny run.

    Raises:
        OptionError: The architecture cannot be told from the model's name, or does not fit the task.
    """
    spec = resolve(spec)
    task = get_task(str(spec.task))
    data = task.toy()
    with tempfile.TemporaryDirectory() as folder:
        config = build_tiny(spec.model_name_or_path, task.name, data, Path(folder) / "model")
        notify(f"A {config.model_type} of two layers with random weights, on rows made up here.")
        tiny = replace(shortened(spec), model_name_or_path=f"{folder}/model", output_dir=f"{folder}/run")
        return train(tiny, data=data)


def shortened(spec: RunSpec) -> RunSpec:
    """A resolved spec without what a trial of two steps has no use for, or a tiny model no room."""
    return replace(spec, **{name: facts.smoke(getattr(spec, name)) for name, facts in RUN_FACTS.items() if facts.smoke})


def build_tiny(name: str, task: str, data: TaskData, folder: Path) -> PreTrainedConfig:
    """Write a tiny model of an architecture, with a tokenizer of its own, into a folder.

    Args:
        name: A folder, a hub id or a name that spells the architecture.
        task: A task that the architecture must be fit for.
        data: Rows whose words the tokenizer learns.
        folder: Where it goes.

    Returns:
        Its configuration.

    Raises:
        OptionError: The architecture cannot be told from the name, or does not fit the task.
    """
    model_type = architecture(name)
    config_class = type(AutoConfig.for_model(model_type))
    encoder_decoder = AutoConfig.for_model(model_type).is_encoder_decoder
    masked = config_class in transformers.MODEL_FOR_MASKED_LM_MAPPING
    tokenizer = train_tokenizer(words_in(data), marks=masked or encoder_decoder)
    config = tiny_config(model_type, tokenizer)
    kind = get_task(task).model_kind(config)
    torch.manual_seed(0)
    model = getattr(transformers, kind.auto_class).from_config(config)
    if head_modules(model):  # checkpoints come without the head that a task wants
        model = transformers.AutoModel.from_config(config)
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return config


def architecture(name: str) -> str:
    """The ``model_type`` of a model, from its configuration where that is at hand, else from its name.

    Raises:
        OptionError: The name does not say.
    """
    with suppress(OSError, ValueError):
        return str(AutoConfig.from_pretrained(model_path(name), local_files_only=True, **NO_CODE).model_type)
    last = name.lower().rpartition("/")[2]
    known = {**{kind: kind for kind in transformers.CONFIG_MAPPING}, **ALIASES}
    for part in sorted(known, key=len, reverse=True):
        if re.search(rf"(?<![a-z]){re.escape(part)}(?![a-z])|^{re.escape(part)}", last):
            return known[part]
    raise OptionError(f"Cannot tell the architecture of {name!r} from its name: pass a folder with its config.json.")


def tiny_config(model_type: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """A configuration with two layers of width 32 for the vocabulary of a tokenizer."""
    default = AutoConfig.for_model(model_type)
    sizes: dict[str, Any] = {
        name: value
        for name, value in SIZES.items()
        if hasattr(default, name) and not isinstance(getattr(type(default), name, None), property)
    }
    if getattr(default, "kv_lora_rank", None):  # one latent vector for the keys and values of all heads
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    tokens = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.eos_token_id,
    }
    return AutoConfig.for_model(model_type, **sizes, **tokens)


def words_in(data: TaskData) -> Iterator[str]:
    """Every text in every row."""
    for rows in data.splits.values():
        for row in rows:
            yield from _texts(row)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def train_tokenizer(texts: Iterable[str], marks: bool) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer.

    Args:
        texts: What it learns its pieces from.
        marks: Whether texts begin and end with a token, as encoders want them; a decoder's only begin with one.
    """
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    sizes: dict[str, Any] = {"vocab_size": 400, "special_tokens": special, "initial_alphabet": alphabet}
    inner.train_from_iterator(texts, trainers.BpeTrainer(**sizes, show_progress=False))
    end = " </s>" if marks else ""
    inner.post_processor = processors.TemplateProcessing(
        single=f"<s> $A{end}", pair=f"<s> $A{end} $B{end}", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    marked = {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"} if marks else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>", **marked
    )
