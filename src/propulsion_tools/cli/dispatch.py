"""From the words after `propulsion` to a command, and from what it raises to a sentence and an exit status."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass
from typing import Any

from propulsion_tools.cli import INTERRUPTED, USAGE_ERROR
from propulsion_tools.cli.commands import COMMANDS, Command
from propulsion_tools.cli.disk_errors import of_disk
from propulsion_tools.cli.parsing import parse
from propulsion_tools.errors import check_installed, check_name, is_one_sentence
from propulsion_tools.methods.names import check_method_name
from propulsion_tools.tasks.names import check_task_name
from propulsion_tools.training.bars import clear_bars
from propulsion_tools.upstream.peft_private import hide_harmless_warnings

NAMES = {"task": check_task_name, "method": check_method_name}
"""Options whose values are names that are known before the module of any is imported."""


@dataclass(frozen=True)
class Call:
    """A command with the positional argument and the options that it is called with."""

    command: Command
    arguments: tuple[Any, ...]

    def run(self) -> None:
        """Do it."""
        self.command.run(*self.arguments)

    def goes_on(self) -> str:
        """How it goes on after an interruption, as the end of a sentence."""
        clause = self.command.goes_on(*self.arguments)
        return f"; {clause}" if clause else ""


def run(words: list[str]) -> int:
    """Run one command.

    Args:
        words: Those after `propulsion`.

    Returns:
        The exit status: 0, 2 after an error of ours, 130 after Ctrl-C; either is printed as one sentence.
    """
    debug = "--debug" in words or os.environ.get("PROPULSION_DEBUG", "0") not in ("", "0")
    call = None
    try:
        call = prepare([word for word in words if word != "--debug"])
        if call is not None:
            call.run()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        clear_bars()
        print(f"propulsion: interrupted{call.goes_on() if call else ''}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if (sentence := _sentence(error, call, debug)) is None:
            raise
        clear_bars()
        if debug:
            traceback.print_exc()
        print(f"propulsion: {sentence}", file=sys.stderr)
        return USAGE_ERROR
    return 0


def prepare(words: list[str]) -> Call | None:
    """The call that these words name, if its options are right and its packages there; None after help was printed."""
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return None
    name, *rest = words
    if name == "--version":
        from importlib.metadata import version

        print(f"propulsion {version('propulsion-peft')}")
        return None
    check_name("command", name, COMMANDS)
    command = COMMANDS[name]
    if (values := parse(name, command, rest)) is None:
        return None
    positional = [values.pop(command.positional)] if command.positional else []
    options = command.options(**values)
    _check_names(options)
    for package in command.packages:
        check_installed(package, "train")
    hide_harmless_warnings()
    return Call(command, (*positional, options))


def _overview() -> str:
    lines = ["usage: propulsion COMMAND [options]"]
    for heading in dict.fromkeys(command.heading for command in COMMANDS.values()):
        lines += ["", f"{heading}:"]
        lines += [f"  {name:<10} {c.description}" for name, c in COMMANDS.items() if c.heading == heading]
    lines += ["", "`propulsion COMMAND --help` lists its options; each may also stand in a file: --config FILE.yaml"]
    return "\n".join(lines)


def _check_names(options: Any) -> None:
    for option, check in NAMES.items():
        value = getattr(options, option, None)
        for name in (value,) if isinstance(value, str) else value or ():
            check(name)


def _sentence(error: Exception, call: Call | None, debug: bool) -> str | None:
    """What to print of an error; None: it is a fault of ours, and the traceback is what is needed."""
    if is_one_sentence(error):
        return str(error)
    if not debug and (said := of_disk(error)):
        return f"{said}{call.goes_on() if call else ''}"
    return None
