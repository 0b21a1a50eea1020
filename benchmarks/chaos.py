"""Kills runs and goes on with them, damages what they left, and takes their disk away: nothing may be lost.

python benchmarks/chaos.py --trials 1000 --output benchmarks/results/chaos.json

Each trial is a command that trains a tiny model. It is killed by SIGKILL, once or several times: at a random moment, just
before a random change of the file system, or in the middle of a file. Then the same command is left alone. What it leaves
must be what it leaves when it is never killed, bit for bit: weights, optimizer, answers, and the record but for its times.
Runs that share a batch are the same to rounding, since a kill leaves them at different steps, where they share it no longer.
The same seed gives the same trials, but for the random moments.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import chaos_runs as runs
from chaos_runs import BROKEN, DONE, FULL, REFUSED, RUN, Subject

SETTINGS, GROUP = 36, 36
"""How many settings a run has; and the number that stands for several runs in one batch."""
ROUNDING = 1e-5
MOST_KILLS, AGAIN = 4, 0.15
NOTHING_DONE = "nothing was done"
FINE = ("same", "refused", NOTHING_DONE)
DAMAGES = ("truncated", "emptied", "removed", "one bit", "other bytes", "swapped")


@dataclass
class Result:
    """What came of a trial.

    Attributes:
        kind: kill, group, disk, checkpoint or adapter.
        way: How it was killed, what failed, or what was damaged.
        outcome: "same", "refused", `NOTHING_DONE`, or what was lost.
        seconds: How long it took.
        said: What was printed, where something was lost.
        kills: How often the run was killed.
    """

    kind: str
    way: str
    outcome: str
    seconds: float = 0.0
    said: str = ""
    kills: int = 0


@dataclass
class Bench:
    """The commands that are never killed, one for each of the settings that a trial draws from.

    Attributes:
        root: Where everything is.
        subject: What is trained.
    """

    root: Path
    subject: Subject

    def command(self, number: int) -> Callable[[], object]:
        """The command with these settings."""
        if number == GROUP:
            return runs.train_group(runs.group_of(self.subject))
        return runs.train_here(runs.spec_of(runs.settings(number), self.subject))

    def reference(self, number: int) -> Path:
        """Where the run with these settings is that was never killed."""
        return self.root / f"whole-{number}"

    def length(self, number: int) -> tuple[float, int]:
        """How many seconds it took, and how often it changed the file system."""
        seconds, changes = json.loads((self.reference(number) / "length.json").read_text())
        return seconds, changes

    def make_reference(self, number: int) -> None:
        """Do what is never killed, and label rows with it."""
        folder = self.reference(number)
        folder.mkdir()
        begun, changes = time.monotonic(), folder / "changes.txt"
        status = runs.ended(runs.forked(folder, self.command(number), runs.at_event(1, runs.note(changes), again=True)))
        length = time.monotonic() - begun, len(changes.read_bytes())
        (folder / "length.json").write_text(json.dumps(length))
        if status != DONE or (number != GROUP and label(self, folder) != DONE):
            raise RuntimeError(f"settings {number}: {(folder / 'log.txt').read_text()}")

    def finish(self, number: int, folder: Path, damaged: Collection[str] = ()) -> str:
        """Leave a command alone, and say whether what it leaves is as if it had never been disturbed.

        A run that came to its end nevertheless is not begun again.

        Args:
            number: The setting.
            folder: Where it was disturbed.
            damaged: Files that were damaged, and may be left so, as those of a checkpoint that nobody needs.
        """
        tolerance = ROUNDING if number == GROUP else 0.0
        status = DONE if is_over(folder) else runs.ended(runs.forked(folder, self.command(number)))
        if status == REFUSED:
            return "refused"
        if status != DONE:
            return f"ended with {status}"
        found = runs.differences(self.reference(number) / RUN, folder / RUN, tolerance)
        return "; ".join(line for line in found if not any(is_of(name, line) for name in damaged)) or "same"


def is_over(folder: Path) -> bool:
    """Whether a run came to its end."""
    return (folder / RUN / "record.json").is_file()


def is_of(damaged: str, line: str) -> bool:
    """Whether a line of `differences` is about this file, by its own name or as one that a manifest lists."""
    checkpoint, _, name = damaged.rpartition("/")
    return line.endswith(damaged) or line.startswith(f"{checkpoint}/manifest.json: {name} ")


def kill_trial(bench: Bench, draw: random.Random, folder: Path) -> Result:
    """Kill a run, some times, and leave it alone then; no kills, where it ended before."""
    return _killed("kill", draw.randrange(SETTINGS), bench, draw, folder)


def group_trial(bench: Bench, draw: random.Random, folder: Path) -> Result:
    """The same of runs that are trained in one batch."""
    return _killed("group", GROUP, bench, draw, folder)


def _killed(kind: str, number: int, bench: Bench, draw: random.Random, folder: Path) -> Result:
    ways = []
    for _ in range(1 + sum(draw.random() < AGAIN for _ in range(MOST_KILLS - 1))):
        if is_over(folder):
            break
        way, prepare, kill_after = _kill(*bench.length(number), draw)
        status = runs.ended(runs.forked(folder, bench.command(number), prepare), kill_after)
        if status in (BROKEN, REFUSED):
            return Result(kind, way, f"{number}: ended with {status} before it was killed", kills=1)
        if status in (-signal.SIGKILL, -signal.SIGXFSZ):
            ways.append(way)
        elif status == DONE:
            break
    if not ways:
        return Result(kind, "", NOTHING_DONE)
    outcome = bench.finish(number, folder)
    way = " + ".join(sorted(set(ways)))
    return Result(kind, way, outcome if outcome == "same" else f"{number}: {outcome}", kills=len(ways))


def _kill(seconds: float, changes: int, draw: random.Random) -> tuple[str, Callable[[], object], float | None]:
    """How a run of such a length is to be killed, what it prepares for that, and after how long it is from outside."""
    way = draw.choice(("moment", "change", "change", "middle of a file"))
    if way == "moment":
        return way, lambda: None, draw.random() * seconds
    if way == "change":
        return way, runs.at_event(draw.randrange(1, changes + 1), runs.kill_itself), None
    limit = runs.limit_files(int(10 ** draw.uniform(0, 4)))
    return way, runs.at_event(draw.randrange(1, changes + 1), limit, too_large=signal.SIG_DFL), None


def disk_trial(bench: Bench, draw: random.Random, folder: Path) -> Result:
    """Take a run's disk away, and give it back: the run says so in a sentence, and goes on."""
    number = draw.randrange(SETTINGS)
    way = draw.choice(("error", "error", "file too large", "small disk"))
    command, (_, changes) = bench.command(number), bench.length(number)
    if way == "small disk":
        small, size = folder / "small", 2 ** draw.randrange(13, 17)
        small.mkdir()
        with runs.small_disk(small, size) as mounted:
            (folder / RUN).symlink_to(small)
            status = runs.ended(runs.forked(folder, command))
            (folder / RUN).unlink()
            shutil.copytree(small, folder / RUN)
        if not mounted:
            return Result("disk", "no small disk here", NOTHING_DONE)
    elif way == "error":
        number_of_error = draw.choice(FULL)
        way = errno.errorcode[number_of_error]
        prepare = runs.at_event(draw.randrange(1, changes + 1), runs.fail_with(number_of_error), again=True)
        status = runs.ended(runs.forked(folder, command, prepare))
    else:
        limit = runs.limit_files(int(10 ** draw.uniform(0, 4)))
        prepare = runs.at_event(draw.randrange(1, changes + 1), limit)
        status = runs.ended(runs.forked(folder, command, prepare))
    if status not in (DONE, REFUSED):
        return Result("disk", way, f"{number}: ended with {status}")
    said = "in time" if status == DONE else "refused"
    outcome = bench.finish(number, folder)
    return Result("disk", f"{way}, {said}", outcome if outcome == "same" else f"{number}: {outcome}")


def damage(file: Path, way: str, draw: random.Random) -> None:
    """Damage a file."""
    data = bytearray(file.read_bytes())
    if way == "removed":
        file.unlink()
        return
    if way == "truncated":
        del data[draw.randrange(max(len(data), 1)) :]
    elif way == "emptied":
        data.clear()
    elif way == "one bit" and data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif way == "swapped":
        others = [path for path in file.parent.iterdir() if path.is_file() and path != file]
        data = bytearray(draw.choice(others).read_bytes())
    else:
        place = draw.randrange(max(len(data), 1))
        data[place : place + 16] = draw.randbytes(16)
    file.write_bytes(data)


def checkpoint_trial(bench: Bench, draw: random.Random, folder: Path) -> Result:
    """Damage the newest checkpoint of a run, or all of them: it goes on from the one before, or is refused."""
    numbers = [number for number in range(SETTINGS) if len(_checkpoints(bench.reference(number))) > 1]
    number = draw.choice(numbers)
    shutil.copytree(bench.reference(number) / RUN, folder / RUN)
    for path in (folder / RUN).iterdir():  # as of a run that was killed before its end
        if path.is_file():
            path.unlink()
    found = _checkpoints(folder)
    every = draw.random() < 0.3
    way = draw.choice(DAMAGES)
    damaged: list[str] = []
    for checkpoint in found if every else found[-1:]:
        file = draw.choice(sorted(path for path in checkpoint.iterdir() if path.is_file()))
        damage(file, way, draw)
        damaged.append(file.relative_to(folder / RUN).as_posix())
    outcome = bench.finish(number, folder, damaged)
    could_go_on = not every
    if outcome == "refused" and could_go_on:
        outcome = "refused, though another checkpoint was whole"
    return Result(
        "checkpoint", f"{file.name} {way}", outcome if outcome in ("same", "refused") else f"{number}: {outcome}"
    )


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / RUN).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def adapter_trial(bench: Bench, draw: random.Random, folder: Path) -> Result:
    """Damage a file of a finished run, and label rows with it: the same answers, or a sentence."""
    number = draw.randrange(SETTINGS)
    whole = bench.reference(number)
    shutil.copytree(whole / RUN, folder / RUN)
    file = draw.choice(sorted(path for path in (folder / RUN).iterdir() if path.is_file()))
    way = draw.choice(DAMAGES)
    damage(file, way, draw)
    status = label(bench, folder)
    if status == DONE:
        is_same = (folder / "labels.jsonl").read_bytes() == (whole / "labels.jsonl").read_bytes()
        outcome = "same" if is_same else f"{number}: other answers"
    else:
        outcome = "refused" if status == REFUSED else f"{number}: ended with {status}"
    return Result("adapter", f"{file.name} {way}", outcome)


def label(bench: Bench, folder: Path) -> int:
    from propulsion_tools.records.options import PredictOptions
    from propulsion_tools.training.predict import predict

    quiet: dict[str, Any] = {"disable_tqdm": True, "use_cpu": True}
    options = PredictOptions(input=str(bench.subject.texts), output="labels.jsonl", **quiet)
    return runs.ended(runs.forked(folder, lambda: predict(Path(RUN), options)))


TRIALS = {
    "kill": kill_trial,
    "group": group_trial,
    "disk": disk_trial,
    "checkpoint": checkpoint_trial,
    "adapter": adapter_trial,
}


PART = {"kill": 1, "group": 16, "disk": 8, "checkpoint": 8, "adapter": 8}
"""How many times less often each kind is done than runs are killed."""


def one(bench: Bench, kind: str, number: int, seed: int, keep: Path | None = None) -> Result:
    """Do one trial, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-{number}-", dir=bench.root))
    begun = time.monotonic()
    result = TRIALS[kind](bench, random.Random(f"{seed} {kind} {number}"), folder)
    result.seconds = time.monotonic() - begun
    if result.outcome not in FINE:
        result.said = (folder / "log.txt").read_text(errors="replace")[-2000:]
        if keep is not None:
            shutil.copytree(folder, keep / folder.name, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def work(bench: Bench, todo: list[tuple[str, int]], seed: int, output: Path, keep: Path | None) -> None:
    """Do trials one after the other, and write down what came of each."""
    with output.open("w") as stream:
        for kind, number in todo:
            result = one(bench, kind, number, seed, keep)
            stream.write(json.dumps(asdict(result)) + "\n")
            stream.flush()


def in_workers(workers: int, do: Callable[[int], object]) -> None:
    """Do something in several processes, which are told their numbers."""
    processes = []
    for worker in range(workers):
        process = os.fork()
        if not process:
            status = 1
            try:
                do(worker)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        processes.append(process)
    ends = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    if any(ends):
        raise RuntimeError("a worker ended early")


def make_references(root: Path, workers: int) -> None:
    """Do what is never killed by a process of its own: Python orders sets differently in each, as after a real kill."""
    words = [sys.executable, __file__, "--references", str(root), "--workers", str(workers)]
    subprocess.run(words, env={**os.environ, "PYTHONHASHSEED": "1"}, check=True)


def all_of(bench: Bench, todo: list[tuple[str, int]], seed: int, workers: int, keep: Path | None) -> list[Result]:
    """Do trials in several processes."""
    files = [bench.root / f"{worker}.jsonl" for worker in range(workers)]
    in_workers(workers, lambda worker: work(bench, todo[worker::workers], seed, files[worker], keep))
    return [Result(**json.loads(line)) for file in files for line in file.read_text().splitlines()]


def figures(results: list[Result]) -> dict[str, Any]:
    """Counts by kind and outcome, and every trial that lost something."""
    kinds: dict[str, Any] = {}
    for kind in TRIALS:
        of_kind = [result for result in results if result.kind == kind and result.outcome != NOTHING_DONE]
        outcomes = Counter(item.outcome if item.outcome in FINE else "lost" for item in of_kind)
        kinds[kind] = {"trials": len(of_kind), **{name: outcomes[name] for name in ("same", "refused", "lost")}}
        kinds[kind]["kills"] = sum(item.kills for item in of_kind)
        kinds[kind]["ways"] = dict(sorted(Counter(item.way for item in of_kind).items()))
    return kinds


def main() -> int:
    """Do all trials, print and keep the figures; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1200, help="runs to kill; others are a part of that")
    parser.add_argument("--kinds", nargs="*", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="folder for what trials left that lost something")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--references", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    begun, workers = time.monotonic(), options.workers
    if options.references:
        bench = Bench(options.references, runs.Subject(options.references))
        runs.preload(bench.subject)
        in_workers(workers, lambda worker: [bench.make_reference(n) for n in range(worker, GROUP + 1, workers)])
        return 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        root = Path(name)
        subject = runs.make_subject(root)
        make_references(root, workers)
        runs.preload(subject)
        counts = {kind: options.trials // PART[kind] for kind in options.kinds}
        todo = [(kind, number) for kind, count in counts.items() for number in range(count)]
        random.Random(options.seed).shuffle(todo)
        results = all_of(Bench(root, subject), todo, options.seed, workers, options.keep)
    kinds = figures(results)
    lost = [result for result in results if result.outcome not in FINE]
    for kind, row in kinds.items():
        print(kind, {key: value for key, value in row.items() if key != "ways"})
    for result in lost:
        print(f"LOST: {result.kind}, {result.way}: {result.outcome}\n{result.said}\n")
    if options.output:
        values = {"date": date.today().isoformat(), "seed": options.seed, "settings": SETTINGS}
        values["seconds"] = round(time.monotonic() - begun)
        options.output.write_text(json.dumps({**values, "kinds": kinds}, indent=2) + "\n")
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
