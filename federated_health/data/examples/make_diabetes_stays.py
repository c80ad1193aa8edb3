"""Makes diabetes_stays.csv.gz from UCI's zip: `python -m federated_health.data.examples.make_diabetes_stays ZIP`."""

import argparse
import gzip
from pathlib import Path

from federated_health.data.examples import DIABETES_STAYS
from federated_health.data.sources.diabetes_columns import CARRIED
from federated_health.data.sources.diabetes_stays import read_stays
from federated_health.data.sources.recognition import read_contents, recognise_file
from federated_health.files import write_bytes


def carried_table(path: Path) -> bytes:
    """The table that the package carries, as a CSV, from UCI's zip or a copy of its `diabetic_data.csv`."""
    [(name, content)] = read_contents(path).items()
    file = recognise_file(name, content, path)
    stays, _ = read_stays(file.text, file.name)
    return stays[list(CARRIED)].to_csv(index=False, lineterminator="\n").encode()


def main() -> None:
    """Write the table of the file that the command line names into the package."""
    parser = argparse.ArgumentParser(description="Makes the package's table of diabetes stays.")
    parser.add_argument("zip", type=Path, metavar="ZIP", help="UCI's dataset_diabetes.zip")
    write_bytes(DIABETES_STAYS, gzip.compress(carried_table(parser.parse_args().zip), mtime=0))


if __name__ == "__main__":
    main()
