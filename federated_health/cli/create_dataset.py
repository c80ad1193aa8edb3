"""The command `create_dataset.py`: turns a data set into one CSV per hospital, and a manifest."""

import argparse
from pathlib import Path

from federated_health.cli import parsing
from federated_health.cli.console import print_figures, print_lines
from federated_health.data.data_check import MIN_PATIENTS
from federated_health.data.dataset_folder import PICTURE, write_example_patients, write_hospitals
from federated_health.data.manifest import MANIFEST
from federated_health.data.partitions import DEFAULT_ALPHA, KINDS, MAX_HOSPITALS, Partition, divide
from federated_health.data.sources.label_meaning import LabelMeaning, parse_label_meaning
from federated_health.data.sources.source import DEFAULT_PATIENTS, Source, generate_readmission, read_source, read_uci
from federated_health.errors import SettingsError
from federated_health.files import path_exists
from federated_health.setting_fields import DEFAULT_DATA
from federated_health.settings import Settings

GENERATED = "readmission"

EXAMPLES = (
    "",
    "--source heart.csv --by dirichlet --hospitals 5 --plot",
    "--source readmission --patients 40000",
    "--by size --ratios 8,4,2,1 --out data",
)


def label_meaning(text: str) -> LabelMeaning:
    """Type of --label-means."""
    try:
        return parse_label_meaning(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse() -> argparse.Namespace:
    """Parse the flags."""
    description = "Turns a data set into one CSV per hospital: client_1.csv, client_2.csv, ... and manifest.json."
    parser = parsing.CommandParser(description, examples=EXAMPLES)
    source = parser.add_argument_group("source of the rows")
    source.add_argument(
        "--source",
        default="uci",
        metavar="SOURCE",
        help="uci (920 patients of 4 hospitals, included here), readmission (generated patients), or the path "
        "of a CSV, a zip, or a folder with UCI's processed.*.data (default: %(default)s)",
    )
    source.add_argument(
        "--patients",
        type=parsing.count,
        metavar="N",
        help=f"with --source {GENERATED}: patients to generate (2 to 10,000,000; default: {DEFAULT_PATIENTS})",
    )
    source.add_argument(
        "--drop-invalid",
        action="store_true",
        help="drop and count rows of a file that break a rule of the task, but none for its label (default: stop with "
        "an error)",
    )
    source.add_argument(
        "--label-means",
        type=label_meaning,
        metavar="LABEL=VALUE",
        help="the value of the file's label that means the task's label, such as disease=1, disease=0 or disease=Yes; "
        "required if nothing else confirms it (default: as in the recognised layout)",
    )
    division = parser.add_argument_group("partition")
    division.add_argument(
        "--by",
        choices=KINDS,
        help="how to divide the rows: hospital (as in the data), iid (shuffled, equal sizes), dirichlet (skewed labels "
        "and sizes) or size (sizes by --ratios) (default: hospital, or iid if the data names no hospital)",
    )
    division.add_argument(
        "--hospitals",
        type=parsing.count,
        metavar="N",
        help=f"with --by iid or dirichlet: number of hospitals (1 to {MAX_HOSPITALS}; default: {Settings.hospitals})",
    )
    division.add_argument(
        "--alpha",
        type=parsing.number,
        metavar="A",
        help=f"with --by dirichlet: smaller is more skewed (0.001 to 1,000,000; default: {DEFAULT_ALPHA})",
    )
    division.add_argument(
        "--ratios",
        type=parsing.numbers,
        metavar="A,B,...",
        help="with --by size: ratios of the hospitals' sizes, such as 8,4,2,1 (each above 0; default: none)",
    )
    division.add_argument(
        "--seed",
        type=parsing.seed,
        default=Settings.seed,
        metavar="SEED",
        help="seed of the random draws: the same seed writes the same files (from 0; default: %(default)s)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", type=Path, default=Path(DEFAULT_DATA), metavar="DIR", help="folder for the CSVs (default: %(default)s)"
    )
    output.add_argument("--plot", action="store_true", help=f"also draw {PICTURE}: patients per hospital (default: no)")
    output.add_argument(
        "--force",
        action="store_true",
        help="overwrite files of another origin and changed files (default: stop with an error)",
    )
    flags = parser.parse_args()
    for flag, given in (("--drop-invalid", flags.drop_invalid), ("--label-means", flags.label_means)):
        if flags.source in ("uci", GENERATED) and given:
            parser.error(f"{flag}: expected a file as --source, got {flags.source}")
    if flags.source != GENERATED and flags.patients is not None:
        parser.error(f"--patients: expected --source {GENERATED}, got {flags.source}")
    if flags.source not in ("uci", GENERATED) and not path_exists(Path(flags.source or "?")):
        parser.error(f"--source: expected uci, {GENERATED}, or an existing file, zip or folder, got {flags.source!r}")
    return flags


def read(flags: argparse.Namespace) -> Source:
    """The source that the flags name."""
    if flags.source == "uci":
        return read_uci()
    if flags.source == GENERATED:
        return generate_readmission(flags.patients or DEFAULT_PATIENTS, flags.seed)
    return read_source(Path(flags.source), drop_invalid=flags.drop_invalid, label_meaning=flags.label_means)


def make_partition(flags: argparse.Namespace, by: str) -> Partition:
    """The partition that the flags describe."""
    hospitals = Settings.hospitals if flags.hospitals is None and by in ("iid", "dirichlet") else flags.hospitals
    alpha = DEFAULT_ALPHA if flags.alpha is None and by == "dirichlet" else flags.alpha
    return Partition(by=by, seed=flags.seed, hospitals=hospitals, alpha=alpha, ratios=flags.ratios)


def main() -> None:
    """Read the source, partition it and write the hospitals' CSVs."""
    flags = parse()
    partition = make_partition(flags, flags.by) if flags.by else None  # wrong flags fail before the source is read
    source = read(flags)
    partition = partition or make_partition(flags, "hospital" if source.has_hospitals else "iid")
    hospitals = divide(source, partition)
    manifest = write_hospitals(
        flags.out, source, hospitals, partition=partition.describe(), plot=flags.plot, force=flags.force
    )
    write_example_patients(flags.out, source.task.name)
    print_lines(f"{source.title}: {len(source.table)} patients", source.remarks())
    label = source.task.label.name
    figures = {
        f"{entry['file']}  {entry['name']}": {
            "patients": entry["rows"],
            f"{label} = 1": entry["labels"]["1"],
            f"{label} = 0": entry["labels"]["0"],
        }
        for entry in manifest["hospitals"]
    }
    noun = "hospital" if len(figures) == 1 else "hospitals"
    print_figures(f"{source.task.name}: {len(figures)} {noun}, by {partition.by}", figures)
    if small := sum(entry["rows"] < MIN_PATIENTS for entry in manifest["hospitals"]):
        have = "hospital has" if small == 1 else "hospitals have"
        print_lines(f"{small} {have} fewer than {MIN_PATIENTS} rows and cannot join", [])
    print_lines(f"wrote {flags.out / MANIFEST}" + (f" and {PICTURE}" if flags.plot else ""), [])
