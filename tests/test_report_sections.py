"""Formatting of figures and long lists; sections that the pages of runs and studies share."""

from dataclasses import asdict

import numpy as np
import pytest

from federated_health.data.tasks import HEART_DISEASE
from federated_health.ml.curves import Curve
from federated_health.ml.metrics import Interval, Verdict
from federated_health.report.formatting import (
    figure,
    list_some,
    list_verdicts,
    number_of,
    percent_of,
    title_of,
    with_interval,
)
from federated_health.report.page import Card, Cards, Caution, Picture
from federated_health.report.sections import (
    confusion_section,
    figures_table,
    first_panels,
    holdings_section,
    importance_section,
    model_card,
    roc_section,
    settings_section,
    verdict_cards,
)
from federated_health.settings import Settings
from tests.support.example_run import blocks

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
NOTHING = Interval()

# Words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.12345, "0.123"),
        (-0.5, f"{MINUS}0.500"),
        (None, DASH),
        (0.0, "0.000"),
        (-0.0, "0.000"),
        (-0.0004, "0.000"),
        (2, "2.000"),
    ],
)
def test_a_figure_has_three_decimals_a_minus_sign_and_no_minus_before_zero(value: float | None, words: str) -> None:
    assert figure(value) == words


@pytest.mark.parametrize(
    ("interval", "plain", "signed"),
    [
        (Interval(value=0.5, low=0.25, high=0.75), f"0.500 (0.250{DASH}0.750)", "+0.500 (+0.250 to +0.750)"),
        (
            Interval(value=-0.5, low=-0.75, high=0.0),
            f"{MINUS}0.500 ({MINUS}0.750{DASH}0.000)",
            f"{MINUS}0.500 ({MINUS}0.750 to +0.000)",
        ),
        # It ends just beside 0, and the sign tells on which side.
        (
            Interval(value=-0.001, low=-0.002, high=-0.0002),
            f"{MINUS}0.001 ({MINUS}0.002{DASH}{MINUS}0.000)",
            f"{MINUS}0.001 ({MINUS}0.002 to {MINUS}0.000)",
        ),
        (Interval(value=-0.0, low=-0.0, high=0.0), f"0.000 (0.000{DASH}0.000)", "+0.000 (+0.000 to +0.000)"),
        (NOTHING, DASH, DASH),
        (Interval(value=0.5), DASH, DASH),
    ],
)
def test_an_interval_stands_in_brackets(interval: Interval, plain: str, signed: str) -> None:
    assert with_interval(interval) == plain
    assert with_interval(interval, signed=True) == signed


def test_titles_numbers_and_per_cents() -> None:
    assert [title_of(key) for key in ("roc_auc", "f1", "brier", "average_precision")] == [
        "ROC-AUC",
        "F1",
        "Brier score",
        "average precision",
    ]
    assert [number_of(number, "round") for number in (0, 1, 2, 1000)] == [
        "0 rounds",
        "1 round",
        "2 rounds",
        "1,000 rounds",
    ]
    assert [percent_of(share) for share in (0.0, 0.295, 1.0)] == ["0 %", "30 %", "100 %"]


def test_of_a_long_list_the_first_forty_are_named() -> None:
    assert list_some(["a", "b"]) == "a; b"
    assert list_some([]) == ""
    assert not list_some(map(str, range(40))).endswith("more")
    assert list_some(map(str, range(1041)), ", ").endswith("38, 39, and 1,001 more")


def test_verdicts_are_counted_in_their_order() -> None:
    assert (
        list_verdicts([Verdict.UNDEFINED, *["gains"] * 1200])
        == "1,201 hospitals: 1,200 gains, 1 too few patients to tell."
    )


def test_of_a_long_table_the_first_forty_rows_and_the_last_ones_are_shown() -> None:
    many = {f"h{number}": {"n": "1"} for number in range(42)}
    table = figures_table("Rows", many, last={"all": {"n": "42"}}, note="A note.")
    assert len(table.rows) == 41
    assert table.rows[-2:] == (("h39", "1"), ("all", "42"))
    assert table.note == "And 2 more, not shown. A note."
    assert table.columns == ("hospital", "n")
    assert figures_table("Rows", {"a": {"n": "1"}}, first="model").columns == ("model", "n")
    assert figures_table("Rows", {"a": {"n": "1"}}).note == ""


# Verdicts


def card_of(difference: Interval, verdict: str, small: bool = False, details: str = "") -> Card:
    benefit = {
        "verdict": verdict,
        "small": small,
        "difference": asdict(difference),
        "roc_auc": {"value": 0.9},
        "own_roc_auc": 0.7,
    }
    (cards,) = verdict_cards({"a": benefit}, {"a": details})
    assert isinstance(cards, Cards)
    return cards.items[0]


def test_a_card_has_the_verdict_that_it_is_given_whatever_its_interval() -> None:
    # Of very few patients there is a difference, but no verdict; see `metrics.MIN_CLASS_SIZE`.
    card = card_of(Interval(value=0.2, low=0.1, high=0.3), Verdict.UNDEFINED, small=True, details="5 patients.")
    assert (card.name, card.verdict, card.tone) == ("a", "too few patients to tell", "neutral")
    assert card.text == (
        "ROC-AUC 0.900 with the federation, 0.700 with its own patients alone; difference +0.200 (+0.100 to +0.300). "
        "5 patients. Fewer than 5 of the tested patients are of one class, too few for a verdict."
    )


@pytest.mark.parametrize(
    ("verdict", "tone"),
    [
        (Verdict.GAINS, "good"),
        (Verdict.LOSES, "bad"),
        (Verdict.UNCLEAR, "neutral"),
        ("gains", "good"),
        ("loses", "bad"),
    ],
)
def test_a_card_has_its_verdict_s_tone_as_an_enumeration_and_as_json_has_it(verdict: str, tone: str) -> None:
    card = card_of(Interval(value=0.0, low=0.0, high=0.0), verdict)
    assert card.tone == tone
    assert card.text.endswith("(+0.000 to +0.000).")


def test_a_card_without_a_figure_says_why() -> None:
    card = card_of(NOTHING, Verdict.UNDEFINED, small=True)
    assert card.text == "Fewer than 5 of the tested patients are of one class, too few for a verdict."


def test_of_many_cards_forty_are_shown() -> None:
    benefit = {"verdict": Verdict.GAINS, "small": False, "difference": {}}
    assert len(verdict_cards({str(number): benefit for number in range(40)})) == 1
    shown, more = verdict_cards({str(number): benefit for number in range(41)})
    assert isinstance(shown, Cards)
    assert len(shown.items) == 40
    assert more == "And 1 more hospital, not shown."


# Pictures


def test_the_alternative_text_of_an_roc_curve_is_read_at_ten_per_cent() -> None:
    curve = Curve(x=np.array([0.0, 0.2, 1.0]), y=np.array([0.0, 0.8, 1.0]))
    (picture,) = blocks(roc_section({"a": curve}, "Of somebody."), Picture)
    assert picture.alt == (
        "ROC curves. Where 10 % of the negative are called positive, the share of the positive found: a 40 %."
    )
    assert picture.caption.startswith("Of somebody. ")


def test_the_alternative_text_of_a_matrix_names_its_counts() -> None:
    (picture,) = blocks(confusion_section({"a": (1, 2, 3, 4)}, "Of somebody."), Picture)
    assert picture.alt == "a: 1 true negatives, 2 false positives, 3 false negatives, 4 true positives"


def test_panels_leave_room_for_all_together() -> None:
    assert first_panels({"a": 1}) == ({"a": 1}, "")
    assert first_panels(dict.fromkeys(map(str, range(11))))[1] == ""
    panels, words = first_panels(dict.fromkeys(map(str, range(13))))
    assert list(panels) == [str(number) for number in range(11)]
    assert words == "2 more hospitals not drawn."


def test_missing_values_name_columns_that_are_mostly_missing_or_not_released() -> None:
    shares = np.zeros((2, len(HEART_DISEASE.columns)))
    shares[0, :4] = 0.49, 0.5, 1.0, np.nan
    of = holdings_section(
        HEART_DISEASE,
        {"a": (3, 4), "b": (0, 9)},
        {"a": shares[0].tolist(), "b": shares[1].tolist()},
        of_labels="All.",
        of_missing="Some.",
    )
    labels, missing = blocks(of, Picture)
    assert labels.alt == "Patients with and without it. a: 3 with and 4 without; b: 0 with and 9 without"
    assert missing.alt.endswith("by hospital: a: sex, cp, trestbps (not released); b: no column mostly missing.")
    assert blocks(of, dict)[0]["cp"] == "chest pain"


def test_without_shares_there_are_labels_only() -> None:
    of = holdings_section(HEART_DISEASE, {"a": (3, 4)}, {}, of_labels="All.", of_missing="None.")
    assert len(blocks(of, Picture)) == 1


def test_columns_are_ordered_by_weight_with_minus_signs() -> None:
    (picture,) = blocks(importance_section({"age": -0.25, "cp": 0.5, "sex": 0.0}, "Of somebody."), Picture)
    assert picture.alt == f"Rise of the loss, most first: cp 0.500, sex 0.000, age {MINUS}0.250"
    assert picture.caption.endswith("(permutation importance). Of somebody.")


# Settings and the model card


def test_settings_leave_out_operational_and_irrelevant_ones() -> None:
    settings = Settings.from_config({"out": "/home/somebody", "strategy-args": ""})
    facts, versions = blocks(settings_section(settings, {"hash": "ab"}, leave_out=frozenset({"appraisal"})), dict)
    assert facts["seed"] == "42"
    assert facts["strategy-args"] == DASH
    assert facts["hash"] == "ab"
    assert not {"out", "data", "address", "wait", "verbose", "force", "insecure", "appraisal"} & set(facts)
    assert blocks(settings_section(settings, {}), dict)[0]["appraisal"] == "yes"
    assert {"flwr", "keras", "numpy", "tensorflow"} <= set(versions)


def test_the_model_card_says_what_the_model_is_for_and_what_it_is_not() -> None:
    of = model_card(HEART_DISEASE, [f"h{number}" for number in range(1010)], ["One more."])
    assert HEART_DISEASE.label.meaning in blocks(of, str)[0]
    assert "h7 and 1,002 more)" in blocks(of, str)[0]
    assert "h8" not in blocks(of, str)[0]
    assert blocks(of, Caution)[0].text.startswith("Not a medical device.")
    assert blocks(of, list)[0][-1] == "One more."
    assert "(a, b)." in blocks(model_card(HEART_DISEASE, ["a", "b"], []), str)[0]
