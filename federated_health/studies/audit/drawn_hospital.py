"""A small hospital in place of one from which its patients are drawn at random."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from federated_health.data.hospital import Hospital, Patients
from federated_health.data.split import DEFAULT_SPLIT_SEED, split_rows

PATIENTS = 30


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """A hospital of PATIENTS patients of another one, which it replaces, and one more patient, who is added later.

    Attributes:
        hospitals: all hospitals of the run, with the small one.
        name: of the small hospital.
        grown: the small hospital with one more patient.
        added: the rows of that patient.
        whole: the original hospital without that patient, and with it.
        others: patients of the original hospital who are in neither.
    """

    hospitals: Mapping[str, Hospital]
    name: str
    grown: Hospital
    added: Patients
    whole: tuple[Hospital, Hospital]
    others: Patients

    @property
    def small(self) -> Hospital:
        return self.hospitals[self.name]


def draw_small_hospital(hospitals: Mapping[str, Hospital], number: int, seed: int) -> Draw:
    """The draw of this number; the hospitals with enough patients take turns."""
    large = [name for name, hospital in hospitals.items() if _count_patients(hospital) > PATIENTS]
    name = large[number % len(large)]
    everyone = _everyone(hospitals[name])
    patient_of_row = everyone.number_patients()
    order = np.random.default_rng([seed, 2, number]).permutation(patient_of_row.max() + 1)
    rows = [np.isin(patient_of_row, chosen) for chosen in np.split(order, [PATIENTS, PATIENTS + 1])]
    small, added, others = map(everyone.take, rows)
    return Draw(
        hospitals={**hospitals, name: _split(hospitals[name], small)},
        name=name,
        grown=_split(hospitals[name], everyone.take(rows[0] | rows[1])),
        added=added,
        whole=(_split(hospitals[name], everyone.take(~rows[1])), _split(hospitals[name], everyone)),
        others=others,
    )


def can_draw(hospitals: Mapping[str, Hospital]) -> bool:
    """Whether any hospital has enough patients to draw a small one from it."""
    return any(_count_patients(hospital) > PATIENTS for hospital in hospitals.values())


def _everyone(hospital: Hospital) -> Patients:
    """All rows of a hospital."""
    ids = [part.ids for part in (hospital.train, hospital.test) if part.ids is not None]
    rows = Patients.concatenate([hospital.train, hospital.test])
    return replace(rows, ids=np.concatenate(ids)) if ids else rows


def _count_patients(hospital: Hospital) -> int:
    return int(_everyone(hospital).number_patients().max(initial=-1)) + 1


def _split(hospital: Hospital, patients: Patients) -> Hospital:
    """A hospital with these patients, split as it would split its CSV."""
    task = hospital.task
    numbers = pd.DataFrame(patients.values, columns=list(task.column_names))
    numbers[task.label.name] = patients.labels
    train, test = split_rows(numbers, task.label.name, DEFAULT_SPLIT_SEED, patients.ids, task.label.classes)
    parts = {"train": patients.take(train), "test": patients.take(test), "positions": np.concatenate([train, test])}
    return replace(hospital, **parts, warnings=())  # type: ignore[arg-type]  # each of its own type
