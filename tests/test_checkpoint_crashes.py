"""Checkpoints on disks that are full or read-only, and of processes that are killed: with real ones."""

import logging
import multiprocessing
import os
import random
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

KILLS = 50

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
    assert ".checkpoint.partial" not in [one.name for one in path.iterdir()]

def of_growing_weights(number):
    return checkpoint_of(number, weights={"a": np.ones(number * 1000, np.float32)})

def of_growing_history(number):
    rounds = checkpoint_of(number).history
    many = {f"hospital-{i:03}": rounds[0].hospitals["cleveland"] for i in range(100)}
    return checkpoint_of(number, history=tuple(replace(one, hospitals=many) for one in rounds))

path = Path(sys.argv[1], "run", "checkpoints")
folder = CheckpointFolder(path)
"""

TINY_DISK = """
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", sys.argv[1]], check=True)
"""


def run_program(program: str, folder: Path, *prefix: str) -> str:
    """What a program prints, which must end well."""
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
    """Begins a command whose mounts nobody else sees and which end with it."""
    prefix = ("unshare", "--mount", "--propagation", "private")
    try:
        tried = subprocess.run([*prefix, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=False)
        if tried.returncode == 0:
            return prefix
    except FileNotFoundError:
        pass
    pytest.skip("may not mount a file system of its own: not root, or no unshare")


@pytest.mark.parametrize("given", ["of_growing_weights", "of_growing_history"])
def test_a_disk_that_is_full(given: str, unshared: tuple[str, ...], tmp_path: Path) -> None:
    program = f"""
number = save_until_refused({given})
check(number - 1, {given})
assert number > 3
"""
    told = run_program(TINY_DISK + program, tmp_path, *unshared)
    number, words = told.strip().split(" ", 1)
    assert words == (
        f"{tmp_path}/run/checkpoints: the checkpoint of round {number} cannot be written (No space left on device)"
    )


def test_a_disk_that_was_full_is_used_again_when_there_is_room(unshared: tuple[str, ...], tmp_path: Path) -> None:
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
    told = run_program(TINY_DISK + program, tmp_path, *unshared).splitlines()
    assert len(told) == 2
    assert all(line.endswith("(No space left on device)") for line in told)


def test_a_disk_that_became_read_only(unshared: tuple[str, ...], tmp_path: Path) -> None:
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
    told = run_program(TINY_DISK + program, tmp_path, *unshared).splitlines()
    assert told == [
        f"{tmp_path}/run/checkpoints: the checkpoint of round 3 cannot be written (Read-only file system)",
        f"{tmp_path}/run/checkpoints: cannot be removed (Read-only file system)",
    ]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write wherever it wants")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint_of(1))
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match=r"\(Permission denied\)$"):
        folder.save(checkpoint_of(2))
    assert parts_of(CheckpointFolder(tmp_path).load()) == parts_of(checkpoint_of(1))


@pytest.mark.parametrize("given", ["of_growing_weights", "of_growing_history"])
def test_a_file_that_may_not_grow_further(given: str, tmp_path: Path) -> None:
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
    """A process, forked off one that has imported what it needs, and what it tells."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.checkpoints"])
    told, tells = context.Pipe(duplex=False)
    child = context.Process(target=target, args=(path, *more, tells), daemon=True)
    child.start()
    tells.close()
    return child, told  # type: ignore[return-value]  # a process like any other


def last_of(told: Connection, before: int) -> int:
    """The last round that a process which is gone told, or that of those before it."""
    try:
        while True:
            before = told.recv()
    except EOFError:
        return before


def check_not_older(path: Path, said: int) -> int:
    """The round of what loads: whole, as it was given, and the last that was said to be saved, or the one after."""
    try:
        got = CheckpointFolder(path).load()
    except CheckpointError:
        assert said == 0
        return 0
    assert said <= got.round_number <= said + 1
    assert parts_of(got) == parts_of(checkpoint_of(got.round_number))
    return got.round_number


def test_kill_at_any_moment_leaves_all_that_was_said_to_be_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    moments, path, reached = random.Random(42), tmp_path / "run" / "checkpoints", 0
    for _ in range(KILLS):
        child, told = start(save_without_end, path)
        assert told.poll(60)  # it has saved once more
        time.sleep(moments.uniform(0, 0.05))  # the moment is what this tests
        child.kill()
        child.join(60)
        reached = check_not_older(path, last_of(told, reached))
    assert reached > KILLS
    assert caplog.messages == []  # nothing is ever torn


def test_death_before_any_step_leaves_all_that_was_said_to_be_saved(tmp_path: Path) -> None:
    """Steps are calls that change the disk: of the first three saves of a run, and of the first of one that goes on."""
    died_in_save = set()
    for begun, steps in ((0, 30), (2, 10)):
        for step in range(steps):
            path = tmp_path / f"{begun}-{step}"
            for number in range(begun and begun - 1, begun):
                CheckpointFolder(path).save(checkpoint_of(number + 1))
            child, told = start(save_and_die, path, step)
            child.join(60)
            assert child.exitcode == 9
            said = last_of(told, begun)
            check_not_older(path, said)
            died_in_save.add((begun, said))
            goes_on, told = start(save_without_end, path)
            assert told.poll(60)
            goes_on.kill()
            goes_on.join(60)
            check_not_older(path, last_of(told, said))
    assert {(0, 0), (0, 1), (0, 2), (2, 2)} <= died_in_save
