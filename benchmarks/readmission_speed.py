"""Time and memory of a run with 99,340 real stays, from `create_dataset.py` to the report; prints JSON.

As a user runs it: two hospitals (--by iid) and the server, each in a process of its own, with the task's settings. The
phases are those between the server's lines. Memory is the largest resident memory of a process.

In the same run, one hospital's epoch is trained by this project and by Keras's `fit`, in turns, with the same features,
batch size, optimizer and loss. The ratio depends less on the machine than the seconds do.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from measuring import judged, significant
from reading import measure
from scripts import PROJECT, script_command

sys.path.insert(0, str(PROJECT))  # `common`, which does so too, imports TensorFlow

TASK = "readmission-30d"
HOSPITALS = 2
MAX_SECONDS = 90.0

PHASES = {
    "start, read the rows, register": "training with",
    "rounds, the first one with compilation": "rounds in",
    "threshold, final evaluation, benefit of joining": "saving the results",
    "save the model and the report": "saved ",
}
"""What the server does until it prints a line with these words."""


def measure_run(data: Path, out: Path, flags: list[str]) -> dict[str, Any]:
    """Seconds by phase, seconds per round after the first, and peak MiB and processor seconds by process."""
    from federated_health.processes import free_port

    address = f"127.0.0.1:{free_port()}"
    server = script_command("server.py", "--task", TASK, "--hospitals", HOSPITALS, "--address", address, "--out", out)
    client = script_command("client.py", "--server", address, "--hospital")
    commands = {"server": [*server, *flags]}
    commands |= {f"hospital-{number}": [*client, str(number)] for number in range(1, HOSPITALS + 1)}
    with ExitStack() as stack:
        running: dict[str, subprocess.Popen[str]] = {}
        started = time.perf_counter()
        for name, command in commands.items():
            output = subprocess.PIPE if name == "server" else subprocess.DEVNULL
            running[name] = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, text=True, cwd=data.parent
            )
            stack.callback(running[name].kill)
        seconds, rate = read_phases(running["server"], started)
        peaks, cpu = {}, {}
        for name, process in running.items():
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, name)
            peaks[name] = round(usage.ru_maxrss / 1024)  # in KiB on Linux
            cpu[name] = round(usage.ru_utime + usage.ru_stime, 1)
        return {"phases_s": seconds, "round_s": significant(1 / rate), "peak_mib": peaks, "cpu_s": cpu}


def read_phases(server: "subprocess.Popen[str]", started: float) -> tuple[dict[str, float], float]:
    """Seconds of each phase, and rounds per second after the first, from the lines of the server."""
    assert server.stdout is not None, "it is a pipe"
    ends = iter(PHASES.items())
    phase, words = next(ends)
    seconds, rate, lines = dict[str, float](), 0.0, []
    for line in server.stdout:
        lines.append(line)
        if found := re.search(r"([\d.]+) rounds per second after the first", line):
            rate = float(found.group(1))
        if words in line:
            now = time.perf_counter()
            seconds[phase], started = round(now - started, 2), now
            phase, words = next(ends, ("", "\n\n"))  # no line holds these
    if len(seconds) < len(PHASES) or not rate:
        raise RuntimeError("".join(lines))
    return seconds, rate


def compare_epochs(data: Path, turns: int) -> dict[str, Any]:
    """Seconds of one epoch of a hospital, by this project and by Keras's `fit`, both compiled before."""
    from federated_health.data.hospital import load_hospital
    from federated_health.data.task_files import get_task
    from federated_health.hospital.local_model import LocalModel
    from federated_health.ml.backend import load_keras
    from federated_health.ml.keras_models import build_head
    from federated_health.ml.networks import initial_weights
    from federated_health.ml.normalisation import column_sums, normalisation_from
    from federated_health.settings import Settings

    task, keras = get_task(TASK), load_keras()
    settings = Settings.from_config({"task": TASK, "local-epochs": 1})
    hospital = load_hospital(data / "client_1.csv", task, "hospital-1", 42)
    sums = column_sums(hospital.train.values[:, list(task.measurement_positions)])
    network = settings.network_declaration
    local, weights = LocalModel(hospital, network, normalisation_from(sums)), initial_weights(task, network, 42)
    head = build_head(task, network)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    head.compile(optimizer=keras.optimizers.SGD(settings.learning_rate), loss=loss)
    batch_size = settings.batch_size or local.train_rows

    def ours() -> None:
        local.train(weights, settings, 1)

    def fit() -> None:
        labels = hospital.train.labels[:, None]
        head.fit(local.train_features, labels, batch_size=batch_size, epochs=1, verbose=0)

    times: dict[str, list[float]] = {"ours": [], "fit": []}
    for _ in range(turns + 1):
        for name, train in (("ours", ours), ("fit", fit)):
            started = time.perf_counter()
            train()
            times[name].append(time.perf_counter() - started)
    middle = {name: statistics.median(of[1:]) for name, of in times.items()}  # the first turn compiles
    ratios = [slow / fast for slow, fast in zip(times["fit"][1:], times["ours"][1:], strict=True)]
    return {
        "training_rows": local.train_rows,
        "steps": -(-local.train_rows // batch_size),
        "batch_size": batch_size,
        "ours_s": significant(middle["ours"]),
        "fit_s": significant(middle["fit"]),
        "ours_rows_per_s": significant(local.train_rows / middle["ours"], 2),
        "fit_over_ours": significant(statistics.median(ratios)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="epochs of each kind (default: 5)")
    parser.add_argument("--rounds", type=int, help="default: those of the task")
    parser.add_argument("--epochs-of", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.epochs_of:
        print(json.dumps(compare_epochs(flags.epochs_of, flags.turns)))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        create = script_command("create_dataset.py", "--source", "diabetes", "--by", "iid", "--hospitals", HOSPITALS)
        create_s, create_mib = measure([*create, "--out", str(data)])
        check_s, check_mib = measure(script_command("client.py", "--data", data / "client_1.csv", "--check"))
        run = measure_run(data, Path(folder) / "run", ["--rounds", str(flags.rounds)] if flags.rounds else [])
        own = [sys.executable, __file__, "--turns", str(flags.turns), "--epochs-of", str(data)]
        epochs = json.loads(subprocess.run(own, check=True, stdout=subprocess.PIPE).stdout)
    total = create_s + sum(run["phases_s"].values())
    result = {
        "targets": {"99,340 stays, from create_dataset.py to the report, s": judged(total, at_most=MAX_SECONDS)},
        "phases_s": {"create_dataset.py": round(create_s, 2), **run["phases_s"]},
        "client.py --check, s": round(check_s, 2),
        "round_s": run["round_s"],
        "cpu_s": run["cpu_s"],
        "peak_mib": {**run["peak_mib"], "create_dataset.py": round(create_mib), "client.py --check": round(check_mib)},
        "epoch": epochs,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
