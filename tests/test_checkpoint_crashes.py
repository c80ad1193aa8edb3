"""Checkpoints on real disks that are full or read-only, and of real processes that are killed."""

import logging
import multiprocessing
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from federated_health.errors import CheckpointError
from federated_health.server.checkpoint import CheckpointFolder
from tests.conftest import PROJECT
from tests.support.checkpoints import checkpoint_of, parts_of, save_and_die, save_without_end

pytestmark = pytest.mark.slow

KILLS = 30

BEGINNING = """
import subprocess, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from federated_health.errors import CheckpointError
from federated_health.server.checkpoint import CheckpointFolder
from tests.support.checkpoints import checkpoint_of, parts_of

def save_until_refused(given):
    for number in range(1, 200):
        try:
            folder.save(given(number))
        except CheckpointError as error:
            print(number, error)
            return number
    raise SystemExit("never refused")

def check(number, given):
    assert parts_of(CheckpointFolder(path).load()) == parts_of(given(number)), number
    assert ".checkpoint.partial" not in [file.name for file in path.iterdir()]

def of_growing_weights(number):
    return checkpoint_of(number, weights={"a": np.ones(number * 1000, np.float32)})

def of_growing_history(number):
    rounds = checkpoint_of(number).history
    many = {f"hospital-{i:03}": rounds[0].hospitals["cleveland"] for i in range(100)}
    return checkpoint_of(number, history=tuple(replace(record, hospitals=many) for record in rounds))

path = Path(sys.argv[1], "run", "checkpoints")
folder = CheckpointFolder(path)
"""

TINY_DISK = """
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", sys.argv[1]], check=True)
"""


def run_program(program: str, folder: Path, *prefix: str) -> str:
    """What a program prints; it must end without an error."""
    ended = subprocess.run(
        [*prefix, sys.executable, "-c", BEGINNING + program, str(folder)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


@pytest.fixture
def unshared(tmp_path: Path) -> tuple[str, ...]:
    """Beginning of a command whose mounts are its own and end with it."""
    prefix = ("unshare", "--mount", "--propagation", "private")
    try:
        trial = subprocess.run([*prefix, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=False)
        if trial.returncode == 0:
            return prefix
    except FileNotFoundError:
        pass
    pytest.skip("may not mount a file system of its own: not root, or no unshare")


@pytest.mark.parametrize("given", ["of_growing_weights", "of_growing_history"])
def test_a_full_disk_leaves_the_last_checkpoint_intact(given: str, unshared: tuple[str, ...], tmp_path: Path) -> None:
    program = f"""
number = save_until_refused({given})
check(number - 1, {given})
assert number > 3
"""
    output = run_program(TINY_DISK + program, tmp_path, *unshared).strip()
    assert re.search(r"^(\d+) .* round \1 .*\(No space left on device\)$", output)


def test_a_disk_that_was_full_is_used_again_when_it_has_room(unshared: tuple[str, ...], tmp_path: Path) -> None:
    program = """
folder.save(checkpoint_of(1))
filler = Path(sys.argv[1], "filler")
try:
    with filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
except OSError:
    pass
for _ in range(2):
    try:
        folder.save(checkpoint_of(2))
    except CheckpointError as error:
        print(error)
    check(1, checkpoint_of)
filler.unlink()
folder.save(checkpoint_of(2))
check(2, checkpoint_of)
"""
    lines = run_program(TINY_DISK + program, tmp_path, *unshared).splitlines()
    assert len(lines) == 2
    assert all(line.endswith("(No space left on device)") for line in lines)


def test_a_read_only_disk_leaves_the_last_checkpoint_intact(unshared: tuple[str, ...], tmp_path: Path) -> None:
    program = """
for number in (1, 2):
    folder.save(checkpoint_of(number))
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
for act in (lambda: folder.save(checkpoint_of(3)), folder.remove):
    try:
        act()
    except CheckpointError as error:
        print(error)
check(2, checkpoint_of)
"""
    lines = run_program(TINY_DISK + program, tmp_path, *unshared).splitlines()
    assert len(lines) == 2
    assert all(line.endswith("(Read-only file system)") for line in lines)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write wherever it wants")
def test_a_folder_without_permission_leaves_the_last_checkpoint_intact(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint_of(1))
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match=r"\(Permission denied\)$"):
        folder.save(checkpoint_of(2))
    assert parts_of(CheckpointFolder(tmp_path).load()) == parts_of(checkpoint_of(1))


@pytest.mark.parametrize("given", ["of_growing_weights", "of_growing_history"])
def test_a_limit_on_file_sizes_leaves_the_last_checkpoint_intact(given: str, tmp_path: Path) -> None:
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
number = save_until_refused({given})
check(number - 1, {given})
assert number > 3
"""
    assert run_program(program, tmp_path).endswith(" cannot be written (File too large)\n")


# Processes that are killed


def start(target: Callable[..., None], path: Path, *more: object) -> tuple[multiprocessing.Process, Connection]:
    """A process, forked from one with the imports done, and the pipe on which it reports each saved round."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.checkpoints"])
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=target, args=(path, *more, sender), daemon=True)
    child.start()
    sender.close()
    return child, receiver  # type: ignore[return-value]  # a process like any other


def last_report(receiver: Connection, earlier: int) -> int:
    """The last round that a process which has ended reported, or the earlier one."""
    try:
        while True:
            earlier = receiver.recv()
    except EOFError:
        return earlier


def check_not_older(path: Path, reported: int) -> int:
    """The round that is loaded: intact, and the last that was reported as saved, or the one after it."""
    try:
        loaded = CheckpointFolder(path).load()
    except CheckpointError:
        assert reported == 0
        return 0
    assert reported <= loaded.round_number <= reported + 1
    assert parts_of(loaded) == parts_of(checkpoint_of(loaded.round_number))
    return loaded.round_number


def test_kill_at_any_moment_leaves_every_reported_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    moments, path, reached = random.Random(42), tmp_path / "run" / "checkpoints", 0
    for _ in range(KILLS):
        child, receiver = start(save_without_end, path)
        assert receiver.poll(60)  # it has saved once more
        time.sleep(moments.uniform(0, 0.05))  # the moment is what this tests
        child.kill()
        child.join(60)
        reached = check_not_older(path, last_report(receiver, reached))
    assert reached > KILLS
    assert caplog.messages == []  # nothing is ever damaged


def test_death_before_any_step_leaves_every_reported_checkpoint_and_the_run_resumes(tmp_path: Path) -> None:
    """Steps are calls that change the disk: of a run's first three saves, and of a resumed run's first save."""
    died_in_save = set()
    for saved, steps in ((0, 30), (2, 10)):
        for step in range(steps):
            path = tmp_path / f"{saved}-{step}"
            if saved:
                CheckpointFolder(path).save(checkpoint_of(saved))
            child, receiver = start(save_and_die, path, step)
            child.join(60)
            assert child.exitcode == 9
            reported = last_report(receiver, saved)
            number = check_not_older(path, reported)
            died_in_save.add((saved, reported))
            folder = CheckpointFolder(path)
            if number:
                folder.load()
            folder.save(checkpoint_of(number + 1))
            assert parts_of(CheckpointFolder(path).load()) == parts_of(checkpoint_of(number + 1))
    assert {(0, 0), (0, 1), (0, 2), (2, 2)} <= died_in_save
