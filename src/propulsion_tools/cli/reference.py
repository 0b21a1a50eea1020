"""docs/cli.md, from the table of commands and what the options say of themselves.

python -m propulsion_tools.cli.reference > docs/cli.md
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import Field
from typing import Any, get_type_hints

from propulsion_tools.cli.annotations import in_words
from propulsion_tools.cli.commands import COMMANDS, Command
from propulsion_tools.cli.parsing import RECIPE_HELP, option_groups, usage

HEAD = """# The command line

Generated from the commands themselves by `make reference`: do not edit.

`propulsion` lists the commands, `propulsion COMMAND --help` the options of one. `propulsion --version` prints the
version. `python -m propulsion` is the same command, and `torchrun --nproc_per_node 2 -m propulsion train ...` trains in
two processes.

- **Files.** Every option may also be set in a YAML file, under the same name: `--config FILE.yaml`. A flag overrides a
  file. `--print_config` prints every option as such a file and runs nothing.
- **Spelling.** `--learning-rate` is the same as `--learning_rate`. `--bf16` alone means `--bf16 true`; this holds for
  every option that takes true or false.
- **Values.** Lists and mappings are written as in YAML: `--target_modules "[query, value]"`, `--method_args "{r: 4}"`.
  `--method_args.r 4` sets one key. `null` is the None of the descriptions.
- **Errors** are one sentence on standard error, and the exit status is 2. After Ctrl-C it is 130. `--debug`, or
  `PROPULSION_DEBUG=1` in the environment, prints the traceback as well."""


def reference() -> str:
    """The whole page, in Markdown."""
    overview = [[f"[`{name}`](#{name})", command.description] for name, command in COMMANDS.items()]
    sections = [_section(name, command) for name, command in COMMANDS.items()]
    return "\n\n".join([HEAD, _table(["Command", "What it does"], overview), *sections]) + "\n"


def _section(name: str, command: Command) -> str:
    groups, hints = option_groups(command.options), get_type_hints(command.options)
    parts = [f"## {name}", _sentence(command.description), f"```sh\n{usage(name, command)}\n```"]
    if command.positional:
        parts.append(f"`{command.positional}`: {command.positional_help}.")
    if command.takes_recipe:
        parts.append(f"`--recipe NAME`: {RECIPE_HELP}.")
    for title, items in groups.items():
        if len(groups) > 1:
            parts.append(f"### {name}: {title}")
        parts.append(_table(["Option", "Type", "Default", "Description"], [_row(item, hints) for item in items]))
    return "\n\n".join(parts)


def _row(item: Field[Any], hints: dict[str, Any]) -> list[str]:
    default = item.default if isinstance(item.default, str) else json.dumps(item.default)
    text = item.metadata["help"].replace("|", r"\|").replace("<", r"\<")
    return [f"`--{item.name}`", in_words(hints[item.name]), f"`{default}`", text]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _table(headings: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, ["---"] * len(headings), *rows])


if __name__ == "__main__":
    print(reference(), end="")
