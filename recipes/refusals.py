"""Which rows of the paper cannot be run by any method here, and why."""

from __future__ import annotations


def refusal(model: str, method: str) -> str | None:
    """Why a row has no recipe, or None."""
    if method == "prefix-tuning" and model.startswith("deberta"):
        return "DeBERTa's attention takes no keys and values from outside, which a prefix is"
    return None
