"""Texts over HTTP are those that each adapter's own model generates, whatever joins and leaves beside them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from propulsion import AdapterBank
from propulsion_tools.errors import OptionError
from propulsion_tools.serving import generation
from propulsion_tools.serving.generation import Generator, Text
from propulsion_tools.serving.metrics import Metrics
from propulsion_tools.serving.sampling import Wishes
from propulsion_tools.serving.text import Writer
from tests.serving.client import Client, running
from tests.serving.conftest import open_engine
from tests.serving.writers import NAMES, WORDS, adapters, save_writers, tokenizer
from tests.tiny_models import EOS, PAD, VOCABULARY, tiny_model

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaMA, and two adapters of it."""
    return save_writers(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with running(open_engine(folder / "adapters", max_new_tokens=24), key="secret") as client:
        yield client


@pytest.fixture(scope="module")
def service(client: Client) -> Any:
    return openai.OpenAI(base_url=f"{client.url}/v1", api_key="secret", max_retries=0)


def test_the_base_model_is_no_adapter_where_they_are_counted(folder: Path) -> None:
    with running(open_engine(folder / "adapters", max_adapters=len(NAMES))) as client:  # all of them find a place
        assert len(client("GET", "/v1/models").json["data"]) == len(NAMES) + 1
        assert client.number("propulsion_adapters") == client("GET", "/ready").json["adapters"] == len(NAMES)


@torch.no_grad()
def alone(model: PeftModel, prompt: list[int], tokens: int) -> list[int]:
    """What `generate` gives with one adapter, without the prompt."""
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    made = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=PAD)
    return made[0, len(prompt) :].tolist()


class Taken:
    """What came of some texts."""

    def __init__(self, count: int) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        self.errors: list[BaseException] = []
        self.released: list[int] = []
        self._left = threading.Semaphore(0)

    def sink(self, events: list[Any]) -> None:
        for number, event in events:
            if isinstance(event, int):
                self.tokens[number].append(event)
                continue
            if event is not None:
                self.errors.append(event)
            self._left.release()

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self._left.acquire(timeout=60)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom", "mistral"])
def test_texts_that_join_and_leave_are_those_of_each_adapter_alone(architecture: str) -> None:
    own = adapters(architecture)
    base = tiny_model(architecture, "lm")
    if architecture == "mistral":
        for model in (base, *own.values()):
            model.config.sliding_window = 4
    bank = AdapterBank(base)
    for name, model in own.items():
        bank.add(name, model)
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, VOCABULARY, (length,), generator=draw).tolist() for length in (3, 9, 1, 6, 4, 7, 2, 5)]
    lengths = [3, 12, 7, 1, 9, 5, 12, 4]
    taken = Taken(len(prompts))
    generator = Generator(bank, {EOS}, 3, 100, None, Metrics())
    try:
        for number, (prompt, tokens) in enumerate(zip(prompts, lengths, strict=True)):
            release = partial(taken.released.append, number)
            generator.submit([Text(number, NAMES[number % 2], prompt, tokens, Wishes(0), taken.sink, release)])
        taken.wait(len(prompts))
    finally:
        generator.close()
    assert not taken.errors
    assert sorted(taken.released) == list(range(len(prompts)))
    for number, prompt in enumerate(prompts):
        assert taken.tokens[number] == alone(own[NAMES[number % 2]], prompt, lengths[number])


def test_a_text_that_is_given_up_while_it_is_let_in_needs_its_adapter_no_longer() -> None:
    class Watched(Text):
        """Given up by another thread once the model's thread has seen that it is not."""

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name == "cancelled" and not clients:
                clients.append(threading.Thread(target=generator.cancel, args=([self],)))
                clients[0].start()
                clients[0].join(0.2)
            return value

    clients: list[threading.Thread] = []
    taken = Taken(1)
    generator = Generator(AdapterBank(tiny_model("llama", "lm")), set(), 3, 100, None, Metrics())
    try:
        release = partial(taken.released.append, 0)
        generator.submit([Watched(0, "__base__", [5, 6], 20, Wishes(0), taken.sink, release)])
    finally:
        generator.close()
    clients[0].join()
    assert taken.released == [0]


def test_a_model_with_a_state_of_another_kind_is_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    small = MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(OptionError, match="cannot join and leave"):
        Generator(AdapterBank(MambaForCausalLM(small)), {EOS}, 3, 100, None, Metrics())


def said(tokens: list[int]) -> str:
    """What tokens are as a text."""
    return str(tokenizer().decode([token for token in tokens if token != EOS], skip_special_tokens=True))


def words(tokens: list[int]) -> str:
    return " ".join(WORDS[token] for token in tokens)


def test_completions_of_the_openai_client_are_greedy_texts_of_their_adapter(service: Any) -> None:
    prompts, own = [[5, 6, 7], [8, 9]], adapters("llama")
    for name, model in own.items():
        answer = service.completions.create(model=name, prompt=words(prompts[0]), temperature=0, max_tokens=6)
        expected = alone(model, prompts[0], 6)
        assert answer.choices[0].text == said(expected)
        assert answer.usage.prompt_tokens == 3
        assert answer.usage.completion_tokens == len(expected)
        assert answer.choices[0].finish_reason == ("stop" if EOS in expected else "length")
        both = service.completions.create(model=name, prompt=prompts, temperature=0, max_tokens=6)
        assert [choice.text for choice in both.choices] == [said(alone(model, prompt, 6)) for prompt in prompts]


def test_a_streamed_completion_is_the_whole_one_in_pieces(service: Any) -> None:
    asked = {"model": "left", "prompt": "w5 w6 w7", "temperature": 0, "max_tokens": 8}
    whole = service.completions.create(**asked)
    events = list(service.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(event.choices[0].text for event in events if event.choices) == whole.choices[0].text
    assert events[-1].usage == whole.usage
    assert events[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len(events) > 3


def test_chats_of_the_openai_client(service: Any) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "w5 w6"}]}]
    asked = {"model": "right", "messages": messages, "temperature": 0, "max_completion_tokens": 5}
    whole = service.chat.completions.create(**asked)
    pieces = list(service.chat.completions.create(**asked, stream=True))
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content
    assert whole.choices[0].message.role == "assistant"
    framed = tokenizer()("Instruction:\nw5 w6\n\nResponse:\n").input_ids
    assert whole.choices[0].message.content == said(alone(adapters("llama")["right"], framed, 5))
    with pytest.raises(openai.UnprocessableEntityError, match="no chat template"):
        service.chat.completions.create(model="left", messages=[{"role": "system", "content": "w5"}] * 2)


def test_a_stop_sequence_ends_a_text_before_it(service: Any) -> None:
    asked = {"model": "left", "prompt": "w5 w6 w7", "temperature": 0, "max_tokens": 8}
    whole = service.completions.create(**asked).choices[0].text
    stop = whole.split()[2]
    for stream in (False, True):
        answer = service.completions.create(**asked, stop=[stop], stream=stream)
        choices = [event.choices[0] for event in answer] if stream else answer.choices
        assert "".join(choice.text for choice in choices) == whole[: whole.index(stop)]
        assert choices[-1].finish_reason == "stop"


def test_the_same_seed_draws_the_same_text_and_choices_differ(service: Any) -> None:
    asked = {"model": "left", "prompt": "w5 w6 w7", "max_tokens": 8, "n": 3, "temperature": 1.5}
    texts = [
        [choice.text for choice in service.completions.create(**asked, seed=seed).choices] for seed in (1, 1, 2**62)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) == 3
    narrow = {**asked, "n": 1, "temperature": 1, "top_p": 1e-9, "seed": 7}
    greedy = {**asked, "n": 1, "temperature": 0}
    assert [service.completions.create(**one).choices[0].text for one in (narrow,) * 2] == [
        service.completions.create(**greedy).choices[0].text
    ] * 2


def test_what_the_openai_client_makes_of_refusals(service: Any, client: Client) -> None:
    with pytest.raises(openai.NotFoundError, match=r"Did you mean 'left'\?"):
        service.completions.create(model="lefft", prompt="w5")
    with pytest.raises(openai.BadRequestError, match="takes 40 tokens") as caught:
        service.completions.create(model="left", prompt=[5] * 35, max_tokens=10)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.UnprocessableEntityError):
        service.completions.create(model="left", prompt=[VOCABULARY])
    with pytest.raises(openai.UnprocessableEntityError, match="presence_penalty"):
        service.completions.create(model="left", prompt="w5", presence_penalty=1)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{client.url}/v1", api_key="other", max_retries=0).models.list()
    assert {model.id for model in service.models.list()} == {"__base__", *NAMES}
    assert service.models.retrieve("left").owned_by == "propulsion"
    assert client("POST", "/v1/predict", {"adapter": "left", "inputs": "w5"}).code == "wrong_route"


def test_many_clients_at_once_get_their_own_texts(service: Any, client: Client) -> None:
    own, prompts = adapters("llama"), [[5 + number, 6, 7] for number in range(12)]

    def ask(number: int) -> str:
        options = {"temperature": 0, "max_tokens": 2 + number}
        return str(
            service.completions.create(model=NAMES[number % 2], prompt=prompts[number], **options).choices[0].text
        )

    with ThreadPoolExecutor(12) as pool:
        texts = list(pool.map(ask, range(12)))
    for number, text in enumerate(texts):
        assert text == said(alone(own[NAMES[number % 2]], prompts[number], 2 + number))
    client.wait_until_idle()


def test_odd_wishes_of_one_client_spoil_no_other_text(service: Any) -> None:
    asked = {"model": "left", "prompt": "w5 w6 w7", "max_tokens": 12}
    whole = service.completions.create(**asked, temperature=0).choices[0].text
    odd = [{"temperature": 5e-324}, {"temperature": 2, "top_p": 5e-324}, {"seed": -(2**63)}, {"n": 16}] * 2
    with ThreadPoolExecutor(16) as pool:
        plain = [pool.submit(service.completions.create, **asked, temperature=0) for _ in odd]
        others = [pool.submit(service.completions.create, **asked, **wish) for wish in odd]
    assert [future.result().choices[0].text for future in plain] == [whole] * len(odd)
    assert others[0].result().choices[0].text == others[1].result().choices[0].text == whole


def test_what_fails_in_a_step_is_told_and_the_next_are_answered(
    service: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, joined = Generator._step, generation.joined

    def failing(*_: Any) -> Any:
        raise RuntimeError("secret")

    for name, place in (("_step", Generator), ("joined", generation)):
        with monkeypatch.context() as patch, ThreadPoolExecutor(8) as pool:
            patch.setattr(place, name, failing)
            asked = {"model": "left", "prompt": "w5 w6", "max_tokens": 20, "temperature": 0}
            replies = list(pool.map(lambda _: client("POST", "/v1/completions", asked), range(8)))  # noqa: B023
            assert {reply.status for reply in replies} <= {200, 500}
            assert not any("secret" in reply.text for reply in replies)
        assert service.completions.create(**asked).choices[0].text
    assert (Generator._step, generation.joined) == (step, joined)
    client.wait_until_idle()


def test_a_client_that_hangs_up_frees_its_places(folder: Path) -> None:
    with running(open_engine(folder / "adapters", max_batch_size=2, max_new_tokens=30)) as client:
        service = openai.OpenAI(base_url=f"{client.url}/v1", api_key="-", max_retries=0)
        for _ in range(6):
            asked = {"model": "left", "prompt": "w5", "max_tokens": 30, "n": 4, "temperature": 2, "stream": True}
            with service.completions.create(**asked) as stream:
                next(iter(stream))
        assert service.completions.create(model="right", prompt="w5", max_tokens=1).choices[0].text is not None
        client.wait_until_idle()


def test_a_removed_adapter_ends_what_it_has_begun(folder: Path) -> None:
    with running(open_engine(folder / "adapters", max_new_tokens=30)) as client:
        service = openai.OpenAI(base_url=f"{client.url}/v1", api_key="-", max_retries=0)
        asked = {"model": "left", "prompt": "w5 w6", "max_tokens": 20, "temperature": 0}
        whole = service.completions.create(**asked).choices[0].text
        stream = service.completions.create(**asked, stream=True)
        text = next(stream).choices[0].text
        assert client("DELETE", "/v1/adapters/left").status == 200
        assert client("POST", "/v1/completions", {"model": "left", "prompt": "w5"}).code == "adapter_not_found"
        assert text + "".join(event.choices[0].text for event in stream) == whole


def test_text_is_held_back_until_it_is_clear() -> None:
    class Letters:
        """Token n is the n-th letter of "abc…"; an odd one more than 100 is the first half of a character."""

        def decode(self, ids: list[int], **_: Any) -> str:
            raw = b"".join(bytes([97 + i]) if i < 100 else "é".encode()[i - 100 : i - 99] for i in ids)
            return raw.decode(errors="replace")

    writer = Writer(Letters(), ["cde", "xyz"])
    assert [writer.push(token) for token in (0, 100, 101, 2, 3, 1, 2, 3, 4, 5)] == [
        "a", "", "é", "", "", "cdb", "", "", "", "",
    ]  # fmt: skip
    assert writer.stopped
    writer = Writer(Letters(), ["cde"])
    assert [writer.push(token) for token in (2, 3)] == ["", ""]
    assert writer.end() == "cd"
    writer = Writer(Letters(), [])
    assert writer.push(100) == ""
    assert writer.end() == "\ufffd"
