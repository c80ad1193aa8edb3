"""Evaluation of measurements: medians, ratios, growth of a cost, targets, memory of processes, tables."""

import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

LINEAR = 1.1
"""Largest exponent that counts as linear: machines are noisy, and logarithms add to it."""


def describe(times: Sequence[float]) -> dict[str, float]:
    """Summary of rounds' seconds: rounds per second by the median, and milliseconds."""
    ordered = sorted(times)
    median = statistics.median(ordered)
    return {
        "rounds": len(ordered),
        "rounds_per_second": significant(1 / median),
        "median_ms": significant(1000 * median),
        "p95_ms": significant(1000 * ordered[int(0.95 * len(ordered))]),
    }


def significant(value: float, digits: int = 3) -> float:
    """The value rounded to significant digits."""
    return float(f"{value:.{digits}g}")


def times_as_long(slow: Sequence[Sequence[float]], fast: Sequence[Sequence[float]]) -> dict[str, float]:
    """How many times as long one thing takes as another, measured in alternating turns.

    Args:
        slow, fast: seconds of rounds, per turn.

    Returns:
        Median, smallest and largest of the turns' ratios of medians.
    """
    ratios = [
        statistics.median(slow_turn) / statistics.median(fast_turn)
        for slow_turn, fast_turn in zip(slow, fast, strict=True)
    ]
    return {
        "ratio": significant(statistics.median(ratios)),
        "least": significant(min(ratios)),
        "greatest": significant(max(ratios)),
    }


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The k of cost ~ size**k: least-squares slope of log(cost) on log(size).

    Raises:
        ValueError: fewer than two sizes, or one that is not positive.
    """
    return statistics.linear_regression([*map(math.log, sizes)], [*map(math.log, costs)]).slope


def growth(sizes: Sequence[float], costs: Sequence[float]) -> dict[str, Any]:
    """Exponents over all sizes and between neighbours.

    `is_linear` if the exponent of the last step, in which fixed costs matter least, is at most LINEAR.
    """
    steps = [exponent(sizes[i : i + 2], costs[i : i + 2]) for i, _ in enumerate(pairwise(sizes))]
    return {
        "exponent": round(exponent(sizes, costs), 2),
        "between_neighbours": [round(step, 2) for step in steps],
        "is_linear": steps[-1] <= LINEAR,
    }


def judged(figure: float, *, at_least: float | None = None, at_most: float | None = None) -> dict[str, Any]:
    """A figure, its target, and whether it was reached."""
    reached = (at_least is None or figure >= at_least) and (at_most is None or figure <= at_most)
    target = f"at least {at_least:g}" if at_least is not None else f"at most {at_most:g}"
    return {"figure": significant(figure), "target": target, "reached": reached}


def memory_of(process: int | str = "self") -> dict[str, float]:
    """Current and peak memory of a process in MiB (Linux); empty if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmHWM", "VmRSS"))}
    return {"now_mib": found["VmRSS"], "peak_mib": found["VmHWM"]} if found else {}


def descendants(process: int) -> list[int]:
    """Child processes of a process and their descendants, at this moment (Linux)."""
    try:
        children = [*map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]
    except OSError:
        return []
    return [pid for child in children for pid in (child, *descendants(child))]


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def show(result: Mapping[str, Any], tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print tables to stderr for people, and the whole result as JSON to stdout.

    Args:
        tables: rows by title; all rows of a table have the same keys.
    """
    console = Console(stderr=True)
    for title, rows in tables.items():
        table = Table(*rows[0], box=SIMPLE_HEAD, title=title, title_justify="left")
        for row in rows:
            table.add_row(*(str(cell) for cell in row.values()))
        console.print(table)
    json.dump(result, sys.stdout, indent=2)
    print()
