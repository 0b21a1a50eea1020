"""Processes that find each other as those of torchrun do, forked from one that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

COUNT = 2


def together(work: Callable[..., None], *arguments: Any, **environment: str) -> None:
    """Run a function in two processes at once, which know their ranks.

    Args:
        work: A function of a module, without a result.
        arguments: What it is given.
        environment: More that the processes find in their environment.

    Raises:
        AssertionError: It has failed in one of them, with its traceback, or one has not ended as it should.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["propulsion_tools.compare.preload"])
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


def free_port() -> int:
    """A port of this machine that nothing listens to."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
    return port


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
