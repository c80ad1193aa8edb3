"""CSV files as people have them, read strictly: every cell as text, every row as long as the header."""

import csv
import hashlib
import re
from pathlib import Path

import pandas as pd

from federated_health.errors import DataError


def read_table(path: Path) -> pd.DataFrame:
    """All cells of a UTF-8 CSV with a header, as text. Blank lines are no rows; a byte-order mark is dropped.

    Raises:
        DataError: the file cannot be read or is not well-formed; never quotes a row.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text") from None
    except csv.Error:
        raise DataError(f"{path}: is not a well-formed CSV") from None
    if not lines:
        raise DataError(f"{path}: is empty")
    header, *rows = lines
    if len(header) == 1 and re.search("[;\t|]", header[0]):
        raise DataError(f"{path}: its cells are not separated by commas")
    # A file without a header begins with a patient, whom no message may quote.
    if any(_is_number(name) for name in header):
        raise DataError(f"{path}: its first line holds numbers; expected a header with the names of the columns")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise DataError(f"{path}: row {number} has {len(row)} cells; expected {len(header)}, as in the header")
    return pd.DataFrame(rows, columns=[name.strip() for name in header], dtype=str)


def hash_file(path: Path) -> str:
    """SHA-256, in hex, of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
