"""For any file, a script succeeds, or ends with one line that quotes no cell, and leaves no partial output.

Scripts are called in this process, as in `test_scripts`. To test another script, add it to `TARGETS`.
"""

import contextlib
import io
import re
import signal
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import client
import utils
from federated_health.cli import create_dataset
from federated_health.cli.client import run_client
from federated_health.data.manifest import read_manifest
from federated_health.data.patient_table import read_patients
from federated_health.data.sources.layouts import KAGGLE_UCI, LAYOUTS, UCI
from federated_health.data.task_files import READMISSION, READMISSION_30D, get_task
from federated_health.names import is_hospital_name
from tests.support.diabetes_stays import made_up_stays
from tests.support.public_files import PUBLIC_FILES

SECRET = "Zqxj"
"""Text in damaged cells only, which no output may quote."""

SECRET_NUMBER = "86753.0925"


@dataclass(frozen=True)
class Target:
    """A script that reads a file.

    Attributes:
        arguments: command line for a path and a folder for results.
        prints_before_refusing: whether stdout may be non-empty when the script ends with an error.
    """

    name: str
    main: Callable[[], None]
    arguments: Callable[[Path, Path], list[str]]
    prints_before_refusing: bool = False


def check_file() -> None:
    run_client(client.app)


def _create(*flags: str) -> Callable[[Path, Path], list[str]]:
    return lambda path, out: ["--source", str(path), "--out", str(out), *flags]


def _check(*flags: str) -> Callable[[Path, Path], list[str]]:
    return lambda path, _out: ["--check", "--data", str(path), *flags]


TARGETS = [
    Target("create_dataset.py", create_dataset.main, _create()),
    Target("create_dataset.py", create_dataset.main, _create("--drop-invalid", "--by", "iid", "--hospitals", "2")),
    Target("client.py", check_file, _check(), prints_before_refusing=True),
    Target("client.py", check_file, _check("--task", "readmission"), prints_before_refusing=True),
    Target("create_dataset.py", create_dataset.main, _create("--label-means", "disease=1")),
]


def run(target: Target, arguments: Sequence[str]) -> tuple[object, str, str]:
    """Exit code, stdout and stderr. Any exception but `SystemExit` fails the test."""
    output, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", [target.name, *arguments]),
        mock.patch.object(signal, "signal"),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        utils.run_script(target.main)
    return ended.value.code, output.getvalue(), errors.getvalue()


def assert_ends_well(target: Target, name: str, content: bytes) -> None:
    """Run a script on a file of this name and content in a new folder, and check how it ends."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        path, out = folder / name, folder / "out"
        path.write_bytes(content)

        code, output, errors = run(target, target.arguments(path, out))

        assert code in (0, 1, 2)
        assert path.read_bytes() == content
        for shown in (errors, output if code else ""):
            assert SECRET.lower() not in shown.lower()
            assert SECRET_NUMBER not in shown
        if code:
            assert errors.startswith("error: ")
            assert errors.endswith("\n")
            assert len(errors.splitlines()) == 1, errors
            assert errors.rstrip("\n").isprintable(), errors
            assert target.prints_before_refusing or output == ""
            assert list(folder.rglob("*")) == [path]
        else:
            assert errors == ""
            assert_readable(out)


def assert_readable(out: Path) -> None:
    """Check that the written files, if any, are a hospital's valid data."""
    if not out.exists():
        return
    manifest = read_manifest(out)
    entries = manifest["hospitals"]
    names = [*(entry["file"] for entry in entries), "example_patients.csv", "manifest.json"]
    assert sorted(file.name for file in out.iterdir()) == sorted(names)
    for entry in entries:
        assert is_hospital_name(entry["name"])
        _, numbers = read_patients(out / entry["file"], get_task(manifest["task"]), labelled=True)
        assert len(numbers) == entry["rows"] == sum(entry["labels"].values())


# Valid files, one per layout.

HEART = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal"
UCI_ROWS = """63,1,1,145,233,1,2,150,0,2.3,3,0,6,0
67,1,4,160,286,0,2,108,1,1.5,2,3,3,1
37,1,3,130,250,0,0,187,0,3.5,3,0,3,0
56,1,2,120,236,,?,178,0,0.8,1,,3,1
"""
STAYS = f"""{",".join(READMISSION.column_names)},readmitted
60,1,1,4,40,12,8,0,0,7.1,180,1,1,1,0
71,0,2,9,61,20,9,1,2,,240,2,1,0,1
"""
STAYS_30D = f"""{",".join(READMISSION_30D.column_names)},readmitted_30d,patient
75,0,1,2,1,1,3,44,0,15,8,0,0,0,1,4,9,0,0,1,0,1,1,0,7
55,1,2,1,3,,7,62,2,21,9,1,0,2,2,,5,3,1,2,1,0,1,1,9
"""
FILES = {
    "canonical": ("mine.csv", f"{HEART},disease\n{UCI_ROWS}"),
    "canonical with hospitals": ("mine.csv", f"hospital,{HEART},disease\n" + re.sub(r"(?m)^(\d)", r"h\1,\1", UCI_ROWS)),
    "UCI's own file": ("processed.hungarian.data", UCI_ROWS),
    "readmission": ("stays.csv", STAYS),
    "readmission-30d": ("stays.csv", STAYS_30D),
    "UCI's diabetes stays": ("diabetic_data.csv", made_up_stays().to_csv(index=False)),
    **{name: ("public.csv", file.text(file.build()[:5], ",")) for name, file in PUBLIC_FILES.items()},
}
Cells = list[list[str]]
HOSPITAL_COLUMNS = {KAGGLE_UCI.hospital, UCI.hospital}
"""A hospital's name is not secret: a message may hold it."""

# Damage to cells and files.

WITH_SECRETS = [
    SECRET,
    f" {SECRET}\t",
    f'"{SECRET}',
    f'{SECRET}"" "',
    f"{SECRET}\n{SECRET}",
    f"{SECRET}\r",
    f"{SECRET}\0",
    f"={SECRET}+1",
    f"=cmd|'{SECRET}'!A1",
    f"\x1b[31m{SECRET}\x07",
    f"[/{SECRET}]",
    f"{SECRET},{SECRET}",
    f"%s{{{SECRET}}}",
    f"\ufeff{SECRET}",
    f"\u202e{SECRET}\u2028{SECRET}",
    SECRET * 50,
    SECRET * 40_000,  # more than the csv module accepts
    SECRET_NUMBER,
    f"-{SECRET_NUMBER}e5",
    f"{SECRET_NUMBER}e999",
]
SECRETS = st.sampled_from(WITH_SECRETS)
NASTY = st.sampled_from(
    [
        *(
            "",
            " ",
            "?",
            "nan",
            "inf",
            "-inf",
            "1e999",
            "-1e999",
            "1e-999",
            "0x1F",
            "1_0",
            "\u0661",
            "\u0663",
            "\xbd",
            "\u22125",
            "+1",
            "-0",
        ),
        *(
            "1e308",
            "9" * 30,
            "-" + "9" * 400,
            "1,5",
            "1;5",
            "=1+1",
            "1+2j",
            "true",
            "TRUE",
            "2020-01-01",
            "1 day",
            "\0",
        ),
        *("1\0", "\x85", "\x1c1", "1.0.0", "--1", ".", "e", "None", "NULL", "#N/A", "<NA>", "é", "\U0001f600", "0b1"),
    ]
)
CELLS = SECRETS | NASTY | st.text(max_size=5)


def damage(cells: Cells, draw: st.DrawFn) -> Cells:
    """A table with one change, which may undo an earlier one."""
    header, *rows = cells
    places = st.integers(0, len(header) - 1)
    kind = draw(st.sampled_from(["cell", "cell", "column", "delete", "repeat", "move", "rows", "ragged", "header"]))
    place = draw(places)
    match kind:
        case "cell":
            row = draw(st.integers(0, len(rows)))
            if row and place < len(cells[row]) and header[place] not in HOSPITAL_COLUMNS:
                cells[row][place] = draw(CELLS)
        case "column":
            cell = draw(NASTY if header[place] in HOSPITAL_COLUMNS else CELLS)
            cells = [header, *([*row[:place], cell, *row[place + 1 :]] for row in rows)]
        case "delete":
            cells = [[*row[:place], *row[place + 1 :]] for row in cells]
        case "repeat":
            cells = [[*row, *row[place : place + 1]] for row in cells]
        case "move":
            cells = [[*row[place:], *row[:place]] for row in cells]
        case "rows":
            cells = [header, *rows * draw(st.integers(0, 6))]
        case "ragged":
            row = draw(st.integers(0, len(cells) - 1))
            cells[row] = [*cells[row], draw(NASTY)] if draw(st.booleans()) else cells[row][:place]
        case "header":
            cells = rows
    return cells if cells and all(cells) else [["age"]]


def damage_bytes(content: bytes, draw: st.DrawFn) -> bytes:
    """A file with one change, which may leave it valid."""
    place = draw(st.integers(0, len(content)))
    kinds = ["same", "same", "cut", "BOM", "inside", "UTF-16", "Latin-1", "ends", "delimiter", "gone", "blank", "swap"]
    match draw(st.sampled_from(kinds)):
        case "cut":
            return content[:place]
        case "BOM":
            return b"\xef\xbb\xbf" * draw(st.integers(1, 2)) + content
        case "inside":
            return (
                content[:place]
                + draw(st.sampled_from([b"\xef\xbb\xbf", b"\0", b'"', b"\xff", b"\r"]))
                + content[place:]
            )
        case "UTF-16":
            return content.decode(errors="replace").encode("utf-16", errors="replace")
        case "Latin-1":
            return content.decode(errors="replace").encode("latin-1", errors="replace")
        case "ends":
            ends = draw(st.lists(st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n"]), min_size=1, max_size=3))
            lines = content.split(b"\n")
            return b"".join(line + ends[i % len(ends)] for i, line in enumerate(lines))
        case "delimiter":
            return content.replace(b",", draw(st.sampled_from([b";", b"\t", b"|", b" ", b":", b", ", b",,", b""])))
        case "gone":
            return content[place:]
        case "blank":
            return b"\n \n,\n" + content + b"\n,,,\n\n"
        case "swap":
            return content.replace(b"\n", b"\x00", 1)
    return content


@st.composite
def damaged_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """Name and content of a valid file with up to three changes, as it is or in a zip."""
    name, good = FILES[draw(st.sampled_from(sorted(FILES)))]
    cells = [line.split(",") for line in good.splitlines()]
    for _ in range(draw(st.integers(0, 2))):
        cells = damage(cells, draw)
    quoted = draw(st.booleans())
    lines = [",".join(f'"{cell.replace(chr(34), chr(34) * 2)}"' if quoted else cell for cell in row) for row in cells]
    content = damage_bytes("\n".join([*lines, ""]).encode(errors="replace"), draw)
    match draw(st.sampled_from(["plain", "plain", "plain", "zip", "broken zip"])):
        case "zip":
            return "some.zip", zipped(name, content)
        case "broken zip":
            archive = bytearray(zipped(name, content[:2000], draw(st.sampled_from(PACKED))))
            for _ in range(draw(st.integers(1, 3))):
                archive[draw(st.integers(4, len(archive) - 1))] = draw(st.integers(0, 255))
            return "some.zip", bytes(archive[: draw(st.integers(5, len(archive))) if draw(st.booleans()) else None])
    return name, content


PACKED = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def zipped(name: str, content: bytes, packed: int = zipfile.ZIP_DEFLATED) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", packed) as target:
        target.writestr(zipfile.ZipInfo(f"folder/{name}"), content, compress_type=packed)
    return archive.getvalue()


@pytest.mark.parametrize("packed", PACKED)
def test_a_zip_with_any_damaged_byte_ends_well(packed: int) -> None:
    good = zipped("mine.csv", FILES["canonical"][1].encode(), packed)
    begin = good.index(b"mine.csv") + len(b"mine.csv")

    for place in range(begin, begin + 40):
        assert_ends_well(TARGETS[0], "some.zip", good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])


def test_a_zip_whose_names_are_not_valid_utf_8_ends_well() -> None:
    archive = zipped("h\xe9art.csv", FILES["canonical"][1].encode())

    assert_ends_well(TARGETS[0], "some.zip", archive.replace("h\xe9art".encode(), b"h\xff\xffart"))


def test_each_layout_has_a_file_here() -> None:
    headers = [set(text.splitlines()[0].split(",")) for _, text in FILES.values()]

    assert all(any(set(layout.header) <= header for header in headers) for layout in LAYOUTS)


@pytest.mark.parametrize("kind", FILES)
def test_the_undamaged_files_are_accepted(tmp_path: Path, kind: str) -> None:
    name, text = FILES[kind]
    path = tmp_path / name
    path.write_text(text)

    code, _, errors = run(TARGETS[1], TARGETS[1].arguments(path, tmp_path / "out"))

    assert (code, errors) == (0, "")


@pytest.mark.parametrize(
    "target", [TARGETS[0], TARGETS[2], TARGETS[4]], ids=["create", "check", "create, label stated"]
)
@pytest.mark.parametrize("kind", FILES)
def test_no_error_quotes_a_cell_of_any_column_with_or_without_the_header(kind: str, target: Target) -> None:
    name, good = FILES[kind]
    header, *_ = cells = [line.split(",") for line in good.splitlines()]
    for place, column in enumerate(header):
        if column not in HOSPITAL_COLUMNS:
            damaged = [list(row) for row in cells]
            damaged[1][place] = WITH_SECRETS[place % len(WITH_SECRETS)]
            for first in (0, 1):
                assert_ends_well(target, name, "\n".join(map(",".join, damaged[first:])).encode())
                damaged[1][place] = SECRET


fuzzed = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.mark.parametrize(
    "target", TARGETS, ids=["create", "create and drop", "check", "check readmission", "create, label stated"]
)
@fuzzed
@given(damaged_files())
def test_a_damaged_file_ends_well(target: Target, file: tuple[str, bytes]) -> None:
    assert_ends_well(target, *file)


# Scripts show a first line that looks like a header, so it holds no secret here.
LINES = st.lists(
    st.lists(
        st.sampled_from([*HEART.split(","), "disease", "63", "1", "", '"', "\0"]) | st.text(max_size=3), max_size=15
    )
).map(lambda rows: "\n".join(map(",".join, rows)).encode(errors="replace"))


@pytest.mark.parametrize("target", TARGETS[1:3], ids=["create", "check"])
@settings(fuzzed, max_examples=40)
@given(
    st.sampled_from(["mine.csv", "processed.cleveland.data", "some.zip"]),
    st.binary(max_size=200) | st.binary(max_size=60).map(b"PK\x03\x04".__add__) | LINES,
)
@example("mine.csv", b"")
@example("mine.csv", b"\xef\xbb\xbf")
@example("mine.csv", b"PK\x03\x04")
@example("mine.csv", b"PK\x05\x06" + bytes(18))
@example("mine.csv", b"\x1f\x8b\x08\0 gzip")
@example("mine.csv", b",\n" * 1000)
@example("mine.csv", f"{HEART},disease\n".encode() * 3)
@example("processed.cleveland.data", b"?,?,?,?,?,?,?,?,?,?,?,?,?,?\n" * 3)
def test_any_bytes_end_well(target: Target, name: str, content: bytes) -> None:
    assert_ends_well(target, name, content)
