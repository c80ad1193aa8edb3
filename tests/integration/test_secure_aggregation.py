"""A federation with secure aggregation as processes over TLS, and a search through all that its server holds."""

import csv
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from federated_health.data.manifest import find_hospital
from federated_health.ml.model_files import load_model, read_description
from federated_health.processes import free_port, process
from federated_health.secure_aggregation.masks import RESOLUTION
from federated_health.security.authority import make_demo_identities
from tests.support.forks import Fork, forked, forked_call
from tests.support.memory import find_in, find_in_folder, find_in_process, runs_of
from tests.support.recording_client import run_recording_client
from tests.support.scripts import script_command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads another process's memory in /proc"),
]

NAMES = ("cleveland", "hungary", "switzerland", "va-long-beach")
ROUNDS = 2
ROWS = {"cleveland": 227, "hungary": 220, "switzerland": 92, "va-long-beach": 150}


@dataclass
class Search:
    """What was found of hospitals' updates in a server's memory while it was at work, and in its folder after it.

    Attributes:
        in_memory: round -> hospitals of whose update a run was found.
        out: folder of what server and hospitals wrote.
    """

    in_memory: dict[int, set[str]]
    in_folder: bool
    out: Path


def forms_of(update: npt.NDArray[np.float32], name: str) -> list[npt.NDArray[np.generic]]:
    """An update as it may lie in memory: as it is, in double precision, times the hospital's share, in fixed point."""
    double = update.astype(np.float64)
    shared = double * (ROWS[name] / sum(ROWS.values()))
    fixed = [np.rint(values / RESOLUTION).astype(np.int64) for values in (double, shared)]
    return [update, double, shared, shared.astype(np.float32), *fixed]


def run_and_search(data: Path, out: Path, flags: Sequence[str]) -> Search:
    """A federation whose server's memory is searched in every round, while the hospitals hold their next replies."""
    address, records = f"127.0.0.1:{free_port()}", out / "records"
    records.mkdir(parents=True)
    (policy := out / "policy.toml").touch()  # it allows every run
    own, identities = make_demo_identities(out / "tls", NAMES)
    settings = ("--tls", own, "--address", address, "--rounds", ROUNDS, "--no-appraisal", "--out", out / "run")
    in_memory: dict[int, set[str]] = {}
    all_runs: set[bytes] = set()
    with ExitStack() as stack:
        # Not a fork: it would hold the memory of all imports, which takes long to search.
        server = stack.enter_context(process(script_command("server.py", *settings, *flags), out / "server.txt"))
        hospitals = []
        for place, name in enumerate(NAMES):
            path, _ = find_hospital(data, place + 1)
            own_flags = (
                "--data",
                path,
                "--name",
                name,
                "--server",
                address,
                "--tls",
                identities[name],
                "--policy",
                policy,
            )
            words = [str(word) for word in (*own_flags, "--out", out / name)]
            hospital = forked_call(out / f"{name}.txt", run_recording_client, records, words)
            hospitals.append(stack.enter_context(hospital))
        for number in range(1, ROUNDS + 1):
            deadline = time.monotonic() + 300
            while not all((records / f"{number}-{name}.next").exists() for name in NAMES):
                assert time.monotonic() < deadline, (out / "server.txt").read_text()
                assert server.poll() is None, (out / "server.txt").read_text()
                time.sleep(0.02)
            runs = {name: runs_of(forms_of(np.load(records / f"{number}-{name}.npy"), name)) for name in NAMES}
            found = find_in_process(server.pid, set().union(*runs.values()))
            (records / f"{number}.searched").touch()
            in_memory[number] = {name for name, wanted in runs.items() if wanted & found}
            all_runs |= set().union(*runs.values())
        assert server.wait(120) == 0, (out / "server.txt").read_text()
        assert [hospital.wait(120) for hospital in hospitals] == [0] * len(NAMES)
    return Search(in_memory, bool(find_in_folder(out / "run", all_runs)), out)


@pytest.fixture(scope="module")
def secure(hospitals_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Search:
    return run_and_search(hospitals_folder, tmp_path_factory.mktemp("runs") / "secure", ["--secure-aggregation"])


@pytest.fixture(scope="module")
def plain(hospitals_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Search:
    return run_and_search(hospitals_folder, tmp_path_factory.mktemp("runs") / "plain", [])


def test_the_search_finds_sixteen_bytes_at_any_offset() -> None:
    update = np.random.default_rng(1).normal(size=50).astype(np.float32)
    for offset in range(9):
        content = bytes(100 + offset) + update[20:25].tobytes() + bytes(50)
        assert find_in(content, runs_of([update])) == runs_of([update[20:25]])
    assert find_in(update[:3].tobytes() + bytes(20) + update[3:5].tobytes(), runs_of([update])) == set()


def test_a_plain_server_holds_every_hospitals_update_in_every_round(plain: Search) -> None:
    """The positive control of the next test."""
    assert plain.in_memory == {number: set(NAMES) for number in range(1, ROUNDS + 1)}


def test_a_server_of_sums_never_holds_sixteen_bytes_of_any_hospitals_update(secure: Search) -> None:
    assert secure.in_memory == {number: set() for number in range(1, ROUNDS + 1)}
    assert not secure.in_folder


def test_server_and_hospitals_have_the_model_of_the_plain_run(secure: Search, plain: Search) -> None:
    expected = [array.numpy() for array in load_model(plain.out / "run" / "model.keras").weights]
    for name in ("run", *NAMES):
        path = secure.out / name / "model.keras"
        weights = [array.numpy() for array in load_model(path).weights]
        assert len(weights) == len(expected) > 0
        for mine, theirs in zip(weights, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6)
        assert read_description(path)["rounds"] == ROUNDS


def test_the_server_has_the_figures_of_all_together_and_each_hospital_its_own(secure: Search, plain: Search) -> None:
    metrics = json.loads((secure.out / "run" / "metrics.json").read_text())
    assert metrics["hospitals"] == {}
    assert metrics["federation"]["test_examples"] == 231
    assert metrics["faults"] == json.loads((plain.out / "run" / "metrics.json").read_text())["faults"]
    tables = []
    for search in (secure, plain):
        with (search.out / "run" / "rounds.csv").open() as file:
            tables.append({(row["round"], row["hospital"]): row for row in csv.DictReader(file)})
    assert tables[0].keys() == tables[1].keys()
    for (number, hospital), row in tables[0].items():
        same = tables[1][number, hospital]
        assert row["train_examples"] == same["train_examples"]
        if hospital == "federation":
            assert row["test_accuracy"] == same["test_accuracy"]
            assert float(row["test_loss"]) == pytest.approx(float(same["test_loss"]), abs=1e-5)
            assert float(row["train_loss"]) == pytest.approx(float(same["train_loss"]), abs=1e-5)
        else:
            assert row["test_accuracy"] == row["test_loss"] == row["train_loss"] == ""
    for name in NAMES:
        report = (secure.out / name / "report.html").read_text()
        assert f">{name}<" in report
        assert not [other for other in NAMES if other != name and f">{other}<" in report]
    assert json.loads((secure.out / "run" / "settings.json").read_text())["secure-aggregation"] is True
    assert "Traceback" not in (secure.out / "server.txt").read_text()


@pytest.mark.usefixtures("secure")
def test_the_ledgers_list_masked_vectors(hospitals_folder: Path) -> None:
    lines = (hospitals_folder / "egress-cleveland.jsonl").read_text().splitlines()
    replies = [line for line in map(json.loads, lines) if line["kind"] in ("train.masked", "query.masked")]
    assert [reply["round"] for reply in replies if reply["kind"] == "train.masked"] == list(range(1, ROUNDS + 1))
    assert {(item["record"], item["name"], item["dtype"]) for reply in replies for item in reply["records"]} == {
        ("vector", "content", "bytes"),
        ("envelope", "metadata", "protobuf"),
    }


def test_a_run_completes_all_rounds_after_a_hospital_and_the_server_are_killed(
    hospitals_folder: Path, tmp_path: Path
) -> None:
    address, run, rounds = f"127.0.0.1:{free_port()}", tmp_path / "run", 100
    own, identities = make_demo_identities(tmp_path / "tls", NAMES)
    (policy := tmp_path / "policy.toml").touch()  # it allows every run
    flags = ("--tls", own, "--address", address)
    serve = script_command(
        "server.py", *flags, "--secure-aggregation", "--rounds", rounds, "--no-appraisal", "--out", run
    )

    def join(stack: ExitStack, name: str, log: str) -> Fork:
        path, _ = find_hospital(hospitals_folder, NAMES.index(name) + 1)
        joins = ("--data", path, "--name", name, "--server", address, "--tls", identities[name], "--policy", policy)
        return stack.enter_context(
            forked(script_command("client.py", *joins, "--out", tmp_path / name), log=tmp_path / log)
        )

    def wait_until(is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 300
        while not is_so():
            assert time.monotonic() < deadline, (tmp_path / "server.txt").read_text()
            time.sleep(0.05)

    def completed_rounds() -> int:
        table = run / "rounds.csv"
        return table.read_text().count(",federation,") if table.exists() else 0

    with ExitStack() as stack:
        server = stack.enter_context(forked(serve, log=tmp_path / "server.txt"))
        hospitals = {name: join(stack, name, f"{name}.txt") for name in NAMES}
        wait_until(lambda: completed_rounds() >= 3)
        hospitals["cleveland"].kill()
        hospitals["cleveland"].wait(120)
        before = completed_rounds()
        wait_until(lambda: completed_rounds() >= before + 5)
        hospitals["cleveland"] = join(stack, "cleveland", "again.txt")
        before = completed_rounds()
        wait_until(lambda: completed_rounds() >= before + 5)
        server.kill()
        server.wait(120)
        assert 0 < completed_rounds() < rounds
        server = stack.enter_context(
            forked(script_command("server.py", *flags, "--resume", run), log=tmp_path / "server-2.txt")
        )
        assert server.wait(600) == 0, (tmp_path / "server-2.txt").read_text()
        assert [hospital.wait(120) for hospital in hospitals.values()] == [0] * len(NAMES)
    metrics = json.loads((run / "metrics.json").read_text())
    assert len(metrics["faults"]["resumed_after"]) == 1
    assert 0 < metrics["faults"]["absent"]["cleveland"] < rounds
    assert metrics["federation"]["test_examples"] == 231
    hashes = {
        read_description(folder / "model.keras")["weights_sha256"] for folder in (run, *(tmp_path / n for n in NAMES))
    }
    assert len(hashes) == 1
    with (run / "rounds.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["hospital"] == "federation"]
    assert [row["round"] for row in rows] == [str(number) for number in range(1, rounds + 1)]
    assert {row["train_examples"] for row in rows} == {"689", "462"}
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
