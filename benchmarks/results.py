"""Runs all benchmarks of speed and scale, one after the other, and writes benchmarks/RESULTS.md.

`python benchmarks/results.py`, or `--only growth bytes_a_round` to run these again and keep what the others gave. What
each printed is kept as JSON in runs/benchmarks/.
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

from federated_health.processes import PROJECT

BENCHMARKS: Mapping[str, Sequence[str]] = {
    "round_rate": (),
    "cold_start": (),
    "growth": (),
    "bytes_a_round": (),
    "checkpoints": ("--saves", "20"),
    "many_hospitals": (),
    "streams": (),
}
"""Script -> flags with which it runs here."""

TITLES = {
    "round_rate": "Rounds",
    "cold_start": "From a cold start to a finished model",
    "growth": "How cost grows",
    "bytes_a_round": "Bytes a round and hospital",
    "checkpoints": "Checkpoints",
    "many_hospitals": "A million generated patients",
    "streams": "Two hundred streams",
}

PACKAGES = ("flwr", "tensorflow", "keras", "numpy", "grpcio")
FOLDER = PROJECT / "runs" / "benchmarks"
PAGE = PROJECT / "benchmarks" / "RESULTS.md"


def run(name: str, flags: Sequence[str]) -> dict[str, Any]:
    """What a benchmark prints, and how long it took.

    Raises:
        ValueError: it failed, and printed no JSON.
    """
    began = time.perf_counter()
    command = [sys.executable, str(PROJECT / "benchmarks" / f"{name}.py"), *flags]
    told = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, check=False)
    result: dict[str, Any] = json.loads(told.stdout)
    return {"result": result, "seconds": round(time.perf_counter() - began)}


def circumstances() -> dict[str, str]:
    """Of the machine and of what runs on it; nothing that names it."""
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
    """A Markdown table; a column for every key of any row, in the order in which they appear."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[key.replace("_", " ") for key in keys], ["---"] * len(keys)]
    lines += [[cell(row.get(key, "")) for key in keys] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: object) -> str:
    """A figure as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(cell(one) for one in value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def tables_of(name: str, result: Mapping[str, Any]) -> list[str]:
    """What a benchmark printed, as Markdown tables, but for its targets."""
    tables = {key: rows_of(value) for key, value in result.items() if key != "targets"}
    plain = {key: result[key] for key, rows in tables.items() if rows is None}
    parts = [f"{key.replace('_', ' ')}:\n\n{table(rows)}" for key, rows in tables.items() if rows]
    return [f"## {TITLES[name]}", *parts, *([table([plain])] if plain else [])]


def rows_of(value: object) -> list[dict[str, Any]] | None:
    """Rows of a list of tables' rows, or of a name -> row mapping; None of what is a single figure."""
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return value
    if not isinstance(value, dict):
        return None
    if not all(isinstance(one, dict) for one in value.values()):
        return [value]
    rows = []
    for key, one in value.items():
        is_nested = all(isinstance(inner, dict) for inner in one.values())
        named = {f"{key}, {name}": inner for name, inner in one.items()} if is_nested else {key: one}
        rows += [{"": name, **inner} for name, inner in named.items()]
    return rows


def write_page(results: Mapping[str, Mapping[str, Any]], of: Mapping[str, str]) -> str:
    """RESULTS.md: circumstances, whether targets were reached, and all figures.

    Args:
        results: benchmark -> what `run` returned.
        of: see `circumstances`.
    """
    found = [one["result"].get("targets", {}) for one in results.values()]
    targets = [{"what": what, **judged} for one in found for what, judged in one.items()]
    minutes = sum(one["seconds"] for one in results.values()) / 60
    parts = [
        "# Speed and scale, measured",
        f"`make bench` wrote this page, in {minutes:.0f} minutes. Machines are noisy: trust the ratios, of what was "
        "measured in turns, more than the times. What a figure means is said in the benchmark that printed it.",
        table([of]),
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
        found = run(name, BENCHMARKS[name])
        (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=2))
    results = {name: json.loads(path.read_text()) for name in BENCHMARKS if (path := FOLDER / f"{name}.json").exists()}
    PAGE.write_text(write_page(results, circumstances()))


if __name__ == "__main__":
    main()
