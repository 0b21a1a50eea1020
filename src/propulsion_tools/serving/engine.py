"""What answers requests, whatever brings them: adapters, predictions, texts.

The application of `app` needs of an engine what is public here, and no more:

| | |
|---|---|
| `adapters` | `cards`, `card(name)`, `described(cards)`, `load(path, name)` and `remove(name)` |
| `limits`, `metrics` | what may be asked for, and what is counted |
| `await predict(name, inputs)` | the answers of a task |
| `async with complete(name, prompts, wish)` | a `Completion`, whose events are read |
| `ready`, `alive` | whether it takes requests; whether the model's thread is there |
| `close_door()`, `close()` | take no more requests; answer those that were taken, and end |
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool

from propulsion_tools.records.options import ServeOptions
from propulsion_tools.serving.adapters import Adapters
from propulsion_tools.serving.batching import Asked, Batcher
from propulsion_tools.serving.cards import Card
from propulsion_tools.serving.errors import ApiError, shutting_down
from propulsion_tools.serving.generation import Event, Generator, Text
from propulsion_tools.serving.metrics import Metrics
from propulsion_tools.serving.prediction import Input, accepted, decode, encode
from propulsion_tools.serving.prompts import Prompt, prompt_ids
from propulsion_tools.serving.sampling import Wishes
from propulsion_tools.tasks.model_kinds import CAUSAL_LM
from propulsion_tools.training.base_models import longest_input

T = TypeVar("T")


@dataclass(frozen=True)
class Wish:
    """How texts are generated.

    Args:
        most: Tokens of one text; None: as many as may be.
        choices: Texts for each prompt.
        wishes: How tokens are chosen.
    """

    most: int | None = None
    choices: int = 1
    wishes: Wishes = field(default_factory=Wishes)


class Completion:
    """Texts that are being generated.

    Attributes:
        card: The adapter.
        prompt_tokens: How many tokens the prompts have.
        texts: One for each prompt and choice, choices of a prompt side by side.
        ends: Tokens at which a text ends; they are no part of it.
    """

    def __init__(
        self,
        model: Generator,
        card: Card,
        prompt_tokens: int,
        texts: list[Text],
        events: asyncio.Queue[list[Event]],
        seconds: float,
    ) -> None:
        self.card, self.prompt_tokens, self.texts, self.ends = card, prompt_tokens, texts, model.ends
        self._model, self._events = model, events
        self._last = asyncio.get_running_loop().time() + seconds

    async def events(self) -> list[Event]:
        """What comes next of the texts: (number, token), or (number, None) at the end of one.

        Raises:
            ApiError: It takes too long (504).
        """
        return await in_time(self._events.get(), self._last - asyncio.get_running_loop().time())

    def give_up(self, number: int) -> None:
        """Generate no more of this text."""
        self._model.cancel([self.texts[number]])


class Engine:
    """A base model with its adapters, and the thread that runs it.

    Args:
        adapters: What is served.
        limits: How much a request may ask for, and how long it may take: the options that `adapters` was opened with.
    """

    def __init__(self, adapters: Adapters, limits: ServeOptions) -> None:
        self.adapters, self.limits, self.metrics = adapters, limits, Metrics()
        bank, most = adapters.bank, limits
        self._accepted = accepted(bank.base_model, adapters.kind)
        self._longest = longest_input(adapters.setup.config, adapters.setup.tokenizer)
        self._open = True
        self.model: Batcher | Generator
        if adapters.kind is CAUSAL_LM:
            ends = _ends(bank.base_model, adapters.setup.tokenizer)
            generator = Generator(bank, ends, most.max_batch_size, most.max_queue, most.capacity, self.metrics)
            self.model = generator
            self.metrics.gauge("running_texts", "Texts that are being generated", lambda: generator.running)
        else:
            wait = most.max_wait_ms / 1000
            self.model = Batcher(bank, most.max_batch_size, wait, most.max_queue, most.capacity, self.metrics)
        self.metrics.gauge("queue_rows", "Rows or texts that wait for the model", lambda: self.model.waiting)
        self.metrics.gauge("adapters", "Known adapters", lambda: len(adapters.cards))
        self.metrics.gauge("resident_adapters", "Adapters on the device", lambda: len(bank.resident))

    @property
    def alive(self) -> bool:
        """Whether the model's thread is there."""
        return self.model.alive

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._open and self.alive

    def close_door(self) -> None:
        """Take no more requests."""
        self._open = False

    def close(self) -> None:
        """Answer what was accepted, and end."""
        self.close_door()
        self.model.close()

    async def predict(self, name: str, inputs: Sequence[Input]) -> list[dict[str, Any]]:
        """An adapter's answers.

        Args:
            name: The adapter.
            inputs: Texts, or rows by column.

        Raises:
            ApiError: There will be none.
            DataError: An input is not what the adapter's task reads.
        """
        model = self._batcher()
        if len(inputs) > self.limits.max_inputs:
            raise ApiError(f"A request may have {self.limits.max_inputs} inputs: send fewer.", 413, "too_many_inputs")
        with self.adapters.in_use(name) as card:
            question = await run_in_threadpool(encode, card, inputs, self._accepted, self.limits.max_input_tokens)
            asked = Asked(card, question.encoded)
            model.submit(asked)
            answers = await in_time(asyncio.wrap_future(asked.future), self.limits.request_timeout)
            return await run_in_threadpool(decode, card, question, answers)

    @asynccontextmanager
    async def complete(self, name: str, prompts: Sequence[Prompt], wish: Wish) -> AsyncIterator[Completion]:
        """Generate texts until the block ends; those that go on then are given up.

        Args:
            name: The adapter.
            prompts: Texts, token ids, or the messages of a chat.
            wish: How they go on.

        Raises:
            ApiError: There will be none.
        """
        model = self._generator()
        count = len(prompts) * wish.choices
        if count > self.limits.max_inputs:
            raise ApiError(f"A request may have {self.limits.max_inputs} texts: ask for fewer.", 413, "too_many_inputs")
        with self.adapters.in_use(name) as card:
            ids = await run_in_threadpool(self._prompt_ids, card, prompts)
            events: asyncio.Queue[list[Event]] = asyncio.Queue()
            sink = partial(_tell, asyncio.get_running_loop(), events)
            texts = self._texts(card, ids, wish, sink)
            self.adapters.hold_more(card, len(texts))
            try:
                model.submit(texts)
            except BaseException:
                for text in texts:
                    text.release()
                raise
            try:
                yield Completion(model, card, sum(map(len, ids)), texts, events, self.limits.request_timeout)
            finally:
                model.cancel(texts)

    def _texts(self, card: Card, prompts: list[list[int]], wish: Wish, sink: Any) -> list[Text]:
        release = partial(self.adapters.release, card)
        texts: list[Text] = []
        for ids in prompts:
            most = self._most(len(ids), wish.most)
            for choice in range(wish.choices):
                seed = wish.wishes.seed
                wishes = replace(wish.wishes, seed=None if seed is None else (seed + choice) % 2**63)
                texts.append(Text(len(texts), card.row, ids, most, wishes, sink, release))
        return texts

    def _most(self, length: int, wanted: int | None) -> int:
        """How many tokens may follow a prompt."""
        limits = self.limits
        if length > limits.max_input_tokens:
            raise ApiError(f"The prompt has {length} tokens, of {limits.max_input_tokens}.", 413, "input_too_long")
        if wanted is not None and wanted > limits.max_new_tokens:
            raise ApiError(f"max_tokens is {wanted}, of {limits.max_new_tokens} at most.", 422, "bad_input")
        room = limits.max_new_tokens if self._longest is None else self._longest - length
        if room < (wanted or 1):
            said = f"The model takes {self._longest} tokens: the prompt has {length}, and {wanted or 1} are to follow."
            raise ApiError(said, 400, "context_length_exceeded")
        return wanted or min(room, limits.max_new_tokens)

    def _prompt_ids(self, card: Card, prompts: Sequence[Prompt]) -> list[list[int]]:
        return [prompt_ids(prompt, card.setup.tokenizer, self._vocabulary) for prompt in prompts]

    @property
    def _vocabulary(self) -> int:
        return int(self.adapters.bank.base_model.get_input_embeddings().num_embeddings)

    def _batcher(self) -> Batcher:
        self._check_open()
        if not isinstance(self.model, Batcher):
            raise ApiError("This server generates texts: use /v1/completions.", 400, "wrong_route")
        return self.model

    def _generator(self) -> Generator:
        self._check_open()
        if not isinstance(self.model, Generator):
            raise ApiError("This server's adapters do not generate texts: use /v1/predict.", 400, "wrong_route")
        return self.model

    def _check_open(self) -> None:
        if not self._open:
            raise shutting_down()


async def in_time(awaited: Awaitable[T], seconds: float) -> T:
    """What is awaited, if it comes within so many seconds.

    Raises:
        ApiError: It does not (504).
    """
    try:
        return await asyncio.wait_for(awaited, max(0, seconds))
    except asyncio.TimeoutError as error:
        raise ApiError("The answer has taken too long: ask for less, or later.", 504, "timeout") from error


def _tell(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[list[Event]], events: list[Event]) -> None:
    """Events from the model's thread, to the one that answers; nobody may be there any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(queue.put_nowait, events)


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """The tokens at which `generate` would end a text."""
    said = getattr(model.generation_config, "eos_token_id", None)
    ends = said if isinstance(said, list) else [said]
    return {end for end in (*ends, tokenizer.eos_token_id) if end is not None}
