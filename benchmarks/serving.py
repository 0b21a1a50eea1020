"""A server on this machine, asked by 1, 8 and 64 clients at once: one adapter against 64 mixed.

python benchmarks/serving.py
python benchmarks/serving.py --replicas 1 2 --models minilm --clients 8

The second asks replicas of Ray Serve, one and then two, on this machine. Server and clients share the machine. Rounds of one adapter and of 64 alternate; `ratio` is the throughput with 64 over
that with one in the rounds beside it.
"""

from __future__ import annotations

import json
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from measuring import parser, quartiles, spread, start, table, write
from served import WORD, Caller, serving, write_adapters, write_base
from subjects import SUBJECTS, build

ADAPTERS = 64
NEW_TOKENS = 8


def bodies(causal: bool, length: int, names: list[str], count: int) -> list[tuple[str, bytes]]:
    """Requests with random words, the adapters in turn."""
    draw = random.Random(0)
    made = []
    for number in range(count):
        text = " ".join(WORD.format(draw.randrange(10, 30000)) for _ in range(length))
        name = names[number % len(names)]
        if causal:
            body: dict[str, Any] = {"model": name, "prompt": text, "temperature": 0, "max_tokens": NEW_TOKENS}
        else:
            body = {"adapter": name, "inputs": text}
        made.append(("/v1/completions" if causal else "/v1/predict", json.dumps(body).encode()))
    return made


def round_of(port: int, clients: int, seconds: float, requests: list[tuple[str, bytes]]) -> tuple[float, list[float]]:
    """Answers a second, and how long each took, while so many clients ask one thing after the other."""
    times: list[list[float]] = [[] for _ in range(clients)]
    end = time.perf_counter() + seconds

    def ask(number: int) -> None:
        call, place = Caller(port), number
        while (begin := time.perf_counter()) < end:
            status, content = call("POST", *requests[place % len(requests)])
            if status != 200:
                raise RuntimeError(content.decode())
            times[number].append(time.perf_counter() - begin)
            place += clients

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [one for each in times for one in each]
    return len(taken) / (time.perf_counter() - begin), taken


def wait_for(port: int, replicas: int) -> None:
    """Until all replicas answer: the server begins with the first."""
    call = Caller(port)
    while f"propulsion_replicas {replicas}.0" not in call("GET", "/metrics")[1].decode():
        time.sleep(0.5)


def measure(options: Any, model_name: str, replicas: int) -> list[dict[str, Any]]:
    """One model at each number of clients, in the server's process or, if there are some, in replicas."""
    causal = SUBJECTS[model_name].causal
    length = options.prompt if causal else options.length[0]
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder, names = Path(place), [f"a{number}" for number in range(ADAPTERS)]
        model = build(model_name, torch.float32).eval()
        write_base(model, folder / "base")
        write_adapters(model, folder / "base", folder / "adapters", names, "CAUSAL_LM" if causal else "SEQ_CLS", 0.001)
        backend = {"backend": "ray", "replicas": replicas} if replicas else {}
        with serving(folder / "adapters", folder / "log", use_cpu=True, **backend) as (port, _):
            if replicas:
                wait_for(port, replicas)
            for clients in options.clients:
                plans = {"one": names[:1], "mixed": names}
                asked = {plan: bodies(causal, length, chosen, 8 * ADAPTERS) for plan, chosen in plans.items()}
                rates: dict[str, list[float]] = {plan: [] for plan in plans}
                times: dict[str, list[float]] = {plan: [] for plan in plans}
                round_of(port, clients, options.seconds / 2, asked["mixed"])
                for number in range(options.rounds):
                    for plan in list(plans)[:: 1 if number % 2 else -1]:
                        rate, taken = round_of(port, clients, options.seconds, asked[plan])
                        rates[plan].append(rate)
                        times[plan] += taken
                where = {"model": model_name, "task": "decode" if causal else "encoder", "clients": clients}
                where |= {"replicas": replicas, "length": length, "new_tokens": NEW_TOKENS if causal else 0}
                ratios = [mixed / one for mixed, one in zip(rates["mixed"], rates["one"], strict=True)]
                for plan in plans:
                    ordered = sorted(times[plan])
                    percentiles = {f"p{p}_ms": 1e3 * ordered[len(ordered) * p // 100] for p in (50, 99)}
                    row = {**where, "adapters": len(plans[plan]), "per_second": quartiles(rates[plan]), **percentiles}
                    rows.append(row | ({"ratio": quartiles(ratios)} if plan == "mixed" else {}))
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    options = parser((__doc__ or "").splitlines()[0], length=[32], dtype=["float32"], rounds=7, minutes=0)
    options.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64], help="at once")
    options.add_argument("--seconds", type=float, default=5, help="of a round")
    options.add_argument("--prompt", type=int, default=16, help="tokens before what is generated")
    options.add_argument("--replicas", type=int, nargs="+", default=[], help="with Ray Serve: copies of the model")
    options.set_defaults(models=["minilm", "llama-110m"])
    asked = options.parse_args(arguments)
    start(asked)
    rows, begin = [], time.perf_counter()
    for model_name in asked.models:
        for replicas in asked.replicas or [0]:
            rows += measure(asked, model_name, replicas)
    lines = [
        [
            *(str(row[key]) for key in ("task", "replicas", "clients", "adapters")),
            spread(row["per_second"], 1),
            *(f"{row[key]:.0f}" for key in ("p50_ms", "p99_ms")),
            spread(row["ratio"]) if "ratio" in row else "",
        ]
        for row in rows
    ]
    table(
        "server", ["task", "replicas", "clients", "adapters", "answers / s", "p50 ms", "p99 ms", "mixed / one"], lines
    )
    print(
        "Written to",
        write("serving_replicas" if asked.replicas else "serving", asked, rows, time.perf_counter() - begin),
    )


if __name__ == "__main__":
    main()
