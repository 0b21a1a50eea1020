"""The command line: words → dataclass → one function call. A command imports what it needs, and no other does."""

from __future__ import annotations

import sys

USAGE_ERROR, INTERRUPTED = 2, 130


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Nothing is imported before Ctrl-C is caught, so that it ends in one sentence while torch is still being imported.

    Args:
        argv: The words after `propulsion`; those of the process if not given.

    Returns:
        The exit status: 0, 2 after an error of ours (one sentence on standard error), 130 after Ctrl-C.
    """
    try:
        from propulsion_tools.cli.dispatch import run

        return run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:  # during the imports, or once more while the first was being told
        print("propulsion: interrupted", file=sys.stderr)
        return INTERRUPTED
