"""Turn a data set into one CSV a hospital: client_1.csv, client_2.csv, ... and manifest.json."""

from pathlib import Path

import utils
from federated_health.partitions import MANIFEST, partition_by_hospital, write_hospitals
from federated_health.settings import PROJECT_FILE, read_defaults
from federated_health.sources import read_uci

FULL_DATASET = PROJECT_FILE.parent / "data" / "full_dataset.csv"


def create() -> None:
    """Parse the flags, read the source, partition it and write the hospitals' CSVs."""
    defaults = read_defaults()
    parser = utils.make_parser("Turns a data set into one CSV a hospital, and a manifest.")
    parser.add_argument(
        "--source",
        choices=("uci",),
        default="uci",
        help="uci: 920 patients of four hospitals, UCI Heart Disease, which comes with the project (default)",
    )
    parser.add_argument("--out", type=Path, default=Path(str(defaults["data"])), help="default: %(default)s")
    parser.add_argument(
        "--seed",
        type=utils.seed,
        default=defaults["seed"],
        help="recorded; the natural split draws nothing",
    )
    parser.add_argument("--force", action="store_true", help="overwrite CSVs that are not ours, or were changed")
    flags = parser.parse_args()
    source = read_uci(FULL_DATASET)
    manifest = write_hospitals(
        flags.out,
        source,
        partition_by_hospital(source.table),
        partition={"by": "hospital", "seed": flags.seed},
        force=flags.force,
    )
    label = source.task.label.name
    utils.print_figures(
        f"{source.task.name}: {len(source.table)} patients of {len(manifest['hospitals'])} hospitals",
        {
            f"{flags.out / entry['file']}  {entry['name']}": {
                "patients": entry["rows"],
                f"{label} = 1": entry["labels"]["1"],
                f"{label} = 0": entry["labels"]["0"],
            }
            for entry in manifest["hospitals"]
        },
    )
    utils.console.print(f"wrote {flags.out / MANIFEST}", soft_wrap=True)


if __name__ == "__main__":
    utils.run_door(create)
