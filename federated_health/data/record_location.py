"""Where a hospital keeps a record that must not exist twice: beside its CSV, or in the folder of its ledger."""

from contextlib import suppress
from pathlib import Path

from federated_health.errors import StorageError, UserError
from federated_health.files import write_text


def find_record(own: Path, folder: Path | None, what: str, error: type[UserError]) -> Path:
    """Path of a record; the file may not exist yet.

    Args:
        own: the record's path if it is beside the CSV.
        folder: where it is to be; None for beside the CSV.
        what: what it is, for errors.
        error: raised if there is a record elsewhere, or was one that is missing.
    """
    note, path = _note_beside(own), (folder or own.parent) / own.name
    try:
        noted = Path(note.read_text(encoding="utf-8").rstrip("\n")) / own.name if note.exists() else own
        for other in (own, noted):
            if other.exists() and not (path.exists() and other.samefile(path)):
                raise error(
                    f"{other}: is {what}, and a second one would not know it; give its folder as --ledger, or move "
                    f"it to {path.parent}"
                )
        if noted != own and not path.exists():
            raise error(f"{noted}: {what} is missing; restore the file as it was")
    except (OSError, ValueError) as failure:
        raise error(f"{note}: cannot be read ({getattr(failure, 'strerror', failure)})") from None
    return path


def write_note(own: Path, path: Path) -> None:
    """Say beside the CSV in which folder the record is, if it is another one; see `find_record`."""
    if path.parent.resolve() != own.parent.resolve():
        with suppress(StorageError):  # where nothing can be written, no record can begin
            write_text(_note_beside(own), f"{path.parent.resolve()}\n")


def _note_beside(own: Path) -> Path:
    return own.with_suffix(".folder")
