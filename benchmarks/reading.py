"""Time and memory of reading a hospital's CSV of one million generated rows with 15 columns; prints JSON.

Each step runs as a process of its own, in turns. This process stays small, as Linux counts its memory for them, too.

check    client.py --data FILE --check
load     read, check and split the rows, with the modules of a client loaded
encode   load, and encode all rows for the network with Keras

Seconds are medians from start to end of the process, imports included; memory is the largest resident memory of a turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measuring import judged
from scripts import PROJECT, script_command

sys.path.insert(0, str(PROJECT))  # `common`, which does so too, imports TensorFlow

TASK = "readmission"
MAX_SECONDS, MAX_MIB = 10.0, 1536.0


def write_rows(path: Path, rows: int) -> None:
    """Write generated patients of the readmission task."""
    from federated_health.data.sources.generated_patients import generate_patients
    from federated_health.names import HOSPITAL_COLUMN

    table = generate_patients(rows, seed=42).table.drop(columns=HOSPITAL_COLUMN)
    table.to_csv(path, index=False, float_format="%.15g")


def load(path: Path, *, encoded: bool) -> None:
    """What the processes of the steps load and encode do."""
    import federated_health.cli.client  # noqa: F401  # its modules
    from federated_health.data.hospital import load_hospital
    from federated_health.data.task_files import get_task
    from federated_health.ml.networks import Network
    from federated_health.ml.normalisation import column_sums, normalisation_from

    task = get_task(TASK)
    hospital = load_hospital(path, task, "a-hospital", 42)
    if encoded:
        from federated_health.hospital.local_model import LocalModel

        sums = column_sums(hospital.train.values[:, list(task.measurement_positions)])
        LocalModel(hospital, Network(), normalisation_from(sums))


def measure(command: Sequence[str]) -> tuple[float, float]:
    """Seconds and peak resident memory, in MiB, of a process."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if process_code := os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(process_code, command)
    process.returncode = 0  # wait4 has reaped it
    return time.perf_counter() - started, usage.ru_maxrss / 1024  # in KiB on Linux


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--step", choices=("write", "load", "encode"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.step == "write":
        write_rows(flags.file, flags.rows)
        return
    if flags.step:
        load(flags.file, encoded=flags.step == "encode")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patients.csv"
        own = [sys.executable, __file__, "--file", str(path), "--rows", str(flags.rows), "--step"]
        subprocess.run([*own, "write"], check=True)
        size = path.stat().st_size
        steps = {"check": script_command("client.py", "--data", path, "--task", TASK, "--check")}
        steps |= {step: [*own, step] for step in ("load", "encode")}
        turns = [{step: measure(command) for step, command in steps.items()} for _ in range(flags.turns)]
    figures = {
        step: {
            "seconds": round(statistics.median(turn[step][0] for turn in turns), 1),
            "peak_mib": round(max(turn[step][1] for turn in turns)),
        }
        for step in steps
    }
    result = {
        "targets": {
            "check of a million rows, s": judged(figures["check"]["seconds"], at_most=MAX_SECONDS),
            "check of a million rows, MiB": judged(figures["check"]["peak_mib"], at_most=MAX_MIB),
        },
        "rows": flags.rows,
        "file_mib": round(size / 2**20),
        "steps": figures,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
