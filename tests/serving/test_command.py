"""`propulsion serve` as a process: it finds its base model, answers, and ends when it has answered."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

from propulsion_tools.cli.commands import COMMANDS
from tests.processes import environment
from tests.serving.client import Client

ASKED = {"adapter": "mood", "inputs": "the film was good"}


def test_the_command_serves_a_run_by_what_its_record_says(classifiers: Path, tmp_path: Path) -> None:
    surroundings = environment(PROPULSION_API_KEY="k")
    words = ["serve", "--adapters", str(classifiers), "--port", "0", "--use_cpu", "--capacity", "2"]
    command = [sys.executable, "-m", "propulsion", *words]
    log = tmp_path / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=surroundings) as process,
    ):
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        port = next(int(found[1]) for line in lines if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line)))
        client = Client(port, "k")
        assert client("GET", "/ready").json == {"status": "ready", "adapters": 4}
        assert client("POST", "/v1/predict", ASKED).status == 200
        assert Client(port)("POST", "/v1/predict", ASKED).status == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    logged = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert [line["status"] for line in logged if line["event"] == "request"] == [200, 200, 401]
    assert "film" not in log.read_text()


def test_the_command_listens_to_this_machine_alone() -> None:
    assert COMMANDS["serve"].options().host == "127.0.0.1"
