"""The application over replicas of a Ray cluster: the same answers, and a replica that dies takes its requests alone."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest

from propulsion_tools.records.options import ServeOptions
from tests.serving.client import Client, Reply, running
from tests.serving.conftest import open_engine, refuse
from tests.serving.test_generation import NAMES, adapters, tokenizer
from tests.tiny_models import tiny_model

pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'propulsion-peft[serve-ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
TEXTS = [f"the film was {word}" for word in ("good", "bad", "a film", "good good good", "bad a the")] * 6
LONG = 3000  # tokens of a text that is not to end by itself
Ask = Callable[[str], Reply]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of this process, whose replicas find the source."""
    import ray

    from propulsion_tools.training.ray_cluster import connect

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_metrics_report_interval_ms", "500")
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


def replicated(folder: Path, name: str, replicas: int, **options: Any) -> Any:
    from propulsion_tools.serving.cluster import open_replicas

    own = {"backend": "ray", "ray_application": name, "replicas": replicas, "use_cpu": True}
    return open_replicas(ServeOptions(adapters=str(folder), **own, **options), refuse)


@pytest.fixture(scope="module")
def served(cluster: Any, room: Path, folder: Path) -> Iterator[tuple[Client, Client]]:
    """Predictions by two replicas, and texts by one."""
    with ExitStack() as stack:
        first = replicated(room, "predictions", 2)
        predictions = stack.enter_context(running(first))
        texts = replicated(folder, "texts", 1, max_batch_size=2, max_new_tokens=LONG)
        yield predictions, stack.enter_context(running(texts))


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


def test_a_replica_that_is_killed_under_load_loses_its_own_requests_alone(
    served: tuple[Client, Client], room: Path
) -> None:
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
