"""Cost of differential privacy and secure aggregation: rounds over gRPC with the four heart hospitals; prints JSON.

Runs alternate, since machines are noisy: trust the ratios. All use mutual TLS. Times are those of rounds after the
first. Bytes are those of messages, without HTTP/2, in rounds after the first and before the last.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import quieten, time_rounds, write_uci
from flwr.common.serde import message_to_proto
from flwr.serverapp import Grid
from scripts import script_command

from federated_health import secure_aggregation
from federated_health.messages import content, validation
from federated_health.messages.run_terms import RunTerms
from federated_health.processes import free_port, process
from federated_health.security.authority import make_demo_identities
from federated_health.security.identity import load_identity
from federated_health.security.parties import Role
from federated_health.server.plain_run import make_run
from federated_health.server.run import FederatedRun
from federated_health.settings import Settings
from federated_health.transport.stream_server import serve_streams

KINDS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "private": {"dp_epsilon": 2.0},
    "secure aggregation": {"secure_aggregation": True},
    "both": {"dp_epsilon": 2.0, "secure_aggregation": True},
}

COUNTED_ROUNDS = range(2, 5)
"""Rounds whose messages are counted, in a run of one more that is not timed.

The first round is left out, since it evaluates nothing and holds the offers; so is the last, which is evaluated
separately.
"""


@contextmanager
def gathered(folder: Path, settings: Settings) -> Iterator[tuple[FederatedRun, Grid]]:
    """A run that has gathered its hospitals: the server in this process, each hospital in its own."""
    hospitals, address = write_uci(folder / "data"), f"127.0.0.1:{free_port()}"
    own, identities = make_demo_identities(folder / "tls", list(hospitals))
    with ExitStack() as stack:
        task, limits = settings.task_declaration, secure_aggregation if settings.secure_aggregation else validation
        agreement, largest = task.agreement, limits.max_reply_bytes(task, settings.network_declaration)
        tls, terms = load_identity(own, Role.SERVER), RunTerms.of(settings)
        grid = stack.enter_context(
            serve_streams(address, agreement, lambda _: None, max_message_bytes=largest, tls=tls, terms=terms.text)
        )
        for name, path in hospitals.items():
            command = script_command(
                *("client.py", "--data", path, "--name", name, "--server", address, "--tls", identities[name]),
                *("--accept", terms.hash),
            )
            stack.enter_context(process(command, log=path.with_name(f"{name}.log")))
        run = make_run(grid, settings)
        run.gather()
        yield run, grid


def time_run(settings: Settings) -> list[float]:
    """Seconds of each round after the first, in a new run."""
    with tempfile.TemporaryDirectory() as folder, gathered(Path(folder), settings) as (run, _):
        return time_rounds(run)


def count_bytes(settings: Settings) -> dict[str, int]:
    """Bytes per round and hospital, to the hospital and from it."""
    sent: list[int] = []
    received: list[int] = []
    short = replace(settings, rounds=COUNTED_ROUNDS.stop)
    with tempfile.TemporaryDirectory() as folder, gathered(Path(folder), short) as (run, grid):
        plain = grid.send_and_receive

        def count(messages: Any, *, timeout: float | None = None) -> Any:
            messages = list(messages)
            replies = list(plain(messages, timeout=timeout))
            # By number: a plain run sends round 2 before `rounds` yields round 1.
            if any(message.content[content.CONFIG].get(content.ROUND) in COUNTED_ROUNDS for message in messages):
                sent.extend(message_to_proto(message).ByteSize() for message in messages)
                received.extend(message_to_proto(reply).ByteSize() for reply in replies)
            return replies

        grid.send_and_receive = count  # type: ignore[method-assign]  # both kinds of runs call it
        for _ in run.rounds():
            pass
        hospitals = len(run.registrations)
    rounds = len(COUNTED_ROUNDS) * hospitals
    return {"to_hospital": round(sum(sent) / rounds), "from_hospital": round(sum(received) / rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    quieten()
    base = replace(Settings(), rounds=flags.rounds)
    kinds = {name: replace(base, **changes) for name, changes in KINDS.items()}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(flags.repeats):
        for name, settings in kinds.items():
            times[name] += time_run(settings)
    medians = {name: statistics.median(of) for name, of in times.items()}
    result = {
        name: {
            "median_round_ms": round(1000 * medians[name], 1),
            "over_plain": round(medians[name] / medians["plain"], 2),
            "bytes_per_round": count_bytes(settings),
        }
        for name, settings in kinds.items()
    }
    print(json.dumps({**result, "rounds": flags.rounds, "repeats": flags.repeats}, indent=2))


if __name__ == "__main__":
    main()
