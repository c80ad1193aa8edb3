"""The progress of a run: a bar in a notebook, a line on standard error elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from federated_health.ml.rounds import Round


class RoundProgress:
    """How many rounds are completed, as notebooks show it."""

    def __init__(self, total: int) -> None:
        self._total, self._completed, self._figures = total, 0, ""

    def update(self, completed: Round) -> None:
        """Show this round as the last completed one."""
        self._completed, counts = completed.number, completed.federation.counts
        self._figures = "" if counts is None or counts.loss is None else f": loss {counts.loss:.3f}"

    def __repr__(self) -> str:
        return f"round {self._completed}/{self._total}{self._figures}"

    def _repr_html_(self) -> str:
        return f'<progress max="{self._total}" value="{self._completed}"></progress> {self!r}'


@contextmanager
def show_progress(total: int, shown: bool | None) -> Iterator[Callable[[Round], None]]:
    """Yield a function to call after each round.

    Args:
        shown: None shows the progress in notebooks only.
    """
    display = _notebook_display()
    progress = RoundProgress(total)
    if shown is False or (shown is None and display is None):
        yield progress.update
    elif display is not None:
        handle = display(progress, display_id=True)

        def show(completed: Round) -> None:
            progress.update(completed)
            handle.update(progress)

        yield show
    else:

        def write(completed: Round) -> None:
            progress.update(completed)
            _print(f"\r{progress}")

        try:
            yield write
        finally:
            _print("\n")


def _print(text: str) -> None:
    """Write to standard error, if it can be written."""
    with suppress(AttributeError, OSError, ValueError):  # it may be closed
        sys.stderr.write(text)
        sys.stderr.flush()


def _notebook_display() -> Callable[..., Any] | None:
    """IPython's `display` where code runs in a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return sys.modules["IPython.display"].display if hasattr(shell, "kernel") else None
