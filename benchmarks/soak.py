"""A server under all that can happen to it at once: 64 clients, adapters that come and go, nonsense, and hanging up.

python benchmarks/soak.py --minutes 10

Each adapter's answer to each text is known before, and far from those of the others. Every answer is compared: it must
be that of its own adapter, and come once. Half of the time goes to predictions, half to texts.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from measuring import RESULTS, start, write
from served import WORD, Caller, serving, write_adapters, write_base

from propulsion import AdapterBank

ADAPTERS, COMING, TEXTS, NEW_TOKENS = 24, 8, 6, 6
NONSENSE, HANGING_UP = 0.05, 0.03
TOLERANCE = 1e-3
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 500,
}
SMALL |= {"max_position_embeddings": 128, "pad_token_id": 0}
SPOILT = (
    b"",
    b"{",
    b"[" * 50_000,
    b"\xff",
    b"null",
    b'{"adapter": 1}',
    b'{"adapter": "a0", "inputs": NaN}',
    b" " * 2**21,
)
Answer = Any


@dataclass(frozen=True)
class Kind:
    """One half of the test.

    Args:
        task_type: What is served.
        path: Where the requests go.
        model: The base model.
        body: A request, from an adapter's name and a text.
        read: What a reply says.
        same: Whether two answers are the same.
    """

    task_type: str
    path: str
    model: Callable[[], Any]
    body: Callable[[str, str], dict[str, Any]]
    read: Callable[[Any], Answer]
    same: Callable[[Answer, Answer], bool]


@dataclass
class Seen:
    """What happened.

    Attributes:
        statuses: How often each status came.
        wrong: Answers that were not those of their adapter.
        seconds: Of the requests that were answered.
        memory: Bytes of the server, at even times.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    hung_up: int = 0
    changes: int = 0


def encoder() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, num_labels=3, initializer_range=0.2)
    return transformers.BertForSequenceClassification(config)


def decoder() -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, initializer_range=0.2, eos_token_id=2))


def close(one: list[float], other: list[float]) -> bool:
    return len(one) == len(other) and all(abs(a - b) < TOLERANCE for a, b in zip(one, other, strict=True))


KINDS = (
    Kind(
        "SEQ_CLS",
        "/v1/predict",
        encoder,
        lambda name, text: {"adapter": name, "inputs": text},
        lambda reply: list(reply["predictions"][0]["scores"].values()),
        close,
    ),
    Kind(
        "CAUSAL_LM",
        "/v1/completions",
        decoder,
        lambda name, text: {"model": name, "prompt": text, "temperature": 0, "max_tokens": NEW_TOKENS},
        lambda reply: reply["choices"][0]["text"],
        lambda one, other: one == other,
    ),
)


@torch.no_grad()
def known_answers(kind: Kind, folder: Path, names: list[str], texts: list[list[int]]) -> dict[str, list[Answer]]:
    """What each adapter gives for each text, by itself."""
    model = kind.model().eval()
    bank = AdapterBank(model)
    answers: dict[str, list[Answer]] = {}
    for name in names:
        bank.load(folder / name)
        answers[name] = []
        for ids in texts:
            inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
            if kind.task_type == "SEQ_CLS":
                logits = bank(**inputs, adapter_names=[name]).logits.double()
                answers[name].append(logits.softmax(-1)[0].tolist())
            else:
                options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
                made = bank.generate(**inputs, adapter_names=[name], **options)[0, len(ids) :].tolist()
                answers[name].append(" ".join(WORD.format(token) for token in made if token not in (0, 2, 3)))
    return answers


def recognisable(kind: Kind, answers: dict[str, list[Answer]]) -> list[int]:
    """The texts that every adapter answers in a way of its own.

    Raises:
        RuntimeError: There is none.
    """
    found = [
        text
        for text in range(TEXTS)
        if not any(kind.same(one[text], other[text]) for one, other in combinations(answers.values(), 2))
    ]
    if not found:
        raise RuntimeError("The adapters cannot be told by their answers: draw others.")
    return found


class Soak:
    """One half of the test, against one server."""

    def __init__(self, kind: Kind, port: int, process: int, answers: dict[str, list[Answer]], texts: list[str]) -> None:
        self.kind, self.port, self.process, self.answers, self.texts = kind, port, process, answers, texts
        self.usable = recognisable(kind, answers)
        self.seen, self._lock, self._over = Seen(), threading.Lock(), threading.Event()
        self.lasting = [f"a{number}" for number in range(ADAPTERS)]
        self.coming = [f"c{number}" for number in range(COMING)]

    def run(self, clients: int, seconds: float) -> Seen:
        """All at once, for so long."""
        targets = [self._change] + [self._ask] * clients
        threads = [threading.Thread(target=self._guarded, args=(t, n)) for n, t in enumerate(targets)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.seen.memory.append(psutil.Process(self.process).memory_info().rss)
            time.sleep(seconds / 40)
        self._over.set()
        for thread in threads:
            thread.join()
        return self.seen

    def _guarded(self, run: Callable[[random.Random], None], number: int) -> None:
        try:
            run(random.Random(number))
        except Exception as error:
            self._wrong(f"{type(error).__name__}: {error}")

    def _wrong(self, what: str) -> None:
        with self._lock:
            self.seen.wrong.append(what)

    def _ask(self, draw: random.Random) -> None:
        call = Caller(self.port)
        while not self._over.is_set():
            chance = draw.random()
            if chance < NONSENSE:
                self._note(call("POST", self.kind.path, draw.choice(SPOILT))[0], range(400, 500))
                continue
            comes = draw.random() < 0.3
            name = draw.choice(self.coming if comes else self.lasting)
            text = draw.choice(self.usable)
            body = json.dumps(self.kind.body(name, self.texts[text])).encode()
            if chance < NONSENSE + HANGING_UP:
                call.send(self.kind.path, body)
                with self._lock:
                    self.seen.hung_up += 1
                continue
            begin = time.perf_counter()
            status, content = call("POST", self.kind.path, body)
            with self._lock:
                self.seen.seconds.append(time.perf_counter() - begin)
            self._note(status, (200, 404) if comes else (200,))
            if status == 200 and not self.kind.same(self.kind.read(json.loads(content)), self.answers[name][text]):
                self._wrong(f"{name}, text {text}: {content[:300]!r}")

    def _change(self, draw: random.Random) -> None:
        """Adapters come and go all the time."""
        call = Caller(self.port)
        while not self._over.is_set():
            name = draw.choice(self.coming)
            if draw.random() < 0.5:
                status, _ = call("DELETE", f"/v1/adapters/{name}")
                self._note(status, (200, 404))
            else:
                status, _ = call("POST", "/v1/adapters", json.dumps({"path": f"{name}"}).encode())
                self._note(status, (201,))
            with self._lock:
                self.seen.changes += 1
            time.sleep(0.002)

    def _note(self, status: int, expected: Any) -> None:
        with self._lock:
            self.seen.statuses[status] += 1
            if status not in expected:
                self.seen.wrong.append(f"status {status}")


def soak(kind: Kind, clients: int, seconds: float, **options: Any) -> Seen:
    """One half of the test."""
    with tempfile.TemporaryDirectory() as place:
        folder, draw = Path(place), random.Random(0)
        names = [f"a{number}" for number in range(ADAPTERS)] + [f"c{number}" for number in range(COMING)]
        write_base(kind.model(), folder / "base")
        write_adapters(kind.model(), folder / "base", folder / "adapters", names, kind.task_type, 0.02)
        texts = [[draw.randrange(4, 500) for _ in range(draw.randrange(3, 12))] for _ in range(TEXTS)]
        answers = known_answers(kind, folder / "adapters", names, texts)
        words = [" ".join(WORD.format(token) for token in ids) for ids in texts]
        with serving(folder / "adapters", folder / "log", use_cpu=True, **options) as (port, process):
            return Soak(kind, port, process, answers, words).run(clients, seconds)


def growth(memory: list[int]) -> float:
    """How much larger the server is in the last quarter of the time than in the second, as a share."""
    quarter = max(1, len(memory) // 4)
    before = statistics.median(memory[quarter : 2 * quarter] or memory)
    return statistics.median(memory[-quarter:]) / before - 1


def row(kind: Kind, seen: Seen, seconds: float) -> dict[str, Any]:
    """What is kept of one half."""
    ordered = sorted(seen.seconds)
    return {
        "task": kind.task_type,
        "seconds": seconds,
        "answered": len(ordered),
        "per_second": len(ordered) / seconds,
        "p50_ms": 1e3 * ordered[len(ordered) // 2],
        "p99_ms": 1e3 * ordered[len(ordered) * 99 // 100],
        "statuses": {str(status): count for status, count in sorted(seen.statuses.items())},
        "wrong": len(seen.wrong),
        "hung_up": seen.hung_up,
        "changes_of_adapters": seen.changes,
        "memory_growth": growth(seen.memory),
        "memory_mib": [round(size / 2**20, 1) for size in seen.memory],
    }


def main(arguments: list[str] | None = None) -> None:
    """Run both halves, print and write."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--minutes", type=float, default=10, help="for both halves together")
    options.add_argument("--clients", type=int, default=64, help="at once")
    options.add_argument("--output", type=Path, default=RESULTS / "soak-cpu.json", help="where the JSON goes")
    options.set_defaults(device="cpu", clock="wall", threads=None)
    asked = options.parse_args(arguments)
    start(asked)
    rows, begin = [], time.perf_counter()
    for kind in KINDS:
        seconds = 60 * asked.minutes / len(KINDS)
        seen = soak(kind, asked.clients, seconds, capacity=16)
        rows.append(row(kind, seen, seconds))
        print({name: value for name, value in rows[-1].items() if name != "memory_mib"}, *seen.wrong[:5], sep="\n")
    print("Written to", write("soak", asked, rows, time.perf_counter() - begin))
    if any(one["wrong"] for one in rows):
        raise SystemExit("Some answers were wrong.")


if __name__ == "__main__":
    main()
