"""The application: an engine on HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse

from propulsion.errors import PropulsionError
from propulsion_tools.errors import ToolsError
from propulsion_tools.serving import bodies, schema
from propulsion_tools.serving.answers import Answer
from propulsion_tools.serving.doors import FACTS, Observed, host_check, json_error, key_check
from propulsion_tools.serving.errors import ApiError, as_api_error, not_finite
from propulsion_tools.serving.interface import Answering, Piece, Wish
from propulsion_tools.serving.page import READING, page_routes
from propulsion_tools.serving.sampling import Wishes

T = TypeVar("T")
_SHORTEST = 16  # tokens of a completion where nothing is said, as OpenAI has it
_NO_CLIENT = 499  # what nginx notes of a client that hung up


def build_app(engine: Answering, key: str | None = None, is_local: bool = False) -> FastAPI:
    """An engine's application, to be run or mounted elsewhere; it does not close the engine.

    Args:
        engine: What answers.
        key: What clients have to send as a bearer token; None: nothing. /health, /ready and the page at /, which holds
            nothing but its own files, are open to all.
        is_local: Whether it is for this machine alone; then, without a key, it answers to no other machine's name.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.engine = engine
    door = host_check if is_local and key is None else key_check(key)
    app.include_router(_open_routes(engine))
    app.include_router(page_routes(engine.limits))
    app.include_router(_routes(engine), dependencies=[Depends(door)])
    for kind in (ApiError, PropulsionError, ToolsError):
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_middleware(Observed, metrics=engine.metrics)
    return app


async def _refused(request: Request, error: Any) -> Response:
    return json_error(as_api_error(error))


async def _not_served(request: Request, error: Any) -> Response:
    """What Starlette refuses: no such route, or not by this method."""
    said = "There is nothing here." if error.status_code == 404 else "This cannot be done here."
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
    return json_error(ApiError(said, error.status_code, code, error.headers))


def _open_routes(engine: Answering) -> APIRouter:
    router = APIRouter()

    @router.api_route("/health", methods=READING)  # which is how proxies ask
    async def health() -> Response:
        return JSONResponse({"status": "ok"} if engine.alive else {"status": "dead"}, 200 if engine.alive else 503)

    @router.api_route("/ready", methods=READING)
    async def ready() -> Response:
        said = "ready" if engine.ready else "not ready"
        return JSONResponse({"status": said, "adapters": engine.adapters.count}, 200 if engine.ready else 503)

    return router


def _routes(engine: Answering) -> APIRouter:
    router = APIRouter()
    _add_adapters(router, engine)

    @router.get("/metrics")
    async def metrics() -> Response:
        text = await run_in_threadpool(engine.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.post("/v1/predict")
    async def predict(request: Request) -> Response:
        asked = await bodies.read(request, schema.Predict, engine.limits)
        _note(request, engine, asked.adapter)
        answers = await _while_connected(request, engine.predict(asked.adapter, asked.rows))
        return _finite({"adapter": asked.adapter, "predictions": answers})

    @router.post("/v1/completions")
    async def completions(request: Request) -> Response:
        asked = await bodies.read(request, schema.Complete, engine.limits)
        return await _generated(engine, request, asked, asked.prompts, asked.max_tokens or _SHORTEST)

    @router.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await bodies.read(request, schema.Chat, engine.limits)
        messages = [message.plain() for message in asked.messages]
        return await _generated(engine, request, asked, [messages], asked.max_tokens)

    return router


def _add_adapters(router: APIRouter, engine: Answering) -> None:
    @router.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": engine.adapters.described(engine.adapters.cards)})

    @router.get("/v1/models/{name}")
    async def model(name: str) -> Response:
        return JSONResponse(engine.adapters.described([engine.adapters.card(name)])[0])

    @router.post("/v1/adapters")
    async def load(request: Request) -> Response:
        asked = await bodies.read(request, schema.Load, engine.limits)
        card = await engine.adapters.load_in_turn(asked.path, asked.name)
        return JSONResponse(engine.adapters.described([card])[0], 201)

    @router.delete("/v1/adapters/{name}")
    async def remove(name: str) -> Response:
        await run_in_threadpool(engine.adapters.remove, name)
        return JSONResponse({"id": name, "object": "model", "deleted": True})


def _note(request: Request, engine: Answering, name: str) -> None:
    """Have the log say which adapter was asked, if there is one of this name."""
    request.scope[FACTS] = {"adapter": engine.adapters.card(name).name}


async def _generated(
    engine: Answering, request: Request, asked: schema.Generate, prompts: list[Any], most: int | None
) -> Response:
    temperature, share = (1.0 if value is None else value for value in (asked.temperature, asked.top_p))
    wishes = Wishes(temperature, share, asked.seed)
    wish = Wish(most, asked.n or 1, wishes, tuple(asked.stops))
    _note(request, engine, asked.model)
    is_chat = isinstance(asked, schema.Chat)
    async with AsyncExitStack() as stack:
        completion = await stack.enter_async_context(engine.complete(asked.model, prompts, wish))
        answer = Answer(completion, asked.model, is_chat)
        if not asked.stream:
            return JSONResponse(await _while_connected(request, answer.whole()))
        pieces = completion.pieces()
        first = await _while_connected(request, _first(pieces))
        held = stack.pop_all()
    events = _until_done(answer.stream(first, pieces, asked.with_usage), held)
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _first(pieces: AsyncIterator[list[Piece]]) -> list[Piece]:
    """The first pieces: what goes wrong before them is still told by the status."""
    async for first in pieces:
        return first
    return []


async def _until_done(events: AsyncIterator[str], held: AsyncExitStack) -> AsyncIterator[str]:
    async with held:
        async for event in events:
            yield event


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives, unless the client hangs up, which ends it.

    Raises:
        ApiError: It has hung up.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError("The client hung up.", _NO_CLIENT, "client_gone")
    finally:
        for other in (task, gone):
            other.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _finite(answer: dict[str, Any]) -> Response:
    """A JSON answer, if all of its numbers are some."""
    try:
        return JSONResponse(answer)
    except ValueError as error:
        raise not_finite() from error
