"""What the examples train, so that they need no download: a tiny language model and sums to learn.

Every example runs by itself, `python examples/trl_sft.py`. Those for axolotl, ms-swift and LLaMA-Factory read a model
and data from files, which this one writes: `python examples/tiny.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
WORDS = (*SPECIAL, *map(str, range(12)), "what", "is", "plus")
QUESTIONS = [(f"what is {a} plus {b}", f"{a + b}") for a in range(5) for b in range(7)]


def language_model() -> LlamaForCausalLM:
    """A LLaMA of 20,000 random parameters, always the same; yours is `AutoModelForCausalLM.from_pretrained(...)`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(WORDS),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                bos_token_id=0,
                pad_token_id=1,
                eos_token_id=2,
            )
        )


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: n for n, word in enumerate(WORDS)}, "<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    bos, pad, eos, unk = SPECIAL
    fast = PreTrainedTokenizerFast(tokenizer_object=words, bos_token=bos, pad_token=pad, eos_token=eos, unk_token=unk)
    fast.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return fast


def texts() -> Dataset:
    """Sums as texts to go on with."""
    return Dataset.from_dict({"text": [f"{question} {answer}" for question, answer in QUESTIONS]})


def preferences() -> Dataset:
    """Sums with a right and a wrong answer."""
    return Dataset.from_list(
        [{"prompt": question, "chosen": f" {answer}", "rejected": " what"} for question, answer in QUESTIONS]
    )


def prompts() -> Dataset:
    """Sums to be answered."""
    return Dataset.from_list([{"prompt": question, "answer": answer} for question, answer in QUESTIONS])


def write(folder: str | Path = ".") -> None:
    """The model as `base`, and the sums as `chats.jsonl` and `instructions.jsonl`."""
    folder = Path(folder)
    language_model().save_pretrained(folder / "base")
    tokenizer().save_pretrained(folder / "base")
    chats = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in QUESTIONS]
    _write_lines(folder / "chats.jsonl", [{"messages": chat} for chat in chats])
    _write_lines(folder / "instructions.jsonl", [{"instruction": q, "input": "", "output": a} for q, a in QUESTIONS])


def _write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    write()
