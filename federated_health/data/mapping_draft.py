"""Drafts a mapping file from a hospital's export: a proposal for each column of a task, with how sure it is.

A draft does not run before a person has replaced each "?". What a label's cells mean is always left to a person. Of
the patients' cells, only code words are shown, and of these only those of at least MIN_ROWS rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from federated_health.data.columns import Category, Column, Label, Mask, Measurement
from federated_health.data.csv_reading import looks_like_name
from federated_health.data.export_profile import (
    DATE_FORMATS,
    MISSING_NUMBERS,
    MISSING_WORDS,
    Export,
    ExportColumn,
    profile_export,
)
from federated_health.data.header_words import concepts_of, fold, likeness, meaning_of_cell, split_unit
from federated_health.data.mapping_files import DATE_UNITS, MISSING, FileFormat, date_pattern
from federated_health.data.tasks import Task
from federated_health.data.toml_reading import PLACEHOLDER

MIN_ROWS = 5
"""Smallest number of rows with a code word that is shown."""

MAX_WORDS = 12
"""Largest number of such code words of a column that is shown at all; with more, it does not hold codes."""

SURE, LIKELY = 0.9, 0.5
"""From SURE on, a header is taken as the column; from LIKELY on, it is named as a candidate."""

FITTING = 0.9
"""Smallest share of a column's cells that must fit the task's rule."""

MAX_CANDIDATES = 4

UNKNOWN = f'"{PLACEHOLDER}"'


@dataclass(frozen=True)
class Draft:
    """A draft, and the number of its lines that a person has to complete."""

    text: str
    open_lines: int


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
    drafter = _Drafter(export, task)
    sections = [(f"[columns.{name}]  # {what}", lines) for name, what, lines in drafter.columns()]
    sections.insert(0, ("[file]", list(drafter.file())))
    blocks = ["\n".join([title, *map(str, lines)]) for title, lines in sections]
    open_lines = sum(PLACEHOLDER in line.value for _, lines in sections for line in lines)
    head = [
        f"# Draft of a mapping from {path.name} to the columns of the task {task.name}.",
        f'# Replace each {UNKNOWN} ({open_lines} lines), and review the lines marked "check". A sure line may be wrong, too.',
        f'task = "{task.name}"',
    ]
    unused = [column.header for column in export.columns if column not in drafter.used and looks_like_name(column.header)]
    tail = [f"# Not used: {', '.join(dict.fromkeys(unused))}"] if unused else []
    return Draft("\n\n".join(["\n".join(head), *blocks, *tail]) + "\n", open_lines)


class _Drafter:
    """Matches the columns of an export with those of a task."""

    def __init__(self, export: Export, task: Task) -> None:
        self._export, self._task = export, task
        self.used: list[ExportColumn] = []
        self._dates = [column for column in export.columns if column.date_formats]
        self._others = [column for column in export.columns if not column.date_formats]
        self._date_format = self._common_date_format()
        self._marks: set[str] = set()

    def file(self) -> Iterator[_Line]:
        """The lines of [file]; after `columns`, which finds marks for missing."""
        file = self._export.format
        if self._export.is_text:
            yield _Line("separator", _quoted(file.separator), "sure: it divides every row alike")
            encoding = file.encoding.removesuffix("-sig")
            sure = "sure" if encoding != "cp1252" else "check: it is not UTF-8; are accents in the headers right?"
            yield _Line("encoding", _quoted(encoding), sure)
        if self._export.decimal_is_sure:
            yield _Line("decimal", _quoted(file.decimal), "sure: by the numbers in the file")
        else:
            yield _Line("decimal", UNKNOWN, 'check: numbers are written in more than one way; "." or ","')
        if file.thousands:
            yield _Line("thousands", _quoted(file.thousands), "sure: by the numbers in the file")
        words = sorted({word for column in self.used for word in column.missing_words if _is_frequent_mark(word)})
        if words:
            yield _Line("missing", _array(words), "check: do these mean missing? Besides empty, ?, NA, null and None")
        if self._date_format:
            yield _Line("date_format", _quoted(self._date_format), "sure: the only order of day and month that fits")

    def columns(self) -> list[tuple[str, str, list[_Line]]]:
        """Name, description and lines of each column of the task."""
        matches = self._match()
        self.used += [column for column in matches.values() if column is not None]
        found = [
            (column.name, f"{column.meaning}: {_rule(column)}", list(self._column(column, matches[column.name])))
            for column in self._task.labelled_columns
        ]
        if self._task.patient is not None:
            found.append((self._task.patient, "the patient's identifier", [self._patient(self._task.patient)]))
        return found

    def _match(self) -> dict[str, ExportColumn | None]:
        """The export's column that is each column of the task, where that is sure."""
        ranked = []
        for column in self._task.labelled_columns:
            scores = sorted(((likeness(column, c.header)[0], i) for i, c in enumerate(self._others)), reverse=True)
            best = [(score, i) for score, i in scores if score >= SURE and _fits(column, self._others[i])]
            if best and (len(best) == 1 or best[0][0] > best[1][0]):
                ranked.append((best[0][0], column.name, self._others[best[0][1]]))
        matches: dict[str, ExportColumn | None] = dict.fromkeys(c.name for c in self._task.labelled_columns)
        for _, name, found in sorted(ranked, key=lambda entry: -entry[0]):
            if found not in matches.values():
                matches[name] = found
        return matches

    def _column(self, column: Column, found: ExportColumn | None) -> Iterator[_Line]:
        if found is None:
            dates = list(self._date_lines(column)) if isinstance(column, Measurement) else []
            yield from dates or [_Line("column", UNKNOWN, self._candidates(column))]
            if not dates and isinstance(column, Label):
                yield _Line("codes", f'{{ "?" = {UNKNOWN} }}', f"check: what means 1 ({column.meaning}), and what 0")
            return
        yield _Line("column", _header(found), f"sure: {likeness(column, found.header)[1]}")
        if isinstance(column, Measurement):
            yield self._unit_line(column, found)
            if numbers := self._doubtful_numbers(column, found):
                yield _Line("missing", UNKNOWN, f"check: does {' or '.join(numbers)} mean missing? If not, write []")
        else:
            yield from self._code_lines(column, found)

    def _candidates(self, column: Column) -> str:
        """A comment that names the export's columns that may be this one."""
        free = [found for found in self._others if found not in self.used]
        named = sorted(
            ((likeness(column, found.header)[0] + 0.1 * _fits(column, found), i) for i, found in enumerate(free)),
            reverse=True,
        )
        likely = [free[i].header for score, i in named if score >= LIKELY][:MAX_CANDIDATES]
        if not likely and not isinstance(column, Label):
            likely = [free[i].header for _, i in named if _fits(column, free[i])][:MAX_CANDIDATES]
        shown = [_quoted(header) for header in likely if looks_like_name(header)]
        absent = "" if isinstance(column, Label) else ", or absent = true"
        return f"check: {' or '.join(shown)}{absent}?" if shown else f"not found: name the column{absent}"

    def _unit_line(self, column: Measurement, found: ExportColumn) -> _Line:
        units = {column.unit: (1.0, 0.0), **column.other_units}
        said = split_unit(found.header)[1]
        named = [unit for unit in units if said is not None and _plain_unit(unit) == _plain_unit(said)]
        fitting = [unit for unit in units if self._fits_unit(column, found, units[unit])]
        listed = ", ".join(_quoted(unit) for unit in units)
        if named and (not fitting or named[0] in fitting):
            return _Line("unit", _quoted(named[0]), "sure: the header says so")
        if said is not None and not named:
            return _Line("unit", UNKNOWN, f"check: is {_quoted(said)} one of {listed}? If not, write factor and offset")
        if fitting == [column.unit]:
            return _Line("unit", _quoted(column.unit), "sure: the values fit no other unit")
        fit = f"; the values fit {' or '.join(map(_quoted, fitting))}" if fitting else "; the values fit none of them"
        return _Line("unit", UNKNOWN, f"check: {listed}, or write factor and offset{fit}")

    def _fits_unit(self, column: Measurement, found: ExportColumn, unit: tuple[float, float]) -> bool:
        factor, offset = unit
        valid = ~np.isnan(found.numbers) & ~np.isin(found.numbers, [0, *MISSING_NUMBERS])
        median = found.median(valid) * factor + offset
        low, high = column.typical_median or (column.low, column.high)
        return bool(low <= median <= high) and _in_range_share(column, found, factor, offset) >= FITTING

    def _doubtful_numbers(self, column: Measurement, found: ExportColumn) -> list[str]:
        """Numbers that may mean missing: usual for that, in several rows, and far from the other cells."""
        doubtful = []
        for number in MISSING_NUMBERS:
            others = found.numbers[~np.isnan(found.numbers) & ~np.isin(found.numbers, MISSING_NUMBERS)]
            is_far = others.size > 0 and not others.min() <= number <= others.max()
            if found.rows_with(number) >= MIN_ROWS and is_far:
                doubtful.append(str(number))
        return doubtful

    def _code_lines(self, column: Column, found: ExportColumn) -> Iterator[_Line]:
        words = _code_words(found)
        shown = {word for word, rows in words if rows >= MIN_ROWS}
        rarer = len(words) - len(shown)
        more = f"; and {rarer} rarer value{'s' * (rarer > 1)}" if rarer else ""
        if not shown or len(shown) > MAX_WORDS:
            reason = f"more than {MAX_WORDS} different values" if shown else "no value is frequent enough to be shown"
            yield _Line("codes", UNKNOWN, f"check: {reason}; write {{ \"...\" = code }} for each")
            return
        codes = {word: self._code(column, word) for word in sorted(shown, key=_by_number)}
        if isinstance(column, Label):
            entries = ", ".join(f"{_quoted(word)} = {UNKNOWN}" for word in codes)
            yield _Line("codes", f"{{ {entries} }}", f"check: which mean 1 ({column.meaning}), which 0?{more}")
            return
        codes |= {word: _quoted(MISSING) for word in sorted(set(found.missing_words) & MISSING_WORDS)}
        entries = ", ".join(f"{_quoted(word)} = {code}" for word, code in codes.items())
        if UNKNOWN in codes.values():
            proposal = _by_order(column, list(shown)) if isinstance(column, Category) else ""
            yield _Line("codes", f"{{ {entries} }}", f"check: {_rule(column)}, or {_quoted(MISSING)}{proposal}{more}")
        else:
            sure = "sure: the words say so" if not rarer else "check: complete it for the rarer values"
            yield _Line("codes", f"{{ {entries} }}", f"{sure}{more}")

    def _code(self, column: Column, word: str) -> str:
        """The task's code that a word means, as TOML; the placeholder if that is not clear."""
        if not isinstance(column, Category):
            return UNKNOWN
        code = meaning_of_cell(word, column.codes)
        is_yes_no = {code: fold(text) for code, text in column.codes.items()} == {0: "no", 1: "yes"}
        if code is None and is_yes_no and word in ("0", "1"):
            code = int(word)
        return UNKNOWN if code is None else str(code)

    def _date_lines(self, column: Measurement) -> Iterator[_Line]:
        """Two dates whose difference the column is; none if there is no such pair by the headers."""
        if column.unit not in DATE_UNITS or len(self._dates) < 2:
            return
        said = concepts_of(column.name) | concepts_of(column.meaning)
        if "age" in said:
            start, end = "birth", "admission"
        elif "stay" in said or "discharge" in said or "admission" in said:
            start, end = "admission", "discharge"
        else:
            return
        for key, concept in (("from", start), ("to", end)):
            fitting = [found for found in self._dates if concepts_of(found.header) == {concept}]
            names = ", ".join(_header(found) for found in fitting or self._dates if looks_like_name(found.header))
            if len(fitting) == 1:
                self.used.append(fitting[0])
                yield _Line(key, _header(fitting[0]), f"sure: means {concept}")
                if (line := self._format_line(key, fitting[0])) is not None:
                    yield line
            else:
                yield _Line(key, UNKNOWN, f"check: the date of {concept}: {names}?")
        yield _Line("unit", _quoted(column.unit), "sure: the task's unit")

    def _format_line(self, key: str, found: ExportColumn) -> _Line | None:
        """The format of a column of dates, if it is not the file's."""
        formats = self._possible_formats(found)
        if self._date_format and self._date_format in formats:
            return None
        if len(formats) == 1:
            return _Line(f"{key}_format", _quoted(formats[0]), "sure: the only format that fits")
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
            return _Line("column", _header(same[0]), "sure: same name")
        likely = [_header(found) for found in self._others if "patient" in concepts_of(found.header)][:MAX_CANDIDATES]
        comment = f"check: {' or '.join(likely)}?" if likely else "not found: name the column"
        return _Line("column", UNKNOWN, comment)


def _fits(column: Column, found: ExportColumn) -> bool:
    """Whether a column's cells may be those of the task's column."""
    if not len(found.cells):
        return False
    if isinstance(column, Measurement):
        units = [(1.0, 0.0), *column.other_units.values()]
        in_range = max(_in_range_share(column, found, *unit) for unit in units) >= FITTING
        said = split_unit(found.header)[1]
        return found.numeric_share >= FITTING and (in_range or said is not None)
    most = 4 if isinstance(column, Label) else len(column.codes) + 4 if isinstance(column, Category) else 0
    frequent = [rows for _, rows in _code_words(found) if rows >= MIN_ROWS]
    return 1 <= len(frequent) <= most


def _in_range_share(column: Measurement, found: ExportColumn, factor: float, offset: float) -> float:
    """Share of the numbers that are in the column's range, of those that do not usually mean missing."""
    numbers = found.numbers * factor + offset
    counted: Mask = ~np.isnan(found.numbers) & ~np.isin(found.numbers, [0, *MISSING_NUMBERS])
    if not counted.any():
        return 0.0
    return float(found.counts[counted & column.allows(numbers)].sum() / found.counts[counted].sum())


def _code_words(found: ExportColumn) -> list[tuple[str, int]]:
    """Cells that may be codes, with their rows; dates and long numbers and texts count, but as one row, are not shown."""
    return [(cell, int(rows) if _may_be_shown(cell) else 1) for cell, rows in zip(found.cells, found.counts, strict=True)]


def _may_be_shown(cell: str) -> bool:
    is_long = len(cell) > 40 or sum(character.isdigit() for character in cell) > 4
    return not is_long and not any(date_pattern(date_format).fullmatch(cell) for date_format in DATE_FORMATS)


def _is_frequent_mark(word: str) -> bool:
    return word in MISSING_WORDS


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


def _plain_unit(unit: str) -> str:
    return fold(unit.replace("µ", "u").replace("μ", "u").replace("/", " per ").replace("%", "percent")).replace(" ", "")


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
