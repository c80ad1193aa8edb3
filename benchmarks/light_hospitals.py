"""Light hospitals, without Keras, for benchmarks of the stream: `python light_hospitals.py HOST:PORT FIRST LAST`.

Each is a thread with a connection of its own. Little is imported here: several such processes start at once.
"""

import logging
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks run from a checkout, not installed

from federated_health.data.tasks import HEART_DISEASE
from federated_health.hospital.ledger import Ledger
from federated_health.messages.content import CONFIG, EVALUATE, Evaluation, Registration, TrainingScores, Update
from federated_health.ml.metrics import Counts
from federated_health.ml.normalisation import ColumnSums
from federated_health.transport.interface import hospital_context
from federated_health.transport.stream_client import join_run

ROWS = 40
COUNTS = Counts(true_positives=ROWS, loss_sum=1.0)
WAIT = 120.0
"""Seconds for the server to be there."""


def light_app() -> ClientApp:
    """Takes a step from whatever weights it is sent; its counts are plausible, and its own in nothing."""
    app = ClientApp()
    centres = np.array([(one.low + one.high) / 2 for one in HEART_DISEASE.measurements])

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


def join_all(address: str, first: int, last: int) -> None:
    """Hospitals of these numbers, each in a thread; the code says how many failed."""
    logging.basicConfig(level=logging.ERROR)
    failed: list[str] = []
    # In memory where there is such a folder: 200 hospitals have 200 disks, and this machine has one.
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


if __name__ == "__main__":
    join_all(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
