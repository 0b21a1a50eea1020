"""Where adapters are makes no difference to what they answer, whoever does what at the same time."""

from __future__ import annotations

import gc
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from torch import Tensor, nn

from propulsion import AdapterBank
from propulsion.bank.adapters import Adapter, Column
from propulsion.errors import AdapterNameError, BankFullError
from tests.propulsion.bank.adapters import adapter, various
from tests.propulsion.steered import batch, result
from tests.tiny_models import tiny_model

INPUTS = {key: value for key, value in batch("roberta").items() if key != "labels"}


def answer(bank: AdapterBank, *names: str) -> Tensor:
    return bank(**INPUTS, adapter_names=list(names) if len(names) > 1 else list(names) * 3).logits


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return various("roberta")


@pytest.fixture(scope="module")
def expected(models: dict[str, Any]) -> dict[str, Tensor]:
    return {name: result(model, INPUTS) for name, model in models.items()}


def fill(models: dict[str, Any], **limits: Any) -> AdapterBank:
    bank = AdapterBank(tiny_model("roberta"), **limits)
    for name, model in models.items():
        bank.add(name, model)
    return bank


@pytest.mark.parametrize("limits", [{}, {"capacity": 2}, {"capacity": 1, "host_budget": 0}, {"device_budget": 20_000}])
def test_adapters_come_back_as_they_were(
    limits: dict[str, Any], models: dict[str, Any], expected: dict[str, Tensor]
) -> None:
    bank = fill(models, **limits)
    for _ in range(2):
        for name in random.Random(0).sample([*models], len(models)):
            assert torch.equal(answer(bank, name), expected[name])
            assert name in bank.resident
    assert len(bank.resident) <= limits.get("capacity", len(models))
    assert bank.names == [*models]
    assert len(bank) == len(models)
    assert "wide" in bank
    assert "narrow" not in bank


def test_the_least_recently_used_leaves(models: dict[str, Any]) -> None:
    bank = fill(models, capacity=3)
    answer(bank, "all", "attn", "wide")
    answer(bank, "all")
    answer(bank, "signed")
    assert {*bank.resident} == {"all", "wide", "signed"} or {*bank.resident} == {"all", "attn", "signed"}
    bank.pin("wide")
    for name in ("attn", "biased", "shy"):
        answer(bank, name)
    assert "wide" in bank.resident
    bank.pin("shy")
    with pytest.raises(BankFullError, match="cannot be pinned"):
        bank.pin("all")
    with pytest.raises(BankFullError, match="raise capacity"):
        answer(bank, "all", "attn", "all")
    bank.pin("wide", False)
    answer(bank, "all", "attn", "all")
    assert "wide" not in bank.resident


def test_more_adapters_than_places_are_refused(models: dict[str, Any], expected: dict[str, Tensor]) -> None:
    bank = fill(models, capacity=2)
    with pytest.raises(BankFullError, match="3 adapters, and 2 fit"):
        answer(bank, "all", "attn", "wide")
    assert torch.equal(answer(bank, "all", "attn", "all")[1], expected["attn"][1])
    with pytest.raises(BankFullError, match="raise device_budget"):
        fill(models, device_budget=1000)


def test_files_on_disk_go_with_the_bank(models: dict[str, Any], expected: dict[str, Tensor]) -> None:
    bank = fill(models, capacity=1, host_budget=0)
    folder = Path(bank._shelf._folder.name)
    assert len([*folder.iterdir()]) == len(models) - 1
    bank.remove("wide")
    assert len([*folder.iterdir()]) == len(models) - 2
    assert torch.equal(answer(bank, "shy"), expected["shy"])
    del bank
    gc.collect()
    assert not folder.exists()


def test_a_file_that_has_gone_takes_no_place(models: dict[str, Any], expected: dict[str, Tensor]) -> None:
    bank = fill(models, capacity=2, host_budget=0)
    folder = Path(bank._shelf._folder.name)
    bank._shelf.entries["signed"].file.unlink()
    with pytest.raises(FileNotFoundError):
        answer(bank, "wide", "signed", "wide")
    assert torch.equal(answer(bank, "biased", "shy", "shy")[1], expected["shy"][1])
    bank.close()
    assert not folder.exists()


def test_a_pinned_adapter_stays_so_when_it_is_replaced(models: dict[str, Any], expected: dict[str, Tensor]) -> None:
    bank = fill({name: models[name] for name in ("all", "attn", "wide")}, capacity=2)
    bank.pin("all", True)
    with bank.steering(["all", "attn", "all"]):
        bank.add("all", models["biased"])  # for which there is no place yet
        assert "all" not in bank.resident
    assert torch.equal(answer(bank, "all"), expected["biased"])
    with bank.steering(["all"] * 3):
        bank.add("all", models["shy"])
        assert "all" in bank.resident
    for name in ("attn", "wide"):
        assert torch.equal(answer(bank, name), expected[name])
        assert "all" in bank.resident
    assert torch.equal(answer(bank, "all"), expected["shy"])


def test_a_batch_keeps_what_it_began_with(models: dict[str, Any], expected: dict[str, Tensor]) -> None:
    bank = fill({"one": models["all"]}, capacity=2)
    with bank.steering(["one"] * 3):
        bank.add("one", models["biased"])
        bank.remove("one")
        bank.add("two", models["wide"])  # which does not get the row that is in use
        assert torch.equal(bank.base_model(**INPUTS).logits, expected["all"])
    assert bank.names == ["two"]
    with pytest.raises(AdapterNameError, match="no"):
        answer(bank, "one")
    bank.add("one", models["biased"])
    assert torch.equal(answer(bank, "one"), expected["biased"])
    assert torch.equal(answer(bank, "two"), expected["wide"])


def test_a_full_bank_waits_for_a_place(models: dict[str, Any], expected: dict[str, Tensor]) -> None:
    bank = fill(models, capacity=1)
    answers: list[Tensor] = []
    with bank.steering(["all"] * 3):
        thread = threading.Thread(target=lambda: answers.append(answer(bank, "attn")))
        thread.start()
        assert not answers
        first = bank.base_model(**INPUTS).logits
    thread.join()
    assert torch.equal(first, expected["all"])
    assert torch.equal(answers[0], expected["attn"])


def test_a_thread_does_not_wait_for_itself(models: dict[str, Any], expected: dict[str, Tensor]) -> None:
    bank = fill(models, capacity=1)
    with bank.steering(["all"] * 3):
        with pytest.raises(BankFullError, match="this thread holds adapters"):
            answer(bank, "attn")
        assert torch.equal(answer(bank, "all"), expected["all"])
    assert torch.equal(answer(bank, "attn"), expected["attn"])


def test_everybody_at_once(models: dict[str, Any], expected: dict[str, Tensor]) -> None:
    bank = fill(models, capacity=3, host_budget=30_000)
    base = result(bank.base_model, INPUTS)
    others = {f"extra{n}": adapter("roberta", seed=50 + n) for n in range(3)}

    def ask(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(12):
            names = [draw.choice(["__base__", *models]) for _ in range(3)]
            logits = answer(bank, *names)
            for row, name in enumerate(names):
                assert torch.equal(logits[row], (base if name == "__base__" else expected[name])[row])

    def disturb(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(20):
            name = draw.choice([*others])
            bank.add(name, others[name])
            bank.add("attn", models["attn"])
            bank.remove(name)

    with ThreadPoolExecutor(5) as pool:
        tasks = [*(pool.submit(ask, seed) for seed in range(4)), pool.submit(disturb, 9)]
        for task in tasks:
            task.result(timeout=120)
    assert len(bank.resident) <= 3


def test_memory_is_that_of_the_vectors(models: dict[str, Any]) -> None:
    bank = AdapterBank(tiny_model("roberta"))
    adapters = [adapter("roberta", "cls", seed=n, modules_to_save=[]) for n in range(2)]
    for number in range(64):
        bank.add(f"a{number}", adapters[number % 2])
    vectors = 64 * sum(p.numel() * 4 for n, p in adapters[0].named_parameters() if "propulsion" in n)
    assert bank._shelf.table.values.untyped_storage().nbytes() <= 1.1 * vectors
    assert not any(entry.values is not None for entry in bank._shelf.entries.values())


LAYERS = {"a": 3, "b": 2}
PARTS = ("gain", "negative", "bias")


class Machine(RuleBasedStateMachine):
    """A shelf against a dictionary, under any sequence of what can happen."""

    limits: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.shelf = AdapterBank(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), **self.limits)._shelf
        self.model: dict[str, dict[tuple[str, str], Tensor]] = {}

    @rule(
        name=st.sampled_from("pqrst"),
        parts=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(PARTS)), unique=True, min_size=1),
        seed=st.integers(0, 99),
    )
    def put(self, name: str, parts: list[tuple[str, str]], seed: int) -> None:
        columns = tuple(
            Column(layer, part, LAYERS[layer]) for layer, part in [*{(la, "gain") for la, _ in parts}, *parts]
        )
        columns = tuple(dict.fromkeys(columns))
        values = torch.randn(sum(column.size for column in columns), generator=torch.Generator().manual_seed(seed))
        self.shelf.put(name, Adapter(columns, values, {}, None))
        pieces = values.split([column.size for column in columns])
        self.model[name] = {(c.layer, c.part): piece for c, piece in zip(columns, pieces, strict=True)}

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        self.shelf.remove(name)
        del self.model[name]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def use(self, data: Any) -> None:
        limit = self.shelf.limit or 5
        names = data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True, min_size=1, max_size=limit))
        with self.shelf.in_use(names) as entries:
            for name, entry in zip(names, entries, strict=True):
                self.check_row(entry.row, self.model[name])
            self.check_row(0, {})

    def check_row(self, row: int, own: dict[tuple[str, str], Tensor]) -> None:
        for (layer, part), (begin, end) in self.shelf.table.columns.items():
            nothing = {"gain": 1.0, "negative": 1.0, "bias": 0.0}[part]
            default = own.get((layer, "gain")) if part == "negative" else None
            expected = own.get((layer, part), default)
            actual = self.shelf.table.values[row, begin:end]
            assert torch.equal(actual, torch.full((end - begin,), nothing) if expected is None else expected)

    @invariant()
    def within_limits(self) -> None:
        shelf = self.shelf
        rows = [entry.row for entry in shelf.entries.values() if entry.row is not None]
        assert len({*rows}) == len(rows)
        assert not {*rows} & {*shelf.table.free_rows}
        assert len(rows) + len(shelf.table.free_rows) == shelf.table.rows
        assert {*shelf.entries} == {*self.model}
        if shelf.limit is not None:
            assert shelf.table.rows <= shelf.limit
        held = sum(entry.bytes for entry in shelf.entries.values() if entry.values is not None)
        assert held == shelf._host_bytes
        assert not shelf._held
        assert {*shelf._on_device} == {entry for entry in shelf.entries.values() if entry.row is not None}
        assert {*shelf._in_host} == {entry for entry in shelf.entries.values() if entry.values is not None}
        if shelf._host_budget is not None:
            assert held <= shelf._host_budget


def test_a_wider_adapter_leaves_fewer_places_when_their_users_are_done() -> None:
    shelf = AdapterBank(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), device_budget=200)._shelf
    narrow = (Column("a", "gain", 3),)
    wide = tuple(Column(layer, part, size) for layer, size in LAYERS.items() for part in PARTS)
    for number in range(4):
        shelf.put(f"{number}", Adapter(narrow, torch.full((3,), float(number)), {}, None))
    with shelf.in_use([f"{number}" for number in range(4)]):
        thread = threading.Thread(target=lambda: shelf.put("wide", Adapter(wide, torch.full((15,), 9.0), {}, None)))
        thread.start()
        assert len(shelf.resident) == 4
    thread.join()
    assert shelf.table.rows == shelf.limit == 2
    for name, value in [*((f"{number}", float(number)) for number in range(4)), ("wide", 9.0)]:
        with shelf.in_use([name]) as (entry,):
            begin, end = shelf.table.columns["a", "gain"]
            assert shelf.table.values[entry.row, begin:end].tolist() == [value] * 3


@pytest.mark.parametrize(
    "limits", [{}, {"capacity": 2}, {"capacity": 1, "host_budget": 0}, {"device_budget": 300, "host_budget": 40}]
)
def test_any_sequence_of_events(limits: dict[str, Any]) -> None:
    machine = type("LimitedMachine", (Machine,), {"limits": limits})
    checks = settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[*HealthCheck])
    run_state_machine_as_test(machine, settings=checks)
