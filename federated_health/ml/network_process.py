"""A process that builds and checks the network of a file, for a process without Keras.

`python -m federated_health.ml.network_process` reads one request from stdin, and answers with a description on stdout,
or with an error's text and the exit code REFUSED.
"""

import json
import os
import sys
from pathlib import Path

from federated_health.data.task_files import parse_task
from federated_health.errors import NetworkError
from federated_health.ml.network_file import REFUSED, check_network, write_description
from federated_health.ml.networks import FILE, Network


def main() -> None:
    """Answer the request; the file's own output goes to stderr."""
    answer_to = os.dup(1)
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    from federated_health.ml.backend import load_keras  # noqa: PLC0415  # only in this process

    load_keras()
    network = Network(FILE, sha256=request["sha256"], path=Path(request["path"]))
    try:
        task = parse_task(request["task"].encode(), "task")
        answer, code = write_description(check_network(task, network, request["seed"])), 0
    except NetworkError as error:
        answer, code = str(error).encode(), REFUSED
    with os.fdopen(answer_to, "wb") as file:
        file.write(answer)
    sys.stderr.flush()
    os._exit(code)  # without Python's clean-up, which takes a second after TensorFlow


if __name__ == "__main__":
    main()
