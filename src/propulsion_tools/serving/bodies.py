"""Bodies of requests: read within their limits, and understood or refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from propulsion_tools.records.options import ServeOptions
from propulsion_tools.serving.errors import ApiError
from propulsion_tools.serving.schema import Request as Schema

S = TypeVar("S", bound=Schema)
_MOST_KEYS = 100  # of an object: each can be a mistake, and each mistake takes time
_SHOWN = 5  # mistakes that an answer lists


async def read(request: Request, schema: type[S], limits: ServeOptions) -> S:
    """The body of a request.

    Args:
        request: Whose body nobody has read.
        schema: What it is to be.
        limits: How long it may be, and how long it may take.

    Raises:
        ApiError: It is too large (413) or too slow (408), no JSON (400, 415), or something else (422).
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # A page in a browser can send other types to this machine without being asked, and this one it cannot.
        raise ApiError("Send JSON, with the header Content-Type: application/json.", 415, "not_json")
    most, declared = limits.max_body_bytes, request.headers.get("content-length", "0")
    is_large = declared.isdecimal() and int(declared[:20]) > most
    if is_large and request.headers.get("expect"):  # the client waits for a word before it sends
        _too_large(most)
    body = bytearray()
    try:
        await asyncio.wait_for(_fill(body, request, most + 1), limits.body_timeout)
    except asyncio.TimeoutError as error:
        if not is_large and len(body) <= most:
            raise ApiError("The body has taken too long.", 408, "slow_body", {"Connection": "close"}) from error
    except ClientDisconnect as error:
        raise ApiError("The client hung up.", 400, "no_body") from error
    if is_large or len(body) > most:
        _too_large(most)
    try:
        return schema.model_validate(_parsed(bytes(body)))
    except ValidationError as error:
        raise ApiError(_mistakes(error), 422, "bad_input") from error


async def _fill(body: bytearray, request: Request, most: int) -> None:
    """Read a body to its end and keep so much: clients that send all of it first would meet a broken connection."""
    async for chunk in request.stream():
        body += chunk[: most - len(body)]


def _too_large(most: int) -> NoReturn:
    said = f"A body may have {most} bytes: send less at a time."
    raise ApiError(said, 413, "body_too_large", {"Connection": "close"})


def _parsed(body: bytes) -> Any:
    """The JSON value of a body; no NaN, no halves of characters, and no depth that ends in an error of Python."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_object)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails on half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise ApiError("The body is not JSON.", 400, "bad_json") from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > _MOST_KEYS:
        raise ApiError(f"An object has {len(pairs)} keys, of {_MOST_KEYS} at most.", 422, "bad_input")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    raise ApiError(f"The body has {name}, which is not JSON.", 400, "bad_json")


def _mistakes(error: ValidationError) -> str:
    """Where a body is wrong; not what stands there."""
    said: dict[str, str] = {}
    for mistake in error.errors(include_url=False, include_context=False, include_input=False):
        place = ".".join(str(part) for part in mistake["loc"])[:100] or "the body"
        said.setdefault(place, mistake["msg"])
    shown = "; ".join(f"{place}: {text}" for place, text in list(said.items())[:_SHOWN])
    return f"{shown}{f'; and {len(said) - _SHOWN} more' if len(said) > _SHOWN else ''}."
