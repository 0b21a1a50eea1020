"""Adapters as `save_pretrained` writes them, with vectors made here, and without any model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """`save(deltas, others, **fields)` writes an adapter with these δ by layer, other tensors and configuration."""

    def write(deltas: Mapping[str, Any], others: Mapping[str, Any] | None = None, **fields: Any) -> Path:
        folder = tmp_path / "adapter"
        folder.mkdir()
        config = {"peft_type": "PROPULSION", "target_modules": sorted(deltas), "base_model_name_or_path": "org/base"}
        (folder / "adapter_config.json").write_text(json.dumps(config | fields))
        tensors = {f"base_model.model.{name}.propulsion_delta": value for name, value in deltas.items()}
        tensors |= {f"base_model.model.{name}": value for name, value in (others or {}).items()}
        as_tensors = {name: torch.as_tensor(np.asarray(value, dtype=np.float32)) for name, value in tensors.items()}
        save_file(as_tensors, folder / "adapter_model.safetensors")
        return folder

    return write


def bert_deltas(blocks: int = 12, vectors: int = 1, width: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """δ for an embedding, and for two layers of each block of a BERT."""
    draw = np.random.default_rng(seed)
    sizes = {"bert.embeddings.word_embeddings": width}
    for block in range(blocks):
        sizes[f"bert.encoder.layer.{block}.attention.self.query"] = width
        sizes[f"bert.encoder.layer.{block}.intermediate.dense"] = 4 * width
    return {name: draw.normal(0, 0.02, (vectors, size)).astype(np.float32) for name, size in sizes.items()}
