"""The command `create_dataset.py`: turns a data set into one CSV per hospital, and a manifest."""

import argparse
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federated_health.cli import parsing
from federated_health.cli.console import print_lines
from federated_health.cli.tables import print_figures
from federated_health.data.data_check import MIN_PATIENTS, min_patients
from federated_health.data.dataset_folder import MAX_PAIRS, PICTURE, write_example_patients, write_hospitals
from federated_health.data.manifest import MANIFEST
from federated_health.data.partitions import (
    DEFAULT_ALPHA,
    KINDS,
    MAX_HOSPITALS,
    Partition,
    count_patients,
    count_shared_patients,
    divide,
    find_small_hospitals,
    group_patients,
)
from federated_health.data.sources.label_meaning import LabelMeaning, parse_label_meaning
from federated_health.data.sources.source import (
    DEFAULT_PATIENTS,
    Source,
    generate_readmission,
    read_diabetes,
    read_source,
    read_uci,
)
from federated_health.data.task_files import (
    HEART_DISEASE,
    READMISSION_30D,
    TASKS,
    get_task,
    read_task_file,
    task_name,
)
from federated_health.data.tasks import Task
from federated_health.errors import SettingsError
from federated_health.files import path_exists
from federated_health.names import DEFAULT_DATA, printable
from federated_health.settings import Settings

UCI, DIABETES, GENERATED = BUILT_IN = "uci", "diabetes", "readmission"
"""Values of --source for rows that come with the package or are generated."""

DEFAULT_HOSPITALS = {READMISSION_30D.name: 2}
"""Name of a task -> number of hospitals among which its patients are divided; of other tasks, as a server expects."""

MAX_MERGED = 10
"""Largest number of merged values that the console names; the manifest has all of them."""

EXAMPLES = (
    "",
    "--source diabetes",
    "--source diabetes --hospital-column payer_code",
    "--source diabetes --by dirichlet --hospitals 20",
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
    add_source(parser)
    add_division(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        type=parsing.path,
        default=Path(DEFAULT_DATA),
        metavar="DIR",
        help="folder for the CSVs (default: %(default)s)",
    )
    output.add_argument("--plot", action="store_true", help=f"also draw {PICTURE}: patients per hospital (default: no)")
    output.add_argument(
        "--force",
        action="store_true",
        help="overwrite files of another origin and changed files (default: stop with an error)",
    )
    flags = parser.parse_args()
    check_source(parser, flags)
    return flags


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name the source."""
    source = parser.add_argument_group("source of the rows")
    source.add_argument(
        "--source",
        type=task_name,
        default=UCI,
        metavar="SOURCE",
        help="included here: uci (heart disease, 920 patients of 4 hospitals), diabetes (99,340 stays of 69,987 "
        "diabetes patients); generated: readmission or readmission-generated; or the path of a CSV, a zip, or a folder "
        "with UCI's processed.*.data or diabetic_data.csv (default: %(default)s)",
    )
    source.add_argument(
        "--mapping",
        type=parsing.path,
        metavar="FILE",
        help="mapping file that states how SOURCE writes the columns of --task or --task-file (default: none)",
    )
    source.add_argument(
        "--task",
        type=task_name,
        choices=tuple(TASKS),
        metavar="TASK",
        help=f"task of a file: {', '.join(TASKS)} (default: by its header; --mapping requires --task or --task-file)",
    )
    source.add_argument(
        "--task-file",
        type=parsing.path,
        metavar="FILE",
        help="task file of your own, instead of --task; with --source uci, one that predicts a column of UCI's table, "
        "such as its num (default: none)",
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
        help="drop and count rows with an invalid cell, unless it is the label (default: stop with an error)",
    )
    source.add_argument(
        "--label-means",
        type=label_meaning,
        metavar="LABEL=VALUE",
        help="the value of the file's label that means 1, such as disease=1, disease=0 or disease=Yes; required if "
        "nothing else confirms it (default: as in the recognised layout)",
    )


def add_division(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the partition."""
    division = parser.add_argument_group("partition")
    division.add_argument(
        "--by",
        choices=KINDS,
        help="how to divide the rows: hospital (as in the data), iid (shuffled, equal sizes), dirichlet (skewed labels "
        "and sizes) or size (sizes by --ratios) (default: hospital, or iid if the data names no hospital)",
    )
    division.add_argument(
        "--hospital-column",
        metavar="NAME",
        help="a column of the data or the task whose values are the hospitals, such as medical_specialty of --source "
        "diabetes; implies --by hospital (default: that of the data)",
    )
    division.add_argument(
        "--hospitals",
        type=parsing.count,
        metavar="N",
        help=f"with --by iid or dirichlet: number of hospitals (1 to {MAX_HOSPITALS}; default: {Settings.hospitals}, "
        f"and {DEFAULT_HOSPITALS[READMISSION_30D.name]} for the task {READMISSION_30D.name})",
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
        "--min-patients",
        type=parsing.count,
        metavar="N",
        help="smallest number of different patients per hospital; with --by hospital, smaller ones are left out, with "
        "--hospital-column merged into one, otherwise the partition is drawn anew or refused (from 1; joining needs "
        f"{MIN_PATIENTS}; default: 1, and what joining needs with --hospital-column)",
    )
    division.add_argument(
        "--seed",
        type=parsing.seed,
        default=Settings.seed,
        metavar="SEED",
        help="seed of the random draws: the same seed writes the same files (from 0; default: %(default)s)",
    )


def check_source(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> None:
    """End with a usage error if flags of the source contradict each other."""
    of_a_file = ("drop_invalid", "label_means", "task", "task_file", "mapping")
    for flag, given in ((f"--{name.replace('_', '-')}", getattr(flags, name)) for name in of_a_file):
        if flags.source in BUILT_IN and given and (flag, flags.source) != ("--task-file", UCI):
            parser.error(f"{flag}: expected a file as --source, got {flags.source}")
    if flags.source != GENERATED and flags.patients is not None:
        parser.error(f"--patients: expected --source {GENERATED}, got {flags.source}")
    if flags.source not in BUILT_IN and not path_exists(Path(flags.source or "?")):
        parser.error(
            f"--source: expected {', '.join(BUILT_IN)}, or an existing file, zip or folder, got {flags.source!r}"
        )
    if flags.task and flags.task_file:
        parser.error("expected --task or --task-file, got both")
    if flags.mapping is not None and not (flags.task or flags.task_file):
        parser.error("--mapping: also expected --task NAME or --task-file FILE, got neither")
    if flags.mapping is not None and flags.label_means is not None:
        parser.error("--label-means: expected without --mapping, whose codes state what the label means")


def read(flags: argparse.Namespace) -> Source:
    """The source that the flags name."""
    if flags.source == UCI:
        return read_uci(read_task_file(flags.task_file) if flags.task_file else HEART_DISEASE)
    if flags.source == DIABETES:
        return read_diabetes()
    if flags.source == GENERATED:
        return generate_readmission(flags.patients or DEFAULT_PATIENTS, flags.seed)
    task = read_task_file(flags.task_file) if flags.task_file else get_task(flags.task) if flags.task else None
    if flags.mapping is not None and task is not None:
        from federated_health.data.exports.mappings import read_mapping  # noqa: PLC0415  # other sources need none
        from federated_health.data.sources.mapped import read_mapped  # noqa: PLC0415  # other sources need none

        return read_mapped(Path(flags.source), read_mapping(flags.mapping, task), drop_invalid=flags.drop_invalid)
    return read_source(Path(flags.source), task=task, drop_invalid=flags.drop_invalid, label_meaning=flags.label_means)


def make_partition(flags: argparse.Namespace, by: str, task: Task | None = None) -> Partition:
    """The partition that the flags describe; without the task, one that only shows whether the flags are valid."""
    hospitals = flags.hospitals
    if hospitals is None and by in ("iid", "dirichlet"):
        hospitals = DEFAULT_HOSPITALS.get(task.name if task else "", Settings.hospitals)
    return Partition(
        by=by,
        seed=flags.seed,
        hospitals=hospitals,
        alpha=DEFAULT_ALPHA if flags.alpha is None and by == "dirichlet" else flags.alpha,
        ratios=flags.ratios,
        column=flags.hospital_column,
        min_patients=flags.min_patients,
    )


def describe_patients(source: Source, partition: Partition) -> tuple[dict[str, Any], list[str]]:
    """Hospitals that are left out or merged, and patients of several: for the manifest, and for the console."""
    if partition.column is not None:
        return describe_groups(source, partition)
    facts: dict[str, Any] = {}
    notes = []
    if left_out := find_small_hospitals(source, partition):
        facts["left_out"] = left_out
        names = ", ".join(f"{name} ({rows} rows)" for name, rows in left_out.items())
        notes.append(f"left out, with fewer than {partition.min_patients} different patients: {names}")
    if partition.by == "hospital" and (shared := count_shared_patients(source)) is not None:
        facts["patients_at_several_hospitals"] = shared
        notes.append(f"{shared} patients have rows at several hospitals")
    return facts, notes


def describe_groups(source: Source, partition: Partition) -> tuple[dict[str, Any], list[str]]:
    """Values of the partition's column that are merged, and patients with several values, as `describe_patients`."""
    groups = group_patients(source, partition)
    notes = []
    if groups.with_several_values:
        have = "1 patient has" if groups.with_several_values == 1 else f"{groups.with_several_values} patients have"
        notes.append(f"{have} several values of {printable(str(partition.column))}; the first row decides")
    if groups.merged:
        names = [f"{name} ({patients})" for name, patients in groups.merged.items()]
        more = f", and {len(names) - MAX_MERGED} more" if len(names) > MAX_MERGED else ""
        values = "1 value is" if len(names) == 1 else f"{len(names)} values are"
        notes.append(
            f"{values} merged into {groups.names[-1]}, for at least {groups.min_patients} patients per hospital:"
        )
        shown = ", ".join(names[:MAX_MERGED]) + more
        notes += textwrap.wrap(
            shown, 76, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
        )
    facts = {
        "min_patients": groups.min_patients,
        "patients_with_several_values": groups.with_several_values,
        "merged": dict(groups.merged),
    }
    return facts, notes


def describe_hospital(entry: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """A hospital's row in the console's table, from its entry in the manifest."""
    label, labels = task.label, entry["labels"]
    if "patients" not in entry:
        codes = (1, 0) if label.kind == "binary" else label.classes
        return {task.noun: entry["rows"], **{f"{label.name} = {code}": labels[str(code)] for code in codes}}
    counts = {"patients": entry["patients"], "rows": entry["rows"]}
    if label.kind != "binary":
        return counts | {f"{label.name} = {code}": labels[str(code)] for code in label.classes}
    return {**counts, f"{label.name} = 1": labels["1"], "in %": f"{100 * labels['1'] / entry['rows']:.1f}"}


def main() -> None:
    """Read the source, partition it and write the hospitals' CSVs."""
    flags = parse()
    by = flags.by or ("hospital" if flags.hospital_column is not None else None)
    if by:
        make_partition(flags, by)  # wrong flags fail before the source is read
    source = read(flags)
    partition = make_partition(flags, by or ("hospital" if source.has_hospitals else "iid"), source.task)
    hospitals = divide(source, partition)
    facts, notes = describe_patients(source, partition)
    manifest = write_hospitals(
        flags.out, source, hospitals, partition={**partition.describe(), **facts}, plot=flags.plot, force=flags.force
    )
    write_example_patients(flags.out, source.task)
    task, label = source.task, source.task.label
    size = f"{len(source.table)} {task.noun}"
    if task.patient in source.table:
        size += f" of {source.table[task.patient].nunique()} patients"
    print_lines(f"{source.title}: {size}", source.remarks())
    figures = {f"{entry['file']}  {entry['name']}": describe_hospital(entry, task) for entry in manifest["hospitals"]}
    noun = "hospital" if len(figures) == 1 else "hospitals"
    print_figures(f"{task.name}: {len(figures)} {noun}, by {printable(partition.column or partition.by)}", figures)
    if notes:
        print_lines("patients", notes)
    minimum = min_patients(label)
    if small := sum(count_patients(rows, task) < minimum for rows in hospitals.values()):
        have = "hospital has" if small == 1 else "hospitals have"
        remedy = "" if flags.min_patients else f"; see --min-patients {minimum}"
        print_lines(f"{small} {have} fewer than {minimum} different patients and cannot join{remedy}", [])
    if repeated := manifest.get("repeated_rows"):
        lines = [f"{' and '.join(pair['hospitals'])}: {pair['rows']} distinct rows" for pair in repeated]
        title = "hospitals share rows that are equal in every column: are they the same patients?"
        print_lines(title, [*lines, *(["and possibly more pairs"] if len(lines) == MAX_PAIRS else [])])
    print_lines(f"wrote {flags.out / MANIFEST}" + (f" and {PICTURE}" if flags.plot else ""), [])
