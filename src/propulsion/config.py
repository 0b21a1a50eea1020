"""The configuration of Propulsion, beside those of PEFT's other methods."""

from __future__ import annotations

import re
import textwrap
import warnings
from dataclasses import dataclass, field, fields
from typing import Any

from peft import PeftConfig, PeftType, TaskType

from propulsion.adapter_files import SavedNames, check_adapter_folder, say_how_to_load
from propulsion.errors import ConfigError, near_misses
from propulsion.pooling import POOLINGS
from propulsion.targets import PRESETS, is_preset
from propulsion.upstream.peft_private import of_pattern

LARGEST_DEGREE = 100_000  # (1 + 1e-4)^k overflows float32 before that
GUESSED_HEADS = ("classifier", "score")  # for classifiers, by PEFT
INITIALIZATIONS = ("ones", "zeros", "normal", "uniform", "xavier")


@dataclass
class PropulsionConfig(PeftConfig):
    """Configuration of Propulsion: V' = V ⊙ z^k for the outputs V of the targeted layers (paper, equation 3).

    A field that is wrong raises `ConfigError`, a ValueError.
    """

    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": (
                "What to steer: a preset ('all', 'attn', 'mlp', 'embedding', 'query', 'key', 'value'), a list "
                "of module names or of their endings, a regular expression, or 'all-linear'. None stands for 'all' "
                "where the architecture is known."
            )
        },
    )
    target_parameters: list[str] | None = field(
        default=None,
        metadata={
            "help": (
                "Weights of stacked experts to steer, by name or ending, e.g. ['experts.down_proj']. The presets 'all' "
                "and 'mlp', and the experts' name in target_modules, stand for all of them."
            )
        },
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Module names, their endings, or a regular expression, of what not to steer."}
    )
    degree: int | list[int] = field(
        default=15,
        metadata={"help": "k in z^k, an integer ≥ 0 (0 steers nothing), or a list with one for each vector."},
    )
    degree_pattern: dict[str, int | list[int]] | None = field(
        default=None,
        metadata={"help": "Degrees of single modules by name, ending or regular expression, e.g. {'query': 55}."},
    )
    num_vectors: int = field(
        default=1, metadata={"help": "p, the number of vectors for each layer (multi-propulsion, appendix F.1)."}
    )
    pooling: str = field(
        default="mean",
        metadata={
            "help": "How the p steered outputs become one: 'mean', 'l2', 'max' or 'min'. The last two cannot be merged."
        },
    )
    init_weights: bool | str = field(
        default=True,
        metadata={
            "help": (
                "Where z starts: True or 'ones' (the identity), 'zeros', 'normal' (around 1), 'uniform' (0 to 1), "
                "'xavier'; False is a random start that is not the identity, for tests."
            )
        },
    )
    init_noise: float = field(
        default=0.0,
        metadata={
            "help": "Standard deviation of the noise added to the start of z; tells the p vectors of a layer apart."
        },
    )
    train_bias: bool = field(
        default=False,
        metadata={
            "help": "Also train the biases of the steered layers, where they have one. Several such adapters do not "
            "commute: (V + β) ⊙ z^k is taken in the order in which they are active, or merged."
        },
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules to train whole and to save with the adapter, e.g. the head."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Numbers of the blocks to steer, if not all."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the list of blocks, where layers_to_transform cannot find it."}
    )
    base_fingerprint: dict[str, list[float]] | None = field(
        default=None,
        metadata={"help": "Some weights of the base model; filled in by us, and compared when the adapter is loaded."},
    )

    def __post_init__(self) -> None:
        if self.task_type is not None:
            _check_choice("task_type", self.task_type, tuple(TaskType))
        super().__post_init__()
        self.peft_type = PeftType.PROPULSION
        for name in ("target_modules", "target_parameters", "exclude_modules", "modules_to_save", "layers_pattern"):
            _check_names(name, getattr(self, name))
        self._check_fingerprint()
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), (list, tuple)):
                setattr(self, name, set(getattr(self, name)))
        # As given: PEFT adds its guess for the task to the very list.
        self._named_modules = None if self.modules_to_save is None else tuple(self.modules_to_save)
        _check_choice("pooling", self.pooling, POOLINGS)
        if not isinstance(self.init_weights, bool):
            _check_choice("init_weights", self.init_weights, INITIALIZATIONS)
        _check_integer("num_vectors", self.num_vectors, least=1)
        self._check_noise()
        self._check_degrees()
        if not isinstance(self.train_bias, bool):
            raise ConfigError(f"train_bias must be True or False, not {self.train_bias!r}.")
        self._check_layers()
        self._warn_of_equal_vectors()

    @property
    def names_modules(self) -> bool:
        """Whether `modules_to_save` was given, before PEFT added its own guess for the task."""
        return self._named_modules is not None

    @property
    def named_modules_to_save(self) -> tuple[str, ...]:
        """The modules to save that were given, without those that PEFT guesses, one of which no model has."""
        return tuple(name for name in self._named_modules or () if name not in GUESSED_HEADS)

    def check_files(self, folder: str) -> None:
        """Refuse a local folder with unusable weights before any model is touched, and remember what they steer.

        Raises:
            AdapterFileError: The weights are damaged, not finite, or not this configuration's.
        """
        self._saved_names = check_adapter_folder(folder, self.num_vectors, self.modules_to_save or ())

    @property
    def saved_names(self) -> SavedNames | None:
        """What the file has that this configuration was read with; None without one."""
        return getattr(self, "_saved_names", None)

    def remember_base(self, base_fingerprint: dict[str, list[float]]) -> None:
        """Keep the fingerprint of the model that this adapter was just put into, to be saved with the configuration."""
        # Not in the field, for one configuration may serve several models, and only a loaded one is to be compared.
        self._fingerprint_of_base = base_fingerprint

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a dictionary, with the fingerprint of the model that it serves."""
        values = super().to_dict()
        return {**values, "base_fingerprint": getattr(self, "_fingerprint_of_base", values["base_fingerprint"])}

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """As PEFT's; and if there is a model card, it says from then on how the adapter is loaded.

        Args:
            save_directory: The folder.
            kwargs: As PEFT's.
        """
        super().save_pretrained(save_directory, **kwargs)
        say_how_to_load(save_directory)

    def degrees_of(self, degree: int | list[int]) -> tuple[int, ...]:
        """One degree for each of the p vectors."""
        return tuple(degree) if isinstance(degree, (list, tuple)) else (degree,) * self.num_vectors

    def degrees_in(self, name: str) -> tuple[int, ...]:
        """One degree for each of the p vectors in the layer of this name."""
        return self.degrees_of(of_pattern(self.degree_pattern or {}, name, self.degree))

    def _check_degrees(self) -> None:
        if self.degree_pattern is not None and not isinstance(self.degree_pattern, dict):
            raise ConfigError("degree_pattern must be a dictionary from a module's name to its degree.")
        for pattern in self.degree_pattern or ():
            _check_expression("degree_pattern", pattern)
        for where, degree in {"degree": self.degree, **(self.degree_pattern or {})}.items():
            name = where if where == "degree" else f"degree_pattern[{where!r}]"
            for value in degree if isinstance(degree, (list, tuple)) else [degree]:
                _check_integer(name, value, least=0, most=LARGEST_DEGREE)
            entries = len(self.degrees_of(degree))
            if entries != self.num_vectors:
                raise ConfigError(
                    f"{name} has {entries} entries for num_vectors={self.num_vectors}: give one for each."
                )

    def _check_fingerprint(self) -> None:
        values = self.base_fingerprint
        is_list = isinstance(values, dict) and all(isinstance(sample, list) for sample in values.values())
        if values is not None and not (is_list and all(_is_finite(x) for sample in values.values() for x in sample)):
            raise ConfigError("base_fingerprint must be a dictionary from modules' names to lists of numbers, or null.")

    def _check_noise(self) -> None:
        if not _is_finite(self.init_noise) or self.init_noise < 0:
            raise ConfigError(f"init_noise must be a finite number ≥ 0, not {self.init_noise!r}.")

    def _check_layers(self) -> None:
        blocks = self.layers_to_transform
        for block in [blocks] if blocks is None or isinstance(blocks, (int, str)) else blocks:
            if blocks is not None:
                _check_integer("layers_to_transform", block, least=0)
        if self.layers_pattern and self.layers_to_transform is None:
            raise ConfigError("layers_pattern says where layers_to_transform counts: give layers_to_transform as well.")
        is_regex = isinstance(self.target_modules, str) and not (
            is_preset(self.target_modules) or self.target_modules == "all-linear"
        )
        if is_regex and self.layers_to_transform is not None:
            raise ConfigError(
                "layers_to_transform does not work with a regular expression for target_modules: put the blocks into "
                f"the expression, or use a list or a preset ({', '.join(PRESETS)})."
            )

    def _warn_of_equal_vectors(self) -> None:
        start_alike = self.init_weights in (True, "ones", "zeros") and self.init_noise == 0
        if self.num_vectors > 1 and start_alike and len(set(self.degrees_of(self.degree))) == 1:
            warnings.warn(
                f"num_vectors={self.num_vectors}, but nothing tells the vectors of a layer apart: they get equal "
                "gradients and stay equal. Set init_noise (e.g. 0.001), or give each vector a degree of its own.",
                stacklevel=4,
            )


def _describe_fields(config: type[PeftConfig]) -> str:
    """The help of each field as a section of the docstring; the method's own first, then those of every PEFT method."""
    inherited = {field.name for field in fields(PeftConfig)}
    texts = [
        f"{field.name} ({field.type}): {' '.join(field.metadata['help'].split())}"
        for field in sorted(fields(config), key=lambda field: field.name in inherited)
    ]
    wrapped = [
        textwrap.fill(text, 116, initial_indent=" " * 8, subsequent_indent=" " * 12, break_on_hyphens=False)
        for text in texts
    ]
    return "\n".join(["", "    Args:", *wrapped, "    "])


# Written once, beside each field, where the command line reads it too.
PropulsionConfig.__doc__ = f"{(PropulsionConfig.__doc__ or '').rstrip()}\n{_describe_fields(PropulsionConfig)}"


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(choices)}.{near_misses(str(value), choices)}")


def _check_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        up_to = "" if most is None else f" and ≤ {most}"
        raise ConfigError(f"{name} must be an integer ≥ {least}{up_to}, not {value!r}.")


def _check_names(name: str, value: object) -> None:
    """A list of names or, where PEFT takes one, a regular expression."""
    only_lists = ("modules_to_save", "target_parameters")
    if isinstance(value, str) and name not in only_lists:
        _check_expression(name, value)
    elif value is not None and not (
        isinstance(value, (list, tuple, set)) and all(isinstance(item, str) and item for item in value)
    ):
        hint = f" Write [{value!r}]." if isinstance(value, str) else ""
        raise ConfigError(
            f"{name} must be a list of names{'' if name in only_lists else ' or a string'}, not {value!r}.{hint}"
        )


def _check_expression(name: str, value: object) -> None:
    try:
        re.compile(value)  # type: ignore[call-overload]
    except (re.error, TypeError) as error:
        raise ConfigError(f"{name} has {value!r}, which is no regular expression: {error}.") from error


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
