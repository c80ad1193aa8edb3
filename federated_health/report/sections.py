"""Parts that the reports of a run and of a study share: verdicts, curves, who holds what, settings, the model card."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version

import numpy as np
import numpy.typing as npt

from federated_health import __version__
from federated_health.data.tasks import Task
from federated_health.ml.bootstrap import Interval, Verdict
from federated_health.ml.curves import CalibrationCurve, Curve
from federated_health.report.charts import draw_importance, draw_labels
from federated_health.report.formatting import (
    DIAGONAL,
    NOT_DEFINED,
    SHARES,
    SMALL,
    TOO_FEW,
    figure,
    list_some,
    number_of,
    percent_of,
    with_interval,
)
from federated_health.report.page import (
    Block,
    Bullets,
    Card,
    Cards,
    Caution,
    Facts,
    Picture,
    Section,
    Text,
    Tone,
)
from federated_health.report.panels import draw_calibration, draw_confusion, draw_heat_map, draw_roc
from federated_health.report.svg import MAX_LINES, MAX_ROWS
from federated_health.settings import OPERATIONAL, Settings

PACKAGES = ("flwr", "tensorflow", "keras", "numpy", "pandas", "scikit-learn")
FOOTER = f"Made by Federated Health {__version__}. This page is one file: it loads nothing and sends nothing."
TONES: Mapping[str, Tone] = {Verdict.GAINS: "good", Verdict.LOSES: "bad"}
MAX_PANELS = MAX_LINES - 1
"""Hospitals of which a curve is drawn, so that there is room for that of all together."""


def verdict_card(
    name: str,
    verdict: str,
    difference: Interval,
    aucs: tuple[float | None, float | None],
    *,
    small: bool,
    words: str = "",
) -> Card:
    """What joining gave a hospital.

    Args:
        difference: federated minus own.
        aucs: of the federated model and of its own.
        small: see `intervals.is_small`.
        words: that follow the figures.
    """
    federated, own = aucs
    parts = []
    if difference.value is not None:
        parts.append(
            f"ROC-AUC {figure(federated)} with the federation, {figure(own)} with its own patients alone; difference "
            f"{with_interval(difference, signed=True)}."
        )
    parts += [words] if words else []
    if verdict == Verdict.UNDEFINED:
        parts.append(TOO_FEW)
    elif small:
        parts.append(SMALL)
    return Card(name=name, verdict=verdict, tone=TONES.get(verdict, "neutral"), words=" ".join(parts))


def verdict_cards(cards: Sequence[Card]) -> list[Block]:
    """The cards of all hospitals; of many the first few, and how many there are beyond them."""
    more = len(cards) - MAX_ROWS
    shown: list[Block] = [Cards(items=tuple(cards[:MAX_ROWS]))]
    return shown + ([Text(words=f"And {number_of(more, 'more hospital')}, not shown.")] if more > 0 else [])


def roc_section(curves: Mapping[str, Curve], caption: str, *rest: Block) -> Section:
    """ROC curves.

    Args:
        caption: what they are of; how to read them follows.
        rest: what follows the picture.
    """
    found = list_some(
        (f"{name} {percent_of(float(np.interp(0.1, one.x, one.y)))}" for name, one in curves.items()), ", "
    )
    picture = Picture(
        svg=draw_roc(curves),
        alt=f"ROC curves. Where 10 % of the negative are called positive, the share of the positive found: {found}.",
        caption=f"{caption} {DIAGONAL}",
    )
    return Section(title="ROC curves", blocks=(picture, *rest))


def calibration_section(curves: Mapping[str, CalibrationCurve], caption: str, alt: str) -> Section:
    """Calibration curves.

    Args:
        caption: what they are of; how to read them follows.
    """
    return Section(
        title="Calibration",
        blocks=(
            Picture(
                svg=draw_calibration(curves),
                alt=alt,
                caption=f"{caption} Predicted risk against the share of patients who are positive, in bins of about "
                "equal size, with 95 % Wilson intervals. On the diagonal a risk means what it says; above it risks "
                "are too low, below it too high.",
            ),
        ),
    )


def confusion_section(matrices: Mapping[str, Sequence[int]], caption: str) -> Section:
    """Confusion matrices: name -> true negatives, false positives, false negatives, true positives."""
    words = (
        f"{name}: {tn} true negatives, {fp} false positives, {fn} false negatives, {tp} true positives"
        for name, (tn, fp, fn, tp) in matrices.items()
    )
    picture = Picture(svg=draw_confusion(matrices), alt=list_some(words), caption=f"{caption} {SHARES}")
    return Section(title="Decisions at the threshold", blocks=(picture,))


def first_panels(names: Iterable[str]) -> tuple[list[str], str]:
    """The names for which there are panels, and words about the others."""
    names = list(names)
    more = len(names) - MAX_PANELS
    return names[:MAX_PANELS], f"{number_of(more, 'more hospital')} not drawn." if more > 0 else ""


def who_holds_what(
    task: Task,
    labels: Mapping[str, tuple[int, int]],
    missing: npt.NDArray[np.float64],
    *,
    names: Sequence[str],
    of_labels: str,
    of_missing: str,
) -> Section:
    """Labels and missing values by hospital.

    Args:
        labels: hospital -> patients with and without the label.
        missing: [names, columns], shares from 0 to 1, NaN where not released; may have no row.
        of_labels, of_missing: which patients these are of, and what was not released.
    """
    blocks: list[Block] = [
        Picture(
            svg=draw_labels(labels, positive=f"{task.label.name} = 1", negative=f"{task.label.name} = 0"),
            alt="Patients with and without it. "
            + list_some(f"{name}: {one} with and {none} without" for name, (one, none) in labels.items()),
            caption=f"{task.label.name} = 1: {task.label.meaning}. {of_labels}",
        )
    ]
    if len(missing):
        most = [
            f"{name}: {', '.join(_most_missing(task, row)) or 'no column mostly missing'}"
            for name, row in zip(names, missing, strict=True)
        ]
        blocks.append(
            Picture(
                svg=draw_heat_map(names, task.column_names, missing),
                alt=f"Missing values. Columns of which at least half is missing, by hospital: {list_some(most)}.",
                caption=f"Missing values, in per cent. {of_missing}",
            )
        )
    meanings = tuple((column.name, column.meaning) for column in task.columns if column.meaning != column.name)
    if meanings:
        blocks.append(Facts(items=meanings))
    return Section(title="Who holds what", blocks=tuple(blocks))


def _most_missing(task: Task, shares: npt.NDArray[np.float64]) -> list[str]:
    named = zip(task.column_names, shares, strict=True)
    return [f"{name} (not released)" if np.isnan(share) else name for name, share in named if not share < 0.5]


def which_columns(importance: Mapping[str, float], words: str) -> Section:
    """Permutation importance.

    Args:
        importance: column -> rise of the mean loss of a patient, in nats.
    """
    ordered = sorted(importance.items(), key=lambda one: -one[1])
    return Section(
        title="Which columns weigh most",
        blocks=(
            Picture(
                svg=draw_importance(dict(ordered), quantity="rise of the mean loss, nats a patient"),
                alt="Rise of the loss, most first: " + ", ".join(f"{name} {figure(value)}" for name, value in ordered),
                caption="How much worse the predictions become when a column's values are shuffled among the "
                f"patients of a hospital (permutation importance). {words}",
            ),
            Text(
                words="Below 0, a column misled the model on these patients. A column that most patients lack "
                "cannot weigh much, and of two columns that say the same each alone weighs little. To weigh much is "
                "not to be a cause. A nat is the unit of the loss."
            ),
        ),
    )


def settings_section(
    settings: Settings, others: Sequence[tuple[str, str]], *, leave_out: frozenset[str] = frozenset()
) -> Section:
    """Everything that is needed to do it again.

    Args:
        others: further facts, such as hashes.
        leave_out: settings that say nothing here.
    """
    own = [
        (name, "yes" if value is True else "no" if value is False else str(value) or NOT_DEFINED)
        for name, value in settings.to_config().items()
        if name not in OPERATIONAL | leave_out
    ]
    versions = [("federated-health", __version__), ("Python", platform.python_version())]
    versions += [(name, version(name)) for name in PACKAGES]
    return Section(
        title="Settings, versions and hashes", blocks=(Facts(items=(*own, *others)), Facts(items=tuple(versions)))
    )


def model_card(task: Task, hospitals: Sequence[str], extra: Sequence[str] = ()) -> Section:
    """Intended use and limits (after Mitchell et al. 2019).

    Args:
        extra: further limits.
    """
    shown = ", ".join(hospitals[:8]) + (f" and {len(hospitals) - 8:,} more" if len(hospitals) > 8 else "")
    return Section(
        title="Intended use and limits",
        blocks=(
            Text(
                words=f"The model estimates the probability of this: {task.label.meaning}. It is meant for learning "
                "about federated learning and for comparing methods, on patients like those of the hospitals that "
                f"took part ({shown})."
            ),
            Caution(words="Not a medical device. No decision about a patient may rest on it."),
            Bullets(
                items=(
                    "Patients of other hospitals, of another time or with other reasons to be examined may differ; the "
                    "figures here do not hold for them.",
                    "A risk means what it says only where the calibration of that hospital is good; see the curves.",
                    "No figures by age, sex or other groups were computed: groups may be served unequally.",
                    "Missing values are an input of their own. Where a hospital begins or stops to measure "
                    "something, the model is used on what it was not trained on.",
                    "Keeping records at home is not privacy by itself: weights and small aggregates can reveal "
                    "something of the patients they come from, the more the fewer these are.",
                    *extra,
                )
            ),
        ),
    )
