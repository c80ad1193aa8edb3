"""Power cuts of `chaos.py`: a disk of which a copy, taken in mid-run, holds only what has reached it by then."""

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from chaos_conditions import ORDINARY, Conditions
from chaos_mounts import MountError, mounted, seen_from_outside
from chaos_processes import run_script

MEBIBYTES = 8
"""Size of a disk; a run of four hospitals needs less than a tenth of it."""

COMMIT_SECONDS = 1
"""Interval of the file system's own commits, by which removals and new names reach the disk: 5 s by default."""


class Disk(Protocol):
    """A folder whose state after a power cut can be made.

    Attributes:
        path: the folder, as processes under `conditions` see it.
        seen: the folder, as other processes see it.
        conditions: of a process that uses the disk.
        run_script: runs a script that uses the disk.
    """

    @property
    def path(self) -> Path: ...

    @property
    def seen(self) -> Path: ...

    @property
    def conditions(self) -> Conditions: ...

    @property
    def run_script(self) -> Callable[[str, Sequence[str]], None]: ...

    def recover(self, name: str, to: Path) -> None:
        """Make a folder of the disk anew as a power cut at this moment leaves it; nothing if it is not there then."""


@dataclass(frozen=True)
class ImageDisk:
    """An ext4 file system in a file, which Linux mounts through a loop device.

    What programs wrote and did not synchronise is in the memory of the system, not in the file.

    Attributes:
        holder: process that keeps it mounted; only processes that enter its mounts see the disk.
    """

    image: Path
    holder: int
    path: Path

    @property
    def seen(self) -> Path:
        return seen_from_outside(self.holder, self.path)

    @property
    def conditions(self) -> Conditions:
        return Conditions(mounts=self.holder)

    @property
    def run_script(self) -> Callable[[str, Sequence[str]], None]:
        return run_script

    def recover(self, name: str, to: Path) -> None:
        earlier, content = b"", self.image.read_bytes()
        while content != earlier:  # it was written to meanwhile
            earlier, content = content, self.image.read_bytes()
        copy, folder = to.with_suffix(".img"), to.with_suffix(".mount")
        copy.write_bytes(content)
        with mounted(folder, "-o", "loop", str(copy)) as holder:  # which repairs it, as when the power is back
            found = seen_from_outside(holder, folder) / name
            if found.exists():
                shutil.copytree(found, to)
        copy.unlink()


@dataclass(frozen=True)
class RecordedDisk:
    """A folder with a record of what processes do to its files, where no file system may be mounted."""

    path: Path
    record: Path

    @property
    def seen(self) -> Path:
        return self.path

    @property
    def conditions(self) -> Conditions:
        return ORDINARY

    @property
    def run_script(self) -> Callable[[str, Sequence[str]], None]:
        from tests.support.power_cuts import run_recorded_script  # where no image can be mounted

        return partial(run_recorded_script, self.path, self.record)

    def recover(self, name: str, to: Path) -> None:
        from tests.support.power_cuts import Record  # where no image can be mounted

        record, after = Record(self.record), to.with_suffix(".after")
        record.after_power_cut(len(record.events) - 1, after, keep_names=True)
        if (after / name).exists():
            shutil.copytree(after / name, to)


@contextmanager
def open_disk(folder: Path) -> Iterator[Disk]:
    """An empty disk, until the block ends: an image where one can be mounted, or a recorded folder."""
    path, image = folder / "disk", folder / "disk.img"
    try:
        with _mounted_image(image, path) as disk:
            yield disk
    except MountError:
        path.mkdir(exist_ok=True)
        yield RecordedDisk(path, folder / "record")


@contextmanager
def _mounted_image(image: Path, path: Path) -> Iterator[ImageDisk]:
    """Make and mount an image.

    Raises:
        MountError: it cannot be made, or loop devices cannot be mounted.
    """
    if shutil.which("mkfs.ext4") is None:
        raise MountError("no mkfs.ext4")
    image.touch()
    with image.open("r+b") as file:
        file.truncate(MEBIBYTES * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    with mounted(path, "-o", f"loop,commit={COMMIT_SECONDS}", str(image)) as holder:
        yield ImageDisk(image, holder, path)
