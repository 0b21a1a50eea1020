"""The page at /: files that a browser reads, and the headers that keep them from doing anything else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

from propulsion_tools.records.options import ServeOptions

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_LOOK = files("propulsion_tools").joinpath("look.css")
_MOST_TOKENS = "{{max_new_tokens}}"
READING = ["GET", "HEAD"]
HEADERS = {
    # Its own files, and requests to its own server: no script, style or form that a text could smuggle in.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def page_routes(limits: ServeOptions) -> APIRouter:
    """Routes of the page, which are open to all: it has nothing in it that is not in this package.

    Args:
        limits: How many tokens a client may ask for.
    """
    own = files("propulsion_tools.serving").joinpath("page_files")
    texts = {file.name: file.read_text(encoding="utf-8") for file in (*own.iterdir(), _LOOK)}
    index = texts.pop("index.html").replace(_MOST_TOKENS, str(limits.max_new_tokens))
    router = APIRouter()
    router.add_api_route("/", _answering(index, _TYPES["html"]), methods=READING)
    for name, text in texts.items():
        router.add_api_route(f"/page/{name}", _answering(text, _TYPES[name.rpartition(".")[2]]), methods=READING)
    return router


def _answering(text: str, kind: str) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return Response(text, headers=HEADERS, media_type=kind)

    return answer
