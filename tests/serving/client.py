"""A server in a thread, and a client that says no more than HTTP."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import uvicorn

from propulsion_tools.serving.app import build_app
from propulsion_tools.serving.command import PROTOCOL
from propulsion_tools.serving.engine import Engine


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        """The word of an error."""
        return str(self.json["error"]["code"])


@dataclass(frozen=True)
class Client:
    """Sends requests to a port."""

    port: int
    key: str | None = None
    timeout: float = 60

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        key = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {"Content-Type": "application/json", **key, **headers})
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): v for name, v in answer.getheaders()}, answer.read().decode())
        finally:
            connection.close()

    def raw(self, data: bytes, *, ends: bool = False) -> bytes:
        """What comes back to some bytes, until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as link:
            link.sendall(data)
            if ends:
                link.shutdown(socket.SHUT_WR)
            received = b""
            with contextlib.suppress(ConnectionError):
                while chunk := link.recv(65536):
                    received += chunk
            return received

    def wait_until_idle(self) -> None:
        """Until nothing waits and nothing runs; an answer comes a little before its place is free."""
        while self.number("propulsion_running_texts") + self.number("propulsion_queue_rows") > 0:
            time.sleep(0.01)

    def number(self, name: str) -> float:
        """A number of /metrics, summed over its labels."""
        lines = [line.rsplit(" ", 1) for line in self("GET", "/metrics").text.splitlines()]
        return sum(float(line[1]) for line in lines if line[0].split("{")[0] == name)


@contextlib.contextmanager
def running(engine: Engine, key: str | None = None, is_local: bool = False) -> Iterator[Client]:
    """An engine on a free port."""
    quiet = {"log_level": "critical", "access_log": False, "lifespan": "off"}
    config = uvicorn.Config(build_app(engine, key, is_local), port=0, **quiet, **PROTOCOL)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Client(listening.getsockname()[1], key)
        finally:
            server.should_exit = True
            thread.join()
            engine.close()
