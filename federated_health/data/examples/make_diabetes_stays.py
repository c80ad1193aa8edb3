"""Makes diabetes_stays.csv.gz from UCI's zip: `python -m federated_health.data.examples.make_diabetes_stays ZIP`."""

import argparse
import gzip
from pathlib import Path

from federated_health.data.examples import DIABETES_STAYS
from federated_health.data.sources.diabetes_columns import CARRIED
from federated_health.data.sources.diabetes_stays import read_stays
from federated_health.data.sources.recognition import read_contents, recognise_file
from federated_health.errors import DataError
from federated_health.files import write_bytes


def carried_table(path: Path) -> bytes:
    """The table that the package carries, as a CSV, from UCI's zip or a copy of its `diabetic_data.csv`.

    Raises:
        DataError: the file is neither.
    """
    contents = read_contents(path)
    if len(contents) != 1:
        raise DataError(f"{path}: expected UCI's zip with one table of stays, got {len(contents)} tables")
    [(name, content)] = contents.items()
    file = recognise_file(name, content, path)
    stays, _ = read_stays(file.text, file.name)
    return stays[list(CARRIED)].to_csv(index=False, lineterminator="\n").encode()


def main() -> None:
    """Write the table of the file that the command line names into the package."""
    parser = argparse.ArgumentParser(description="Makes the package's table of diabetes stays.")
    parser.add_argument("zip", type=Path, metavar="ZIP", help="UCI's dataset_diabetes.zip")
    try:
        table = carried_table(parser.parse_args().zip)
    except DataError as error:
        parser.error(str(error))
    write_bytes(DIABETES_STAYS, gzip.compress(table, mtime=0))


if __name__ == "__main__":
    main()
