"""Run all benchmarks of speed and scale, one after the other, and write benchmarks/RESULTS.md.

`python benchmarks/results.py --only growth bytes_per_round` runs these again and keeps the other results. Each
benchmark's output is kept as JSON in runs/benchmarks/.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import common  # noqa: F401  # finds the project
from measuring import cores
from scripts import PROJECT

BENCHMARKS: Mapping[str, Sequence[str]] = {
    "round_rate": (),
    "cold_start": (),
    "growth": (),
    "bytes_per_round": (),
    "large_networks": (),
    "checkpoints": ("--saves", "20"),
    "many_hospitals": (),
    "reading": (),
    "readmission_speed": (),
    "streams": (),
}
"""Script -> the flags that it runs with here."""

TITLES = {
    "round_rate": "Rounds",
    "cold_start": "From a cold start to a finished model",
    "growth": "How cost grows",
    "bytes_per_round": "Bytes per round and hospital",
    "large_networks": "Large networks",
    "checkpoints": "Checkpoints",
    "many_hospitals": "A million generated patients",
    "reading": "A CSV of a million rows",
    "readmission_speed": "A run with 99,340 real stays",
    "streams": "Two hundred streams",
}

PACKAGES = ("flwr", "tensorflow", "keras", "numpy", "grpcio")
FOLDER = PROJECT / "runs" / "benchmarks"
PAGE = PROJECT / "benchmarks" / "RESULTS.md"


def run(name: str, flags: Sequence[str]) -> dict[str, Any]:
    """Run a benchmark and return its output and duration.

    Raises:
        ValueError: it failed and printed no JSON.
    """
    began = time.perf_counter()
    command = [sys.executable, str(PROJECT / "benchmarks" / f"{name}.py"), *flags]
    finished = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, check=False)
    result: dict[str, Any] = json.loads(finished.stdout)
    return {"result": result, "seconds": round(time.perf_counter() - began)}


def read_circumstances() -> dict[str, str]:
    """Date, commit, machine and versions; nothing that identifies the machine."""
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    words = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(words, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": commit or "unknown",
        "machine": f"{cores()} cores ({platform.machine()}), {memory:.0f} GiB",
        "Python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table with a column for each key of any row, in order of first appearance."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[key.replace("_", " ") for key in keys], ["---"] * len(keys)]
    lines += [[cell(row.get(key, "")) for key in keys] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: object) -> str:
    """A value formatted for readers."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def tables_of(name: str, result: Mapping[str, Any]) -> list[str]:
    """A benchmark's output as Markdown tables, without its targets."""
    tables = {key: rows_of(value) for key, value in result.items() if key != "targets"}
    plain = {key: result[key] for key, rows in tables.items() if rows is None}
    parts = [f"{key.replace('_', ' ')}:\n\n{table(rows)}" for key, rows in tables.items() if rows]
    return [f"## {TITLES[name]}", *parts, *([table([plain])] if plain else [])]


def rows_of(value: object) -> list[dict[str, Any]] | None:
    """Table rows from a list of rows or a mapping of name to row; None for a single figure."""
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return value
    if not isinstance(value, dict):
        return None
    if not all(isinstance(row, dict) for row in value.values()):
        return [value]
    rows = []
    for key, row in value.items():
        is_nested = all(isinstance(inner, dict) for inner in row.values())
        named = {f"{key}, {name}": inner for name, inner in row.items()} if is_nested else {key: row}
        rows += [{"": name, **inner} for name, inner in named.items()]
    return rows


def write_page(results: Mapping[str, Mapping[str, Any]], circumstances: Mapping[str, str]) -> str:
    """The text of RESULTS.md: circumstances, targets and all figures.

    Args:
        results: benchmark -> the return value of `run`.
        circumstances: see `read_circumstances`.
    """
    targets = [
        {"what": name, **target}
        for result in results.values()
        for name, target in result["result"].get("targets", {}).items()
    ]
    minutes = sum(result["seconds"] for result in results.values()) / 60
    parts = [
        "# Speed and scale, measured",
        f"`make bench` wrote this page, in {minutes:.0f} minutes. Machines are noisy: trust the ratios, measured in "
        "alternating turns, more than the times. Each benchmark's docstring explains its figures.",
        table([circumstances]),
        *(["## Targets", table(targets)] if targets else []),
        *(part for name in BENCHMARKS if name in results for part in tables_of(name, results[name]["result"])),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    flags = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in flags.only:
        print(f"{datetime.now():%H:%M:%S} {name}", file=sys.stderr)
        result = run(name, BENCHMARKS[name])
        (FOLDER / f"{name}.json").write_text(json.dumps(result, indent=2))
    results = {name: json.loads(path.read_text()) for name in BENCHMARKS if (path := FOLDER / f"{name}.json").exists()}
    PAGE.write_text(write_page(results, read_circumstances()))


if __name__ == "__main__":
    main()
