"""CSV files as people have them, read strictly: every cell as text, every row as long as the header."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from federated_health.errors import DataError


def read_table(path: Path) -> pd.DataFrame:
    """All cells of a UTF-8 CSV with a header, as text; see `parse_table`.

    Raises:
        DataError: the file cannot be read or is not well-formed; never quotes a row.
    """
    return parse_table(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def parse_table(content: bytes, name: str, header: Sequence[str] | None = None) -> pd.DataFrame:
    """All cells of a UTF-8 CSV, as text. Blank lines are no rows; a byte-order mark is dropped.

    Args:
        content: the file.
        name: what messages call it.
        header: names of the columns, for a file that has none of its own.

    Raises:
        DataError: it is not well-formed; never quotes a row.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(
            f"{name}: is not UTF-8 text; save it as CSV UTF-8", reason="its file is not UTF-8 text"
        ) from None
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error:
        raise DataError(f"{name}: is not a well-formed CSV", reason="its file is not a well-formed CSV") from None
    if not rows:
        raise DataError(f"{name}: is empty", reason="its file is empty")
    whose = ""
    if header is None:
        header, *rows = rows
        _check_own_header(header, name)
        whose = ", as in the header"
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise DataError(
                f"{name}: row {number} has {len(row)} cells; expected {len(header)}{whose}",
                reason="its file has a row that is longer or shorter than its header",
            )
    return pd.DataFrame(rows, columns=[column.strip() for column in header], dtype=str)


def _check_own_header(header: Sequence[str], name: str) -> None:
    if len(header) == 1 and re.search("[;\t|]", header[0]):
        raise DataError(
            f"{name}: its cells are not separated by commas", reason="its file's cells are not separated by commas"
        )
    # A file without a header begins with a patient, whom no message may quote.
    if any(_is_number(column) for column in header):
        raise DataError(
            f"{name}: its first line holds numbers; expected a header with the names of the columns",
            reason="its file has no header",
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
