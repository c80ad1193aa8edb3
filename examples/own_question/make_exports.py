"""Writes the exports of this example: made-up stroke patients of three hospitals, in three dialects.

`python examples/own_question/make_exports.py` writes the same files each time. No patient is real.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np

Number = TypeVar("Number", int, float)

HERE = Path(__file__).parent
SEED = 7

STAYS = {"nordklinik": 240, "riverside": 320, "hopital-sud": 200}
"""Hospital -> its number of stays."""

SECOND_STAY = 0.08
"""Share of stays that are another one of the patient before."""


@dataclass(frozen=True, kw_only=True)
class Stay:
    """A stay after a stroke; None for a value that was not recorded. Glucose is in mmol/l, creatinine in umol/l."""

    patient: int
    birth: date
    admission: date
    is_male: bool
    nihss: int | None
    systolic: int | None
    glucose: float | None
    creatinine: float | None
    atrial_fibrillation: bool
    earlier_strokes: int
    hours_since_onset: float | None
    thrombolysis: bool
    died: bool


def make_stays(number: int, generator: np.random.Generator) -> list[Stay]:
    """Stays of one hospital; a patient's stays follow each other."""
    stays: list[Stay] = []
    for _ in range(number):
        previous = stays[-1] if stays and generator.random() < SECOND_STAY else None
        stays.append(make_stay(generator, len(stays), previous))
    return stays


def make_stay(generator: np.random.Generator, index: int, previous: Stay | None) -> Stay:
    """One stay: a new patient's, or a later one of the previous stay's patient."""
    admission = date(2023, 1, 1) + timedelta(days=int(generator.integers(0, 700)))
    age = float(np.clip(generator.normal(72, 12), 25, 99))
    birth = admission - timedelta(days=int(age * 365.25))
    if previous is not None:
        birth, admission = previous.birth, previous.admission + timedelta(days=int(generator.integers(40, 400)))
        age = (admission - birth).days / 365.25
    nihss = int(np.clip(generator.gamma(1.4, 5.5), 0, 42))
    glucose = round(float(np.clip(generator.lognormal(1.98, 0.28), 3, 28)), 1)
    creatinine = round(float(np.clip(generator.lognormal(4.5, 0.3), 35, 600)), 0)
    hours = round(float(np.clip(generator.lognormal(1.3, 0.8), 0.3, 72)), 1)
    has_fibrillation = bool(generator.random() < 0.12 + 0.01 * max(age - 60, 0))
    earlier = int(generator.choice([0, 1, 2], p=[0.76, 0.18, 0.06])) if previous is None else 2
    is_thrombolysed = bool(hours < 4.5 and generator.random() < 0.4)
    log_odds = -2.2 + 0.05 * (age - 72) + 0.16 * (nihss - 8) + 0.12 * (glucose - 7) + 0.006 * (creatinine - 90)
    log_odds += 0.5 * has_fibrillation + 0.3 * earlier - 0.5 * is_thrombolysed

    def recorded(value: Number, share: float) -> Number | None:
        return value if generator.random() < share else None

    return Stay(
        patient=previous.patient if previous else 100_000 + 7 * index,
        birth=birth,
        admission=admission,
        is_male=previous.is_male if previous else bool(generator.random() < 0.53),
        nihss=recorded(nihss, 0.94),
        systolic=recorded(round(float(np.clip(generator.normal(152, 25), 80, 240))), 0.97),
        glucose=recorded(glucose, 0.92),
        creatinine=recorded(creatinine, 0.9),
        atrial_fibrillation=has_fibrillation,
        earlier_strokes=earlier,
        hours_since_onset=recorded(hours, 0.88),
        thrombolysis=is_thrombolysed,
        died=bool(generator.random() < 1 / (1 + np.exp(-log_odds))),
    )


def german(stay: Stay) -> dict[str, str]:
    """Semicolons, decimal commas, cp1252, dates as 31.12.2023, glucose in mmol/l, `k.A.` for missing."""
    return {
        "Pat-Nr": f"NK{stay.patient}",
        "Geburtsdatum": f"{stay.birth:%d.%m.%Y}",
        "Aufnahmedatum": f"{stay.admission:%d.%m.%Y}",
        "Geschlecht": "m" if stay.is_male else "w",
        "NIHSS": _text(stay.nihss, "k.A."),
        "RR syst. (mmHg)": _text(stay.systolic, "k.A."),
        "BZ (mmol/l)": _text(stay.glucose, "k.A.", decimal=","),
        "Kreatinin (µmol/l)": _text(stay.creatinine, "k.A.", "{:.0f}"),
        "Vorhofflimmern": "ja" if stay.atrial_fibrillation else "nein",
        "frühere Schlaganfälle": ("keine", "einer", "mehrere")[stay.earlier_strokes],
        "Stunden seit Beginn": _text(stay.hours_since_onset, "k.A.", decimal=","),
        "Lyse": "ja" if stay.thrombolysis else "nein",
        "verstorben (30 Tage)": "ja" if stay.died else "nein",
    }


def american(stay: Stay) -> dict[str, str]:
    """Commas, ages in years, glucose and creatinine in mg/dl, minutes since onset, -99 for missing."""
    age = stay.admission.year - stay.birth.year
    age -= (stay.admission.month, stay.admission.day) < (stay.birth.month, stay.birth.day)
    return {
        "mrn": str(stay.patient),
        "age_at_admission": str(age),
        "sex": "M" if stay.is_male else "F",
        "nihss_total": _text(stay.nihss, "-99"),
        "sbp": _text(stay.systolic, "-99"),
        "glucose_mg_dl": _text(stay.glucose and stay.glucose * 18.016, "-99", "{:.0f}"),
        "creatinine_mg_dl": _text(stay.creatinine and stay.creatinine / 88.42, "-99", "{:.2f}"),
        "afib": "Y" if stay.atrial_fibrillation else "N",
        "prior_strokes": ("0", "1", "2+")[stay.earlier_strokes],
        "onset_to_door_min": _text(stay.hours_since_onset and stay.hours_since_onset * 60, "-99", "{:.0f}"),
        "tpa_given": "Y" if stay.thrombolysis else "N",
        "discharge_note": "see chart",
        "alive_at_30d": "N" if stay.died else "Y",
    }


def french(stay: Stay) -> dict[str, str]:
    """Tabs, UTF-8 with accents, decimal commas, dates as 2023-12-31, glucose in g/l, empty cells for missing."""
    return {
        "N° patient": f"P-{stay.patient}",
        "Né(e) le": f"{stay.birth:%Y-%m-%d}",
        "Admission": f"{stay.admission:%Y-%m-%d}",
        "Sexe": "homme" if stay.is_male else "femme",
        "Score NIHSS": _text(stay.nihss, ""),
        "PAS (mmHg)": _text(stay.systolic, ""),
        "Glycémie (g/l)": _text(stay.glucose and stay.glucose * 0.18016, "", "{:.2f}", decimal=","),
        "Créatinine (µmol/l)": _text(stay.creatinine, "", "{:.0f}"),
        "FA": "oui" if stay.atrial_fibrillation else "non",
        "AVC antérieurs": ("0", "1", "2 ou plus")[stay.earlier_strokes],
        "Délai (h)": _text(stay.hours_since_onset, "", decimal=","),
        "Thrombolyse": "oui" if stay.thrombolysis else "non",
        "Décès à 30 jours": "oui" if stay.died else "non",
    }


def _text(value: float | None, missing: str, form: str = "{}", *, decimal: str = ".") -> str:
    return missing if value is None else form.format(value).replace(".", decimal)


def write_export(path: Path, rows: Iterable[dict[str, str]], separator: str, encoding: str) -> None:
    """Write the rows as a CSV."""
    rows = list(rows)
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, rows[0], delimiter=separator, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)


def write_manifest(export: Path, hospital: str) -> None:
    """Write a manifest beside an export that says that its patients are public, so that nothing is suppressed."""
    entry = {"name": hospital, "file": export.name, "sha256": hashlib.sha256(export.read_bytes()).hexdigest()}
    manifest = {"task": "stroke-mortality", "public": True, "hospitals": [entry]}
    (export.parent / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


DIALECTS: dict[str, tuple[Callable[[Stay], dict[str, str]], str, str]] = {
    "nordklinik": (german, ";", "cp1252"),
    "riverside": (american, ",", "utf-8"),
    "hopital-sud": (french, "\t", "utf-8"),
}


def write_exports(folder: Path) -> None:
    """Write one folder per hospital, with its export and a manifest."""
    generator = np.random.default_rng(SEED)
    for hospital, number in STAYS.items():
        dialect, separator, encoding = DIALECTS[hospital]
        stays = make_stays(number, generator)
        export = folder / hospital / "export.csv"
        write_export(export, map(dialect, stays), separator, encoding)
        write_manifest(export, hospital)


if __name__ == "__main__":
    write_exports(HERE)
