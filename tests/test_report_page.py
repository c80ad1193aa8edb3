"""A page holds its content, escaped and in order, and nothing that needs a network."""

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from federated_health import __version__
from federated_health.report import template
from federated_health.report.formatting import MINUS
from federated_health.report.page import (
    SYMBOLS,
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
    render,
)
from federated_health.report.svg import DARKEST, VARIABLES
from tests.support.example_report import page

NASTY = '<b onclick="x">&amp; "quoted" {{ 7 * 7 }}</b>'
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><path id="a" d="M0 0"/><use href="#a"/></svg>'
VOID = {"meta", "link", "br", "hr", "img"}


class Reader(HTMLParser):
    """All elements and texts in order; fails where an element is not closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(*sections: Section) -> Reader:
    return Reader(render(Page(title="A page", lead="A lead.", sections=list(sections))))


def colors(part: str) -> dict[str, str]:
    return dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", part))


def luminance(color: tuple[float, ...]) -> float:
    """Relative luminance as WCAG 2.2 defines it, of channels from 0 to 1."""
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in color]
    return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def channels(color: str) -> tuple[float, ...]:
    return tuple(int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))


def contrast(color: tuple[float, ...], background: tuple[float, ...]) -> float:
    dark, light = sorted((luminance(color), luminance(background)))
    return (light + 0.05) / (dark + 0.05)


def test_text_of_every_block_is_escaped() -> None:
    html = render(
        Page(
            title=NASTY,
            lead=NASTY,
            sections=[
                Section(
                    NASTY,
                    [
                        NASTY,
                        Caution(NASTY),
                        [NASTY],
                        Table(caption=NASTY, columns=(NASTY, NASTY), rows=((NASTY, NASTY),), note=NASTY),
                        Picture(svg=SVG, alt=NASTY, caption=NASTY),
                        Cards([Card(name=NASTY, verdict=NASTY, tone="good", text=NASTY)]),
                        {NASTY: NASTY},
                        Folded(NASTY, [NASTY]),
                    ],
                ),
                Section(f"Another {NASTY}", [], folded=True),
            ],
            byline=[NASTY],
            summary=[
                Strip(title=NASTY, parts=[Share(number=1, text=NASTY, tone="bad")]),
                Numbers([Number(name=NASTY, value=NASTY, text=NASTY)]),
            ],
        )
    )
    page = Reader(html)

    # title twice, lead, byline, strip, numbers, two sections each with an entry of the contents, and the blocks
    assert "".join(page.words).count(NASTY) == 2 + 1 + 1 + 2 + 3 + 2 * 2 + 3 + 6 + 1 + 3 + 2 + 2
    assert [attributes for tag, attributes in page.elements if tag == "b"] == []
    assert {attributes["aria-label"] for _, attributes in page.elements if "aria-label" in attributes} == {
        f"Table 1: {NASTY}",
        NASTY,
        "Overview",
    }


def test_a_page_has_no_script_and_loads_nothing() -> None:
    html = render(page(strained=True))
    page_ = Reader(html)

    assert page_.of("script") == []
    assert not re.search(r"""(src|srcset|action|data)=|url\((?!#)|@import|@font-face""", html)
    links = [value for _, found in page_.elements for name, value in found.items() if name in ("href", "xlink:href")]
    assert [link for link in links if not str(link).startswith(("#", "data:,"))] == []
    assert [name for _, found in page_.elements for name in found if name.startswith("on")] == []
    policy = next(meta["content"] for meta in page_.of("meta") if "http-equiv" in meta)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page_.of("meta")


def test_ids_are_unique_and_references_have_a_target() -> None:
    html = render(page(strained=True))  # holds the same picture twice
    ids = re.findall(r' id="([^"]+)"', html)

    assert [name for name, count in Counter(ids).items() if count > 1] == []
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html))
    referred = {link or url for link, url in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html)}
    assert referred - set(ids) == set()


def test_a_page_has_landmarks_headings_in_order_and_a_skip_link() -> None:
    page_ = Reader(render(page()))

    assert [len(page_.of(tag)) for tag in ("html", "h1", "header", "nav", "main", "footer")] == [1] * 6
    assert page_.of("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page_.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    assert page_.of("a")[0] == {"class": "skip", "href": f"#{page_.of('main')[0]['id']}"}


def test_the_contents_link_to_the_sections() -> None:
    page_ = read(Section("Benefit of joining", []), Section("ROC curves", []))
    slugs = ["benefit-of-joining", "roc-curves"]

    assert [section["id"] for section in page_.of("section")] == slugs
    assert [link["href"] for link in page_.of("a")[1:]] == [f"#{slug}" for slug in slugs]


def test_a_table_has_headers_and_scrolls_in_a_region_of_its_own() -> None:
    table = Table(
        caption="Figures",
        columns=("hospital", "patients", "AUC"),
        rows=(("1", "1,200", "0.91 (0.85 to 0.97)"), ("2", f"{MINUS}7", "not defined")),
        note="A note.",
    )
    page_ = read(Section("A", [table, table]))

    assert [header["scope"] for header in page_.of("th")[:5]] == ["col"] * 3 + ["row"] * 2
    assert [box for box in page_.of("div") if box.get("role") == "region"] == [
        {"class": "scroll", "role": "region", "tabindex": "0", "aria-label": f"Table {number}: Figures"}
        for number in (1, 2)
    ]
    assert page_.words.count("A note.") == 2


def test_ids_of_a_repeated_picture_differ() -> None:
    picture = Picture(svg=SVG, alt="A dot.", caption="c")
    page_ = read(Section("A", [picture, picture]))

    assert [path["id"] for path in page_.of("path")] == ["figure1_a", "figure2_a"]
    assert [use["href"] for use in page_.of("use")] == ["#figure1_a", "#figure2_a"]


def test_every_tone_has_its_own_symbol() -> None:
    cards = [Card(name="n", verdict="v", tone=tone, text="w") for tone in SYMBOLS]
    strip = Strip(title="s", parts=[Share(number=1, text="w", tone=tone) for tone in SYMBOLS])
    page_ = read(Section("A", [Cards(cards), strip]))

    symbols = list(SYMBOLS.values())
    assert len(set(symbols)) == len(symbols)
    assert [word for word in page_.words if word in symbols] == symbols * 2


def test_parts_of_a_strip_are_as_wide_as_their_numbers() -> None:
    parts = [Share(number=number, text="w", tone="good") for number in (3, 12)]
    page_ = read(Section("A", [Strip(title="s", parts=parts)]))

    assert [item["style"] for item in page_.of("li") if "style" in item] == ["flex-grow: 3", "flex-grow: 12"]


def test_the_overview_comes_before_the_contents() -> None:
    html = render(Page(title="T", lead="L", byline=["a day"], summary=[Numbers([])], sections=[Section("A", [])]))

    places = [html.index(part) for part in ("<h1>", "a day", 'class="numbers"', "<nav", "<main")]
    assert places == sorted(places)


def test_columns_of_words_are_marked() -> None:
    table = Table(caption="c", columns=("hospital", "verdict", "n"), rows=(("a", "gains", "1"),), words=("verdict",))
    page_ = read(Section("A", [table]))

    assert [cell.get("class") for tag in ("th", "td") for cell in page_.of(tag)] == [
        None,
        "words",
        None,
        None,
        "words",
        None,
    ]


def test_a_folded_section_is_a_closed_details_element_with_its_heading() -> None:
    page_ = read(Section("A", ["inside"], folded=True), Section("B", []))

    assert page_.of("details") == [{}]
    tags = [tag for tag, _ in page_.elements if tag in ("details", "summary", "h2", "p")]
    assert tags[-6:] == ["details", "summary", "h2", "p", "h2", "p"]  # the last one is in the footer


def test_equal_pages_give_equal_html() -> None:
    assert render(page()) == render(page())


def test_the_footer_states_the_version_of_the_program() -> None:
    html = render(Page(title="A page", lead="A lead.", sections=[]))
    assert __version__ in html[html.index("<footer>") : html.index("</footer>")]


def test_every_color_is_defined_in_both_modes() -> None:
    used = set(re.findall(r"var\((--[\w-]+)\)", render(page()))) - {"--width"}
    light, dark = template.STYLE.split("@media screen and (prefers-color-scheme: dark)", 1)

    assert used >= set(VARIABLES.values()) - {"--series-5", "--series-6"}
    for mode in (light, dark.split("* {")[0]):
        assert (used | set(VARIABLES.values())) - set(colors(mode)) == set()


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_and_lines_have_enough_contrast(mode: int) -> None:
    parts = template.STYLE.split("@media screen and (prefers-color-scheme: dark)", 1)
    color = {name: channels(value) for name, value in colors(parts[mode].split("* {")[0]).items()}
    shade = tuple(
        DARKEST * shade + (1 - DARKEST) * paper for shade, paper in zip(color["--shade"], color["--paper"], strict=True)
    )

    for words in ("--ink", "--muted", "--link"):
        assert contrast(color[words], color["--paper"]) >= 4.5
    assert contrast(color["--ink"], shade) >= 4.5
    assert contrast(color["--ink"], color["--note"]) >= 4.5
    assert contrast(color["--ink"], color["--panel"]) >= 4.5
    for tone in ("good", "mixed", "neutral", "bad"):
        assert contrast(color[f"--{tone}"], color[f"--{tone}-back"]) >= 4.5
    for number in range(1, 7):
        assert contrast(color[f"--series-{number}"], color["--paper"]) >= 3
