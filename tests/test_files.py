"""Safe file operations: atomic replacement, permissions, appending, and folder locks."""

import errno
import os
import subprocess
import sys
import threading
from io import FileIO
from pathlib import Path

import pytest

from federated_health import files
from federated_health.errors import StorageError
from federated_health.file_access import append, open_to_append
from federated_health.files import locked_folder, make_folder, sync_folder, write_bytes, write_json, write_text


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_text_is_written_unchanged_and_leaves_no_other_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.csv", "zürich\n1\n")
    assert (tmp_path / "a.csv").read_bytes() == "zürich\n1\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_is_written_to_directly_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()), daemon=True)
    reader.start()
    write_text(pipe, "through")
    reader.join(5)
    assert received == ["through"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["", "missing/file", "folder", "file/a"])
def test_a_file_that_cannot_be_written_is_a_storage_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        write_text(Path(name), "text")


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "metrics.json", {"roc_auc": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_private_file_is_private_before_anything_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []

    def look(descriptor: int) -> None:
        modes.append(os.fstat(descriptor).st_mode & 0o777)

    monkeypatch.setattr(os, "fsync", look)
    monkeypatch.setattr(Path, "chmod", None)
    monkeypatch.setattr(os, "chmod", None)
    before = os.umask(0)
    try:
        write_bytes(tmp_path / "key.pem", b"secret", files.PRIVATE)
        write_bytes(tmp_path / "open.pem", b"open", files.PUBLIC)
    finally:
        os.umask(before)
    assert modes[0] == 0o600
    assert (mode_of(tmp_path / "key.pem"), mode_of(tmp_path / "open.pem")) == (0o600, 0o644)
    assert (tmp_path / "key.pem").read_bytes() == b"secret"


def test_a_private_file_replaces_a_readable_one(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(b"old")
    (tmp_path / "key.pem").chmod(0o644)
    write_bytes(tmp_path / "key.pem", b"new", files.PRIVATE)
    assert mode_of(tmp_path / "key.pem") == 0o600


def test_only_the_owner_enters_a_private_folder(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_folder(tmp_path / "new", files.PRIVATE_FOLDER)
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "new") == 0o700


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[fails], fail)
    with pytest.raises(StorageError, match=r"a: cannot be written \(No space left on device\)"):
        write_bytes(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(StorageError, match="cannot be written to"):
            make_folder(path)


HOLD = """
import sys
from pathlib import Path
from federated_health.files import locked_folder
with locked_folder(Path(sys.argv[1]), wait=False):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_locked_until_the_other_process_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError), locked_folder(tmp_path, wait=False):
            pytest.fail("entered")
        other.kill()
        other.wait(30)
    with locked_folder(tmp_path, wait=False):
        pass


def test_a_folder_is_unlocked_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked_folder(tmp_path, wait=True):
        raise ZeroDivisionError
    with locked_folder(tmp_path, wait=False):
        pass


def test_a_missing_folder_can_be_neither_locked_nor_synced(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"), locked_folder(tmp_path / "none", wait=False):
        pytest.fail("entered")
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "none")


def test_syncing_a_folder_syncs_its_list_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    sync_folder(tmp_path)
    assert synced == [tmp_path.stat().st_ino]


def test_on_windows_folders_are_neither_locked_nor_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, *_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))  # as Windows does

    folder = tmp_path / "none"
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "name", "nt")
    sync_folder(folder)
    with locked_folder(folder, wait=False):
        pass


def test_a_locked_folder_keeps_others_waiting(tmp_path: Path) -> None:
    entered = threading.Event()

    def enter() -> None:
        with locked_folder(tmp_path, wait=True):
            entered.set()

    waiting = threading.Thread(target=enter)
    with locked_folder(tmp_path, wait=True):
        waiting.start()
        assert not entered.wait(0.2)
    waiting.join(10)
    assert entered.is_set()


def test_appended_content_is_on_disk_and_new_files_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[bool, int]] = []

    def fsync(number: int) -> None:
        is_folder = os.fstat(number).st_ino == tmp_path.stat().st_ino
        synced.append((is_folder, (tmp_path / "lines").stat().st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    for line in (b"a\n", b"bc\n"):
        with open_to_append(tmp_path / "lines") as file:
            append(file, line)
    assert synced == [(True, 0), (False, 2), (False, 5)]
    assert (tmp_path / "lines").read_bytes() == b"a\nbc\n"
    assert mode_of(tmp_path / "lines") == 0o600


def test_content_that_is_appended_only_in_part_is_an_error(tmp_path: Path) -> None:
    class Full(FileIO):
        def write(self, content: object, /) -> int:
            return super().write(bytes(content)[:1])  # type: ignore[call-overload]

    with Full(str(tmp_path / "lines"), "a") as file, pytest.raises(OSError, match="No space left") as error:
        append(file, b"line")
    assert error.value.errno == errno.ENOSPC


def test_a_locked_file_keeps_others_waiting(tmp_path: Path) -> None:
    entered = threading.Event()

    def enter() -> None:
        with open_to_append(tmp_path / "lines", lock=True):
            entered.set()

    waiting = threading.Thread(target=enter)
    with open_to_append(tmp_path / "lines", lock=True):
        waiting.start()
        assert not entered.wait(0.2)
    waiting.join(10)
    assert entered.is_set()


def test_a_partial_file_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".key.pem.partial").write_bytes(b"longer than the new content")
    write_bytes(tmp_path / "key.pem", b"new", files.PRIVATE)
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]
    assert (tmp_path / "key.pem").read_bytes() == b"new"
    assert mode_of(tmp_path / "key.pem") == 0o600
