"""Who may come in, and what is noted of every request: ASGI around the application, and the check of the key."""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from propulsion_tools.serving.errors import ApiError, as_api_error
from propulsion_tools.serving.logs import LOG
from propulsion_tools.serving.metrics import Metrics

KEY_VARIABLE = "PROPULSION_API_KEY"
FACTS = "propulsion.facts"
"""Where a request's scope holds what the log is to say of it."""
_OTHER = "other"


def key_check(key: str | None) -> Callable[[Request], Awaitable[None]]:
    """A dependency that refuses requests without the key; None: it lets all in."""
    expected = None if key is None else key.strip().encode()  # a header has no blanks around

    async def check(request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # Headers are latin-1 to Starlette, whatever bytes were sent.
        is_equal = expected is not None and hmac.compare_digest(given.strip().encode("latin-1"), expected)
        is_right = expected is None or (is_equal and expected != b"")  # an empty key is everybody's
        if expected is not None and not (is_right and scheme.lower() == "bearer"):
            headers = {"WWW-Authenticate": "Bearer"}
            raise ApiError("Send the server's key: Authorization: Bearer KEY.", 401, "invalid_api_key", headers)

    return check


def is_this_machine(host: str) -> bool:
    """Whether only this machine reaches what listens to an address or a name."""
    return _is_local_name(host) or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


async def host_check(request: Request) -> None:
    """A dependency that refuses requests to a name that anybody may have given to this machine's address.

    A page in a browser reads what comes from its own name, wherever that leads by now; addresses are nobody's to give.
    """
    given = request.headers.get("host", "")
    try:
        name = urlsplit(f"//{given}").hostname or ""
    except ValueError:  # brackets without an address in them
        name = given
    if given and not (_is_local_name(name) or _is_address(name)):
        said = f"Without a key this server answers to localhost and to addresses alone: set {KEY_VARIABLE}."
        raise ApiError(said, 403, "host_not_allowed")


def _is_local_name(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def json_error(error: ApiError) -> JSONResponse:
    """The answer to a request that is not answered."""
    return JSONResponse(error.body, error.status, error.headers)


class Observed:
    """Counts, times and logs each request, and answers for what went wrong in it; no text of a user is noted.

    Args:
        app: The application.
        metrics: Where it counts.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            LOG.error("failed", exc_info=error)
            if not status:
                await json_error(as_api_error(error))(scope, receive, noting)
        finally:
            self._note(scope, status, time.perf_counter() - begin)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", _OTHER)  # the pattern: the path is the client's text
        method = scope["method"] if scope["method"] in ("GET", "POST", "DELETE") else _OTHER
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.latency.labels(route).observe(seconds)
        facts: dict[str, Any] = {"route": route, "method": method, "status": status, "ms": round(seconds * 1e3, 2)}
        LOG.info("request", extra={"facts": facts | scope.get(FACTS, {})})
