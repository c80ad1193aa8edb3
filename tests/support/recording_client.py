"""`client.py` that saves its updates, and waits while a test searches the server's memory."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from chaos_processes import run_script
from flwr.app import Context, Message

from federated_health.hospital import handlers
from federated_health.messages.content import Evaluation, Update


def run_recording_client(folder: Path, flags: Sequence[str]) -> None:
    """Run `client.py` with these flags in a process of its own.

    Each update goes to ROUND-NAME.npy in the folder. When the next message arrives, and the server has the update
    of every hospital, the hospital creates ROUND-NAME.next and holds its reply until there is ROUND.searched.
    """
    train, evaluate = handlers.train, handlers.evaluate
    last_round = 0

    def wait_for_search(name: str) -> None:
        if last_round:
            (folder / f"{last_round}-{name}.next").touch()
            while not (folder / f"{last_round}.searched").exists():
                time.sleep(0.02)

    def record_update(message: Message, context: Context) -> Update:
        nonlocal last_round
        name = str(context.node_config["name"])
        wait_for_search(name)
        update = train(message, context)
        last_round = int(str(message.content.config_records["config"]["server-round"]))
        np.save(
            folder / f"{last_round}-{name}.npy", np.concatenate([array.ravel() for array in update.weights.values()])
        )
        return update

    def evaluate_after_search(message: Message, context: Context) -> Evaluation:
        wait_for_search(str(context.node_config["name"]))
        return evaluate(message, context)

    vars(handlers).update(train=record_update, evaluate=evaluate_after_search)
    run_script("client.py", flags)
