"""Time from a cold start to a finished model: the demo compared with imports of TensorFlow; JSON and tables.

The demo runs a server and four hospitals as processes. In alternating turns, as many processes only import TensorFlow
and end at once, without Python's clean-up. Memory is the peak of a process (VmHWM), sampled every few milliseconds: of
the hospitals, of the server until it saves the model, and of the server until it ends. The same turns run the example
of docs/python-api.md, a script of ten lines in one process.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import common  # noqa: F401  # finds the project
from measuring import descendants, judged, memory_of, show, significant
from scripts import PROJECT

PROCESSES = 5
LOOK_SECONDS = 0.02
SAVING = "saving what there is"
"""Text that the server prints before it saves."""

MAX_TIME, MAX_HOSPITAL_MEMORY, MAX_SERVER_MEMORY = 1.5, 1.3, 250.0
"""Targets: multiple of the imports' time, multiple of a bare import's memory, MiB."""

MAX_SCRIPT_SECONDS = 20.0
"""Target for the script that calls `federate` on three DataFrames."""

IMPORT = [sys.executable, "-c", "import os, tensorflow; os._exit(0)"]


def measure_import() -> float:
    """Seconds of as many concurrent imports as the demo has processes."""
    began = time.perf_counter()
    with ExitStack() as stack:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        running = [
            stack.enter_context(subprocess.Popen(IMPORT, env=environment, stderr=subprocess.DEVNULL))
            for _ in range(PROCESSES)
        ]
        for importing in running:
            importing.wait()
    if any(importing.returncode for importing in running):
        raise RuntimeError("TensorFlow could not be imported")
    return time.perf_counter() - began


def measure_script(folder: Path) -> float:
    """Seconds of the example of docs/python-api.md, from the start of its process to the end."""
    (example,) = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "python-api.md").read_text(), re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    create = [sys.executable, "-m", "federated_health", "create-dataset"]
    subprocess.run(create, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", example], cwd=folder, env=environment, capture_output=True, check=True)
    return time.perf_counter() - began


def bare_memory() -> float:
    """Peak memory in MiB of a process that only imports TensorFlow."""
    script = "import re, tensorflow; print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()).group(1))"
    finished = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    return int(finished.stdout) / 1024


def role_of(pid: int) -> str:
    """`server`, or a hospital's name, by the command of a demo's process; empty for other processes."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return ""
    scripts = {Path(word).name for word in words[:2]}
    if "server.py" in scripts:
        return "server"
    return words[words.index("--name") + 1] if "client.py" in scripts else ""


def measure_demo(out: Path) -> tuple[float, dict[str, float]]:
    """Seconds from start to end, and peak MiB by role, including `server until it saves`."""
    peaks: dict[str, float] = {}
    lines: list[str] = []

    def read(running: "subprocess.Popen[bytes]") -> None:
        assert running.stdout is not None, "it is a pipe"
        for line in running.stdout:
            lines.append(line.decode())
            if SAVING in lines[-1]:
                peaks["server until it saves"] = peaks["server"]

    began = time.perf_counter()
    command = [sys.executable, "-m", "federated_health", "demo", "--out", str(out)]
    running = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    reader = threading.Thread(target=read, args=(running,))
    reader.start()
    roles: dict[int, str] = {}
    try:
        while running.poll() is None:
            for pid in descendants(running.pid):
                role = roles.get(pid) or roles.setdefault(pid, role_of(pid))
                peak = memory_of(pid).get("peak_mib", 0.0)
                if role:
                    peaks[role] = max(peaks.get(role, 0.0), peak)
                else:
                    del roles[pid]  # the process may still become another program
            time.sleep(LOOK_SECONDS)
    finally:
        if running.poll() is None:
            running.terminate()
        running.wait()
        reader.join()
    seconds = time.perf_counter() - began
    if running.returncode:
        raise RuntimeError("".join(lines))
    return seconds, peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    bare = bare_memory()  # first, so that TensorFlow's files are in the system's cache
    turns: list[dict[str, Any]] = []
    memory: dict[str, float] = {}
    for _ in range(flags.repeats):
        with tempfile.TemporaryDirectory() as name:
            imports = measure_import()
            demo, peaks = measure_demo(Path(name) / "demo")
            script = measure_script(Path(name))
        memory = {role: max(peak, memory.get(role, 0.0)) for role, peak in peaks.items()}
        turns.append(
            {
                "demo_s": significant(demo),
                "imports_s": significant(imports),
                "ratio": significant(demo / imports),
                "script_s": significant(script),
            }
        )
    hospital = max(peak for role, peak in memory.items() if not role.startswith("server"))
    targets = {
        "demo over imports": judged(statistics.median(turn["ratio"] for turn in turns), at_most=MAX_TIME),
        "script that federates three DataFrames, s": judged(
            statistics.median(turn["script_s"] for turn in turns), at_most=MAX_SCRIPT_SECONDS
        ),
        "hospital's memory over a bare import's": judged(hospital / bare, at_most=MAX_HOSPITAL_MEMORY),
        "server until it saves, MiB": judged(memory["server until it saves"], at_most=MAX_SERVER_MEMORY),
    }
    rows = [{"process": role, "peak MiB": round(peak)} for role, peak in {"import tensorflow": bare, **memory}.items()]
    result = {"turns": turns, "peak_mib": {row["process"]: row["peak MiB"] for row in rows}, "targets": targets}
    show(result, {"Time": turns, "Memory": rows})


if __name__ == "__main__":
    main()
