"""Hospitals as processes: every message on the wire is in a ledger."""

import json
import shutil
import subprocess
from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import numpy as np
import pytest

from federated_health.processes import free_port
from tests.support.forks import Fork, forked_call
from tests.support.power_cuts import Record, run_recorded_script
from tests.support.scripts import script_command
from tests.support.wire import Wire, assert_is_in_ledger, read_lines

pytestmark = pytest.mark.slow

ROUNDS = 3
HOSPITALS = {"cleveland": "client_1.csv", "hungary": "client_2.csv"}


def test_every_byte_that_arrives_is_in_a_ledger(hospitals_folder: Path, tmp_path: Path) -> None:
    run, address = tmp_path / "server" / "run", f"127.0.0.1:{free_port()}"
    run.parent.mkdir()

    def started(script: str, root: Path, *flags: object) -> AbstractContextManager[Fork]:
        log, store = tmp_path / f"{root.name}.txt", tmp_path / "records" / root.name
        return forked_call(log, run_recorded_script, root, store, script, list(map(str, flags)))

    with ExitStack() as stack:
        flags = ("--hospitals", 2, "--rounds", ROUNDS, "--address", address, "--out", run)
        server = stack.enter_context(started("server.py", run.parent, *flags))
        wire = stack.enter_context(Wire(address))
        hospitals = []
        for name, file in HOSPITALS.items():
            data = tmp_path / name / file
            data.parent.mkdir()
            shutil.copy(hospitals_folder / file, data)
            join = ("--data", data, "--name", name, "--server", wire.address, "--out", data.parent / "out")
            hospitals.append(stack.enter_context(started("client.py", data.parent, *join)))
        assert server.wait(600) == 0, (tmp_path / "server.txt").read_text()
        assert [hospital.wait(120) for hospital in hospitals] == [0, 0]

    for name in ("server", *HOSPITALS):
        record = Record(tmp_path / "records" / name)
        assert sum(event.kind == "print" and " saved " in event.path for event in record.events) == 1
        assert record.losses("rounds.csv", "*.log") == []
    kernels = []
    for name in HOSPITALS:
        ledger = tmp_path / name / f"egress-{name}.jsonl"
        lines = read_lines(ledger)
        assert_is_in_ledger(wire.sent_by(name), lines)
        assert sum(len(content) for content in wire.sent_by(name)) == sum(line["bytes"] for line in lines)
        kinds = Counter(line["kind"] for line in lines)
        assert kinds.pop("terms") == 1  # accepted; no message
        assert kinds.pop("join") >= 1  # an attempt a second until the server is there
        assert kinds == {
            "query.statistics": 1,
            "train": ROUNDS,
            "evaluate": 1,  # after the last round; the others are evaluated with the next one's training
            "evaluate.threshold": 1,
            "evaluate.final": 1,
            "evaluate.appraisal": 1,
        }
        rounds = {kind: [line["round"] for line in lines if line["kind"] == kind] for kind in ("train", "evaluate")}
        assert rounds == {"train": list(range(1, ROUNDS + 1)), "evaluate": [ROUNDS]}
        values = [value for line in lines if line["kind"] == "train" for value in line["records"]]
        arrays = [value for value in values if value["record"] == "arrays"]
        kernels += [array["sha256"] for array in arrays if array["name"] == "hidden/kernel"]
        assert all(array["dtype"] == "float32" and array["bytes"] == 4 * np.prod(array["shape"]) for array in arrays)
        shown = subprocess.run(
            script_command("client.py", "--show-egress", ledger),
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert str(ledger) in shown.stdout
        total = sum(line["bytes"] for line in lines)
        assert f"{len(lines) - 1} messages, {total:,} bytes, rounds 1 to 3\n" in shown.stdout
        text = ledger.read_text()
        assert (tmp_path / name / HOSPITALS[name]).name not in text
        assert json.loads((run / "metrics.json").read_text())["hospitals"][name]["roc_auc"]
    assert len(set(kernels)) == 2 * ROUNDS  # they differ between hospitals and rounds
