"""The folder beside a page with its tables: each as CSV and JSON with unrounded values, and as LaTeX.

`index.json` in it lists the tables, by which the files of an earlier page are known, and removed. Others are left
alone.
"""

import csv
import json
from collections.abc import Iterable
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federated_health.errors import StorageError
from federated_health.files import make_folder, sync_folder, write_json, write_text
from federated_health.names import REPORT, TABLES, slug_of
from federated_health.names import TABLES_INDEX as INDEX
from federated_health.report.cells import Cell, parts
from federated_health.report.latex import latex_table

if TYPE_CHECKING:
    from federated_health.report.page import Page, Section, Table

FORMATS = ("csv", "tex", "json")
MAX_NAME = 80

_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # and those of full width
"""First characters of a cell that a spreadsheet would execute."""

PARTS = ("", "low", "high", "noise", "mark")
"""What a cell may hold (see `cells.parts`), in the order of columns."""


def folder_of(page: Path) -> Path:
    """The folder of a page's tables: `tables` beside report.html, NAME-tables beside NAME.html."""
    return page.with_name(TABLES if page.name == REPORT else f"{page.stem}-{TABLES}")


def write_tables(folder: Path, page: "Page") -> None:
    """Write all tables of a page, and remove those of an earlier page; without tables, the folder goes, too.

    Raises:
        StorageError: a file cannot be written.
    """
    tables = name_tables(page)
    if not tables:
        remove_tables(folder)
        return
    texts = {name: _texts_of(name, section, table) for name, (section, table) in tables.items()}
    index = [{"name": name, "section": part.title, "caption": table.caption} for name, (part, table) in tables.items()]
    stale = [name for name in _names_in(folder) if name not in tables]
    make_folder(folder)
    write_json(folder / INDEX, {"tables": [*index, *({"name": name} for name in stale)]})  # what a crash would leave
    for name, of_table in texts.items():
        for extension, text in of_table.items():
            write_text(folder / f"{name}.{extension}", text)
    if stale:
        _remove(folder, stale)
        write_json(folder / INDEX, {"tables": index})


def _texts_of(name: str, section: "Section", table: "Table") -> dict[str, str]:
    """Extension of a file -> its text."""
    return {"csv": csv_table(table), "tex": latex_table(table, name), "json": json_table(section, table)}


def remove_tables(folder: Path) -> None:
    """Remove the tables of a page, and their folder unless it holds something else; they are removed on disk.

    Raises:
        StorageError: a file cannot be removed.
    """
    if names := _names_in(folder):
        _remove(folder, names)
        (folder / INDEX).unlink(missing_ok=True)
        with suppress(OSError):  # it holds something else
            folder.rmdir()
            sync_folder(folder.parent)


def name_tables(page: "Page") -> "dict[str, tuple[Section, Table]]":
    """The tables of a page by the name of their files: the caption, after the section where captions are equal."""
    captions = [slug_of(table.caption) for _, table in page.tables]
    named: dict[str, tuple[Section, Table]] = {}
    for caption, (section, table) in zip(captions, page.tables, strict=True):
        first = (caption if captions.count(caption) == 1 else f"{section.slug}-{caption}")[:MAX_NAME].strip("-")
        name, number = first or "table", 1
        while name in named or f"{name}.json" == INDEX:
            number += 1
            name = f"{first}-{number}"
        named[name] = section, table
    return named


def csv_table(table: "Table") -> str:
    """The table as CSV: one header, then a row per row; a figure that is not defined is empty.

    An interval of the column `ROC-AUC` has the columns `ROC-AUC`, `ROC-AUC low` and `ROC-AUC high`.
    """
    rows = [[parts(cell) for cell in row] for row in table.rows]
    found = [{part for row in rows for part in row[place]} | {""} for place in range(len(table.columns))]
    columns = [(place, part) for place, of in enumerate(found) for part in PARTS if part in of]
    text = StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([_harmless(f"{table.columns[place]} {part}".strip()) for place, part in columns])
    writer.writerows([_harmless(row[place].get(part)) for place, part in columns] for row in rows)
    return text.getvalue()


def _harmless(cell: str | int | float | None) -> str | int | float | None:
    """The cell, with an apostrophe before text that a spreadsheet would execute."""
    is_formula = isinstance(cell, str) and cell.lstrip().startswith(_FORMULA) and not _is_number(cell)
    return f"'{cell}" if is_formula else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def json_table(section: "Section", table: "Table") -> str:
    """The table as JSON; a figure with an interval, noise or a mark is an object, in which `value` is the figure."""
    content = {
        "section": section.title,
        "caption": table.caption,
        "note": table.note,
        "columns": table.columns,
        "rows": [[_json_cell(cell) for cell in row] for row in table.rows],
        "summary_rows": table.last,
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _json_cell(cell: Cell) -> Any:
    value, *others = (values := parts(cell)).items()
    return {"value": value[1], **dict(others)} if others else values[""]


def _names_in(folder: Path) -> list[str]:
    """Names of the tables that a page wrote to a folder; none if there is no index, or one of something else."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        names = [entry["name"] for entry in json.loads((folder / INDEX).read_text(encoding="utf-8"))["tables"]]
        return [name for name in names if isinstance(name, str) and name and slug_of(name) == name]
    return []


def _remove(folder: Path, names: Iterable[str]) -> None:
    """Remove the files of tables; they are removed on disk."""
    try:
        for name in names:
            for extension in FORMATS:
                (folder / f"{name}.{extension}").unlink(missing_ok=True)
        sync_folder(folder)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written to ({error.strerror})") from None
