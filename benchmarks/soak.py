"""Soak test: one long run under random faults; open files, threads and memory must stay flat; prints JSON.

A server and four light hospitals as processes. Every few seconds a fault, drawn from a seed, hits a hospital, its
connection or the server's port. The server and the first hospital run throughout; of these two, open files, threads and
memory are sampled. Exits with 1 if the late median of one of them exceeds the early one by more than MAX_GROWTH, or if
a process fails. `python benchmarks/soak.py --minutes 3` is a short trial; the full one takes half an hour.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks run from a checkout, not installed

import numpy as np
from chaos import create_hospitals
from chaos_hangs import HANGS, HangingApp
from chaos_hospital import FAR_TOO_LARGE, POISONS, Poison, PoisonedApp
from chaos_links import NOISE, Link
from chaos_processes import Process, ended, prepare_forks, run_script
from chaos_run import Change, free_port, read_text, run_hospital
from measuring import memory_of

SAMPLE_SECONDS = 5.0
FAULT_SECONDS = (2.0, 10.0)
"""Shortest and longest time between two faults."""

ROUND_SECONDS = 0.3
"""How long a light hospital trains: the history of rounds, which a server keeps, is to be small beside all else."""

EARLY, LATE = (0.1, 0.4), (0.7, 1.0)
"""Parts of the time that are compared, after the start and before the end."""

MAX_GROWTH = {"open_files": 0.15, "threads": 0.15, "memory_mib": 0.1}
"""Largest relative growth; a lost connection that is not noticed yet is an open file more."""

HOST, NAMES = "127.9.9.9", ("cleveland", "hungary", "switzerland", "va-long-beach")
WAIT, ROUND_TIMEOUT, MIN_HOSPITALS, MAX_ROUNDS, END_SECONDS = 3600, 4, 2, 100_000, 60.0
ENDED_BY_SIGNAL = 130


class Soak:
    """The processes of the run, and the faults that hit them.

    Attributes:
        samples: figures of the server and the first hospital over time.
        faults: number of faults by kind.
    """

    def __init__(self, folder: Path, data: dict[str, Path], seed: int) -> None:
        self.folder, self._data = folder, data
        self._generator = np.random.default_rng(seed)
        self._port = free_port(HOST)
        self._links = {name: Link(HOST, self._port) for name in data}
        self._hospitals: dict[str, Process] = {}
        self.samples: list[dict[str, Any]] = []
        self.faults: Counter[str] = Counter()

    async def run(self, seconds: float) -> list[str]:
        """Run for this long; returns what went wrong."""
        async with AsyncExitStack() as stack:
            self._all = stack.enter_context(ended())
            for link in self._links.values():
                await link.open()
                stack.push_async_callback(link.close)
            self._server = self._start_server()
            for name in self._data:
                self._start_hospital(name)
            began = time.monotonic()
            tasks = [asyncio.ensure_future(self._sample(began)), asyncio.ensure_future(self._disturb())]
            finished, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            problems = [f"{type(task.exception()).__name__}: {task.exception()}" for task in finished]
            return problems + await self._end()

    async def _end(self) -> list[str]:
        """End all processes as a user would; returns what went wrong."""
        problems = []
        first = self._hospitals[NAMES[0]]
        for title, process in (("server", self._server), (NAMES[0], first)):
            if process.code is not None:
                problems.append(f"the {title} ended early, with code {process.code}")
        self._server.send(signal.SIGTERM)  # SIGINT is ignored where this is started in the background
        if (code := await self._server.wait(END_SECONDS)) not in (ENDED_BY_SIGNAL, *([None] if problems else [])):
            problems.append(f"the server ended with code {code}")
        for log in sorted(self.folder.glob("*.txt")):
            if "Traceback (most recent call last)" in read_text(log):
                problems.append(f"a traceback in {log.name}")
        if not (self.folder / "run" / "metrics.json").exists():
            problems.append("the results of the completed rounds were not saved")
        return problems

    def completed_rounds(self) -> int:
        rows = read_text(self.folder / "run" / "rounds.csv").splitlines()[-1:]
        number = rows[0].split(",")[0] if rows else ""
        return int(number) if number.isdigit() else 0

    def _start_server(self) -> Process:
        flags = {
            "hospitals": len(self._data),
            "min-hospitals": MIN_HOSPITALS,
            "rounds": MAX_ROUNDS,
            "round-timeout": ROUND_TIMEOUT,
            "wait": WAIT,
            "address": f"{HOST}:{self._port}",
            "out": self.folder / "run",
        }
        options = [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]
        server = Process(self.folder / "server.txt", run_script, "server.py", options)
        self._all.append(server)
        return server

    def _start_hospital(self, name: str, change: Change | None = None) -> None:
        data = self.folder / "data" / f"{name}.csv"
        if not data.exists():
            data.parent.mkdir(exist_ok=True)
            shutil.copy(self._data[name], data)
        flags = ["--data", str(data), "--name", name, "--server", self._links[name].address, "--wait", str(WAIT)]
        log = self.folder / f"{name}.txt"
        self._hospitals[name] = Process(log, run_hospital, flags, False, change, ROUND_SECONDS)
        self._all.append(self._hospitals[name])

    async def _sample(self, began: float) -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            sample: dict[str, Any] = {"seconds": round(time.monotonic() - began), "rounds": self.completed_rounds()}
            for title, process in (("server", self._server), ("hospital", self._hospitals[NAMES[0]])):
                if process.code is not None:
                    raise RuntimeError(f"the {title} has ended")
                sample[title] = measure_process(process.pid)
            self.samples.append(sample)

    async def _disturb(self) -> None:
        """Inject faults one after the other, each into a hospital drawn at random."""
        kinds = {
            "network silent": self._cut,
            "network closed": self._cut,
            "network slow": self._cut,
            "noise on the wire": self._garble,
            "hospital stalled": self._stall,
            "hospital replaced": self._replace,
            "strange callers": self._call_strangely,
        }
        while True:
            await asyncio.sleep(self._generator.uniform(*FAULT_SECONDS))
            kind, name = str(self._generator.choice(list(kinds))), str(self._generator.choice(NAMES))
            self.faults[kind] += 1
            await kinds[kind](kind, name)

    async def _cut(self, kind: str, name: str) -> None:
        link = self._links[name]
        {"network silent": link.hush, "network closed": link.refuse, "network slow": link.slow_down}[kind]()
        await asyncio.sleep(self._generator.uniform(0.5, 8))
        link.restore()

    async def _garble(self, _kind: str, name: str) -> None:
        self._links[name].garble()

    async def _stall(self, _kind: str, name: str) -> None:
        self._hospitals[name].send(signal.SIGSTOP)
        await asyncio.sleep(self._generator.uniform(0.5, 8))
        self._hospitals[name].send(signal.SIGCONT)

    async def _replace(self, _kind: str, name: str) -> None:
        """Replace a hospital's process by a new one, which may misbehave; the first hospital stays."""
        if name == NAMES[0]:
            return
        hospital = self._hospitals[name]
        hospital.send(signal.SIGKILL if self._generator.integers(2) else signal.SIGTERM)
        if await hospital.wait(END_SECONDS) is None:
            raise RuntimeError(f"{name} did not end")
        self._start_hospital(name, self._draw_change())

    def _draw_change(self) -> Change | None:
        first = self.completed_rounds() + int(self._generator.integers(1, 20))
        match self._generator.integers(3):
            case 0:
                kinds = [kind for kind in POISONS if kind != FAR_TOO_LARGE]  # after which a hospital ends
                return partial(
                    PoisonedApp, poison=Poison(kind=str(self._generator.choice(kinds)), first=first, times=3)
                )
            case 1:
                hang = HANGS[str(self._generator.choice(list(HANGS)))]
                return partial(HangingApp, hang=hang, first=first, seconds=float(self._generator.uniform(1, 12)))
        return None

    async def _call_strangely(self, _kind: str, _name: str) -> None:
        """Connect to the server's port without being a hospital."""
        connections = []
        for number in range(20):
            with suppress(OSError):
                connections.append(socket.create_connection((HOST, self._port), timeout=1.0))
                if number % 2:
                    connections[-1].sendall(NOISE)
        await asyncio.sleep(self._generator.uniform(0.5, 5))
        for connection in connections:
            connection.close()


def measure_process(pid: int) -> dict[str, float]:
    """Open files, threads and MiB of memory of a process (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    threads = re.search(r"^Threads:\s*(\d+)", status, re.MULTILINE)
    return {
        "open_files": len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208  # names only
        "threads": int(threads[1]) if threads else 0,
        "memory_mib": round(memory_of(pid)["now_mib"], 1),
    }


def compare(samples: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Medians of an early and a late part of the samples by process and figure, and whether they are flat."""
    parts = [samples[int(start * len(samples)) : int(end * len(samples))] for start, end in (EARLY, LATE)]
    figures: dict[str, dict[str, Any]] = {}
    for title in ("server", "hospital"):
        for name, growth in MAX_GROWTH.items():
            early, late = (statistics.median(sample[title][name] for sample in part) for part in parts)
            is_flat = late <= (1 + growth) * early + (name != "memory_mib")
            figures[f"{title} {name}"] = {
                "early": early,
                "late": late,
                "ratio": round(late / early, 3),
                "flat": is_flat,
            }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", action="store_true", help="print all samples, too")
    flags = parser.parse_args()
    prepare_forks()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    soak = Soak(folder, create_hospitals(folder / "source"), flags.seed)
    problems = asyncio.run(soak.run(60 * flags.minutes))
    figures = {} if problems else compare(soak.samples)
    good = not problems and all(figure["flat"] for figure in figures.values())
    result = {
        "minutes": flags.minutes,
        "rounds": soak.completed_rounds(),
        "faults": dict(sorted(soak.faults.items())),
        "figures": figures,
        "problems": problems,
        "good": good,
    }
    print(json.dumps(result | ({"samples": soak.samples} if flags.samples else {}), indent=2))
    if good:
        shutil.rmtree(folder)
    else:
        print(f"see {folder}", file=sys.stderr)
    sys.exit(not good)


if __name__ == "__main__":
    main()
