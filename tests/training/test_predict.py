"""Predicting: one reader with training, an answer for every row or none at all, and nothing finished is lost."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from propulsion_tools.cli import INTERRUPTED, main
from propulsion_tools.errors import DataError, OptionError
from propulsion_tools.records import RunSpec
from propulsion_tools.records.options import PredictOptions
from propulsion_tools.tasks import get_task
from propulsion_tools.training.asked_rows import AskedRows
from propulsion_tools.training.predict import predict
from propulsion_tools.training.run import train
from propulsion_tools.training.smoke import build_tiny

QUIET = {"disable_tqdm": True, "use_cpu": True}
WORDS = ["--disable_tqdm", "--use_cpu"]
ROWS = [{"id": str(row), "text": f"a good, {row} film"} for row in range(11)]


def finished_run(folder: Path, tiny_model: Path, data_dir: Path, **changes: Any) -> Path:
    values = {"model_name_or_path": str(tiny_model), "data_dir": str(data_dir), "max_length": 16, "max_steps": 1}
    train(RunSpec(**{**values, "output_dir": str(folder / "run"), **QUIET, **changes}))
    return folder / "run"


@pytest.fixture(scope="module")
def run(tiny_model: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of texts."""
    return finished_run(tmp_path_factory.mktemp("single"), tiny_model, data_dir)


@pytest.fixture(scope="module")
def pair_run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of pairs."""
    folder = tmp_path_factory.mktemp("pair")
    rows = [{"sentence1": f"a film {row}", "sentence2": "bad", "label": row % 2} for row in range(8)]
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return finished_run(folder, tiny_model, folder)


def write_csv(file: Path, delimiter: str = ",") -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["id", "text"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(file: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)


INPUTS: dict[str, Callable[[Path], object]] = {
    "in.jsonl": lambda file: file.write_text("\n".join(map(json.dumps, ROWS))),
    "in.json": lambda file: file.write_text(json.dumps(ROWS)),
    "in.csv": write_csv,
    "semicolons.csv": lambda file: write_csv(file, ";"),
    "in.tsv": lambda file: write_csv(file, "\t"),
    "in.jsonl.gz": lambda file: file.write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS)).encode())),
    "in.parquet": write_parquet,
}


def read_back(file: Path) -> list[dict[str, Any]]:
    """The rows of an output, each with its id and its label."""
    if file.suffix == ".parquet":
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(file).to_pylist()
    elif file.suffix in (".csv", ".tsv"):
        first = file.read_text().splitlines()[0]
        rows = list(csv.DictReader(io.StringIO(file.read_text()), delimiter=";" if ";" in first else first[2]))
    else:
        text = (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).decode()
        rows = json.loads(text) if file.suffix == ".json" else list(map(json.loads, text.splitlines()))
    return [
        {"id": row["id"], "text": row["text"], "label": row.get("prediction.label") or row["prediction"]["label"]}
        for row in rows
    ]


@pytest.mark.parametrize("name", INPUTS)
def test_every_form_is_read_and_written_in_order(
    name: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    INPUTS[name](tmp_path / name)
    assert predict(run, PredictOptions(input=name, per_device_eval_batch_size=4, **QUIET)) == 11
    target = Path("predictions" + Path(name.removesuffix(".gz")).suffix)
    rows = read_back(target)
    assert [{key: row[key] for key in ("id", "text")} for row in rows] == ROWS
    assert {row["label"] for row in rows} <= {"positive", "negative"}
    assert {file.name for file in tmp_path.iterdir()} == {name, target.name}


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.json", "out.jsonl", "out.jsonl.gz", "out.parquet", "out"])
def test_the_name_of_the_output_says_its_form(name: str, run: Path, tmp_path: Path) -> None:
    INPUTS["in.jsonl"](tmp_path / "in.jsonl")
    predict(run, PredictOptions(input=str(tmp_path / "in.jsonl"), output=str(tmp_path / name), **QUIET))
    assert [row["id"] for row in read_back(tmp_path / name)] == [row["id"] for row in ROWS]


def test_csv_on_standard_output_has_a_column_for_each_part(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "in.csv", ";")
    assert main(["predict", str(run), "--input", str(tmp_path / "in.csv"), "--output", "-", *WORDS]) == 0
    said = capsys.readouterr()
    assert "11 rows written to standard output" in said.err
    lines = list(csv.reader(io.StringIO(said.out), delimiter=";"))
    assert lines[0][:4] == ["id", "text", "prediction.label", "prediction.label_id"]
    assert lines[0][4:] == ["prediction.scores.negative", "prediction.scores.positive"]
    assert len(lines) == 12


BAD: dict[str, tuple[str, bytes, str]] = {
    "latin-1": ("in.csv", b"text\na\nb\xe9\n", "line 3 is not UTF-8"),
    "surrogate": ("in.jsonl", b'{"text": "\\ud83d"}\n', r"line 1 holds \\ud83d"),
    "depth": ("in.jsonl", b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "digits": ("in.jsonl", b'{"text": "a", "id": ' + b"9" * 5000 + b"}", "integer of too many digits"),
    "open quote": ("in.csv", b'text,id\n"a,1\nb,2\nc,3\n', "is not CSV"),
    "surplus fields": ("in.csv", b"text,id\na,1,2\n", "line 2 has 3 fields"),
    "a column twice": ("in.csv", b"text,text\na,1\n", "line 1 must name the columns"),
    "a key twice": ("in.jsonl", b'{"text": "a", "text": "b"}', "has the key 'text' twice"),
    "empty": ("in.csv", b"", "is empty"),
    "a header alone": ("in.csv", b"text,id\n", "is empty"),
    "gzip, cut": ("in.csv.gz", gzip.compress(b"text\na\n")[:-4], "not a whole gzip"),
    "workbook": ("in.xlsx", b"", "save it as CSV"),
    "a part of an answer already": ("in.csv", b"text,prediction.label\na,b\n", "column 'prediction.label' already"),
    "an answer already": ("in.csv", b"text,prediction\na,b\n", "column 'prediction' already"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_training_refuses_is_refused_here_too(case: str, run: Path, tmp_path: Path) -> None:
    name, content, message = BAD[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        predict(run, PredictOptions(input=str(tmp_path / name), output=str(tmp_path / "out.jsonl"), **QUIET))
    assert {file.name for file in tmp_path.iterdir()} == {name}


def test_long_fields_and_utf_16_are_read(run: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(f'id,text\n1,"{"long " * 60_000}"\n'.encode("utf-16"))
    options = PredictOptions(input=str(tmp_path / "in.csv"), output=str(tmp_path / "out.jsonl"), **QUIET)
    assert predict(run, options) == 1
    assert len(read_back(tmp_path / "out.jsonl")[0]["text"]) == 300_000


def test_a_bad_row_is_named_by_its_number_in_the_file_before_the_first_batch(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, Any]] = [{"text": f"film {row}"} for row in range(30)]
    rows[22]["text"] = "  "
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(AskedRows, "answers", lambda *arguments: pytest.fail("a batch was answered"))
    options = PredictOptions(
        input=str(tmp_path / "in.jsonl"), output=str(tmp_path / "out.jsonl"), per_device_eval_batch_size=4, **QUIET
    )
    with pytest.raises(DataError, match=r"1 of 30 rows have no text in column 'text', the first is row 23"):
        predict(run, options)
    assert {file.name for file in tmp_path.iterdir()} == {"in.jsonl"}


class Killed(BaseException):
    """Nobody expects it."""


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """``killed_after(n, error)`` ends a prediction behind n batches; gives the first rows that were asked for."""
    answers = AskedRows.answers

    def install(batches: int, error: type[BaseException] = Killed) -> list[int]:
        firsts: list[int] = []

        def some(self: AskedRows, first: int, *rest: Any) -> Any:
            firsts.append(first)
            for number, batch in enumerate(answers(self, first, *rest)):
                if number == batches:
                    raise error
                yield batch

        monkeypatch.setattr(AskedRows, "answers", some)
        return firsts

    return install


def test_what_is_finished_survives_and_is_gone_on_with(
    run: Path, tmp_path: Path, killed_after: Callable[..., list[int]]
) -> None:
    INPUTS["in.csv"](tmp_path / "in.csv")

    def options(name: str) -> PredictOptions:
        names = {"input": str(tmp_path / "in.csv"), "output": str(tmp_path / name)}
        return PredictOptions(**names, per_device_eval_batch_size=3, **QUIET)  # type: ignore[arg-type]

    predict(run, options("whole.csv"))
    killed_after(2)
    with pytest.raises(Killed):
        predict(run, options("out.csv"))
    (partial_file,) = tmp_path.glob("out.csv.*.partial")
    assert not (tmp_path / "out.csv").exists()
    with partial_file.open("ab") as stream:
        stream.write(b'[6, {"label": "cut')
    firsts, said = killed_after(99), list[str]()
    assert predict(run, options("out.csv"), said.append) == 11
    assert firsts == [6]
    assert said[0].startswith("6 of 11 rows were answered before")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not partial_file.exists()


def test_other_rows_do_not_get_the_answers_of_these(
    run: Path, tmp_path: Path, killed_after: Callable[..., list[int]]
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    options = PredictOptions(input=str(source), output=str(target), per_device_eval_batch_size=3, **QUIET)
    INPUTS["in.jsonl"](source)
    killed_after(2)
    with pytest.raises(Killed):
        predict(run, options)
    source.write_text("\n".join(json.dumps({**row, "id": "new"}) for row in ROWS))
    firsts = killed_after(99)
    predict(run, options)
    assert firsts == [0]
    assert {row["id"] for row in read_back(target)} == {"new"}
    assert len(list(tmp_path.glob("*.partial"))) == 1  # nothing that was answered is thrown away


def test_nothing_is_left_where_nothing_was_answered(
    run: Path, tmp_path: Path, killed_after: Callable[..., list[int]]
) -> None:
    INPUTS["in.jsonl"](tmp_path / "in.jsonl")
    killed_after(0)
    with pytest.raises(Killed):
        predict(run, PredictOptions(input=str(tmp_path / "in.jsonl"), output=str(tmp_path / "out.jsonl"), **QUIET))
    assert {file.name for file in tmp_path.iterdir()} == {"in.jsonl"}


def test_ctrl_c_says_how_to_go_on(
    run: Path, tmp_path: Path, killed_after: Callable[..., list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    INPUTS["in.jsonl"](tmp_path / "in.jsonl")
    killed_after(1, KeyboardInterrupt)
    words = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert main(["predict", str(run), *words, "--per_device_eval_batch_size", "2", *WORDS]) == INTERRUPTED
    assert "the same command goes on" in capsys.readouterr().err


def give(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_lines_of_a_stream_are_texts_and_each_has_its_answer(
    name: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, 'ein schöner film\n[aside] "good"\r\n 3\n{laughs}\na\u2029b\x85\rc\n\n\n'.encode())
    assert main(["predict", str(run), "--input", name, "--output", "-", *WORDS]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["ein schöner film", '[aside] "good"', " 3", "{laughs}", "a\u2029b\x85\rc"]
    assert all(set(row) == {"text", "prediction"} for row in rows)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b'{"text": "a"}\n\n{"text": "b"}\n', ["a", "b"]),
        (b'[{"text": "a"}, {"text": "b"}]', ["a", "b"]),
        (b'{\n"data": [\n{"text": "a"}]}', ["a"]),
        ('\ufeff{"text": "a"}'.encode(), ["a"]),
    ],
)
def test_json_on_a_stream(
    content: bytes,
    texts: list[str],
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    give(monkeypatch, content)
    assert main(["predict", str(run), "--output", "-", *WORDS]) == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nb\n", "line 2 is empty"),
        (b"", "is empty: it has no rows"),
        (b"\n\n", "is empty: it has no rows"),
        (b'{"text": "a"}\n{"text": "b\n', "line 2 is not JSON"),
        (b"a\nb\xe9\n", "line 2 is not UTF-8"),
        (b'{"text": "\\ud83d"}\n', r"line 1 holds \\ud83d"),
        (b"PK\x03\x04", "a zip archive"),
    ],
)
def test_a_line_of_a_stream_without_an_answer_is_refused(
    content: bytes, message: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, content)
    with pytest.raises(DataError, match=f"standard input.*{message}"):
        predict(run, PredictOptions(output="-", **QUIET))


def test_a_line_is_no_pair_and_the_way_is_said(pair_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, b"a good film\n")
    with pytest.raises(DataError, match=r'reads \'sentence1\' and \'sentence2\'.*{"sentence1": "…", "sentence2": "…"}'):
        predict(pair_run, PredictOptions(output="-", **QUIET))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a film"}, "trained on pairs of texts, and these rows have single texts"),
        ({"sentence1": "a film"}, "trained on pairs"),
    ],
)
def test_single_texts_are_no_pairs(row: dict[str, str], message: str, pair_run: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=message):
        predict(pair_run, PredictOptions(input=str(tmp_path / "in.jsonl"), output="-", **QUIET))


def test_pairs_are_no_single_texts(run: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"premise": "a", "hypothesis": "b"}))
    with pytest.raises(DataError, match="trained on single texts, and these rows have pairs"):
        predict(run, PredictOptions(input=str(tmp_path / "in.jsonl"), output="-", **QUIET))


LINES: list[tuple[str, str | None]] = [
    ("text-classification", "a good film"),
    ("stsb", None),
    ("squad", None),
    ("token-classification", "a good film"),
    ("xsum", "a long text"),
    ("language-modelling", "the sea is"),
    ("gsm8k", "what is two and two?"),
    ("piqa", "Which?\n"),
    ("piqa_ranking", "Which? Solution1: this Solution2: that"),
]


@pytest.mark.parametrize(("name", "line"), LINES)
def test_every_task_reads_a_line_or_says_what_it_reads(name: str, line: str | None) -> None:
    task = get_task(name)
    if line is None:
        with pytest.raises(DataError, match=f"A line of text is no row of {name}, which reads"):
            task.from_line("a line", {})
    else:
        assert len(task.unlabelled([task.from_line(line, {})])) == 1


def test_a_device_is_written_to_and_not_replaced(run: Path, tmp_path: Path) -> None:
    INPUTS["in.jsonl"](tmp_path / "in.jsonl")
    predict(run, PredictOptions(input=str(tmp_path / "in.jsonl"), output=os.devnull, **QUIET))
    assert not Path(os.devnull).is_file()


def test_standard_output_by_its_other_name(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    INPUTS["in.jsonl"](tmp_path / "in.jsonl")
    predict(run, PredictOptions(input=str(tmp_path / "in.jsonl"), output="/dev/stdout", **QUIET))
    assert len(capsys.readouterr().out.splitlines()) == 11


def test_a_pipe_is_read_like_standard_input(run: Path, tmp_path: Path) -> None:
    import threading

    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("a film\nanother\n"))
    writer.start()
    options = PredictOptions(input=str(tmp_path / "pipe"), output=str(tmp_path / "out.jsonl"), **QUIET)
    assert predict(run, options) == 2
    writer.join()


def test_a_missing_input_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"nowhere.csv does not exist"):
        predict(run, PredictOptions(input=str(tmp_path / "nowhere.csv"), **QUIET))


def test_a_question_that_leaves_no_room_is_named_by_its_number_in_the_file(tmp_path: Path) -> None:
    build_tiny("bert", "squad", get_task("squad").toy(), tmp_path / "model")
    rows = [{"question": "where was it", "context": "it was there", "answers": "there"}] * 6
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = finished_run(tmp_path, tmp_path / "model", tmp_path, task="squad", max_length=24, doc_stride=4)
    asked = [{"question": "where", "context": "there"}] * 1203
    asked[1100] = {"question": "where " * 40, "context": "there"}
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, asked)))
    with pytest.raises(DataError, match="The question in row 1101 has"):
        predict(folder, PredictOptions(input=str(tmp_path / "in.jsonl"), output="-", **QUIET))
