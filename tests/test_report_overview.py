"""Verdicts on the pages of runs and studies: the strip, the differences, and cards or a table."""

from dataclasses import asdict
from typing import Any

import pytest

from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.verdicts import Difference, Interval, Verdict
from federated_health.report.charts import MAX_CARDS
from federated_health.report.overview import MAX_FOREST, forest, verdict_blocks, verdict_strip
from federated_health.report.page import Card, Cards, Folded, Table
from federated_health.report.panels import panels_of

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
PANELS = panels_of(HEART_DISEASE)
NOTHING = Difference()


def entry(
    verdict: Verdict, difference: Difference = NOTHING, brier: Difference | None = None, *, small: bool = False
) -> dict[str, Any]:
    """As in `joining` of metrics.json; figures that are known have the same verdict."""
    differences = {"roc_auc": difference, "brier": brier or NOTHING}
    known = {name: of.value is not None for name, of in differences.items()}
    comparisons = {
        name: {
            "verdict": verdict if known[name] else Verdict.UNDEFINED,
            "own": asdict(Interval(value=0.7 if known[name] else None)),
            "federated": asdict(Interval(value=0.9 if known[name] else None)),
            "difference": asdict(of),
        }
        for name, of in differences.items()
    }
    return {"verdict": verdict, "small": small, "comparisons": comparisons}


def clear(value: float) -> Difference:
    return Difference(value=value, low=value - 0.01, high=value + 0.01, p_value=0.001)


def card_of(of_hospital: dict[str, Any], details: str = "") -> Card:
    (cards,) = verdict_blocks({"a": of_hospital}, PANELS, {"a": details})
    assert isinstance(cards, Cards)
    return cards.items[0]


def test_a_card_shows_the_verdict_that_it_is_given_whatever_its_interval() -> None:
    # A difference of very few patients has no verdict; see `verdicts.MIN_CLASS_SIZE`.
    card = card_of(entry(Verdict.UNDEFINED, clear(0.2), small=True), "5 patients.")
    assert card.name == "a"
    assert card.tone == "unknown"
    assert card.text.startswith("Fewer than 5 held-out patients")
    assert card.text.endswith("+0.200 (+0.190 to +0.210). 5 patients.")


@pytest.mark.parametrize(
    ("verdict", "tone"),
    [
        (Verdict.GAINS, "good"),
        (Verdict.MAY_GAIN, "good"),
        (Verdict.UNCLEAR, "neutral"),
        (Verdict.MAY_LOSE, "bad"),
        (Verdict.LOSES, "bad"),
        (Verdict.UNDEFINED, "unknown"),
    ],
)
def test_a_card_has_the_tone_of_its_verdict(verdict: Verdict, tone: str) -> None:
    assert card_of(entry(verdict, clear(0.0))).tone == tone


def test_a_card_without_a_figure_gives_the_reason() -> None:
    card = card_of(entry(Verdict.UNDEFINED, small=True))
    assert card.text.startswith("Fewer than 5 held-out patients")
    assert "ROC-AUC" not in card.text


def test_many_hospitals_are_a_table_with_all_sentences_folded() -> None:
    entries = {f"h{number}": entry(Verdict.GAINS, clear(0.1), clear(0.02)) for number in range(MAX_CARDS)}
    assert [type(block) for block in verdict_blocks(entries, PANELS)] == [Cards]

    table, folded = verdict_blocks(entries | {"small": entry(Verdict.UNDEFINED)}, PANELS)

    assert isinstance(table, Table)
    assert len(table.rows) == MAX_CARDS + 1
    both = "0.700 \N{RIGHTWARDS ARROW} 0.900"
    intervals = "+0.100 (+0.090 to +0.110)", "+0.020 (+0.010 to +0.030)"
    assert table.shown_rows[0] == ["h0", "▲ gains", intervals[0], both, intervals[1], both]
    assert table.shown_rows[-1][2:] == [DASH] * 4
    assert isinstance(folded, Folded)
    (sentences,) = folded.blocks
    assert isinstance(sentences, dict)
    assert list(sentences) == [*entries, "small"]


def test_the_strip_counts_hospitals_by_verdict_in_a_fixed_order() -> None:
    verdicts = [Verdict.LOSES, Verdict.UNDEFINED, Verdict.GAINS, Verdict.GAINS, Verdict.MIXED]
    strip = verdict_strip({f"h{number}": entry(verdict) for number, verdict in enumerate(verdicts)})
    assert "5 hospitals" in strip.title
    assert [(part.number, part.tone) for part in strip.parts] == [(2, "good"), (1, "mixed"), (1, "bad"), (1, "unknown")]


def test_the_strip_of_one_hospital_has_its_verdict_and_no_number() -> None:
    strip = verdict_strip({"a": entry(Verdict.GAINS)}, of_one=True)
    assert [(part.number, part.text) for part in strip.parts] == [(None, "gains")]
    assert strip.title.endswith(" a")


def test_the_forest_plot_has_a_drawing_per_figure_that_is_known() -> None:
    (both,) = forest({"a": entry(Verdict.GAINS, clear(0.1), clear(-0.02))}, {}, PANELS)
    assert both.svg.count("<svg ") == 2
    assert "federated minus own" in both.svg
    assert "own minus federated" in both.svg
    assert "a +0.100 (+0.090 to +0.110)." in both.alt
    assert f"a {MINUS}0.020 ({MINUS}0.030 to {MINUS}0.010)." in both.alt
    (one,) = forest({"a": entry(Verdict.GAINS, clear(0.1))}, {}, PANELS)
    assert one.svg.count("<svg ") == 1
    assert not list(forest({"a": entry(Verdict.UNDEFINED)}, {}, PANELS))


def test_the_forest_plot_of_many_hospitals_has_the_largest_and_says_so() -> None:
    entries = {f"h{number:02}": entry(Verdict.GAINS, clear(0.1)) for number in range(MAX_FOREST + 2)}
    sizes = {name: 100 + place for place, name in enumerate(entries)}
    (picture,) = forest(entries, sizes, PANELS)
    assert "h01<" not in picture.svg
    assert "h02<" in picture.svg
    assert f"the {MAX_FOREST} hospitals with the most patients, of {MAX_FOREST + 2}" in picture.caption
