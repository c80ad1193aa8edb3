"""A hospital's memory of what it released, so that no two releases can be subtracted to few patients.

Two registrations over thirty patients, and over the same thirty and one more, differ by that patient's measurements. So
a hospital remembers over which patients each release was, and a later run uses them as before: on the same side of the
split, whatever the split seed. New patients are not used until the minimum cell of them are new on one side. If
fewer patients of an earlier release are gone, or their rows were changed, what is over their side is suppressed.

The rule behind it: patients who were in the same releases so far are a group. A release may use of each group none, all
or so many that both parts are at least the minimum cell; the parts are then groups. Whatever is added or subtracted,
over any number of releases, is then over at least so many patients. The same holds of the values of each column over
the training rows, which other tasks may have too; a column whose values break the rule is suppressed alone.

`releases-NAME.json` is beside the egress ledger and never leaves the hospital. It holds hashes of patients and of
values, keyed with a random salt in the same file: whoever reads it can test guesses, as with the ledger. So only its
owner can read it. It has 16 bytes per patient, and per different value of a column, before they are written as text.
Nothing is sent that cannot be remembered.
"""

import base64
import json
import logging
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.data.hospital import Hospital, Patients
from federated_health.data.record_location import find_record, write_note
from federated_health.data.subgroups import subgroups_of
from federated_health.data.tasks import Task
from federated_health.errors import DisclosureError, StorageError
from federated_health.file_access import read_file
from federated_health.files import PRIVATE, locked_folder, replace_file
from federated_health.hospital.subgroup_disclosure import suppress_groups
from federated_health.ml.subgroups import GroupFigures

logger = logging.getLogger(__name__)

VERSION = 1

MAX_BYTES = 2**29
"""Largest size of the file that is read: about that of 1,000,000 patients with 20 columns of different values."""

HASH_BYTES = 8

TRAIN, HELD_OUT = 0, 1
SIDES = {TRAIN: "training", HELD_OUT: "held-out"}

Units = Counter[bytes]
"""Number of times that each hash occurs."""


@dataclass(frozen=True, eq=False)
class ReleasableHospital(Hospital):
    """A hospital with the rows that a run may use, and what a subtraction from earlier releases would expose.

    Attributes:
        train_is_exposed, test_is_exposed: whether a release over all training rows, or over all held-out rows, would
            differ from an earlier one by fewer patients than the minimum cell.
        exposed_columns: columns, the label among them, for whose values over the training rows this is so.
        exposed_subgroups: columns for whose subgroups of the held-out rows this is so.
        notes: log lines for the data team, without values.
    """

    train_is_exposed: bool = False
    test_is_exposed: bool = False
    exposed_columns: frozenset[str] = frozenset()
    exposed_subgroups: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass
class Groups:
    """Units, such as patients, by group: those of one group were in the same releases.

    Attributes:
        units: group -> its units.
        side: group -> TRAIN or HELD_OUT.
        in_use: groups that the latest release used.
    """

    units: dict[int, Units] = field(default_factory=dict)
    side: dict[int, int] = field(default_factory=dict)
    in_use: set[int] = field(default_factory=set)

    def of_side(self, side: int) -> list[int]:
        """Groups of a side, those in use first."""
        own = [group for group, its_side in self.side.items() if its_side == side]
        return sorted(own, key=lambda group: (group not in self.in_use, group))

    def match(self, units: Units, side: int) -> tuple[dict[int, Units], Units]:
        """The units that are in groups of a side, by group, and the others."""
        rest, found = units, {}
        for group in self.of_side(side):
            if part := rest & self.units[group]:
                found[group] = part
                rest = rest - part
        return found, rest

    def allows(self, group: int, found: Mapping[int, Units], minimum: int) -> bool:
        """Whether a release that uses what was found of a group leaves no part of it that is too small."""
        used, whole = found[group].total() if group in found else 0, self.units[group].total()
        return used in (0, whole) or minimum <= used <= whole - minimum

    def use(self, found: Mapping[int, Units], new: Units, side: int) -> None:
        """Record a release over units of these groups, and over new ones."""
        for group in self.of_side(side):
            part = found.get(group, Units())
            rest = self.units[group] - part
            if not rest:
                self.in_use.add(group)
                continue
            self.units[group] = rest
            self.in_use.discard(group)
            self._add(part, side)
        self._add(new, side)

    def _add(self, units: Units, side: int) -> None:
        if units:
            group = max(self.units, default=0) + 1
            self.units[group], self.side[group] = units, side
            self.in_use.add(group)

    def to_json(self) -> dict[str, Any]:
        rows = [(unit, group, number) for group, units in self.units.items() for unit, number in units.items()]
        return {
            "hashes": _encode(b"".join(unit for unit, _, _ in rows)),
            "groups": _encode(np.array([row[1:] for row in rows], dtype="<u4").tobytes()),
            "side": {str(group): side for group, side in self.side.items()},
            "in_use": sorted(self.in_use),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Groups":
        hashes = base64.b64decode(content["hashes"], validate=True)
        numbers = np.frombuffer(base64.b64decode(content["groups"], validate=True), dtype="<u4").reshape(-1, 2)
        units: dict[int, Units] = {int(group): Units() for group in content["side"]}
        starts = range(0, len(hashes), HASH_BYTES)
        for start, (group, number) in zip(starts, numbers.tolist(), strict=True):
            units[group][hashes[start : start + HASH_BYTES]] = number
        return cls(units, {int(group): int(side) for group, side in content["side"].items()}, set(content["in_use"]))


@dataclass
class Memory:
    """What a hospital remembers of its releases: groups of patients, and by column of values, as keyed hashes."""

    salt: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    patients: Groups = field(default_factory=Groups)
    columns: dict[str, Groups] = field(default_factory=dict)

    def digest(self, *parts: bytes) -> bytes:
        """Hash of a patient or of a value."""
        keyed = blake2b(digest_size=HASH_BYTES, key=self.salt)
        for part in parts:
            keyed.update(len(part).to_bytes(8, "little") + part)
        return keyed.digest()

    def to_bytes(self) -> bytes:
        columns = {name: groups.to_json() for name, groups in self.columns.items()}
        content = {"version": VERSION, "salt": _encode(self.salt), "patients": self.patients.to_json()}
        return json.dumps({**content, "columns": columns}, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes) -> "Memory":
        """The inverse of `to_bytes`; ValueError, KeyError or TypeError for other content."""
        parsed = json.loads(content)
        if parsed["version"] != VERSION:
            raise ValueError("another version")
        columns = {name: Groups.from_json(groups) for name, groups in parsed["columns"].items()}
        salt = base64.b64decode(parsed["salt"], validate=True)
        return cls(salt, Groups.from_json(parsed["patients"]), columns)


def path_beside(data: Path, hospital: str, folder: Path | None = None) -> Path:
    """The file in the folder of a hospital's CSV, or in that of its ledger.

    Raises:
        DisclosureError: there is a record of these rows' releases elsewhere, or was one that is missing.
    """
    own = _own_path(data, hospital)
    return find_record(own, folder, "the record of what these rows released", DisclosureError)


def _own_path(data: Path, hospital: str) -> Path:
    return data.parent / f"releases-{hospital}.json"


@lru_cache(maxsize=1024)
def choose_rows_once(hospital: Hospital, data: Path, ledger: str | None, minimum: int) -> ReleasableHospital:
    """`choose_rows` once per process, with log lines; the file is beside the hospital's CSV or its ledger."""
    path = path_beside(data, hospital.name, Path(ledger) if ledger else None)
    chosen = choose_rows(hospital, path, minimum)
    write_note(_own_path(data, hospital.name), path)
    for note in chosen.notes:
        logger.warning("%s: %s", hospital.name, note)
    return chosen


def choose_rows(hospital: Hospital, path: Path, minimum: int, *, is_recorded: bool = True) -> ReleasableHospital:
    """The hospital with the rows that a run may use, which are remembered before anything of them leaves.

    Args:
        path: of the file that remembers, beside the ledger.
        minimum: smallest number of patients by which two releases may differ.
        is_recorded: whether the release is remembered: not where nothing will leave.

    Raises:
        DisclosureError: the file cannot be read or written.
    """
    if not is_recorded:
        return _choose_rows(hospital, _read(path), minimum)
    with _locked(path):
        memory = _read(path)
        before = memory.to_bytes() if path.exists() else b""
        chosen = _choose_rows(hospital, memory, minimum)
        if (content := memory.to_bytes()) != before:
            replace_file(path, content, PRIVATE)
    return chosen


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the file's folder; an error of writing becomes a DisclosureError."""
    remedy = "nothing is sent that cannot be remembered; --ledger names another folder"
    try:
        with locked_folder(path.parent, wait=True):
            yield
    except (OSError, StorageError) as error:
        raise DisclosureError(
            f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}); {remedy}"
        ) from None


def _read(path: Path) -> Memory:
    try:
        return Memory.from_bytes(read_file(path, MAX_BYTES))
    except FileNotFoundError:
        return Memory()
    except OSError as error:
        raise DisclosureError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        remedy = "restore the file as it was, since without it earlier releases are not known"
        raise DisclosureError(f"{path}: is not a record of releases; {remedy}") from None


def _choose_rows(hospital: Hospital, memory: Memory, minimum: int) -> ReleasableHospital:
    """Decide which rows a run may use, and record them."""
    rows, natural = _rows_of(hospital)
    patient_of_row = _number_patients(rows)
    patients = _hash_patients(rows, patient_of_row, hospital, memory)
    natural_side = np.zeros(len(patients), dtype=np.intp)
    natural_side[patient_of_row] = natural
    known = {}
    rest = Units(patients)
    for side in SIDES:
        known[side], rest = memory.patients.match(rest, side)
    side_of_patient: dict[bytes, int] = {}
    is_exposed, notes = {}, []
    for side, words in SIDES.items():
        found = dict(known[side])
        groups = memory.patients.of_side(side)
        for group in set(groups) - memory.patients.in_use:
            if not memory.patients.allows(group, found, minimum):
                del found[group]  # patients who come back, too few of them
        is_exposed[side] = not all(memory.patients.allows(group, found, minimum) for group in groups)
        new = Units(unit for unit, own in zip(patients, natural_side, strict=True) if own == side and unit in rest)
        may_enter = not is_exposed[side] and (new.total() >= minimum or not groups)
        entering = new if may_enter else Units()
        side_of_patient |= dict.fromkeys([*(unit for part in found.values() for unit in part), *entering], side)
        if not is_exposed[side]:
            memory.patients.use(found, entering if entering.total() >= minimum else Units(), side)
        notes += _describe(words, new.total() - entering.total(), minimum, is_exposed=is_exposed[side])
    used = np.array([side_of_patient.get(unit, -1) for unit in patients])[patient_of_row]
    train, test = rows.take(used == TRAIN), rows.take(used == HELD_OUT)
    label = hospital.task.label.name
    exposed_columns = set()
    if not is_exposed[TRAIN]:
        values = dict(zip(hospital.task.column_names, train.values.T, strict=True)) | {label: train.labels}
        exposed_columns = {
            name
            for name, cells in values.items()
            if not _release_column(memory, name, cells, TRAIN, minimum * train.most_rows)
        }
    if not is_exposed[HELD_OUT] and len(test) >= minimum * test.most_rows:
        is_exposed[HELD_OUT] = not _release_column(memory, label, test.labels, HELD_OUT, minimum * test.most_rows)
    exposed_subgroups = frozenset[str]()
    if hospital.task.subgroups and not is_exposed[HELD_OUT]:
        exposed_subgroups = _find_exposed_subgroups(hospital.task, test, memory, minimum)
    return ReleasableHospital(
        **{**vars(hospital), "train": train, "test": test, "positions": None},
        train_is_exposed=is_exposed[TRAIN],
        test_is_exposed=is_exposed[HELD_OUT],
        exposed_columns=frozenset(exposed_columns),
        exposed_subgroups=exposed_subgroups,
        notes=tuple(notes),
    )


def _find_exposed_subgroups(task: Task, rows: Patients, memory: Memory, minimum: int) -> frozenset[str]:
    """Columns whose subgroups differ from those of an earlier release by too few rows of a class; records the others.

    The rows of each subgroup that may leave are remembered as those of each side are, and so are the others together.
    So neither a new patient nor another edge of a band can be found by subtraction.
    """
    groups, positive = subgroups_of(task), rows.labels == 1
    masks = [group.mask(rows.values) for group in groups]
    counts = [
        GroupFigures(true_positives=int((mask & positive).sum()), true_negatives=int((mask & ~positive).sum()))
        for mask in masks
    ]
    total = (int(positive.sum()), 0, int((~positive).sum()), 0)
    kept = suppress_groups(groups, counts, total, minimum * rows.most_rows)
    exposed = set()
    for column in task.subgroups:
        parts = zip(groups, masks, kept, strict=True)
        released = [mask for group, mask, of in parts if group.column == column and any(of.cells)]
        for part in [*released, ~np.any(released, axis=0)] if released else []:
            for label, of_class in enumerate((~positive, positive)):
                units = _hash_rows(rows.take(part & of_class), memory)
                if not _release_units(memory, f"{column} {label}", units, HELD_OUT, minimum * rows.most_rows):
                    exposed.add(column)
    return frozenset(exposed)


def _hash_rows(rows: Patients, memory: Memory) -> Units:
    ids = np.zeros(len(rows), dtype=np.int64) if rows.ids is None else rows.ids
    contents = zip(_canonical(rows.values), ids, strict=True)
    return Units(memory.digest(row.tobytes(), patient.tobytes()) for row, patient in contents)


def _release_column(memory: Memory, name: str, cells: npt.NDArray[Any], side: int, minimum: int) -> bool:
    """Whether a column's values may be released, which is then recorded."""
    values, numbers = np.unique(cells[~np.isnan(cells)].astype(np.float64) + 0.0, return_counts=True)
    hashes = [memory.digest(name.encode(), value.tobytes()) for value in values]
    return _release_units(memory, name, Units(dict(zip(hashes, numbers.tolist(), strict=True))), side, minimum)


def _release_units(memory: Memory, name: str, units: Units, side: int, minimum: int) -> bool:
    """Whether these units may be released under a name in the memory, which is then recorded."""
    groups = memory.columns.setdefault(name, Groups())
    found, new = groups.match(units, side)
    if 0 < new.total() < minimum or not all(groups.allows(g, found, minimum) for g in groups.of_side(side)):
        return False
    groups.use(found, new, side)
    return True


def _describe(words: str, left_out: int, minimum: int, *, is_exposed: bool) -> list[str]:
    if is_exposed:
        return [
            f"patients of an earlier release are gone or changed, fewer than {minimum}: sums and counts over the "
            f"{words} rows are suppressed, since a subtraction would show them, and new patients are not used"
        ]
    if not left_out:
        return []
    noun = "new patient is" if left_out == 1 else "new patients are"
    return [
        f"{left_out} {noun} not used as {words} rows until at least {minimum} are new: a subtraction of two releases "
        "would show them"
    ]


def _rows_of(hospital: Hospital) -> tuple[Patients, npt.NDArray[np.intp]]:
    """All rows in the order of the hospital's table, and the side on which the split has each."""
    parts = hospital.train, hospital.test
    side = np.repeat([TRAIN, HELD_OUT], list(map(len, parts)))
    order = np.arange(len(side)) if hospital.positions is None else np.argsort(hospital.positions)
    ids = None if hospital.train.ids is None else np.concatenate([hospital.train.ids, hospital.test.ids])
    rows = Patients(np.concatenate([p.values for p in parts]), np.concatenate([p.labels for p in parts]), ids)
    return rows.take(order), side[order]


def _number_patients(rows: Patients) -> npt.NDArray[np.intp]:
    """Number of each row's patient, from 0; without identifiers, rows that are equal but for the label are one's."""
    if rows.ids is not None:
        return rows.number_patients()
    number_of: dict[bytes, int] = {}
    contents = [row.tobytes() for row in _canonical(rows.values)]
    return np.array([number_of.setdefault(content, len(number_of)) for content in contents], dtype=np.intp)


def _canonical(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Equal bytes where values are equal or missing."""
    return np.where(np.isnan(values), np.nan, values + 0.0)


def _hash_patients(
    rows: Patients, patient_of_row: npt.NDArray[np.intp], hospital: Hospital, memory: Memory
) -> list[bytes]:
    """A hash per patient, of what all the patient's rows hold; the second of two equal patients has another one."""
    names = hospital.task.column_names
    order = sorted(range(len(names)), key=names.__getitem__)
    header = "\n".join([*(names[place] for place in order), hospital.task.label.name]).encode()
    content = _canonical(np.column_stack([rows.values[:, order], rows.labels.astype(np.float64)]))
    of_patient: list[list[bytes]] = [[] for _ in range(patient_of_row.max(initial=-1) + 1)]
    for patient, row in zip(patient_of_row.tolist(), content, strict=True):
        of_patient[patient].append(row.tobytes())
    seen = Counter[bytes]()
    hashes = []
    for own in of_patient:
        plain = memory.digest(header, *sorted(own))
        seen[plain] += 1
        hashes.append(plain if seen[plain] == 1 else memory.digest(plain, str(seen[plain]).encode()))
    return hashes


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode()
