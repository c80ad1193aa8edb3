"""Tables as LaTeX, for the package booktabs."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from federated_health.report.cells import Cell, show

if TYPE_CHECKING:
    from federated_health.report.page import Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # \\ and \midrule would take what follows as their argument
    "]": "{]}",
    "*": "{*}",  # \\* is another command
    "\N{NO-BREAK SPACE}": "~",
    "\N{NARROW NO-BREAK SPACE}": r"\,",
    "\N{HYPHEN}": "-",
    "\N{NON-BREAKING HYPHEN}": "-",
    "\N{EN DASH}": r"\textendash{}",
    "\N{EM DASH}": r"\textemdash{}",
    "\N{MINUS SIGN}": "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    "\N{MICRO SIGN}": r"$\mu$",
    "\N{GREEK SMALL LETTER MU}": r"$\mu$",
    "\N{DEGREE SIGN}": r"$^{\circ}$",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
}

_JOINED = "-',"
"""Characters of which fonts join two to another one, such as the hyphens of a--b."""

_LAST_LATIN = "\u017f"


def escape(text: str) -> str:
    """Text for LaTeX: special characters as commands, and control characters and ends of lines as spaces."""
    pairs = zip(f" {text}", text, strict=False)
    return "".join(("{}" if last == this and this in _JOINED else "") + _escape_character(this) for last, this in pairs)


def _escape_character(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    kind, *codes = unicodedata.decomposition(character).split() or [""]
    if kind in ("<super>", "<sub>"):
        plain = escape("".join(chr(int(code, 16)) for code in codes))
        return rf"\text{kind.strip('<>')}script{{{plain}}}"
    return character if character.isprintable() else " "


def latex_table(table: "Table", label: str) -> str:
    """A floating table with all rows, rounded as on the page; the `last` ones follow below a line.

    Args:
        label: to refer to the table, of letters, digits and hyphens.
    """
    columns = list(zip(*table.rows, strict=True))[1:] or [()] * (len(table.columns) - 1)
    layout = "l" + "".join("l" if _are_words(column) else "r" for column in columns)
    rows = [_write_row(map(show, row)) for row in table.rows]
    first, last = rows[: len(rows) - table.last], rows[len(rows) - table.last :]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(table.caption)}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        _write_row(table.columns),
        r"\midrule",
        *first,
        *([r"\midrule"] if first and last else []),
        *last,
        r"\bottomrule",
        r"\end{tabular}",
        *([r"\par\smallskip", rf"{{\footnotesize {escape(table.note)}\par}}"] if table.note else []),
        r"\end{table}",
    ]
    text = "".join(f"{line}\n" for line in lines)
    return f"% Needs {_needs(text)}\n{text}"


def _needs(text: str) -> str:
    """What the preamble of a document needs for a table."""
    encoding = r" and \usepackage[T1]{fontenc}" if not text.isascii() else ""
    if max(text) > _LAST_LATIN:
        encoding = ", and XeLaTeX or LuaLaTeX with a font that has its letters"
    return rf"\usepackage{{booktabs}}{encoding}"


def _write_row(cells: Iterable[str]) -> str:
    return rf"{' & '.join(map(escape, cells))} \\"


def _are_words(cells: Sequence[Cell]) -> bool:
    return bool(cells) and all(isinstance(cell, str) and not re.search(r"\d", cell) for cell in cells)
