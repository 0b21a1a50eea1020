"""The one thread that runs a model, and what waits for it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from propulsion import AdapterBank
from propulsion_tools.serving.errors import overloaded, shutting_down
from propulsion_tools.serving.metrics import Metrics

T = TypeVar("T")


class ModelThread(ABC, Generic[T]):
    """Answers what was accepted, in a thread that begins here and ends when all is answered after `close`.

    Args:
        bank: Runs the model.
        max_batch: Rows that it reads at once.
        max_queue: Rows that may wait.
        capacity: How many adapters may be in a batch; None: any number.
        metrics: Is told what is done.
    """

    def __init__(
        self, bank: AdapterBank, max_batch: int, max_queue: int, capacity: int | None, metrics: Metrics
    ) -> None:
        self._bank, self._metrics = bank, metrics
        self._max_batch, self._max_queue, self._capacity = max_batch, max_queue, capacity
        self._device = next(bank.base_model.parameters()).device
        self._waiting: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many rows wait."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Answer what was accepted, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _accept(self, rows: Sequence[T]) -> None:
        """Have rows wait.

        Raises:
            ApiError: Too many wait (429), or this is about to end (503).
        """
        with self._changed:
            if self._closed:
                raise shutting_down()
            if self._waiting and len(self._waiting) + len(rows) > self._max_queue:
                raise overloaded(len(self._waiting))
            self._waiting.extend(rows)
            self._changed.notify_all()

    def _withdraw(self, is_gone: Callable[[T], bool]) -> list[T]:
        """Those that wait no longer."""
        with self._changed:
            gone = [row for row in self._waiting if is_gone(row)]
            self._waiting = deque(row for row in self._waiting if not is_gone(row))
        return gone

    @abstractmethod
    def _run(self) -> None:
        """What the thread does: answer what waits until `_closed`, and then the rest."""
