"""Progress bars that are still on the screen when something else has to be said."""

from __future__ import annotations

import sys


def clear_bars() -> None:
    """Close every bar that is still open, and leave nothing of it, so that what follows starts on an empty line.

    An error leaves the loop under a bar without the words that end it. Nothing is imported: without tqdm, no bar.
    """
    tqdm = sys.modules.get("tqdm")
    for bar in sorted(getattr(getattr(tqdm, "tqdm", None), "_instances", ()), key=lambda bar: bar.pos):
        bar.leave = False
        bar.close()
