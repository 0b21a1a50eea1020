"""The page at / as people meet it: what it shows is what the server answers, and no text in it ever runs."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from propulsion_tools.serving.generation import Generator
from tests.browser import chromium
from tests.serving.client import Client, running
from tests.serving.conftest import open_engine
from tests.serving.runs import save_run
from tests.serving.writers import TEMPLATE, save_writers

Open = Callable[..., Any]
TEXT = "the film was good"
HOSTILE = ("<img src=x onerror=window.hit=1>", "</script><script>window.hit=1</script>", "__proto__")
SCREENS = ((1280, 800), (390, 844))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Opens a server's page. At the end it fits every screen, and has asked no other place and complained of nothing.

    What Chromium notes of each answer that is none, it may note where the test says so.
    """
    pages: list[tuple[Any, str, list[str], list[str], bool]] = []

    def open_page(client: Client, address: str = "", refused: bool = False) -> Any:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.set_default_timeout(30_000)
        page.goto(f"{client.url}/{address}")
        pages.append((page, client.url, said, asked, refused))
        return page

    yield open_page
    for page, url, said, asked, refused in pages:
        check_fit(page)
        assert page.evaluate("window.hit") is None
        assert [line for line in said if not (refused and line.startswith("Failed to load resource"))] == []
        assert {address for address in asked if not address.startswith(f"{url}/")} == set()
        page.close()


def check_fit(page: Any) -> None:
    """What is on the page now is no wider than a desktop's or a phone's screen."""
    for width, height in reversed(SCREENS):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.fixture(scope="module")
def folder(classifiers: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classifiers, two of them with labels that are programs, and one without a record."""
    folder = tmp_path_factory.mktemp("page") / "adapters"
    shutil.copytree(classifiers, folder)
    for seed, name in enumerate(("one", "other")):
        save_run(folder / name, tiny_model, "text-classification", HOSTILE, {"text_column": "text"}, seed)
    shutil.copytree(folder / "mood", folder / "bare")
    (folder / "bare" / "record.json").unlink()
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with running(open_engine(folder, capacity=2)) as client:
        yield client


def answers(page: Any, count: int = 1) -> list[Any]:
    """The places of the answers, once all are there."""
    page.wait_for_selector("#answers[aria-busy=false] article")
    found = page.locator("#answers article").all()
    assert len(found) == count
    return list(found)


def bars(answer: Any) -> dict[str, str]:
    """What the bars of an answer say, by label."""
    lines = answer.locator("li").all()
    return {line.locator(".name").inner_text(): line.locator(".share").inner_text() for line in lines}


def predicted(client: Client, name: str, row: Any = TEXT) -> Any:
    return client("POST", "/v1/predict", {"adapter": name, "inputs": [row]}).json["predictions"][0]


def shares(prediction: Any) -> dict[str, str]:
    return {label: f"{100 * score:.1f} %" for label, score in prediction["scores"].items()}


def test_an_adapter_is_found_and_asked_by_keyboard_alone(opened: Open, client: Client) -> None:
    page = opened(client)
    chooser = page.get_by_role("combobox", name="Adapter")
    chooser.focus()
    page.keyboard.type("top")
    assert [option.inner_text().split("\n")[0] for option in page.get_by_role("option").all()] == ["topic"]
    page.keyboard.press("Enter")
    assert chooser.input_value() == "topic"
    page.get_by_label("text", exact=True).focus()
    page.keyboard.type(TEXT)
    page.keyboard.press("Control+Enter")
    (answer,) = answers(page)
    prediction = predicted(client, "topic")
    assert bars(answer) == shares(prediction)
    assert answer.locator(".best .name").inner_text() == prediction["label"]
    assert list(bars(answer)) == sorted(prediction["scores"], key=prediction["scores"].get, reverse=True)
    assert page.inner_text("#said").startswith(f"topic: {prediction['label']}, ")
    page.get_by_role("heading", name="On the device").wait_for()
    listed = page.locator("#adapters .here").all_inner_texts()
    assert "topic" in listed
    assert len(listed) == 2
    assert page.inner_text("#places") == "2 of 7 adapters on the device"


def test_fields_are_the_columns_that_an_adapter_reads(opened: Open, client: Client) -> None:
    page = opened(client, "#adapter=stars")
    row = {"sentence1": TEXT, "sentence2": "a dull plot"}
    for name, value in row.items():
        page.get_by_label(name).fill(value)
    page.get_by_role("button", name="Ask").click()
    (answer,) = answers(page)
    assert float(answer.locator(".number").inner_text()) == pytest.approx(
        predicted(client, "stars", row)["score"], rel=1e-3
    )
    page.get_by_role("button", name="pairs").focus()  # in the list of adapters
    page.keyboard.press("Enter")
    assert page.get_by_label("sentence2").input_value() == "a dull plot"
    page.get_by_role("button", name="Ask").click()
    page.wait_for_selector("#answers li")
    assert bars(*answers(page)) == shares(predicted(client, "pairs", row))
    page.get_by_role("button", name="bare").click()  # which may read texts or pairs
    for second, asked in (("a dull plot", row), ("", TEXT)):
        page.get_by_label("second text").fill(second)
        page.get_by_role("button", name="Ask").click()
        assert bars(*answers(page)) == shares(predicted(client, "bare", asked))


def test_two_adapters_answer_side_by_side_and_labels_never_run(opened: Open, client: Client) -> None:
    page = opened(client, "#adapter=one")
    page.get_by_role("button", name="Compare with another adapter").click()
    page.get_by_role("combobox", name="Beside it").fill("other")
    page.keyboard.press("Enter")
    page.get_by_label("text", exact=True).fill(HOSTILE[0])
    page.get_by_role("button", name="Ask").click()
    found = answers(page, 2)
    told = [predicted(client, name, HOSTILE[0]) for name in ("one", "other")]
    assert [bars(answer) for answer in found] == list(map(shares, told))
    assert list(bars(found[0])) == list(bars(found[1]))  # the same order, to compare by eye
    labels = [prediction["label"] for prediction in told]
    agreed = f"Both say {labels[0]}." if labels[0] == labels[1] else f"They differ: {labels[0]} against {labels[1]}."
    assert page.inner_text("#verdict") == agreed
    left, right = (answer.bounding_box() for answer in found)
    assert left["y"] == right["y"]
    assert page.locator("#desk img, #desk script").count() == 0
    check_fit(page)
    page.reload()
    assert page.get_by_role("combobox", name="Beside it").input_value() == "other"


def test_ten_thousand_adapters_are_searched_and_not_all_drawn(opened: Open, client: Client) -> None:
    names = [f"{HOSTILE[number % 2]}-{number}" for number in range(10_000)]
    known = client("GET", "/v1/models").json["data"][0]
    listed = [{**known, "id": name, "labels": list(HOSTILE)} for name in names]
    listed[0]["labels"] = ["9998"]
    body = json.dumps({"object": "list", "data": listed})
    page = opened(client)
    page.route("**/v1/models", lambda route: route.fulfill(body=body, content_type="application/json"))
    page.reload()
    chooser = page.get_by_role("combobox", name="Adapter")
    chooser.click()
    assert page.get_by_role("option").count() == 50
    assert "9,950 more" in page.inner_text("[role=listbox]")
    chooser.fill("onerror 9998")
    found = page.locator("[role=option] b")
    assert found.all_inner_texts() == [names[9998], names[0]]  # by name before by label
    found.first.click()
    assert chooser.input_value() == names[9998]
    assert page.locator("#adapters li").count() == 100
    page.get_by_label("Show adapters that contain").fill("-77")
    assert "and 11 more" in page.inner_text("#adapters")
    assert page.locator("main img, main script").count() == 0


def test_nothing_is_said_of_places_that_the_server_does_not_know(opened: Open, client: Client) -> None:
    known = client("GET", "/v1/models").json["data"]
    body = json.dumps({"object": "list", "data": [{**model, "resident": None} for model in known]})
    page = opened(client)
    page.route("**/v1/models", lambda route: route.fulfill(body=body, content_type="application/json"))
    page.reload()
    page.get_by_role("button", name="mood").wait_for()
    assert page.inner_text("#places") == "7 adapters"
    assert page.locator("#adapters h3").all_inner_texts() == ["Where replicas need them 7"]


REFUSALS: list[tuple[int, dict[str, str], str, str]] = [
    (429, {"Retry-After": "1"}, '{"error": {"message": "9 rows wait."}}', "9 rows wait. It asks to wait for 1 s."),
    (503, {}, '{"error": {"message": "The server is shutting down."}}', "The server is shutting down."),
    (504, {}, '{"error": {"message": "The answer has taken too long."}}', "The answer has taken too long."),
    (502, {}, "<script>window.hit=1</script>", "The request was refused with the status 502"),
    (200, {}, "<b>", "The answer broke off"),
    (0, {}, "", "The server cannot be reached"),
]


def test_what_goes_wrong_is_told_in_a_sentence_and_the_next_is_answered(
    opened: Open, client: Client, folder: Path
) -> None:
    shutil.copytree(folder / "mood", folder / "brief", dirs_exist_ok=True)
    client("POST", "/v1/adapters", {"path": "brief"})
    page = opened(client, "#adapter=brief", refused=True)
    field, send = page.get_by_label("text", exact=True), page.get_by_role("button", name="Ask")
    field.fill(TEXT)
    for status, headers, body, sentence in REFUSALS:
        page.unroute_all()
        page.route("**/v1/predict", lambda route: _refuse(route, status, headers, body))  # noqa: B023
        send.click()
        assert answers(page)[0].locator(".problem").inner_text().startswith(sentence)
    page.unroute_all()
    field.fill(" ")
    send.click()
    assert "no text" in answers(page)[0].locator(".problem").inner_text()
    client("DELETE", "/v1/adapters/brief")
    field.fill(TEXT)
    send.click()
    assert "There is no adapter 'brief'" in answers(page)[0].locator(".problem").inner_text()
    page.get_by_text("7 adapters served").wait_for()
    page.clock.install()
    page.reload()
    page.route("**/metrics", lambda route: route.abort())
    page.clock.run_for(2500)
    page.get_by_text("The server cannot be reached").wait_for()
    page.unroute_all()
    page.clock.run_for(2500)
    page.get_by_text("7 adapters served").wait_for()


def _refuse(route: Any, status: int, headers: dict[str, str], body: str) -> None:
    if status:
        route.fulfill(status=status, headers=headers, body=body)
    else:
        route.abort()


def test_the_numbers_are_those_of_the_server_and_newcomers_appear(opened: Open, classifiers: Path) -> None:
    with running(open_engine(classifiers)) as client:
        page = opened(client)
        page.clock.install()
        page.reload()
        page.get_by_text("0 in all, 0 refused").wait_for()
        asked = {"adapter": "mood", "inputs": [TEXT]}
        assert [client("POST", "/v1/predict", body).status for body in (asked, asked, {})] == [200, 200, 422]
        page.get_by_role("button", name="pairs").focus()
        page.clock.run_for(2000)
        page.get_by_text("3 in all, 1 refused").wait_for()
        name, rate = page.locator("#tiles > div").first.inner_text().split("\n")[:2]
        assert name == "Requests a second"
        assert 0 < float(rate) <= 1.5  # three in at least two seconds
        assert page.locator("#tiles > div").nth(2).locator("b").inner_text().endswith("s")
        client("POST", "/v1/adapters", {"path": "mood", "name": "newcomer"})
        page.clock.run_for(4000)
        page.get_by_role("button", name="newcomer").wait_for()
        assert page.evaluate("document.activeElement.textContent") == "pairs"  # whoever was there still is


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server of texts, behind a key."""
    folder = save_writers(tmp_path_factory.mktemp("writers"), TEMPLATE)
    with running(open_engine(folder / "adapters", max_new_tokens=24), key="schlüssel") as client:
        yield Client(client.port, "schlüssel".encode().decode("latin-1"))


def unlocked(opened: Open, writer: Client, address: str) -> Any:
    page = opened(writer, address, refused=True)
    page.get_by_label("Key").fill("schlüssel")
    page.get_by_role("button", name="Open").click()
    page.get_by_role("combobox", name="Adapter").wait_for()
    return page


def test_the_key_is_asked_for_and_kept_in_the_tab_alone(opened: Open, writer: Client) -> None:
    page = opened(writer, refused=True)
    page.get_by_label("Key").fill("wrong")
    page.get_by_role("button", name="Open").click()
    page.get_by_text("The server does not take this key.").wait_for()
    assert not page.get_by_role("combobox").is_visible()
    page.get_by_label("Key").fill("schlüssel")
    page.keyboard.press("Enter")
    page.get_by_role("combobox", name="Adapter").wait_for()
    assert page.evaluate("Object.values(sessionStorage)") == ["schlüssel"]
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert "ssel" not in page.url
    page.reload()
    page.get_by_role("button", name="Forget the key").click()
    page.get_by_label("Key").wait_for()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_conversation_is_that_of_the_api(opened: Open, writer: Client) -> None:
    page = unlocked(opened, writer, "#adapter=left&beside=right")
    field = page.get_by_label("message")
    said: dict[str, list[dict[str, str]]] = {"left": [], "right": []}
    for text in ("w5 w6", "w7"):
        page.get_by_label("Tokens at most").fill("4")
        field.fill(text)
        page.get_by_role("button", name="Send").click()
        found = answers(page, 2)
        assert field.input_value() == ""
        for answer, (name, turns) in zip(found, said.items(), strict=True):
            turns.append({"role": "user", "content": text})
            body = {"model": name, "messages": turns, "max_tokens": 4, "temperature": 0}
            told = writer("POST", "/v1/chat/completions", body).json["choices"][0]["message"]
            assert answer.locator(".written").last.text_content() == told["content"]
            turns.append(told)
            assert answer.locator(".turn").all_text_contents() == [turn["content"] for turn in turns]
    page.get_by_role("button", name="One adapter is enough").click()
    page.get_by_role("combobox", name="Adapter").fill("right")
    page.keyboard.press("Enter")
    field.fill("w8")
    page.get_by_role("button", name="Send").click()
    (answer,) = answers(page)
    assert answer.locator(".turn").first.text_content() == "w8"  # another adapter, another conversation
    assert field.input_value() == ""
    page.get_by_label("Continue the text").check()
    page.get_by_label("text to continue").fill("w5 w6")
    page.get_by_role("button", name="Write").click()
    asked = {"model": "right", "prompt": "w5 w6", "max_tokens": 4, "temperature": 0}
    told = writer("POST", "/v1/completions", asked).json["choices"][0]["text"]
    assert answers(page)[0].locator(".written").text_content() == told
    assert page.get_by_label("text to continue").input_value() == "w5 w6"


def test_a_text_is_seen_as_it_comes_and_can_be_stopped(
    opened: Open, writer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = unlocked(opened, writer, "#adapter=left")
    go_on, step, steps = threading.Event(), Generator._step, iter(range(1000))

    def slow(generator: Generator, running: Any) -> None:
        if next(steps) >= 3:
            go_on.wait(60)
        step(generator, running)

    monkeypatch.setattr(Generator, "_step", slow)
    page.get_by_label("message").fill("w5 w6")
    page.get_by_role("button", name="Send").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#answers[aria-busy=true] .written:not(:empty)")
    page.get_by_label("message").fill("w7")
    page.get_by_role("button", name="Stop").focus()
    page.keyboard.press("Enter")
    assert "stopped" in answers(page)[0].locator("h2").inner_text()
    assert 0 < len(page.text_content(".written").split()) < 24
    assert page.get_by_label("message").input_value() == "w7"  # and not thrown away with what was sent
    assert page.evaluate("document.activeElement.id") == "send"
    go_on.set()
    writer.wait_until_idle()
    page.get_by_role("button", name="Start anew").click()
    assert page.locator("#answers article").count() == 0


@contextmanager
def asked(opened: Open, folder: Path, texts: dict[str, str]) -> Iterator[tuple[Any, Any]]:
    """The answer of the only adapter to some fields, on the page and by the API."""
    with running(open_engine(folder.parent)) as client:
        page = opened(client)
        for label, text in texts.items():
            page.get_by_label(label, exact=True).fill(text)
        page.get_by_role("button", name="Ask").click()
        (answer,) = answers(page)
        yield answer, predicted(client, folder.name, texts if len(texts) > 1 else texts["text"])


def test_words_are_marked_in_their_text(opened: Open, tiny_model: Path, tmp_path: Path) -> None:
    folder = save_run(
        tmp_path / "all" / "words", tiny_model, "token-classification", ("O", "B-X", "I-X", "B-<b>"), seed=3
    )
    text = "the film,  the 🍎 plot was (really) dull"
    with asked(opened, folder, {"text": text}) as (answer, told):
        assert told["entities"]
        marks = answer.locator("mark").all()
        assert [mark.locator("small").inner_text() for mark in marks] == [one["type"] for one in told["entities"]]
        words = (
            "clone => { for (const label of clone.querySelectorAll('small')) label.remove(); return clone.textContent }"
        )
        assert answer.locator(".words").evaluate(f"node => ({words})(node.cloneNode(true))") == text


def test_an_answer_is_marked_in_its_context(opened: Open, tiny_model: Path, tmp_path: Path) -> None:
    folder = save_run(tmp_path / "all" / "answers", tiny_model, "squad")
    texts = {"question": "was the film good", "context": "🍎🍎 the actors were great and the plot was dull"}
    with asked(opened, folder, texts) as (answer, told):
        assert told["answer"]
        assert answer.locator("mark").inner_text() == answer.locator(".answer").inner_text() == told["answer"]
        assert answer.locator(".words").inner_text() == texts["context"]
