"""What answers requests in this process: adapters, predictions, texts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool

from propulsion import AdapterBank
from propulsion_tools.records.options import ServeOptions
from propulsion_tools.serving.adapters import Adapters
from propulsion_tools.serving.batching import Asked, Batcher
from propulsion_tools.serving.cards import Card
from propulsion_tools.serving.errors import ApiError, shutting_down
from propulsion_tools.serving.generation import Event, Generator, Text
from propulsion_tools.serving.interface import Wish
from propulsion_tools.serving.loading import load_all, make_plan, open_base
from propulsion_tools.serving.metrics import Metrics
from propulsion_tools.serving.prediction import Input, accepted, decode, encode
from propulsion_tools.serving.prompts import Prompt, prompt_ids
from propulsion_tools.serving.texts import Texts
from propulsion_tools.serving.timing import in_time
from propulsion_tools.tasks.model_kinds import CAUSAL_LM
from propulsion_tools.training.base_models import longest_input
from propulsion_tools.training.notify import Notify


class Engine:
    """A base model with its adapters, and the thread that runs it.

    Args:
        bank: The base model.
        adapters: What is served, of which the bank holds the vectors.
        limits: How much a request may ask for, and how long it may take: the options that `adapters` was opened with.
    """

    def __init__(self, bank: AdapterBank, adapters: Adapters, limits: ServeOptions) -> None:
        self.adapters, self.limits, self.metrics = adapters, limits, Metrics()
        self._bank, most = bank, limits
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
        self.metrics.gauge("adapters", "Known adapters", lambda: adapters.count)
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
        """Answer what was accepted, and end; the base model is then as it was."""
        self.close_door()
        self.model.close()
        self._bank.close()

    async def predict(self, name: str, inputs: Sequence[Input]) -> list[dict[str, Any]]:
        """An adapter's answers, as `Answering` has it."""
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
    async def complete(self, name: str, prompts: Sequence[Prompt], wish: Wish) -> AsyncIterator[Texts]:
        """Generate texts until the block ends, as `Answering` has it."""
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
                read, seconds = sum(map(len, ids)), self.limits.request_timeout
                yield Texts(model, card, read, texts, events, wish.stops, seconds)
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
        return int(self._bank.base_model.get_input_embeddings().num_embeddings)

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


def open_engine(options: ServeOptions, notify: Notify) -> Engine:
    """The base model, and each adapter of the folder that can be served.

    Args:
        options: Name them.
        notify: Is told which adapters are left out, and why.

    Raises:
        OptionError: There is no such folder, or it is not clear what is to be served, or the model cannot be had.
    """
    plan = make_plan(options, notify)
    bank, adapters = open_base(plan)
    load_all(adapters, plan, notify)
    return Engine(bank, adapters, plan.options)


def _tell(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[list[Event]], events: list[Event]) -> None:
    """Events from the model's thread, to the one that answers; nobody may be there any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(queue.put_nowait, events)


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """The tokens at which `generate` would end a text."""
    said = getattr(model.generation_config, "eos_token_id", None)
    ends = said if isinstance(said, list) else [said]
    return {end for end in (*ends, tokenizer.eos_token_id) if end is not None}
