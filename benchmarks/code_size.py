"""Measure how much of the project's code a plain run loads per side, and how many files one train message passes; JSON.

A plain run is FedAvg with two hospitals and three rounds over loopback, without TLS, encryption and privacy. Imports
are recorded by a finder in a `sitecustomize.py`, which every process of a side loads, child processes too. A script
counts as a module. Modules that are first imported after the last round ended, which is when the server wrote its line
to history.jsonl, are counted apart: they evaluate the final model and write it and the report.

The files of a train message are those with Python code that runs between the call of the strategy's `configure_train`
in round 2 and the return of its `aggregate_train`, in a run in one process.
"""

import argparse
import importlib
import inspect
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any

from measuring import judged

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, SCRIPTS = "federated_health", ("server", "client", "utils")
HOSPITALS, ROUNDS = 2, 3
PROFILED_ROUND = 2
TIMEOUT = 300.0

# Task files and noticing inverted labels; then labels of four kinds, and networks that a user chooses; then hostile
# peers, slow links, power cuts and output that fails; then run terms, policies and disclosure control.
MAX_MODULES, MAX_LINES = 45 + 3 + 3 + 3 + 3, 6500 + 400 + 400 + 400 + 400
# Then the final evaluation, its figures and their output, which a run does not load while it trains. The last 20
# modules are intervals and verdicts, and what pages say of recalibration, subgroups, decision curves, sample size and
# TRIPOD+AI, with their tables as files; hospitals load few of them.
MAX_MODULES_AFTER, MAX_LINES_AFTER = 15 + 9 + 6 + 20, 2500 + 900 + 800 + 400 + 3700
MAX_FILES = 14

RECORDER = f'''
import os, sys, time

class Recorder:
    """Records each project module whose import begins; other finders locate it."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {(PACKAGE, *SCRIPTS)!r}:
            with open(os.environ["IMPORT_LOG"], "a") as log:
                log.write(f"{{time.time()}} {{name}}\\n")

sys.meta_path.insert(0, Recorder)
'''


def path_of(module: str) -> Path | None:
    """File of a project module; None for any other name."""
    stem = ROOT / module.replace(".", "/")
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def write_data(folder: Path) -> dict[str, Path]:
    """CSVs of the heart data's first hospitals, by hospital."""
    command = [sys.executable, str(ROOT / "create_dataset.py"), "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    names = [hospital["name"] for hospital in json.loads((folder / "manifest.json").read_text())["hospitals"]]
    return {name: folder / f"client_{number}.csv" for number, name in enumerate(names[:HOSPITALS], 1)}


def run_processes(folder: Path, data: Mapping[str, Path]) -> tuple[dict[str, dict[str, float]], float]:
    """Run a server and its clients.

    Returns:
        For each side the time at which each module was first imported, and the time at which the last round ended.
    """
    (folder / "sitecustomize.py").write_text(RECORDER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    out = folder / "run"
    server: list[object] = [
        "server.py",
        "--hospitals",
        HOSPITALS,
        "--rounds",
        ROUNDS,
        "--address",
        address,
        "--out",
        out,
    ]
    clients: list[list[object]] = [
        ["client.py", "--data", path, "--name", name, "--server", address] for name, path in data.items()
    ]
    python_path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    running = []
    with (folder / "output").open("w") as output:
        for number, command in enumerate([server, *clients]):
            side = "client" if number else "server"
            (folder / side).open("a").write(f"0 {side}\n")  # nothing imports the script itself
            running.append(
                subprocess.Popen(
                    [sys.executable, *map(str, command)],
                    cwd=ROOT,
                    env={**os.environ, "PYTHONPATH": python_path, "IMPORT_LOG": str(folder / side)},
                    stdout=output,
                    stderr=output,
                )
            )
        try:
            codes = [process.wait(TIMEOUT) for process in running]
        finally:
            for process in running:
                process.kill()
    if any(codes):
        raise RuntimeError(f"a process failed: exit codes {codes}\n{(folder / 'output').read_text()}")
    imports: dict[str, dict[str, float]] = {"server": {}, "client": {}}
    for side, first in imports.items():
        for line in (folder / side).read_text().splitlines():
            seconds, module = line.split()
            if path_of(module):
                first[module] = min(float(seconds), first.get(module, float("inf")))
    return imports, (out / "checkpoints" / "history.jsonl").stat().st_mtime


def size_of(modules: list[str]) -> dict[str, int]:
    """Number of modules, and of lines in their files."""
    paths = [path for module in modules if (path := path_of(module))]
    return {"modules": len(modules), "lines": sum(len(path.read_text().splitlines()) for path in paths)}


class MessageProfile:
    """Collects the project files with code that runs while one round's train messages are exchanged.

    Attributes:
        files: of the exchange itself.
        meanwhile: of what the consumer of the rounds does while the loop, a generator, hands it the round before.
    """

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.meanwhile: set[str] = set()
        self._round = 0
        self._outermost: FrameType | None = None
        self._loops: list[FrameType] = []
        self._is_suspended = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        function = frame.f_code.co_name
        if event == "call" and self._outermost is None and function in ("configure_train", "aggregate_train"):
            self._outermost = frame  # a strategy may call its base class
            self._round += function == "configure_train"
            self._loops = [caller for caller in callers(frame) if caller.f_code.co_flags & inspect.CO_GENERATOR]
        if event == "call" and frame in self._loops:
            self._is_suspended = False
        if self._round == PROFILED_ROUND:
            self._add(frame)
            if event == "return" and frame in self._loops:
                self._is_suspended = True
            if event == "return" and frame.f_back:
                self._add(frame.f_back)
        if event == "return" and frame is self._outermost:
            self._outermost = None
            if function == "aggregate_train" and self._round == PROFILED_ROUND:
                self._round += 1  # over

    def _add(self, frame: FrameType) -> None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / PACKAGE) or (path.parent == ROOT and path.stem in SCRIPTS):
            (self.meanwhile if self._is_suspended else self.files).add(str(path.relative_to(ROOT)))


def callers(frame: FrameType) -> Iterator[FrameType]:
    """The frames above a frame."""
    while above := frame.f_back:
        yield above
        frame = above


@contextmanager
def profiled(profile: MessageProfile) -> Iterator[None]:
    """Profile this thread and all threads that start meanwhile."""
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def load(kind: str, name: str) -> Any:
    """What the transport defines under a name, in any of its modules, so that other layouts can be measured, too."""
    for path in (ROOT / PACKAGE / "transport").glob("*.py"):
        if found := re.search(rf"^{kind} ({name})\b", path.read_text(), re.MULTILINE):
            return getattr(importlib.import_module(f"{PACKAGE}.transport.{path.stem}"), found[1])
    raise ImportError(f"no {kind} {name} in {PACKAGE}.transport")


def files_of_train_message(folder: Path, data: Mapping[str, Path]) -> tuple[list[str], list[str]]:
    """`files` and `meanwhile` of a MessageProfile of a run in this process."""
    sys.path.insert(0, str(ROOT))
    # Imported here: the measured processes are others, and TensorFlow takes seconds.
    import client
    import server

    defaults = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    hospital_context = load("def", "hospital_context")
    contexts = {name: hospital_context(name, {"data": str(path), "split-seed": 0}) for name, path in data.items()}
    config = {**defaults, "hospitals": HOSPITALS, "rounds": ROUNDS, "out": str(folder / "in-process")}
    grid, context = load("class", r"InProcess\w+")(client.app, contexts), load("def", "server_context")(config)
    profile = MessageProfile()
    with redirect_stdout(sys.stderr), profiled(profile):
        server.app(grid, context)
    return sorted(profile.files), sorted(profile.meanwhile - profile.files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", action="store_true", help="name the modules and files, too")
    flags = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_data(folder / "data")
        imports, last_round_ended = run_processes(folder, data)
        for side, first in imports.items():
            before = sorted(module for module, seconds in first.items() if seconds <= last_round_ended)
            after = sorted(first.keys() - before)
            parts = {"until the last round ended": before, "after it": after, "total": sorted(first)}
            result[side] = {part: size_of(modules) for part, modules in parts.items()}
            if flags.names:
                result[side]["modules"] = {"until the last round ended": before, "after it": after}
        files, meanwhile = files_of_train_message(folder, data)
    result["files per train message"] = {"files": len(files), "others, that record the round before": len(meanwhile)}
    if flags.names:
        result["files per train message"] |= {"names": files, "names of others": meanwhile}
    limits = {
        "until the last round ended": {"modules": MAX_MODULES, "lines": MAX_LINES},
        "after it": {"modules": MAX_MODULES_AFTER, "lines": MAX_LINES_AFTER},
    }
    result["targets"] = {
        f"{side}, {kind} {part}": judged(result[side][part][kind], at_most=limit)
        for side in imports
        for part, kinds in limits.items()
        for kind, limit in kinds.items()
    }
    result["targets"]["files per train message"] = judged(len(files), at_most=MAX_FILES)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
