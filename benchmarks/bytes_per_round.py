"""Bytes per round and hospital in each direction, compared with four bytes per weight; JSON and a table.

`message` counts serialised messages. `socket` counts bytes on the sockets, including HTTP/2 and TLS, by a relay between
the hospitals and the server. Counted are rounds after the first and before the last, which is evaluated separately. The
hospitals are light (light_hospitals.py); with the default model their replies have the size of real ones.
"""

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import light_hospitals  # noqa: F401  # finds the project
from flwr.app import Message
from light_federation import light_federation
from measuring import judged, show

from federated_health.transport.framing import serialise_reply

HOSPITALS = 4
WEIGHTS = (0, 100_000, 1_000_000)
MANY, MAX_TIMES_MANY, MAX_TIMES_DEFAULT = 100_000, 1.1, 1.5
"""Targets: from MANY weights on, at most MAX_TIMES_MANY times their size; for the default model MAX_TIMES_DEFAULT."""


def count(weights: int, rounds: int, *, tls: bool) -> dict[str, Any]:
    """Count the bytes of one case; 0 weights for the default model."""
    sent: list[int] = []
    received: list[int] = []
    marks = []
    with tempfile.TemporaryDirectory() as folder:
        identities = Path(folder) / "tls" if tls else None
        with light_federation(HOSPITALS, rounds, weights=weights, tls=identities, meter=True) as (run, grid, meter):
            assert meter is not None, "meter=True"
            plain = grid.send_and_receive

            def counting(messages: Any, *, timeout: float | None = None) -> Any:
                messages = list(messages)
                marks.append((meter.to_hospitals, meter.from_hospitals))
                replies = list(plain(messages, timeout=timeout))
                sent.append(sum(size_of(message) for message in messages))
                received.append(sum(size_of(reply) for reply in replies))
                return replies

            grid.send_and_receive = counting
            run.gather()
            for _ in run.rounds():
                pass
            size = 4 * sum(array.size for array in run.weights.values())
    # Count from the beginning of the second exchange to the beginning of the last one.
    middle = slice(1, rounds)
    exchanges = HOSPITALS * (rounds - 1)
    ways = {
        "message_to_hospital": sum(sent[middle]),
        "message_from_hospital": sum(received[middle]),
        "socket_to_hospital": marks[rounds][0] - marks[1][0],
        "socket_from_hospital": marks[rounds][1] - marks[1][1],
    }
    times = {way: total / exchanges / size for way, total in ways.items()}
    return {
        "weights": size // 4,
        "tls": tls,
        "bytes_of_weights": size,
        **{way: round(total / exchanges) for way, total in ways.items()},
        **{f"{way}_times": round(multiple, 3) for way, multiple in times.items()},
    }


def size_of(message: Message) -> int:
    """Size of a message in bytes as it is sent, without what gRPC adds."""
    _, serialised = serialise_reply(message)
    return serialised.size


def judge(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare the largest multiples with their targets, for messages and sockets."""
    targets = {}
    for sizes, limit, selected in (
        (f"from {MANY} weights on", MAX_TIMES_MANY, [case for case in cases if case["weights"] >= MANY]),
        ("default model", MAX_TIMES_DEFAULT, [case for case in cases if case["weights"] < MANY]),
    ):
        for layer in ("message", "socket"):
            found = [
                value for case in selected for key, value in case.items() if key.startswith(layer) and "_times" in key
            ]
            if found:
                targets[f"{layer}, {sizes}"] = judged(max(found), at_most=limit)
    return targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--weights", type=int, nargs="+", default=list(WEIGHTS), help="0 for the default model")
    flags = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    cases = [count(weights, flags.rounds, tls=tls) for weights in flags.weights for tls in (False, True)]
    show({"hospitals": HOSPITALS, "cases": cases, "targets": judge(cases)}, {"Bytes per round and hospital": cases})


if __name__ == "__main__":
    main()
