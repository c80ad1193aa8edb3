"""Files of keys: private from the start, whole or not there, and locked while they are changed."""

import os
import threading
from pathlib import Path

import pytest

from federated_health.errors import CertificateError
from federated_health.security import files


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_private_file_is_private_before_anything_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []

    def look(descriptor: int) -> None:
        modes.append(os.fstat(descriptor).st_mode & 0o777)

    monkeypatch.setattr(os, "fsync", look)
    monkeypatch.setattr(Path, "chmod", None)
    monkeypatch.setattr(os, "chmod", None)
    before = os.umask(0)
    try:
        files.write_file(tmp_path / "key.pem", b"secret", files.PRIVATE)
        files.write_file(tmp_path / "open.pem", b"open")
    finally:
        os.umask(before)
    assert modes[0] == 0o600
    assert (mode_of(tmp_path / "key.pem"), mode_of(tmp_path / "open.pem")) == (0o600, 0o644)
    assert (tmp_path / "key.pem").read_bytes() == b"secret"


def test_a_private_file_replaces_an_open_one(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(b"old")
    (tmp_path / "key.pem").chmod(0o644)
    files.write_file(tmp_path / "key.pem", b"new", files.PRIVATE)
    assert mode_of(tmp_path / "key.pem") == 0o600


def test_a_private_folder_is_for_its_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files.make_private_folder(tmp_path / "new")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "new") == 0o700


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[fails], fail)
    with pytest.raises(CertificateError, match=r"a: cannot be written \(No space left on device\)"):
        files.write_file(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_folder_that_cannot_be_made_or_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CertificateError, match=r"cannot be made \(Not a directory\)"):
        files.make_private_folder(tmp_path / "file" / "folder")
    with pytest.raises(CertificateError, match=r"cannot be written \(Not a directory\)"):
        files.write_file(tmp_path / "file" / "a", b"")
    with pytest.raises(CertificateError, match=r"cannot be read \(No such file"), files.locked(tmp_path / "none"):
        pass


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_key_that_others_may_touch_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"")
    path.chmod(mode)
    with pytest.raises(
        CertificateError, match=rf"others on this machine may read this key \(mode {mode:o}\); chmod 600"
    ):
        files.check_private(path)
    for private in (0o600, 0o400):
        path.chmod(private)
        files.check_private(path)


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        for use in (files.read_file, files.check_private, files.check_regular):
            with pytest.raises(CertificateError, match=f"{name}: is not a regular file$"):
                use(tmp_path / name)


def test_what_is_too_large_for_a_certificate_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 8)
    (tmp_path / "a").write_bytes(b"12345678")
    assert files.read_file(tmp_path / "a") == b"12345678"
    (tmp_path / "a").write_bytes(b"123456789")
    with pytest.raises(CertificateError, match="is larger than"):
        files.read_file(tmp_path / "a")


def test_a_locked_folder_keeps_others_waiting(tmp_path: Path) -> None:
    entered = threading.Event()

    def enter() -> None:
        with files.locked(tmp_path):
            entered.set()

    waiting = threading.Thread(target=enter)
    with files.locked(tmp_path):
        waiting.start()
        assert not entered.wait(0.2)
    waiting.join(10)
    assert entered.is_set()
