"""Writes a folder of hospitals' CSVs with its manifest and a picture.

The folder is written whole or not at all. Files that create_dataset.py did not write are not overwritten.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from federated_health import __version__
from federated_health.data.examples import find_example_patients
from federated_health.data.manifest import MANIFEST, listed_hashes, read_manifest
from federated_health.data.partition_chart import draw_partition
from federated_health.data.sources.source import Source
from federated_health.data.task_files import TASKS
from federated_health.data.task_writing import write_task
from federated_health.data.tasks import Task
from federated_health.errors import DataError, StorageError
from federated_health.files import PUBLIC, hash_file, make_folder, sync_file, sync_folder, write_bytes

PICTURE, TASK_FILE_NAME = "partition.png", "task.toml"

MAX_PAIRS = 20
"""Largest number of pairs of hospitals with equal rows that the manifest lists."""

EXAMPLE_PATIENTS = "example_patients.csv"
"""Made-up patients to be scored with `predict`; not part of the data set, so not in the manifest."""


def write_hospitals(
    folder: Path,
    source: Source,
    hospitals: Mapping[str, pd.DataFrame],
    *,
    partition: Mapping[str, Any],
    plot: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Write client_1.csv, client_2.csv, ... and manifest.json, remove an earlier partition, and return the manifest.

    A DataError if a file of another origin would be overwritten, or the folder cannot be written to.

    Args:
        hospitals: hospital name -> its rows, in the order of the hospitals' numbers.
        partition: how the rows were divided, for the manifest.
        plot: also draw partition.png.
        force: overwrite files that this function did not write, or that were changed since.
    """
    try:
        make_folder(folder)
        _find_old_files(folder, source, plot=plot, force=force)  # refuses before the work begins
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder, ignore_cleanup_errors=True) as temporary:
            partial = Path(temporary)
            entries = [
                _write_hospital(partial / f"client_{number}.csv", name, rows, source.task)
                for number, (name, rows) in enumerate(hospitals.items(), start=1)
            ]
            manifest: dict[str, Any] = {
                "version": __version__,
                "task": source.task.name,
                "schema": source.task.schema_hash,
                "public": source.is_public,
                "source": source.describe(),
                "partition": dict(partition),
                "hospitals": entries,
            }
            if _may_share_patients(source.task, partition) and (
                repeated := count_repeated_rows(hospitals, source.task)
            ):
                manifest["repeated_rows"] = repeated
            if not _is_shipped(source.task):
                (partial / TASK_FILE_NAME).write_text(write_task(source.task))
                manifest["task_file"] = {"file": TASK_FILE_NAME, "sha256": hash_file(partial / TASK_FILE_NAME)}
            if plot:
                draw_partition(partial / PICTURE, f"{source.task.name}: {source.task.label.meaning}", entries)
                manifest["picture"] = {"file": PICTURE, "sha256": hash_file(partial / PICTURE)}
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
            new = sorted(partial.iterdir())
            for file in new:
                sync_file(file)
            old = _find_old_files(folder, source, plot=plot, force=force)  # another process may have written meanwhile
            _replace_files(folder, old, new, partial / "old")
            return manifest
    except StorageError as error:
        raise DataError(str(error)) from None
    except OSError as error:
        raise DataError(f"{folder}: cannot be written to ({error.strerror})") from None


def count_repeated_rows(hospitals: Mapping[str, pd.DataFrame], task: Task) -> list[dict[str, Any]]:
    """Pairs of hospitals that share rows, equal in all of the task's columns, and their number of different such rows.

    At most MAX_PAIRS, those with the most rows first.
    """
    names = list(task.column_names)
    hashes = [pd.util.hash_pandas_object(rows[names] + 0.0, index=False).unique() for rows in hospitals.values()]
    owners = np.repeat(np.arange(len(hashes)), list(map(len, hashes)))
    content = pd.factorize(np.concatenate(hashes))[0]
    is_shared = np.bincount(content)[content] > 1
    if not is_shared.any():
        return []
    from scipy.sparse import csr_array  # noqa: PLC0415  # slow to import, and rarely needed

    has_row = csr_array((np.ones(is_shared.sum(), dtype=np.int64), (owners[is_shared], content[is_shared])))
    shared = (has_row @ has_row.T).tocoo()
    pairs = sorted(pair for pair in zip(-shared.data, *shared.coords, strict=True) if pair[1] < pair[2])[:MAX_PAIRS]
    by_number = list(hospitals)
    return [{"hospitals": [by_number[one], by_number[other]], "rows": -int(rows)} for rows, one, other in pairs]


def _may_share_patients(task: Task, partition: Mapping[str, Any]) -> bool:
    """Whether equal rows of two hospitals may be one patient's.

    Not if the partition kept each patient at one hospital by an identifier. Hospitals of the data may have different
    identifiers for the same patient.
    """
    has_own_hospitals = partition.get("by", "hospital") == "hospital" and "column" not in partition
    return task.patient is None or has_own_hospitals


def write_example_patients(folder: Path, task: Task) -> None:
    """Write a task's example patients, or remove those of another task if it has none.

    A file of that name of another origin stays. A DataError if the folder cannot be written to.
    """
    examples, path = find_example_patients(task.name) if _is_shipped(task) else None, folder / EXAMPLE_PATIENTS
    try:
        if path.exists() and path.read_bytes() not in _all_example_patients():
            return
        if examples:
            write_bytes(path, examples.read_bytes(), PUBLIC)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None


def _is_shipped(task: Task) -> bool:
    """Whether a task comes with the package, rather than being one of one's own with the same name."""
    return TASKS.get(task.name) is task


def _all_example_patients() -> list[bytes]:
    return [path.read_bytes() for path in map(find_example_patients, TASKS) if path]


def _write_hospital(path: Path, name: str, rows: pd.DataFrame, task: Task) -> dict[str, Any]:
    """Write a hospital's CSV; returns its entry in the manifest, with the rows of each class of the label.

    The entry has the number of patients, too, if a column identifies them.
    """
    rows.to_csv(path, index=False, float_format="%.15g", lineterminator="\n")
    label = task.label
    return {
        "file": path.name,
        "name": name,
        **({"patients": rows[task.patient].nunique()} if task.patient in rows else {}),
        "rows": len(rows),
        "labels": {str(code): int((rows[label.name] == code).sum()) for code in label.classes},
        "sha256": hash_file(path),
    }


def _replace_files(folder: Path, old: list[Path], new: list[Path], backup: Path) -> None:
    """Replace old files by new ones; if that fails, the old files are restored.

    The old manifest goes first and the new one comes last, each on disk before the next step: after a power cut, a
    folder with a manifest is whole, old or new. The caller removes the old files after the new ones are on disk.
    """
    backup.mkdir()

    def is_manifest(file: Path) -> bool:
        return file.name == MANIFEST

    moves = [(file, backup / file.name) for file in sorted(old, key=is_manifest, reverse=True)]
    moves += [(file, folder / file.name) for file in sorted(new, key=is_manifest)]
    try:
        for origin, target in moves:
            if is_manifest(origin):
                _sync_folders(backup, backup.parent, folder)
            origin.replace(target)
            if is_manifest(origin):
                _sync_folders(backup, folder)
    except BaseException:  # Ctrl-C, too
        for origin, target in reversed(moves):
            if target.exists() and not origin.exists():
                target.replace(origin)
        raise


def _sync_folders(*folders: Path) -> None:
    for folder in folders:
        sync_folder(folder)


def _find_old_files(folder: Path, source: Source, *, plot: bool, force: bool) -> list[Path]:
    """Files of an earlier partition, which are to be removed; refuses files of another origin unless forced."""
    files = sorted(file for file in folder.glob("client_*.csv") if re.fullmatch(r"client_\d+\.csv", file.name))
    try:
        hashes = listed_hashes(read_manifest(folder))
    except DataError:
        hashes = {}
    others = [
        *([PICTURE] if plot or PICTURE in hashes else []),
        *([TASK_FILE_NAME] if not _is_shipped(source.task) or TASK_FILE_NAME in hashes else []),
        MANIFEST,
    ]
    files += [folder / name for name in others if (folder / name).exists()]
    for file in files:
        if file.is_dir():
            raise DataError(f"{file}: is a folder; name another --out")
        if source.path is not None and file.resolve() == source.path.resolve():
            raise DataError(f"{file}: is the source and would be overwritten; name another --out")
        is_own = bool(hashes) if file.name == MANIFEST else hashes.get(file.name) == hash_file(file)
        if not (force or is_own):
            raise DataError(
                f"{file}: was not written by create_dataset.py, or was changed since; move it away, or overwrite it "
                "with --force"
            )
    return files
