"""From a cold start to a finished model: `make demo`'s command against importing TensorFlow as often; JSON and tables.

The demo has a server and four hospitals as processes. Beside it, in turns, as many processes start in the same way and
do nothing but `import tensorflow`: they end at once, without Python's clearing up. Memory is the most that a process
held (VmHWM), looked at every few milliseconds: of the server until it saves the model and at its end, and of the
hospitals.
"""

import argparse
import os
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

from federated_health.processes import PROJECT

PROCESSES = 5
LOOK_SECONDS = 0.02
SAVING = "saving what there is"
"""Of the line that the server prints before it saves."""

MAX_TIME, MAX_HOSPITAL_MEMORY, MAX_SERVER_MEMORY = 1.5, 1.3, 250.0
"""Times the imports' time, times a bare import's memory, MiB."""

IMPORT = [sys.executable, "-c", "import os, tensorflow; os._exit(0)"]


def measure_import() -> float:
    """Seconds of as many imports at the same time as the demo has processes."""
    began = time.perf_counter()
    with ExitStack() as stack:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        running = [
            stack.enter_context(subprocess.Popen(IMPORT, env=environment, stderr=subprocess.DEVNULL))
            for _ in range(PROCESSES)
        ]
        for one in running:
            one.wait()
    if any(one.returncode for one in running):
        raise RuntimeError("TensorFlow could not be imported")
    return time.perf_counter() - began


def bare_memory() -> float:
    """MiB that a process holds at most that only imports TensorFlow."""
    script = "import re, tensorflow; print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()).group(1))"
    told = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return int(told.stdout) / 1024


def role_of(pid: int) -> str:
    """server, or a hospital's name, from the command of a demo's process; empty of others."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return ""
    doors = {Path(word).name for word in words[:2]}
    if "server.py" in doors:
        return "server"
    return words[words.index("--name") + 1] if "client.py" in doors else ""


def measure_demo(out: Path) -> tuple[float, dict[str, float]]:
    """Seconds from start to end, and MiB by role; `server until it saves` beside `server`."""
    peaks: dict[str, float] = {}
    words: list[str] = []

    def read(running: "subprocess.Popen[bytes]") -> None:
        assert running.stdout is not None, "it is a pipe"
        for line in running.stdout:
            words.append(line.decode())
            if SAVING in words[-1]:
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
                    del roles[pid]  # it may become another program yet
            time.sleep(LOOK_SECONDS)
    finally:
        if running.poll() is None:
            running.terminate()
        running.wait()
        reader.join()
    seconds = time.perf_counter() - began
    if running.returncode:
        raise RuntimeError("".join(words))
    return seconds, peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    bare = bare_memory()  # and TensorFlow's files are in the system's cache from now on
    turns: list[dict[str, Any]] = []
    memory: dict[str, float] = {}
    for _ in range(flags.repeats):
        with tempfile.TemporaryDirectory() as name:
            imports = measure_import()
            demo, peaks = measure_demo(Path(name) / "demo")
        memory = {role: max(peak, memory.get(role, 0.0)) for role, peak in peaks.items()}
        turns.append(
            {"demo_s": significant(demo), "imports_s": significant(imports), "ratio": significant(demo / imports)}
        )
    hospital = max(peak for role, peak in memory.items() if not role.startswith("server"))
    targets = {
        "demo over imports": judged(statistics.median(one["ratio"] for one in turns), at_most=MAX_TIME),
        "hospital's memory over a bare import's": judged(hospital / bare, at_most=MAX_HOSPITAL_MEMORY),
        "server until it saves, MiB": judged(memory["server until it saves"], at_most=MAX_SERVER_MEMORY),
    }
    rows = [{"process": role, "peak MiB": round(peak)} for role, peak in {"import tensorflow": bare, **memory}.items()]
    result = {"turns": turns, "peak_mib": {row["process"]: row["peak MiB"] for row in rows}, "targets": targets}
    show(result, {"Time": turns, "Memory": rows})


if __name__ == "__main__":
    main()
