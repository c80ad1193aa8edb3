"""One canonical table -> the rows of each hospital. Every row lands in exactly one; the seed decides which.

Rows that are equal in all of the task's columns, if they are few, may be one patient, and stay together: at two
hospitals one of them could be trained on while the other is held out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.sources.layouts import HOSPITAL_COLUMN
from federated_health.data.sources.source import Source
from federated_health.errors import DataError, SettingsError

MAX_HOSPITALS = 1000
MAX_COPIES = 4
"""Equal rows that may still be one patient; Kaggle's heart.csv repeats one up to four times."""

MAX_DRAWS = 100
"""Of proportions, until every hospital has a patient."""

DEFAULT_ALPHA = 0.5
ALPHA_RANGE = (1e-3, 1e6)

Vector = npt.NDArray[np.int64]
"""One number a row, or a hospital."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """How rows are divided; what does not belong to `by` is None.

    Attributes:
        by: one of KINDS.
        alpha: concentration of the Dirichlet distribution; the smaller, the more skewed.
        ratios: of the hospitals' sizes.

    Raises:
        SettingsError: a part is lacking, does not belong to `by`, or is out of range.
    """

    by: str
    seed: int
    hospitals: int | None = None
    alpha: float | None = None
    ratios: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.by not in KINDS:
            raise SettingsError(f"--by: expected one of {', '.join(KINDS)}, got {self.by!r}")
        _belongs("--alpha", self.alpha, self.by, "dirichlet")
        _belongs("--ratios", self.ratios, self.by, "size")
        low, high = ALPHA_RANGE
        if self.alpha is not None and not low <= self.alpha <= high:
            raise SettingsError(f"--alpha: expected {low:g} to {high:g}, got {self.alpha:g}")
        if self.ratios is not None and not all(0 < ratio < float("inf") for ratio in self.ratios):
            raise SettingsError("--ratios: expected numbers above 0, such as 8,4,2,1")
        if self.ratios is not None and self.hospitals not in (None, len(self.ratios)):
            raise SettingsError(f"--hospitals: {self.hospitals} are not the {len(self.ratios)} of --ratios")
        if self.by in ("iid", "dirichlet") and self.hospitals is None:
            raise SettingsError(f"--hospitals: --by {self.by} needs their number")
        if self.count is not None and not 1 <= self.count <= MAX_HOSPITALS:
            raise SettingsError(f"--hospitals: expected 1 to {MAX_HOSPITALS}, got {self.count}")

    @property
    def count(self) -> int | None:
        """How many hospitals are asked for; None where the data is to say."""
        return self.hospitals if self.ratios is None else len(self.ratios)

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        parts = {"hospitals": self.hospitals, "alpha": self.alpha, "ratios": self.ratios}
        return {"by": self.by, "seed": self.seed, **{name: part for name, part in parts.items() if part is not None}}


KINDS = ("hospital", "iid", "dirichlet", "size")


def divide(source: Source, partition: Partition) -> dict[str, pd.DataFrame]:
    """Hospital name -> its rows in the table's order, without the `hospital` column, in the order of their numbers.

    `hospital` takes what the data says. `iid` shuffles and deals out sizes that differ by one at most, `size` sizes in
    the given ratios (rounded by largest remainder). `dirichlet` draws, for each value of the label, the hospitals'
    shares of its rows (Yurochkin et al. 2019, Bayesian Nonparametric Federated Learning of Neural Networks), so that
    both label balance and size are skewed.

    Raises:
        DataError: the partition cannot be made of these rows.
    """
    table = source.table
    if partition.by == "hospital":
        return _divide_as_the_data_says(table, partition.hospitals)
    table = table.drop(columns=HOSPITAL_COLUMN, errors="ignore")
    count = partition.count or 1
    if count > len(table):
        raise DataError(f"--hospitals: {count} are more than the {len(table)} patients")
    generator = np.random.default_rng(partition.seed)
    units = _group_copies(table[list(source.task.column_names)])
    if partition.alpha is not None:
        labels = table[source.task.label.name].to_numpy()
        owners = _assign_by_label(units, labels, count, partition.alpha, generator)
    else:
        owners = _assign_sizes(units, _whole_sizes(partition.ratios or (1.0,) * count, len(table)), generator)
    order = np.argsort(owners, kind="stable")
    ends = np.cumsum(np.bincount(owners, minlength=count))
    rows_of = np.split(order, ends[:-1])
    width = len(str(count))
    return {
        f"hospital-{number:0{width}}": table.iloc[rows].reset_index(drop=True)
        for number, rows in enumerate(rows_of, start=1)
    }


def _belongs(flag: str, value: object, by: str, owner: str) -> None:
    if by == owner and value is None:
        raise SettingsError(f"{flag}: --by {owner} needs it")
    if by != owner and value is not None:
        raise SettingsError(f"{flag}: goes with --by {owner} only")


def _divide_as_the_data_says(table: pd.DataFrame, count: int | None) -> dict[str, pd.DataFrame]:
    """Hospitals in order of first appearance."""
    if HOSPITAL_COLUMN not in table.columns:
        raise DataError("--by hospital: the data does not say which hospital a patient is from")
    hospitals = {
        str(name): rows.drop(columns=HOSPITAL_COLUMN).reset_index(drop=True)
        for name, rows in table.groupby(HOSPITAL_COLUMN, sort=False)
    }
    if count not in (None, len(hospitals)):
        raise DataError(f"--hospitals: the data has {len(hospitals)} hospitals, not {count}; see --by")
    if len(hospitals) > MAX_HOSPITALS:
        raise DataError(f"--by hospital: the data has {len(hospitals)} hospitals; at most {MAX_HOSPITALS} are possible")
    return hospitals


def _group_copies(columns: pd.DataFrame) -> Vector:
    """A unit's number for each row, from 0: rows with one number stay together."""
    content = pd.util.hash_pandas_object(columns + 0.0, index=False)  # + 0.0 makes -0.0 the 0.0 that it equals
    groups = pd.factorize(content)[0]
    too_many = np.bincount(groups)[groups] > MAX_COPIES
    alone = groups.max() + 1 + np.arange(len(groups))
    units: Vector = np.unique(np.where(too_many, alone, groups), return_inverse=True)[1]
    return units


def _whole_sizes(ratios: Sequence[float], rows: int) -> Vector:
    """Whole sizes in these ratios that add up to `rows`: rounded down, and one more for the largest remainders."""
    shares = np.asarray(ratios) / max(ratios)
    exact = shares / shares.sum() * rows
    sizes: Vector = np.floor(exact).astype(np.int64)
    order = np.argsort(sizes - exact, kind="stable")
    sizes[order[: rows - sizes.sum()]] += 1
    if (sizes == 0).any():
        raise DataError(f"--ratios: of {rows} patients a hospital would get none")
    return sizes


def _assign_sizes(units: Vector, sizes: Vector, generator: np.random.Generator) -> Vector:
    """The hospital of each row, so that hospitals have exactly these sizes.

    Units of several rows are placed first, larger ones before smaller ones, each at a hospital that has room for it,
    drawn by its room. Only a unit for which no hospital has room is torn apart. Single rows fill up what is left.
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
    """The hospital of each row; a unit counts as its first row's label."""
    members = np.bincount(units)
    label_of_unit = labels[np.unique(units, return_index=True)[1]]
    units_of = [np.flatnonzero(label_of_unit == value) for value in np.unique(label_of_unit)]
    for _ in range(MAX_DRAWS):
        shares = [generator.dirichlet(np.full(hospitals, alpha)) for _ in units_of]
        bounds = [np.cumsum(share) * members[of].sum() for share, of in zip(shares, units_of, strict=True)]
        if not sum(np.diff(np.ceil(bound), prepend=0.0) for bound in bounds).all():  # no row begins there
            continue
        owner_of_unit = np.zeros(len(members), dtype=np.int64)
        for bound, of in zip(bounds, units_of, strict=True):
            owner_of_unit[of] = _deal_out(members[of], bound, generator)
        owners = owner_of_unit[units]
        if np.bincount(owners, minlength=hospitals).min() > 0:
            return owners
    raise DataError(
        f"--alpha {alpha:g}: in {MAX_DRAWS} draws a hospital was left without a patient each time; expected a larger "
        f"alpha or fewer than {hospitals} hospitals"
    )


def _deal_out(members: Vector, bounds: npt.NDArray[Any], generator: np.random.Generator) -> Vector:
    """A hospital for each unit: units are shuffled, and each goes to the hospital between whose bounds it begins.

    Args:
        members: [units], rows of each.
        bounds: [hospitals], ascending; the last one is the number of rows.
    """
    order = generator.permutation(len(members))
    begins = np.cumsum(members[order]) - members[order]
    owners = np.empty(len(members), dtype=np.int64)
    owners[order] = np.minimum(np.searchsorted(bounds, begins, side="right"), len(bounds) - 1)
    return owners
