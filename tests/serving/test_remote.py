"""Laws of the server's side of the replicas: what Ray may do to a call, and what the client is told then."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import re
import shutil
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
import transformers

from propulsion_tools.errors import OptionError, UnknownNameError
from propulsion_tools.records.options import ServeOptions
from propulsion_tools.serving.errors import ApiError, not_finite, overloaded
from propulsion_tools.serving.fingerprints import TOKENIZER_FILES, fingerprint
from propulsion_tools.serving.loading import load_all, make_plan
from propulsion_tools.serving.ray_settings import cores_needed, deployment_settings, scales_to_zero
from propulsion_tools.serving.wire import Begun, Entry, Reply, Step
from propulsion_tools.training.ray_cluster import connect, import_ray
from tests.serving.client import Client, running
from tests.serving.conftest import refuse
from tests.serving.test_generation import tokenizer
from tests.tiny_models import tiny_model

ASKED = {"adapter": "mood", "inputs": "the film was good"}


class Call:
    """A response of Ray Serve, by what a coroutine or an asynchronous generator does."""

    def __init__(self, work: Any) -> None:
        self.work, self.cancelled = work, threading.Event()

    def __await__(self) -> Any:
        return self.work.__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.work

    def result(self, timeout_s: float) -> Any:
        return asyncio.run(asyncio.wait_for(self.work, timeout_s))

    def cancel(self) -> None:
        """As Ray's, which raises what the call has failed with."""
        self.cancelled.set()
        raise RuntimeError("It has failed before.")


class Handle:
    """A handle of Ray Serve whose replica does what a test says."""

    def __init__(self) -> None:
        self.does: dict[str, Callable[..., Any]] = {}
        self.calls: list[tuple[str, str, Call]] = []

    def options(self, multiplexed_model_id: str = "", stream: bool = False) -> Any:
        return Bound(self, multiplexed_model_id)

    def __getattr__(self, method: str) -> Any:
        return getattr(Bound(self, ""), method)


class Bound:
    def __init__(self, handle: Handle, model_id: str) -> None:
        self._handle, self._model_id = handle, model_id

    def options(self, stream: bool) -> Bound:
        return self

    def __getattr__(self, method: str) -> Any:
        def remote(*given: Any) -> Call:
            call = Call(self._handle.does[method](*given))
            self._handle.calls.append((method, self._model_id, call))
            return call

        return type("Method", (), {"remote": staticmethod(remote)})


class Replicas:
    """An application of one replica."""

    def __init__(self) -> None:
        self.handle, self.running, self.alive, self.is_closed = Handle(), 1, True, False

    @property
    def takes_requests(self) -> bool:
        return self.alive and self.running > 0

    def close(self) -> None:
        self.is_closed = True


async def two_labels(entry: Entry) -> Reply:
    return Reply(2)


def room_of_ray(name: str) -> Any:
    """A module that imports Ray Serve."""
    return pytest.importorskip(
        f"propulsion_tools.serving.{name}",
        reason="Ray Serve is not installed: pip install 'propulsion-peft[serve-ray]'",
        exc_type=ImportError,
    )


def served(folder: Path, replicas: Replicas, load: Any = two_labels, **options: Any) -> Any:
    """The engine of a server over them."""
    remote = room_of_ray("remote")
    replicas.handle.does["load"] = load
    plan = make_plan(ServeOptions(adapters=str(folder), use_cpu=True, backend="ray", **options), refuse)
    engine = remote.RemoteEngine(replicas, plan)
    load_all(engine.adapters, plan, refuse)
    return engine


@pytest.fixture
def replicas() -> Replicas:
    return Replicas()


@pytest.fixture
def client(classifiers: Path, tmp_path: Path, replicas: Replicas) -> Iterator[Client]:
    """A server of one adapter."""
    shutil.copytree(classifiers / "mood", tmp_path / "mood")
    with running(served(tmp_path, replicas, request_timeout=0.5)) as client:
        yield client
    assert replicas.is_closed


def raising(error: Callable[[], BaseException]) -> Callable[..., Any]:
    async def call(*_: Any) -> Any:
        raise error()

    return call


def errors() -> dict[str, tuple[Callable[[], BaseException], int, str]]:
    """What Ray may raise, and what is told then."""

    def backpressure() -> BaseException:
        from ray.serve.exceptions import BackPressureError

        return BackPressureError(1, 1)

    def died() -> BaseException:
        from ray.exceptions import ActorDiedError

        return ActorDiedError()

    def unavailable() -> BaseException:
        from ray.exceptions import ActorUnavailableError

        return ActorUnavailableError("gone", None)

    return {
        "died": (died, 503, "replica_lost"),
        "unavailable": (unavailable, 503, "replica_lost"),
        "cancelled": (asyncio.CancelledError, 503, "replica_lost"),
        "busy": (backpressure, 429, "queue_full"),
        "bug": (KeyError, 500, "internal_error"),
    }


@pytest.mark.parametrize("name", errors())
def test_what_ray_raises_is_told_once(client: Client, replicas: Replicas, name: str) -> None:
    error, status, code = errors()[name]
    replicas.handle.does["predict"] = raising(error)
    reply = client("POST", "/v1/predict", ASKED)
    assert (reply.status, reply.code) == (status, code)
    assert ("retry-after" in reply.headers) == (status != 500)
    assert [method for method, *_ in replicas.handle.calls] == ["load", "predict"]


def test_a_request_goes_to_who_holds_its_adapter(client: Client, replicas: Replicas) -> None:
    async def predict(entry: Entry, inputs: list[Any]) -> Reply:
        return Reply([{"row": entry.row, "path": entry.path, "inputs": inputs}])

    replicas.handle.does["predict"] = predict
    (answer,) = client("POST", "/v1/predict", ASKED).json["predictions"]
    (_, loaded, _), (_, asked, call) = replicas.handle.calls
    assert loaded == asked == answer["row"]
    assert (answer["path"], answer["inputs"]) == ("mood", [ASKED["inputs"]])
    assert not call.cancelled.is_set()


def test_without_replicas_nothing_is_sent(client: Client, replicas: Replicas) -> None:
    replicas.running = 0
    assert client("GET", "/ready").status == 503
    assert client("GET", "/health").status == 200
    assert client("POST", "/v1/predict", ASKED).code == "no_replica"
    assert len(replicas.handle.calls) == 1
    replicas.alive = False
    assert client("GET", "/health").status == 503


def test_a_server_whose_replicas_find_other_files_does_not_start(classifiers: Path, replicas: Replicas) -> None:
    async def load(entry: Entry) -> Reply:
        return Reply.refusal(ApiError("Other files.", 503, "adapter_changed"))

    with pytest.raises(OptionError, match=r"mood cannot be loaded: Other files\."):
        served(classifiers, replicas, load)


def test_what_a_replica_fails_with_while_it_loads_is_no_damage(classifiers: Path, replicas: Replicas) -> None:
    remote = room_of_ray("remote")

    async def load(entry: Entry) -> Reply:
        raise remote.RayTaskError("load", "Traceback", KeyError("x"))

    with pytest.raises(OptionError, match=r"mood cannot be loaded: The server could not answer; its log says more\."):
        served(classifiers, replicas, load)


def test_a_replica_that_says_nothing_is_given_up(client: Client, replicas: Replicas) -> None:
    async def forever(*_: Any) -> Reply:
        await asyncio.sleep(3600)
        raise AssertionError

    replicas.handle.does["predict"] = forever
    assert client("POST", "/v1/predict", ASKED).code == "timeout"
    assert replicas.handle.calls[-1][2].cancelled.is_set()


def test_who_hangs_up_has_the_replica_told(classifiers: Path, tmp_path: Path, replicas: Replicas) -> None:
    begun = threading.Event()

    async def forever(*_: Any) -> Reply:
        begun.set()
        await asyncio.sleep(3600)
        raise AssertionError

    replicas.handle.does["predict"] = forever
    shutil.copytree(classifiers / "mood", tmp_path / "mood")
    with running(served(tmp_path, replicas)) as client:
        body = json.dumps(ASKED).encode()
        head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        with socket.create_connection(("127.0.0.1", client.port)) as link:
            link.sendall(head.encode() + b"\r\n\r\n" + body)
            assert begun.wait(60)
        assert replicas.handle.calls[-1][2].cancelled.wait(60)


def test_the_settings_of_a_file_win(tmp_path: Path) -> None:
    def settings(text: str) -> dict[str, Any]:
        (tmp_path / "ray.yaml").write_text(text)
        return deployment_settings(ServeOptions(backend="ray", replicas=3, ray_settings=str(tmp_path / "ray.yaml")))

    ours = deployment_settings(ServeOptions(backend="ray", replicas=3, max_batch_size=8))
    assert (ours["num_replicas"], ours["max_ongoing_requests"], cores_needed(ours)) == (3, 16, 3)
    one = settings("max_ongoing_requests: 5\nray_actor_options: {num_cpus: 2}")
    assert (one["num_replicas"], one["max_ongoing_requests"], cores_needed(one)) == (3, 5, 6)
    scaled = settings("autoscaling_config: {min_replicas: 0, max_replicas: 4}")
    assert "num_replicas" not in scaled
    assert scaled["autoscaling_config"]["initial_replicas"] == 1
    assert (cores_needed(scaled), scales_to_zero(scaled), scales_to_zero(ours)) == (4, True, False)
    bomb = "a0: &a0 1\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    wrong = (("- 1", "must hold"), ("a: [", "is not YAML"), ("a: 1\u0000", "is not YAML"), (bomb, "aliases"))
    for text, said in wrong:
        with pytest.raises(OptionError, match=said):
            settings(text)
    with pytest.raises(OptionError, match="cannot be read"):
        deployment_settings(ServeOptions(backend="ray", ray_settings=str(tmp_path)))


@pytest.mark.parametrize(
    "text", ["autoscaling_config: {min_replicas: 0, initial_replicas: x}", "ray_actor_options: {num_cpus: .inf}"]
)
def test_what_ray_does_not_take_is_told(text: str, tmp_path: Path) -> None:
    cluster = room_of_ray("cluster")
    (tmp_path / "ray.yaml").write_text(text)
    with pytest.raises(OptionError, match="Ray Serve does not take these settings"):
        cluster.RayApplication(ServeOptions(backend="ray", ray_settings=str(tmp_path / "ray.yaml")), refuse)


@pytest.mark.parametrize("address", [None, "local"])
def test_a_cluster_that_is_started_here_wants_a_token(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(os, "environ", {})
    import_ray("json", "serve-ray", address)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    begun: dict[str, Any] = {}
    connect(cast(ModuleType, SimpleNamespace(init=lambda **settings: begun.update(settings))), address, 3)
    assert (begun["address"], begun["num_cpus"], begun["include_dashboard"]) == ("local", 3, False)


def test_what_goes_with_ray_alone_is_told() -> None:
    for name, value in (("replicas", 2), ("ray_address", "auto"), ("ray_settings", "x"), ("ray_application", "x")):
        with pytest.raises(OptionError, match=f"{name} goes with --backend ray"):
            ServeOptions(**{name: value})
    with pytest.raises(UnknownNameError, match="Did you mean 'ray'"):
        ServeOptions(backend="rey")


def test_an_error_of_a_replica_is_the_same_here() -> None:
    error = pickle.loads(pickle.dumps(ApiError("No.", 429, "queue_full", {"Retry-After": "1"})))
    assert (error.body, error.status, error.headers) == (overloaded(0).body | error.body, 429, {"Retry-After": "1"})
    with pytest.raises(ApiError, match=r"No\."):
        Reply.refusal(error).result()


def test_a_fingerprint_is_that_of_the_content(classifiers: Path, tmp_path: Path) -> None:
    shutil.copytree(classifiers / "mood", tmp_path / "other")
    assert fingerprint(tmp_path / "other") == fingerprint(classifiers / "mood") != fingerprint(classifiers / "topic")
    files = ("adapter_config.json", "adapter_model.safetensors", "record.json", "tokenizer.json", "merges.txt")
    for file in (*files, "spm.model", "additional_chat_templates/tool_use.jinja"):
        before = fingerprint(tmp_path / "other")
        (tmp_path / "other" / file).parent.mkdir(exist_ok=True)
        with (tmp_path / "other" / file).open("a") as opened:
            opened.write(" ")
        assert fingerprint(tmp_path / "other") != before, file


def test_every_file_of_a_tokenizer_is_known() -> None:
    """Of those of transformers, by their source: to import them all would take a minute."""
    sources = Path(transformers.__file__).parent
    named = re.compile(r"""["']\w+["']: ["']([\w.-]+)["']""")
    found: set[str] = set()
    for source in [*sources.glob("tokenization*.py"), *sources.glob("models/*/tokenization_*.py")]:
        for names in re.findall(r"VOCAB_FILES_NAMES = \{(.*?)\}", source.read_text(encoding="utf-8"), re.DOTALL):
            found |= set(named.findall(names))
    assert {"vocab.txt", "spm.model", "bpe.codes"} <= found <= set(TOKENIZER_FILES)


@pytest.fixture
def texts(tmp_path: Path, replicas: Replicas) -> Iterator[Client]:
    """A server of a tiny LLaMA without adapters."""
    tiny_model("llama", "lm").save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    (tmp_path / "none").mkdir()
    named = {"model_name_or_path": str(tmp_path / "base"), "task_type": "CAUSAL_LM", "request_timeout": 0.5}
    with running(served(tmp_path / "none", replicas, **named)) as client:
        yield client


def saying(*replies: Reply | BaseException, ends: bool = True) -> Callable[..., Any]:
    async def complete(*_: Any) -> AsyncIterator[Reply]:
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
            yield reply
        await asyncio.sleep(0 if ends else 3600)

    return complete


BEGUN, ONE, LAST = Reply(Begun(1, 2)), Reply(Step([(0, "a", None)], 1)), Reply(Step([(0, "b", "length")], 2))


@pytest.mark.parametrize(
    ("does", "status", "code", "is_cancelled"),
    [
        (saying(BEGUN, ONE, LAST, ends=False), 200, None, False),
        (saying(BEGUN, ONE, asyncio.CancelledError()), 200, "replica_lost", True),
        (saying(BEGUN, ONE), 200, "replica_lost", True),
        (saying(BEGUN, ONE, ends=False), 200, "timeout", True),
        (saying(BEGUN, ONE, Reply.refusal(not_finite())), 200, "not_finite", True),
        (saying(BEGUN), 503, "replica_lost", True),
        (saying(), 503, "replica_lost", True),
        (saying(Reply.refusal(overloaded(3))), 429, "queue_full", True),
    ],
    ids=["ends", "cancelled", "cut", "silent", "refused", "cut before the first", "cut at once", "busy"],
)
def test_a_stream_ends_once_whatever_the_replica_does(
    texts: Client, replicas: Replicas, does: Any, status: int, code: str | None, is_cancelled: bool
) -> None:
    replicas.handle.does["complete"] = does
    body = {"model": "__base__", "prompt": "w5"}
    streamed, whole = (texts("POST", "/v1/completions", {**body, "stream": stream}) for stream in (True, False))
    assert streamed.status == status
    if status == 200:
        *events, last = (line for line in streamed.text.split("\n\n") if line)
        assert '"text": "a"' in events[0]
        assert (code in last) if code else (last == "data: [DONE]")
    else:
        assert streamed.code == code
    assert (whole.json["choices"][0]["text"] == "ab") if code is None else (whole.code == code)
    assert [model_id for _, model_id, _ in replicas.handle.calls] == ["", ""]
    assert [call.cancelled.is_set() for *_, call in replicas.handle.calls] == [is_cancelled] * 2
