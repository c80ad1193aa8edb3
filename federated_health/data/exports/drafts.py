"""What drafts of task files and of mapping files have in common."""

from dataclasses import dataclass

MIN_ROWS = 5
"""Smallest number of rows with a code or a code word that a draft shows."""

MAX_WORDS = 12
"""Largest number of different texts in a category; a draft shows no words of a column with more."""


@dataclass(frozen=True)
class Draft:
    """A draft, and the number of its lines that are to be completed."""

    text: str
    open_lines: int

    @property
    def request(self) -> str:
        """What is to be done with the draft, in one line."""
        return f'{self.open_lines} {"line" if self.open_lines == 1 else "lines"} to complete: replace each "?"'
