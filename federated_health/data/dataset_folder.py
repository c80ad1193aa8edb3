"""The folder of hospitals' CSVs, with its manifest and a picture.

It is written whole or not at all, and what is not ours in it is not overwritten.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from federated_health import __version__
from federated_health.data.pictures import draw_partition
from federated_health.data.sources.read import Source
from federated_health.errors import DataError
from federated_health.files import hash_file

MANIFEST, PICTURE = "manifest.json", "partition.png"


def write_hospitals(
    folder: Path,
    source: Source,
    hospitals: Mapping[str, pd.DataFrame],
    *,
    partition: Mapping[str, Any],
    plot: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Write client_1.csv, client_2.csv, ... and manifest.json; files of an earlier split do not survive.

    Args:
        hospitals: hospital name -> its rows, in the order of their numbers.
        partition: how the rows were divided, for the manifest.
        plot: draw partition.png, too.
        force: overwrite files that this function did not write, or that were changed since.

    Returns:
        The manifest.

    Raises:
        DataError: a file is in the way, or the folder cannot be written to.
    """
    label = source.task.label.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_earlier(folder, source, plot=plot, force=force)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    except OSError as error:
        raise DataError(f"{folder}: cannot be written to ({error.strerror})") from None
    try:
        listed = []
        for number, (name, rows) in enumerate(hospitals.items(), start=1):
            file = partial / f"client_{number}.csv"
            rows.to_csv(file, index=False, float_format="%.15g", lineterminator="\n")
            counts = rows[label].value_counts()
            listed.append(
                {
                    "file": file.name,
                    "name": name,
                    "rows": len(rows),
                    "labels": {value: int(counts.get(int(value), 0)) for value in ("0", "1")},
                    "sha256": hash_file(file),
                }
            )
        manifest: dict[str, Any] = {
            "version": __version__,
            "task": source.task.name,
            "schema": source.task.schema_hash,
            "source": source.describe(),
            "partition": dict(partition),
            "hospitals": listed,
        }
        if plot:
            draw_partition(partial / PICTURE, f"{source.task.name}: {source.task.label.meaning}", listed)
            manifest["picture"] = {"file": PICTURE, "sha256": hash_file(partial / PICTURE)}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        earlier = _check_earlier(folder, source, plot=plot, force=force)  # another run may have been here meanwhile
        _exchange(folder, earlier, sorted(partial.iterdir()), partial)
        return manifest
    except OSError as error:
        raise DataError(f"{folder}: cannot be written to ({error.strerror})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def find_hospital(folder: Path, number: int) -> tuple[Path, str]:
    """The CSV and the name of a hospital by its number, from 1, in a folder that `write_hospitals` wrote.

    Raises:
        DataError: there is no such folder or hospital.
    """
    hospitals = read_manifest(folder)["hospitals"]
    if not 1 <= number <= len(hospitals):
        raise DataError(f"{folder / MANIFEST}: expected a hospital from 1 to {len(hospitals)}, got {number}")
    entry = hospitals[number - 1]
    return folder / entry["file"], entry["name"]


def _exchange(folder: Path, old: list[Path], new: list[Path], partial: Path) -> None:
    """Put new files in the place of old ones; where that fails, the old ones are there again."""
    kept = partial / "old"
    kept.mkdir()
    placed: list[Path] = []
    try:
        for file in old:
            file.replace(kept / file.name)
        for file in new:
            placed.append(folder / file.name)  # before it is there, in case Ctrl-C comes between the two
            file.replace(folder / file.name)
    except BaseException:  # Ctrl-C, too
        for file in placed:
            file.unlink(missing_ok=True)
        for file in kept.iterdir():
            file.replace(folder / file.name)
        raise


def _check_earlier(folder: Path, source: Source, *, plot: bool, force: bool) -> list[Path]:
    """Files of an earlier split, to be removed; refuses where one is not ours, unless forced."""
    present = sorted(file for file in folder.glob("client_*.csv") if re.fullmatch(r"client_\d+\.csv", file.name))
    try:
        ours = _written(read_manifest(folder))
    except DataError:
        ours = {}
    if (plot or PICTURE in ours) and (folder / PICTURE).exists():
        present.append(folder / PICTURE)
    if (folder / MANIFEST).exists():
        present.append(folder / MANIFEST)
    for file in present:
        if file.is_dir() or (source.path is not None and file.resolve() == source.path.resolve()):
            what = "is a folder" if file.is_dir() else "is the source itself"
            raise DataError(f"{file}: {what}, and is in the way; name another --out")
    if force:
        return present
    for file in present:
        if file.name == MANIFEST and ours:
            continue
        if ours.get(file.name) != hash_file(file):
            raise DataError(
                f"{file}: was not written by create_dataset.py, or was changed since; move it away, or overwrite it "
                "with --force"
            )
    return present


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest that `write_hospitals` wrote.

    Raises:
        DataError: it is not there, or is something else.
    """
    path = (folder / MANIFEST).absolute()
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        manifest["task"], manifest["source"]["name"], [entry["name"] for entry in manifest["hospitals"]]
        _written(manifest)
        return manifest
    except FileNotFoundError:
        raise DataError(f"{path}: is not there; run: python create_dataset.py") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"{path}: is not a manifest that create_dataset.py wrote") from None


def _written(manifest: Mapping[str, Any]) -> dict[str, str]:
    """File name -> SHA-256 of what is listed in a manifest."""
    listed = [*manifest["hospitals"], *([manifest["picture"]] if "picture" in manifest else [])]
    return {entry["file"]: entry["sha256"] for entry in listed}
