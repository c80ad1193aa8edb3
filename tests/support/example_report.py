"""A page with every kind of block and every chart, for the tests: realistic content, and content that strains it."""

from functools import cache

import numpy as np

from federated_health.ml.curves import CalibrationCurve, Curve
from federated_health.ml.verdicts import Interval
from federated_health.report.charts import (
    draw_calibration,
    draw_confusion,
    draw_forest,
    draw_heat_map,
    draw_importance,
    draw_intervals,
    draw_labels,
    draw_learning_curves,
    draw_roc,
)
from federated_health.report.formatting import MINUS
from federated_health.report.page import (
    Block,
    Card,
    Cards,
    Caution,
    Folded,
    Number,
    Numbers,
    Page,
    Picture,
    Section,
    Share,
    Strip,
    Table,
)
from federated_health.report.svg import flow

HOSPITALS = ("cleveland", "hungary", "switzerland", "va-long-beach")
COLUMNS = (
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
)
LONG_NAME = "st-mary-and-st-bartholomew-university-hospital-cardiology-<b>&-annex"
REGIMES = ("only its own patients", "federated (FedAvg)", "all patients together")


def band(bow: float) -> Curve:
    """An ROC curve the larger, the greater `bow`, with an interval."""
    x = np.linspace(0, 1, 41)
    y = 1 - (1 - x) ** bow
    return Curve(x=x, y=y, low=np.clip(y - 0.12 * np.sqrt(1 - y), 0, 1), high=np.clip(y + 0.1 * (1 - y), 0, 1))


def calibration(shift: float) -> CalibrationCurve:
    predicted = np.linspace(0.05, 0.95, 8)
    observed = np.clip(predicted + shift * np.sin(6 * predicted), 0, 1)
    return CalibrationCurve(
        predicted=predicted,
        observed=observed,
        low=np.clip(observed - 0.12, 0, 1),
        high=np.clip(observed + 0.1, 0, 1),
        patients=np.array([40, 25, 12, 8, 6, 9, 20, 3]),
    )


def learning(names: tuple[str, ...], rounds: int) -> dict[str, list[float | None]]:
    """Losses that fall; the second hospital is not there for some rounds, and the third in one only."""
    series: dict[str, list[float | None]] = {
        name: [0.35 + 0.02 * place + 0.35 * float(np.exp(-step / (6 + place))) for step in range(rounds)]
        for place, name in enumerate(names)
    }
    series[names[1]][8:14] = [None] * 6
    series[names[2]] = [None if step != rounds // 2 else 0.66 for step in range(rounds)]
    return {"federation": [0.34 + 0.34 * float(np.exp(-step / 7)) for step in range(rounds)], **series}


@cache
def pictures() -> tuple[Picture, ...]:
    shares = np.random.default_rng(1).beta(0.4, 2, size=(4, len(COLUMNS)))
    shares[2, 4:8] = np.nan
    shares[0, :3] = [0, 1, 0.002]
    intervals = {
        name: {
            regime: Interval(value=0.7 + 0.05 * rank + 0.02 * place, low=0.62 + 0.05 * rank, high=0.83 + 0.04 * rank)
            for rank, regime in enumerate(REGIMES)
        }
        for place, name in enumerate(HOSPITALS)
    }
    intervals["switzerland"][REGIMES[0]] = Interval(value=None)
    return (
        Picture(
            svg=draw_learning_curves(
                learning(HOSPITALS, 30), quantity="log loss on held-out patients", rounds=range(1, 31)
            ),
            alt="The loss of the federation and of three hospitals falls from 0.7 to 0.4 within 30 rounds.",
            caption="The loss on held-out patients, round by round. A gap: the hospital did not answer.",
        ),
        Picture(
            svg=draw_roc({name: band(2 + place) for place, name in enumerate(HOSPITALS)}),
            alt="Four ROC curves, all well above the diagonal.",
            caption="ROC curves on each hospital's own held-out patients, with 95 % intervals.",
        ),
        Picture(svg=draw_roc({"federation": band(4)}), alt="One ROC curve.", caption="The federation's ROC curve."),
        Picture(
            svg=draw_calibration({name: calibration(0.05 * place) for place, name in enumerate(HOSPITALS)}),
            alt="Four calibration curves near the diagonal.",
            caption="CalibrationCurve on held-out patients.",
        ),
        Picture(
            svg=draw_confusion({"cleveland": (34, 7, 8, 27), "hungary": (41, 6, 0, 27), "switzerland": (0, 0, 2, 29)}),
            alt="Three tables of counts.",
            caption="Predicted and actual class, counted at the decision threshold.",
        ),
        Picture(
            svg=draw_heat_map(dict(zip(HOSPITALS, shares.tolist(), strict=True)), COLUMNS),
            alt="A table of shades: cholesterol is missing most often.",
            caption="Share of missing values.",
        ),
        Picture(
            svg=draw_labels(
                {"cleveland": (139, 164), "hungary": (106, 188), "switzerland": (115, 8), "va-long-beach": (149, 51)},
                positive="heart disease",
                negative="no heart disease",
            ),
            alt="Bars: Switzerland has hardly any patient without disease.",
            caption="Patients of each hospital.",
        ),
        Picture(
            svg=draw_importance(
                dict(zip(COLUMNS, np.random.default_rng(2).normal(0.02, 0.03, len(COLUMNS)).tolist(), strict=True)),
                quantity="loss of ROC-AUC where the column is shuffled",
            ),
            alt="Bars: chest pain matters most.",
            caption="Importance of the columns.",
        ),
        Picture(
            svg=draw_intervals(intervals, quantity="ROC-AUC on held-out patients", reference=None),
            alt="Dots with whiskers: federated training is above training alone everywhere.",
            caption="ROC-AUC by hospital and regime, with 95 % intervals.",
        ),
        forest(HOSPITALS),
    )


def forest(names: tuple[str, ...]) -> Picture:
    """Two drawings beside each other, of differences in every tone."""
    tones = ("good", "bad", "neutral", "mixed")
    rows = {
        name: (Interval(value=0.02 * (place % 5 - 2), low=0.02 * (place % 5 - 3), high=0.05), tones[place % 4])
        for place, name in enumerate(names)
    }
    rows[names[1]] = Interval(), "unknown"
    drawings = [draw_forest(rows, quantity=f"{name}, federated minus own") for name in ("ROC-AUC", "Brier score")]
    return Picture(svg=flow(drawings), alt="Differences near 0.", caption="Right of 0 the federated model is better.")


@cache
def strained_pictures() -> tuple[Picture, ...]:
    """A thousand hospitals, long names, huge and missing numbers, names in other scripts."""
    many = {f"hospital-{place}-{'x' * (place % 40)}": place for place in range(1000)}
    names = (LONG_NAME, "東京大学医学部附属病院", "W" * 60, *many)
    rng = np.random.default_rng(3)
    svgs = {
        "curves": draw_learning_curves(learning(names[:20], 40), quantity="loss " * 30, rounds=range(40)),
        "huge": draw_learning_curves({"a": [1e12, 3e12, None, 2e15]}, quantity="loss", rounds=[1, 2, 3, 1000]),
        "roc": draw_roc({name: band(3) for name in names[:12]}),
        "calibration": draw_calibration({name: calibration(0.1) for name in names[:3]}),
        "confusion": draw_confusion(dict.fromkeys(names[:5], (0, 123456789, 10**12, 0))),
        "heat map": draw_heat_map(
            {name: rng.random(18).tolist() for name in names}, [f"column-{'y' * place}" for place in range(18)]
        ),
        "labels": draw_labels(
            {name: (place % 7, 10 ** (place % 9)) for place, name in enumerate(names)},
            positive="yes " * 50,
            negative="no",
        ),
        "no patients": draw_labels({"a": (0, 0)}, positive="yes", negative="no"),
        "importance": draw_importance(
            {name: [1e9, 0.0, -1e8][place % 3] for place, name in enumerate(names)}, quantity="x " * 200
        ),
        "intervals": draw_intervals(
            {
                name: {regime: Interval(value=1e6 * rank, low=-1e6, high=3e6) for rank, regime in enumerate(names[:4])}
                for name in names
            },
            quantity="difference",
            reference=0,
        ),
    }
    return tuple(Picture(svg=svg, alt=name, caption=name) for name, svg in svgs.items())


def page(*, strained: bool = False) -> Page:
    drawn: list[Block] = [*pictures(), *(strained_pictures() if strained else ())]
    wide = Table(
        caption="Figures on held-out patients",
        columns=("hospital", "patients", "accuracy", "precision", "recall", "F1", "ROC-AUC (95 % interval)", "Brier"),
        rows=(
            ("cleveland", "76", "0.803", "0.794", "0.771", "0.783", "0.919 (0.851 to 0.968)", "0.120"),
            ("switzerland", "31", "0.903", "0.964", "0.931", "0.947", "not defined", "0.104"),
            (LONG_NAME, "1,200", f"{MINUS}0.1", "0.5", "", "1e-05", "0.5 ± 0.1", "≤ 0.2"),
        ),
        note="Intervals are over patients.",
    )
    overview: list[Block] = [
        Strip(
            title="Benefit of joining for 12 hospitals",
            parts=[
                Share(number=number, text=text, tone=tone)
                for number, text, tone in (
                    (3, "gains", "good"),
                    (2, "gains and loses", "mixed"),
                    (4, "no clear difference", "neutral"),
                    (1, "loses", "bad"),
                    (2, "too few patients", "unknown"),
                )
            ],
        ),
        Numbers(
            [
                Number(name="Mean ROC-AUC", value="0.850", text="0.744 to 0.977 within hospitals"),
                Number(name="Brier score", value="0.111", text="0 is perfect"),
                Number(name="Patients", value="123,456,789" if strained else "920", text="12 hospitals"),
            ]
        ),
        forest((LONG_NAME, *(f"hospital-{number}" for number in range(2, 21))) if strained else HOSPITALS),
    ]
    return Page(
        byline=("1 December 2026", "12 hospitals", "30 rounds"),
        summary=overview,
        title="Four hospitals, one model of heart disease <script>alert(1)</script>",
        lead="What the federation's model is worth to each hospital, on patients whom it was not trained on.",
        sections=[
            Section(
                "In short",
                [
                    "Training together helps two hospitals of four, and harms none. " * 3,
                    Cards(
                        [
                            Card(
                                name="cleveland",
                                verdict="gains",
                                tone="good",
                                text="ROC-AUC rises by 0.04 (0.01 to 0.07).",
                            ),
                            Card(
                                name="hungary",
                                verdict="no clear difference",
                                tone="neutral",
                                text=f"0.00 ({MINUS}0.02 to 0.02).",
                            ),
                            Card(name=LONG_NAME, verdict="loses", tone="bad", text="It falls by 0.03."),
                        ]
                    ),
                    Caution(
                        "Switzerland holds out two patients without disease: its ROC-AUC is too noisy to interpret."
                    ),
                    ["A demonstrator, not a medical device.", "No patient record left a hospital."],
                    Folded("How to read this", ["Slowly.", wide]),
                ],
            ),
            Section("Figures", [wide, wide]),
            Section("Pictures", drawn),
            Section("Pictures again", [pictures()[0]]),
            Section(
                "How it was done",
                [
                    "This section is folded.",
                    {"seed": "42", "weights": "3f9a" * 16, "strategy": "FedAvg"},
                    Table(caption="Short", columns=("a", "b"), rows=()),
                ],
                folded=True,
            ),
            Section("Folded, too", ["A picture.", pictures()[2]], folded=True),
        ],
    )
