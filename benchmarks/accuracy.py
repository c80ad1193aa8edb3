"""Figures of the default settings on held-out patients, over 20 split seeds; prints JSON.

By default for the four hospitals. Each split seed is one run in process, with the same apps and strategies as over
gRPC.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import measure, quieten, summarise, write_source

from federated_health.data.partitions import Partition
from federated_health.data.sources.source import read_source, read_uci
from federated_health.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=20, help="split seeds 0, 1, ... (default: %(default)s)")
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--source", type=Path, help="a file for create_dataset.py, such as Kaggle's heart.csv")
    parser.add_argument("--hospitals", type=int, help="divide the patients among this many hospitals, --by iid")
    flags = parser.parse_args()
    quieten()
    source = read_source(flags.source) if flags.source else read_uci()
    partition = Partition(by="iid" if flags.hospitals else "hospital", seed=42, hospitals=flags.hospitals)
    with tempfile.TemporaryDirectory() as folder:
        hospitals = write_source(Path(folder), source, partition)
        settings = Settings.from_config({"model": flags.model, "task": source.task.name, "hospitals": len(hospitals)})
        runs = [measure(hospitals, settings, seed) for seed in range(flags.splits)]
    result: dict[str, Any] = {"settings": settings.to_config(), "split_seeds": flags.splits, **summarise(runs)}
    print(json.dumps({"source": source.title, "partition": partition.describe(), **result}, indent=2))


if __name__ == "__main__":
    main()
