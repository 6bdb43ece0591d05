import csv
import gzip
import io
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vatjax import errors, tables

ROWS = [{"a": "1", "b": "x, y"}, {"a": "zwei\nZeilen", "b": 'say "hi"'}, {"a": "é", "b": "公平"}]


def encode(rows, form):
    out = io.StringIO()
    if form in ("csv", "tsv"):
        writer = csv.DictWriter(out, ["a", "b"], delimiter="\t" if form == "tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    elif form == "json":
        json.dump(rows, out, indent=2)
    else:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    return out.getvalue().encode()


def problems(path, content, **options):
    path.write_bytes(content)
    return [(problem.line, problem.message) for problem in tables.read(path, **options).problems]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl"])
def test_every_format_gives_the_same_rows(tmp_path, form, packed):
    content = encode(ROWS, form)
    path = tmp_path / f"rows.{form}{'.gz' * packed}"
    path.write_bytes(gzip.compress(content) if packed else content)
    table = tables.read(path)
    assert table.rows == ROWS
    assert table.columns == ("a", "b")
    assert table.problems == []


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_the_format_is_told_from_the_content_where_the_name_is_silent(tmp_path, form):
    path = tmp_path / "rows"
    path.write_bytes(gzip.compress(encode(ROWS, form)))
    assert tables.read(path).rows == ROWS


def test_json_lines_under_the_name_json(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(encode(ROWS, "jsonl"))
    assert tables.read(path).rows == ROWS


def test_lines_are_those_on_which_rows_begin(tmp_path):
    (tmp_path / "a.csv").write_text('a,b\n1,2\n\n"x\ny",3\n4,5\n')
    assert tables.read(tmp_path / "a.csv").lines == [2, 4, 6]
    (tmp_path / "a.json").write_text('[\n{"a": 1},\n\n{"a":\n2}, {"a": 3}\n]')
    assert tables.read(tmp_path / "a.json").lines == [2, 4, 5]
    (tmp_path / "a.jsonl").write_text('\n{"a": 1}\n\n{"a": 2}\r\n')
    assert tables.read(tmp_path / "a.jsonl").lines == [2, 4]


@pytest.mark.parametrize("sign", [";", "\t", "^"])
def test_a_first_line_that_tells_excel_the_sign_between_cells(tmp_path, sign):
    path = tmp_path / "a.csv"
    path.write_bytes(f"\ufeffsep={sign}\r\na{sign}b,c\r\n1{sign}x\r\n".encode())
    table = tables.read(path)
    assert (table.rows, table.lines, table.problems) == ([{"a": "1", "b,c": "x"}], [3], [])
    path.write_text("a\nsep=^\n")  # behind the header it is a row
    assert tables.read(path).rows == [{"a": "sep=^"}]


def test_a_byte_order_mark_and_semicolons_are_read(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_bytes("\ufeffa;b\r\n1;x, y\r\n".encode())
    assert tables.read(path).rows == [{"a": "1", "b": "x, y"}]


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": }\n{"a": 2}\n', 2, "invalid JSON at column 7"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', 2, "expected a JSON object, found a list"),
        ("a.jsonl", b'{"a": 1}\nnull\n', 2, "expected a JSON object, found null"),
        ("a.jsonl", b'{"a": "caf\xe9"}\n', 1, "not UTF-8 text: byte 0xe9 at column 11"),
        ("a.jsonl", b'{"a": "\\ud800"}\n', 1, "half of a surrogate pair"),
        ("a.jsonl", b"[" * 100_000, 1, "nested too deeply"),
        ("a.jsonl", b'{"a":' * 100_000, 1, "nested too deeply"),
        ("a.jsonl", b'{"a": ' + b"1" * 5000 + b"}", 1, "invalid JSON"),
        ("a.json", b'[{"a": 1},\n{"a" 2}]', 2, "invalid JSON: expecting ':' delimiter; what follows is lost"),
        ("a.json", b'[{"a": 1}\n{"a": 2}]', 2, "expected ',' or ']' between records, found '{'"),
        ("a.json", b'[{"a": 1},\n', 2, "invalid JSON"),
        ("a.json", b'[{"a": 1}', 1, "found the end of the file"),
        ("a.json", b'[{"a": 1}]\n\nrest', 3, "text after the end of the JSON array"),
        ("a.json", b'[{"a": 1},\n3]', 2, "expected a JSON object, found a number"),
        ("a.json", b'[{"a": 1},\n{"a": "\xff"}]', 2, "not UTF-8 text: byte 0xff"),
        ("a.json", b"[" * 100_000, 1, "nested too deeply"),
        ("a.csv", b"a,b\n1\n", 2, "expected 2 cells as in the header, found 1"),
        ("a.csv", b"a,b\n1,2,3\n", 2, "expected 2 cells as in the header, found 3"),
        (
            "a.csv",
            b'a,b\n1,2\n"open,3\n4,5\n',
            3,
            "a quote that opens in this record isn't closed within 1,048,576 bytes; what",
        ),
        ("a.csv", b'a,b\n"x"y,2\n', 2, "invalid CSV"),
        ("a.csv", b"a,b\n1,\xe9\n", 2, "not UTF-8 text: byte 0xe9 at column 3"),
        ("a.csv", b"a,b\n ,\n", 2, "every cell of the row is empty"),
        ("a.jsonl", b'{"a": 1, "a": 2}\n', 1, "the key 'a' is given twice"),
        ("a.json", b'[{"a": 1},\n {"b": {"a": 1, "a": 2}}]', 2, "the key 'a' is given twice; what follows is lost"),
        ("a.csv", b'a,b\n1,2\n"x\n\xff\ny",2\n', 3, "not UTF-8 text: byte 0xff"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, name, content, line, message):
    found = problems(tmp_path / name, content)
    assert found[0][0] == line
    assert message in found[0][1]


def test_reading_goes_on_after_a_bad_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\noops\n\xff\n{"a": 2}\n[]\n')
    table = tables.read(path)
    assert [row["a"] for row in table.rows] == [1, 2]
    assert [problem.line for problem in table.problems] == [2, 3, 5]


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_a_truncated_gzip_keeps_what_came_before(tmp_path, form):
    rows = [{"a": str(i), "b": f"{i * 7919 % 10007}"} for i in range(20_000)]
    packed = gzip.compress(encode(rows, form))
    path = tmp_path / f"rows.{form}.gz"
    path.write_bytes(packed[: len(packed) // 2])
    table = tables.read(path)
    assert table.rows == rows[: len(table.rows)]
    assert 1000 < len(table.rows) < 19_000
    assert "damaged or ends early" in table.problems[-1].message
    assert table.problems[-1].line > 1000


def test_a_gzip_with_a_wrong_checksum_is_named(tmp_path):
    packed = bytearray(gzip.compress(encode(ROWS * 5000, "jsonl")))
    packed[-8] ^= 255
    found = problems(tmp_path / "a.jsonl.gz", bytes(packed))
    assert len(found) == 1
    assert "damaged" in found[0][1]


@pytest.mark.parametrize(("name", "start"), [("a.jsonl", b""), ("a.json", b"["), ("a.csv", b'a,b\n1,"')])
def test_a_line_of_a_gigabyte_fills_no_memory(tmp_path, name, start):
    path = tmp_path / name
    with open(path, "wb") as file:  # sparse: the gigabyte takes no disk
        file.write(start)
        file.truncate(1 << 30)
    tracemalloc.start()
    try:
        found = tables.read(path).problems
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found
    assert peak < 32 << 20


def test_records_longer_than_the_limit_are_named(tmp_path):
    long = json.dumps({"a": "x" * 500})
    assert problems(tmp_path / "a.jsonl", f'{{"a": 1}}\n{long}\n'.encode(), record_limit=200) == [
        (2, "the line is 510 bytes long; at most 200 are read as one record")
    ]
    content = f'[{{"a": 1}},\n{{"a": "{"x" * 200_000}"}}]'.encode()
    assert problems(tmp_path / "a.json", content, record_limit=100_000)[0][0] == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"a,a\n1,2\n", "names the column 'a' twice"),
        ("a.csv", b'a,"b\n1,2\n', "the header: a quote that opens"),
        ("a.csv", b"a,\xe9\n1,2\n", "the header: not UTF-8 text"),
        ("a.csv", b"a,b\r1,2\r", "lone carriage returns"),
        ("a.csv", b"PK\x03\x04", "a zip archive"),
        ("a.csv", "a,b\n".encode("utf-16"), "this is UTF-16 text"),
        ("a.csv.gz", b"\x1f\x8b\x08\x00", "damaged or ends early"),
    ],
)
def test_a_file_that_can_not_be_used_at_all_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.InputError, match=message):
        tables.read(tmp_path / name)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(errors.InputError, match=r"absent\.csv: no such file"):
        tables.read(tmp_path / "absent.csv")
    with pytest.raises(errors.InputError, match="is a directory"):
        tables.read(tmp_path)


def test_an_empty_file_has_no_rows(tmp_path):
    for name in ("a.csv", "a.json", "a.jsonl", "a"):
        (tmp_path / name).write_bytes(b"")
        assert tables.read(tmp_path / name).rows == []
    (tmp_path / "a.json").write_bytes(b" [ ] ")
    assert tables.read(tmp_path / "a.json").problems == []


def test_a_bucket_is_read_and_written(bucket):
    where = f"{bucket}/rows.csv.gz"
    tables.write(where, ("a", "b"), iter([("1", "x")]))
    assert tables.read(where).rows == [{"a": "1", "b": "x"}]


def test_writing_refuses_a_name_without_a_format(tmp_path):
    with pytest.raises(errors.InputError, match="must end in"):
        tables.write(tmp_path / "rows.xlsx", ("a",), iter([]))


words = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=12).filter(str.strip)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=5), st.sampled_from(["csv", "tsv", "json", "jsonl"]))
def test_write_and_read_are_inverse(tmp_path_factory, rows, form):
    path = tmp_path_factory.mktemp("t") / f"rows.{form}.gz"
    tables.write(path, ("a", "b"), iter(rows))
    table = tables.read(path)
    assert table.problems == []
    assert table.rows == [{"a": a, "b": b} for a, b in rows]


@given(st.binary(max_size=300), st.sampled_from(["a.csv", "a.json", "a.jsonl", "a", "a.csv.gz"]))
def test_any_bytes_give_rows_or_readable_problems(tmp_path_factory, content, name):
    path = tmp_path_factory.mktemp("t") / name
    path.write_bytes(content)
    try:
        table = tables.read(path)
    except errors.InputError as error:
        assert str(path) in str(error)
    else:
        assert all(problem.line >= 1 for problem in table.problems)
        assert len(table.rows) == len(table.lines)


@given(st.lists(st.integers(0, 3), max_size=60))
def test_every_line_is_a_row_or_a_problem(tmp_path_factory, kinds):
    """Nothing is silently dropped."""
    lines = [[b'{"a": 1}', b"{oops}", b"\xff\xfe", b"[1, 2]"][kind] for kind in kinds]
    path = tmp_path_factory.mktemp("t") / "a.jsonl"
    path.write_bytes(b"\n".join([b'{"a": 0}', *lines]))
    table = tables.read(path)
    assert sorted([*table.lines, *(problem.line for problem in table.problems)]) == list(range(1, len(lines) + 2))


CSV_RECORDS = {
    "1,2\n": True,
    '"x\ny",2\n': True,
    '"say ""hi""\n, and\r go",2\n': True,
    "1\n": False,
    "1,2,3\n": False,
    '"x"y,2\n': False,
    '"one\n\udcff two\nthree",2\n': False,
    "\udcff,2\n": False,
}


@given(st.lists(st.sampled_from(list(CSV_RECORDS)), max_size=20))
def test_every_csv_record_is_a_row_or_a_problem_and_keeps_its_line(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("t") / "a.csv"
    path.write_bytes(("a,b\n" + "".join(records)).encode(errors="surrogateescape"))
    table = tables.read(path)
    begins = [2 + "".join(records[:i]).count("\n") for i in range(len(records))]
    good = [begin for begin, record in zip(begins, records, strict=True) if CSV_RECORDS[record]]
    bad = [begin for begin, record in zip(begins, records, strict=True) if not CSV_RECORDS[record]]
    assert table.lines == good
    assert [problem.line for problem in table.problems] == bad
    assert not table.lost


def test_text_inside_a_broken_cell_never_becomes_a_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,2\n"' + "x" * 300 + '\nnot,real\n",3\n4,5\n')
    table = tables.read(path, record_limit=200)
    assert table.rows == [{"a": "1", "b": "2"}]
    assert table.lost
    path.write_text('a,b\n1,2\n"never closed\nnot,real\n4,5\n')
    assert tables.read(path).rows == [{"a": "1", "b": "2"}]


def test_a_bad_record_in_an_array_costs_only_itself(tmp_path):
    path = tmp_path / "a.json"
    records = [f'{{"a": {i}}}'.encode() for i in range(100)]
    path.write_bytes(b"[" + b",\n".join([*records, b'{"a": "\xff"}', b'{"a": 100}']) + b"]")
    table = tables.read(path)
    assert [row["a"] for row in table.rows] == list(range(101))
    assert [problem.line for problem in table.problems] == [101]


def test_long_cells_are_read_up_to_the_record_limit(tmp_path):
    for name in ("a.csv", "a.jsonl"):
        tables.write(tmp_path / name, ("a",), iter([("x" * 500_000,)]))
        assert tables.read(tmp_path / name).rows == [{"a": "x" * 500_000}]


def test_a_column_without_a_name_is_called_by_its_place(tmp_path):
    (tmp_path / "pandas.csv").write_text(",a\n0,x\n")
    assert tables.read(tmp_path / "pandas.csv").rows == [{"column 1": "0", "a": "x"}]


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_the_delimiter_is_told_from_the_header(tmp_path, sign):
    (tmp_path / "a.csv").write_text(f"a{sign}b\n1{sign}2\n")
    assert tables.read(tmp_path / "a.csv").rows == [{"a": "1", "b": "2"}]


def test_other_content_than_text_is_written_as_json(tmp_path):
    tables.write(tmp_path / "a.csv", ("a", "b", "c"), iter([(None, True, ["x", 1.5])]))
    assert (tmp_path / "a.csv").read_text() == 'a,b,c\n,true,"[""x"", 1.5]"\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        tables.write(tmp_path / "a.jsonl", ("a",), iter([(float("nan"),)]))


def test_a_pipe_can_be_read():
    import os
    import threading

    reading, writing = os.pipe()
    threading.Thread(target=lambda: (os.write(writing, b'{"a": 1}\n'), os.close(writing))).start()
    try:
        assert tables.read(f"/dev/fd/{reading}").rows == [{"a": 1}]
    finally:
        os.close(reading)


@pytest.mark.parametrize("where", ["gs://b/x.csv", "foo://x", "https://x/y.csv", "a\0b"])
def test_what_can_not_be_opened_is_one_error(where, monkeypatch):
    import fsspec

    def absent(scheme):
        raise ImportError("no client")

    monkeypatch.setattr(fsspec, "get_filesystem_class", absent)
    with pytest.raises(errors.InputError) as caught:
        tables.read(where)
    assert len(str(caught.value).splitlines()) == 1
    if where.startswith("gs"):
        assert "pip install gcsfs" in str(caught.value)
