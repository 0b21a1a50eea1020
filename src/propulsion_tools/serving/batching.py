"""Rows of different requests and adapters, answered together by one thread that runs the model."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from propulsion import AdapterBank
from propulsion_tools.serving.cards import Card
from propulsion_tools.serving.errors import not_finite
from propulsion_tools.serving.metrics import Metrics
from propulsion_tools.serving.model_thread import ModelThread
from propulsion_tools.serving.prediction import Answer, Row
from propulsion_tools.tasks.base import forward_arguments
from propulsion_tools.tasks.metrics import to_numpy


@dataclass(eq=False)
class Asked:
    """The rows of one request.

    Attributes:
        card: Its adapter.
        rows: Encoded.
        future: Gets the answer of each row, or an error; cancelled by who asked, it frees the places of its rows.
        answers: What there is of them, by the number of the row.
    """

    card: Card
    rows: list[Row]
    future: Future[list[Answer]] = field(default_factory=Future)
    answers: dict[int, Answer] = field(default_factory=dict)

    def take(self, number: int, answer: Answer) -> None:
        """Note the answer of a row."""
        self.answers[number] = answer
        if len(self.answers) == len(self.rows):
            self._end(lambda: self.future.set_result([self.answers[row] for row in range(len(self.rows))]))

    def fail(self, error: BaseException) -> None:
        """There will be no answer."""
        self._end(lambda: self.future.set_exception(error))

    @staticmethod
    def _end(end: Callable[[], None]) -> None:
        with contextlib.suppress(InvalidStateError):  # it was given up
            end()


Place = tuple[Asked, int]
"""A row of a request."""


class Batcher(ModelThread[tuple[float, Place]]):
    """Answers rows in batches, each with its own adapter.

    A batch begins when its first row has waited for `max_wait` seconds, or `max_batch` rows are there. Rows are taken
    in the order in which they came; those of adapters with other tokenizers, which pad differently, have to wait for a
    batch of their own.

    Args:
        bank: Runs the model.
        max_batch: Rows of a batch.
        max_wait: In seconds.
        max_queue: Rows that may wait.
        capacity: How many adapters may be in a batch; None: any number.
        metrics: Is told of the batches.
    """

    def __init__(
        self,
        bank: AdapterBank,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        capacity: int | None,
        metrics: Metrics,
    ) -> None:
        self._max_wait = max_wait
        super().__init__(bank, max_batch, max_queue, capacity, metrics)

    def submit(self, asked: Asked) -> None:
        """Have the rows of a request answered.

        Raises:
            ApiError: Too many wait (429), or this is about to end (503).
        """
        now = time.monotonic()
        self._accept([(now, (asked, number)) for number in range(len(asked.rows))])
        asked.future.add_done_callback(
            lambda future: future.cancelled() and self._withdraw(lambda item: item[1][0] is asked)
        )

    def _run(self) -> None:
        while batch := self._next():
            self._metrics.batches.observe(len(batch))
            self._answer(batch)

    def _next(self) -> list[Place]:
        """The rows of the next batch; none when everything is answered and nothing will come."""
        with self._changed:
            while not self._closed or self._waiting:
                if not self._waiting:
                    self._changed.wait()
                    continue
                left = self._waiting[0][0] + self._max_wait - time.monotonic()
                if left > 0 and len(self._waiting) < self._max_batch and not self._closed:
                    self._changed.wait(left)
                    continue
                return self._taken()
            return []

    def _taken(self) -> list[Place]:
        tokenizer = self._waiting[0][1][0].card.setup.tokenizer
        taken: list[Place] = []
        kept: deque[tuple[float, Place]] = deque()
        adapters: set[str] = set()
        while self._waiting and len(taken) < self._max_batch:
            item = self._waiting.popleft()
            card = item[1][0].card
            fits = self._capacity is None or len(adapters | {card.row}) <= self._capacity
            if fits and card.setup.tokenizer is tokenizer:
                taken.append(item[1])
                adapters.add(card.row)
            else:
                kept.append(item)
        self._waiting.extendleft(reversed(kept))
        return taken

    def _answer(self, batch: list[Place]) -> None:
        """Answer a batch; if it fails, request by request, so that one cannot spoil another's answer."""
        try:
            answers = self._answers(batch)
        except Exception as error:
            requests = dict.fromkeys(asked for asked, _ in batch)
            if len(requests) == 1:
                batch[0][0].fail(error)
                return
            for request in requests:
                self._answer([place for place in batch if place[0] is request])
            return
        for (asked, number), answer in zip(batch, answers, strict=True):
            if answer is None:
                asked.fail(not_finite())
            else:
                asked.take(number, answer)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _answers(self, batch: list[Place]) -> list[Answer | None]:
        cards = [asked.card for asked, _ in batch]
        task, setup = cards[0].task, cards[0].setup
        read = task.collator(setup)([asked.rows[number] for asked, number in batch])
        tensors = {name: value.to(self._device) for name, value in read.items() if isinstance(value, Tensor)}
        self._metrics.tokens.labels("prompt").inc(int(tensors["attention_mask"].sum()))
        outputs = self._bank(**forward_arguments(tensors), adapter_names=[card.row for card in cards])
        answers: Any = task.answer(self._bank.base_model, tensors, setup, outputs)
        parts = [to_numpy(part) for part in (answers if isinstance(answers, tuple) else (answers,))]
        # Beside heads with more labels a row ends in -inf.
        return [
            None if nan else tuple(part[row : row + 1, : card.width] for part in parts)
            for row, (card, nan) in enumerate(zip(cards, _nan_rows(outputs), strict=True))
        ]


def _nan_rows(outputs: Any) -> list[bool]:
    """For each row whether the model gave something that is no number."""
    parts = [value.isnan().flatten(1).any(1) for value in outputs.values() if torch.is_tensor(value)]
    return torch.stack(parts).any(0).tolist()
