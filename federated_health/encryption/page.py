"""The page of an encrypted run, as one hospital may see it: the federation's sums, and its own figures."""

from collections.abc import Iterator, Mapping

import numpy as np

from federated_health.data.tasks import get_task
from federated_health.encryption.hospital_result import HospitalResult
from federated_health.encryption.vectors import BINS, read_histogram
from federated_health.messages.content import TrainConfig
from federated_health.ml.bootstrap import Resampled
from federated_health.ml.curves import CURVE_DRAWS, calibration_curve, roc_curve
from federated_health.ml.metrics import Counts, probability
from federated_health.names import FEDERATION
from federated_health.report.page import Bullets, Page, Section, Text
from federated_health.report.released import privacy_of_run
from federated_health.report.sections import (
    FOOTER,
    calibration_section,
    confusion_section,
    model_card,
    roc_section,
    settings_section,
)
from federated_health.report.words import MEANINGS, figure, figures_table, number_of, percent_of, title_of
from federated_health.server.report_curves import columns_of_run
from federated_health.server.report_page import ALSO_CALLED, FIGURES, joining_section, learning_section
from federated_health.settings import Settings, read_defaults

FROM_BINS = (
    f"Scores were added up while encrypted, in {BINS} bins of log-odds over all hospitals; the curves take patients as "
    "in the middle of their bin."
)


def page_of_result(result: HospitalResult, told: TrainConfig, facts: Mapping[str, str], account: str = "") -> Page:
    """What a hospital knows of an encrypted run, as a page.

    Args:
        facts: to be shown beside the settings, such as hashes of files.
        account: what this hospital's training rows were charged, in a line; empty without differential privacy.
    """
    task, (own,) = get_task(told.task), result.figures["hospitals"]
    together = f"{number_of(result.hospitals, 'hospital')}, {number_of(told.rounds, 'round')}"
    stopped = ", stopped before its last round" if result.stopped else ""
    settings = Settings.from_config({**read_defaults(), **result.settings})
    others = [("rounds that were finished", str(told.rounds)), ("SHA-256 of the schema", task.schema_hash)]
    limits = [
        "One split of each hospital's patients into trained-on and held-out ones: another split gives other figures.",
        f"As {own} may see it: no other hospital's figures of its own were sent to anybody.",
        *(["The run was stopped before its last round."] if result.stopped else []),
    ]
    return Page(
        title=f"{task.name}: a model of {number_of(result.hospitals, 'hospital')}",
        lead=f"Estimates the risk of this: {task.label.meaning}. {together}, strategy {told.strategy}{stopped}; "
        f"averaged while encrypted, so that the server could read neither updates nor figures.",
        sections=(
            *joining_section(result.figures),
            _quality(result, told.threshold),
            *([learning_section(result.rounds)] if result.rounds else []),
            *_curves(result, settings.seed),
            *_decisions(result, told.threshold),
            *columns_of_run(result.figures),
            *privacy_of_run(told.privacy, account),
            _released(private=told.privacy is not None),
            settings_section(settings, [*others, *facts.items()]),
            model_card(task, [f"{own} and {number_of(result.hospitals - 1, 'other hospital')}"], limits),
        ),
        footer=FOOTER,
    )


def _quality(result: HospitalResult, threshold: float) -> Section:
    whole = result.figures["federation"]
    rows = {name: [figure(one[key]) for key in FIGURES] for name, one in result.figures["hospitals"].items()}
    mean = [figure(whole["mean_roc_auc"]) if key == "roc_auc" else "" for key in FIGURES]
    table = figures_table(
        f"Figures on held-out patients{', after the last finished round' if result.stopped else ''}",
        rows,
        [title_of(key) for key in FIGURES],
        last={FEDERATION: [figure(whole[key]) for key in FIGURES], "hospital mean": mean},
        note=f"Predicted positive: a risk of at least {threshold}. {MEANINGS} {ALSO_CALLED}",
    )
    return Section(title="How good the model is", blocks=(table,))


def _curves(result: HospitalResult, seed: int) -> Iterator[Section]:
    """ROC and calibration of all hospitals' held-out patients; nothing where a class has none."""
    if not result.scores:
        return
    high, low = read_histogram(np.array(result.scores, dtype=np.float64))
    if not len(high) or not len(low):
        return
    log_odds = np.concatenate([np.repeat(cells[:, 1], cells[:, 0].astype(int)) for cells in (high, low)])
    labels = np.concatenate([np.ones(int(high[:, 0].sum())), np.zeros(int(low[:, 0].sum()))])
    curve = roc_curve(log_odds, Resampled.of(labels, [seed, *FEDERATION.encode()], CURVE_DRAWS))
    caption = "Held-out patients of all hospitals, with a 95 % bootstrap band at each point."
    yield roc_section({FEDERATION: curve}, caption, Text(words=FROM_BINS))
    calibration = calibration_curve(probability(log_odds), labels)
    predicted, observed = (", ".join(map(percent_of, one)) for one in (calibration.predicted, calibration.observed))
    alt = f"Mean predicted risk and observed share of each bin of patients: predicted {predicted}; observed {observed}."
    yield calibration_section({FEDERATION: calibration}, "Held-out patients of all hospitals, from the same bins.", alt)


def _decisions(result: HospitalResult, threshold: float) -> Iterator[Section]:
    if result.counts:
        words = f"Held-out patients of all hospitals; predicted positive from a risk of {threshold} on."
        yield confusion_section({FEDERATION: Counts(**result.counts).matrix}, words)


def _released(*, private: bool) -> Section:
    """For who has to know what left the hospitals; `encryption.messages` has the exact list.

    Args:
        private: whether they trained with differential privacy.
    """
    sums, weights = ("", "noisy weights") if private else ("sums of its columns, ", "weights")
    losses = "sums of their losses" if private else "sums of losses"
    items = (
        "When it joined: its name, the columns that it expects, how many patients it trains on and holds out, and its "
        "certificate.",
        f"Encrypted, so that the server could only add them: {sums}its model's {weights} in every round, counts "
        f"{'of held-out patients ' if private else ''}and {losses}, and at the end numbers of "
        f"{'the same' if private else 'patients'} by score.",
        "The key, to the other hospitals alone, each time sealed for one of them and signed.",
    )
    words = "No patient's record did. What was decrypted stayed at the hospitals, and this page is drawn from it."
    return Section(title="What left each hospital", blocks=(Bullets(items=items), Text(words=words)))
