"""The words after a command, and the YAML files among them, become values of its options."""

from __future__ import annotations

import re
import shlex
from argparse import SUPPRESS
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from propulsion_tools.cli.annotations import in_words, takes_bool, takes_list
from propulsion_tools.errors import OptionError, require
from propulsion_tools.records import refuse_unknown
from propulsion_tools.records.fields import ONE_RUN
from propulsion_tools.records.yaml_files import read_yaml

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from propulsion_tools.cli.commands import Command

PRINT_CONFIG = "--print_config"
RECIPE_HELP = "start from a recipe (see `propulsion recipes`); --config overrides it, and options override both"


def parse(name: str, command: Command, words: list[str]) -> dict[str, Any] | None:
    """Read the words after a command.

    Args:
        name: What the command is called.
        command: The command.
        words: What comes after its name.

    Returns:
        The options' values, from --recipe, --config and flags, and that of the positional argument; None after --help.

    Raises:
        UnknownNameError: There is no such option; names the near misses.
        OptionError: A value is of the wrong type, something is missing, or a file cannot be read.
    """
    known = [item.name for item in fields(command.options)]
    words = _with_bool_values([_underscored(word) for word in words], command.options)
    _refuse_unknown_flags(name, words, [*known, *(["recipe"] if command.takes_recipe else [])])
    recipe = _recipe_values(words) if command.takes_recipe else {}
    _check_config_files(words, known)
    argument_error = require("jsonargparse", "train").ArgumentError
    try:
        parser = _parser(name, command, any(word.partition("=")[0] == PRINT_CONFIG for word in words))
        parser.set_defaults(recipe)
        parsed = parser.parse_args(words)
    except argument_error as error:
        raise OptionError(_one_sentence(str(error), name, command, words)) from error
    except SystemExit as end:
        if end.code:
            raise
        return None
    return {key: value for key, value in vars(parsed).items() if key in known or key == command.positional}


def _parser(name: str, command: Command, prints: bool) -> ArgumentParser:
    """The parser of a command.

    Args:
        name: What the command is called.
        command: The command.
        prints: Whether it prints its options as a file, in which what is no option, and so hidden then, does not stand.
    """
    parser: ArgumentParser = require("jsonargparse", "train").ArgumentParser(
        prog=f"propulsion {name}",
        usage=usage(name, command),
        description=command.description,
        exit_on_error=False,
    )
    if command.positional:
        nargs = None if command.positional_required else "?"
        parser.add_argument(
            command.positional, type=str, nargs=nargs, help=SUPPRESS if prints else command.positional_help
        )
    if command.takes_recipe:
        parser.add_argument("--recipe", type=str, help=SUPPRESS if prints else RECIPE_HELP)
    if fields(command.options):
        parser.add_argument("--config", action="config", help="YAML file with any of these options")
    hints = get_type_hints(command.options)
    for title, items in option_groups(command.options).items():
        group = parser.add_argument_group(title)
        for item in items:
            group.add_argument(
                f"--{item.name}", type=hints[item.name], default=item.default, help=item.metadata["help"]
            )
    return parser


def usage(name: str, command: Command) -> str:
    """How a command is called; what may be left out stands in brackets."""
    positional = command.positional if command.positional_required else f"[{command.positional}]"
    return " ".join(filter(None, ["propulsion", name, positional, "[options]" if fields(command.options) else None]))


def option_groups(options: type[Any]) -> dict[str, list[Field[Any]]]:
    """The fields of a dataclass of options by the title that they stand under."""
    groups: dict[str, list[Field[Any]]] = {}
    for item in fields(options):
        groups.setdefault(item.metadata["group"], []).append(item)
    return groups


def _underscored(word: str) -> str:
    """`--learning-rate` is `--learning_rate`, as in the scripts of transformers."""
    flag, equals, value = word.partition("=")
    name, dot, key = flag.partition(".")
    return "--" + name[2:].replace("-", "_") + dot + key + equals + value if word.startswith("--") else word


def _with_bool_values(words: list[str], options: type[Any]) -> list[str]:
    """`--bf16` alone stands for `--bf16 true`, as it does in the scripts of transformers."""
    switches = {f"--{name}" for name, hint in get_type_hints(options).items() if takes_bool(hint)}
    done: list[str] = []
    for word, following in zip(words, [*words[1:], "--"], strict=False):
        done.append(word)
        if word in switches and following.startswith("--"):
            done.append("true")
    return done


def _refuse_unknown_flags(name: str, words: list[str], known: list[str]) -> None:
    flags = [word[2:].split("=")[0].split(".")[0] for word in words if word.startswith("--")]
    refuse_unknown(
        dict.fromkeys(flag for flag in flags if flag),
        [*known, "config", "print_config", "help"],
        f"option of `propulsion {name}`",
    )


def _values_of(flag: str, words: list[str], wanted: str) -> list[str]:
    """What stands behind each `flag` among the words."""
    values = []
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word != flag and not word.startswith(f"{flag}="):
            continue
        value = following if word == flag else word.partition("=")[2]
        if not value or value.startswith("--"):
            raise OptionError(f"{flag} wants {wanted} after it.")
        values.append(value)
    return values


def _recipe_values(words: list[str]) -> dict[str, Any]:
    names = _values_of("--recipe", words, "the name of a recipe (see `propulsion recipes`)")
    if not names:
        return {}
    if len(names) > 1:
        raise OptionError("--recipe can be given once.")
    from propulsion_tools.recipes import recipe

    return recipe(names[0]).values


def _check_config_files(words: list[str], known: list[str]) -> None:
    for name in _values_of("--config", words, "a YAML file"):
        file = Path(name)
        if not file.is_file():
            raise OptionError(f"There is no configuration file {str(file)!r}.")
        values = read_yaml(file)
        if not isinstance(values, dict):
            raise OptionError(f"{file} must hold options as `name: value` lines.")
        refuse_unknown(values, known, f"option in {file}")


def _one_sentence(message: str, name: str, command: Command, words: list[str]) -> str:
    """jsonargparse's report without the list of everything that was tried."""
    if stray := re.fullmatch(r"unrecognized arguments: (.*)", message.strip(), re.DOTALL | re.IGNORECASE):
        return _stray(stray[1], name, command, words)
    key, given = re.search(r'Parser key "(\w+)"', message), re.search(r"(?:Given|Got) value: (.*)", message)
    hints = get_type_hints(command.options)
    if not key or not given or key[1] not in hints:
        return f"{' '.join(message.split())} (see `propulsion {name} --help`)"
    hint = hints[key[1]]
    return f"{key[1]} cannot be {given[1].strip()}; its type is {in_words(hint)}.{_for_a_list(given[1].strip(), hint)}"


def _stray(given: str, name: str, command: Command, words: list[str]) -> str:
    """What is said of words that belong to nothing: the option that one of them is likely meant for."""
    is_config = bool(fields(command.options)) and given.endswith((".yaml", ".yml"))
    option = "config" if is_config else command.stray_word
    if given not in words or option is None or any(word.partition("=")[0] == f"--{option}" for word in words):
        hint = f" (see `propulsion {name} --help`)"
    else:
        hint = f". Did you mean --{option} {shlex.quote(given)}?"
    return f"{given!r} belongs to no option of `propulsion {name}`{hint}"


def _for_a_list(given: str, hint: Any) -> str:
    """How several values are given, where these words look like several; else nothing."""
    values = [value.strip() for value in given.strip("[]()").split(",")]
    if len(values) < 2:
        return ""
    if takes_list(hint):
        return f' A list has brackets, and quotes around them: "[{", ".join(values)}]".'
    return f" {ONE_RUN}"
