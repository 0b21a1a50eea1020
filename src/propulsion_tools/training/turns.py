"""Functions that go on in turns: each in a thread of its own, one at a time, until all of them ask for something.

What a process has once is kept for each: its random numbers, and what accelerate knows of the loop that it is in. So
each function computes as if it were alone.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from accelerate.state import GradientState

Result = TypeVar("Result")
Request = tuple[str, Any]


class _State:
    """What of a process is each function's own."""

    def __init__(self) -> None:
        self.numbers = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self.on_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        self.loop = dict(vars(GradientState()))

    def restore(self) -> None:
        ours, numpys, torchs = self.numbers
        random.setstate(ours)
        np.random.set_state(numpys)
        torch.set_rng_state(torchs)
        if self.on_cuda is not None:
            torch.cuda.set_rng_state_all(self.on_cuda)
        shared = vars(GradientState())
        shared.clear()
        shared.update(self.loop)


class _Closed(BaseException):
    """Ends a function that nobody waits for any more."""


class Turn(Generic[Result]):
    """One function, as itself and its leader see it.

    Attributes:
        number: Its place among the functions.
        request: What it asks for, while it waits.
        ended: Whether it has.
        result: What it gave, when it has ended well.
        error: What it raised.
    """

    def __init__(self, number: int, function: Callable[[Turn[Result]], Result], leader: threading.Semaphore) -> None:
        self.number, self.ended = number, False
        self.request: Request = ("start", None)
        self.result: Result | None = None
        self.error: BaseException | None = None
        self._function, self._leader, self._own = function, leader, threading.Semaphore(0)
        self._answer: Any = None
        self._closed = False
        self._state = _State()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def value(self) -> Result:
        """What it gave.

        Raises:
            BaseException: What it raised.
        """
        if self.error is not None:
            raise self.error
        return cast(Result, self.result)

    def ask(self, what: str, value: Any = None) -> Any:
        """Wait until the leader answers; called by the function itself."""
        self.request = what, value
        self._state = _State()
        self._leader.release()
        self._wait()
        return self._answer

    def _wait(self) -> None:
        self._own.acquire()
        if self._closed:
            raise _Closed
        self._state.restore()

    def _run(self) -> None:
        try:
            self._wait()
            self.result = self._function(self)
        except _Closed:
            return
        except BaseException as error:
            self.error = error
        self.ended = True
        self._leader.release()

    def go_on(self, answer: Any = None) -> None:
        """Let the function go on to its next request or its end; called by the leader."""
        self._answer = answer
        self._own.release()
        self._leader.acquire()

    def close(self) -> None:
        """End the function where it waits."""
        self._closed = True
        self._own.release()
        self._thread.join(1.0)


Serve = Callable[[Sequence[Turn[Result]]], dict[int, Any]]


def take_turns(functions: Sequence[Callable[[Turn[Result]], Result]], serve: Serve[Result]) -> list[Turn[Result]]:
    """Run functions in turns until all have ended.

    Args:
        functions: Each gets its turn, by which it asks.
        serve: Gets those that wait, when every function waits or has ended, and answers some of them, at least one, by
            their numbers; it runs in the calling thread.

    Returns:
        The turns, with results and errors.

    Raises:
        BaseException: One of them was interrupted, and with it all are.
    """
    before, leader = _State(), threading.Semaphore(0)
    turns = [Turn(number, function, leader) for number, function in enumerate(functions)]
    answers: dict[int, Any] = dict.fromkeys(range(len(turns)))
    try:
        while answers:
            for number, answer in answers.items():
                turns[number].go_on(answer)
                if (error := turns[number].error) is not None and not isinstance(error, Exception):
                    raise error
            waiting = [turn for turn in turns if not turn.ended]
            answers = serve(waiting) if waiting else {}
    finally:
        for turn in turns:
            if not turn.ended:
                turn.close()
        before.restore()
    return turns
