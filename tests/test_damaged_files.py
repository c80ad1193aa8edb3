"""Files that a user gives are parsed by other libraries, or by Python's: whatever is in them, an error is one line."""

import gzip
import io
import json
import os
import socket
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from federated_health import privacy
from federated_health.data import csv_reading
from federated_health.data.csv_reading import read_table
from federated_health.data.data_check import check_data
from federated_health.data.exports.mapping_draft import draft_mapping
from federated_health.data.exports.mappings import read_export, read_mapping
from federated_health.data.exports.table_files import read_table_file
from federated_health.data.exports.task_draft import draft_task
from federated_health.data.manifest import find_own_hospital
from federated_health.data.sources.source import read_source
from federated_health.data.task_files import HEART_DISEASE, read_task_file
from federated_health.data.task_review import find_mistakes
from federated_health.data.task_writing import write_task
from federated_health.errors import DataError, UserError
from federated_health.hospital import ledger_page
from federated_health.hospital.ledger import Ledger
from federated_health.ml.model_files import DESCRIPTION_MEMBER, read_description
from federated_health.ml.network_file import read_network
from federated_health.ml.predictions import read_task
from federated_health.privacy.spending import RoundSpend, write_line
from federated_health.security import certificates
from federated_health.security.authority import make_demo_identities
from federated_health.server.checkpoint import CheckpointFolder
from federated_health.studies.study import find_hospitals
from tests.support.checkpoints import checkpoint_of
from tests.support.exports import GERMAN, ROW, STROKE, write_export, write_mapping
from tests.support.mutations import damaged_bytes, damaged_json

MUTATIONS = 200

SLOW_READER_MUTATIONS = 30
"""The same for drafts, which take longer than what reads their file first."""

NETWORK = b"""
import keras


def build(features, outputs):
    return keras.Sequential([keras.layers.Dense(outputs)])
"""


def described_model(description: bytes) -> bytes:
    """A file with the description of a model and no network."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(DESCRIPTION_MEMBER, description)
    return file.getvalue()


def description_of_a_model() -> bytes:
    task = HEART_DISEASE
    content = {"task": task.name, "schema": task.schema_hash, "threshold": 0.5, "task_file": write_task(task)}
    return json.dumps({**content, "network": {"model": "mlp", "hidden": "16"}}).encode()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, hospitals_folder: Path) -> dict[str, bytes]:
    """An intact file of each kind."""
    folder = tmp_path_factory.mktemp("intact")
    table = pd.read_csv(hospitals_folder / "client_1.csv", dtype=str, keep_default_na=False)[:60]
    text = table.to_csv(index=False).encode()
    source = folder / "source.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("heart.csv", text)
    table.to_excel(folder / "a.xlsx", index=False)
    table.to_parquet(folder / "a.parquet")
    Ledger(folder / "egress.jsonl", "a").record_metadata("join", [("hospital", "a"), ("terms", "{}")])
    spend = RoundSpend(
        run="0123456789abcdef",
        epsilon=4.0,
        delta=1e-5,
        clip=0.25,
        sampling_rate=0.5,
        noise_multiplier=2.0,
        steps=1,
        rounds=100,
    )
    CheckpointFolder(folder).save(checkpoint_of(1))
    server, _ = make_demo_identities(folder / "tls", ("a",))
    return {
        "model.keras": described_model(description_of_a_model()),
        "description.json": description_of_a_model(),
        "task.toml": write_task(HEART_DISEASE).encode(),
        "mapping.toml": GERMAN.encode(),
        "export.csv": write_export(folder, ROW).read_bytes(),
        "table.csv": text,
        "table.csv.gz": gzip.compress(text, mtime=0),
        "source.zip": source.read_bytes(),
        **{name: (folder / name).read_bytes() for name in ("a.xlsx", "a.parquet", "egress.jsonl")},
        "privacy.jsonl": write_line(spend, datetime(2026, 1, 2, tzinfo=UTC)),
        "round-000001.checkpoint": (folder / "round-000001.checkpoint").read_bytes(),
        "history.jsonl": (folder / "history.jsonl").read_bytes(),
        "network.py": NETWORK,
        **{name: (server / name).read_bytes() for name in ("key.pem", "certificate.pem", "request.pem", "revoked.pem")},
    }


def _read_source(path: Path) -> None:
    read_source(path, task=HEART_DISEASE)


def _check(path: Path) -> None:
    check_data(path, HEART_DISEASE).raise_obstacle()


def _draft_mapping(path: Path) -> None:
    draft_mapping(path, STROKE)


def _draft_task(path: Path) -> None:
    draft_task(path, "disease")


def _read_key(path: Path) -> None:
    path.chmod(0o600)
    certificates.read_key(path)


READERS: list[tuple[str, Callable[[Path], object]]] = [
    ("model.keras", read_task),
    ("task.toml", read_task_file),
    ("task.toml", find_mistakes),
    ("mapping.toml", lambda path: read_mapping(path, STROKE)),
    ("export.csv", lambda path: read_export(path, STROKE, write_mapping(path.parent))),
    ("export.csv", _draft_mapping),
    ("table.csv", _check),
    ("table.csv", _draft_task),
    ("table.csv.gz", read_table),
    ("source.zip", _read_source),
    ("a.xlsx", read_table_file),
    ("a.parquet", read_table_file),
    ("egress.jsonl", ledger_page.summarise),
    ("privacy.jsonl", privacy.load_page().read_page),
    ("round-000001.checkpoint", lambda path: CheckpointFolder(path.parent).load()),
    ("network.py", read_network),
    ("key.pem", _read_key),
    ("certificate.pem", lambda path: certificates.party_of(certificates.read_certificates(path)[0])),
    ("request.pem", lambda path: certificates.party_of(certificates.read_request(path))),
    ("revoked.pem", certificates.read_revocations),
]


def is_readable(read: Callable[[Path], object], path: Path) -> bool:
    """Whether a file can be read; an error that a script prints as more than one line fails the test."""
    refusal = ""
    try:
        read(path)
    except UserError as error:
        refusal = str(error)
    assert "\n" not in refusal
    return not refusal


@pytest.mark.parametrize(("name", "read"), READERS, ids=[name for name, _ in READERS])
def test_a_damaged_file_is_read_or_refused_in_one_line(
    name: str, read: Callable[[Path], object], files: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / name
    if name.endswith(".checkpoint"):
        (tmp_path / "history.jsonl").write_bytes(files["history.jsonl"])
    path.write_bytes(files[name])
    assert is_readable(read, path)
    results, number = [], SLOW_READER_MUTATIONS if read in (_draft_mapping, _draft_task) else MUTATIONS
    for content in damaged_bytes(files[name], number):
        path.write_bytes(content)
        results.append(is_readable(read, path))
    assert not all(results)


def test_a_description_of_other_values_is_read_or_refused_in_one_line(files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    for description in damaged_json(files["description.json"], MUTATIONS):
        path.write_bytes(described_model(description))
        is_readable(read_task, path)


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: find_own_hospital(folder, 1, None, None),
        lambda folder: find_own_hospital(folder, None, folder / "client_2.csv", None),
        find_hospitals,
    ],
)
def test_a_manifest_of_other_values_is_read_or_refused_in_one_line(
    read: Callable[[Path], object], hospitals_folder: Path, tmp_path: Path
) -> None:
    for name in ("client_1.csv", "client_2.csv"):
        (tmp_path / name).write_bytes((hospitals_folder / name).read_bytes())
    intact = (hospitals_folder / "manifest.json").read_bytes()
    for content in damaged_json(intact, MUTATIONS):
        (tmp_path / "manifest.json").write_bytes(content)
        is_readable(read, tmp_path)


def with_member(change: Callable[[bytearray, int], None]) -> bytes:
    """A file with a description whose entry in the zip's two lists is changed; their layouts differ by two bytes."""
    content = bytearray(described_model(description_of_a_model()))
    for signature, offset in ((b"PK\3\4", 0), (b"PK\1\2", 2)):
        change(content, content.index(signature) + offset)
    return bytes(content)


def set_encrypted(content: bytearray, entry: int) -> None:
    content[entry + 6] |= 1


def set_unknown_method(content: bytearray, entry: int) -> None:
    content[entry + 8] = 99


@pytest.mark.parametrize("change", [set_encrypted, set_unknown_method])
def test_a_model_that_is_encrypted_or_packed_in_another_way_is_refused(
    change: Callable[[bytearray, int], None], tmp_path: Path
) -> None:
    (tmp_path / "model.keras").write_bytes(with_member(change))
    with pytest.raises(DataError, match="is not a model that a run saved"):
        read_description(tmp_path / "model.keras")


def test_a_large_description_of_the_layers_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federated_health.ml.model_files.MAX_DESCRIPTION_BYTES", 100)
    path = tmp_path / "model.keras"
    path.write_bytes(described_model(b"{}"))
    assert read_description(path) == {}
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.json", b" " * 101)
    with pytest.raises(DataError, match="is not a model that a run saved"):
        read_description(path)


def test_a_description_is_not_unpacked_where_it_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federated_health.ml.model_files.MAX_DESCRIPTION_BYTES", 100)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
    (tmp_path / "model.keras").write_bytes(described_model(b'{"a": "' + b"a" * 100 + b'"}'))
    with pytest.raises(DataError, match="is not a model that a run saved"):
        read_description(tmp_path / "model.keras")


# Devices, pipes, sockets and folders; sizes

FILE_READERS = [*dict(reversed(READERS)).items()]


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


def link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("make", [make_pipe, make_folder, make_socket, link_to_device])
@pytest.mark.parametrize(("name", "read"), FILE_READERS, ids=[name for name, _ in FILE_READERS])
def test_what_is_no_file_is_refused_at_once(
    name: str, read: Callable[[Path], object], make: Callable[[Path], None], in_folder: Path
) -> None:
    path = in_folder / name
    make(path)
    with pytest.raises(UserError) as refused:
        read(path)
    assert name in str(refused.value) or path.suffix == ".checkpoint"


def test_the_output_of_a_shell_s_command_can_be_read(files: dict[str, bytes]) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as file:
        file.write(files["table.csv"])
    try:
        assert len(read_table(Path(f"/dev/fd/{reading}"))) == 60
    finally:
        os.close(reading)


@pytest.mark.parametrize("is_pipe", [False, True])
def test_a_table_that_is_too_large_is_refused(
    is_pipe: bool, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_reading, "MAX_FILE_BYTES", len(files["table.csv"]) - 1)
    path, opened = tmp_path / "a.csv", []
    if is_pipe:
        opened = list(os.pipe())
        os.write(opened[1], files["table.csv"])
        os.close(opened.pop())
        path = Path(f"/dev/fd/{opened[0]}")
    else:
        path.write_bytes(files["table.csv"])
    try:
        with pytest.raises(DataError, match="expected at most"):
            read_table(path)
    finally:
        for number in opened:
            os.close(number)


def test_a_table_with_an_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_reading, "MAX_LINE_CHARACTERS", 100)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n" + "1," * 60)
    with pytest.raises(DataError, match="has a line of"):
        read_table(tmp_path / "a.csv")
