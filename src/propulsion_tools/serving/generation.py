"""Texts of different requests and adapters, generated together: rows join and leave between two tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from propulsion import AdapterBank
from propulsion_tools.errors import OptionError
from propulsion_tools.serving.caches import can_join, joined, kept
from propulsion_tools.serving.errors import not_finite
from propulsion_tools.serving.metrics import Metrics
from propulsion_tools.serving.model_thread import ModelThread
from propulsion_tools.serving.sampling import Wishes, choose
from propulsion_tools.tasks.base import accepted_by

Event = tuple[int, int | BaseException | None]
"""The number of a text in its request, and its next token, or why there is none, or None at its end."""
Sink = Callable[[list[Event]], None]


@dataclass(eq=False)
class Text:
    """One text that is generated.

    Args:
        number: Which of its request's.
        row: What the bank calls its adapter.
        prompt: Token ids, at least one.
        most: Tokens to generate at most.
        wishes: How they are chosen.
        sink: Gets what there is of the request's texts after each step, in the model's thread.
        release: Called once, when the model no longer needs its adapter.
    """

    number: int
    row: str
    prompt: list[int]
    most: int
    wishes: Wishes
    sink: Sink
    release: Callable[[], None]
    made: int = 0
    cancelled: bool = False
    has_left: bool = False
    generator: torch.Generator | None = field(init=False)

    def __post_init__(self) -> None:
        self.generator = self.wishes.generator()

    def leave(self) -> None:
        """Need the adapter no longer."""
        if not self.has_left:
            self.has_left = True
            self.release()


@dataclass
class Running:
    """The texts that are being generated, and what the model remembers of them.

    Attributes:
        texts: One for each row.
        tokens: The last of each, which the model has not read.
        cache: Keys and values of those before.
        mask: Which positions of the cache count, (rows, length), int64.
    """

    texts: list[Text]
    tokens: list[int]
    cache: DynamicCache
    mask: Tensor


class Generator(ModelThread[Text]):
    """Generates texts by joining and leaving, in one thread that runs the model.

    Before each step, texts that wait join those that run, as long as there is room; after it, those that have ended
    or were given up leave. What a greedy row gives is what the model's `generate` gives with its adapter alone, up to
    rounding.

    Args:
        bank: Runs the model.
        ends: Tokens at which a text ends.
        max_batch: Texts that run at once.
        max_queue: Texts that may wait.
        capacity: How many adapters may run at once; None: any number.
        metrics: Is told of steps and tokens.

    Raises:
        OptionError: The model keeps more than keys and values of each position.
    """

    def __init__(
        self,
        bank: AdapterBank,
        ends: set[int],
        max_batch: int,
        max_queue: int,
        capacity: int | None,
        metrics: Metrics,
    ) -> None:
        if not can_join(bank.base_model.config):
            raise OptionError(
                f"{bank.base_model.config.model_type} keeps more than keys and values of each token, so that texts "
                "cannot join and leave: serve another model."
            )
        self.ends = ends
        self._accepted = accepted_by(bank.base_model)
        self._running: Running | None = None
        self._steering = ExitStack()
        super().__init__(bank, max_batch, max_queue, capacity, metrics)

    @property
    def running(self) -> int:
        """How many texts are being generated."""
        running = self._running
        return len(running.texts) if running else 0

    def submit(self, texts: Sequence[Text]) -> None:
        """Have the texts of a request generated.

        Raises:
            ApiError: Too many wait (429), or this is about to end (503).
        """
        self._accept(texts)

    def cancel(self, texts: Sequence[Text]) -> None:
        """Give texts up; their places are free before the next step."""
        with self._changed:  # the model's thread lets texts in with it, and is not to see some of them change
            for text in texts:
                text.cancelled = True
            gone = self._withdraw(lambda text: text.cancelled)
        _release(gone)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and self._running is None and not self._closed:
                    self._changed.wait()
                joining = self._admitted()
            if not joining and self._running is None:
                if self._closed and not self._waiting:
                    return
                continue
            self._turn(joining)

    def _turn(self, joining: list[Text]) -> None:
        """Let texts in, take a step, and let those out that have ended; whatever fails, the thread goes on."""
        try:
            self._leave()
            if joining:
                self._join(joining)
            if self._running is not None:
                self._step(self._running)
        except Exception as error:
            running = self._running.texts if self._running else []
            self._give_up([*running, *joining], error)
            self._set(None)

    def _admitted(self) -> list[Text]:
        """The first of those that wait, as long as there is room for them and their adapters."""
        inside = [text for text in self._running.texts if not text.cancelled] if self._running else []
        adapters = {text.row for text in inside}
        admitted: list[Text] = []
        while self._waiting and len(inside) + len(admitted) < self._max_batch:
            row = self._waiting[0].row
            if self._capacity is not None and len(adapters | {row}) > self._capacity:
                break
            adapters.add(row)
            admitted.append(self._waiting.popleft())
        _release([text for text in admitted if text.cancelled])
        return [text for text in admitted if not text.cancelled]

    def _leave(self) -> None:
        running = self._running
        if running is None or not any(text.cancelled for text in running.texts):
            return
        gone = [text for text in running.texts if text.cancelled]
        rows = [row for row, text in enumerate(running.texts) if text not in gone]
        self._set(_with_rows(running, rows))
        _release(gone)

    def _join(self, texts: list[Text]) -> None:
        """Read prompts, together; if that fails, one by one, so that one cannot spoil another's text."""
        self._steering.close()  # who holds adapters may not wait for places of others
        try:
            new = self._read(texts)
        except Exception as error:
            if len(texts) == 1:
                self._give_up(texts, error)
            else:
                for text in texts:
                    self._join([text])
            self._steer(self._running)
            return
        running = self._running
        if running is None or new is None:
            self._set(new or running)
            return
        cache, mask = joined([running.cache, new.cache], [running.mask, new.mask])
        self._set(Running(running.texts + new.texts, running.tokens + new.tokens, cache, mask))

    def _read(self, texts: list[Text]) -> Running | None:
        """Texts with their first tokens; None if all have ended there."""
        longest = max(len(text.prompt) for text in texts)
        ids = torch.zeros(len(texts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, longest - len(text.prompt) :] = torch.tensor(text.prompt)
            mask[row, longest - len(text.prompt) :] = 1
        cache, mask = DynamicCache(), mask.to(self._device)
        with self._bank.steering([text.row for text in texts]):
            logits = self._forward(ids.to(self._device), mask, cache)
        self._metrics.tokens.labels("prompt").inc(sum(len(text.prompt) for text in texts))
        return self._advanced(Running(texts, [0] * len(texts), cache, mask), logits)

    def _step(self, running: Running) -> None:
        """One more token for each text."""
        ids = torch.tensor(running.tokens, device=self._device).unsqueeze(1)
        running.mask = torch.cat([running.mask, torch.ones_like(ids)], dim=1)
        self._metrics.batches.observe(len(running.texts))
        logits = self._forward(ids, running.mask, running.cache)
        after = self._advanced(running, logits)
        if after is not running:
            self._set(after)

    def _forward(self, ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """The scores of the next token, (rows, vocabulary)."""
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "past_key_values": cache}
        if "position_ids" in self._accepted:
            places = (mask.cumsum(-1) - 1).clamp(min=0)
            arguments["position_ids"] = places[:, -ids.shape[1] :]
        if "logits_to_keep" in self._accepted:
            arguments["logits_to_keep"] = 1
        logits: Tensor = self._bank.base_model(**arguments, use_cache=True).logits
        return logits[:, -1].float()

    def _advanced(self, running: Running, logits: Tensor) -> Running | None:
        """The texts with one more token, without those that have ended."""
        chosen = choose(logits, [(text.wishes, text.generator) for text in running.texts])
        events: dict[Sink, list[Event]] = {}
        going_on = []
        for row, (text, token) in enumerate(zip(running.texts, chosen, strict=True)):
            told = events.setdefault(text.sink, [])
            if token is None:
                told.append((text.number, not_finite()))
                continue
            text.made += 1
            told.append((text.number, token))
            if token in self.ends or text.made >= text.most:
                told.append((text.number, None))
            else:
                going_on.append(row)
        _release([text for row, text in enumerate(running.texts) if row not in going_on])
        self._metrics.tokens.labels("completion").inc(sum(token is not None for token in chosen))
        for sink, told in events.items():
            sink(told)
        running.tokens = [token or 0 for token in chosen]
        return running if len(going_on) == len(running.texts) else _with_rows(running, going_on)

    def _set(self, running: Running | None) -> None:
        """Go on with these texts, whose adapters are gathered once for all steps until the next change."""
        self._running = running
        self._steer(running)

    def _steer(self, running: Running | None) -> None:
        self._steering.close()
        if running is not None:
            self._steering.enter_context(self._bank.steering([text.row for text in running.texts]))

    @staticmethod
    def _give_up(texts: Sequence[Text], error: BaseException) -> None:
        for text in texts:
            if not text.has_left:
                text.sink([(text.number, error)])
        _release(texts)


def _release(texts: Sequence[Text]) -> None:
    for text in texts:
        text.leave()


def _with_rows(running: Running, rows: list[int]) -> Running | None:
    if not rows:
        return None
    cache, mask = kept(running.cache, running.mask, rows)
    return Running([running.texts[row] for row in rows], [running.tokens[row] for row in rows], cache, mask)
