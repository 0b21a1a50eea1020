"""A minute of everything at once: the way to do it, and the clients, are those of `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SECONDS = 30  # for each half
CLIENTS = 64


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1], ids=["predictions", "texts"])
def test_every_request_is_answered_once_by_its_own_adapter(half: int) -> None:
    import soak

    seen = soak.soak(soak.KINDS[half], CLIENTS, SECONDS, capacity=16)
    assert seen.wrong == []
    assert not [status for status in seen.statuses if status >= 500]
    assert min(seen.statuses[200], seen.hung_up, seen.changes, seen.statuses[400]) > 5
    assert soak.growth(seen.memory) < 0.1


def test_a_wrong_answer_would_be_seen() -> None:
    import soak

    for kind in soak.KINDS:
        other = [0.5, 0.3, 0.2] if kind.task_type == "SEQ_CLS" else "w1"
        right = [0.5, 0.302, 0.198] if kind.task_type == "SEQ_CLS" else "w2"
        with pytest.raises(RuntimeError, match="cannot be told"):
            soak.recognisable(kind, {"a": [other] * soak.TEXTS, "b": [other] * soak.TEXTS})
        assert soak.recognisable(kind, {"a": [other] * soak.TEXTS, "b": [right] * soak.TEXTS})
