"""One copy of the base model in a Ray Serve deployment, with those of the adapters that it was asked for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextvars import ContextVar
from logging.config import dictConfig
from pathlib import Path
from typing import Any

from ray import serve

from propulsion_tools.records.options import ServeOptions
from propulsion_tools.serving.adapters import Adapters
from propulsion_tools.serving.cards import KINDS
from propulsion_tools.serving.engine import Engine
from propulsion_tools.serving.errors import ApiError
from propulsion_tools.serving.fingerprints import fingerprint
from propulsion_tools.serving.interface import Wish
from propulsion_tools.serving.loading import Plan, open_base
from propulsion_tools.serving.logs import settings
from propulsion_tools.serving.prediction import Input
from propulsion_tools.serving.prompts import Prompt
from propulsion_tools.serving.ray_metrics import report
from propulsion_tools.serving.wire import Begun, Entry, Reply, Step

_PATH: ContextVar[str] = ContextVar("path")


class Held:
    """An adapter that a replica holds. Ray Serve calls `__del__` when others need its place, and Python does again."""

    def __init__(self, adapters: Adapters, row: str) -> None:
        self._adapters, self._row, self._is_held = adapters, row, True

    def __del__(self) -> None:
        if self._is_held:
            self._is_held = False
            with contextlib.suppress(ApiError):
                self._adapters.remove(self._row)


class Replica:
    """Answers for the server: what is asked names its adapter by content, and where to load it from.

    Args:
        options: With whole paths, as in a `Plan`.
    """

    def __init__(self, options: ServeOptions) -> None:
        dictConfig(settings())
        plan = Plan(options, KINDS[str(options.task_type)], [])
        self._plan, self._root = plan.key, Path(options.adapters)
        bank, self._adapters = open_base(plan)
        self._engine, self._labels = Engine(bank, self._adapters, options), bank.num_labels
        report(self._engine.metrics)
        # A method would not do: Ray Serve keeps what it knows of it as an attribute of the function.
        self._held = serve.multiplexed(max_num_models_per_replica=options.max_adapters)(_loader(self))

    async def load(self, entry: Entry) -> Reply:
        """Hold an adapter: how many labels its head has."""

        async def labels() -> int | None:
            await self._hold(entry)
            return self._labels(self._adapters.card(entry.row).row)

        return await _told(labels())

    async def predict(self, entry: Entry, inputs: Sequence[Input]) -> Reply:
        """An adapter's answers."""

        async def answers() -> list[dict[str, Any]]:
            await self._hold(entry)
            return await self._engine.predict(entry.row, inputs)

        return await _told(answers())

    async def complete(self, entry: Entry, prompts: Sequence[Prompt], wish: Wish) -> AsyncIterator[Reply]:
        """`Begun`, and each `Step`; who asks no further gives the texts up."""
        try:
            await self._hold(entry)
            async with self._engine.complete(entry.row, prompts, wish) as completion:
                yield Reply(Begun(completion.count, completion.prompt_tokens))
                async for pieces in completion.pieces():
                    yield Reply(Step(pieces, completion.made))
        except Exception as error:
            yield Reply.refusal(error)

    def check_health(self) -> None:
        """For Ray Serve, which replaces a replica that is not well."""
        if not self._engine.alive:
            raise RuntimeError("The model's thread has ended.")

    async def load_row(self, row: str) -> Held:
        """Load the adapter that is asked for, if its files are still what they were."""
        path = _PATH.get()
        self._check_content(row, path)
        await self._adapters.load_in_turn(path, row)
        held = Held(self._adapters, row)
        self._check_content(row, path)
        return held

    async def _hold(self, entry: Entry) -> None:
        if entry.plan != self._plan:
            raise ApiError(
                "Another server has taken these replicas: name another --ray_application.", 503, "replicas_taken"
            )
        if entry.model_id:
            _PATH.set(entry.path)  # Ray Serve's loader takes the row alone
            await self._held(entry.row)

    def _check_content(self, row: str, path: str) -> None:
        if fingerprint(self._root / path) != row:
            raise ApiError(
                "A replica finds other files than were loaded: every machine has to see the same folder, and after a "
                "change the adapter is loaded again.",
                503,
                "adapter_changed",
            )


def _loader(replica: Replica) -> Any:
    async def load(row: str) -> Held:
        return await replica.load_row(row)

    return load


async def _told(answer: Awaitable[Any]) -> Reply:
    try:
        return Reply(await answer)
    except Exception as error:
        return Reply.refusal(error)
