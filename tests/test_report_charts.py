"""Charts are SVG elements that share a page, and show their data."""

import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

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
from federated_health.report.formatting import MAX_ROWS, MINUS, short_number, short_percent
from federated_health.report.svg import (
    MAX_LINES,
    MUTED,
    PANEL,
    SERIES,
    TONES,
    VARIABLES,
    WIDTH,
    limits_of,
    look_of,
    own_ids,
    shorten,
    text_width,
    ticks_between,
)
from tests.support.example_report import LONG_NAME, band, calibration, strained_pictures

XML = "{http://www.w3.org/2000/svg}"
nan = float("nan")


def drawings_of(picture: str) -> list[ElementTree.Element]:
    """The <svg> elements of a picture."""
    return list(ElementTree.fromstring(f"<div>{picture}</div>").iter(f"{XML}svg"))


def words_of(picture: str) -> list[str]:
    return [text.text or "" for drawing in drawings_of(picture) for text in drawing.iter(f"{XML}text")]


def paths_of(svg: str, color: str) -> list[str]:
    """The outlines that are drawn in a colour."""
    variable = f"var({VARIABLES[color]})"
    found = (path for drawing in drawings_of(svg) for path in drawing.iter(f"{XML}path"))
    return [path.attrib["d"] for path in found if variable in path.get("style", "")]


def numbers_in(outline: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", outline)]


def charts_of(names: list[str]) -> dict[str, Callable[[], str]]:
    """Every chart, with data for each name."""
    return {
        "curves": lambda: draw_learning_curves({name: [0.1, 0.2] for name in names}, quantity="q", rounds=[1, 2]),
        "roc": lambda: draw_roc({name: band(2) for name in names}),
        "calibration": lambda: draw_calibration({name: calibration(0.1) for name in names}),
        "confusion": lambda: draw_confusion(dict.fromkeys(names, (1, 2, 3, 4))),
        "heat map": lambda: draw_heat_map({name: [0.25] for name in names}, ["age"]),
        "labels": lambda: draw_labels(dict.fromkeys(names, (1, 2)), positive="yes", negative="no"),
        "importance": lambda: draw_importance(dict.fromkeys(names, 0.1), quantity="q"),
        "intervals": lambda: draw_intervals(
            {name: {"setup": Interval(value=0.5, low=0.4, high=0.6)} for name in names}, quantity="q", reference=0
        ),
        "forest": lambda: draw_forest(
            {name: (Interval(value=0.5, low=0.4, high=0.6), "good") for name in names}, quantity="q"
        ),
    }


KINDS = list(charts_of([]))


@pytest.fixture(autouse=True)
def _settings_of_matplotlib_stay() -> Any:
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_chart_is_an_svg_element_in_the_style_of_the_page(kind: str) -> None:
    svg = charts_of(["a"])[kind]()
    (root,) = drawings_of(svg)

    assert PANEL <= float(root.attrib["viewBox"].split()[2]) <= WIDTH
    assert set(root.attrib) == {"viewBox", "stroke-linejoin"}
    assert not re.search(r"<style|<metadata|<!--|font-family|<!DOCTYPE|<\?xml|#0101", svg)
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_data_give_equal_charts_whatever_the_users_settings(kind: str) -> None:
    svg = charts_of(["a", "b"])[kind]()
    with mpl.rc_context(
        {
            "font.family": ["monospace"],
            "font.size": 30,
            "svg.fonttype": "path",
            "axes.linewidth": 9,
            "lines.dash_capstyle": "round",
        }
    ):
        assert charts_of(["a", "b"])[kind]() == svg


@pytest.mark.parametrize("name", ['<i id="x">&', "$a_1$ #010101", "0.12345678"])
@pytest.mark.parametrize("kind", KINDS)
def test_names_with_markup_are_text(kind: str, name: str) -> None:
    assert name in words_of(charts_of([name])[kind]())


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        ("curves", MAX_LINES),
        *[(kind, MAX_ROWS) for kind in ("heat map", "labels", "intervals")],
        ("importance", 20),
    ],
)
def test_the_first_hospitals_are_shown_and_the_others_counted(kind: str, most: int) -> None:
    names = [f"h{place}" for place in range(1000)]
    words = words_of(charts_of(names)[kind]())

    assert [word for word in words if re.fullmatch(r"h\d+", word)] == names[:most]
    assert [word for word in words if "more" in word and f"{1000 - most:,}" in word]
    assert not [word for word in words_of(charts_of(names[:most])[kind]()) if "not shown" in word]


@pytest.mark.parametrize("kind", ["roc", "calibration", "confusion"])
def test_each_name_has_a_small_drawing_of_its_own(kind: str) -> None:
    picture = charts_of(["a", "b", "c"])[kind]()
    drawings = drawings_of(picture)

    assert {drawing.attrib["viewBox"].split()[2] for drawing in drawings} == {str(PANEL)}
    assert ["abc"[place] in {text.text for text in of.iter(f"{XML}text")} for place, of in enumerate(drawings)] == [
        True
    ] * 3
    ids = re.findall(r' id="([^"]+)"', picture)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_is_smaller_than_11_units(kind: str) -> None:
    sizes = re.findall(r"font(?:-size)?:[^;\"]*?([\d.]+)px", charts_of(["a", "b"])[kind]())

    assert sizes
    assert min(map(float, sizes)) >= 11


def test_text_stays_inside_the_picture() -> None:
    """Widths are those of matplotlib's font; the browser test uses those of the page."""
    for picture, drawing in ((of, drawing) for of in strained_pictures() for drawing in drawings_of(of.svg)):
        across, height = map(float, drawing.attrib["viewBox"].split()[2:])
        for text in drawing.iter(f"{XML}text"):
            if "x" in text.attrib and "rotate" not in text.get("transform", ""):
                style = text.attrib["style"]
                size = float(re.findall(r"font(?:-size)?:.*?([\d.]+)px", style)[0])
                width = text_width(text.text or "", size)
                anchor = 0.5 if "middle" in style else 1 if "end" in style else 0
                start = float(text.attrib["x"]) - anchor * width
                assert start >= -2, (picture.alt, text.text)
                assert start + width <= across + 2, (picture.alt, text.text)
                assert size <= float(text.attrib["y"]) + 3 <= height + 3, (picture.alt, text.text)


def test_a_round_without_a_value_leaves_a_gap() -> None:
    rounds = list(range(1, 6))
    whole = draw_learning_curves({"a": [1, 2, 3, 4, 5]}, quantity="q", rounds=rounds)
    svg = draw_learning_curves({"a": [1, 2, None, 4, 5]}, quantity="q", rounds=rounds)
    lines = [paths_of(drawn, SERIES[0])[0].count("M") for drawn in (whole, svg)]
    assert lines == [1, 2]


def test_an_isolated_value_has_a_marker() -> None:
    series = [None] * 6 + [1.0] + [None] * 33
    for name in ("a", "federation"):
        svg = draw_learning_curves({name: series}, quantity="q", rounds=range(40))
        assert len(re.findall("<use ", svg)) == 2  # and one in the legend


def test_the_federation_has_a_thick_line_besides_those_of_the_hospitals() -> None:
    names = ["federation", *(f"h{place}" for place in range(MAX_LINES))]
    svg = draw_learning_curves({name: [1, 2] for name in names}, quantity="q", rounds=[1, 2])

    assert [word for word in words_of(svg) if word in names] == [*names[1:], "federation"]
    assert "more" not in "".join(words_of(svg))
    assert [style for style in re.findall(r'style="([^"]*)"', svg) if "stroke-width: 2.6" in style]


@pytest.mark.parametrize("values", [[1.0, 1.0], [1e15, -1e15], [1e-12, 2e-12], [5.0, None]])
def test_curves_of_extreme_values_are_drawn(values: list[float | None]) -> None:
    assert "round" in words_of(draw_learning_curves({"a": values}, quantity="q", rounds=[1, 2]))


def test_looks_differ_even_without_colour() -> None:
    looks = [look_of(place) for place in range(MAX_LINES)]

    assert len({(look.marker, look.dashes) for look in looks}) == MAX_LINES


def test_a_curve_without_an_interval_is_drawn() -> None:
    assert "fill-opacity" not in draw_roc({"a": Curve(x=np.array([0.0, 1.0]), y=np.array([0.0, 1.0]))})
    assert "fill-opacity" in draw_roc({"a": band(2)})


def test_a_higher_curve_is_drawn_higher() -> None:
    low, high = (numbers_in(paths_of(draw_roc({"a": curve}), SERIES[0])[-1]) for curve in (band(1.1), band(5)))

    assert np.mean(high[1::2]) < np.mean(low[1::2])  # SVG measures from the top


@pytest.mark.parametrize("make", [lambda x, y: Curve(x=x, y=y), lambda x, y: Curve(x=x, y=x, low=y)])
def test_curves_of_arrays_of_different_shapes_are_refused(make: Callable[[Any, Any], Curve]) -> None:
    with pytest.raises(ValueError, match="shape"):
        make(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="shape"):
        make(np.zeros((2, 2)), np.zeros((2, 2)))


def test_a_point_of_more_patients_is_larger() -> None:
    curve = CalibrationCurve(
        predicted=np.array([0.2, 0.8]),
        observed=np.array([0.2, 0.8]),
        low=np.array([0.1, 0.7]),
        high=np.array([0.3, 0.9]),
        patients=np.array([1, 100]),
    )
    circles = [numbers_in(path)[::2] for path in paths_of(draw_calibration({"a": curve}), SERIES[0]) if "C" in path]
    few, many = (max(x) - min(x) for x in circles)

    assert (many / few) ** 2 == pytest.approx(50 / 5.45, rel=0.02)


def test_a_confusion_matrix_has_counts_and_shares_of_the_actual_class() -> None:
    words = words_of(draw_confusion({"a": (30, 10, 0, 0)}))

    assert [word for word in words if word[0].isdigit()] == ["30", "75 %", "10", "25 %", "0", "0"]


def test_a_heat_map_has_percentages_and_hatches_values_that_are_not_released() -> None:
    svg = draw_heat_map({"a": [0.0, 0.42, nan, 1.0]}, ["x", "y", "z", "u"])
    words = words_of(svg)

    assert [word for word in words if re.fullmatch(r"\d+", word)] == ["0", "42", "100"]
    assert "not released" in words
    assert len(re.findall(r"url\(#[^)]*h\w+\)", svg)) >= 2
    assert "not released" not in words_of(draw_heat_map({"a": [0.5]}, ["x"]))


def test_a_larger_share_is_darker() -> None:
    svg = draw_heat_map({"a": [0.2, 0.4]}, ["x", "y"])

    light, dark = (float(opacity) for opacity in re.findall(r"opacity: ([\d.]+)", svg))
    assert dark == pytest.approx(2 * light)


def test_many_columns_continue_below() -> None:
    names = [f"c{place}" for place in range(30)]
    svg = draw_heat_map({"a": [0.0] * 30}, names)

    assert [word for word in words_of(svg) if word in names] == names
    assert words_of(svg).count("a") == 3


def test_bars_are_as_long_as_their_counts() -> None:
    svg = draw_labels({"a": (10, 30), "b": (0, 20), "c": (0, 0)}, positive="ill", negative="well")
    ill, well = (
        [numbers_in(path) for path in paths_of(svg, color) if path.rstrip().endswith("z")]
        for color in (SERIES[1], SERIES[0])
    )
    assert min(well[0][::2]) == pytest.approx(max(ill[0][::2]), abs=0.02)
    lengths = [[max(path[::2]) - min(path[::2]) for path in paths] for paths in (ill, well)]

    assert lengths[0][1] / lengths[0][0] == pytest.approx(0, abs=0.01)
    assert lengths[1][0] / lengths[0][0] == pytest.approx(3, rel=0.01)
    assert lengths[1][1] / lengths[0][0] == pytest.approx(2, rel=0.01)
    assert [word for word in words_of(svg) if word[0].isdigit() or word == "none"] == [
        "25 % of 40",
        "0 % of 20",
        "none",
    ]


def test_every_bar_of_importance_has_its_value() -> None:
    picture = draw_importance({"c": 0.25, "d": 0.0, "a": -0.5}, quantity="q")

    assert words_of(picture) == ["c", "0.25", "d", "0", "a", f"{MINUS}0.5"]
    assert ">q<" in picture


def test_an_undefined_interval_is_a_note() -> None:
    svg = draw_intervals({"a": {"r": Interval()}}, quantity="q", reference=None)

    assert "not defined" in words_of(svg)
    assert paths_of(svg, SERIES[0]) == []


def test_whiskers_are_as_long_as_their_interval() -> None:
    def whisker(low: float, high: float) -> float:
        scale = {"scale": Interval(value=0.0, low=-1.0, high=1.0)}
        figures = {**scale, "r": Interval(value=0.5, low=low, high=high)}
        svg = draw_intervals({"a": figures}, quantity="q", reference=0)
        lengths = [max(x) - min(x) for color in SERIES[:2] for x in [numbers_in(paths_of(svg, color)[0])[::2]]]
        return lengths[1] / lengths[0]

    assert whisker(0.0, 1.0) == pytest.approx(0.5, abs=0.01)
    assert whisker(0.5, 1.0) == pytest.approx(0.25, abs=0.01)


def test_a_difference_above_zero_is_drawn_right_of_the_line() -> None:
    gain, loss = Interval(value=0.1, low=0.05, high=0.2), Interval(value=-0.1, low=-0.2, high=-0.05)
    svg = draw_forest({"a": (gain, "good"), "b": (loss, "bad")}, quantity="q")
    zero, right, left = (numbers_in(paths_of(svg, color)[0])[::2] for color in (MUTED, TONES["good"], TONES["bad"]))

    assert max(left) < min(zero) == max(zero) < min(right)
    assert words_of(svg)[-2:] == ["\N{LEFTWARDS ARROW} own better", "federated better \N{RIGHTWARDS ARROW}"]


def test_a_forest_plot_keeps_the_row_of_a_hospital_without_a_figure() -> None:
    known = (Interval(value=0.1, low=0.0, high=0.2), "neutral")
    words = words_of(draw_forest({"a": (Interval(), "unknown"), "b": known}, quantity="q", is_difference=False))

    assert words.index("too few patients") == words.index("a") + 1
    assert "b" in words
    assert not [word for word in words if "better" in word]


def test_a_figure_without_an_interval_is_drawn_hollow() -> None:
    unknown, known = (
        draw_forest({"a": (interval, "neutral")}, quantity="q", is_difference=False)
        for interval in (Interval(value=0.7), Interval(value=0.7, low=0.6, high=0.8))
    )

    assert "too few patients" not in words_of(unknown)
    assert unknown.count("var(--neutral)") == known.count("var(--neutral)") - 2  # neither a line nor a filling


def test_a_training_setup_looks_the_same_in_every_group() -> None:
    setups = dict.fromkeys("rs", Interval(value=0.5, low=0.4, high=0.6))
    svg = draw_intervals({"a": setups, "b": setups}, quantity="q", reference=None)

    assert [len(paths_of(svg, color)) for color in SERIES[:3]] == [3, 3, 0]  # whiskers, and one outline of the marker


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (-0.0, "0"),
        (1234, "1,234"),
        (-3, f"{MINUS}3"),
        (0.03456, "0.0346"),
        (1e12, "1e12"),
        (-1.5e-7, f"{MINUS}1.5e{MINUS}7"),
    ],
)
def test_short_numbers_have_three_significant_digits(value: float, words: str) -> None:
    assert short_number(value) == words


@pytest.mark.parametrize(("share", "words"), [(0, "0"), (0.001, "<1"), (0.126, "13"), (0.999, ">99"), (1, "100")])
def test_only_exact_shares_are_0_or_100_per_cent(share: float, words: str) -> None:
    assert short_percent(share) == words


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.61, 0.83, ["0.65", "0.70", "0.75", "0.80"]),
        (-1.1, 1.1, [f"{MINUS}1.0", f"{MINUS}0.5", "0.0", "0.5", "1.0"]),
        (0, 4e12, ["0", "1e12", "2e12", "3e12", "4e12"]),
        (0, 2500, ["0", "500", "1,000", "1,500", "2,000", "2,500"]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, labels: list[str]) -> None:
    assert list(ticks_between(low, high).values()) == labels


def test_an_axis_has_room_around_its_values() -> None:
    assert limits_of([1, None, 3]) == pytest.approx((0.88, 3.12))
    assert limits_of([2.0]) == pytest.approx((1.8, 2.2))
    assert limits_of([]) == pytest.approx((-0.06, 1.06))


def test_a_long_name_loses_its_middle() -> None:
    short = shorten(LONG_NAME, 120)

    assert short.startswith("st-mary")
    assert short.endswith("annex")
    assert 100 < text_width(short) <= 120
    assert text_width("東" * 4, 10) >= 40


def test_letters_of_other_scripts_cause_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "東京" in words_of(draw_roc({"東京": band(2)}))


def test_ids_are_changed_in_tags_only() -> None:
    svg = '<g id="a"><use xlink:href="#a" style="fill: url(#a)"/><text> id="a" url(#a)</text></g>'

    assert own_ids(svg, "p_") == (
        '<g id="p_a"><use xlink:href="#p_a" style="fill: url(#p_a)"/><text> id="a" url(#a)</text></g>'
    )
