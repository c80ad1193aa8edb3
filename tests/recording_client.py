"""`client.py` that writes down, for a test and in plain, every update that it makes, and takes its time to evaluate.

`python -m tests.recording_client FOLDER ...client.py's flags...`
"""

import federated_health  # noqa: F401  # isort: skip  # first, for what the package says to gRPC

import sys
import time
from pathlib import Path

import numpy as np
from flwr.app import Context, Message

from federated_health.hospital import handlers
from federated_health.messages.content import Evaluation, Update

PAUSE = 4.0
"""Seconds of an evaluation, in which a server holds the updates of the round."""


def main() -> None:
    folder = Path(sys.argv.pop(1))
    train, evaluate = handlers.train_round, handlers.evaluate_round

    def train_round(message: Message, context: Context) -> Update:
        update = train(message, context)
        flat = np.concatenate([array.ravel() for array in update.weights.values()])
        number = int(str(message.content.config_records["config"]["server-round"]))
        partial = folder / f"{number}-{context.node_config['name']}.partial.npy"
        np.save(partial, flat)
        partial.rename(folder / f"{number}-{context.node_config['name']}.npy")
        return update

    def evaluate_round(message: Message, context: Context) -> Evaluation:
        time.sleep(PAUSE)
        return evaluate(message, context)

    vars(handlers).update(train_round=train_round, evaluate_round=evaluate_round)
    import client  # only now, since it takes what it answers with
    import utils

    utils.run_script(client.main)


if __name__ == "__main__":
    main()
