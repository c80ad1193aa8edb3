"""Divides the rows of a canonical table among hospitals. Every row goes to exactly one; the seed decides which.

Rows of one patient stay together: at two hospitals, one of them could be a training row and the other a test row. A
column of the task identifies patients; without one, up to MAX_COPIES rows that are equal in all of the task's columns
may be one patient.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.data_check import min_patients
from federated_health.data.hospital_columns import ColumnGroups, group_by_column
from federated_health.data.sources.source import Source
from federated_health.data.tasks import Task
from federated_health.errors import DataError, SettingsError
from federated_health.names import HOSPITAL_COLUMN

KINDS = ("hospital", "iid", "dirichlet", "size")
MAX_HOSPITALS = 1000

MAX_COPIES = 4
"""Largest number of equal rows that may be one patient; Kaggle's heart.csv repeats a patient up to four times."""

MAX_DRAWS = 100
"""Largest number of draws of the Dirichlet shares until every hospital has a patient."""

QUANTILE_GROUPS = 5
"""Groups of a label that is a quantity, for skewed labels."""

DEFAULT_ALPHA = 0.5
ALPHA_RANGE = (1e-3, 1e6)

Vector = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Partition:
    """How rows are divided: `by` one of KINDS, with the options that belong to it.

    Attributes:
        alpha: concentration of the Dirichlet distribution; smaller is more skewed.
        ratios: ratios of the hospitals' sizes.
        column: with `hospital`, a column whose values are the hospitals, instead of those of the data.
        min_patients: smallest number of different patients per hospital; with `hospital`, smaller ones are left out, or
            become one hospital if there is a `column`, for which the default is what joining needs.

    Raises:
        SettingsError: an option is missing, out of range, or belongs to another kind.
    """

    by: str
    seed: int
    hospitals: int | None = None
    alpha: float | None = None
    ratios: tuple[float, ...] | None = None
    column: str | None = None
    min_patients: int | None = None

    def __post_init__(self) -> None:
        if self.by not in KINDS:
            raise SettingsError(f"--by: expected one of {', '.join(KINDS)}, got {self.by!r}")
        for flag, value, kind in (("--alpha", self.alpha, "dirichlet"), ("--ratios", self.ratios, "size")):
            if self.by == kind and value is None:
                raise SettingsError(f"{flag}: required with --by {kind}")
            if self.by != kind and value is not None:
                raise SettingsError(f"{flag}: allowed with --by {kind} only")
        if self.column is not None and self.by != "hospital":
            raise SettingsError(f"--hospital-column: allowed with --by hospital only, got --by {self.by}")
        if self.column is not None and self.hospitals is not None:
            raise SettingsError("--hospitals: not allowed with --hospital-column, whose values are the hospitals")
        low, high = ALPHA_RANGE
        if self.alpha is not None and not low <= self.alpha <= high:
            raise SettingsError(f"--alpha: expected {low:g} to {high:g}, got {self.alpha:g}")
        if self.ratios is not None:
            if not all(0 < ratio < float("inf") for ratio in self.ratios):
                raise SettingsError("--ratios: expected numbers above 0, such as 8,4,2,1")
            if self.hospitals not in (None, len(self.ratios)):
                raise SettingsError(f"--hospitals: expected {len(self.ratios)}, as in --ratios, got {self.hospitals}")
        if self.by in ("iid", "dirichlet") and self.hospitals is None:
            raise SettingsError(f"--hospitals: required with --by {self.by}")
        if self.min_patients is not None and self.min_patients < 1:
            raise SettingsError(f"--min-patients: expected at least 1, got {self.min_patients}")
        if self.count is not None and not 1 <= self.count <= MAX_HOSPITALS:
            raise SettingsError(f"--hospitals: expected 1 to {MAX_HOSPITALS}, got {self.count}")

    @property
    def count(self) -> int | None:
        """Number of hospitals; None where the data decides."""
        return self.hospitals if self.ratios is None else len(self.ratios)

    def describe(self) -> dict[str, Any]:
        """The partition's entry in the manifest."""
        return {option: value for option, value in asdict(self).items() if value is not None}


def divide(source: Source, partition: Partition) -> dict[str, pd.DataFrame]:
    """Hospital name -> its rows in the table's order, without the `hospital` column; in order of their numbers.

    `hospital` takes the hospitals of the data, or the values of a column (see `group_by_column`), by their numbers of
    patients. `iid` shuffles and deals out sizes that differ by at most one, `size`
    sizes in the given ratios (rounded by largest remainder). `dirichlet` draws, for each value of the label, the
    hospitals' shares of its rows (Yurochkin et al. 2019, Bayesian Nonparametric Federated Learning of Neural Networks),
    so that both label balance and size are skewed; of a quantity, for each of QUANTILE_GROUPS groups from low to high.
    If a column identifies patients, patients are divided instead of rows, and the largest label of a patient's rows
    counts.

    Raises:
        DataError: the rows cannot be divided as asked, or a hospital would have too few patients.
    """
    table, task = source.table, source.task
    if partition.column is not None:
        return _divide_by_column(source, partition)
    if partition.by == "hospital":
        return _divide_by_hospital(source, partition)
    table = table.drop(columns=HOSPITAL_COLUMN, errors="ignore")
    labels, patients = table[task.label.name].to_numpy(), _number_patients(table, task)
    if task.patient in table:
        item_of_row = patients
        largest = np.full(patients.max() + 1, -np.inf)
        np.maximum.at(largest, patients, labels)
        labels, units = largest, np.arange(len(largest))
        patients = units
    else:
        item_of_row, units = np.arange(len(table)), _group_copies(patients)
    count, minimum = partition.count or 1, partition.min_patients or 1
    if count > len(units):
        raise DataError(f"--hospitals: expected at most one per patient ({len(units)}), got {count}")
    generator = np.random.default_rng(partition.seed)
    if partition.alpha is not None:
        groups = labels if task.label.classes else _group_by_quantile(labels)
        owners = _assign_by_label(units, groups, patients, partition, generator)
    else:
        owners = _assign_by_size(units, _round_sizes(partition.ratios or (1.0,) * count, len(units)), generator)
    if (fewest := _fewest_patients(owners, patients, count)) < minimum:
        raise DataError(
            f"--min-patients: expected at least {minimum} different patients per hospital, got {fewest} at one; "
            + ("choose ratios closer to each other" if partition.ratios else "choose fewer hospitals")
        )
    width = len(str(count))
    return {
        f"hospital-{number:0{width}}": rows.reset_index(drop=True)
        for number, (_, rows) in enumerate(table.groupby(owners[item_of_row]), start=1)
    }


def _divide_by_hospital(source: Source, partition: Partition) -> dict[str, pd.DataFrame]:
    """Hospitals of the data, in order of first appearance, without those that are too small."""
    if not source.has_hospitals:
        raise DataError(
            "--by hospital: the data has no column that names each patient's hospital; choose one by --hospital-column"
        )
    hospitals = {
        str(name): rows.drop(columns=HOSPITAL_COLUMN).reset_index(drop=True)
        for name, rows in source.table.groupby(HOSPITAL_COLUMN, sort=False)
    }
    if partition.hospitals not in (None, len(hospitals)):
        raise DataError(f"--hospitals: expected {len(hospitals)}, as in the data, got {partition.hospitals}; see --by")
    left_out = find_small_hospitals(source, partition)
    hospitals = {name: rows for name, rows in hospitals.items() if name not in left_out}
    if not hospitals:
        raise DataError(f"--min-patients: no hospital of the data has {partition.min_patients} different patients")
    if len(hospitals) > MAX_HOSPITALS:
        raise DataError(f"--by hospital: expected at most {MAX_HOSPITALS} hospitals, got {len(hospitals)}")
    return hospitals


def _divide_by_column(source: Source, partition: Partition) -> dict[str, pd.DataFrame]:
    groups, table = group_patients(source, partition), source.table.drop(columns=HOSPITAL_COLUMN, errors="ignore")
    return {name: table[groups.numbers == number].reset_index(drop=True) for number, name in enumerate(groups.names)}


def group_patients(source: Source, partition: Partition) -> ColumnGroups:
    """How the partition's column divides the patients; see `group_by_column` for the errors."""
    assert partition.column is not None
    patients = _number_patients(source.table, source.task)
    units = patients if source.task.patient in source.table else _group_copies(patients)
    minimum = partition.min_patients or min_patients(source.task.label)
    return group_by_column(source, partition.column, units, patients, minimum)


def find_small_hospitals(source: Source, partition: Partition) -> dict[str, int]:
    """Hospital of the data -> its rows, where it has too few patients for the partition; empty for other kinds."""
    if partition.by != "hospital" or partition.column is not None or partition.min_patients is None:
        return {}
    return {
        str(name): len(rows)
        for name, rows in source.table.groupby(HOSPITAL_COLUMN, sort=False)
        if count_patients(rows, source.task) < partition.min_patients
    }


def count_shared_patients(source: Source) -> int | None:
    """Number of patients with rows at several hospitals of the data; None if it has no hospitals or no identifiers."""
    patient = source.task.patient
    if patient not in source.table or not source.has_hospitals:
        return None
    return int((source.table.groupby(patient)[HOSPITAL_COLUMN].nunique() > 1).sum())


def count_patients(rows: pd.DataFrame, task: Task) -> int:
    """Number of different patients, by their identifiers or else by the rows' contents."""
    return int(_number_patients(rows, task).max(initial=-1)) + 1


def _number_patients(rows: pd.DataFrame, task: Task) -> Vector:
    """Number of each row's patient, from 0: of its identifier, or else of its content."""
    if task.patient in rows:
        return pd.factorize(rows[task.patient])[0]
    columns = rows[list(task.column_names)] + 0.0  # + 0.0 makes -0.0 the 0.0 that it equals
    return pd.factorize(pd.util.hash_pandas_object(columns, index=False))[0]


def _fewest_patients(owners: Vector, patients: Vector, hospitals: int) -> int:
    """Number of different patients of the hospital that has the fewest."""
    width = patients.max() + 1
    different = np.unique(owners * width + patients) // width
    return int(np.bincount(different, minlength=hospitals).min())


def _group_copies(groups: Vector) -> Vector:
    """Number of each row's unit, from 0; the rows of a unit stay together.

    Args:
        groups: number of each row's content, from 0.
    """
    has_too_many = np.bincount(groups)[groups] > MAX_COPIES
    single = groups.max() + 1 + np.arange(len(groups))
    units: Vector = np.unique(np.where(has_too_many, single, groups), return_inverse=True)[1]
    return units


def _group_by_quantile(labels: npt.NDArray[np.float64]) -> Vector:
    """Number of each label's group, from 0; groups have about equal sizes, and equal labels are in one group."""
    bounds = np.quantile(labels, np.arange(1, QUANTILE_GROUPS) / QUANTILE_GROUPS)
    return np.searchsorted(bounds, labels)


def _round_sizes(ratios: Sequence[float], rows: int) -> Vector:
    """Sizes in these ratios that add up to `rows`: rounded down, and one more for the largest remainders."""
    shares = np.asarray(ratios) / max(ratios)
    exact = shares / shares.sum() * rows
    sizes: Vector = np.floor(exact).astype(np.int64)
    order = np.argsort(sizes - exact, kind="stable")
    sizes[order[: rows - sizes.sum()]] += 1
    if (sizes == 0).any():
        raise DataError(
            f"--ratios: a hospital would get none of the {rows} patients; expected ratios closer to each other"
        )
    return sizes


def _assign_by_size(units: Vector, sizes: Vector, generator: np.random.Generator) -> Vector:
    """Hospital of each row, so that hospitals have exactly these sizes.

    Units of several rows come first, larger ones before smaller ones; each goes to a hospital with room for it, drawn
    in proportion to the room. A unit is split only if no hospital has room for it. Single rows fill the rest.
    """
    members = np.bincount(units)
    room = sizes.copy()
    owner_of_unit = np.full(len(members), -1)
    shuffled = generator.permutation(len(members))
    for unit in shuffled[np.argsort(-members[shuffled], kind="stable")][: np.count_nonzero(members > 1)]:
        bounds = np.cumsum(np.where(room >= members[unit], room, 0))
        if bounds[-1] > 0:
            owner = np.searchsorted(bounds, generator.integers(bounds[-1]), side="right")
            owner_of_unit[unit] = owner
            room[owner] -= members[unit]
    owners: Vector = owner_of_unit[units]
    owners[owners < 0] = generator.permutation(np.repeat(np.arange(len(sizes)), room))
    return owners


def _assign_by_label(
    units: Vector, labels: npt.NDArray[Any], patients: Vector, partition: Partition, generator: np.random.Generator
) -> Vector:
    """Hospital of each row; a unit counts as its first row's label.

    The units of a label are shuffled, and each goes to the hospital in whose share its first row falls. Shares are
    drawn anew until every hospital has enough different patients.
    """
    hospitals, alpha, minimum = partition.count or 1, partition.alpha or 1.0, partition.min_patients or 1
    members = np.bincount(units)
    label_of_unit = labels[np.unique(units, return_index=True)[1]]
    units_by_label = [np.flatnonzero(label_of_unit == value) for value in np.unique(label_of_unit)]
    for _ in range(MAX_DRAWS):
        shares = [generator.dirichlet(np.full(hospitals, alpha)) for _ in units_by_label]
        bounds = [np.cumsum(share) * members[same].sum() for share, same in zip(shares, units_by_label, strict=True)]
        if not sum(np.diff(np.ceil(bound), prepend=0.0) for bound in bounds).all():  # a hospital in which no row begins
            continue
        owner_of_unit = np.zeros(len(members), dtype=np.int64)
        for bound, same in zip(bounds, units_by_label, strict=True):
            order = same[generator.permutation(len(same))]
            starts = np.cumsum(members[order]) - members[order]
            owner_of_unit[order] = np.minimum(np.searchsorted(bound, starts, side="right"), hospitals - 1)
        owners = owner_of_unit[units]
        if _fewest_patients(owners, patients, hospitals) >= minimum:
            return owners
    few = "without patients" if minimum == 1 else f"with fewer than {minimum} patients (--min-patients)"
    raise DataError(
        f"--alpha {alpha:g}: each of {MAX_DRAWS} draws left a hospital {few}; expected a larger alpha, or fewer than "
        f"{hospitals} hospitals"
    )
