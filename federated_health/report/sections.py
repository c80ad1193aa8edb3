"""Parts that the reports of a run and of a study share: who holds what, columns, settings, and the model card."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np
import numpy.typing as npt

from federated_health import __version__
from federated_health.intervals import SMALL_CLASS, Interval, Verdict, judge
from federated_health.report.charts import draw_importance, draw_labels
from federated_health.report.page import Block, Bullets, Card, Caution, Facts, Picture, Section, Table, Text, Tone
from federated_health.report.panels import draw_heat_map
from federated_health.settings import Settings
from federated_health.tasks import Task

PACKAGES = ("flwr", "tensorflow", "keras", "numpy", "pandas", "scikit-learn")
NOT_DEFINED = "\N{EN DASH}"
TITLES = {
    "roc_auc": "ROC-AUC",
    "f1": "F1",
    "brier": "Brier score",
}
"""Of figures that are not called as their keys are."""

TONES: Mapping[Verdict, Tone] = {Verdict.GAINS: "good", Verdict.LOSES: "bad"}

RULE = (
    "A hospital gains where the whole 95 % interval of the difference (federated minus own ROC-AUC) is above 0, and "
    "loses where it is below; else there is no clear difference. The interval is a bootstrap over the tested patients, "
    "stratified by class, and paired: both models are compared on the same patients. It is conditional on the fitted "
    "models: what other training rows would have given is not in it."
)
SMALL = (
    f"Fewer than {SMALL_CLASS} of the tested patients are of one class: one patient more or less would change these "
    "figures much."
)
FLATTERS = (
    "Over all patients together the ROC-AUC flatters where hospitals differ in how many patients are positive: to "
    "know the hospital is then to know something of the patient. Look at the figures within hospitals first."
)


def figure(value: float | None, decimals: int = 3) -> str:
    """A figure, or a dash where it is not defined."""
    return NOT_DEFINED if value is None else f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def title_of(key: str) -> str:
    """What a figure is called at the head of a column."""
    return TITLES.get(key, key.replace("_", " "))


def with_interval(one: Interval, *, signed: bool = False) -> str:
    """A figure with its interval, or a dash where it is not defined."""
    if one.value is None or one.low is None or one.high is None:
        return NOT_DEFINED
    sign, joint = ("+", " to ") if signed else ("", "\N{EN DASH}")
    words = f"{one.value:{sign}.3f} ({one.low:{sign}.3f}{joint}{one.high:{sign}.3f})"
    return words.replace("-", "\N{MINUS SIGN}")


def verdict_card(name: str, difference: Interval, own: float | None, federated: float | None, words: str) -> Card:
    """What joining gave a hospital.

    Args:
        words: that follow the figures.
    """
    verdict = judge(difference)
    if difference.value is None:
        figures = "The ROC-AUC is not defined: the tested patients do not hold both classes."
    else:
        figures = (
            f"ROC-AUC {figure(federated)} with the federation, {figure(own)} with its own rows alone: "
            f"{with_interval(difference, signed=True)}."
        )
    return Card(name=name, verdict=str(verdict), tone=TONES.get(verdict, "neutral"), words=f"{figures} {words}".strip())


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
            alt="; ".join(f"{name}: {one} with and {none} without" for name, (one, none) in labels.items()),
            caption=f"{task.label.meaning[0].upper()}{task.label.meaning[1:]}. {of_labels}",
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
                alt=f"Missing values. Columns of which at least half is missing, by hospital: {'; '.join(most)}.",
                caption=f"Missing values, in per cent. {of_missing}",
            )
        )
    meanings = tuple((column.name, column.meaning) for column in task.columns if column.meaning != column.name)
    if meanings:
        blocks.append(Facts(items=meanings))
    return Section(title="Who holds what", blocks=tuple(blocks))


def _most_missing(task: Task, shares: npt.NDArray[np.float64]) -> list[str]:
    return [name for name, share in zip(task.column_names, shares, strict=True) if share >= 0.5]


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
                alt="Most first: " + ", ".join(f"{name} {value:.3f}" for name, value in ordered),
                caption="How much worse the predictions become when a column's values are shuffled among the "
                f"patients of a hospital (permutation importance). {words}",
            ),
            Text(
                words="A column that is missing in most rows cannot weigh much, and of two columns that say the "
                "same each alone weighs little. Importance is not cause."
            ),
        ),
    )


def settings_section(settings: Settings, others: Sequence[tuple[str, str]]) -> Section:
    """Everything that is needed to do it again.

    Args:
        others: further facts, such as hashes.
    """
    own = [
        (name, "yes" if value is True else "no" if value is False else str(value) or NOT_DEFINED)
        for name, value in settings.to_config().items()
        if name not in _NOT_OF_THE_MODEL
    ]
    versions = [("federated-health", __version__), ("Python", platform.python_version())]
    versions += [(name, version(name)) for name in PACKAGES]
    return Section(
        title="Settings, versions and hashes", blocks=(Facts(items=(*own, *others)), Facts(items=tuple(versions)))
    )


_NOT_OF_THE_MODEL = frozenset({"address", "wait", "out", "force", "insecure", "verbose", "data"})


def model_card(task: Task, hospitals: Sequence[str], extra: Sequence[str] = ()) -> Section:
    """Intended use and limits (after Mitchell et al. 2019).

    Args:
        extra: further limits.
    """
    shown = ", ".join(hospitals[:8]) + (f" and {len(hospitals) - 8} more" if len(hospitals) > 8 else "")
    return Section(
        title="Intended use and limits",
        blocks=(
            Text(
                words=f"The model estimates the probability of: {task.label.meaning}. It is meant for learning about "
                "federated learning and for comparing methods, on patients like those of the hospitals that took part "
                f"({shown})."
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


def figures_table(caption: str, rows: Mapping[str, Sequence[str]], columns: Sequence[str], note: str = "") -> Table:
    """A table of which the first column holds names."""
    cells = tuple((name, *values) for name, values in rows.items())
    return Table(caption=caption, columns=("", *columns), rows=cells, note=note)
