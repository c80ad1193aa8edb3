"""A server whose disk is full, read-only or loses its power, on a small file system of its own.

Hospitals wait, and the run resumes; what was saved is there.
"""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
from chaos_processes import run_script

from federated_health.errors import BudgetError, PrivacyError, RunError
from federated_health.ml.model_files import read_description
from federated_health.ml.networks import weights_hash
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.privacy.budget import PrivacyBudget
from federated_health.processes import free_port
from federated_health.server.checkpoint import CheckpointFolder
from federated_health.server.plain_run import PlainRun
from federated_health.server.resuming import read_checkpoint
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.stream_client import join_run
from tests.support.forks import Fork, forked_call
from tests.support.light_hospitals import app_of, three_with_scores
from tests.support.mounts import run_script_in_mounts
from tests.support.wire import UNWRITTEN

pytestmark = pytest.mark.slow

ROUNDS = 120
FLAGS = ("--hospitals", 3, "--min-hospitals", 3, "--rounds", ROUNDS, "--no-appraisal", "--wait", 60)


class Disk:
    """A small file system that only processes of one mount namespace see.

    Args:
        holder: a process of that namespace; it keeps it alive.
    """

    def __init__(self, holder: int, path: Path) -> None:
        self.holder = holder
        self.path = path
        self.seen = Path(f"/proc/{holder}/root{path}")
        """The same folder, as this process sees it."""

    def run(self, *command: str) -> int:
        enter = ("nsenter", "-t", str(self.holder), "-m")
        return subprocess.run([*enter, *command], check=False, capture_output=True).returncode

    def fill(self) -> None:
        with suppress(OSError), (self.seen / "filler").open("ab", buffering=0) as file:
            for size in (4096, 1):
                with suppress(OSError):
                    while file.write(bytes(size)):
                        pass

    def empty(self) -> None:
        (self.seen / "filler").unlink()

    def protect(self) -> None:
        wait_until(lambda: self.run("mount", "-o", "remount,ro", str(self.path)) == 0)  # not while a file is written

    def release(self) -> None:
        assert self.run("mount", "-o", "remount,rw", str(self.path)) == 0


def wait_until(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", "mount -t tmpfs -o size=2m tmpfs") as disk:
        yield disk


@contextmanager
def mounted(path: Path, mount: str) -> Iterator[Disk]:
    """A file system of its own at a path, which a command mounts that lacks the path."""
    path.mkdir()
    mount = f'{mount} "{path}" && echo mounted && exec cat'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount]
    try:
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        pytest.skip("no unshare")
    with holder:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip("may not mount such a file system of its own: not root, or no loop devices")
        yield Disk(holder.pid, path)


class Hospital:
    """A hospital without TensorFlow in a thread, and how its side of the stream ended."""

    def __init__(self, name: str, address: str, settings: Settings) -> None:
        self.has_ended = False
        self.error: BaseException | None = None
        self.announcements: list[str] = []
        self.thread = threading.Thread(target=self._join, args=(name, address, settings), daemon=True)
        self.thread.start()

    def _join(self, name: str, address: str, settings: Settings) -> None:
        try:
            join_run(
                app_of({hospital.name: hospital for hospital in three_with_scores()}),
                hospital_context(name, {}),
                name=name,
                address=address,
                agreement=settings.task_declaration.agreement,
                wait=60.0,
                announce=self.announcements.append,
                prepare=lambda: None,
                ledger=UNWRITTEN,
                consent=lambda _text, _server: None,  # accepts any terms
            )
            self.has_ended = True
        except BaseException as error:
            self.error = error


@pytest.mark.parametrize(
    ("spoil", "mend", "reason"),
    [
        (Disk.fill, Disk.empty, "No space left on device"),
        (Disk.protect, Disk.release, "Read-only file system"),
    ],
)
def test_a_server_whose_disk_fails_ends_with_one_error_and_resumes_with_the_same_hospitals(
    spoil: Callable[[Disk], None], mend: Callable[[Disk], None], reason: str, disk: Disk, tmp_path: Path
) -> None:
    config = {"hospitals": 3, "min-hospitals": 3, "rounds": ROUNDS, "appraisal": False}
    settings = Settings.from_config(config)
    address, out = f"127.0.0.1:{free_port()}", disk.seen / "run"
    logs = [tmp_path / f"server-{number}.txt" for number in range(3)]
    hospitals = [Hospital(name, address, settings) for name in "abc"]

    def serve(log: Path, *flags: object) -> AbstractContextManager[Fork]:
        return forked_call(
            log, run_script_in_mounts, disk.holder, "server.py", ["--address", address, *map(str, flags)]
        )

    def completed_rounds() -> int:
        with suppress(OSError, ValueError):
            return int((out / "rounds.csv").read_text().splitlines()[-1].split(",")[0])
        return 0

    with serve(logs[0], "--out", disk.path / "run", *FLAGS) as server:
        wait_until(lambda: completed_rounds() >= 3)
        spoil(disk)
        assert server.wait(60) == 1
    assert_one_error(logs[0].read_text(), f"({reason})")
    last_round = CheckpointFolder(out / "checkpoints").load().round_number
    assert 3 <= last_round < ROUNDS
    assert not list(out.glob(".*"))

    with serve(logs[1], "--resume", disk.path / "run") as server:  # too early
        assert server.wait(60) == 1
    assert_one_error(logs[1].read_text(), f"({reason})")
    # What it put in order first may have made room for a round.
    assert last_round <= (last_round := CheckpointFolder(out / "checkpoints").load().round_number) < ROUNDS

    mend(disk)
    with serve(logs[2], "--resume", disk.path / "run") as server:
        assert server.wait(180) == 0, logs[2].read_text()
    wait_until(lambda: all(hospital.has_ended for hospital in hospitals))
    assert all(any("again" in words for words in hospital.announcements) for hospital in hospitals)
    assert f"resuming after round {last_round} with a, b, c" in logs[2].read_text()
    rows = (out / "rounds.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == [number for number in range(1, ROUNDS + 1) for _ in range(4)]
    assert read_description(out / "model.keras")["weights_sha256"] == weights_hash(undisturbed(settings).weights)


def assert_one_error(output: str, reason: str) -> None:
    assert "Traceback" not in output
    assert "Exception" not in output
    assert [line for line in output.splitlines() if line.startswith("error: ")] == output.splitlines()[-1:]
    assert output.rstrip().endswith(reason)


def undisturbed(settings: Settings) -> PlainRun:
    hospitals = {hospital.name: hospital for hospital in three_with_scores()}
    grid = InProcessTransport(app_of(hospitals), {name: hospital_context(name, {}) for name in hospitals})
    federated_run = PlainRun(grid, settings)
    federated_run.run()
    return federated_run


def test_a_power_cut_takes_neither_completed_rounds_nor_saved_results(tmp_path: Path) -> None:
    """The disk is a file, which is copied as a power cut would leave it: without what only the memory holds."""
    image, copies = tmp_path / "image", [tmp_path / "during", tmp_path / "saved"]
    with image.open("wb") as file:
        file.truncate(16 * 2**20)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mkfs.ext4")
    config = {"hospitals": 3, "min-hospitals": 3, "rounds": ROUNDS, "appraisal": False}
    settings, log = Settings.from_config(config), tmp_path / "server.txt"
    address = f"127.0.0.1:{free_port()}"
    reached = 0
    with mounted(tmp_path / "disk", f'mount -o loop "{image}"') as disk:
        hospitals = [Hospital(name, address, settings) for name in "abc"]
        flags = ["--address", address, "--out", str(disk.path / "run"), *map(str, FLAGS)]
        with forked_call(log, run_script_in_mounts, disk.holder, "server.py", flags) as server:
            wait_until(lambda: "round 12/" in log.read_text())
            reached = 12
            shutil.copyfile(image, copies[0])
            wait_until(lambda: " saved " in log.read_text())
            shutil.copyfile(image, copies[1])
            assert server.wait(60) == 0
        wait_until(lambda: all(hospital.has_ended for hospital in hospitals))
    with mounted(tmp_path / "after", f'mount -o loop "{copies[0]}"') as disk:
        assert CheckpointFolder(disk.seen / "run" / "checkpoints").load().round_number >= reached
        shutil.copytree(disk.seen / "run", tmp_path / "resumed")
    hospitals = [Hospital(name, address, settings) for name in "abc"]
    with forked_call(
        log, run_script, "server.py", ["--address", address, "--resume", str(tmp_path / "resumed")]
    ) as server:
        assert server.wait(180) == 0, log.read_text()
    with mounted(tmp_path / "later", f'mount -o loop "{copies[1]}"') as disk:
        shutil.copytree(disk.seen / "run", tmp_path / "saved-run")
    expected = weights_hash(undisturbed(settings).weights)
    for folder in (tmp_path / "resumed", tmp_path / "saved-run"):
        assert read_description(folder / "model.keras")["weights_sha256"] == expected
        assert len((folder / "rounds.csv").read_text().splitlines()) == 1 + 4 * ROUNDS
        assert json.loads((folder / "metrics.json").read_text())["rounds"] == ROUNDS
        assert json.loads((folder / "settings.json").read_text())["rounds"] == ROUNDS
        assert (folder / "report.html").read_text().rstrip().endswith("</html>")
        with pytest.raises(RunError, match="the run is over"):
            read_checkpoint(folder)


def spend_rounds(budget: PrivacyBudget, plan: PrivacyPlan, times: int) -> None:
    for _ in range(times):
        budget.spend(plan)


def test_a_privacy_budget_on_a_failing_disk_spends_nothing_and_continues_afterwards(disk: Disk) -> None:
    plan = PrivacyPlan(
        epsilon=1.0, delta=1e-5, clip=1.0, sampling_rate=0.5, steps=1, learning_rate=0.1, rounds=40, run="0" * 16
    )
    budget, reasons = PrivacyBudget.beside(disk.seen / "a.csv", "a"), set()
    spend_rounds(budget, plan, 3)
    for spoil, mend in ((Disk.fill, Disk.empty), (Disk.protect, Disk.release)):
        spoil(disk)
        before = budget.summary().rounds
        with pytest.raises(PrivacyError) as error:
            spend_rounds(budget, plan, 30)  # the last page of the file has room for some
        reasons.add(str(error.value).split("(")[1].split(")")[0])
        mend(disk)
        assert PrivacyBudget.beside(disk.seen / "a.csv", "a").summary().rounds == budget.summary().rounds >= before
    assert reasons == {"No space left on device", "Read-only file system"}
    spend_rounds(budget, plan, 40 - budget.summary().rounds)
    with pytest.raises(BudgetError):
        budget.spend(plan)
    assert budget.path is not None
    assert len(budget.path.read_bytes().splitlines()) == 40
