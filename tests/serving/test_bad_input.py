"""What bad and hostile requests get: a status and a sentence, and the others go on."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from propulsion_tools.errors import OptionError
from propulsion_tools.serving import batching
from propulsion_tools.serving.cards import Sketch
from propulsion_tools.serving.doors import is_this_machine
from propulsion_tools.serving.errors import ApiError
from propulsion_tools.serving.logs import JsonLines
from propulsion_tools.training.manifest import write_manifest
from tests.serving.client import Client, running
from tests.serving.conftest import open_engine

ASKED = {"adapter": "mood", "inputs": "the film was good"}
THREADS = 50
"""More than the server answers with."""
BODY = json.dumps(ASKED).encode()
HEAD = "POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
DEEP = b"[" * 100_000 + b"]" * 100_000
REFUSED: list[tuple[Any, int, str]] = [
    (b"", 400, "bad_json"),
    (b"{", 400, "bad_json"),
    (b"\xff\xfe", 400, "bad_json"),
    (DEEP, 400, "bad_json"),
    (b'{"adapter": "mood", "inputs": ' + DEEP + b"}", 400, "bad_json"),
    (b'{"adapter": "mood", "inputs": NaN}', 400, "bad_json"),
    (b'{"adapter": "mood", "inputs": Infinity}', 400, "bad_json"),
    (b'{"adapter": "mood", "inputs": ' + b"9" * 5000 + b"}", 400, "bad_json"),
    (b'{"adapter": "\\ud800", "inputs": "x"}', 400, "bad_json"),
    (b'{"adapter": "mood", "inputs": "\\udfff"}', 400, "bad_json"),
    (b"[]", 422, "bad_input"),
    (b"null", 422, "bad_input"),
    ({"adapter": "mood"}, 422, "bad_input"),
    ({**ASKED, "adapter": 1}, 422, "bad_input"),
    ({**ASKED, "adapter": ""}, 422, "bad_input"),
    ({**ASKED, "inputs": []}, 422, "bad_input"),
    ({**ASKED, "inputs": [1]}, 422, "bad_input"),
    ({**ASKED, "inputs": [{"text": {"a": "b"}}]}, 422, "bad_input"),
    ({**ASKED, "inputs": ""}, 422, "bad_input"),
    ({**ASKED, "inputs": [{}]}, 422, "bad_input"),
    ({**ASKED, "inputs": {"other": "x", "another": "y"}}, 422, "bad_input"),
    ({**ASKED, "inputs": {"text": ["a", "b"]}}, 422, "bad_input"),
    ({**ASKED, "surprise": 1}, 422, "bad_input"),
    ({**ASKED, "inputs": [1] * 300_000}, 422, "bad_input"),
    ({**ASKED, "inputs": [{"text": [1] * 300_000}]}, 422, "bad_input"),
    ({**ASKED, "inputs": {str(number): number for number in range(50_000)}}, 422, "bad_input"),
    ({**ASKED, **{str(number): number for number in range(50_000)}}, 422, "bad_input"),
    ({"adapter": "pairs", "inputs": "one text"}, 422, "bad_input"),
    ({**ASKED, "adapter": "moood"}, 404, "adapter_not_found"),
    ({**ASKED, "adapter": "mood@0"}, 404, "adapter_not_found"),  # what the bank calls it
    ({**ASKED, "adapter": "__base__"}, 404, "adapter_not_found"),
    ({**ASKED, "adapter": "\u0000\u202e😀"}, 404, "adapter_not_found"),
    ({**ASKED, "inputs": ["x"] * 65}, 413, "too_many_inputs"),
    ({**ASKED, "inputs": "word " * 5000}, 413, "input_too_long"),
]


@pytest.mark.parametrize(("body", "status", "code"), REFUSED, ids=range(len(REFUSED)))
def test_a_bad_request_gets_a_status_and_a_sentence(body: Any, status: int, code: str, client: Client) -> None:
    reply = client("POST", "/v1/predict", body)
    assert (reply.status, reply.code) == (status, code), reply.text
    assert reply.json["error"].keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in reply.text
    assert ".py" not in reply.text
    assert client("POST", "/v1/predict", ASKED).status == 200


def test_an_unknown_adapter_is_told_its_near_misses(client: Client) -> None:
    reply = client("POST", "/v1/predict", {**ASKED, "adapter": "moood"})
    assert "Did you mean 'mood'?" in reply.json["error"]["message"]


def test_what_is_not_there_and_what_cannot_be_done(client: Client) -> None:
    assert client("GET", "/nothing").code == "not_found"
    assert client("GET", "/v1/predict").code == "method_not_allowed"
    assert client("POST", "/v1/completions", {"model": "mood", "prompt": "x"}).code == "wrong_route"
    assert client("GET", "/health").json == {"status": "ok"}
    assert client("GET", "/ready").json["adapters"] == 4
    listed = {model["id"]: model["labels"] for model in client("GET", "/v1/models").json["data"]}
    assert listed == {"mood": ["bad", "good"], "topic": ["a", "b", "c"], "pairs": ["no", "yes"], "stars": None}


def test_a_body_of_many_mistakes_is_told_the_first(client: Client) -> None:
    reply = client("POST", "/v1/predict", {**ASKED, "inputs": [1] * 300_000})
    assert len(reply.text) < 1000  # and not 600,000 mistakes, which take a gigabyte


def test_a_page_in_a_browser_cannot_ask(client: Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        reply = client("POST", "/v1/predict", ASKED, **{"Content-Type": kind})
        assert (reply.status, reply.code) == (415, "not_json")
    assert client("POST", "/v1/predict", ASKED, **{"Content-Type": "application/JSON; charset=utf-8"}).status == 200


def test_bodies_that_lie_about_their_length(classifiers: Path) -> None:
    limits = {"max_body_bytes": 1000, "body_timeout": 0.3}
    head = HEAD.encode()
    with running(open_engine(classifiers, **limits)) as client:
        assert client("POST", "/v1/predict", b" " * 1001).code == "body_too_large"
        assert b" 413 " in client.raw(head + b"Content-Length: 99999999999999999999\r\n\r\n")
        waiting = client.raw(head + b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
        assert waiting.startswith(b"HTTP/1.1 413 "), "it is not told to go on"
        chunk = b"1f4\r\n" + b" " * 500 + b"\r\n"
        assert b" 413 " in client.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3)
        assert b" 408 " in client.raw(head + b"Content-Length: 100\r\n\r\n{")
        for broken in (
            b"Content-Length: 2\r\nContent-Length: 3",
            b"Content-Length: -1",
            b"X: \x00",
            b"Transfer-Encoding: y",
        ):
            answer = client.raw(head + broken + b"\r\n\r\n{}", ends=True)
            assert answer.split(b" ")[1][:1] == b"4", answer
        client.raw(head + b"Content-Length: 100\r\n\r\n{", ends=True)  # hangs up in the middle
        assert client("POST", "/v1/predict", ASKED).status == 200
        assert client.number("propulsion_requests_total") > 5


def test_clients_that_send_everything_first_are_told_that_it_is_too_much(client: Client) -> None:
    """More than the buffers on the way hold: they would meet a broken connection, and read no answer."""
    reply = client("POST", "/v1/predict", b" " * 2**25)
    assert (reply.status, reply.code) == (413, "body_too_large")


def test_no_key_no_answer(classifiers: Path) -> None:
    with running(open_engine(classifiers), key="schlüssel\n") as client:  # as files of secrets end
        assert (
            client("POST", "/v1/predict", ASKED, Authorization="Bearer schlüssel".encode().decode("latin-1")).status
            == 200
        )
        for given in ("", "Bearer", "Bearer ", "Bearer schl", "Basic schlüssel", "Bearer schlüssel2", "Bearer \xff"):
            for method, path in (
                ("POST", "/v1/predict"),
                ("GET", "/v1/models"),
                ("GET", "/metrics"),
                ("POST", "/v1/adapters"),
            ):
                reply = client(method, path, ASKED, Authorization=given)
                assert (reply.status, reply.code) == (401, "invalid_api_key")
        assert client("DELETE", "/v1/adapters/mood", Authorization="x").status == 401
        assert client("GET", "/health", Authorization="x").status == 200
        for path in ("/health/../v1/models", "/health/", "//v1/models", "/v1/models/", "/v1/models?x=/health"):
            assert client("GET", path, Authorization="x").status in (401, 404)


def test_a_name_that_others_give_to_this_machine_opens_nothing(classifiers: Path) -> None:
    """Else any page in a browser here could be of that name, and read and load what it likes."""
    with running(open_engine(classifiers), is_local=True) as client:
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "[x"):
            for method, path in (("GET", "/v1/models"), ("POST", "/v1/adapters"), ("POST", "/v1/predict")):
                reply = client(method, path, ASKED, Host=host)
                assert (reply.status, reply.code) == (403, "host_not_allowed"), host
        for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "192.0.2.7:80", "LOCALHOST", "a.localhost"):
            assert client("POST", "/v1/predict", ASKED, Host=host).status == 200, host
    assert [is_this_machine(host) for host in ("127.0.0.1", "::1", "localhost", "127.1.2.3")] == [True] * 4
    assert [is_this_machine(host) for host in ("0.0.0.0", "::", "192.0.2.7", "box.example")] == [False] * 4


def test_an_empty_key_lets_nobody_in(classifiers: Path) -> None:
    with running(open_engine(classifiers), key="") as client:
        for given in ("", "Bearer", "Bearer "):
            assert client("GET", "/v1/models", Authorization=given).status == 401


@pytest.fixture
def room(classifiers: Path, tmp_path: Path) -> Iterator[tuple[Client, Path]]:
    """A server, and its folder with one adapter."""
    shutil.copytree(classifiers / "mood", tmp_path / "served" / "mood")
    with running(open_engine(tmp_path / "served")) as client:
        yield client, tmp_path / "served"


def load(client: Client, path: str, **more: str) -> Any:
    return client("POST", "/v1/adapters", {"path": path, **more})


def test_adapters_come_and_go_while_others_answer(room: tuple[Client, Path], classifiers: Path) -> None:
    client, folder = room
    shutil.copytree(classifiers / "topic", folder / "new" / "topic")
    assert load(client, "new/topic").json["labels"] == ["a", "b", "c"]
    assert client("POST", "/v1/predict", {**ASKED, "adapter": "topic"}).json["predictions"][0]["scores"].keys() == set(
        "abc"
    )
    assert load(client, str(folder / "new" / "topic"), name="mood").status == 201  # in the place of another
    assert client("POST", "/v1/predict", ASKED).json["predictions"][0]["scores"].keys() == set("abc")
    assert client("DELETE", "/v1/adapters/topic").json == {"id": "topic", "object": "model", "deleted": True}
    assert client("DELETE", "/v1/adapters/topic").code == "adapter_not_found"
    assert client("POST", "/v1/predict", {**ASKED, "adapter": "topic"}).code == "adapter_not_found"
    assert client.number("propulsion_adapters") == client.number("propulsion_resident_adapters") == 1


def test_whatever_is_loading_the_others_are_answered(
    classifiers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(classifiers / "mood", tmp_path / "mood")
    engine, may_load = open_engine(tmp_path), threading.Event()

    def loads_long(*given: Any) -> None:
        may_load.wait(60)
        raise ApiError("It has been long.", 422, "adapter_refused")

    monkeypatch.setattr(engine.adapters.bank, "load", loads_long)
    body = b'{"path": "mood"}'
    post = b"POST /v1/adapters HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n"
    with running(engine) as client, contextlib.ExitStack() as links:
        for _ in range(THREADS):
            link = links.enter_context(socket.create_connection(("127.0.0.1", client.port)))
            link.sendall(post + body)
        for _ in range(THREADS):  # by then all of them have been read
            assert client("GET", "/health").status == 200
        try:
            assert replace(client, timeout=10).number("propulsion_adapters") == 1
            assert replace(client, timeout=10)("POST", "/v1/predict", ASKED).status == 200
        finally:
            may_load.set()


def test_the_small_files_of_an_adapter_are_read_once(
    classifiers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(classifiers / "mood", tmp_path / "mood")
    read: list[Path] = []
    whole = Sketch.read
    monkeypatch.setattr(Sketch, "read", lambda folder: read.append(folder) or whole(folder))
    open_engine(tmp_path).close()
    assert read == [tmp_path / "mood"]


def test_nothing_outside_the_folder_is_read(room: tuple[Client, Path], classifiers: Path) -> None:
    client, folder = room
    (folder / "link").symlink_to(classifiers / "topic")
    shutil.copytree(classifiers / "topic", folder / "inside")
    (folder / "inside" / "adapter_model.safetensors").unlink()
    (folder / "inside" / "adapter_model.safetensors").symlink_to(classifiers / "topic" / "adapter_model.safetensors")
    shutil.copytree(classifiers / "topic", folder / "templates")
    (folder / "templates" / "additional_chat_templates").symlink_to(classifiers)
    outside = os.path.relpath(classifiers / "topic", folder)
    for path in (
        outside,
        str(classifiers / "topic"),
        "mood/../../x",
        "/etc",
        "link",
        "inside",
        "templates",
        "../served2",
    ):
        assert load(client, path).code == "path_not_allowed", path
    (folder / "loop").symlink_to(folder / "loop")
    for path, code in (
        ("nothing", "path_not_found"),
        (".", "path_not_found"),
        ("a\0b", "bad_path"),
        ("x" * 4000, "bad_path"),
    ):
        assert load(client, path).code == code, path
    assert load(client, "loop").status in (404, 422)
    for name in ("", "a/b", "../x", "__base__", "x" * 129, "a\nb"):
        assert load(client, "mood", name=name).status == 422
    assert [model["id"] for model in client("GET", "/v1/models").json["data"]] == ["mood"]


def damage(folder: Path, how: str) -> None:
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    first = next(key for key in tensors if "propulsion_delta" in key)
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-50])
    elif how == "not finite":
        tensors[first][0, 0] = float("nan")
    elif how == "another base":
        tensors[first] = torch.zeros(1, 7)
    elif how == "no head":
        tensors = {key: tensor for key, tensor in tensors.items() if "classifier" not in key}
    elif how == "pickled":
        torch.save(tensors, folder / "adapter_model.bin")
        weights.unlink()
    elif how == "another method":
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "LORA"}))
    elif how == "no json":
        (folder / "adapter_config.json").write_text("{" * 100_000)
    elif how == "another record":
        record = json.loads((folder / "record.json").read_text())
        (folder / "record.json").write_text(json.dumps({**record, "label_names": ["a", "b", "c"]}))
    elif how == "tokenizer":
        (folder / "tokenizer.json").write_text("[]")
    if how in ("not finite", "another base", "no head"):
        save_file(tensors, weights, metadata={"format": "pt"})


def test_a_run_that_is_not_what_it_was_is_not_served(room: tuple[Client, Path], classifiers: Path) -> None:
    client, folder = room
    weights = shutil.copytree(classifiers / "topic", folder / "topic") / "adapter_model.safetensors"
    write_manifest(folder / "topic", [weights])
    assert load(client, "topic").status == 201
    save_file({key: -tensor for key, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    answer = load(client, "topic")
    assert (answer.status, answer.code) == (422, "adapter_refused")
    assert "topic is not what its record tells of: adapter_model.safetensors has changed" in answer.text
    assert str(folder) not in answer.text


WEIGHTS = ("cut", "not finite", "another base", "no head", "pickled")
DAMAGES = (*WEIGHTS, "another method", "no json", "another record", "tokenizer")


def test_damaged_adapters_are_refused_and_the_others_go_on(room: tuple[Client, Path]) -> None:
    client, folder = room
    before = client("POST", "/v1/predict", ASKED).text
    for how in DAMAGES:
        shutil.copytree(folder / "mood", folder / how)
        damage(folder / how, how)
        reply = load(client, how, name="mood")
        assert (reply.status, reply.code) == (422, "adapter_refused"), (how, reply.text)
        assert str(folder) not in reply.text
    assert client("POST", "/v1/predict", ASKED).text == before
    assert client.number("propulsion_resident_adapters") == 1


def test_a_server_starts_with_those_that_are_whole(room: tuple[Client, Path]) -> None:
    from propulsion_tools.records.options import ServeOptions
    from propulsion_tools.serving import engine as engines

    _, folder = room
    shutil.copytree(folder / "mood", folder / "cut")
    damage(folder / "cut", "cut")
    said: list[str] = []
    engine = engines.open_engine(ServeOptions(adapters=str(folder), use_cpu=True), said.append)
    engine.close()
    assert [card.name for card in engine.adapters.cards] == ["mood"]
    assert len(said) == 1
    assert said[0].startswith("cut is left out: ")


def test_what_is_not_clear_is_asked_for(tmp_path: Path, classifiers: Path) -> None:
    with pytest.raises(OptionError, match="There is no folder"):
        open_engine(tmp_path / "nothing")
    with pytest.raises(OptionError, match="There are no adapters"):
        open_engine(tmp_path)
    for name, other in (("one", "/a/base"), ("two", "/b/base")):
        shutil.copytree(classifiers / "mood", tmp_path / name)
        (tmp_path / name / "record.json").unlink()
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": other}))
    with pytest.raises(OptionError, match="name 2 base models"):
        open_engine(tmp_path)
    config = json.loads((tmp_path / "two" / "adapter_config.json").read_text())
    (tmp_path / "two" / "adapter_config.json").write_text(json.dumps({**config, "task_type": "TOKEN_CLS"}))
    with pytest.raises(OptionError, match="SEQ_CLS and TOKEN_CLS: choose"):
        open_engine(tmp_path)


def test_an_adapter_without_a_record_says_what_its_head_says(
    classifiers: Path, tiny_model: Path, tmp_path: Path
) -> None:
    for name in ("topic", "stars"):
        shutil.copytree(classifiers / name, tmp_path / name)
        (tmp_path / name / "record.json").unlink()
    with (
        running(open_engine(tmp_path, model_name_or_path=str(tiny_model))) as client,
        running(open_engine(classifiers)) as own,
    ):
        asked = {"adapter": "topic", "inputs": "the film was good"}
        (found,), (known,) = (each("POST", "/v1/predict", asked).json["predictions"] for each in (client, own))
        assert list(found["scores"]) == ["LABEL_0", "LABEL_1", "LABEL_2"]
        assert list(found["scores"].values()) == pytest.approx(list(known["scores"].values()), abs=1e-6)
        assert "score" in client("POST", "/v1/predict", {**asked, "adapter": "stars"}).json["predictions"][0]


class Held:
    """Batches that wait until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: Future[None] = Future()
        self.go: Future[None] = Future()
        answer = batching.Batcher._answer

        def waiting(batcher: Any, batch: Any) -> None:
            if not self.begun.done():
                self.begun.set_result(None)
            self.go.result(60)
            answer(batcher, batch)

        monkeypatch.setattr(batching.Batcher, "_answer", waiting)


def test_a_full_queue_is_told_and_what_is_in_it_is_answered(classifiers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    with running(open_engine(classifiers, max_queue=2, max_batch_size=1)) as client, ThreadPoolExecutor(4) as pool:
        first = pool.submit(client, "POST", "/v1/predict", ASKED)
        held.begun.result(60)
        waiting = [pool.submit(client, "POST", "/v1/predict", ASKED) for _ in range(2)]
        while client.number("propulsion_queue_rows") < 2:
            time.sleep(0.01)
        reply = client("POST", "/v1/predict", ASKED)
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (429, "queue_full", "1")
        held.go.set_result(None)
        assert [future.result().status for future in (first, *waiting)] == [200] * 3


def test_an_answer_that_takes_too_long_is_given_up(classifiers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    with running(open_engine(classifiers, request_timeout=0.2)) as client:
        assert client("POST", "/v1/predict", ASKED).code == "timeout"
        held.go.set_result(None)
        assert client.number("propulsion_queue_rows") == 0
        assert client("POST", "/v1/predict", ASKED).status == 200


def test_who_hangs_up_frees_their_place(classifiers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    with running(open_engine(classifiers, max_batch_size=1)) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client, "POST", "/v1/predict", ASKED)
        held.begun.result(60)
        head = f"{HEAD}Content-Length: {len(BODY)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", client.port)) as link:
            link.sendall(head + BODY)
            while client.number("propulsion_queue_rows") < 1:
                time.sleep(0.01)
        while client.number("propulsion_queue_rows") > 0:
            time.sleep(0.01)
        held.go.set_result(None)
        assert first.result().status == 200


def test_one_request_that_fails_spoils_no_other(
    classifiers: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = batching.Batcher._answers

    def failing(batcher: Any, batch: Any) -> Any:
        if any(asked.card.name == "topic" for asked, _ in batch):
            raise RuntimeError("the film was secret")
        return answers(batcher, batch)

    monkeypatch.setattr(batching.Batcher, "_answers", failing)
    with running(open_engine(classifiers, max_wait_ms=100.0)) as client, ThreadPoolExecutor(8) as pool:
        asked = [{**ASKED, "adapter": name} for name in ("mood", "topic") * 4]
        with caplog.at_level(logging.INFO, "propulsion.serve"):
            replies = list(pool.map(lambda body: client("POST", "/v1/predict", body), asked))
    assert [reply.status for reply in replies] == [200, 500] * 4
    assert replies[1].code == "internal_error"
    assert "secret" not in replies[1].text
    lines = [JsonLines().format(record) for record in caplog.records]
    assert not any("film" in line for line in lines)
    failed = next(json.loads(line) for line in lines if '"error"' in line)
    assert (failed["error"], failed["level"]) == ("RuntimeError", "error")
    noted = next(json.loads(line) for line in lines if '"status": 200' in line)
    assert (noted["route"], noted["adapter"], noted["method"]) == ("/v1/predict", "mood", "POST")


def test_scores_that_are_no_numbers_are_told(room: tuple[Client, Path]) -> None:
    client, folder = room
    shutil.copytree(folder / "mood", folder / "huge")
    tensors = load_file(folder / "huge" / "adapter_model.safetensors")
    for key in tensors:
        if "propulsion_delta" in key:
            tensors[key].fill_(100.0)  # to the power of 15, in one layer after the other
    save_file(tensors, folder / "huge" / "adapter_model.safetensors", metadata={"format": "pt"})
    assert load(client, "huge").status == 201
    both = [client("POST", "/v1/predict", {**ASKED, "adapter": name}) for name in ("huge", "mood")]
    assert [reply.status for reply in both] == [422, 200]
    assert both[0].code == "not_finite"
