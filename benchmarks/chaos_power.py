"""Power cuts of `chaos.py`: a disk in a file, copied in mid-run with what has reached it by then.

The disk is an ext4 file system in an image, which Linux mounts through a loop device. What programs wrote and did not
synchronise is in the memory of the system, not in the image, so a copy of the image holds what a power cut would leave.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chaos_mounts import MountError, mounted, seen_from_outside

MEBIBYTES = 8
"""Size of a disk: a run of four hospitals needs less than a tenth of it."""

COMMIT_SECONDS = 1
"""Interval of the file system's own commits, by which removals and new names reach the disk: 5 s by default."""


@dataclass(frozen=True)
class Disk:
    """A mounted disk.

    Attributes:
        holder: process that keeps it mounted; only processes that enter its mounts see the disk.
        path: where it is mounted.
    """

    image: Path
    holder: int
    path: Path

    @property
    def seen(self) -> Path:
        """`path` as the other processes see it."""
        return seen_from_outside(self.holder, self.path)

    def copy_image(self, copy: Path) -> None:
        """Copy what has reached the disk so far, all of it at one moment."""
        earlier, content = b"", self.image.read_bytes()
        while content != earlier:  # written to meanwhile
            earlier, content = content, self.image.read_bytes()
        copy.write_bytes(content)


@contextmanager
def new_disk(folder: Path) -> Iterator[Disk]:
    """An empty disk, mounted until the block ends.

    Raises:
        MountError: loop devices cannot be mounted here.
    """
    image = folder / "disk.img"
    image.write_bytes(b"")
    with image.open("r+b") as file:
        file.truncate(MEBIBYTES * 2**20)
    if shutil.which("mkfs.ext4") is None:
        raise MountError("no mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    with mounted(folder / "disk", "-o", f"loop,commit={COMMIT_SECONDS}", str(image)) as holder:
        yield Disk(image, holder, folder / "disk")


def recover(image: Path, folder: Path, to: Path) -> None:
    """Mount a copied image, as a machine does when its power is back, and copy a folder out of it, if it is there."""
    with mounted(image.with_suffix(".mount"), "-o", "loop", str(image)) as holder:
        found = seen_from_outside(holder, image.with_suffix(".mount")) / folder
        if found.exists():
            shutil.copytree(found, to)
