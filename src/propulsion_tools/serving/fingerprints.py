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
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
)
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_FILE, RECORD_FILE, *TOKENIZER_FILES)
"""What an adapter's answers depend on, beside its base model."""


def fingerprint(folder: Path, files: Sequence[str] = ADAPTER_FILES) -> str:
    """The same for the same content of these files, whatever the folder is called: 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in files:
        content = (folder / file).read_bytes() if (folder / file).is_file() else b""
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()[:32]
