"""A tiny model that writes texts, with two adapters and a word for each of its tokens."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.propulsion.steered import config, train_by_chance
from tests.tiny_models import EOS, PAD, VOCABULARY, tiny_model

NAMES = ("left", "right")
WORDS = [f"w{number}" for number in range(VOCABULARY)]
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"


def tokenizer() -> PreTrainedTokenizerFast:
    """A word for each token of the tiny models."""
    words = {word: number for number, word in enumerate([*WORDS[:-3], "user", "system", "<unk>"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=WORDS[PAD], eos_token=WORDS[EOS], unk_token="<unk>"
    )


def adapters(architecture: str) -> dict[str, PeftModel]:
    """Two adapters, each with a model of its own."""
    made = {}
    for seed, name in enumerate(NAMES):
        model = get_peft_model(tiny_model(architecture, "lm"), config(task_type="CAUSAL_LM", target_modules="all"))
        train_by_chance(model, seed=seed)
        made[name] = model.eval()
    return made


def save_writers(folder: Path, template: str | None = None) -> Path:
    """A tiny LLaMA in `base`, and two adapters of it in `adapters`.

    Args:
        folder: Where they go.
        template: How the tokenizer writes chats; None: it cannot.
    """
    tiny_model("llama", "lm").save_pretrained(folder / "base")
    words = tokenizer()
    words.chat_template = template
    words.save_pretrained(folder / "base")
    for name, model in adapters("llama").items():
        model.peft_config["default"].base_model_name_or_path = str(folder / "base")
        model.save_pretrained(folder / "adapters" / name)
    return folder
