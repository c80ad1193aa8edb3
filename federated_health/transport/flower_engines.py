"""What is particular to the grids of Flower's own engines: which one it is, whom it knows, and how it is asked.

They are told by name, so that a process of another kind need not import Flower's server.
"""

import time
from collections.abc import Iterable

from flwr.app import Message
from flwr.serverapp import Grid

PULL_INTERVAL = 0.25
"""Seconds between two looks for replies of a deployment; Flower's own `send_and_receive` looks every three."""


def is_simulation(grid: Grid) -> bool:
    """Whether hospitals are virtual nodes of Flower's simulation."""
    return type(grid).__name__ == "InMemoryGrid"


def is_deployment(grid: Grid) -> bool:
    """Whether hospitals are SuperNodes of Flower's deployment."""
    return type(grid).__name__ == "HttpGrid"


def registered_names(grid: Grid) -> dict[int, str]:
    """Node id -> the name that the operator registered its key under, in a deployment; other nodes have none.

    The SuperLink lets a node in by its key, so the name is as good as the key: no hospital can pose as another.
    """
    return {node.node_id: node.name for node in grid.get_nodes() if node.name} if is_deployment(grid) else {}


def exchange(grid: Grid, questions: Iterable[Message], timeout: float) -> list[Message]:
    """Send messages, and return the replies that come within the timeout, in seconds."""
    if not is_deployment(grid):
        return list(grid.send_and_receive(questions, timeout=timeout))
    deadline, replies = time.monotonic() + timeout, list[Message]()
    waiting = {key for key in grid.push_messages(questions) if key}  # none where one cannot be delivered
    while waiting and time.monotonic() < deadline:
        found = list(grid.pull_messages(waiting))
        replies += found
        waiting -= {reply.metadata.reply_to_message_id for reply in found}
        if waiting:
            time.sleep(PULL_INTERVAL)
    return replies
