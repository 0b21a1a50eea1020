"""How much the content of a compressed file may take, beside its size on disk."""

from __future__ import annotations

LEAST_ALLOWED, MOST_TIMES = 2**28, 100


def allowed_bytes(size: int) -> int:
    """The most that a file of this many bytes may hold; texts are compressed to a twentieth, and rarely to less."""
    return max(LEAST_ALLOWED, MOST_TIMES * size)
