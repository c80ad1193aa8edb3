"""`client.py` that saves every update that it makes unencrypted, for a test, and evaluates slowly.

`python -m tests.support.recording_client FOLDER [client.py's flags]`
"""

import federated_health  # noqa: F401  # isort: skip  # first, for what the package says to gRPC

import sys
import time
from pathlib import Path

import numpy as np
from flwr.app import Context, Message

import client
import utils
from federated_health.cli.client import run_client
from federated_health.hospital import handlers
from federated_health.messages.content import Evaluation, Update

PAUSE = 4.0
"""Seconds per evaluation, during which the server still holds the updates of the round."""


def main() -> None:
    folder = Path(sys.argv.pop(1))
    train, evaluate = handlers.train, handlers.evaluate

    def record_update(message: Message, context: Context) -> Update:
        update = train(message, context)
        flat = np.concatenate([array.ravel() for array in update.weights.values()])
        number = int(str(message.content.config_records["config"]["server-round"]))
        partial = folder / f"{number}-{context.node_config['name']}.partial.npy"
        np.save(partial, flat)
        partial.rename(folder / f"{number}-{context.node_config['name']}.npy")
        return update

    def evaluate_slowly(message: Message, context: Context) -> Evaluation:
        time.sleep(PAUSE)
        return evaluate(message, context)

    vars(handlers).update(train=record_update, evaluate=evaluate_slowly)
    utils.run_script(lambda: run_client(client.app))


if __name__ == "__main__":
    main()
