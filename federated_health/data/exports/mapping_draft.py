"""Drafts a mapping file from a hospital's export: a proposal for each column of a task, with its reason.

A draft is not valid until the data team has replaced each "?". It always asks what a label's cells mean. Of the
patients' cells, it shows only code words that are in at least MIN_ROWS rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from federated_health.data.columns import Category, Column, Label, Mask, Measurement
from federated_health.data.csv_reading import is_table_file
from federated_health.data.exports.drafts import MAX_WORDS, MIN_ROWS, Draft
from federated_health.data.exports.export_profile import (
    DATE_FORMATS,
    MISSING_NUMBERS,
    Export,
    ExportColumn,
    profile_export,
)
from federated_health.data.exports.header_words import (
    concepts_of,
    fold,
    meaning_of_cell,
    names_unit,
    similarity,
    split_unit,
)
from federated_health.data.exports.mapping_rules import DATE_UNITS, MISSING, FileFormat, date_pattern
from federated_health.data.labels import ClassLabel, CountLabel, NumberLabel
from federated_health.data.tasks import Task
from federated_health.data.toml_reading import PLACEHOLDER
from federated_health.names import printable

MATCH, CANDIDATE = 0.9, 0.5
"""Similarity from which a header is proposed as the column, and from which it is named as a candidate."""

FITTING = 0.9
"""Smallest share of a column's cells that must fit the task's rule."""

MAX_CANDIDATES = 4

UNKNOWN = f'"{PLACEHOLDER}"'


@dataclass(frozen=True)
class _Line:
    key: str
    value: str
    comment: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value}  # {self.comment}"


def draft_mapping(path: Path, task: Task) -> Draft:
    """A draft of the mapping from an export to a task's columns.

    Raises:
        DataError, MissingLibraryError: see `profile_export`.
    """
    export = profile_export(path)
    drafter = _Drafter(export, task, is_text=not is_table_file(path))
    sections = [(f"[columns.{name}]  # {what}", lines) for name, what, lines in drafter.columns()]
    sections.insert(0, ("[file]", list(drafter.file())))
    blocks = ["\n".join([title, *map(str, lines)]) for title, lines in sections]
    open_lines = sum(PLACEHOLDER in line.value for _, lines in sections for line in lines)
    head = [
        f"# Draft of a mapping from {printable(path.name)} to the columns of the task {task.name}.",
        f"# Replace each {UNKNOWN} ({open_lines} lines), and review every line: what is proposed may be wrong.",
        f'task = "{task.name}"',
    ]
    taken = [*drafter.used, *drafter.candidates]
    unused = [column.header for column in export.columns if column not in taken and _is_shown(column.header)]
    tail = [f"# Not used: {', '.join(dict.fromkeys(unused))}"] if unused else []
    return Draft("\n\n".join(["\n".join(head), *blocks, *tail]) + "\n", open_lines)


class _Drafter:
    """Matches the columns of an export with those of a task."""

    def __init__(self, export: Export, task: Task, *, is_text: bool) -> None:
        self._export, self._task, self._is_text = export, task, is_text
        self.used: list[ExportColumn] = []
        self.candidates: list[ExportColumn] = []
        self._dates = [column for column in export.columns if column.date_formats]
        self._others = [column for column in export.columns if not column.date_formats]
        self._date_format = self._common_date_format()

    def file(self) -> Iterator[_Line]:
        """The lines of [file]; to be called after `columns`, which finds missing-value markers."""
        file = self._export.format
        if len(self._export.sheets) > 1:
            names = ", ".join(map(_quoted, self._export.sheets))
            yield _Line("sheet", _quoted(self._export.sheets[0]), f"check: the first of {names}")
        if self._is_text:
            yield _Line("separator", _quoted(file.separator), "proposed: it gives every row the same number of cells")
            encoding = file.encoding.removesuffix("-sig")
            is_guess = encoding == "cp1252"
            comment = (
                "check: it is not UTF-8; are accents in the headers right?"
                if is_guess
                else f"proposed: the file is valid {encoding}"
            )
            yield _Line("encoding", _quoted(encoding), comment)
        if self._export.decimal_is_certain:
            yield _Line("decimal", _quoted(file.decimal), "proposed: from the numbers in the file")
        else:
            yield _Line("decimal", UNKNOWN, 'check: numbers are written in more than one way; "." or ","')
        if file.thousands:
            yield _Line("thousands", _quoted(file.thousands), "proposed: from the numbers in the file")
        words = sorted({word for column in self.used for word in column.missing_words})
        if words:
            yield _Line("missing", _array(words), "check: do these mean missing, as empty, ?, NA, null and None do?")
        if self._date_format:
            yield _Line(
                "date_format", _quoted(self._date_format), "proposed: the only order of day and month that fits"
            )

    def columns(self) -> list[tuple[str, str, list[_Line]]]:
        """Name, description and lines of each column of the task."""
        patient = None if self._task.patient is None else self._patient(self._task.patient)
        matches = self._match()
        self.used += [column for column in matches.values() if column is not None]
        found = [
            (column.name, f"{column.meaning}: {_rule(column)}", list(self._column(column, matches[column.name])))
            for column in self._task.labelled_columns
        ]
        if self._task.patient is not None and patient is not None:
            found.append((self._task.patient, "the patient's identifier", [patient]))
        return found

    def _match(self) -> dict[str, ExportColumn | None]:
        """The export's column that is proposed for each column of the task; None if there is none, or more than one."""
        ranked, free = [], [column for column in self._others if column not in self.used]
        for column in self._task.labelled_columns:
            fitting = [c for c in free if similarity(column, c.header)[0] >= MATCH and _fits(column, c)]
            if len(fitting) == 1:  # of two, even if one has the same name, the data team chooses
                ranked.append((similarity(column, fitting[0].header)[0], column.name, fitting[0]))
        matches: dict[str, ExportColumn | None] = dict.fromkeys(c.name for c in self._task.labelled_columns)
        for _, name, found in sorted(ranked, key=lambda entry: -entry[0]):
            if found not in matches.values():
                matches[name] = found
        return matches

    def _column(self, column: Column, found: ExportColumn | None) -> Iterator[_Line]:
        if found is not None:
            yield _Line("column", _header(found), f"proposed: {similarity(column, found.header)[1]}")
            match column:
                case Measurement():
                    yield from self._unit_lines(column, found)
                case NumberLabel():
                    yield self._label_unit_line(column, found)
                case CountLabel():
                    pass
                case _:
                    yield self._code_line(column, found)
        elif isinstance(column, Measurement) and (dates := list(self._date_lines(column))):
            yield from dates
        else:
            yield from self._open_lines(column)

    def _open_lines(self, column: Column) -> Iterator[_Line]:
        """Lines for a column of the task without a match in the export; all of them are open."""
        free = [found for found in self._others if found not in self.used]
        scores = {found: similarity(column, found.header)[0] for found in free}
        likely = sorted((found for found in free if scores[found] >= CANDIDATE), key=lambda found: -scores[found])
        candidates = (likely or [found for found in free if _fits(column, found)])[:MAX_CANDIDATES]
        self.candidates += candidates
        shown = [_header(found) for found in candidates if _is_shown(found.header)]
        absent = "" if isinstance(column, Label) else "; or instead absent = true"
        comment = f"check: {' or '.join(shown)}?{absent}" if shown else f"not found: name the column{absent}"
        if isinstance(column, Measurement | NumberLabel) and column.unit in DATE_UNITS and len(self._dates) > 1:
            names = ", ".join(_header(found) for found in self._dates if _is_shown(found.header))
            comment += f"; or from and to, two of the dates {names}"
        yield _Line("column", UNKNOWN, comment)
        if isinstance(column, Measurement):
            yield _Line("unit", UNKNOWN, f"check: {_units(column)}, or write factor and offset")
        elif isinstance(column, NumberLabel):
            yield self._label_unit_line(column)
        elif len(likely) == 1 and not isinstance(column, CountLabel):
            yield self._code_line(column, likely[0], is_open=True)
        elif not isinstance(column, CountLabel):
            yield _Line("codes", UNKNOWN, f'check: {{ "..." = code }} for each value; {_rule(column)}')

    def _unit_lines(self, column: Measurement, found: ExportColumn) -> Iterator[_Line]:
        yield self._unit_line(column, found)
        if numbers := _find_missing_markers(found):
            question = f"check: does {' or '.join(numbers)} mean missing? If so, write {_array(numbers)}; if not, []"
            yield _Line("missing", UNKNOWN, question)

    def _unit_line(self, column: Measurement, found: ExportColumn) -> _Line:
        units = column.known_units
        named = [unit for unit in units if names_unit(found.header, unit)]
        fitting = [unit for unit in units if self._fits_unit(column, found, units[unit])]
        said = split_unit(found.header)[1]
        if named and (not fitting or named[0] in fitting):
            return _Line("unit", _quoted(named[0]), "proposed: the header names it")
        if said is not None and not named:
            comment = f"check: is {_quoted(said)} the same as {_units(column)}? If not, write factor and offset"
            return _Line("unit", UNKNOWN, comment)
        if fitting == [column.unit] and column.typical_median is not None:
            return _Line("unit", _quoted(column.unit), "proposed: the values are typical of this unit only")
        fit = f"; the values fit {' or '.join(map(_quoted, fitting))}" if fitting else "; the values fit none of these"
        return _Line("unit", UNKNOWN, f"check: {_units(column)}, or write factor and offset{fit}")

    def _label_unit_line(self, column: NumberLabel, found: ExportColumn | None = None) -> _Line:
        """The unit of a label, proposed only if the header of its column names it."""
        if found is not None and names_unit(found.header, column.unit):
            return _Line("unit", _quoted(column.unit), "proposed: the header names it")
        return _Line("unit", UNKNOWN, f"check: {_quoted(column.unit)}, or write factor and offset")

    def _fits_unit(self, column: Measurement, found: ExportColumn, unit: tuple[float, float]) -> bool:
        factor, offset = unit
        valid = ~np.isnan(found.numbers) & ~np.isin(found.numbers, [0, *MISSING_NUMBERS])
        median = found.median(valid) * factor + offset
        low, high = column.typical_median or (column.low, column.high)
        return bool(low <= median <= high) and _in_range_share(column, found, factor, offset) >= FITTING

    def _code_line(self, column: Column, found: ExportColumn, *, is_open: bool = False) -> _Line:
        """The code table of a column; with `is_open`, all its codes are open."""
        words, is_label = _code_words(found), isinstance(column, Label)
        shown = sorted((word for word, rows in words if rows >= MIN_ROWS), key=_by_number)
        rarer = len(words) - len(shown)
        more = f"; and {rarer} rarer value{'s' * (rarer > 1)}" if rarer else ""
        if not shown or len(words) > MAX_WORDS:
            reason = (
                f"more than {MAX_WORDS} different values"
                if len(words) > MAX_WORDS
                else "no value is frequent enough to be shown"
            )
            return _Line("codes", UNKNOWN, f'check: {reason}; write {{ "..." = code }} for each; {_rule(column)}')
        codes = {word: UNKNOWN if is_open else self._code(column, word) for word in shown}
        order = "" if is_open or not isinstance(column, Category) else _by_order(column, shown)
        codes |= {word: self._code_of_mark(column, word) for word in sorted(found.missing) if word or is_label}
        is_complete = UNKNOWN not in codes.values() and not rarer
        entries = ", ".join(f"{_quoted(word)} = {code}" for word, code in codes.items())
        if isinstance(column, ClassLabel):
            comment = f"check: which of {_rule(column)} does each mean?{more}"
        elif is_label:
            comment = f"check: which mean 1 ({column.meaning}), and which 0?{more}"
        else:
            reason = "0 is no, and 1 is yes" if set(codes) <= {"0", "1"} else "the words match"
            comment = f"proposed: {reason}" if is_complete else f'check: {_rule(column)}, or "{MISSING}"{order}{more}'
        return _Line("codes", f"{{ {entries} }}", comment)

    def _code(self, column: Column, word: str) -> str:
        """The task's code that a word means, as TOML; the placeholder if that is not clear."""
        if not isinstance(column, Category):
            return UNKNOWN
        code = meaning_of_cell(word, column.codes)
        is_yes_no = {code: fold(text) for code, text in column.codes.items()} == {0: "no", 1: "yes"}
        if code is None and is_yes_no and word in ("0", "1"):
            code = int(word)
        return UNKNOWN if code is None else str(code)

    def _code_of_mark(self, column: Column, word: str) -> str:
        """The code of a cell that usually means missing; the task may have one for it, and a label is never missing."""
        code = self._code(column, word)
        is_missing = code == UNKNOWN and not isinstance(column, Label) and word != "none"  # which may be a finding
        return _quoted(MISSING) if is_missing else code

    def _date_lines(self, column: Measurement) -> Iterator[_Line]:
        """Two dates whose difference the column is; none if there is no such pair by the headers."""
        if column.unit not in DATE_UNITS or len(self._dates) < 2:
            return
        about = concepts_of(column.name) | concepts_of(column.meaning)
        if "age" in about:
            start, end = "birth", "admission"
        elif about == {"stay"}:
            start, end = "admission", "discharge"
        else:
            return
        for key, concept in (("from", start), ("to", end)):
            fitting = [found for found in self._dates if concepts_of(found.header) == {concept}]
            names = " or ".join(_header(found) for found in fitting or self._dates if _is_shown(found.header))
            is_stated = concept in about or "stay" in about or key == "from" or len(self._dates) == 2
            if len(fitting) == 1 and is_stated:  # an age may also be that on another date
                self.used.append(fitting[0])
                yield _Line(key, _header(fitting[0]), f"proposed: the header is about {concept}")
                if (line := self._format_line(key, fitting[0])) is not None:
                    yield line
            else:
                yield _Line(key, UNKNOWN, f"check: the date of {concept}: {names}?")
        yield _Line("unit", _quoted(column.unit), "proposed: the task's unit")

    def _format_line(self, key: str, found: ExportColumn) -> _Line | None:
        """The format of a column of dates, if it is not the file's."""
        formats = self._possible_formats(found)
        if self._date_format and self._date_format in formats:
            return None
        if len(formats) == 1:
            return _Line(f"{key}_format", _quoted(formats[0]), "proposed: the only format that fits")
        return _Line(f"{key}_format", UNKNOWN, f"check: day or month first? {' or '.join(map(_quoted, formats))}")

    def _possible_formats(self, found: ExportColumn) -> list[str]:
        """Formats of a column, without those that another column of the same look excludes."""
        formats = list(found.date_formats)
        for other in self._dates:
            common = [date_format for date_format in formats if date_format in other.date_formats]
            formats = common or formats
        return formats

    def _common_date_format(self) -> str:
        """The format that is certain for the most columns of dates; empty if there is none."""
        certain = [formats[0] for found in self._dates if len(formats := self._possible_formats(found)) == 1]
        return max(dict.fromkeys(certain), key=certain.count, default="")

    def _patient(self, name: str) -> _Line:
        same = [found for found in self._others if fold(found.header) == fold(name)]
        if len(same) == 1:
            self.used.append(same[0])
            return _Line("column", _header(same[0]), "proposed: same name")
        likely = [found for found in self._others if "patient" in concepts_of(found.header)][:MAX_CANDIDATES]
        self.candidates += likely
        comment = f"check: {' or '.join(map(_header, likely))}?" if likely else "not found: name the column"
        return _Line("column", UNKNOWN, comment)


def _find_missing_markers(found: ExportColumn) -> list[str]:
    """Common missing-value markers that are in several rows and outside the range of all other cells."""
    is_usual = np.isin(found.numbers, MISSING_NUMBERS)
    others = found.numbers[~np.isnan(found.numbers) & ~is_usual]
    beyond = [number for number in MISSING_NUMBERS if others.size and not others.min() <= number <= others.max()]
    return [str(number) for number in beyond if found.rows_with(number) >= MIN_ROWS]


def _units(column: Measurement) -> str:
    return " or ".join(map(_quoted, [column.unit, *column.other_units]))


def _fits(column: Column, found: ExportColumn) -> bool:
    """Whether a column's cells may be those of the task's column."""
    if not len(found.cells):
        return False
    if isinstance(column, Measurement):
        units = [(1.0, 0.0), *column.other_units.values()]
        in_range = max(_in_range_share(column, found, *unit) for unit in units) >= FITTING
        said = split_unit(found.header)[1]
        return found.numeric_share >= FITTING and (in_range or said is not None)
    if isinstance(column, NumberLabel | CountLabel):
        return found.numeric_share >= FITTING and _in_range_share(column, found, 1.0, 0.0) >= FITTING
    codes = len(column.codes) if isinstance(column, Category | ClassLabel) else 0
    most = codes + 4 if codes or isinstance(column, Label) else 0
    frequent = [rows for _, rows in _code_words(found) if rows >= MIN_ROWS]
    return 1 <= len(frequent) <= most


def _in_range_share(column: Column, found: ExportColumn, factor: float, offset: float) -> float:
    """Share of the numbers that are in the column's range, of those that do not usually mean missing."""
    numbers = found.numbers * factor + offset
    counted: Mask = ~np.isnan(found.numbers) & ~np.isin(found.numbers, [0, *MISSING_NUMBERS])
    if not counted.any():
        return 0.0
    return float(found.counts[counted & column.allows(numbers)].sum() / found.counts[counted].sum())


def _code_words(found: ExportColumn) -> list[tuple[str, int]]:
    """Cells that may be codes, with their rows; of dates, long numbers and long texts one row counts."""
    return [
        (cell, int(rows) if _may_be_shown(cell) else 1) for cell, rows in zip(found.cells, found.counts, strict=True)
    ]


def _may_be_shown(cell: str) -> bool:
    is_long = len(cell) > 40 or sum(character.isdigit() for character in cell) > 4
    return not is_long and not any(date_pattern(date_format).fullmatch(cell) for date_format in DATE_FORMATS)


def _by_number(word: str) -> tuple[float, str]:
    number = FileFormat().number(word)
    return (float("inf") if number is None else number, word)


def _by_order(column: Category, words: Sequence[str]) -> str:
    """A comment that pairs numbers with the task's codes in their order, if there are as many."""
    if len(words) != len(column.codes) or any(FileFormat().number(word) is None for word in words):
        return ""
    pairs = zip(sorted(words, key=_by_number), sorted(column.codes), strict=True)
    return f"; in their order {', '.join(f'{_quoted(word)} = {code}' for word, code in pairs)}"


def _rule(column: Column) -> str:
    return column.rule.removesuffix(", or empty").removeprefix("one of ")


def _is_shown(header: str) -> bool:
    """Whether a header is short, and without the digits of an identifier or a date."""
    return 0 < len(header) <= 60 and sum(character.isdigit() for character in header) <= 4


def _header(found: ExportColumn) -> str:
    if found.occurrence is None:
        return _quoted(found.header)
    return f"{{ name = {_quoted(found.header)}, occurrence = {found.occurrence} }}"


def _array(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _quoted(text: str) -> str:
    """A text as TOML; control characters are left out, except tabs."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
    return f'"{"".join(character for character in escaped if character.isprintable())}"'
