"""What people write is read: tables of pandas, spreadsheets and SQuAD; what cannot be is called what it is."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from propulsion_tools.errors import DataError
from propulsion_tools.tasks import DataSource, get_task
from propulsion_tools.tasks.data_files import read_folder, read_table

TEXTS, LABELS = ["good, dear film", "ein schönes 文", "b\u2028a\x85d"], ["1", "0", "0"]
WANTED = {"text": TEXTS, "label": LABELS}
CSV = f'text,label\n"{TEXTS[0]}",1\n{TEXTS[1]},0\n{TEXTS[2]},0\n'
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Films",
            "paragraphs": [
                {
                    "context": "The film was long.",
                    "qas": [
                        {"id": "1", "question": "What was long?", "answers": [{"text": "The film", "answer_start": 0}]},
                        {"id": "2", "question": "Who?", "is_impossible": True, "answers": [], "plausible_answers": []},
                    ],
                }
            ],
        }
    ],
}
JSON = {
    "array on several lines": json.dumps(ROWS, indent=1),
    "array on one line": json.dumps(ROWS),
    "array of a .jsonl": json.dumps(ROWS),
    "data": json.dumps({"version": 1, "data": ROWS}),
    "data, indented": json.dumps({"data": ROWS}, indent=2),
    "rows": json.dumps({"rows": ROWS}),
    "the hub's viewer": json.dumps({"rows": [{"row_idx": number, "row": row} for number, row in enumerate(ROWS)]}),
    "pandas' columns": json.dumps({name: dict(enumerate(values)) for name, values in WANTED.items()}),
    "pandas' split": json.dumps(
        {"columns": list(WANTED), "index": [0, 1, 2], "data": [[*row.values()] for row in ROWS]}
    ),
    "pandas' index": json.dumps({str(number): row for number, row in enumerate(ROWS)}),
    "carriage returns": "\r".join(map(json.dumps, ROWS)),
    "windows": "\r\n".join(map(json.dumps, ROWS)) + "\r\n\r\n",
    "mark": "\ufeff" + "\n".join(map(json.dumps, ROWS)),
    "separators that are no line ends": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
}


@pytest.mark.parametrize("case", JSON)
def test_json_of_every_shape(tmp_path: Path, case: str) -> None:
    file = tmp_path / ("train.jsonl" if ".jsonl" in case else "train.json")
    file.write_bytes(JSON[case].encode())
    assert read_table(file) == WANTED


def _csv(delimiter: str = ",", end: str = "\n", first: str = "", header: str | None = None, more: str = "") -> str:
    """The rows with another delimiter, line end, first line or header, and with something behind each of them."""
    rows = [header or delimiter.join(WANTED)]
    for text, label in zip(TEXTS, LABELS, strict=True):
        rows.append(f'"{text}"{delimiter}{label}' if delimiter in text else f"{text}{delimiter}{label}")
    return first + "".join(row + more + end for row in rows)


DELIMITED: dict[str, bytes] = {
    "semicolons": _csv(";").encode(),
    "bars": _csv("|").encode(),
    "tabs in a .csv": _csv("\t").encode(),
    "excel's first line": _csv(first="sep=,\r\n").encode(),
    "utf-16": CSV.encode("utf-16"),
    "utf-16, big end first": f"\ufeff{CSV}".encode("utf-16-be"),
    "utf-32": CSV.encode("utf-32"),
    "utf-8 with a mark": CSV.encode("utf-8-sig"),
    "windows": _csv(end="\r\n").encode(),
    "carriage returns": _csv(end="\r").encode(),
    "spaces in the header": _csv(header=" text , label").encode(),
    "quotes in the header": _csv(header='"text","label"').encode(),
    "spaces behind commas": f'text, label\n"{TEXTS[0]}", "1"\n{TEXTS[1]}, "0"\n{TEXTS[2]}, 0\n'.encode(),
    "blank lines": f"\n{CSV}\n\n".encode(),
    "columns of nothing": _csv(more=",,").encode(),
}


@pytest.mark.parametrize("case", DELIMITED)
def test_tables_of_every_spreadsheet(tmp_path: Path, case: str) -> None:
    (tmp_path / "train.csv").write_bytes(DELIMITED[case])
    assert read_table(tmp_path / "train.csv") == WANTED


def test_a_tsv_with_quotes_is_read_where_it_is_whole_only_with_them(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text('text\tlabel\n"a film\nof two lines"\t1\n')
    assert read_table(tmp_path / "train.tsv") == {"text": ["a film\nof two lines"], "label": ["1"]}


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "Unnamed: 0.1"])
def test_pandas_index_is_left_out_and_said_to_be(tmp_path: Path, name: str) -> None:
    lines = CSV.strip().split("\n")
    indexed = [f"{name},{lines[0]}", *(f"{17 * row},{line}" for row, line in enumerate(lines[1:]))]
    (tmp_path / "train.csv").write_text("\n".join(indexed))
    raw = read_folder(str(tmp_path))
    assert raw.tables == {"train": WANTED}
    assert raw.notes == ("The index that pandas writes beside a table is left out of train.",)


def test_what_pandas_writes_in_every_way_is_read(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": TEXTS, "label": pandas.Categorical(["yes", "no", "no"])}, index=[5, 3, 9])
    wanted = {"text": TEXTS, "label": ["yes", "no", "no"]}
    frame.to_csv(tmp_path / "train.csv")
    frame.to_csv(tmp_path / "validation.csv", sep=";", encoding="utf-16")
    frame.to_parquet(tmp_path / "test.parquet")
    frame.to_json(tmp_path / "test_a.json")
    frame.to_json(tmp_path / "test_b.json", orient="records")
    frame.to_json(tmp_path / "test_c.jsonl", orient="records", lines=True)
    frame.to_json(tmp_path / "test_d.json", orient="split")
    frame.to_json(tmp_path / "test_e.json", orient="table", index=False)
    raw = read_folder(str(tmp_path))
    assert len(raw.tables) == 8
    assert all(table == wanted for table in raw.tables.values()), raw.tables
    data = get_task("text-classification").load(DataSource(data_dir=str(tmp_path)))
    assert data.label_names == ("no", "yes")


def test_squad_in_its_own_form(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps(SQUAD))
    (tmp_path / "dev.json").write_text(json.dumps(SQUAD, indent=2))
    splits = get_task("squad_v2").load(DataSource(data_dir=str(tmp_path))).splits
    for split in ("train", "validation"):
        assert splits[split]["question"][:] == ["What was long?", "Who?"]
        assert [answers["text"] for answers in splits[split]["answers"]] == [["The film"], []]
    with pytest.raises(DataError, match=r"1 of 2 rows of the .* split have no answer.*squad_v2"):
        get_task("squad").load(DataSource(data_dir=str(tmp_path)))
    without_question = {"data": [{"paragraphs": [{"context": "a", "qas": [{"id": 1}]}]}]}
    (tmp_path / "train.json").write_text(json.dumps(without_question))
    with pytest.raises(DataError, match="article 1 is not as in SQuAD"):
        get_task("squad").load(DataSource(data_dir=str(tmp_path)))


def test_paragraphs_without_their_articles(tmp_path: Path) -> None:
    asked = [{"id": "1", "question": "What?", "answers": ["film"]}, {"id": "2", "question": "Who?", "answers": ["a"]}]
    (tmp_path / "test.json").write_text(json.dumps([{"context": "a film", "qas": asked}]))
    assert read_table(tmp_path / "test.json")["question"] == ["What?", "Who?"]
    splits = get_task("squad").load(DataSource(data_dir=str(tmp_path), training=False)).splits
    assert [answers["text"] for answers in splits["test"]["answers"]] == [["film"], ["a"]]


def test_one_row_alone_is_a_row(tmp_path: Path) -> None:
    row = {"context": "a film", "question": "what", "answers": [{"text": "film", "answer_start": 2}]}
    (tmp_path / "one.jsonl").write_text(json.dumps(row))
    assert read_table(tmp_path / "one.jsonl") == {name: [value] for name, value in row.items()}


def _zip(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "a")
    return stream.getvalue()


DEEP = "[" * 100_000 + "]" * 100_000
REFUSED: dict[str, tuple[str, bytes, str]] = {
    "workbook": ("train.csv", _zip("xl/workbook.xml"), "an Excel workbook.*save it as CSV"),
    "archive": ("train.jsonl", _zip("train.jsonl"), "a zip archive.*unpack it"),
    "old workbook": ("train.csv", b"\xd0\xcf\x11\xe0\xa1\xb1", "old Excel workbook.*save it as CSV"),
    "xz": ("train.json", b"\xfd7zXZ\x00\0", "xz.*unpack it"),
    "utf-16 without a mark": ("train.csv", CSV.encode("utf-16-le"), "UTF-16 without the mark.*as UTF-8"),
    "half of utf-16": ("train.csv", CSV.encode("utf-16")[:-1], "is not UTF-16"),
    "utf-16 in gzip, cut": ("train.csv.gz", gzip.compress(CSV.encode("utf-16"))[:-9], "not a whole gzip"),
    "surrogate": (
        "train.jsonl",
        b'{"text": "a", "label": 0}\n{"text": "\\ud83d", "label": 1}',
        r"line 2 holds \\ud83d",
    ),
    "surrogate in a list": ("train.json", b'[{"text": ["a", "\\uDC00 b"]}]', r"item 1 holds \\udc00"),
    "surrogate in a name": ("train.jsonl", b'{"\\ud83d": "a"}', r"line 1 holds \\ud83d"),
    "digits": ("train.jsonl", b'{"text": "a", "label": ' + b"9" * 5000 + b"}", "line 1 holds an integer of too many"),
    "depth": ("train.jsonl", f'{{"text": "a"}}\n{{"text": {DEEP}}}'.encode(), "line 2 is nested too deeply"),
    "depth that can just be read": ("train.jsonl", f'{{"a": {"[" * 150}{"]" * 150}}}'.encode(), "nested too deeply"),
    "depth of a document": ("train.json", DEEP.encode(), "nested too deeply"),
    "a key twice": ("train.jsonl", b'{"text": "a", "text": "b"}', "line 1 has the key 'text' twice"),
    "open quote": ("train.csv", b'text,label\n"a,1\nb,0\nc,1\n', "is not CSV"),
    "surplus fields": ("train.csv", b"text,label\na,1\nb,c,0\n", "line 3 has 3 fields.*needs quotes"),
    "missing fields": ("train.csv", b"text,label\na,1\nb\n", "line 3 has 1 fields"),
    "lines counted behind excel's": ("train.csv", b"sep=;\ntext;label\na;1\nb\n", "line 4 has 1 fields"),
    "texts without a name": ("train.csv", b",label\na,1\n", "line 1 must name the columns"),
    "a column twice, but for a space": ("train.csv", b"text, text\na,1\n", "line 1 must name the columns"),
    "array of arrays": ("train.json", b'[["text", "label"], ["a", 1]]', "item 1 is not a JSON object"),
    "a pointer": ("train.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS.*git lfs pull"),
    "a pointer in place of parquet": ("train.parquet", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "a web page": ("train.json", b"<!DOCTYPE html><html></html>", "a web page.*download"),
    "a document that is cut": ("train.json", b'{\n "data": [\n  {"text": "a"},\n', "is not JSON.*line 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_called_what_it_is(tmp_path: Path, case: str) -> None:
    name, content, message = REFUSED[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_table(tmp_path / name)
    assert len(str(caught.value)) < 400


def test_a_parquet_column_twice_is_refused(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table([["a"], ["b"]], names=["text", "text"])
    parquet.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match="has the column 'text' twice"):
        read_table(tmp_path / "train.parquet")


@pytest.mark.parametrize(
    ("name", "way"), [("train.xlsx", "save it as CSV"), ("data.zip", "unpack it"), ("train.txt", "into a .jsonl file")]
)
def test_a_folder_of_another_kind_of_file_says_what_to_do(tmp_path: Path, name: str, way: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=f"no training file.*{name}: .*{way}"):
        read_folder(str(tmp_path))
    with pytest.raises(DataError, match=f"should end in .*{way}"):
        read_table(tmp_path / name)


LABELLED: dict[str, tuple[list[Any], list[Any], list[int]]] = {
    "integers and floats": ([0, 1, 1], ["1.0", "0.0"], [1, 0]),
    "floats and integers": ([0.0, 1.0, 1.0], [1, 0], [1, 0]),
    "texts and numbers": (["0", "1", "1"], [1.0, 0.0], [1, 0]),
    "both in one split": ([0, "1", 1.0], ["0", 1], [0, 1]),
    "names that are numbers": (["1.0", "1.5", "2.0"], ["2.0", "1.0"], [2, 0]),
    "truth and its names": ([True, False, True], ["true", "False"], [1, 0]),
    "names of truth": (["True", "False", "True"], [True, False], [1, 0]),
    "truth in other cases": (["TRUE", "FALSE", "FALSE"], ["true", "false"], [1, 0]),
    "spaces": (["yes", "no ", "no"], [" yes", "no"], [1, 0]),
}


def _load(folder: Path, train: list[Any], validation: list[Any], task: str = "text-classification") -> Any:
    for split, labels in (("train", train), ("validation", validation)):
        rows = [{"text": f"film {row}", "label": label} for row, label in enumerate(labels)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return get_task(task).load(DataSource(data_dir=str(folder))).splits


@pytest.mark.parametrize("case", LABELLED)
def test_a_label_is_the_same_however_a_split_writes_it(tmp_path: Path, case: str) -> None:
    train, validation, wanted = LABELLED[case]
    assert _load(tmp_path, train, validation)["validation"]["label"][:] == wanted


@pytest.mark.parametrize("value", ["nan", "NaN", "None", "N/A", "NA", "<NA>", "null", "", " ", None, float("nan")])
def test_a_missing_label_is_no_class(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError, match=r"1 of 3 rows of the train split have no label in column 'label', .* row 2"):
        _load(tmp_path, ["yes", value, "no"], ["yes"])
    with pytest.raises(DataError, match="no label"):
        _load(tmp_path, [0, 1], [1, value])


def test_classes_are_learned_from_the_training_split_whatever_the_files_are_called(tmp_path: Path) -> None:
    for split, labels in (("train", "abc"), ("dev", "cb")):
        rows = [{"text": f"film {label}", "label": label} for label in labels]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = get_task("text-classification").load(DataSource(data_dir=str(tmp_path)))
    assert data.label_names == ("a", "b", "c")
    assert data.splits["validation"]["label"][:] == [2, 1]


def test_a_class_may_be_called_none(tmp_path: Path) -> None:
    assert _load(tmp_path, ["favor", "none", "NONE"], ["none"])["validation"]["label"][:] == [2]


@pytest.mark.parametrize("value", [10**30, 10**400, "9" * 250, -(10**25)])
def test_numbers_beyond_all_bounds_are_labels_like_any_other(tmp_path: Path, value: Any) -> None:
    assert _load(tmp_path, [0, value, 1], [value])["validation"]["label"][:] in ([0], [1], [2])


@pytest.mark.parametrize("tag", ["9" * 5000, 10**400, None])
def test_a_tag_beyond_all_bounds_is_none(tmp_path: Path, tag: Any) -> None:
    rows = [{"tokens": ["a", "b"], "ner_tags": ["O", tag]}] * 4
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"[Tt]he tag") as caught:
        get_task("token-classification").load(DataSource(data_dir=str(tmp_path)))
    assert len(str(caught.value)) < 250


BOUNDLESS: dict[str, dict[str, Any]] = {
    "piqa": {"goal": "g", "sol1": "a", "sol2": "b", "label": 10**400},
    "hellaswag": {"ctx": "g", "endings": ["a", "b"], "label": "9" * 5000},
    "siqa": {"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": 10**400, "label": 1},
    "xsum": {"document": 10**400, "summary": "s"},
    "squad": {"context": "c", "question": "q", "answers": 10**400},
}


@pytest.mark.parametrize("name", BOUNDLESS)
def test_numbers_beyond_all_bounds_are_refused_in_few_words(tmp_path: Path, name: str) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join([json.dumps(BOUNDLESS[name])] * 4))
    with pytest.raises(DataError) as caught:
        get_task(name).load(DataSource(data_dir=str(tmp_path)))
    assert len(str(caught.value)) < 300


def test_a_place_beyond_all_bounds_is_looked_for(tmp_path: Path) -> None:
    row = {"context": "a film", "question": "q", "answers": {"text": ["film"], "answer_start": [10**40]}}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    splits = get_task("squad").load(DataSource(data_dir=str(tmp_path), training=False)).splits
    assert splits["test"]["answers"][0] == {"text": ["film"], "answer_start": [2]}


def test_a_comma_for_a_point_is_named(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("sentence1;sentence2;label\na;b;0,5\n")
    with pytest.raises(DataError, match="write a point for the comma"):
        get_task("stsb").load(DataSource(data_dir=str(tmp_path)))


def test_one_row_of_lists_is_not_taken_for_a_table(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps(WANTED))
    with pytest.raises(DataError, match="one row, of lists: each row is an object of its own"):
        get_task("text-classification").load(DataSource(data_dir=str(tmp_path)))


def test_a_number_to_predict_has_bounds(tmp_path: Path) -> None:
    rows = [{"sentence1": "a", "sentence2": "b", "label": 10**400 if row else 1.5} for row in range(2)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="not a number to predict") as caught:
        get_task("stsb").load(DataSource(data_dir=str(tmp_path)))
    assert len(str(caught.value)) < 250


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"tokens": ["a"], "ner_tags": ["O"]}, "token-classification"),
    ({"words": ["a"], "labels": ["O"]}, "token-classification"),
    ({"tokens": ["a"], "tags": [0], "id": "7"}, "token-classification"),
    (
        {"id": "1", "question": "q", "context": "c", "answers": {"text": ["c"], "answer_start": [0]}},
        "question-answering",
    ),
    ({"prompt": "q", "completion": "c"}, "language-modelling"),
    ({"messages": [{"role": "user", "content": "hi"}]}, "language-modelling"),
]


@pytest.mark.parametrize(("row", "task"), OTHERS)
def test_rows_of_another_task_name_it(tmp_path: Path, row: dict[str, Any], task: str) -> None:
    (tmp_path / "train.jsonl").write_text("\n".join([json.dumps(row)] * 4))
    with pytest.raises(DataError, match=f"--task {task}"):
        get_task("text-classification").load(DataSource(data_dir=str(tmp_path)))


def test_tags_under_a_label_column_name_their_task(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("\n".join([json.dumps({"text": "a b", "label": ["O", "O"]})] * 4))
    with pytest.raises(DataError, match="--task token-classification"):
        get_task("text-classification").load(DataSource(data_dir=str(tmp_path)))


def test_a_chat_says_how_it_becomes_a_text(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    for row in ({"messages": turns}, {"conversations": turns}, {"prompt": turns[:1], "completion": turns[1:]}):
        for split in ("train", "validation"):
            (tmp_path / f"{split}.jsonl").write_text("\n".join([json.dumps(row)] * 4))
        with pytest.raises(DataError, match=r"turns of a chat.*apply_chat_template"):
            get_task("language-modelling").load(DataSource(data_dir=str(tmp_path)))


@pytest.mark.parametrize(
    "text", ["i felt so hopeless that i could not go on;sadness\nno;joy", "7,1\n8,0", "main\t0.5\tA man\n" * 2]
)
def test_a_file_without_names_says_what_is_missing(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(DataError, match="look like a row of data: the first line names the columns"):
        get_task("text-classification").load(DataSource(data_dir=str(tmp_path)))


def test_lists_in_a_csv_say_which_forms_have_lists(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("tokens,ner_tags\n\"['EU', 'rejects']\",\"['B-ORG', 'O']\"\n")
    with pytest.raises(DataError, match=r"a .csv has no lists; write .jsonl or .parquet"):
        get_task("token-classification").load(DataSource(data_dir=str(tmp_path)))


def test_a_split_that_cannot_be_read_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(CSV)
    (tmp_path / "validation.xlsx").write_bytes(b"PK")
    (note,) = read_folder(str(tmp_path)).notes
    assert "validation.xlsx: save it as CSV" in note


def test_a_number_beside_the_text_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id,opinion,label\n1,good,1\n2,bad,0\n3,so so,1\n4,dull,0\n")
    (tmp_path / "validation.csv").write_text("id,opinion,label\n5,good,1\n")
    splits = get_task("text-classification").load(DataSource(data_dir=str(tmp_path))).splits
    assert splits["train"]["text"][:] == ["good", "bad", "so so", "dull"]
