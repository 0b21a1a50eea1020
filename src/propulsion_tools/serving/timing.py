"""How long an answer may take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import NoReturn, TypeVar

from propulsion_tools.serving.errors import ApiError

T = TypeVar("T")


async def in_time(awaited: Awaitable[T], seconds: float) -> T:
    """What is awaited, if it comes within so many seconds.

    Raises:
        ApiError: It does not (504).
    """
    try:
        return await asyncio.wait_for(awaited, max(0, seconds))
    except asyncio.TimeoutError:
        refuse_late()


def refuse_late() -> NoReturn:
    """Tell who has waited for too long."""
    raise ApiError("The answer has taken too long: ask for less, or later.", 504, "timeout")
