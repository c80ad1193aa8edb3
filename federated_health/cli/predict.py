"""The command `predict.py`: scores the patients of a CSV with a saved model."""

import argparse
import sys

import numpy as np

from federated_health.cli import parsing
from federated_health.cli.output import write_output
from federated_health.data.patient_table import read_patients
from federated_health.errors import DataError
from federated_health.files import write_bytes
from federated_health.ml.model_files import read_description
from federated_health.ml.predictions import DECIMALS, find_site, load_task_model, predict_columns, read_sites, read_task
from federated_health.ml.targets import target_of

EXAMPLES = (
    "runs/first/model.keras data/example_patients.csv",
    "runs/first/model.keras patients.csv --out risk.csv",
    "runs/first/model.keras patients.csv --site switzerland",
)


def parse() -> argparse.Namespace:
    """Parse the flags."""
    parser = parsing.CommandParser(
        "Scores the patients of a CSV with a saved model. Adds columns: risk, a probability, and prediction, 1 if the "
        "risk reaches the model's threshold and 0 otherwise. For a label of classes, probability_CODE of each and "
        "prediction, the most probable code; for a number, prediction; for a count, expected, the expected number.",
        examples=EXAMPLES,
    )
    help_text = "a model.keras that server.py or client.py saved"
    parser.add_argument("model", type=parsing.path, metavar="MODEL", help=help_text)
    help_text = (
        "CSV with the columns and units of the model's task, or, with --mapping, an export; cells may be empty, and "
    )
    help_text += "other columns are kept"
    parser.add_argument("patients", type=parsing.path, metavar="PATIENTS", help=help_text)
    help_text = "stop unless this task file declares the same task as the model (default: no such check)"
    parser.add_argument("--task-file", type=parsing.path, metavar="FILE", help=help_text)
    help_text = "mapping file that states how PATIENTS writes the task's columns; the output keeps PATIENTS' columns, "
    help_text += "separator, decimal mark and encoding (default: none)"
    parser.add_argument("--mapping", type=parsing.path, metavar="FILE", help=help_text)
    help_text = "recalibrate the risks for the patients of this hospital, as fitted there at the end of the run; "
    help_text += "predictions stay the same, since the threshold is recalibrated, too (default: no "
    help_text += "recalibration)"
    parser.add_argument("--site", metavar="NAME", help=help_text)
    help_text = "file for the CSV with the new columns (default: standard output)"
    parser.add_argument("--out", type=parsing.path, metavar="FILE", help=help_text)
    return parser.parse_args()


def main() -> None:
    """Read the patients, score them, and write them with their predictions."""
    flags = parse()
    task, threshold = read_task(flags.model, flags.task_file)
    site = None
    if flags.site is not None:
        site = find_site(read_sites(read_description(flags.model), str(flags.model)), flags.site, str(flags.model))
    separator, decimal, encoding = ",", ".", "utf-8"
    if flags.mapping is not None:
        from federated_health.data.exports.mappings import read_export  # noqa: PLC0415  # other CSVs need none

        table, numbers, written = read_export(flags.patients, task, flags.mapping)
        separator, decimal, encoding = written.separator, written.decimal, written.encoding
    else:
        table, numbers = read_patients(flags.patients, task, labelled=False)
    target = target_of(task)
    for name in target.prediction_columns(np.zeros((0, target.outputs)), threshold):
        if name in table.columns:
            raise DataError(f"{flags.patients}: already has a column {name}; rename or remove it")
    if flags.out is not None and flags.out.resolve() == flags.patients.resolve():
        raise DataError(f"{flags.out}: is the input file; name another --out")
    model = load_task_model(flags.model, task)
    table = table.assign(**predict_columns(model, task, threshold, numbers.to_numpy(dtype=np.float64), site))
    text = table.to_csv(index=False, sep=separator, decimal=decimal, float_format=f"%.{DECIMALS}f", lineterminator="\n")
    if flags.out is None:
        write_output(text)
    else:
        write_bytes(flags.out, text.encode(encoding))
    if site is not None:
        after = float(site.apply_to_risks(np.array([threshold]))[0])
        kept = f"predictions are as without --site: the threshold {threshold:.3g} is now a risk of {after:.3g}"
        print(f"risks are recalibrated for {flags.site} ({site}); {kept}", file=sys.stderr)
