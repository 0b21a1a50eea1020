"""How long an answer may take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from propulsion_tools.serving.errors import ApiError

T = TypeVar("T")


async def in_time(awaited: Awaitable[T], seconds: float) -> T:
    """What is awaited, if it comes within so many seconds.

    Raises:
        ApiError: It does not (504).
    """
    try:
        return await asyncio.wait_for(awaited, max(0, seconds))
    except asyncio.TimeoutError as error:
        raise too_slow() from error


def too_slow() -> ApiError:
    """For who has waited for too long."""
    return ApiError("The answer has taken too long: ask for less, or later.", 504, "timeout")
