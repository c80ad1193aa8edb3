"""Divides the rows of a canonical table among hospitals. Every row goes to exactly one; the seed decides which.

Up to MAX_COPIES rows that are equal in all of the task's columns may be one patient and stay together: at two
hospitals, one of them could be a training row and the other a test row.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.sources.layouts import HOSPITAL_COLUMN
from federated_health.data.sources.source import Source
from federated_health.errors import DataError, SettingsError

KINDS = ("hospital", "iid", "dirichlet", "size")
MAX_HOSPITALS = 1000

MAX_COPIES = 4
"""Largest number of equal rows that may be one patient; Kaggle's heart.csv repeats a patient up to four times."""

MAX_DRAWS = 100
"""Largest number of draws of the Dirichlet shares until every hospital has a patient."""

DEFAULT_ALPHA = 0.5
ALPHA_RANGE = (1e-3, 1e6)

Vector = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Partition:
    """How rows are divided: `by` one of KINDS, with the options that belong to it.

    Attributes:
        alpha: concentration of the Dirichlet distribution; smaller is more skewed.
        ratios: ratios of the hospitals' sizes.

    Raises:
        SettingsError: an option is missing, out of range, or belongs to another kind.
    """

    by: str
    seed: int
    hospitals: int | None = None
    alpha: float | None = None
    ratios: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.by not in KINDS:
            raise SettingsError(f"--by: expected one of {', '.join(KINDS)}, got {self.by!r}")
        for flag, value, kind in (("--alpha", self.alpha, "dirichlet"), ("--ratios", self.ratios, "size")):
            if self.by == kind and value is None:
                raise SettingsError(f"{flag}: required with --by {kind}")
            if self.by != kind and value is not None:
                raise SettingsError(f"{flag}: allowed with --by {kind} only")
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

    `hospital` takes the hospitals of the data. `iid` shuffles and deals out sizes that differ by at most one, `size`
    sizes in the given ratios (rounded by largest remainder). `dirichlet` draws, for each value of the label, the
    hospitals' shares of its rows (Yurochkin et al. 2019, Bayesian Nonparametric Federated Learning of Neural Networks),
    so that both label balance and size are skewed.

    Raises:
        DataError: the rows cannot be divided so.
    """
    table = source.table
    if partition.by == "hospital":
        return _divide_by_hospital(table, partition.hospitals)
    table = table.drop(columns=HOSPITAL_COLUMN, errors="ignore")
    count = partition.count or 1
    if count > len(table):
        raise DataError(f"--hospitals: expected at most one per patient ({len(table)}), got {count}")
    generator = np.random.default_rng(partition.seed)
    units = _group_copies(table[list(source.task.column_names)])
    if partition.alpha is not None:
        labels = table[source.task.label.name].to_numpy()
        owners = _assign_by_label(units, labels, count, partition.alpha, generator)
    else:
        owners = _assign_by_size(units, _round_sizes(partition.ratios or (1.0,) * count, len(table)), generator)
    width = len(str(count))
    return {
        f"hospital-{number:0{width}}": rows.reset_index(drop=True)
        for number, (_, rows) in enumerate(table.groupby(owners), start=1)
    }


def _divide_by_hospital(table: pd.DataFrame, count: int | None) -> dict[str, pd.DataFrame]:
    """Hospitals of the data, in order of first appearance."""
    if HOSPITAL_COLUMN not in table.columns:
        raise DataError("--by hospital: the data has no column that names each patient's hospital")
    hospitals = {
        str(name): rows.drop(columns=HOSPITAL_COLUMN).reset_index(drop=True)
        for name, rows in table.groupby(HOSPITAL_COLUMN, sort=False)
    }
    if count not in (None, len(hospitals)):
        raise DataError(f"--hospitals: expected {len(hospitals)}, as in the data, got {count}; see --by")
    if len(hospitals) > MAX_HOSPITALS:
        raise DataError(f"--by hospital: expected at most {MAX_HOSPITALS} hospitals, got {len(hospitals)}")
    return hospitals


def _group_copies(columns: pd.DataFrame) -> Vector:
    """Number of each row's unit, from 0; the rows of a unit stay together."""
    content = pd.util.hash_pandas_object(columns + 0.0, index=False)  # + 0.0 makes -0.0 the 0.0 that it equals
    groups = pd.factorize(content)[0]
    has_too_many = np.bincount(groups)[groups] > MAX_COPIES
    single = groups.max() + 1 + np.arange(len(groups))
    units: Vector = np.unique(np.where(has_too_many, single, groups), return_inverse=True)[1]
    return units


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
    units: Vector, labels: Vector, hospitals: int, alpha: float, generator: np.random.Generator
) -> Vector:
    """Hospital of each row; a unit counts as its first row's label.

    The units of a label are shuffled, and each goes to the hospital in whose share its first row falls.
    """
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
        if np.bincount(owners, minlength=hospitals).min() > 0:
            return owners
    raise DataError(
        f"--alpha {alpha:g}: each of {MAX_DRAWS} draws left a hospital without patients; expected a larger alpha, or "
        f"fewer than {hospitals} hospitals"
    )
