"""Prediction tasks: their columns and labels, and what server and hospitals must agree on.

A task is a declaration, usually read from a task file (see `task_files`). Everything else derives from it: validation
and its messages, the order of the columns, the normalisation that hospitals share, the width of the network's input
and the inputs of a saved model.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from federated_health.data.columns import Category, Column, Label, Measurement, write_number

MAX_AGREEMENT_CHARACTERS = 65_536
"""Largest size of a task agreement that another side sent, as text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A prediction task. Its columns are the model's inputs, in the order of every array and CSV.

    Attributes:
        patient: name of the column that identifies the patient of a row; None if each row is a patient of its own.
        training: settings that suit the task, by name, which a server uses unless its user sets others; not part of the
            agreement.
        subgroups: columns by which figures of subgroups are computed (see `subgroups`), with the edges of a
            measurement's bands; none of a category, whose codes are the groups.
    """

    name: str
    columns: tuple[Measurement | Category, ...]
    label: Label
    patient: str | None = None
    training: Mapping[str, str | int | float] = field(default_factory=dict)
    subgroups: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def labelled_columns(self) -> tuple[Column, ...]:
        return (*self.columns, self.label)

    @property
    def noun(self) -> str:
        """What its rows are called: patients, or rows if a patient may have several."""
        return "rows" if self.patient else "patients"

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @cached_property
    def measurements(self) -> tuple[Measurement, ...]:
        return tuple(column for column in self.columns if isinstance(column, Measurement))

    @cached_property
    def measurement_positions(self) -> tuple[int, ...]:
        return tuple(i for i, column in enumerate(self.columns) if isinstance(column, Measurement))

    @cached_property
    def feature_slices(self) -> tuple[slice, ...]:
        """Features of each column."""
        ends = accumulate(column.feature_width for column in self.columns)
        return tuple(slice(end - column.feature_width, end) for end, column in zip(ends, self.columns, strict=True))

    @cached_property
    def feature_width(self) -> int:
        return sum(column.feature_width for column in self.columns)

    @cached_property
    def agreement(self) -> dict[str, str]:
        """What server and hospital must agree on: name -> text; compared by `find_difference`."""
        scales = {f"scale {column.name}": _write_scale(column) for column in self.measurements}
        share = self.label.typical_share
        typical = {} if share is None else {"typical share": write_number(share)}
        groups = {f"subgroups by {name}": _write_edges(edges) for name, edges in self.subgroups.items()}
        return {**self._meaning, **scales, **typical, **groups}

    @cached_property
    def schema_hash(self) -> str:
        """SHA-256, in hex, of the meaning of the columns: equal where rows mean the same."""
        return hashlib.sha256(json.dumps(list(self._meaning.items())).encode()).hexdigest()

    @property
    def _meaning(self) -> dict[str, str]:
        """The agreement without scales, which matter under differential privacy only, and without subgroups."""
        return {
            "task": self.name,
            "columns": ", ".join(self.column_names),
            **{f"column {column.name}": column.summary for column in self.columns},
            f"label {self.label.name}": self.label.summary,
            **({"patient": f"rows with the same {self.patient} are of one patient"} if self.patient else {}),
        }


def _write_scale(column: Measurement) -> str:
    mean, deviation = map(write_number, column.public_scale)
    return f"mean {mean}, standard deviation {deviation} {column.unit}"


def _write_edges(edges: tuple[float, ...]) -> str:
    return f"bands with the edges {', '.join(map(write_number, edges))}" if edges else "its codes"


def find_difference(
    other: Mapping[str, str], server: Mapping[str, str], whose: str = "hospital", servers: str = "server"
) -> str | None:
    """The first entry that differs between the server's task agreement and the other side's, as a text for both.

    Args:
        whose, servers: what the text calls the other side and the server.
    """
    for name in dict.fromkeys([*server, *other]):
        if other.get(name) != server.get(name):
            theirs, expected = other.get(name, "not declared"), server.get(name, "not declared")
            return f"the {whose}'s {name} is {theirs}; the {servers}'s is {expected}"
    return None


def write_agreement(agreement: Mapping[str, str]) -> str:
    """A task agreement as ASCII text; the inverse of `read_agreement`."""
    return json.dumps(agreement)


def read_agreement(text: str) -> dict[str, str]:
    """The task agreement that another side wrote; a ValueError if it is too long, or not names and texts in JSON."""
    if len(text) > MAX_AGREEMENT_CHARACTERS:
        raise ValueError("too long")
    try:
        agreement = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(agreement, dict) or not all(isinstance(text, str) for text in agreement.values()):
        raise ValueError("not names and texts")
    return agreement
