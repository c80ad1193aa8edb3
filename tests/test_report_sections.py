"""Formatting of figures and long lists, and the sections that pages of runs and studies share."""

from importlib.metadata import version

import numpy as np
import pytest

from federated_health import __version__
from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.curves import Curve
from federated_health.ml.metrics import figure_title
from federated_health.ml.targets.binary import Counts
from federated_health.ml.verdicts import Interval
from federated_health.report.formatting import (
    figure,
    largest_of,
    list_some,
    number_of,
    percent_of,
    with_interval,
)
from federated_health.report.page import Caution, Picture
from federated_health.report.panels import panels_of
from federated_health.report.panels.binary import confusion_section, roc_section
from federated_health.report.sections import (
    figures_table,
    holdings_section,
    importance_section,
    largest_panels,
    model_card,
    settings_section,
)
from federated_health.settings import Settings
from tests.support.example_run import blocks, facts

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
NOTHING = Interval()
PANELS = panels_of(HEART_DISEASE)


def counts_of(positives: int, negatives: int) -> Counts:
    return Counts(true_positives=positives, true_negatives=negatives)


# Formatting


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
            f"{MINUS}0.500 ({MINUS}0.750 to 0.000)",
            f"{MINUS}0.500 ({MINUS}0.750 to +0.000)",
        ),
        # It ends close to 0, and the sign tells on which side.
        (
            Interval(value=-0.001, low=-0.002, high=-0.0002),
            f"{MINUS}0.001 ({MINUS}0.002 to {MINUS}0.000)",
            f"{MINUS}0.001 ({MINUS}0.002 to {MINUS}0.000)",
        ),
        (Interval(value=-0.0, low=-0.0, high=0.0), f"0.000 (0.000{DASH}0.000)", "+0.000 (+0.000 to +0.000)"),
        (NOTHING, DASH, DASH),
        (Interval(value=0.5), DASH, DASH),
    ],
)
def test_an_interval_follows_its_figure_in_brackets(interval: Interval, plain: str, signed: str) -> None:
    assert with_interval(interval) == plain
    assert with_interval(interval, signed=True) == signed


@pytest.mark.parametrize(
    ("key", "title"),
    [("roc_auc", "ROC-AUC"), ("f1", "F1"), ("brier", "Brier score"), ("average_precision", "average precision")],
)
def test_figures_have_a_title(key: str, title: str) -> None:
    assert figure_title(key) == title


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 rounds"), (1, "1 round"), (2, "2 rounds"), (1000, "1,000 rounds")]
)
def test_a_noun_agrees_with_its_number(number: int, words: str) -> None:
    assert number_of(number, "round") == words


@pytest.mark.parametrize(("share", "words"), [(0.0, "0 %"), (0.295, "30 %"), (1.0, "100 %"), (None, DASH)])
def test_a_share_is_a_whole_percentage(share: float | None, words: str) -> None:
    assert percent_of(share) == words


def test_the_first_forty_entries_of_a_long_list_are_named() -> None:
    assert list_some(["a", "b"]) == "a; b"
    assert list_some([]) == ""
    assert "more" not in list_some(map(str, range(40)))
    long = list_some(map(str, range(1041)), ", ")
    assert ", 39, " in long
    assert "1,001 more" in long
    assert "40" not in long


def test_the_first_forty_rows_and_the_last_ones_of_a_long_table_are_shown() -> None:
    many = {f"h{number}": {"n": "1"} for number in range(42)}
    table = figures_table("Rows", many, last={"all": {"n": "42"}}, note="A note.")
    assert len(table.rows) == 43
    assert len(table.shown_rows) == 41
    assert table.shown_rows[-2:] == [["h39", "1"], ["all", "42"]]
    assert "2 more" in table.shown_note
    assert table.shown_note.endswith(" A note.")
    assert table.columns == ("hospital", "n")
    assert figures_table("Rows", {"a": {"n": "1"}}, first="model").columns == ("model", "n")
    assert figures_table("Rows", {"a": {"n": "1"}}).shown_note == ""


# Pictures


def test_the_alternative_text_of_an_roc_curve_is_its_sensitivity_at_ten_per_cent() -> None:
    curve = Curve(x=np.array([0.0, 0.2, 1.0]), y=np.array([0.0, 0.8, 1.0]))
    (picture,) = blocks(roc_section({"a": curve}, "These patients."), Picture)
    assert picture.alt.endswith("10 %: a 40 %.")
    assert picture.caption.startswith("These patients. ")


def test_the_alternative_text_of_a_matrix_names_its_counts() -> None:
    (picture,) = blocks(confusion_section({"a": (1, 2, 3, 4)}, "These patients."), Picture)
    assert picture.alt == "a: 1 true negatives, 2 false positives, 3 false negatives, 4 true positives"


def test_the_largest_hospitals_are_drawn_in_the_given_order() -> None:
    sizes = {"a": 10, "b": 40, "c": 20}
    assert largest_of({"c": 1, "b": 2, "a": 3}, sizes, 3) == ({"c": 1, "b": 2, "a": 3}, "")
    drawn, which = largest_of({"c": 1, "a": 3, "b": 2, "without a size": 4}, sizes, 2)
    assert list(drawn.items()) == [("c", 1), ("b", 2)]
    assert which == "Drawn: the 2 hospitals with the most patients, of 4."


def test_panels_leave_room_for_that_of_all_patients() -> None:
    names = [str(number) for number in range(13)]
    assert largest_panels(dict.fromkeys(names[:11]), {}) == (dict.fromkeys(names[:11]), "")
    panels, words = largest_panels(dict.fromkeys(names), dict(zip(names, range(13), strict=True)))
    assert list(panels) == names[2:]
    assert "11 hospitals" in words


def test_missing_values_name_columns_that_are_mostly_missing_or_not_released() -> None:
    shares = np.zeros((2, len(HEART_DISEASE.columns)))
    shares[0, :4] = 0.49, 0.5, 1.0, np.nan
    labels = PANELS.holdings({"a": counts_of(3, 4), "b": counts_of(0, 9)}, "All.")
    holdings = holdings_section(HEART_DISEASE, labels, {"a": shares[0].tolist(), "b": shares[1].tolist()}, "Some.")
    of_labels, missing = blocks(holdings, Picture)
    assert "disease. a: 3 with and 4 without; b: 0 with and 9 without" in of_labels.alt
    assert missing.alt.endswith("by hospital: a: sex, cp, trestbps (not released); b: no column mostly missing.")
    assert facts(holdings)["cp"] == "chest pain"


def test_holdings_without_shares_of_missing_values_have_labels_only() -> None:
    holdings = holdings_section(HEART_DISEASE, PANELS.holdings({"a": counts_of(3, 4)}, "All."), {}, "None.")
    assert len(blocks(holdings, Picture)) == 1


def test_columns_are_in_descending_order_of_importance() -> None:
    (picture,) = blocks(importance_section({"age": -0.25, "cp": 0.5, "sex": 0.0}, "These patients.", PANELS), Picture)
    assert picture.alt.endswith(f": cp 0.500, sex 0.000, age {MINUS}0.250")
    assert picture.caption.endswith(" These patients.")


# Settings and the model card


def test_settings_leave_out_operational_and_irrelevant_ones() -> None:
    settings = Settings.from_config({"out": "/home/somebody", "strategy-args": ""})
    values = facts(settings_section(settings, {"hash": "ab"}, leave_out=frozenset({"appraisal"})))
    assert values["seed"] == "42"
    assert values["hash"] == "ab"
    assert not {"out", "data", "address", "wait", "verbose", "force", "insecure", "appraisal"} & set(values)
    assert facts(settings_section(settings, {}))["appraisal"] == "yes"
    assert settings_section(settings, {}).folded


def test_features_that_are_off_are_left_out_of_the_settings() -> None:
    optional = {"secure-aggregation", "dp-epsilon", "dp-clip", "class-weight", "dropout", "max-share", "strategy-args"}
    assert not optional & set(facts(settings_section(Settings(), {})))
    used = Settings(dp_epsilon=2.0, max_update_norm=0.0)
    values = facts(settings_section(used, {}))
    assert (values["dp-epsilon"], values["dp-clip"]) == ("2.0", "0.25")
    assert facts(settings_section(Settings(dropout=0.1), {}))["dropout"] == "0.1"
    assert values["max-update-norm"] == "0.0"  # off, which is not the default


def test_versions_of_the_program_and_its_packages_are_shown() -> None:
    values = facts(settings_section(Settings(), {}))
    assert values["federated-health"] == __version__
    assert values["keras"] == version("keras")
    assert {"Python", "flwr", "numpy", "tensorflow"} <= set(values)


def test_the_model_card_has_intended_use_hospitals_and_limits() -> None:
    card = model_card(PANELS, [f"h{number}" for number in range(1010)], ["One more."])
    (use,) = blocks(card, str)
    assert HEART_DISEASE.label.meaning in use
    assert "h7 and 1,002 more)" in use
    assert "h8" not in use
    assert blocks(card, Caution)[0].text.startswith("Not a medical device.")
    assert blocks(card, list)[0][-1] == "One more."
    assert "(a, b)." in blocks(model_card(PANELS, ["a", "b"], []), str)[0]
