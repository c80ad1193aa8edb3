"""How reports put things: figures, long lists and tables in words, and the sentences that both reports need."""

from collections.abc import Iterable, Mapping, Sequence

from federated_health.ml.bootstrap import LEVEL, MIN_CLASS_SIZE, SMALL_CLASS, Interval, Verdict
from federated_health.report.page import Table
from federated_health.report.svg import MAX_ROWS, MINUS

NOT_DEFINED = "\N{EN DASH}"
ALL = "all patients"
TITLES = {
    "roc_auc": "ROC-AUC",
    "f1": "F1",
    "brier": "Brier score",
}
"""Of figures that are not called as their keys are."""

INTERVAL = f"{LEVEL * 100:g} % interval"

AUC = (
    "ROC-AUC is the chance that the model gives a patient who is positive a higher risk than one who is not: 1 is "
    "perfect, 0.5 is guessing."
)
RULE = (
    f"A hospital gains where the whole {INTERVAL} of the difference (federated minus own ROC-AUC) is above 0, and "
    "loses where all of it is below; else there is no clear difference. Where fewer than "
    f"{MIN_CLASS_SIZE} of the tested patients are positive, or fewer than {MIN_CLASS_SIZE} negative, it cannot be "
    "said. The interval is a bootstrap over the tested patients, stratified by class, and paired: both models are "
    "compared on the same patients. It takes the two models as they are: what other training patients would have given "
    "is not in it."
)
TOO_FEW = f"Fewer than {MIN_CLASS_SIZE} of the tested patients are of one class, too few for a verdict."
SMALL = (
    f"Fewer than {SMALL_CLASS} of the tested patients are of one class: one patient more or less would change these "
    "figures much."
)
FLATTERS = (
    "Over all patients together the ROC-AUC flatters where hospitals differ in how many patients are positive: to "
    "know the hospital is then to know something of the patient. Look at the figures within hospitals first."
)
MEANINGS = (
    "Accuracy: share of the patients predicted rightly. Brier score: mean squared distance of the risk from what came "
    "true; 0 is perfect, and 0.25 is what a risk of 50 % for everybody gives."
)
SHARES = "Per cents are of the patients who are actually negative, or positive."
DIAGONAL = "The dashed diagonal is guessing."


def figure(value: float | None, decimals: int = 3) -> str:
    """A figure, or a dash where it is not defined."""
    if value is None:
        return NOT_DEFINED
    return f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", MINUS)  # + 0.0: no minus before a zero


def percent_of(share: float) -> str:
    """A share in whole per cent."""
    return f"{100 * share:.0f} %"


def title_of(key: str) -> str:
    """What a figure is called at the head of a column."""
    return TITLES.get(key, key.replace("_", " "))


def with_interval(one: Interval, *, signed: bool = False) -> str:
    """A figure with its interval, or a dash where it is not defined.

    A signed figure keeps the sign of what is rounded to zero, since an interval may end just beside it.
    """
    if one.value is None or one.low is None or one.high is None:
        return NOT_DEFINED
    sign, joint = ("+", " to ") if signed else ("", "\N{EN DASH}")
    value, low, high = (f"{part + 0.0:{sign}.3f}".replace("-", MINUS) for part in (one.value, one.low, one.high))
    return f"{value} ({low}{joint}{high})"


def number_of(number: int, noun: str) -> str:
    """As in 1 hospital, 1,000 hospitals."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def list_some(parts: Iterable[str], joint: str = "; ") -> str:
    """The first few, and how many there are beyond them."""
    parts = list(parts)
    more = [f"and {len(parts) - MAX_ROWS:,} more"] if len(parts) > MAX_ROWS else []
    return joint.join([*parts[:MAX_ROWS], *more])


def list_verdicts(counts: Mapping[Verdict, int]) -> str:
    """How many hospitals have which verdict."""
    given = [f"{counts[verdict]:,} {verdict}" for verdict in Verdict if counts.get(verdict)]
    return f"Of {number_of(sum(counts.values()), 'hospital')}: {', '.join(given)}."


def figures_table(
    caption: str,
    rows: Mapping[str, Sequence[str]],
    columns: Sequence[str],
    *,
    last: Mapping[str, Sequence[str]] | None = None,
    note: str = "",
    first: str = "hospital",
) -> Table:
    """A table of which the first column holds names. Of many rows the first few are shown, and the others counted.

    Args:
        last: rows below them that are always shown.
        first: what the names are of.
    """
    shown = [*list(rows.items())[:MAX_ROWS], *(last or {}).items()]
    more = len(rows) - MAX_ROWS
    notes = [*([f"And {more:,} more, not shown."] if more > 0 else []), *([note] if note else [])]
    cells = tuple((name, *values) for name, values in shown)
    return Table(caption=caption, columns=(first, *columns), rows=cells, note=" ".join(notes))
