"""Send 100,000 malformed replies through the server's whole path from bytes to figures; prints JSON.

With `--requests`, send 100,000 malformed or unexpected messages of a server through a hospital's whole path from bytes
to its reply, and check that each that was answered is one that a run would hold.

Exits with 1 if a message raises an unexpected exception, if memory grows beyond a limit, or if time runs out. A message
that takes about HANG_SECONDS ends the process with a traceback of where it hangs.
"""

import argparse
import faulthandler
import json
import logging
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import malformed_requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from malformed_messages import Example, corrupt, examples, original_messages, receive
from malformed_requests import Step
from measuring import memory_of

BATCH = 5_000
"""Examples per seed: hypothesis keeps everything that it drew in one call."""

MAX_MEMORY_MIB = 150
"""How much the process may grow, including what hypothesis keeps."""

HANG_SECONDS = 60


class Watch:
    """Times each message, and ends the process if one hangs."""

    def __init__(self) -> None:
        self.slowest = self._armed = self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()
        if self._started - self._armed > 1:  # not each time: it starts a thread
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            self._armed = self._started

    def __exit__(self, *_: object) -> None:
        self.slowest = max(self.slowest, time.perf_counter() - self._started)


def run(number: int, seconds: float, *, first_seed: int = 0, of_requests: bool = False) -> dict[str, Any]:
    """Try this many messages, or fewer if time runs out."""
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    watch, began, before = Watch(), time.perf_counter(), None
    examine: Callable[[Any], None]
    drawn: SearchStrategy[Any]
    if of_requests:
        requests, drawn = malformed_requests.all_originals(), malformed_requests.steps()

        def examine_requests(steps: list[Step]) -> None:
            session = malformed_requests.HostileSession()
            for kind, round_number, weights, operations in steps:
                parts = corrupt(requests[kind, round_number, weights], operations)
                with watch:
                    outcomes[kind][session.receive(parts)] += 1

        examine = examine_requests
    else:
        originals, drawn = original_messages(), examples()

        def examine_reply(example: Example) -> None:
            kind, operations, read_as = example
            parts = corrupt(originals[kind], operations)
            with watch:
                outcomes[kind][receive(parts, read_as)] += 1

        examine = examine_reply
    done = batches = 0
    while done < number and time.perf_counter() - began < seconds:
        batch = settings(
            max_examples=max(1, min(BATCH, number - done) // (8 if of_requests else 1)),
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        run_batch: Callable[[], None] = seed(first_seed + batches)(batch(given(drawn)(examine)))
        run_batch()
        done, batches = sum(counter.total() for counter in outcomes.values()), batches + 1
        before = before or memory_of()["peak_mib"]  # after the first batch, which loads everything that is loaded once
    faulthandler.cancel_dump_traceback_later()
    peak = memory_of()["peak_mib"]
    growth = peak - (before or 0.0)
    failed = sum(counter["failed"] for counter in outcomes.values())
    return {
        "examples": done,
        "outcomes": {kind: dict(sorted(counter.items())) for kind, counter in outcomes.items()},
        "seconds": round(time.perf_counter() - began, 1),
        "slowest_ms": round(1000 * watch.slowest, 1),
        "peak_memory_mib": round(peak),
        "memory_growth_mib": round(growth),
        "good": done >= number and growth < MAX_MEMORY_MIB and not failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=1800.0, help="time limit; exceeding it is a failure")
    parser.add_argument("--requests", action="store_true", help="to a hospital, from a server")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch; batches count on from it")
    flags = parser.parse_args()
    warnings.simplefilter("error")  # NumPy's too: no number of a peer should cause one
    for name in ("flwr", "federated_health"):
        logging.getLogger(name).setLevel(logging.CRITICAL if flags.requests else logging.ERROR)
    with malformed_requests.quick_models() if flags.requests else nullcontext():
        result = run(flags.examples, flags.seconds, first_seed=flags.seed, of_requests=flags.requests)
    print(json.dumps(result, indent=2))
    sys.exit(not result["good"])


if __name__ == "__main__":
    main()
