"""Whether two folders hold the same adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from propulsion_tools.records import RECORD_FILE
from propulsion_tools.training.trained_files import ADAPTER_CONFIG, ADAPTER_FILE

TOKENIZER_FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    # What the tokenizers of transformers call their vocabularies.
    *("vocab.txt", "vocab.json", "vocab-src.json", "vocab-tgt.json", "target_vocab.json", "entity_vocab.json"),
    *("merges.txt", "bpe.codes", "dict.txt", "byte_maps.json", "emoji.json", "normalizer.json"),
    *("tokenizer.model", "sentencepiece.model", "sentencepiece.bpe.model", "spiece.model", "spm.model"),
    *("spm_char.model", "source.spm", "target.spm", "prophetnet.tokenizer"),
    *("word_shape.json", "word_pronunciation.json"),
)
"""Names, or patterns of them."""
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_FILE, RECORD_FILE, *TOKENIZER_FILES)
"""What an adapter's answers depend on, beside its base model."""


def fingerprint(folder: Path, files: Sequence[str] = ADAPTER_FILES) -> str:
    """The same for the same content of these files, whatever the folder is called: 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in (path for pattern in files for path in sorted(folder.glob(pattern)) if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:32]
