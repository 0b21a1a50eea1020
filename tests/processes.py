"""Processes that are forked from one that has imported what they need, which takes longer than most of them."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch

COUNT = 2


def together(work: Callable[..., None], *arguments: Any, **environment: str) -> None:
    """Run a function in two processes at once, which know their ranks and find each other as those of torchrun do.

    Args:
        work: A function of a module, without a result.
        arguments: What it is given.
        environment: More that the processes find in their environment.

    Raises:
        AssertionError: It has failed in one of them, with its traceback, or one has not ended as it should.
    """
    context = forking()
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(COUNT)}
    place |= {"LOCAL_WORLD_SIZE": str(COUNT), **environment}
    listening, told = context.Pipe(duplex=False)
    processes = []
    for rank in range(COUNT):
        surroundings = {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        processes.append(context.Process(target=_work, args=(told, surroundings, work, arguments)))
        processes[-1].start()
    told.close()
    try:
        for _ in processes:
            failure = _next(listening)
            assert not failure, failure
        for process in processes:
            process.join()
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()


def forking() -> BaseContext:
    """What makes processes that have imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["propulsion_tools.compare.preload"])
    return context


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: Its own, or less than zero for the signal that ended it.
        out: What it printed.
        errors: What it printed on standard error.
    """

    status: int
    out: str
    errors: str


def forked(work: Callable[..., None], *arguments: Any) -> Ended:
    """Run a function of a module in a process that has imported everything; what it prints is kept."""
    with tempfile.TemporaryDirectory() as folder:
        process = forking().Process(target=_with_output_in, args=(folder, work, *arguments))  # type: ignore[attr-defined]
        process.start()
        try:
            process.join()
        finally:
            process.kill()
        return _ended(process.exitcode, Path(folder))


class WithPeftAlone:
    """Runs programs, each in a process that has imported PEFT, and nothing of ours."""

    _SERVER = """
import json, os, sys, traceback
import peft

for line in sys.stdin:
    folder, program = json.loads(line)
    child = os.fork()
    if not child:
        status = 1
        try:
            for number, name in ((1, "out"), (2, "errors")):
                os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT), number)
            exec(program, {"__name__": "__main__"})
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", self._SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def __call__(self, program: str) -> Ended:
        """How a program ended."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps([folder, program]), file=self._server.stdin, flush=True)
            return _ended(int(self._server.stdout.readline()), Path(folder))

    def close(self) -> None:
        """End the process that they are forked from."""
        self._server.communicate()


def environment(**more: str) -> dict[str, str]:
    """That of a process that is started anew, which finds what this one finds.

    It compiles nothing: or bitsandbytes would bring all of Inductor, a second of each start.
    """
    found = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, "PYTHONPATH": found, "TORCHDYNAMO_DISABLE": "1", **more}


def free_port() -> int:
    """A port of this machine that nothing listens to."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
    return port


def _with_output_in(folder: str, work: Callable[..., None], *arguments: Any) -> None:
    for number, name in ((1, "out"), (2, "errors")):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT), number)
    work(*arguments)


def _ended(status: int | None, folder: Path) -> Ended:
    return Ended(
        -1 if status is None else status, *((folder / name).read_text(encoding="utf-8") for name in ("out", "errors"))
    )


def _work(
    told: Connection, surroundings: dict[str, str], work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(surroundings)
    torch.set_num_threads(1)
    try:
        work(*arguments)
    except BaseException:
        told.send(traceback.format_exc())
    else:
        told.send("")


def _next(listening: Connection) -> str:
    """Why the next process that ends has failed, or nothing."""
    try:
        failure: str = listening.recv()
    except EOFError:
        return "A process has ended without a word."
    return failure
