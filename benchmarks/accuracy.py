"""How well the default settings do on held-out patients of the four hospitals, over 20 split seeds; prints JSON.

Each split seed is one federation in process, through the same apps and strategies as over gRPC.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import measure, quieten, summarise, write_uci

from federated_health.settings import Settings, read_defaults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=20, help="split seeds 0, 1, ... (default: %(default)s)")
    parser.add_argument("--model", default="mlp")
    flags = parser.parse_args()
    quieten()
    settings = Settings.from_config({**read_defaults(), "model": flags.model})
    with tempfile.TemporaryDirectory() as folder:
        hospitals = write_uci(Path(folder))
        runs = [measure(hospitals, settings, seed) for seed in range(flags.splits)]
    result: dict[str, Any] = {"settings": settings.to_config(), "split_seeds": flags.splits, **summarise(runs)}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
