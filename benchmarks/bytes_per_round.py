"""Bytes that a round takes, each way, for each hospital, against four bytes a weight; JSON and a table.

`message` is a message as it is serialised; `socket` is what passes through the sockets, with HTTP/2's and TLS's own,
counted by a relay between the hospitals and the server. Rounds after the first, and before the last, whose evaluation
goes alone. The hospitals are light (light_hospitals.py): of the default model they answer what real ones do.
"""

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import light_hospitals  # noqa: F401  # finds the project
from flwr.common.serde import message_to_proto
from light_federation import light_federation
from measuring import judged, show

HOSPITALS = 4
WEIGHTS = (0, 100_000, 1_000_000)
MANY, OF_MANY, OF_DEFAULT = 100_000, 1.1, 1.5
"""From so many weights on, at most so many times their size; and with the default model."""


def count(weights: int, rounds: int, *, tls: bool) -> dict[str, Any]:
    """One case; 0 weights for the default model."""
    sent: list[int] = []
    received: list[int] = []
    marks = []
    with tempfile.TemporaryDirectory() as folder:
        identities = Path(folder) / "tls" if tls else None
        with light_federation(HOSPITALS, rounds, weights=weights, tls=identities, meter=True) as (made, grid, meter):
            assert meter is not None, "it was asked for"
            plain = grid.send_and_receive

            def counting(messages: Any, *, timeout: float | None = None) -> Any:
                messages = list(messages)
                marks.append((meter.to_hospitals, meter.from_hospitals))
                replies = list(plain(messages, timeout=timeout))
                sent.append(sum(message_to_proto(one).ByteSize() for one in messages))
                received.append(sum(message_to_proto(one).ByteSize() for one in replies))
                return replies

            grid.send_and_receive = counting
            made.gather()
            for _ in made.rounds():
                pass
            size = 4 * sum(array.size for array in made.weights.values())
    # An exchange begins where the one before has ended: what is counted lies between the second's and the last's begin.
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
        **{f"{way}_times": round(one, 3) for way, one in times.items()},
    }


def judge(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The worst of the sizes that a target is for, as messages and on the sockets."""
    targets = {}
    for words, most, of in (
        (f"from {MANY} weights on", OF_MANY, [one for one in cases if one["weights"] >= MANY]),
        ("default model", OF_DEFAULT, [one for one in cases if one["weights"] < MANY]),
    ):
        for what in ("message", "socket"):
            found = [value for one in of for key, value in one.items() if key.startswith(what) and "_times" in key]
            if found:
                targets[f"{what}, {words}"] = judged(max(found), at_most=most)
    return targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--weights", type=int, nargs="+", default=list(WEIGHTS), help="0 for the default model")
    flags = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    cases = [count(weights, flags.rounds, tls=tls) for weights in flags.weights for tls in (False, True)]
    show({"hospitals": HOSPITALS, "cases": cases, "targets": judge(cases)}, {"Bytes a round and hospital": cases})


if __name__ == "__main__":
    main()
