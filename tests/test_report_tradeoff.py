"""The trade-off chart of model quality against the strength of attacks."""

from collections.abc import Mapping
from xml.etree import ElementTree

import pytest

from federated_health.ml.verdicts import Interval
from federated_health.report.tradeoff import Panel, draw_tradeoff

Mark = tuple[float | None, Interval]

MARKS: Mapping[str, Mark] = {
    "plain": (0.9, Interval(value=0.8, low=0.7, high=0.9)),
    "epsilon 1": (0.85, Interval(value=0.5, low=0.4, high=0.6)),
}


def panel(title: str = "attack", marks: Mapping[str, Mark] = MARKS) -> Panel:
    return Panel(title=title, marks=marks, reference=0.5)


def words_of(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_panels_choices_and_ticks_have_labels() -> None:
    words = words_of(draw_tradeoff([panel(), panel("rate")], across="worth"))
    assert {"attack", "rate", "→ worth", "plain", "epsilon 1", "0.6", "0.90"} <= set(words)


def test_a_choice_in_several_panels_is_in_the_legend_once() -> None:
    words = words_of(draw_tradeoff([panel(), panel("b"), panel("c", {"other": MARKS["plain"]})], across="worth"))
    assert (words.count("plain"), words.count("other")) == (1, 1)


@pytest.mark.parametrize("mark", [(None, Interval(value=0.5, low=0.4, high=0.6)), (0.9, Interval())])
def test_a_choice_with_an_undefined_mark_is_in_the_legend(mark: Mark) -> None:
    assert "lacking" in words_of(draw_tradeoff([panel(marks={**MARKS, "lacking": mark})], across="worth"))


def test_equal_panels_give_equal_charts() -> None:
    chart, copy, other = (draw_tradeoff([panel(title)], across="worth") for title in ("a", "a", "b"))
    assert chart == copy != other


def test_the_axis_covers_the_whiskers() -> None:
    wide = {**MARKS, "plain": (0.9, Interval(value=0.8, low=0.1, high=0.9))}
    assert "0.2" in words_of(draw_tradeoff([panel(marks=wide)], across="worth"))
    assert "0.2" not in words_of(draw_tradeoff([panel()], across="worth"))
