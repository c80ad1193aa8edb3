"""A small task, and exports and mappings of it, for the tests of mappings."""

from pathlib import Path

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.exports.mappings import Mapping, read_mapping
from federated_health.data.tasks import Task

STROKE = Task(
    name="stroke",
    columns=(
        Measurement("age", "age on admission", "years", low=0, high=120, typical_median=(40, 90)),
        Category("sex", "sex", {0: "female", 1: "male"}),
        Measurement(
            "glucose",
            "blood glucose",
            "mg/dl",
            low=20,
            high=1500,
            zero_is_missing=True,
            typical_median=(80, 350),
            other_units={"mmol/l": (18.016, 0)},
        ),
        Measurement("temperature", "body temperature", "°C", low=25, high=45, typical_median=(35, 40)),
        Measurement("stay", "length of the stay", "days", low=0, high=365, typical_median=(1, 30)),
        Category("smoking", "smoking", {0: "never", 1: "formerly", 2: "now"}),
    ),
    label=Label("died", "died within 30 days"),
)

GERMAN = """\
task = "stroke"

[file]
separator = ";"
decimal = ","
thousands = "."
encoding = "cp1252"
missing = ["k.A.", "-99"]
date_format = "%d.%m.%Y"

[columns.age]
from = "Geb.-Datum"
to = "Aufnahme"
unit = "years"

[columns.sex]
column = "Geschlecht"
codes = { "m" = 1, "w" = 0, "d" = "missing" }

[columns.glucose]
column = "BZ (mmol/l)"
unit = "mmol/l"

[columns.temperature]
column = "Temp."
missing = ["0"]

[columns.stay]
from = "Aufnahme"
to = "Entlassung"
unit = "days"

[columns.smoking]
absent = true

[columns.died]
column = "überlebt?"
codes = { "ja" = 0, "nein" = 1 }
"""

HEADER = "Geb.-Datum;Aufnahme;Entlassung;Geschlecht;BZ (mmol/l);Temp.;überlebt?;Bemerkung"
ROW = "01.03.1950;29.02.2020;05.03.2020;m;5,5;37,2;ja;frei"

LINES = {line: number for number, line in enumerate(GERMAN.splitlines(), start=1)}
"""Line of GERMAN -> its number."""


def write_mapping(folder: Path, text: str = GERMAN) -> Path:
    path = folder / "mapping.toml"
    path.write_text(text, encoding="utf-8")
    return path


def mapping_of(folder: Path, text: str = GERMAN, task: Task = STROKE) -> Mapping:
    return read_mapping(write_mapping(folder, text), task)


def write_export(folder: Path, *rows: str, header: str = HEADER, encoding: str = "cp1252") -> Path:
    path = folder / "export.csv"
    path.write_bytes("\r\n".join([header, *rows, ""]).encode(encoding))
    return path
