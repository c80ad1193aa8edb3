"""Confirms or rejects a layout: by patients in UCI's table, by the user's statement, or because nothing was guessed."""

import pandas as pd

from federated_health.data.sources.label_meaning import COMMON_CELLS, FLAG
from federated_health.data.sources.reading import Reading, describe_statlog, refuse_invalid_labels
from federated_health.data.sources.recognition import OWN_COLUMNS_HINT
from federated_health.data.sources.uci_comparison import MIN_AGREEMENT, MIN_MATCHED, match_rows
from federated_health.errors import DataError
from federated_health.names import HOSPITAL_COLUMN

_MATCHED = "rows with the measurements of a patient in UCI's table"


def confirm_layout(reading: Reading) -> list[str]:
    """Remarks on what confirms the layout, or that nothing does; empty for a file whose layout is not a guess.

    Raises:
        DataError: a label is invalid, patients in UCI's table contradict codes or label, or nothing confirms a guess.
    """
    evidence, layout, file, meaning = reading.evidence, reading.layout, reading.files[0], reading.meaning
    found = f"only {evidence.matched} of {len(reading.table)} rows have" if evidence.matched else "no row has"
    problem = f"{file.name}: looks like {layout.title}, but {found} the measurements of a patient in UCI's table, so"
    if codes := [column for column in layout.task.columns if column.name in evidence.contradicted]:
        compared, agreeing = evidence.compared[codes[0].name], evidence.agreeing[codes[0].name]
        names = [layout.name_in_file(column) for column in codes]
        raise DataError(
            f"{file.name}: read as {layout.title}, its codes in {', '.join(names)} are not UCI's: {names[0]} differs "
            f"in {compared - agreeing} of {compared} {_MATCHED}; {OWN_COLUMNS_HINT}"
        )
    if file.is_guess and not evidence.is_enough and (layout.recoded or not file.has_header):
        what = "codes" if file.has_header else "columns"
        raise DataError(f"{problem} the meaning of its {what} and its label is not confirmed; {OWN_COLUMNS_HINT}")
    refuse_invalid_labels(reading)
    if layout.task.label.name in evidence.contradicted:
        raise _contradicted_label(reading)
    _refuse_opposite_hospital(reading)
    if evidence.confirms:
        return [_describe_evidence(reading), *_describe_unseen(reading)]
    if not file.is_guess:
        return []
    if meaning is None:
        raise DataError(f"{problem} the meaning of its {layout.label_name} is not confirmed; {_label_hint(reading)}")
    return [
        f"NOT CONFIRMED: {found} the measurements of a patient in UCI's table; codes are read as those of "
        f"{layout.title}, and the label as {FLAG} {meaning.text} states"
    ]


def _refuse_opposite_hospital(reading: Reading) -> None:
    """Raise a DataError if codes or label are opposite at one hospital of several, which all rows may hide."""
    task, table = reading.layout.task, reading.table.mask(reading.invalid)
    _, reference = match_rows(table, task)
    if HOSPITAL_COLUMN not in table or reference.empty:
        return
    matched = table.loc[reference.index]
    for name in (column.name for column in task.labelled_columns if column not in task.measurements):
        is_compared = matched[name].notna() & reference[name].notna()
        is_same = (matched[name] == reference[name])[is_compared]
        shares = is_same.groupby(matched[HOSPITAL_COLUMN][is_compared]).agg(["mean", "size"])
        for hospital, (share, rows) in shares[(shares["mean"] < 0.5) & (shares["size"] >= MIN_MATCHED)].iterrows():
            what = "label is" if name == task.label.name else "codes are"
            raise DataError(
                f"{reading.files[0].name}: {name}: at the hospital {hospital} the {what} not UCI's in "
                f"{rows - round(share * rows):g} of {rows:g} {_MATCHED}, unlike at others; correct these rows"
            )


def _describe_evidence(reading: Reading) -> str:
    evidence, label = reading.evidence, reading.layout.task.label.name
    found = (
        f"{evidence.matched} of {len(reading.table)} rows have the measurements of a patient in UCI's table, "
        f"{evidence.agreeing[label]} of them with the same {label}"
    )
    columns = ", ".join(name for name, rows in evidence.compared.items() if rows and name != label)
    return f"confirmed: {found}; codes agree in {columns}" if reading.files[0].is_guess else found


def _describe_unseen(reading: Reading) -> list[str]:
    """Translated codes that no patient in UCI's table confirms."""
    return [
        f"not confirmed: {name} {', '.join(codes)}, which no row that is in UCI's table has"
        for name, codes in reading.evidence.unseen.items()
        if name in reading.layout.codes
    ]


def _contradicted_label(reading: Reading) -> DataError:
    evidence, layout, meaning = reading.evidence, reading.layout, reading.meaning
    label = layout.task.label.name
    compared, agreeing = evidence.compared[label], evidence.agreeing[label]
    read_as = f"as {FLAG} {meaning.text} states" if meaning else f"as in {layout.title}"
    cells = _cells_of_disease(reading)
    hint = f"by these rows, {FLAG} {label}={','.join(cells)} is right" if cells else "its label is not UCI's"
    return DataError(
        f"{reading.files[0].name}: {layout.label_name}, read {read_as}, contradicts UCI's diagnosis in "
        f"{compared - agreeing} of {compared} {_MATCHED}; {hint}"
    )


def _cells_of_disease(reading: Reading) -> list[str]:
    """Cells of the label that mean 1 by the rows in UCI's table; empty if these do not agree on it."""
    label = reading.layout.task.label.name
    _, reference = match_rows(reading.table, reading.layout.task)
    known = pd.DataFrame({"cell": reading.label[reference.index], "label": reference[label]})
    ill = known.groupby("cell")["label"].mean() > 0.5
    is_same = known["cell"].map(ill).astype(int) == known["label"]
    cells = sorted(str(cell) for cell in ill.index[ill])
    return cells if is_same.mean() >= MIN_AGREEMENT and set(cells) <= COMMON_CELLS else []


def _label_hint(reading: Reading) -> str:
    """How to state what a label means that nothing confirms."""
    label, present = reading.layout.task.label.name, set(reading.label) - {""}
    if present == {"1", "2"}:
        return f"{describe_statlog(label)}; if both mean {label}, state {FLAG} {label}=1,2"
    if present <= {"0", "1", "2", "3", "4"}:
        return f"state it: {FLAG} {label}=1 if 1 means {label}, or {FLAG} {label}=0 if 0 does"
    if present <= COMMON_CELLS:
        cells = sorted(present)
        return f"state it: {' or '.join(f'{FLAG} {label}={cell}' for cell in cells)}"
    return f"state which value means {label}: {FLAG} {label}=VALUE"
