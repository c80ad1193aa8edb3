"""Sections that the pages of runs and of studies share."""

import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

from federated_health import __version__
from federated_health.data.tasks import Task
from federated_health.ml.metrics import DEFAULT_THRESHOLD, LESS_IS_BETTER
from federated_health.ml.networks import FILE, number_of_weights
from federated_health.ml.rounds import HospitalRound, Round
from federated_health.ml.targets import target_of
from federated_health.names import FEDERATION
from federated_health.report import charts, formatting
from federated_health.report.cells import Cell
from federated_health.report.page import Block, Caution, Folded, Picture, Section, Table
from federated_health.report.svg import MAX_LINES
from federated_health.setting_fields import flag_of
from federated_health.settings import OPERATIONAL, Settings

if TYPE_CHECKING:
    from federated_health.messages.content import TrainConfig
    from federated_health.report.panels import Panels

T = TypeVar("T")

ALL = "all patients"  # name of the row or curve of all hospitals' patients together
MAX_PANELS = MAX_LINES - 1  # hospitals with a curve of their own, which leaves room for that of all together
_TRAINING_LOSS = (
    "Mean loss on training patients during local training, before the weights were averaged. If it falls while the "
    "loss on held-out patients rises, more rounds make the model worse."
)
_PACKAGES = ("flwr", "tensorflow", "keras", "numpy", "pandas", "scikit-learn")


def figures_table(
    caption: str,
    rows: Mapping[str, Mapping[str, Cell]],
    *,
    last: Mapping[str, Mapping[str, Cell]] | None = None,
    note: str = "",
    first: str = "hospital",
) -> Table:
    """A table with names in the `first` column and their figures in the others; the `last` rows sum up the others."""
    named = [*rows.items(), *(last or {}).items()]
    columns = tuple(dict.fromkeys(column for _, row in named for column in row))
    cells = tuple((name, *(row.get(column, "") for column in columns)) for name, row in named)
    return Table(caption=caption, columns=(first, *columns), rows=cells, note=note, last=len(last or {}))


def learning_curves(rounds: Sequence[Round], panels: "Panels") -> Iterator[Section]:
    """Losses of every round, and the figure that lines per round show; nothing if no round is known."""
    parts = [{**record.hospitals, FEDERATION: record.federation} for record in rounds]
    names = [*sorted({name for record in rounds for name in record.hospitals}), FEDERATION]
    known = {name: [part.get(name) for part in parts] for name in names}
    held_out = {name: [part.counts.loss if part and part.counts else None for part in of] for name, of in known.items()}
    training = {name: [part.train_loss if part else None for part in of] for name, of in known.items()}
    sizes = {name: max((part.train_examples for part in of if part), default=0) for name, of in known.items()}
    of_held_out = (
        f"Mean loss ({panels.target.loss_name}) on held-out patients after each round. Lower is better; "
        f"{panels.loss_reference}. A gap means that {panels.gap}."
    )
    shown = _round_figure(rounds, panels)
    values = {name: [_value_of(part, shown, panels) for part in of] for name, of in known.items()}
    unit = panels.target.loss_unit
    pictures: list[Block] = []
    for series, quantity, caption in (
        (held_out, f"loss on held-out patients, {unit}", of_held_out),
        (values, f"{panels.title(shown)} on held-out patients", _describe_round_figure(shown, panels)),
        (training, f"loss on training patients, {unit}", f"{_TRAINING_LOSS} rounds.csv has the data of these curves."),
    ):
        series = {name: values for name, values in series.items() if any(value is not None for value in values)}
        if series:
            hospitals = {name: values for name, values in series.items() if name != FEDERATION}
            drawn, which = formatting.largest_of(hospitals, sizes, MAX_LINES)
            drawn |= {name: values for name, values in series.items() if name == FEDERATION}
            drawing = charts.draw_learning_curves(drawn, quantity=quantity, rounds=[record.number for record in rounds])
            ends = formatting.list_some(
                (f"{name} {formatting.figure(values[-1])}" for name, values in drawn.items()), ", "
            )
            alt = f"{formatting.capitalise(quantity)} after the last round: {ends}."
            pictures.append(Picture(svg=drawing, alt=alt, caption=f"{caption} {which}".strip()))
    if pictures:
        yield Section("Learning curves", pictures)


def _round_figure(rounds: Sequence[Round], panels: "Panels") -> str:
    """Name of the figure of the rounds, which depends on how rare the outcome is among all patients of the last one."""
    evaluated = [record.federation.counts for record in rounds if record.federation.counts]
    return panels.target.round_figure(evaluated[-1])[0] if evaluated else panels.target.headline


def _value_of(part: HospitalRound | None, figure: str, panels: "Panels") -> float | None:
    """The figure of the rounds of one hospital in one round."""
    if part is None or part.counts is None:
        return None
    if figure == panels.target.headline:
        return part.counts.headline
    value: float | None = getattr(part.counts, figure)  # one of `Target.also_per_round`
    return value


def _describe_round_figure(figure: str, panels: "Panels") -> str:
    if figure == "observed_expected":
        better = "1 is best: above it predictions are too low"
    else:
        better = "Lower is better" if figure in LESS_IS_BETTER else "Higher is better"
    title = formatting.capitalise(panels.title(figure))
    at = f", with a threshold of {DEFAULT_THRESHOLD}" if figure == "accuracy" and panels.target.has_threshold else ""
    return f"{title} on held-out patients after each round{at}. {better}."


def abreast(title: str, parts: Sequence[Section]) -> Iterator[Section]:
    """Several sections as one: their pictures under the sections' titles, then how to read them, folded."""
    if len(parts) < 2:
        yield from parts
        return
    pictures = [
        replace(block, title=block.title or part.title)
        for part in parts
        for block in part.blocks
        if isinstance(block, Picture)
    ]
    others = [block for part in parts for block in part.blocks if not isinstance(block, Picture)]
    cautions = [block for block in others if isinstance(block, Caution)]
    reading = [block for block in others if block not in cautions]
    yield Section(title, [*pictures, *cautions, *([Folded("How to read these charts", reading)] if reading else [])])


def largest_panels(hospitals: Mapping[str, T], sizes: Mapping[str, int]) -> tuple[dict[str, T], str]:
    """The hospitals that get a panel, and a sentence that says which if those are not all."""
    return formatting.largest_of(hospitals, sizes, MAX_PANELS)


def holdings_section(
    task: Task,
    labels: Sequence[Block],
    missing: Mapping[str, Sequence[float]],
    of_missing: str,
    whose: str = "each hospital",
) -> Section:
    """Labels and missing values by hospital.

    Args:
        labels: see `Panels.holdings`.
        missing: hospital -> shares of the task's columns, from 0 to 1, NaN where not released; may be empty.
        of_missing: sentence that names the patients, and what was not released.
        whose: the hospital or hospitals, for the title.
    """
    blocks = list(labels)
    if missing:
        most = formatting.list_some(f"{name}: {_mostly_missing(task, shares)}" for name, shares in missing.items())
        picture = Picture(
            svg=charts.draw_heat_map(missing, task.column_names),
            alt=f"Columns with at least half of their values missing, by hospital: {most}.",
            caption=f"Missing values, as percentages. {of_missing}",
        )
        blocks.append(picture)
    if meanings := {column.name: column.meaning for column in task.columns if column.meaning != column.name}:
        blocks.append(meanings)
    return Section(f"Data of {whose}", blocks)


def _mostly_missing(task: Task, shares: Sequence[float]) -> str:
    named = [(name, share) for name, share in zip(task.column_names, shares, strict=True) if not share < 0.5]
    columns = [f"{name} (not released)" if math.isnan(share) else name for name, share in named]
    return ", ".join(columns) or "no column mostly missing"


def importance_section(importance: Mapping[str, float], patients: str, panels: "Panels") -> Section:
    """Permutation importance (Breiman 2001, Fisher et al. 2019).

    Args:
        importance: column -> rise of the mean loss per patient.
        patients: sentence that names the patients, and the number of shuffles.
    """
    ordered = dict(sorted(importance.items(), key=lambda item: -item[1]))
    figures = ", ".join(f"{name} {formatting.figure(value)}" for name, value in ordered.items())
    picture = Picture(
        svg=charts.draw_importance(ordered, quantity=f"rise of the mean loss, {panels.target.loss_unit} per patient"),
        alt=f"Rise of the loss, largest first: {figures}",
        caption="Rise of the loss when a column's values are shuffled among the patients of a hospital "
        f"(permutation importance). {patients}",
    )
    reading = (
        "Below 0, a column misled the model on these patients. A column that most patients lack cannot matter much, "
        "and of two columns with the same information each alone matters little. A column that matters need not be a "
        f"cause. {panels.unit_explained}"
    )
    return Section("Which columns matter most", [picture, Folded("How to read this chart", [reading])])


def network_section(task: Task, config: "TrainConfig") -> Section:
    """The network: its layers, weights and inputs, and how it was trained."""
    network = config.network
    facts: dict[str, str] = {}
    if network.model == FILE:
        facts |= {"model": "built by the network file", **network.facts}
    else:
        layers = [f"{units} units" for units in network.hidden]
        facts |= {"model": {"mlp": "multi-layer perceptron", "logistic": "logistic regression"}[network.model]}
        facts |= {"hidden layers": ", ".join(layers), "activation": network.activation} if layers else {}
        facts |= {"dropout": f"{network.dropout:g}"} if network.dropout else {}
    if network.model != FILE or network.path is not None:
        facts["weights"] = f"{number_of_weights(task, network):,}"
    columns, features = len(task.columns), task.feature_width
    facts["inputs"] = f"{formatting.number_of(features, 'feature')} of {formatting.number_of(columns, 'column')}"
    facts |= {"outputs": str(target_of(task).outputs), "loss": target_of(task).loss_name}
    steps = "all rows" if not config.batch_size else f"{config.batch_size} rows"
    facts["training"] = (
        f"{config.optimizer}, learning rate {config.learning_rate:g}, "
        f"{formatting.number_of(config.local_epochs, 'epoch')} per round, {steps} per step"
    )
    return Section("Network", [facts])


def settings_section(
    settings: Settings, others: Mapping[str, str], *, leave_out: frozenset[str] = frozenset()
) -> Section:
    """Everything needed to repeat the run or study: settings that apply and are not off, other facts, and versions."""
    config = settings.to_config()
    off = {flag_of(field) for field in fields(settings) if _is_off(field, config[flag_of(field)])}
    off |= set() if settings.dp_epsilon else {name for name in config if name.startswith("dp-")}
    applied = {
        name: "yes" if value is True else "no" if value is False else str(value) or formatting.NOT_DEFINED
        for name, value in config.items()
        if name not in OPERATIONAL | leave_out | off
    }
    versions = {"federated-health": __version__, "Python": platform.python_version()}
    versions |= {name: version(name) for name in _PACKAGES}
    note = "What is not listed is off, as it is by default."
    return Section("Settings, versions and hashes", [{**applied, **others}, versions, note], folded=True)


def _is_off(field: "Field[Any]", value: object) -> bool:
    """Whether a feature is not used, unless somebody asks for it."""
    return value == field.default and (not value or value == "none" or (field.name, value) == ("max_share", 1.0))


def model_card(
    panels: "Panels", hospitals: Sequence[str], extra: Sequence[str], *, has_subgroups: bool = False
) -> Section:
    """Intended use and limits (Mitchell et al. 2019); `extra` holds further limits."""
    groups = "No figures by age, sex or other groups were computed: the model may be worse for some groups."
    if has_subgroups:
        groups = "Figures of other subgroups than those above were not computed: the model may be worse for some."
    shown = ", ".join(hospitals[:8]) + (f" and {len(hospitals) - 8:,} more" if len(hospitals) > 8 else "")
    use = (
        f"The model estimates {panels.estimate}: {panels.task.label.meaning}. It is meant for learning about federated "
        f"learning and for comparing methods, on patients like those of the participating hospitals ({shown})."
    )
    limits = [
        "Patients of other hospitals, of another time or with other reasons to be examined may differ; the figures "
        "here do not hold for them.",
        f"A predicted {panels.prediction} can be trusted only if the calibration of that hospital is good; see the "
        "curves.",
        groups,
        "Missing values are an input of their own. If a hospital starts or stops measuring something, the model is "
        "used on data that it was not trained on.",
        "Records that stay at the hospital do not guarantee privacy: weights and small aggregates can reveal something "
        "about their patients. The fewer patients, the more they reveal.",
        *extra,
    ]
    caution = Caution("Not a medical device. No decision about a patient may rest on it.")
    return Section(
        "Intended use and limits", [use, caution, Folded("Limits of the model and of its figures", [limits])]
    )
