"""`propulsion serve`: the application in a server of its own."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from socket import socket
from types import FrameType
from typing import Any

from uvicorn import Config, Server

from propulsion_tools.errors import OptionError
from propulsion_tools.records.options import ServeOptions
from propulsion_tools.serving.app import build_app
from propulsion_tools.serving.doors import KEY_VARIABLE, is_this_machine
from propulsion_tools.serving.engine import open_engine
from propulsion_tools.serving.interface import Answering
from propulsion_tools.serving.logs import settings
from propulsion_tools.training.notify import Notify, keep_quiet
from propulsion_tools.training.ray_cluster import import_ray

PROTOCOL: dict[str, Any] = {"http": "h11", "loop": "asyncio", "ws": "none"}
"""For `uvicorn.Config`: by itself it takes other code, with other refusals, where some packages are installed."""


class DrainingServer(Server):
    """A server that tells its engine at once when it is to end: /ready says so while answers are awaited.

    Args:
        config: Of uvicorn.
        engine: What answers.
        notify: Is told where it listens.
    """

    def __init__(self, config: Config, engine: Answering, notify: Notify) -> None:
        super().__init__(config)
        self._engine, self._notify = engine, notify

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """As uvicorn's, and then say where it listens."""
        await super().startup(sockets)
        for server in getattr(self, "servers", ()):
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                self._notify(f"Serving on http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn's, with the engine's door closed first."""
        self._engine.close_door()
        super().handle_exit(sig, frame)


def serve(options: ServeOptions, notify: Notify = keep_quiet) -> None:
    """Serve until SIGINT or SIGTERM, and then answer what was accepted.

    Args:
        options: What is served, where, and within which limits.
        notify: Is told what is served, and where.

    Raises:
        OptionError: It cannot be served, or the key is empty.
    """
    key = os.environ.get(KEY_VARIABLE)
    if key is not None and not key.strip():
        raise OptionError(f"{KEY_VARIABLE} is empty: unset it to serve without a key, or give it one.")
    engine = _opened(options, notify)
    count = len(engine.adapters.cards)
    served = f"{count} adapter{'' if count == 1 else 's'} of a {engine.adapters.kind.name}"
    notify(f"{served}{'' if key else ', open to all who reach the port'}.")
    config = Config(
        build_app(engine, key, is_this_machine(options.host)),
        host=options.host,
        port=options.port,
        log_config=settings(),
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(options.request_timeout) + 1,
        lifespan="off",
        **PROTOCOL,
    )
    with _signals_noted():
        try:
            DrainingServer(config, engine, notify).run()
        finally:
            engine.close()


def _opened(options: ServeOptions, notify: Notify) -> Answering:
    if options.backend == "local":
        return open_engine(options, notify)
    import_ray("ray.serve", "serve-ray", options.ray_address or os.environ.get("RAY_ADDRESS"))
    from propulsion_tools.serving.cluster import open_replicas

    return open_replicas(options, notify)


@contextlib.contextmanager
def _signals_noted() -> Iterator[None]:
    """uvicorn sends itself the signal again that has ended it: by then all is done, and it is to end nothing more."""
    before = {number: signal.signal(number, _noted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _noted(number: int, frame: FrameType | None) -> None:
    """Nothing more to do."""
