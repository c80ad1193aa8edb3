"""100,000 spoiled replies through a server's whole path from bytes to figures; prints JSON.

Ends with 1 where one of them raises what nobody has foreseen, where memory grows beyond a limit, or where time is up.
A reply that takes about HANG_SECONDS ends the process with the place where it hangs.
"""

import argparse
import faulthandler
import json
import logging
import resource
import sys
import time
import warnings
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from malformed_messages import Example, examples, original_protos, receive, spoil

BATCH = 5_000
"""Examples of one seed: hypothesis remembers all that it drew in one go."""

MAX_MEMORY_MIB = 150
"""By which the process may grow, what hypothesis remembers included."""

HANG_SECONDS = 60


def peak_mib() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # in KiB on Linux


def run(number: int, seconds: float) -> dict[str, Any]:
    """So many examples, or fewer where time is up."""
    protos = original_protos()
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in protos}
    slowest = armed = 0.0
    began, before = time.perf_counter(), None

    def examine(example: Example) -> None:
        nonlocal slowest, armed
        kind, operations, read_as = example
        content = spoil(protos[kind], operations)
        started = time.perf_counter()
        if started - armed > 1:  # not each time: it starts a thread
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            armed = started
        outcomes[kind][receive(content, read_as)] += 1
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
        seed(done)(batch(given(examples())(examine)))()
        done = sum(counter.total() for counter in outcomes.values())
        before = before or peak_mib()  # after the first batch, with all that is loaded only once
    faulthandler.cancel_dump_traceback_later()
    growth = peak_mib() - (before or 0.0)
    return {
        "examples": done,
        "outcomes": {kind: dict(sorted(counter.items())) for kind, counter in outcomes.items()},
        "seconds": round(time.perf_counter() - began, 1),
        "slowest_ms": round(1000 * slowest, 1),
        "peak_memory_mib": round(peak_mib()),
        "memory_growth_mib": round(growth),
        "good": done >= number and growth < MAX_MEMORY_MIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=1800.0, help="after which it ends, and is not good")
    flags = parser.parse_args()
    warnings.simplefilter("error")  # of NumPy: a stranger's numbers should reach none
    logging.getLogger("flwr").setLevel(logging.ERROR)
    result = run(flags.examples, flags.seconds)
    print(json.dumps(result, indent=2))
    sys.exit(not result["good"])


if __name__ == "__main__":
    main()
