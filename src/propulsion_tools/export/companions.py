"""What stands beside the weights of a checkpoint: the tokenizer or processor, and how to generate."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoProcessor, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from propulsion_tools.training.base_models import NO_CODE, explained, quiet_transformers

FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "preprocessor_config.json",
    "processor_config.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""One of these is there if there is a tokenizer or a processor; transformers makes an empty one where there is none."""


def write_companions(adapter_dir: Path, base_dir: Path, folder: Path, config: PreTrainedConfig, generates: bool) -> str:
    """Write the tokenizer, and the generation configuration of a model that generates.

    Args:
        adapter_dir: Where a run has left its tokenizer.
        base_dir: The base model's folder, which has it otherwise.
        folder: Where the checkpoint is.
        config: Its configuration; gets the token to pad with if it has none, which classifiers of decoders need.
        generates: Whether the model can generate.

    Returns:
        A sentence about what is missing; empty if nothing is.
    """
    if generates:
        _generation_config(base_dir, config).save_pretrained(folder)
    source = next((each for each in (adapter_dir, base_dir) if any((each / name).is_file() for name in FILES)), None)
    if source is None:
        return f"{base_dir} has no tokenizer or processor: there is none beside the weights either."
    with explained(str(source), "tokenizer"), quiet_transformers():
        processor = AutoProcessor.from_pretrained(source, **NO_CODE)
    processor.save_pretrained(folder)
    tokenizer = processor if isinstance(processor, PreTrainedTokenizerBase) else getattr(processor, "tokenizer", None)
    text = config.get_text_config()
    if tokenizer is not None and getattr(text, "pad_token_id", None) is None:
        text.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        config.save_pretrained(folder)
    return ""


def _generation_config(base_dir: Path, config: PreTrainedConfig) -> GenerationConfig:
    if (base_dir / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(base_dir)
    return GenerationConfig.from_model_config(config)
