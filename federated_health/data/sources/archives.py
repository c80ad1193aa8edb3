"""The files of a source: a file itself, a folder or zip of UCI's files, or a zip with one CSV."""

import lzma
import zipfile
import zlib
from pathlib import Path

from federated_health.data.sources.layouts import UCI_FILES
from federated_health.data.tables import read_bytes
from federated_health.errors import DataError

MAX_MEMBER_BYTES = 512 * 1024 * 1024
"""Bytes of a file in a zip, unpacked."""

_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
)
"""What zipfile raises for archives that are damaged, cut off, encrypted or packed in a way that it does not know."""


def read_contents(path: Path) -> dict[str, bytes]:
    """File name -> bytes, of UCI's files in UCI's order, or of one CSV.

    Raises:
        DataError: there is neither, or it cannot be read.
    """
    if path.is_dir():
        return {file.name: read_bytes(file) for file in _uci_files(path)}
    content = read_bytes(path)
    return _read_zip(path) if content[:4] == b"PK\x03\x04" else {path.name: content}


def _uci_files(folder: Path) -> list[Path]:
    present = [folder / name for name in UCI_FILES if (folder / name).is_file()]
    if not present:
        hint = "; name one of its CSVs itself" if any(folder.glob("*.csv")) else ""
        raise DataError(f"{folder}: expected {', '.join(UCI_FILES)} in this folder; got none of them{hint}")
    return present


def _read_zip(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            if "xl/workbook.xml" in archive.namelist():
                raise DataError(f"{path}: is an Excel file; save it as CSV UTF-8 (comma separated)")
            members = [(Path(member.filename).name, member) for member in archive.infolist() if not member.is_dir()]
            uci = [one for one in members if one[0] in UCI_FILES]
            csvs = [one for one in members if one[0].lower().endswith(".csv") and one[0][0] not in "._"]
            if (not uci and len(csvs) != 1) or len(dict(uci)) != len(uci):
                raise DataError(
                    f"{path}: expected one CSV, or {', '.join(UCI_FILES)} once each, in this zip; got {len(csvs)} CSVs "
                    f"and {len(uci)} of UCI's files"
                )
            if any(member.file_size > MAX_MEMBER_BYTES for _, member in uci or csvs):
                raise DataError(f"{path}: holds a file of more than {MAX_MEMBER_BYTES // 2**20} MiB")
            contents = {name: archive.read(member) for name, member in uci or csvs}
            return {name: contents[name] for name in (*UCI_FILES, *contents) if name in contents}
    except _BROKEN_ZIP:
        raise DataError(f"{path}: is not a zip that can be read") from None
