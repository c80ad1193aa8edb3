"""A federation of the checkout in the working directory, as forks of one process that has imported TensorFlow.

`python -m tests.support.forked_federation COMMANDS`, where COMMANDS is JSON: the server's command and the hospitals'.
"""

import json
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, "benchmarks")  # of which chaos_processes is one module

from tests.support.forks import forked


def main() -> None:
    serve, *joins = json.loads(sys.argv[1])
    with ExitStack() as stack:
        server = stack.enter_context(forked(serve, Path("server.txt")))
        hospitals = [
            stack.enter_context(forked(join, Path(f"{number}.txt"))) for number, join in enumerate(joins, start=1)
        ]
        codes = [server.wait(600), *(hospital.wait(120) for hospital in hospitals)]
    sys.exit(max(codes, key=abs))


if __name__ == "__main__":
    main()
