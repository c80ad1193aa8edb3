"""Files that are no table of the task: each is called what it is, and the fix that the message names works."""

import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest

from federated_health.data import gzip_files
from federated_health.data.csv_reading import Dialect, parse_csv
from federated_health.data.patient_table import read_patients
from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import DataError

HEADER = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,disease"
FIRST = "63,1,1,145,233,1,2,150,0,2.3,3,0,6,0"
SECOND = "67,1,4,160,286,0,2,108,1,1.5,2,3,3,1"
TABLE = f"{HEADER}\n{FIRST}\n{SECOND}\n"
EMPTY = "," * 13


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "patients.csv"


def rows_in(path: Path, content: str | bytes) -> int:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return len(read_patients(path, HEART_DISEASE, labelled=True)[1])


def refusal(path: Path, content: str | bytes) -> DataError:
    with pytest.raises(DataError) as caught:
        rows_in(path, content)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for cell in ("145", "233", "2.3", "Zürich"):
        assert cell not in message.replace(str(path), "")
    return caught.value


def zip_of(member: str, mimetype: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        if mimetype:
            archive.writestr("mimetype", mimetype)
        archive.writestr(member, "content")
    return buffer.getvalue()


# Another kind of file


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        pytest.param(zip_of("xl/workbook.xml"), "Excel workbook", id="xlsx"),
        pytest.param(zip_of("xl/workbook.bin"), "Excel workbook", id="xlsb"),
        pytest.param(zip_of("content.xml", "application/vnd.oasis.opendocument.spreadsheet"), "OpenDocument", id="ods"),
        pytest.param(zip_of("a.csv"), "zip archive", id="zip"),
        pytest.param(b"PK\x03\x04 and no more", "damaged", id="damaged zip"),
        pytest.param(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "Excel workbook", id="xls"),
        pytest.param(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n145", "PDF", id="pdf"),
        pytest.param(b"PAR1\x15\x04\x15\x00PAR1", "Parquet", id="parquet"),
        pytest.param("<!DOCTYPE html>\n<html><td>145</td></html>", "HTML", id="html"),
        pytest.param("\n<table border=1>\n<tr><td>145,233</td></tr>\n</table>", "HTML", id="html of a table only"),
        pytest.param("<?xml version='1.0'?>\n<a>145</a>", "XML", id="xml"),
        pytest.param(json.dumps([{"age": 63, "chol": 233}]), "JSON", id="json records"),
        pytest.param(json.dumps({"chol": [233]}, indent=2), "JSON", id="json columns"),
        pytest.param('{"chol": 233, "sex": 1}\n{"chol": 145, "sex": 1}\n', "JSON", id="json lines"),
        pytest.param(f"% 145\n@RELATION heart\n@ATTRIBUTE age REAL\n@DATA\n{FIRST}\n", "ARFF", id="arff"),
        pytest.param(bytes(range(256)) * 8, "not a text file", id="bytes"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(path: Path, content: str | bytes, kind: str) -> None:
    assert kind in str(refusal(path, content))


def test_a_workbook_or_parquet_file_needs_its_own_suffix(tmp_path: Path) -> None:
    assert "end in .xlsx" in str(refusal(tmp_path / "patients.csv", zip_of("xl/workbook.xml")))
    assert "end in .parquet" in str(refusal(tmp_path / "patients.csv", b"PAR1"))


def test_the_fix_for_an_arff_file_works(path: Path) -> None:
    attributes = "".join(f"@attribute {name} numeric\n" for name in HEADER.split(","))
    arff = f"@relation heart\n{attributes}@data\n{FIRST}\n{SECOND}\n"
    assert "replace its lines up to @data by one line" in str(refusal(path, arff))

    assert rows_in(path, f"{HEADER}\n{arff.partition('@data')[2].lstrip()}") == 2


# Encodings


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("latin-1", "Latin-1"),
        ("mac-roman", "Mac Roman"),
    ],
)
def test_another_encoding_is_named_and_saving_as_utf_8_works(path: Path, encoding: str, name: str) -> None:
    text = f"{HEADER},town\n{FIRST},Zürich\n"
    error = refusal(path, text.encode(encoding))

    assert name in str(error)
    assert error.reason == "its file is not UTF-8 text"
    assert "save it as CSV UTF-8" in str(error)
    assert rows_in(path, text) == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1", "cp1252", "utf-8"])
def test_a_dialect_names_the_encoding(encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    table = parse_csv(f"{mark}age;town\n63;Zürich\n".encode(encoding), "a.csv", dialect=Dialect(";", encoding))

    assert table.astype(str).to_dict("list") == {"age": ["63"], "town": ["Zürich"]}


# Separators, headers and lines


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_another_separator_is_named_with_the_mapping_that_reads_it(path: Path, separator: str, name: str) -> None:
    text = TABLE.replace(".", "$").replace(",", separator).replace("$", ",")  # with decimal commas
    message = str(refusal(path, text))

    assert f"by {name}" in message
    assert f"mapping draft {path} --task heart-disease > mapping.toml" in message
    assert len(parse_csv(text.encode(), "a", dialect=Dialect(separator))) == 2


def test_a_separator_inside_quotes_does_not_hide_the_separator(path: Path) -> None:
    text = f'{HEADER},note\n{FIRST},"a;b"\n{SECOND},"c"\n'.replace(",", ";")

    assert "by semicolons" in str(refusal(path, text))


def test_excel_s_separator_line_is_skipped_or_explained(path: Path) -> None:
    assert rows_in(path, f"sep=,\n{TABLE}") == 2
    semicolons = "sep=;\r\n" + TABLE.replace(",", ";")
    assert "semicolons (its line sep= is Excel's)" in str(refusal(path, semicolons))
    assert list(parse_csv(semicolons.encode(), "a", dialect=Dialect(";")).columns) == HEADER.split(",")


def test_a_file_separated_by_spaces_without_header_is_explained_and_the_fix_works(path: Path) -> None:
    statlog = "63.0 1.0 1.0 145.0 233.0 1.0 2.0 150.0 0.0 2.3 3.0 0.0 6.0 0\n67 1 4 160 286 0 2 108 1 1.5 2 3 3 1\n"
    message = str(refusal(path, statlog))

    assert "spaces" in message
    assert "no header" in message
    assert rows_in(path, f"{HEADER}\n{statlog.replace(' ', ',')}") == 2


def test_the_fix_for_a_file_without_header_works(path: Path) -> None:
    assert "add a first line with the column names" in str(refusal(path, f"{FIRST}\n{SECOND}\n"))
    assert rows_in(path, TABLE) == 2


@pytest.mark.parametrize("extra", [",", ",,"])
def test_separators_at_the_end_of_rows_only_are_explained_and_the_fix_works(path: Path, extra: str) -> None:
    rows = f"{FIRST}{extra}\n{SECOND}{extra}\n"
    assert f"end the first line with '{extra}'" in str(refusal(path, f"{HEADER}\n{rows}"))
    assert rows_in(path, f"{HEADER}{extra}\n{rows}") == 2


def test_quotes_around_whole_lines_are_explained(path: Path) -> None:
    quoted = "".join(f'"{line}"\n' for line in TABLE.splitlines())
    assert "each line in quotes" in str(refusal(path, quoted))
    assert "header in quotes" in str(refusal(path, f'"{HEADER}"\n{FIRST}\n'))
    assert rows_in(path, quoted.replace('"', "")) == 2


def test_lines_above_the_header_are_named(path: Path) -> None:
    for above in (f"Report of 2024{EMPTY}\n{EMPTY}\n", "\nReport of 2024\n"):
        message = str(refusal(path, above + TABLE))
        assert "in line 3; delete the lines above it" in message
    assert rows_in(path, TABLE) == 2


@pytest.mark.parametrize("blank", [EMPTY, f" {EMPTY} "])
def test_rows_without_any_cell_are_no_patients(path: Path, blank: str) -> None:
    message = str(refusal(path, f"{TABLE}{blank}\n{FIRST}\n{blank}\n"))
    assert "row 3 (and 1 more)" in message
    assert "delete these rows" in message
    assert "row 1;" in str(refusal(path, f"{HEADER}\n{blank}\n"))


def test_a_row_of_missing_value_markers_is_read(path: Path) -> None:
    path.write_text(f"{HEADER.removesuffix(',disease')}\n{FIRST.removesuffix(',0')}\n?{',' * 12}\n")
    assert len(read_patients(path, HEART_DISEASE, labelled=False)[1]) == 2


# Headers


def test_a_number_among_the_names_is_a_column(path: Path) -> None:
    assert rows_in(path, f"{HEADER},2024\n{FIRST},1\n") == 1


def test_a_number_is_a_column_of_an_unknown_header_if_the_names_differ_from_the_cells_below() -> None:
    assert list(parse_csv(b"alter,rr,2024\n63,145,1\n", "a").columns) == ["alter", "rr", "2024"]
    for patient in ("m,emergency,63\nm,planned,64\n", "ja,ja,63\nnein,ja,64\n", "m,63,145\nw,64,150\n", "m,w,63\n"):
        with pytest.raises(DataError, match="has no header"):
            parse_csv(patient.encode(), "a")


@pytest.mark.parametrize("name", ["1st_dose", "Age (years)", "Größe", "HbA1c %", "2024"])
def test_an_unusual_name_does_not_make_a_header_a_patient(path: Path, name: str) -> None:
    message = str(refusal(path, f"{HEADER.removeprefix('age,')},{name}\n{FIRST.removeprefix('63,')},1\n"))

    assert "lacks the column age; its header is: sex, cp" in message
    assert (name if name != "2024" else "and 1 more") in message


def test_a_column_in_another_case_is_named_and_an_absent_one_is_not(path: Path) -> None:
    message = str(
        refusal(path, TABLE.replace("chol", "Chol").replace("age,", "").replace("63,", "").replace("67,", ""))
    )

    assert "upper and lower case matter: Chol is not chol)" in message
    assert "upper and lower case" not in str(refusal(path, "sex,cp\n1,1\n"))


def test_a_mapping_is_proposed_if_the_columns_may_have_other_names(path: Path) -> None:
    others = TABLE.replace("age", "alter").replace("disease", "befund")
    assert "mapping draft" in str(refusal(path, others))
    assert "mapping draft" not in str(refusal(path, "sex,cp\n1,1\n"))


def test_a_known_layout_is_named_with_the_script_that_reads_it(path: Path) -> None:
    assert "create_dataset.py --source" in str(refusal(path, TABLE.replace("disease", "target")))
    assert "create_dataset.py --source" not in str(refusal(path, TABLE.replace("disease", "befund")))


# Gzip


def test_a_gzip_file_is_read_like_its_content(tmp_path: Path) -> None:
    packed = gzip.compress(f"{HEADER}\n{FIRST}\n".encode()) + gzip.compress(f"{SECOND}\n".encode())  # two members
    assert rows_in(tmp_path / "patients.csv.gz", packed) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "followed"])
def test_a_damaged_gzip_file_is_refused(path: Path, damage: str) -> None:
    packed = gzip.compress(TABLE.encode())
    content = {"cut": packed[:-9], "changed": packed[:40] + bytes([packed[40] ^ 255]) + packed[41:], "followed": packed}
    error = refusal(path, content[damage] + (b"rest" if damage == "followed" else b""))
    assert error.reason == "its file is a damaged gzip file"


def test_a_gzip_file_that_unpacks_to_too_much_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzip_files, "MAX_UNPACKED_BYTES", 2**20)
    bomb = gzip.compress(bytes(2**20 + 1))
    assert "at most 1 MiB" in str(refusal(path, bomb))
