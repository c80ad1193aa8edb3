"""Reading keys and certificates: only private keys, only regular files, and none that is too large."""

import os
from pathlib import Path

import pytest

from federated_health.errors import CertificateError
from federated_health.security import files


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
