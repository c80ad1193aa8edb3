"""Light hospitals, which answer at once with plausible numbers and need no Keras, for benchmarks of the stream.

`python light_hospitals.py threads HOST:PORT FIRST LAST` runs each as client.py does: a thread, a connection, an egress
ledger and reconnecting. `python light_hospitals.py loop HOST:PORT FIRST LAST [TLS]` runs them in one event loop, with a
connection each and nothing else: hundreds of threads per process are more than two cores can switch between, which
would hide what the server costs. Little is imported here, because several such processes start at once.
"""

import asyncio
import logging
import shutil
import sys
import tempfile
import threading
import uuid
from pathlib import Path

import grpc
import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks run from a checkout, not installed

from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.tasks import write_agreement
from federated_health.hospital.ledger import Ledger
from federated_health.messages.content import CONFIG, EVALUATE, Evaluation, Registration, TrainingScores, Update
from federated_health.ml.normalisation import ColumnSums
from federated_health.ml.targets.binary import Counts
from federated_health.security.identity import load_identity
from federated_health.security.parties import Role
from federated_health.transport.app_calls import call_app, hospital_context
from federated_health.transport.channels import CHANNEL_OPTIONS, MAX_MESSAGE_BYTES, PROTOCOL
from federated_health.transport.framing import Receiver, serialise_reply
from federated_health.transport.listening import open_files
from federated_health.transport.stream_client import JOIN_METHOD, join_run

ROWS = 40
COUNTS = Counts(true_positives=ROWS, loss_sum=1.0)
WAIT = 120.0
"""Seconds that a hospital waits for the server to start."""


def light_app() -> ClientApp:
    """A ClientApp that adds a constant to the weights that it receives and reports the same counts every time."""
    app = ClientApp()
    centres = np.array([(column.low + column.high) / 2 for column in HEART_DISEASE.measurements])

    @app.query("statistics")
    def register(message: Message, context: Context) -> Message:
        sums = ColumnSums(count=np.full(len(centres), float(ROWS)), total=ROWS * centres, squares=ROWS * centres**2)
        name = str(context.node_config["name"])
        registration = Registration(name=name, train_examples=ROWS, test_examples=ROWS, sums=sums)
        return Message(registration.to_content(), reply_to=message)

    @app.train()
    def train(message: Message, _context: Context) -> Message:
        arrays = message.content.array_records["arrays"]
        weights = {key: (array.numpy() + 0.001).astype(np.float32) for key, array in arrays.items()}
        counts = COUNTS if EVALUATE in message.content.config_records[CONFIG] else None
        return Message(Update(weights=weights, examples=ROWS, loss=1.0, counts=counts).to_content(), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, _context: Context) -> Message:
        return Message(Evaluation(counts=COUNTS).to_content(), reply_to=message)

    @app.evaluate("threshold")
    def score_training(message: Message, _context: Context) -> Message:
        return Message(
            TrainingScores(positives=np.empty((0, 3)), negatives=np.empty((0, 3))).to_content(), reply_to=message
        )

    app.evaluate("final")(evaluate)
    return app


def run_threads(address: str, first: int, last: int) -> None:
    """Run these hospitals, each in a thread; print the errors and exit with 1 if any failed."""
    logging.basicConfig(level=logging.ERROR)
    failed: list[str] = []
    # Ledgers are kept in memory where possible: real hospitals have a disk each, and this machine has one.
    memory = Path("/dev/shm")
    ledgers = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))

    def join(name: str) -> None:
        try:
            join_run(
                light_app(),
                hospital_context(name, {}),
                name=name,
                address=address,
                agreement=HEART_DISEASE.agreement,
                wait=WAIT,
                announce=lambda _: None,
                prepare=lambda: None,
                ledger=Ledger(ledgers / f"{name}.jsonl", name),
            )
        except Exception as error:
            failed.append(f"{name}: {error}")

    threads = [threading.Thread(target=join, args=(f"hospital-{number}",)) for number in range(first, last)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shutil.rmtree(ledgers)
    sys.exit("\n".join(failed) or None)


def open_channel(address: str, name: str, identities: Path | None) -> grpc.aio.Channel:
    if identities is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    tls = load_identity(identities / name, Role.HOSPITAL)
    credentials = grpc.ssl_channel_credentials(tls.authority_bytes, tls.read_key(), tls.certificate_bytes)
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


async def run_stream(app: ClientApp, address: str, name: str, identities: Path | None) -> None:
    """Answer the server for one hospital until the run is over."""
    context = hospital_context(name, {})
    agreement = write_agreement({"protocol": PROTOCOL, **HEART_DISEASE.agreement})
    metadata = (("hospital", name), ("terms", agreement), ("process", uuid.uuid4().hex))
    async with open_channel(address, name, identities) as channel:
        call = channel.stream_stream(JOIN_METHOD)(metadata=metadata, wait_for_ready=True)
        receiver = Receiver(MAX_MESSAGE_BYTES)
        async for part in call:
            if (message := receiver.add(part)) is not None:
                _, reply = serialise_reply(call_app(app, message, context))
                for content in reply.parts():
                    await call.write(content)


async def run_loop(address: str, first: int, last: int, identities: Path | None = None) -> None:
    """Run these hospitals in one event loop."""
    open_files(2 * (last - first) + 100)
    app = light_app()
    names = [f"hospital-{number}" for number in range(first, last)]
    await asyncio.gather(*(run_stream(app, address, name, identities) for name in names))


if __name__ == "__main__":
    kind, address, first, last, *identities = sys.argv[1:]
    if kind == "threads":
        run_threads(address, int(first), int(last))
    else:
        asyncio.run(run_loop(address, int(first), int(last), *map(Path, identities)))
