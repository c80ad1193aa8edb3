"""Folders: one process at a time at work in one, and their lists on the disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from federated_health.folders import locked_folder, sync_folder

HOLD = """
import sys
from pathlib import Path
from federated_health.folders import locked_folder
with locked_folder(Path(sys.argv[1]), wait=False):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_that_another_process_has_is_refused_until_that_one_ends(tmp_path: Path) -> None:
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


def test_it_is_free_after_the_block_even_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked_folder(tmp_path, wait=True):
        raise ZeroDivisionError
    with locked_folder(tmp_path, wait=False):
        pass


def test_a_folder_that_is_not_there_can_neither_be_locked_nor_synced(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked_folder(tmp_path / "none", wait=False):
        pytest.fail("entered")
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "none")


def test_it_is_the_folder_that_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    sync_folder(tmp_path)
    assert synced == [tmp_path.stat().st_ino]


def test_where_folders_cannot_be_opened_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, *_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))  # as Windows does

    folder = tmp_path / "none"
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "name", "nt")
    sync_folder(folder)
    with locked_folder(folder, wait=False):
        pass
