"""Send 100,000 malformed messages through a side's whole path, from bytes to figures or answers; prints JSON.

The server gets hospitals' replies, and a hospital a server's messages, which are also out of order. Exits with 1 if a
message raises an unexpected exception, if memory grows beyond a limit, or if time runs out. A message that takes about
HANG_SECONDS ends the process with a traceback of where it hangs.
"""

import argparse
import faulthandler
import json
import logging
import subprocess
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import malformed_messages
import malformed_requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from measuring import memory_of

SIDES: Mapping[str, Any] = {"server": malformed_messages, "hospital": malformed_requests}

BATCH = 5_000
"""Examples per seed: hypothesis keeps everything that it drew in one call."""

MAX_MEMORY_MIB = 150
"""How much the process may grow, including what hypothesis keeps."""

HANG_SECONDS = 60


def run(side: str, number: int, seconds: float) -> dict[str, Any]:
    """Try this many messages, or fewer if time runs out."""
    module = SIDES[side]
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    slowest = armed = 0.0
    began, before = time.perf_counter(), None

    def examine(example: Any) -> None:
        nonlocal slowest, armed
        started = time.perf_counter()
        if started - armed > 1:  # not each time: it starts a thread
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            armed = started
        for kind, outcome in module.examine(example):
            outcomes[kind][outcome] += 1
        slowest = max(slowest, time.perf_counter() - started)

    done = 0
    while done < number and time.perf_counter() - began < seconds:
        batch = settings(
            max_examples=min(BATCH, number - done),
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        examples: SearchStrategy[Any] = module.examples()
        seed(done)(batch(given(examples)(examine)))()
        done = sum(counter.total() for counter in outcomes.values())
        before = before or memory_of()["peak_mib"]  # after the first batch, which loads everything that is loaded once
    faulthandler.cancel_dump_traceback_later()
    peak = memory_of()["peak_mib"]
    growth = peak - (before or 0.0)
    return {
        "side": side,
        "messages": done,
        "outcomes": {kind: dict(sorted(counter.items())) for kind, counter in outcomes.items()},
        "seconds": round(time.perf_counter() - began, 1),
        "slowest_ms": round(1000 * slowest, 1),
        "peak_memory_mib": round(peak),
        "memory_growth_mib": round(growth),
        "good": done >= number and growth < MAX_MEMORY_MIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES, help="who receives the messages (default: each, in parallel)")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=1800.0, help="time limit; exceeding it is a failure")
    flags = parser.parse_args()
    if flags.side is None:
        commands = [[sys.executable, *sys.argv, "--side", side] for side in SIDES]
        codes = [process.wait() for process in [subprocess.Popen(command) for command in commands]]
        sys.exit(any(codes))
    warnings.simplefilter("error")  # NumPy's too: no number of a peer should cause one
    for name in ("flwr", "federated_health"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with malformed_requests.arithmetic_models():
        result = run(flags.side, flags.messages, flags.seconds)
    print(json.dumps(result, indent=2))
    sys.exit(not result["good"])


if __name__ == "__main__":
    main()
