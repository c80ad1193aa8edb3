"""The picture of what is gained against what it costs."""

from collections.abc import Mapping
from xml.etree import ElementTree

import pytest

from federated_health.ml.metrics import Interval
from federated_health.report.tradeoff import Panel, draw_tradeoff

Mark = tuple[float | None, Interval]

MARKS: Mapping[str, Mark] = {
    "plain": (0.9, Interval(value=0.8, low=0.7, high=0.9)),
    "epsilon 1": (0.85, Interval(value=0.5, low=0.4, high=0.6)),
}


def panel(title: str = "attack", marks: Mapping[str, Mark] = MARKS) -> Panel:
    return Panel(title=title, marks=marks, reference=0.5)


def words_of(svg: str) -> list[str]:
    return [one.text or "" for one in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_the_panels_and_choices_are_named() -> None:
    words = words_of(draw_tradeoff([panel(), panel("rate")], across="worth"))
    assert {"attack", "rate", "→ worth", "plain", "epsilon 1", "0.6", "0.90"} <= set(words)


def test_a_choice_is_named_once_however_many_panels_it_is_in() -> None:
    words = words_of(draw_tradeoff([panel(), panel("b"), panel("c", {"other": MARKS["plain"]})], across="worth"))
    assert (words.count("plain"), words.count("other")) == (1, 1)


@pytest.mark.parametrize("mark", [(None, Interval(value=0.5, low=0.4, high=0.6)), (0.9, Interval())])
def test_what_is_not_defined_is_not_drawn(mark: Mark) -> None:
    assert "lacking" in words_of(draw_tradeoff([panel(marks={**MARKS, "lacking": mark})], across="worth"))


def test_the_same_drawing_gives_the_same_characters_and_another_one_others() -> None:
    one, again, other = (draw_tradeoff([panel(title)], across="worth") for title in ("a", "a", "b"))
    assert one == again != other


def test_a_whisker_reaches_as_far_as_its_interval() -> None:
    wide = {**MARKS, "plain": (0.9, Interval(value=0.8, low=0.1, high=0.9))}
    assert "0.2" in words_of(draw_tradeoff([panel(marks=wide)], across="worth"))
    assert "0.2" not in words_of(draw_tradeoff([panel()], across="worth"))
