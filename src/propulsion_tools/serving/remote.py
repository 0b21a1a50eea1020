"""Answers requests by replicas of the model in a Ray cluster: the vectors are there, and the list of adapters here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from propulsion_tools.records.options import ServeOptions
from propulsion_tools.serving.adapters import Adapters
from propulsion_tools.serving.errors import ApiError, as_api_error, overloaded, shutting_down
from propulsion_tools.serving.fingerprints import fingerprint
from propulsion_tools.serving.interface import Piece, Wish
from propulsion_tools.serving.loading import Plan
from propulsion_tools.serving.logs import LOG
from propulsion_tools.serving.metrics import Metrics
from propulsion_tools.serving.prediction import Input
from propulsion_tools.serving.prompts import Prompt
from propulsion_tools.serving.timing import refuse_late
from propulsion_tools.serving.wire import Begun, Entry, Reply, Step

T = TypeVar("T")


class Application(Protocol):
    """The replicas, and how they are."""

    handle: Any
    """Ray Serve's `DeploymentHandle` of the deployment of `Replica`."""

    @property
    def running(self) -> int:
        """How many replicas there are that answer."""

    @property
    def alive(self) -> bool:
        """Whether the cluster is there."""

    @property
    def takes_requests(self) -> bool:
        """Whether a replica answers, or will be started for a request."""

    def close(self) -> None:
        """End them."""


class RemoteShelf:
    """The vectors in the replicas, as `Adapters` needs them.

    Args:
        plan: What is served.
        ask: Has a replica load an adapter, and gives what it says.
    """

    def __init__(self, plan: Plan, ask: Callable[[Entry], Any]) -> None:
        self._plan, self._root, self._ask = plan.key, Path(plan.options.adapters), ask
        base = Entry(self._plan)
        self._known: dict[str, tuple[Entry, int | None]] = {base.row: (base, None)}

    @property
    def resident(self) -> None:
        """Each replica holds what it was asked for."""

    def load(self, path: Path, name: str) -> None:
        """Have a replica load an adapter, which thereby tells whether it can be served."""
        entry = Entry(self._plan, fingerprint(path), str(path.relative_to(self._root)))
        self._known[name] = entry, self._ask(entry)

    def remove(self, name: str) -> None:
        """Ask for it no more. Replicas drop what nobody asks for when others need its place."""
        del self._known[name]

    def num_labels(self, name: str) -> int | None:
        """How many its head has."""
        return self._known[name][1]

    def entry(self, name: str) -> Entry:
        """What replicas are told of it."""
        return self._known[name][0]


class RemoteEngine:
    """Has the replicas of an application answer, each request once.

    A replica that dies takes its requests with it: they get 503, and it is for the client to send them again.

    Args:
        application: The replicas.
        plan: What they serve.
    """

    def __init__(self, application: Application, plan: Plan) -> None:
        self.limits: ServeOptions = plan.options
        self.metrics = Metrics()
        root, most = Path(plan.options.adapters), plan.options.max_adapters
        self._application, self._shelf = application, RemoteShelf(plan, self._load)
        self.adapters = Adapters(self._shelf, root, plan.kind, plan.setup, limit=most)
        self._open = True
        self.metrics.gauge("replicas", "Replicas that answer", lambda: application.running)
        self.metrics.gauge("adapters", "Known adapters", lambda: self.adapters.count)

    @property
    def alive(self) -> bool:
        """Whether the cluster is there."""
        return self._application.alive

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._open and self._application.takes_requests

    def close_door(self) -> None:
        """Take no more requests."""
        self._open = False

    def close(self) -> None:
        """End the replicas."""
        self.close_door()
        self._application.close()

    async def predict(self, name: str, inputs: Sequence[Input]) -> list[dict[str, Any]]:
        """An adapter's answers, as `Answering` has it."""
        self._check_open()
        with self.adapters.in_use(name) as card:
            entry = self._shelf.entry(card.row)
            response = self._handle(entry).predict.remote(entry, inputs)
            try:
                reply: Reply = await self._arrived(response, self.limits.request_timeout)
            except BaseException:
                _cancel(response)
                raise
            answers: list[dict[str, Any]] = reply.result()
            return answers

    @asynccontextmanager
    async def complete(self, name: str, prompts: Sequence[Prompt], wish: Wish) -> AsyncIterator[RemoteTexts]:
        """Generate texts until the block ends, as `Answering` has it."""
        self._check_open()
        with self.adapters.in_use(name) as card:
            entry = self._shelf.entry(card.row)
            last = asyncio.get_running_loop().time() + self.limits.request_timeout
            stream = self._handle(entry).options(stream=True).complete.remote(entry, prompts, wish)

            async def following() -> Any:
                left = last - asyncio.get_running_loop().time()
                if (reply := await self._arrived(_next(stream), left)) is None:
                    _refuse_lost()  # it has ended before the texts have
                return reply.result()

            texts: RemoteTexts | None = None
            try:
                texts = RemoteTexts(await following(), following)
                yield texts
            finally:
                if texts is None or texts.left:
                    _cancel(stream)

    def _load(self, entry: Entry) -> Any:
        """Called in threads: each adapter that is loaded is first loaded by a replica, which may refuse it."""
        try:
            reply: Reply = self._handle(entry).load.remote(entry).result(timeout_s=self.limits.request_timeout)
        except Exception as error:
            self._refuse(error)
        return reply.result()

    def _handle(self, entry: Entry) -> Any:
        handle = self._application.handle
        return handle.options(multiplexed_model_id=entry.model_id) if entry.model_id else handle

    async def _arrived(self, awaited: Awaitable[T], seconds: float) -> T:
        """What a replica sends, if it comes within so many seconds."""
        task = asyncio.ensure_future(_awaited(awaited))
        try:
            done, _ = await asyncio.wait({task}, timeout=max(0, seconds))
        finally:
            task.cancel()
        if not done:
            self._refuse(TimeoutError())
        if task.cancelled():  # by the replica, as nobody has left here
            _refuse_lost()
        try:
            return task.result()
        except Exception as error:
            self._refuse(error)

    def _refuse(self, error: Exception) -> NoReturn:
        """Tell a client that Ray brings no reply."""
        if isinstance(error, TimeoutError):
            if not self._application.takes_requests:
                _refuse_without_replica()
            refuse_late()
        if isinstance(error, BackPressureError):
            raise overloaded(self.limits.max_queue) from error
        if isinstance(error, RayError | RayServeException) and not isinstance(error, RayTaskError):
            LOG.warning("replica lost", extra={"facts": {"error": type(error).__name__}})
            _refuse_lost()
        LOG.error("replica failed", exc_info=error)
        raise as_api_error(error) from error

    def _check_open(self) -> None:
        if not self._open:
            raise shutting_down()
        if not self._application.takes_requests:
            _refuse_without_replica()


class RemoteTexts:
    """A `Completion` of a replica.

    Args:
        begun: What it said first.
        following: What it says next.

    Attributes:
        left: How many texts go on.
    """

    def __init__(self, begun: Begun, following: Callable[[], Awaitable[Step]]) -> None:
        self.count, self.prompt_tokens, self.made = begun.count, begun.prompt_tokens, 0
        self.left = begun.count
        self._following = following

    async def pieces(self) -> AsyncIterator[list[Piece]]:
        """What is added to the texts, step by step, until all have ended.

        Raises:
            ApiError: One cannot be generated, the replica is lost (503), or it takes too long (504).
        """
        while self.left:
            step = await self._following()
            self.made = step.made
            self.left -= sum(finish is not None for _, _, finish in step.pieces)
            yield step.pieces


def _cancel(response: Any) -> None:
    """Tell the replica that nobody waits for it any more."""
    with contextlib.suppress(Exception):  # it raises what has failed before
        response.cancel()


async def _awaited(awaited: Awaitable[T]) -> T:
    return await awaited


async def _next(stream: Any) -> Any:
    async for reply in stream:
        return reply
    return None


def _refuse_lost() -> NoReturn:
    said = "The replica that had this request was lost: send the request again."
    raise ApiError(said, 503, "replica_lost", {"Retry-After": "1"})


def _refuse_without_replica() -> NoReturn:
    raise ApiError("No replica answers now: send the request again.", 503, "no_replica", {"Retry-After": "5"})
