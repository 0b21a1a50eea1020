"""The application over replicas of Ray Serve: the same answers, and a replica that dies loses its own requests only."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest

from propulsion_tools.records.options import ServeOptions
from propulsion_tools.serving.wire import Entry
from tests.processes import environment
from tests.serving.client import Client, Reply, running
from tests.serving.conftest import open_engine
from tests.serving.test_generation import NAMES, adapters, tokenizer
from tests.tiny_models import tiny_model

pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'propulsion-peft[serve-ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
TEXTS = [f"the film was {word}" for word in ("good", "bad", "a film", "good good good", "bad a the")] * 6
LONG = 30_000  # tokens of a text that is not to end by itself
Served = tuple[Client, Client]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of this process, whose replicas find the source."""
    import ray

    from propulsion_tools.training.ray_cluster import connect

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_metrics_report_interval_ms", "500")
        patch.setenv("TORCHDYNAMO_DISABLE", "1")  # or bitsandbytes brings all of Inductor, which nothing here uses
        connect(ray, None, 4)
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def room(classifiers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of three tasks, and one that is not in the folder."""
    folder = tmp_path_factory.mktemp("room")
    for name in ("mood", "topic", "stars"):
        shutil.copytree(classifiers / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaMA of long texts, and two adapters of it."""
    folder = tmp_path_factory.mktemp("long")
    base = tiny_model("llama", "lm")
    base.config.max_position_embeddings = 2 * LONG
    base.save_pretrained(folder / "base")
    tokenizer().save_pretrained(folder / "base")
    for name, model in adapters("llama").items():
        model.peft_config["default"].base_model_name_or_path = str(folder / "base")
        model.save_pretrained(folder / "adapters" / name)
    return folder / "adapters"


def only_wait(sentence: str) -> None:
    assert sentence.startswith("Waiting"), sentence


def replicated(folder: Path) -> Any:
    """Texts by as many replicas as Ray decides on, which is one."""
    from propulsion_tools.serving.cluster import open_replicas

    settings = folder.parent / "ray.yaml"
    settings.write_text("autoscaling_config: {min_replicas: 0, max_replicas: 1}")
    options = {
        "backend": "ray",
        "ray_settings": str(settings),
        "ray_application": "texts",
        "max_batch_size": 2,
        "max_new_tokens": LONG,
    }
    return open_replicas(ServeOptions(adapters=str(folder), use_cpu=True, **options), only_wait)


@pytest.fixture(scope="module")
def served(cluster: Any, room: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Predictions by two replicas of the command in the cluster, and texts by one of this process."""
    address = cluster.get_runtime_context().gcs_address
    surroundings = environment(RAY_ADDRESS=address)
    words = ["--adapters", str(room), "--backend", "ray", "--replicas", "2", "--ray_application", "predictions"]
    command = [sys.executable, "-m", "propulsion", "serve", *words, "--use_cpu", "--port", "0"]
    log = tmp_path_factory.mktemp("log") / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=surroundings) as process,
    ):
        try:
            with running(replicated(folder)) as texts:
                assert process.stdout is not None
                lines = iter(process.stdout.readline, "")
                port = next(int(found[1]) for line in lines if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line)))
                yield Client(port), texts
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0
        finally:
            process.kill()
    assert "film" not in log.read_text()


def replicas_of(name: str) -> list[psutil.Process]:
    """The processes of an application."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if f"ServeReplica:{name}:" in " ".join(process.cmdline())]


def until(holds: Callable[[], bool]) -> None:
    """Wait; the test's timeout ends a wait for nothing."""
    while not holds():
        time.sleep(0.05)


def scores(reply: Reply) -> list[Any]:
    return [list(row["scores"].values()) if "scores" in row else row for row in reply.json["predictions"]]


def counting() -> set[Any]:
    """What Ray's handles do at even times in this process, in a loop of theirs: they count for the cluster.

    Loops that were there when objects were frozen (tests/conftest.py) are not found: so its test is the first of Ray's.
    """
    loops = [found for found in gc.get_objects() if issubclass(type(found), asyncio.AbstractEventLoop)]
    tasks = {task for loop in loops if loop.is_running() for task in asyncio.all_tasks(loop)}
    return {task for task in tasks if "metrics" in task.get_coro().__qualname__}


def test_replicas_that_are_closed_are_counted_no_more(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from propulsion_tools.serving import cluster as clusters

    class Empty:
        """A replica without a model, for a class of its own is what is sent."""

        def __init__(self, options: ServeOptions) -> None:
            pass

        def __call__(self) -> str:
            return "here"

    monkeypatch.setattr(clusters, "Replica", Empty)
    settings = tmp_path / "ray.yaml"
    settings.write_text("autoscaling_config: {min_replicas: 1, max_replicas: 1}")  # without it Ray counts nothing
    options = {"backend": "ray", "ray_settings": str(settings), "ray_application": "closed"}
    before = counting()
    application = clusters.RayApplication(ServeOptions(adapters=str(tmp_path), use_cpu=True, **options), only_wait)
    try:
        assert application.handle.remote().result() == "here"
        until(lambda: counting() > before)
    finally:
        application.close()
    assert counting() == before  # else Ray starts another cluster to count for, once this one is gone


def test_an_adapter_is_asked_for_where_it_is_held(cluster: Any, served: Served) -> None:
    client, _ = served
    until(lambda: client.number("propulsion_replicas") == 2)
    for _ in range(30):
        for name in ("mood", "topic"):
            assert client("POST", "/v1/predict", {"adapter": name, "inputs": "the film was good"}).status == 200
    until(lambda: number(cluster, "propulsion_batch_rows_count", "predictions") >= 60)
    assert number(cluster, "propulsion_adapters", "predictions") < 2 * 3  # what two replicas would hold if any would do


def test_replicas_answer_for_no_server_of_others(cluster: Any, served: Served) -> None:
    from ray import serve

    reply = serve.get_app_handle("texts").load.remote(Entry("something else")).result()
    assert (reply.error.status, reply.error.code) == (503, "replicas_taken")


def test_a_replica_that_is_killed_under_load_loses_its_own_requests_alone(served: Served, room: Path) -> None:
    client, _ = served
    until(lambda: client.number("propulsion_replicas") == 2)
    bodies = {name: {"adapter": name, "inputs": TEXTS} for name in ("mood", "topic")}
    with running(open_engine(room)) as local:
        own = {name: scores(local("POST", "/v1/predict", body)) for name, body in bodies.items()}
    replies: list[tuple[str, Reply]] = []
    done = threading.Event()

    def ask(name: str) -> None:
        while not done.is_set():
            replies.append((name, client("POST", "/v1/predict", bodies[name])))

    threads = [threading.Thread(target=ask, args=(name,)) for name in bodies for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(replies) > 20)
        victim = replicas_of("predictions")[0]
        victim.kill()
        count = len(replies)
        until(lambda: len(replies) > count + 40 and client.number("propulsion_replicas") < 2)
        until(lambda: client.number("propulsion_replicas") == 2)  # another was started in its place
        count = len(replies)
        until(lambda: len(replies) > count + 20)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    for name, reply in replies:
        if reply.status == 503:
            assert reply.code in ("replica_lost", "no_replica")
            assert reply.headers["retry-after"]
        else:
            assert reply.status == 200, reply.text
            assert scores(reply) == [pytest.approx(row, abs=1e-5) for row in own[name]]


def test_adapters_come_and_go_in_all_replicas(served: Served, room: Path, classifiers: Path) -> None:
    client, _ = served
    asked = {"adapter": "new", "inputs": "the film was good"}
    assert client("POST", "/v1/predict", asked).code == "adapter_not_found"
    shutil.copytree(classifiers / "mood", room / "new")
    assert client("POST", "/v1/adapters", {"path": "new"}).json["labels"] == ["bad", "good"]
    first = scores(client("POST", "/v1/predict", asked))
    weights = room / "new" / "adapter_model.safetensors"
    weights.write_bytes(b"\0" * 100)
    reply = client("POST", "/v1/adapters", {"path": "new"})
    assert (reply.status, reply.code) == (422, "adapter_refused")
    assert str(room) not in reply.text
    assert scores(client("POST", "/v1/predict", asked)) == [pytest.approx(first[0], abs=1e-6)]
    shutil.copytree(classifiers / "topic", room / "new", dirs_exist_ok=True)
    assert client("POST", "/v1/adapters", {"path": "new"}).json["labels"] == ["a", "b", "c"]
    assert len(scores(client("POST", "/v1/predict", asked))[0]) == 3
    assert client("DELETE", "/v1/adapters/mood").json["deleted"]


def test_replicas_that_come_in_place_of_others_know_what_the_server_knows(served: Served, room: Path) -> None:
    client, _ = served
    shutil.copytree(room / "topic", room / "stars", dirs_exist_ok=True)  # and nobody has loaded that
    for process in replicas_of("predictions"):
        process.kill()
    asked = {"inputs": "the film was good"}
    pair = {"inputs": {"sentence1": "the film", "sentence2": "a film"}}
    assert len(scores(answered(client, {"adapter": "new", **asked}))[0]) == 3
    reply = answered(client, {"adapter": "stars", **pair})
    assert (reply.status, reply.code) == (503, "adapter_changed")
    assert answered(client, {"adapter": "mood", **asked}).code == "adapter_not_found"


def answered(client: Client, body: dict[str, Any]) -> Reply:
    """A reply, once a replica answers."""
    while any(code in (reply := client("POST", "/v1/predict", body)).text for code in ("replica_lost", "no_replica")):
        time.sleep(0.05)
    return reply


def events(client: Client, **more: Any) -> Iterator[dict[str, Any]]:
    """What a stream says, until it ends or is left."""
    link = HTTPConnection("127.0.0.1", client.port, timeout=120)
    body = {"model": NAMES[0], "prompt": "w5 w7", "temperature": 0, "stream": True, **more}
    link.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = link.getresponse()
    assert answer.status == 200
    try:
        for line in iter(answer.readline, b""):
            if line.strip() and line.strip() != b"data: [DONE]":
                yield json.loads(line.removeprefix(b"data: "))
    finally:
        answer.close()
        link.close()


def number(ray: Any, name: str, application: str) -> float:
    """What Ray has for Prometheus of an application, summed over its replicas."""
    node = ray.nodes()[0]
    with urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}") as page:
        lines = [line.rsplit(" ", 1) for line in page.read().decode().splitlines()]
    ours = [line for line in lines if f'application="{application}"' in line[0]]
    return sum(float(line[1]) for line in ours if line[0].split("{")[0] == f"ray_{name}")


def test_texts_are_those_of_this_machine(served: Served, folder: Path) -> None:
    _, client = served
    bodies = [
        {"model": name, "prompt": "w5 w7", "temperature": 0, "max_tokens": 8, "n": 2, "stop": stop}
        for name in (*NAMES, "__base__")
        for stop in (None, "w9")
    ]
    with running(open_engine(folder, max_new_tokens=LONG)) as local:
        for body in bodies:
            one, other = (each("POST", "/v1/completions", body).json for each in (client, local))
            assert one["choices"] == other["choices"]
            assert one["usage"] == other["usage"]
    streamed = "".join(event["choices"][0]["text"] for event in events(client, max_tokens=8))
    assert streamed == client("POST", "/v1/completions", {**bodies[0], "n": 1}).json["choices"][0]["text"]
    reply = client("POST", "/v1/completions", {**bodies[0], "prompt": [5] * 2 * LONG})
    assert (reply.status, reply.code) == (413, "input_too_long")


def test_who_hangs_up_frees_their_place_in_the_replica(cluster: Any, served: Served) -> None:
    _, client = served
    stream = events(client, max_tokens=LONG)
    next(stream)
    until(lambda: number(cluster, "propulsion_running_texts", "texts") == 1)
    stream.close()
    until(lambda: number(cluster, "propulsion_running_texts", "texts") == 0)
    assert number(cluster, "propulsion_tokens_total", "texts") < LONG  # of this text and those before it


def test_a_replica_that_is_lost_ends_its_streams_and_answers_none_twice(served: Served) -> None:
    _, client = served
    stream = events(client, max_tokens=LONG)
    next(stream)
    replies: list[Reply] = []
    body = {"model": NAMES[1], "prompt": "w5", "temperature": 0, "max_tokens": LONG}
    thread = threading.Thread(target=lambda: replies.append(client("POST", "/v1/completions", body)))
    thread.start()
    for _ in range(20):  # the other one has joined, or is about to
        next(stream)
    for process in replicas_of("texts"):
        process.kill()
    *_, last = stream
    assert last["error"]["code"] == "replica_lost"
    thread.join()
    assert (replies[0].status, replies[0].code) == (503, "replica_lost")
